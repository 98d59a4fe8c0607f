//! The conformance suite on a stand-in for Kinesis: every case has an account and a table of leases of its own.

#[path = "support/mod.rs"]
mod support;

use std::process::ExitCode;

use msgkit_testing::conformance;

fn main() -> ExitCode {
    if std::env::var_os("RUST_LOG").is_some() {
        let filter = tracing_subscriber::EnvFilter::from_default_env();
        tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).init();
    }
    conformance::main(vec![Box::new(support::KinesisSubject::default())])
}

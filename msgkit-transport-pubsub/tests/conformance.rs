//! The conformance suite on Google's `pstest` with the order that the service documents: each case in a project of its own.

mod support;

use std::process::ExitCode;

use msgkit_testing::conformance;

fn main() -> ExitCode {
    if std::env::var_os("RUST_LOG").is_some() {
        let filter = tracing_subscriber::EnvFilter::from_default_env();
        tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).init();
    }
    conformance::main(vec![Box::new(support::PubsubSubject::default())])
}

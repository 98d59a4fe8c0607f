//! The conformance suite on a real RabbitMQ: each case in a virtual host of its own. Without a broker, and without one
//! installed that could be started, every case is *not run*.

mod support;

use std::process::ExitCode;

use msgkit_testing::conformance;

fn main() -> ExitCode {
    if std::env::var_os("RUST_LOG").is_some() {
        let filter = tracing_subscriber::EnvFilter::from_default_env();
        tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).init();
    }
    conformance::main(vec![Box::new(support::AmqpSubject::default())])
}

//! The conformance suite on a real RabbitMQ: each case in a virtual host of its own.
//!
//! `MSGKIT_AMQP_URL` (`amqp://user:password@host:5672`) and `MSGKIT_AMQP_MANAGEMENT` (`host:15672`) name the broker.

mod support;

use std::process::ExitCode;

use msgkit_testing::conformance::{self, Subject, Wrapped, Wrapping};

fn main() -> ExitCode {
    if std::env::var_os("RUST_LOG").is_some() {
        let filter = tracing_subscriber::EnvFilter::from_default_env();
        tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).init();
    }
    let mut subjects: Vec<Box<dyn Subject>> = vec![Box::new(support::AmqpSubject::default())];
    if std::env::var("MSGKIT_AMQP_WRAPPED").is_ok_and(|value| value == "1") {
        for wrapping in Wrapping::ALL {
            subjects.push(Box::new(Wrapped(support::AmqpSubject::default(), wrapping)));
        }
    }
    conformance::main(subjects)
}

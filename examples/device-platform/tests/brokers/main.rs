//! The real program on real brokers by a file of `config/` alone. One test binary, as linking is slow; what the program was built
//! without has no tests in it. A test without its broker is *not run*; with `MSGKIT_REQUIRE_BROKERS=1` that is a failure.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod edge;
mod kafka;
mod mqtt_amqp;
mod mqtt_kinesis;
mod pubsub;
mod setup;

#[path = "../system/platform.rs"]
mod platform;
#[path = "../system/story.rs"]
mod story;

use std::process::ExitCode;

use libtest_mimic::Arguments;

fn main() -> ExitCode {
    let mut tests = Vec::new();
    if cfg!(feature = "brokers") {
        tests.extend(mqtt_amqp::tests());
    }
    if cfg!(feature = "kafka") {
        tests.extend(kafka::tests());
    }
    if cfg!(feature = "kinesis") {
        tests.extend(mqtt_kinesis::tests());
    }
    if cfg!(feature = "pubsub") {
        tests.extend(pubsub::tests());
    }
    libtest_mimic::run(&Arguments::from_args(), tests).exit_code()
}

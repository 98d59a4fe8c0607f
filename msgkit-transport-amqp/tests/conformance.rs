//! The conformance suite on a real RabbitMQ: each case in a virtual host of its own. Without a broker, and without one
//! installed that could be started, every case is *not run*. With `MSGKIT_WRAPPED=1` also through `Arc`, `Box` and a decorator.

mod support;

use std::process::{Command, ExitCode};

use msgkit_testing::conformance::{self, Subject, Wrapped, Wrapping};

fn main() -> ExitCode {
    if let Some(code) = with_few_threads() {
        return code;
    }
    if std::env::var_os("RUST_LOG").is_some() {
        let filter = tracing_subscriber::EnvFilter::from_default_env();
        tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).init();
    }
    let mut subjects: Vec<Box<dyn Subject>> = vec![Box::new(support::AmqpSubject::default())];
    // Four runs of the suite take long, and wrapping is proven on the transports that need no broker.
    let wrapped = std::env::var_os("MSGKIT_WRAPPED").is_some();
    for wrapping in Wrapping::ALL.into_iter().filter(|_| wrapped) {
        subjects.push(Box::new(Wrapped(support::AmqpSubject::default(), wrapping)));
    }
    conformance::main(subjects)
}

/// Runs this binary again with as many cases at once as the broker's cores can serve, unless the caller says how many:
/// each case makes several quorum queues, and some have less than a second for it.
fn with_few_threads() -> Option<ExitCode> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    if arguments.iter().any(|argument| argument.starts_with("--test-threads") || argument == "--list") {
        return None;
    }
    let cores = std::thread::available_parallelism().map_or(2, std::num::NonZero::get);
    let this = std::env::current_exe().ok()?;
    let status = Command::new(this)
        .args(arguments)
        .arg("--test-threads")
        .arg((cores + 1).to_string())
        .status()
        .ok()?;
    Some(if status.success() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

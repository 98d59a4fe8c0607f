//! The conformance suite on a stand-in for Kinesis: every case has an account and a table of leases of its own.

#[path = "support/mod.rs"]
mod support;

use std::process::{Command, ExitCode};

use msgkit_testing::conformance;

fn main() -> ExitCode {
    if let Some(code) = with_few_threads() {
        return code;
    }
    if std::env::var_os("RUST_LOG").is_some() {
        let filter = tracing_subscriber::EnvFilter::from_default_env();
        tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).init();
    }
    conformance::main(vec![Box::new(support::KinesisSubject::default())])
}

/// Runs this binary again with as many cases at once as there are cores, unless the caller says how many: each of the
/// stand-ins is one process that answers some hundred requests a second, and some cases measure delays of less than a second.
fn with_few_threads() -> Option<ExitCode> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    if arguments.iter().any(|argument| argument.starts_with("--test-threads") || argument == "--list") {
        return None;
    }
    let cores = std::thread::available_parallelism().map_or(2, std::num::NonZero::get);
    let this = std::env::current_exe().ok()?;
    let status =
        Command::new(this).args(arguments).arg("--test-threads").arg(cores.to_string()).status().ok()?;
    Some(if status.success() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

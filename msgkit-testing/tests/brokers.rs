//! The launchers: real brokers come up, survive SIGKILL with their data, and leave nothing behind.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test")]

#[cfg(unix)]
mod brokers {
    pub(crate) mod harness;
    pub(crate) mod launch;
    pub(crate) mod wire;
}

#[cfg(unix)]
fn main() -> std::process::ExitCode {
    brokers::launch::main()
}

#[cfg(not(unix))]
fn main() {}

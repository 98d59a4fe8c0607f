//! A stand-in for Amazon DynamoDB: `dynalite`, of npm.

use std::io;
use std::path::Path;
use std::process::Command;
use std::sync::OnceLock;

use super::error::BrokerError;
use super::npm::{self, StandIn, StandsFor};

/// A `dynalite` for tests, in memory, which ends when it is dropped.
///
/// What it gets right: tables, conditional writes, consistent reads, queries by pages. What it does not: it never throttles, and
/// knows neither transactions nor times to live. All tests of a process share its tables, so each names one of its own:
/// [`table`](StandIn::table). What it was told is gone when it ends.
pub type Dynalite = StandIn<DynamoDb>;

/// What [`Dynalite`] stands for.
#[derive(Debug)]
pub enum DynamoDb {}

impl StandIn<DynamoDb> {
    /// The name of a table that no other test uses.
    #[must_use]
    pub fn table(&self) -> String {
        format!("t-{:016x}", fastrand::u64(..))
    }
}

impl StandsFor for DynamoDb {
    const NAME: &'static str = "dynalite";
    const MAIN: &'static str = "cli.js";
    const URL: &'static str = "MSGKIT_DYNAMODB_URL";
    const HOME: &'static str = "MSGKIT_DYNALITE_HOME";

    fn configure(command: &mut Command, package: &Path, [port, _]: [u16; 2], _: &Path) {
        command.arg(package.join(Self::MAIN));
        command.args(["--host", "127.0.0.1", "--port", &port.to_string()]);
        command.args(["--createTableMs", "20", "--deleteTableMs", "20"]);
    }

    /// What it answers to a plain request is no matter.
    fn greet(address: &str) -> io::Result<()> {
        npm::status(address, "/").map(drop)
    }

    fn shared() -> &'static OnceLock<Result<Dynalite, BrokerError>> {
        static SHARED: OnceLock<Result<Dynalite, BrokerError>> = OnceLock::new();
        &SHARED
    }
}

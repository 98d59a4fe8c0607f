//! A stand-in for Amazon DynamoDB: `dynalite`, of npm.

use std::fmt;
use std::io;
use std::process::Command;
use std::sync::OnceLock;
use std::time::Duration;

use super::error::BrokerError;
use super::http;
use super::npm::{Package, host_of};
use super::sandbox::Sandbox;
use super::system::free_ports;

const NAME: &str = "dynalite";
const URL: &str = "MSGKIT_DYNAMODB_URL";
/// Where npm put it, where that is not the place of `make brokers`.
const HOME: &str = "MSGKIT_DYNALITE_HOME";
const PROCESS: &str = "dynalite";
const READY: Duration = Duration::from_secs(60);

/// A `dynalite` for tests, in memory, which ends when it is dropped.
///
/// What it gets right: tables, conditional writes, consistent reads, queries by pages. What it does not: it never throttles, and
/// knows neither transactions nor times to live. All tests of a process share its tables, so each names one of its own:
/// [`table`](Self::table).
pub struct Dynalite {
    endpoint: String,
    version: String,
    /// `None` = the one that the variable names.
    _sandbox: Option<Sandbox>,
}

impl Dynalite {
    /// The stand-in at `MSGKIT_DYNAMODB_URL` (`http://127.0.0.1:8000`), or a new one.
    ///
    /// # Errors
    /// [`BrokerError`] where it is not installed, does not come up, or does not answer.
    pub fn start() -> Result<Self, BrokerError> {
        let Ok(endpoint) = std::env::var(URL) else { return Self::launch() };
        let endpoint = endpoint.trim_end_matches('/').to_owned();
        greet(host_of(&endpoint)).map_err(|error| {
            BrokerError::io(NAME, format!("it is not at {endpoint}, which {URL} names"), error)
        })?;
        Ok(Self { endpoint, version: format!("DynamoDB of {URL}"), _sandbox: None })
    }

    /// The one that all tests of this process have in common, started by the first who asks. It ends with the process.
    ///
    /// # Errors
    /// As [`start`](Self::start); the same for all who ask.
    pub fn shared() -> Result<&'static Self, BrokerError> {
        static SHARED: OnceLock<Result<Dynalite, BrokerError>> = OnceLock::new();
        SHARED.get_or_init(Self::start).as_ref().map_err(Clone::clone)
    }

    /// One of our own, whatever runs already.
    ///
    /// # Errors
    /// [`BrokerError`] where node or the package is not installed, or it does not come up; then with the end of its log.
    pub fn launch() -> Result<Self, BrokerError> {
        let package = Package::find(NAME, "cli.js", HOME)?;
        // A port may be taken between our finding it free and its listening on it.
        let mut tries = 3;
        loop {
            tries -= 1;
            match Self::launch_once(&package) {
                Err(error) if tries > 0 && error.to_string().contains("EADDRINUSE") => {}
                other => return other,
            }
        }
    }

    fn launch_once(package: &Package) -> Result<Self, BrokerError> {
        let mut sandbox = Sandbox::new("dynalite")
            .map_err(|error| BrokerError::io(NAME, "cannot make its directory", error))?;
        let [port] = free_ports().map_err(|error| BrokerError::io(NAME, "no free port", error))?;
        let mut command = Command::new(&package.node);
        command.arg(package.directory.join("cli.js"));
        command.args(["--host", "127.0.0.1", "--port", &port.to_string()]);
        command.args(["--createTableMs", "20", "--deleteTableMs", "20"]);
        sandbox
            .spawn(PROCESS, &mut command)
            .map_err(|error| BrokerError::io(NAME, "cannot be started", error))?;
        let address = format!("127.0.0.1:{port}");
        sandbox.ready(NAME, PROCESS, READY, || greet(&address))?;
        Ok(Self {
            endpoint: format!("http://{address}"),
            version: package.version.clone(),
            _sandbox: Some(sandbox),
        })
    }

    /// `http://127.0.0.1:port`.
    #[must_use]
    pub fn endpoint(&self) -> &str {
        &self.endpoint
    }

    /// `host:port`, for a proxy.
    #[must_use]
    pub fn address(&self) -> &str {
        host_of(&self.endpoint)
    }

    /// The name of a table that no other test uses.
    #[must_use]
    pub fn table(&self) -> String {
        format!("t-{:016x}", fastrand::u64(..))
    }

    /// What it is: `dynalite 4.0.0`.
    #[must_use]
    pub fn version(&self) -> &str {
        &self.version
    }
}

impl fmt::Debug for Dynalite {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Dynalite").field("endpoint", &self.endpoint).finish_non_exhaustive()
    }
}

/// Whether it answers at all; what it answers to a plain request is no matter.
fn greet(address: &str) -> io::Result<()> {
    http::request(address, ("", ""), "GET", "/", None).map(drop)
}

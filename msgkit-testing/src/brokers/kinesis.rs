//! A stand-in for Amazon Kinesis Data Streams: `kinesis-local` (kinesis-mock), of npm.

use std::fmt;
use std::io;
use std::path::PathBuf;
use std::process::Command;
use std::sync::OnceLock;
use std::time::Duration;

use super::error::BrokerError;
use super::http;
use super::npm::{Package, host_of};
use super::sandbox::Sandbox;
use super::system::free_ports;

const NAME: &str = "kinesis-local";
const URL: &str = "MSGKIT_KINESIS_URL";
/// Where npm put it, where that is not the place of `make brokers`.
const HOME: &str = "MSGKIT_KINESIS_HOME";
const PROCESS: &str = "kinesis";
/// A second on an idle machine.
const READY: Duration = Duration::from_secs(60);
const STOP: Duration = Duration::from_secs(10);

/// A `kinesis-local` for tests, which ends when it is dropped.
///
/// What it gets right: streams, shards, their splitting and merging, iterators, enhanced fan-out. What it does not: it never
/// throttles, never refuses a part of a request, and takes requests of more than 500 records; [`KinesisFaults`] stands before
/// it for those. Each access key has its own account, so a test that has a key of its own has its own streams:
/// [`account`](Self::account). What it was told is gone when it ends.
///
/// [`KinesisFaults`]: super::KinesisFaults
pub struct KinesisLocal {
    place: Place,
    endpoint: String,
}

enum Place {
    Ours(Box<Ours>),
    Theirs,
}

struct Ours {
    sandbox: Sandbox,
    node: PathBuf,
    script: PathBuf,
    ports: [u16; 2],
    version: String,
}

impl KinesisLocal {
    /// The stand-in at `MSGKIT_KINESIS_URL` (`http://127.0.0.1:4567`), or a new one.
    ///
    /// # Errors
    /// [`BrokerError`] where it is not installed, does not come up, or does not answer.
    pub fn start() -> Result<Self, BrokerError> {
        let Ok(endpoint) = std::env::var(URL) else { return Self::launch() };
        let endpoint = endpoint.trim_end_matches('/').to_owned();
        greet(host_of(&endpoint)).map_err(|error| {
            BrokerError::io(NAME, format!("it is not at {endpoint}, which {URL} names"), error)
        })?;
        Ok(Self { place: Place::Theirs, endpoint })
    }

    /// The one that all tests of this process have in common, started by the first who asks. It ends with the process.
    ///
    /// # Errors
    /// As [`start`](Self::start); the same for all who ask.
    pub fn shared() -> Result<&'static Self, BrokerError> {
        static SHARED: OnceLock<Result<KinesisLocal, BrokerError>> = OnceLock::new();
        SHARED.get_or_init(Self::start).as_ref().map_err(Clone::clone)
    }

    /// One of our own, whatever runs already.
    ///
    /// # Errors
    /// [`BrokerError`] where node or the package is not installed, or it does not come up; then with the end of its log.
    pub fn launch() -> Result<Self, BrokerError> {
        let package = Package::find(NAME, "main.js", HOME)?;
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
        let sandbox = Sandbox::new("kinesis")
            .map_err(|error| BrokerError::io(NAME, "cannot make its directory", error))?;
        let ports = free_ports().map_err(|error| BrokerError::io(NAME, "no free port", error))?;
        let mut ours = Ours {
            sandbox,
            node: package.node.clone(),
            script: package.directory.join("main.js"),
            ports,
            version: package.version.clone(),
        };
        ours.run()?;
        Ok(Self { endpoint: format!("http://127.0.0.1:{}", ports[0]), place: Place::Ours(Box::new(ours)) })
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

    /// The id of an access key that no other test uses: an account with no streams. Any secret will do.
    #[must_use]
    pub fn account(&self) -> String {
        // It takes twelve digits for an account.
        format!("{:012}", fastrand::u64(100_000_000_000..1_000_000_000_000))
    }

    /// What it is, for the table of guarantees: `kinesis-local 0.6.2`.
    #[must_use]
    pub fn version(&self) -> String {
        match &self.place {
            Place::Ours(ours) => ours.version.clone(),
            Place::Theirs => format!("{NAME} of {URL}"),
        }
    }

    /// Kills it (SIGKILL); its streams are gone.
    ///
    /// # Errors
    /// [`BrokerError`] where it is not ours.
    pub fn kill(&mut self) -> Result<(), BrokerError> {
        self.ours_mut()?.sandbox.end(PROCESS, None);
        Ok(())
    }

    /// Starts it again on the same ports, empty, after it was ended where it still runs.
    ///
    /// # Errors
    /// [`BrokerError`] where it is not ours, or does not come up.
    pub fn restart(&mut self) -> Result<(), BrokerError> {
        let ours = self.ours_mut()?;
        ours.sandbox.end(PROCESS, Some(STOP));
        ours.run()
    }

    fn ours_mut(&mut self) -> Result<&mut Ours, BrokerError> {
        match &mut self.place {
            Place::Ours(ours) => Ok(ours),
            Place::Theirs => Err(BrokerError::not_ours(NAME, URL)),
        }
    }
}

impl fmt::Debug for KinesisLocal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("KinesisLocal").field("endpoint", &self.endpoint).finish_non_exhaustive()
    }
}

impl Ours {
    fn run(&mut self) -> Result<(), BrokerError> {
        let [plain, tls] = self.ports;
        let mut command = Command::new(&self.node);
        command
            // Without a bound it keeps 600 MB after a few large records.
            .arg("--max-old-space-size=512")
            .arg(&self.script)
            .env("KINESIS_MOCK_PLAIN_PORT", plain.to_string())
            .env("KINESIS_MOCK_TLS_PORT", tls.to_string())
            .env("KINESIS_MOCK_CERT_PATH", self.script.with_file_name("server.json"))
            .env("LOG_LEVEL", "WARN")
            .env("SHARD_LIMIT", "100000")
            .env("ON_DEMAND_STREAM_COUNT_LIMIT", "10000");
        for change in [
            "CREATE_STREAM",
            "DELETE_STREAM",
            "SPLIT_SHARD",
            "MERGE_SHARDS",
            "UPDATE_SHARD_COUNT",
            "REGISTER_STREAM_CONSUMER",
        ] {
            command.env(format!("{change}_DURATION"), "20ms");
        }
        self.sandbox
            .spawn(PROCESS, &mut command)
            .map_err(|error| BrokerError::io(NAME, "cannot be started", error))?;
        let address = format!("127.0.0.1:{plain}");
        self.sandbox.ready(NAME, PROCESS, READY, || greet(&address))
    }
}

fn greet(address: &str) -> io::Result<()> {
    let answer = http::request(address, ("", ""), "GET", "/healthcheck", None)?;
    match answer.status {
        200 => Ok(()),
        status => Err(io::Error::other(format!("its health check answers {status}"))),
    }
}

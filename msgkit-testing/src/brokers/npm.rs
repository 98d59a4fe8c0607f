//! Stand-ins that are packages of npm: where npm put them, how they are started and ended.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;
use std::time::Duration;

use super::error::BrokerError;
use super::http;
use super::place::{Launched, Place, on_free_ports};
use super::sandbox::Sandbox;
use super::system::{find, free_ports};

/// A second on an idle machine.
const READY: Duration = Duration::from_secs(60);
/// It waits for half a minute for connections to end before it writes down what it keeps.
const STOP: Duration = Duration::from_secs(120);

/// What a stand-in stands for: where it is, and how it is started.
pub trait StandsFor: Sized + 'static {
    /// The name of its package, and of its process.
    const NAME: &'static str;
    /// The file that node runs.
    const MAIN: &'static str;
    /// The variable that names one that runs already.
    const URL: &'static str;
    /// The variable that says where npm put it, where that is not the place of `make brokers`.
    const HOME: &'static str;

    /// The arguments and the environment of its process, which keeps what it keeps in `directory`.
    fn configure(command: &mut Command, package: &Path, ports: [u16; 2], directory: &Path);

    /// Whether it answers.
    ///
    /// # Errors
    /// [`io::Error`] where it does not, or not yet.
    fn greet(address: &str) -> io::Result<()>;

    /// Where [`StandIn::shared`] keeps it.
    fn shared() -> &'static OnceLock<Result<StandIn<Self>, BrokerError>>;
}

/// A stand-in for a service of others, which ends when it is dropped. `S` says for which.
pub struct StandIn<S: StandsFor> {
    place: Place<Ours<S>>,
    endpoint: String,
}

struct Ours<S> {
    sandbox: Sandbox,
    package: Package,
    ports: [u16; 2],
    _of: std::marker::PhantomData<fn() -> S>,
}

impl<S: StandsFor> StandIn<S> {
    /// The stand-in that the environment names (`MSGKIT_KINESIS_URL`, `MSGKIT_DYNAMODB_URL`), or a new one.
    ///
    /// # Errors
    /// [`BrokerError`] where it is not installed, does not come up, or does not answer.
    pub fn start() -> Result<Self, BrokerError> {
        let Ok(endpoint) = std::env::var(S::URL) else { return Self::launch() };
        let endpoint = endpoint.trim_end_matches('/').to_owned();
        S::greet(host_of(&endpoint)).map_err(|error| {
            BrokerError::io(S::NAME, format!("it is not at {endpoint}, which {} names", S::URL), error)
        })?;
        Ok(Self { place: Place::Theirs, endpoint })
    }

    /// The one that all tests of this process have in common, started by the first who asks. It ends with the process.
    ///
    /// # Errors
    /// As [`start`](Self::start); the same for all who ask.
    pub fn shared() -> Result<&'static Self, BrokerError> {
        S::shared().get_or_init(Self::start).as_ref().map_err(Clone::clone)
    }

    /// One of our own, whatever runs already.
    ///
    /// # Errors
    /// [`BrokerError`] where node or the package is not installed, or it does not come up; then with the end of its log.
    pub fn launch() -> Result<Self, BrokerError> {
        on_free_ports("EADDRINUSE", || Self::launch_once(Package::find(S::NAME, S::MAIN, S::HOME)?))
    }

    fn launch_once(package: Package) -> Result<Self, BrokerError> {
        let sandbox = Sandbox::new(S::NAME)
            .map_err(|error| BrokerError::io(S::NAME, "cannot make its directory", error))?;
        let ports = free_ports().map_err(|error| BrokerError::io(S::NAME, "no free port", error))?;
        let mut ours = Ours { sandbox, package, ports, _of: std::marker::PhantomData };
        ours.run()?;
        Ok(Self { endpoint: format!("http://{}", ours.address()), place: Place::Ours(Box::new(ours)) })
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

    /// What it is, for the table of guarantees: `kinesis-local 0.6.2`.
    #[must_use]
    pub fn version(&self) -> String {
        match &self.place {
            Place::Ours(ours) => ours.package.version.clone(),
            Place::Theirs => format!("{} of {}", S::NAME, S::URL),
        }
    }

    /// Kills it (SIGKILL).
    ///
    /// # Errors
    /// [`BrokerError`] where it is not ours.
    pub fn kill(&mut self) -> Result<(), BrokerError> {
        self.place.kill()
    }

    /// Starts it again on the same ports and directory, after it was ended in good order where it still runs.
    ///
    /// # Errors
    /// [`BrokerError`] where it is not ours, or does not come up.
    pub fn restart(&mut self) -> Result<(), BrokerError> {
        self.place.restart()
    }
}

impl<S: StandsFor> Ours<S> {
    fn address(&self) -> String {
        format!("127.0.0.1:{}", self.ports[0])
    }
}

impl<S: StandsFor> Launched for Ours<S> {
    const NAME: &'static str = S::NAME;
    const URL: &'static str = S::URL;
    const PROCESS: &'static str = S::NAME;
    const STOP: Duration = STOP;

    fn sandbox(&self) -> &Sandbox {
        &self.sandbox
    }

    fn sandbox_mut(&mut self) -> &mut Sandbox {
        &mut self.sandbox
    }

    fn run(&mut self) -> Result<(), BrokerError> {
        let mut command = Command::new(&self.package.node);
        S::configure(&mut command, &self.package.directory, self.ports, self.sandbox.path());
        self.sandbox
            .spawn(S::NAME, &mut command)
            .map_err(|error| BrokerError::io(S::NAME, "cannot be started", error))?;
        let address = self.address();
        self.sandbox.ready(S::NAME, S::NAME, READY, || S::greet(&address))
    }
}

impl<S: StandsFor> fmt::Debug for StandIn<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct(S::NAME).field("endpoint", &self.endpoint).finish_non_exhaustive()
    }
}

/// A package, and the node that runs it.
struct Package {
    node: PathBuf,
    /// Its directory.
    directory: PathBuf,
    /// Its name with its version.
    version: String,
}

impl Package {
    /// The package `name` whose main file is `main`: below what `variable` names, where `make brokers` puts it, or of a global
    /// installation.
    fn find(name: &'static str, main: &str, variable: &str) -> Result<Self, BrokerError> {
        let node = find(Path::new("node"), &[], |_| true)
            .ok_or_else(|| BrokerError::missing(name, Path::new("node")))?;
        let inside = |root: PathBuf| root.join("node_modules").join(name);
        let own = std::env::var_os(variable).map(PathBuf::from).map(inside);
        let made = std::env::var_os("XDG_DATA_HOME")
            .map(PathBuf::from)
            .or_else(|| std::env::var_os("HOME").map(|home| PathBuf::from(home).join(".local/share")))
            .map(|data| inside(data.join("msgkit").join(name)));
        let global = ["/usr/lib", "/usr/local/lib"].map(|root| inside(PathBuf::from(root)));
        own.into_iter()
            .chain(made)
            .chain(global)
            .find(|directory| directory.join(main).is_file())
            .map(|directory| Self { node, version: version(name, &directory), directory })
            .ok_or_else(|| BrokerError::missing(name, Path::new(name)))
    }
}

fn version(name: &str, package: &Path) -> String {
    let text = std::fs::read_to_string(package.join("package.json")).unwrap_or_default();
    let json: serde_json::Value = serde_json::from_str(&text).unwrap_or_default();
    match json["version"].as_str() {
        Some(version) => format!("{name} {version}"),
        None => name.to_owned(),
    }
}

/// Whether a plain `GET` of `path` is answered, and how.
pub(super) fn status(address: &str, path: &str) -> io::Result<u16> {
    http::request(address, ("", ""), "GET", path, None).map(|answer| answer.status)
}

/// `host:port` of an address with its scheme.
pub(super) fn host_of(endpoint: &str) -> &str {
    let rest = endpoint.split_once("://").map_or(endpoint, |(_, rest)| rest);
    rest.split('/').next().unwrap_or(rest)
}

//! Stand-ins for Google Cloud Pub/Sub: Google's `pstest` as `make brokers` builds it, and Google's own emulator.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;
use std::time::Duration;

use super::error::{BrokerError, BrokerErrorKind};
use super::http;
use super::npm::host_of;
use super::place::{Launched, Place, on_free_ports};
use super::sandbox::Sandbox;
use super::system::{escape, find, free_ports, unique};

const NAME: &str = "pubsub";
const URL: &str = "MSGKIT_PUBSUB_URL";
/// The directory of the stand-in, where that is not the place of `make brokers`.
const HOME: &str = "MSGKIT_PUBSUB_HOME";
/// The jar of Google's emulator, where that is not the place of its Debian package.
const EMULATOR: &str = "MSGKIT_PUBSUB_EMULATOR";
/// What the stand-in is, and what it can show nothing of.
const PATCHED: &str = "pstest 2.8.0, patched to keep the order that the service documents; not seen on the service: its order after a \
                       nack, its quotas, its filters";
const PROGRAM: &str = "pubsub-stand-in";
const PROCESS: &str = "pubsub";
/// The Java emulator takes a second on an idle machine.
const READY: Duration = Duration::from_secs(60);
const STOP: Duration = Duration::from_secs(60);

/// A stand-in for Pub/Sub for tests, which ends when it is dropped.
///
/// [`launch`](Self::launch) starts Google's `pstest` with the order, the affinity and the exactly-once answers that the
/// service documents (`.ci/pubsub/service.patch`), and a REST API before it. [`emulator`](Self::emulator) starts Google's
/// own emulator, which forgets the order of a key when messages come again, and ignores filters. Neither keeps anything over
/// a restart. Each test has a [project](Self::project) of its own.
pub struct Pubsub {
    place: Place<Ours>,
    address: String,
}

struct Ours {
    sandbox: Sandbox,
    kind: Kind,
    port: u16,
}

#[derive(Debug, Clone)]
enum Kind {
    StandIn { program: PathBuf },
    Emulator { java: PathBuf, jar: PathBuf },
}

impl Pubsub {
    /// The one at `MSGKIT_PUBSUB_URL` (`http://127.0.0.1:8085`), or a new one.
    ///
    /// # Errors
    /// [`BrokerError`] where it is not installed, does not come up, or does not answer.
    pub fn start() -> Result<Self, BrokerError> {
        let Ok(url) = std::env::var(URL) else { return Self::launch() };
        let address = host_of(&url).to_owned();
        greet(&address).map_err(|error| {
            BrokerError::io(NAME, format!("it is not at {address}, which {URL} names"), error)
        })?;
        Ok(Self { place: Place::Theirs, address })
    }

    /// The one that all tests of this process have in common, started by the first who asks. It ends with the process.
    ///
    /// # Errors
    /// As [`start`](Self::start); the same for all who ask.
    pub fn shared() -> Result<&'static Self, BrokerError> {
        static SHARED: OnceLock<Result<Pubsub, BrokerError>> = OnceLock::new();
        SHARED.get_or_init(Self::start).as_ref().map_err(Clone::clone)
    }

    /// `pstest` of our own, whatever runs already.
    ///
    /// # Errors
    /// [`BrokerError`] where it was not built, or does not come up; then with the end of its log.
    pub fn launch() -> Result<Self, BrokerError> {
        let own = std::env::var_os(HOME).map(PathBuf::from);
        let data = std::env::var_os("XDG_DATA_HOME")
            .map(PathBuf::from)
            .or_else(|| std::env::var_os("HOME").map(|home| PathBuf::from(home).join(".local/share")));
        let program = own
            .into_iter()
            .chain(data.map(|data| data.join("msgkit/pubsub")))
            .map(|directory| directory.join(PROGRAM))
            .find(|program| program.is_file())
            .ok_or_else(|| BrokerError::missing(NAME, Path::new(PROGRAM)))?;
        Self::run(&Kind::StandIn { program })
    }

    /// Google's own emulator: the jar of its Debian package, or the one that `MSGKIT_PUBSUB_EMULATOR` names.
    ///
    /// # Errors
    /// [`BrokerError`] where it is not installed, or does not come up; then with the end of its log.
    pub fn emulator() -> Result<Self, BrokerError> {
        let java = find(Path::new("java"), &[], |_| true)
            .ok_or_else(|| BrokerError::missing(NAME, Path::new("java")))?;
        let jar = std::env::var_os(EMULATOR).map(PathBuf::from).or_else(packaged).ok_or_else(|| {
            BrokerError::new(
                NAME,
                BrokerErrorKind::Missing,
                format!(
                    "Google's emulator is not installed; install the package google-cloud-cli-pubsub-emulator, or name its jar \
                     with {EMULATOR}"
                ),
            )
        })?;
        Self::run(&Kind::Emulator { java, jar })
    }

    fn run(kind: &Kind) -> Result<Self, BrokerError> {
        on_free_ports("in use", || {
            let sandbox = Sandbox::new(NAME)
                .map_err(|error| BrokerError::io(NAME, "cannot make its directory", error))?;
            let [port] = free_ports().map_err(|error| BrokerError::io(NAME, "no free port", error))?;
            let mut ours = Ours { sandbox, kind: kind.clone(), port };
            ours.run()?;
            Ok(Self { address: ours.address(), place: Place::Ours(Box::new(ours)) })
        })
    }

    /// `host:port`: what `PUBSUB_EMULATOR_HOST` takes.
    #[must_use]
    pub fn address(&self) -> &str {
        &self.address
    }

    /// The id of a project that no other test uses, with nothing in it.
    #[must_use]
    pub fn project(&self, name: &str) -> String {
        unique(name).to_ascii_lowercase().replace('_', "-")
    }

    /// What it is, for the table of guarantees.
    #[must_use]
    pub fn version(&self) -> String {
        match &self.place {
            Place::Theirs => format!("Pub/Sub of {URL}"),
            Place::Ours(ours) => match &ours.kind {
                Kind::StandIn { .. } => PATCHED.to_owned(),
                Kind::Emulator { jar, .. } => {
                    let name = jar.file_stem().unwrap_or_default().to_string_lossy().into_owned();
                    name.replace("-all", "")
                }
            },
        }
    }

    /// Ends the lease of everything that members have in hand in `project`, as when their leases have run out although they
    /// live. Only the stand-in can; the emulator waits ten seconds.
    ///
    /// # Errors
    /// [`BrokerError`] where it cannot.
    pub fn expire(&self, project: &str) -> Result<(), BrokerError> {
        self.end(project, "expire", "")
    }

    /// Everybody who reads in `project` now is dead to it: their streams end, and their leases with them. Who lives opens
    /// another stream. Only the stand-in can.
    ///
    /// # Errors
    /// [`BrokerError`] where it cannot.
    pub fn bury(&self, project: &str) -> Result<(), BrokerError> {
        self.end(project, "expire", "&bury=1")
    }

    /// Ends the streams of everybody who reads in `project` now with `code` of gRPC; they keep their leases. Only the stand-in
    /// can.
    ///
    /// # Errors
    /// [`BrokerError`] where it cannot.
    pub fn end_streams(&self, project: &str, code: u32) -> Result<(), BrokerError> {
        self.end(project, "end", &format!("&code={code}"))
    }

    /// Answers the next `times` calls of `method` (`Publish`, `Acknowledge`, `ModifyAckDeadline`, `CreateTopic`,
    /// `CreateSubscription`) with `code` of gRPC, as the service does where a quota is used up (8) or a part of it is away (14).
    /// How many were refused by the order before. Only the stand-in can.
    ///
    /// # Errors
    /// [`BrokerError`] where it cannot.
    pub fn refuse(&self, method: &str, code: u32, times: u32) -> Result<u64, BrokerError> {
        let path = format!("/stand-in/refuse?method={method}&code={code}&times={times}");
        let failed = |error| BrokerError::io(NAME, format!("it cannot refuse {method}"), error);
        let answer = http::request(&self.address, ("", ""), "POST", &path, None).map_err(failed)?;
        match (answer.status, answer.body.trim().parse()) {
            (200, Ok(refused)) => Ok(refused),
            (status, _) => Err(failed(io::Error::other(format!("it answers {status}: {}", answer.body)))),
        }
    }

    /// How many streams are open in `project`. Only the stand-in tells.
    ///
    /// # Errors
    /// [`BrokerError`] where it does not.
    pub fn streams(&self, project: &str) -> Result<usize, BrokerError> {
        let prefix = escape(&format!("projects/{project}/subscriptions/"));
        let path = format!("/stand-in/streams?prefix={prefix}");
        let failed = |error| BrokerError::io(NAME, "it does not tell its streams", error);
        let answer = http::request(&self.address, ("", ""), "GET", &path, None).map_err(failed)?;
        answer.body.trim().parse().map_err(|_| failed(io::Error::other(answer.body)))
    }

    fn end(&self, project: &str, what: &str, more: &str) -> Result<(), BrokerError> {
        let prefix = escape(&format!("projects/{project}/subscriptions/"));
        let path = format!("/stand-in/{what}?prefix={prefix}{more}");
        let failed = |error| BrokerError::io(NAME, "leases or streams cannot be ended", error);
        match http::request(&self.address, ("", ""), "POST", &path, None).map_err(failed)?.status {
            200 => Ok(()),
            status => Err(failed(io::Error::other(format!("it answers {status}")))),
        }
    }

    /// Kills it (SIGKILL); what it was told is gone.
    ///
    /// # Errors
    /// [`BrokerError`] where it is not ours.
    pub fn kill(&mut self) -> Result<(), BrokerError> {
        self.place.kill()
    }

    /// Ends it in good order; what it was told is gone all the same.
    ///
    /// # Errors
    /// [`BrokerError`] where it is not ours.
    pub fn stop(&mut self) -> Result<(), BrokerError> {
        self.place.stop()
    }

    /// Starts it again on the same port, empty, after it was ended where it still runs.
    ///
    /// # Errors
    /// [`BrokerError`] where it is not ours, or does not come up.
    pub fn restart(&mut self) -> Result<(), BrokerError> {
        self.place.restart()
    }
}

impl fmt::Debug for Pubsub {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Pubsub").field("address", &self.address).finish_non_exhaustive()
    }
}

impl Ours {
    fn address(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }
}

impl Launched for Ours {
    const NAME: &'static str = NAME;
    const URL: &'static str = URL;
    const PROCESS: &'static str = PROCESS;
    const STOP: Duration = STOP;

    fn sandbox(&self) -> &Sandbox {
        &self.sandbox
    }

    fn sandbox_mut(&mut self) -> &mut Sandbox {
        &mut self.sandbox
    }

    fn run(&mut self) -> Result<(), BrokerError> {
        let address = self.address();
        let mut command = match &self.kind {
            Kind::StandIn { program } => {
                let mut command = Command::new(program);
                command.arg(&address);
                command
            }
            Kind::Emulator { java, jar } => {
                let mut command = Command::new(java);
                command
                    .args(["-Xmx256m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1", "-jar"])
                    .arg(jar)
                    .args(["--host=127.0.0.1", &format!("--port={}", self.port)]);
                command
            }
        };
        self.sandbox
            .spawn(PROCESS, &mut command)
            .map_err(|error| BrokerError::io(NAME, "cannot be started", error))?;
        self.sandbox.ready(NAME, PROCESS, READY, || greet(&address))
    }
}

/// The jar of the Debian package.
fn packaged() -> Option<PathBuf> {
    let lib = Path::new("/usr/lib/google-cloud-sdk/platform/pubsub-emulator/lib");
    let jars = std::fs::read_dir(lib).ok()?.flatten().map(|entry| entry.path());
    jars.filter(|path| path.extension().is_some_and(|extension| extension == "jar")).max()
}

fn greet(address: &str) -> io::Result<()> {
    match http::request(address, ("", ""), "GET", "/", None)?.status {
        200 => Ok(()),
        status => Err(io::Error::other(format!("it answers {status}"))),
    }
}

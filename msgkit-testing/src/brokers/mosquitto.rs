//! Eclipse Mosquitto, for MQTT.

use std::fmt;
use std::fs;
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;
use std::time::Duration;

use msgkit::transport::TransportUrl;

use super::certificates::Certificates;
use super::error::{BrokerError, BrokerErrorKind};
use super::place::{Launched, Place, connect, credentials, on_free_ports};
use super::sandbox::Sandbox;
use super::system::{find, free_ports, unique};

const NAME: &str = "Mosquitto";
const URL: &str = "MSGKIT_MOSQUITTO_URL";
/// Debian has it outside of a user's search path.
const PLACES: [&str; 1] = ["/usr/sbin"];
const PROCESS: &str = "mosquitto";
const READY: Duration = Duration::from_secs(60);
const STOP: Duration = Duration::from_secs(20);

/// A Mosquitto broker for tests, which ends when it is dropped.
///
/// Sessions, queued messages and retained ones are on disk after every change, so that they survive
/// [`kill`](Self::kill). Mosquitto writes them after its ack, though: what it acked last before it is killed may be lost
/// unless it has answered something else since, like a PINGREQ. A session that began with a clean start is not kept.
pub struct Mosquitto {
    place: Place<Ours>,
    url: String,
}

struct Ours {
    sandbox: Sandbox,
    program: PathBuf,
    ports: Ports,
    authority: Option<PathBuf>,
    users: Vec<(String, String)>,
    version: String,
}

#[derive(Clone, Copy)]
struct Ports {
    plain: u16,
    tls: Option<u16>,
    websocket: Option<u16>,
}

/// What a [`Mosquitto`] is started with.
#[derive(Clone)]
#[must_use]
pub struct MosquittoOptions {
    program: PathBuf,
    users: Vec<(String, String)>,
    acl: Option<String>,
    tls: bool,
    websocket: bool,
    settings: Vec<String>,
}

impl MosquittoOptions {
    /// One who may connect. With one such user, nobody connects without a name and its password.
    pub fn user(mut self, name: impl Into<String>, password: impl Into<String>) -> Self {
        self.users.push((name.into(), password.into()));
        self
    }

    /// Who may read and write what, as Mosquitto's `acl_file` says it: `user dev`, `topic read open/#`.
    pub fn acl(mut self, rules: impl Into<String>) -> Self {
        self.acl = Some(rules.into());
        self
    }

    /// A second listener with TLS, and a certificate of an [`authority`](Mosquitto::authority) of its own.
    pub fn tls(mut self) -> Self {
        self.tls = true;
        self
    }

    /// A listener for MQTT over WebSocket.
    pub fn websocket(mut self) -> Self {
        self.websocket = true;
        self
    }

    /// Another program than the `mosquitto` of the search path.
    pub fn program(mut self, program: impl Into<PathBuf>) -> Self {
        self.program = program.into();
        self
    }

    /// One more line of `mosquitto.conf`: `max_inflight_messages 5`.
    pub fn setting(mut self, line: impl Into<String>) -> Self {
        self.settings.push(line.into());
        self
    }

    /// Starts a broker of our own with these options, whatever runs already.
    ///
    /// # Errors
    /// [`BrokerError`] where Mosquitto is not installed or does not come up; then with the end of its log.
    pub fn start(self) -> Result<Mosquitto, BrokerError> {
        let program = find(&self.program, &PLACES, |_| true)
            .ok_or_else(|| BrokerError::missing(NAME, &self.program))?;
        on_free_ports("Address already in use", || self.start_once(&program))
    }

    fn start_once(&self, program: &Path) -> Result<Mosquitto, BrokerError> {
        let sandbox = Sandbox::new("mosquitto")
            .map_err(|error| BrokerError::io(NAME, "cannot make its directory", error))?;
        let [plain, tls, websocket] =
            free_ports().map_err(|error| BrokerError::io(NAME, "no free port", error))?;
        let ports =
            Ports { plain, tls: self.tls.then_some(tls), websocket: self.websocket.then_some(websocket) };
        let certificates = self.tls.then(|| Certificates::make(NAME, sandbox.path())).transpose()?;
        self.write(&sandbox, program, ports, certificates.as_ref())
            .map_err(|error| BrokerError::io(NAME, "cannot write its configuration", error))?;
        let mut ours = Ours {
            sandbox,
            program: program.to_owned(),
            ports,
            authority: certificates.map(|files| files.authority),
            users: self.users.clone(),
            version: version(program),
        };
        ours.run()?;
        let url = format!("mqtt://{}127.0.0.1:{plain}", credentials(self.users.first()));
        Ok(Mosquitto { place: Place::Ours(Box::new(ours)), url })
    }

    fn write(
        &self,
        sandbox: &Sandbox,
        program: &Path,
        ports: Ports,
        certificates: Option<&Certificates>,
    ) -> io::Result<()> {
        let directory = sandbox.path();
        fs::create_dir(directory.join("data"))?;
        let mut lines = vec![
            // Started by root it would become the user `mosquitto`, who cannot read the directory.
            "user root".to_owned(),
            format!("listener {} 127.0.0.1", ports.plain),
        ];
        if let (Some(files), Some(port)) = (certificates, ports.tls) {
            lines.push(format!("listener {port} 127.0.0.1"));
            lines.push(format!("certfile {}", files.certificate.display()));
            lines.push(format!("keyfile {}", files.key.display()));
        }
        if let Some(port) = ports.websocket {
            lines.push(format!("listener {port} 127.0.0.1"));
            lines.push("protocol websockets".to_owned());
        }
        lines.push(format!("allow_anonymous {}", self.users.is_empty()));
        if !self.users.is_empty() {
            lines.push(format!("password_file {}", passwords(directory, program, &self.users)?.display()));
        }
        if let Some(rules) = &self.acl {
            let file = directory.join("acl");
            fs::write(&file, format!("{rules}\n"))?;
            lines.push(format!("acl_file {}", file.display()));
        }
        lines.push("persistence true".to_owned());
        lines.push(format!("persistence_location {}/", directory.join("data").display()));
        // With the next line: after every change.
        lines.push("autosave_interval 1".to_owned());
        lines.push("autosave_on_changes true".to_owned());
        // The default of 1,000 drops silently what is above it.
        lines.push("max_queued_messages 100000".to_owned());
        lines.push("sys_interval 1".to_owned());
        lines.extend(self.settings.iter().cloned());
        fs::write(directory.join("mosquitto.conf"), lines.join("\n") + "\n")
    }
}

impl fmt::Debug for MosquittoOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MosquittoOptions")
            .field("program", &self.program)
            .field("users", &self.users.iter().map(|(name, _)| name).collect::<Vec<_>>())
            .field("acl", &self.acl)
            .field("tls", &self.tls)
            .field("websocket", &self.websocket)
            .field("settings", &self.settings)
            .finish()
    }
}

impl Mosquitto {
    /// The broker that `MSGKIT_MOSQUITTO_URL` names, or a new one that lets everybody connect.
    ///
    /// # Errors
    /// [`BrokerError`] where Mosquitto is not installed, does not come up, or does not answer.
    pub fn start() -> Result<Self, BrokerError> {
        match std::env::var(URL) {
            Ok(url) => Self::running(url),
            Err(_) => Self::options().start(),
        }
    }

    /// Options for one that is not like all others.
    pub fn options() -> MosquittoOptions {
        MosquittoOptions {
            program: "mosquitto".into(),
            users: Vec::new(),
            acl: None,
            tls: false,
            websocket: false,
            settings: Vec::new(),
        }
    }

    /// The broker that all tests of this process have in common, started by the first who asks. It ends with the
    /// process.
    ///
    /// # Errors
    /// As [`start`](Self::start); the same for all who ask.
    pub fn shared() -> Result<&'static Self, BrokerError> {
        static SHARED: OnceLock<Result<Mosquitto, BrokerError>> = OnceLock::new();
        SHARED.get_or_init(Self::start).as_ref().map_err(Clone::clone)
    }

    fn running(url: String) -> Result<Self, BrokerError> {
        let refused = |why: &str| BrokerError::new(NAME, BrokerErrorKind::Refused, format!("{URL}: {why}"));
        let parsed = TransportUrl::parse(&url).map_err(|error| refused(&error.to_string()))?;
        let address = parsed.address().split('/').next().unwrap_or_default();
        let address = if address.contains(':') { address.to_owned() } else { format!("{address}:1883") };
        // With TLS there is more to say than this crate can.
        if matches!(parsed.scheme(), "mqtt" | "tcp") {
            greet(&address).map_err(|error| {
                BrokerError::io(NAME, format!("nobody speaks MQTT at {address}, which {URL} names"), error)
            })?;
        }
        Ok(Self { place: Place::Theirs, url })
    }

    /// `mqtt://user:password@host:port`, with the first of the users.
    #[must_use]
    pub fn url(&self) -> &str {
        &self.url
    }

    /// The address for another user of the options.
    #[must_use]
    pub fn url_as(&self, user: &str) -> Option<String> {
        let ours = self.place.ours()?;
        let user = ours.users.iter().find(|(name, _)| name == user)?;
        Some(format!("mqtt://{}127.0.0.1:{}", credentials(Some(user)), ours.ports.plain))
    }

    /// The port of the plain listener.
    #[must_use]
    pub fn port(&self) -> Option<u16> {
        Some(self.place.ours()?.ports.plain)
    }

    /// `mqtts://user:password@localhost:port`, where the options have [`tls`](MosquittoOptions::tls).
    #[must_use]
    pub fn tls_url(&self) -> Option<String> {
        let ours = self.place.ours()?;
        Some(format!("mqtts://{}localhost:{}", credentials(ours.users.first()), ours.ports.tls?))
    }

    /// The PEM file of the authority that signed its certificate.
    #[must_use]
    pub fn authority(&self) -> Option<&Path> {
        self.place.ours()?.authority.as_deref()
    }

    /// `ws://user:password@127.0.0.1:port/mqtt`, where the options have a WebSocket listener.
    #[must_use]
    pub fn websocket_url(&self) -> Option<String> {
        let ours = self.place.ours()?;
        Some(format!("ws://{}127.0.0.1:{}/mqtt", credentials(ours.users.first()), ours.ports.websocket?))
    }

    /// A topic level that no other test uses: the name space of one test.
    #[must_use]
    pub fn prefix(&self, test: &str) -> String {
        unique(test)
    }

    /// What it is, for the table of guarantees: `Mosquitto 2.0.11`.
    #[must_use]
    pub fn version(&self) -> String {
        match self.place.ours() {
            Some(ours) => ours.version.clone(),
            None => format!("{NAME} of {URL}"),
        }
    }

    /// The directory of its configuration, data and log.
    #[must_use]
    pub fn directory(&self) -> Option<&Path> {
        self.place.directory()
    }

    /// Asks it to end (SIGTERM), and waits for that.
    ///
    /// # Errors
    /// [`BrokerError`] where it is not ours, or had to be killed.
    pub fn stop(&mut self) -> Result<(), BrokerError> {
        self.place.stop()
    }

    /// Kills it (SIGKILL).
    ///
    /// # Errors
    /// [`BrokerError`] where it is not ours.
    pub fn kill(&mut self) -> Result<(), BrokerError> {
        self.place.kill()
    }

    /// Starts it again on the same ports and data, after [`stop`](Self::stop) where it still runs.
    ///
    /// # Errors
    /// [`BrokerError`] where it is not ours, or does not come up.
    pub fn restart(&mut self) -> Result<(), BrokerError> {
        self.place.restart()
    }
}

impl fmt::Debug for Mosquitto {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Mosquitto").field("port", &self.port()).field("directory", &self.directory()).finish()
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
        let mut command = Command::new(&self.program);
        command.arg("-c").arg(self.sandbox.path().join("mosquitto.conf"));
        self.sandbox
            .spawn(PROCESS, &mut command)
            .map_err(|error| BrokerError::io(NAME, "cannot be started", error))?;
        let address = format!("127.0.0.1:{}", self.ports.plain);
        self.sandbox.ready(NAME, PROCESS, READY, || greet(&address))
    }
}

/// A CONNECT of MQTT 3.1.1 without a user. Any CONNACK says that a broker is there.
fn greet(address: &str) -> io::Result<()> {
    let hello = b"\x10\x0c\x00\x04MQTT\x04\x02\x00\x0a\x00\x00";
    let mut stream = connect(address, Duration::from_secs(2))?;
    stream.write_all(hello)?;
    let mut answer = [0; 4];
    stream.read_exact(&mut answer)?;
    if answer[0] != 0x20 {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "it does not answer with a CONNACK"));
    }
    Ok(())
}

/// The password file, made with the broker's own tool.
fn passwords(directory: &Path, broker: &Path, users: &[(String, String)]) -> io::Result<PathBuf> {
    let tool = find(Path::new("mosquitto_passwd"), &["/usr/bin"], |_| true)
        .or_else(|| Some(broker.with_file_name("mosquitto_passwd")).filter(|file| file.is_file()))
        .ok_or_else(|| io::Error::new(io::ErrorKind::NotFound, "`mosquitto_passwd` is not installed"))?;
    let file = directory.join("passwords");
    fs::write(&file, "")?;
    for (name, password) in users {
        let output = Command::new(&tool).arg("-b").arg(&file).args([name, password]).output()?;
        if !output.status.success() {
            let text = String::from_utf8_lossy(&output.stderr);
            return Err(io::Error::other(format!("mosquitto_passwd: {}", text.trim())));
        }
    }
    Ok(file)
}

fn version(program: &Path) -> String {
    let text = Command::new(program).arg("-h").output().map(|output| output.stdout).unwrap_or_default();
    let text = String::from_utf8_lossy(&text);
    match text.lines().next().and_then(|line| line.strip_prefix("mosquitto version ")) {
        Some(version) => format!("{NAME} {}", version.trim()),
        None => NAME.to_owned(),
    }
}

//! Apache Kafka, one broker in KRaft mode.

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
use super::kafka_acls::{self, Denied};
use super::place::{Launched, Place, connect, credentials, on_free_ports};
use super::sandbox::Sandbox;
use super::system::{find, free_ports, unique};

const NAME: &str = "Kafka";
const URL: &str = "MSGKIT_KAFKA_URL";
const HOME: &str = "MSGKIT_KAFKA_HOME";
const PROCESS: &str = "kafka";
const FORMAT: &str = "format";
/// A Java process and several threads have to come up, on a machine that may be busy.
const READY: Duration = Duration::from_secs(180);
const STOP: Duration = Duration::from_secs(60);
/// Any will do; it is written into the data directory.
const CLUSTER: &str = "bXNna2l0bXNna2l0bXNnaw";

/// A Kafka broker for tests, which ends when it is dropped.
///
/// It is one process, broker and controller. What it has acked is in the operating system's hands and so survives
/// [`kill`](Self::kill). Topics are not created by being used, groups begin without a delay, and a member may count as
/// dead after 300 ms without a sign of life, where it asks for that.
pub struct Kafka {
    place: Place<Ours>,
    url: String,
}

struct Ours {
    sandbox: Sandbox,
    java: PathBuf,
    jars: PathBuf,
    ports: Ports,
    users: Vec<(String, String)>,
    tls: bool,
    authority: Option<PathBuf>,
    version: String,
}

#[derive(Debug, Clone, Copy)]
struct Ports {
    client: u16,
    tls: u16,
    internal: u16,
    controller: u16,
}

/// Whose certificate it shows.
#[derive(Debug, Clone)]
enum Tls {
    /// One that is made for it, with its authority.
    Own,
    /// That of these PEM files: certificate and key.
    Theirs(PathBuf, PathBuf),
}

/// What a [`Kafka`] is started with.
#[derive(Clone)]
#[must_use]
pub struct KafkaOptions {
    home: Option<PathBuf>,
    users: Vec<(String, String)>,
    settings: Vec<String>,
    advertised: Option<u16>,
    tls: Option<Tls>,
    acls: bool,
}

impl KafkaOptions {
    /// One who may connect, by SASL PLAIN, SCRAM-SHA-256 or SCRAM-SHA-512. With one such user, nobody connects without a name
    /// and its password, which has no comma in it.
    pub fn user(mut self, name: impl Into<String>, password: impl Into<String>) -> Self {
        self.users.push((name.into(), password.into()));
        self
    }

    /// Another directory than that of `MSGKIT_KAFKA_HOME` or `make brokers`; its `libs` holds the jars.
    pub fn home(mut self, home: impl Into<PathBuf>) -> Self {
        self.home = Some(home.into());
        self
    }

    /// The port of `127.0.0.1` to which the broker sends its clients: that of a
    /// [`FaultProxy`](super::FaultProxy) in front of it.
    pub fn advertised(mut self, port: u16) -> Self {
        self.advertised = Some(port);
        self
    }

    /// It also listens with TLS, at [`Kafka::tls_url`]; [`Kafka::authority`] has signed its certificate. Needs `openssl`.
    pub fn tls(mut self) -> Self {
        self.tls = Some(Tls::Own);
        self
    }

    /// It also listens with TLS and shows the certificate of these PEM files.
    pub fn tls_with(mut self, certificate: impl Into<PathBuf>, key: impl Into<PathBuf>) -> Self {
        self.tls = Some(Tls::Theirs(certificate.into(), key.into()));
        self
    }

    /// It asks what a user may do: everything, but what [`Kafka::deny`] says.
    pub fn acls(mut self) -> Self {
        self.acls = true;
        self
    }

    /// One more line of `server.properties`: `num.partitions=4`.
    pub fn setting(mut self, line: impl Into<String>) -> Self {
        self.settings.push(line.into());
        self
    }

    /// Starts a broker of our own with these options, whatever runs already.
    ///
    /// # Errors
    /// [`BrokerError`] where Kafka or Java is not installed or the broker does not come up; then with the end of its log.
    pub fn start(self) -> Result<Kafka, BrokerError> {
        let jars = jars(self.home.as_deref())
            .ok_or_else(|| BrokerError::missing(NAME, Path::new("kafka_*.jar (run `make brokers`)")))?;
        let java = find(Path::new("java"), &[], |_| true)
            .ok_or_else(|| BrokerError::missing(NAME, Path::new("java")))?;
        on_free_ports("Address already in use", || self.start_once(&jars, &java))
    }

    fn start_once(&self, jars: &Path, java: &Path) -> Result<Kafka, BrokerError> {
        let sandbox = Sandbox::new("kafka")
            .map_err(|error| BrokerError::io(NAME, "cannot make its directory", error))?;
        let [client, tls, internal, controller] =
            free_ports().map_err(|error| BrokerError::io(NAME, "no free port", error))?;
        let ports = Ports { client, tls, internal, controller };
        let made = match self.tls {
            Some(Tls::Own) => Some(Certificates::make(NAME, sandbox.path())?),
            _ => None,
        };
        self.write(&sandbox, ports, made.as_ref())
            .map_err(|error| BrokerError::io(NAME, "cannot write its configuration", error))?;
        let mut ours = Ours {
            sandbox,
            java: java.to_owned(),
            jars: jars.to_owned(),
            ports,
            users: self.users.clone(),
            tls: self.tls.is_some(),
            authority: made.map(|made| made.authority),
            version: version(jars),
        };
        ours.format()?;
        ours.run()?;
        let url = format!("kafka://{}127.0.0.1:{client}", credentials(self.users.first()));
        Ok(Kafka { place: Place::Ours(Box::new(ours)), url })
    }

    fn write(&self, sandbox: &Sandbox, ports: Ports, made: Option<&Certificates>) -> io::Result<()> {
        let Ports { client, tls, internal, controller } = ports;
        let sasl = if self.users.is_empty() { "" } else { "SASL_" };
        let mut listeners = vec![
            ("CLIENT", client, format!("{sasl}PLAINTEXT")),
            ("INTERNAL", internal, "PLAINTEXT".to_owned()),
            ("CONTROLLER", controller, "PLAINTEXT".to_owned()),
        ];
        if self.tls.is_some() {
            listeners.push(("TLS", tls, format!("{sasl}SSL")));
        }
        let (mut listening, mut told, mut protocols) = (Vec::new(), Vec::new(), Vec::new());
        for (name, port, protocol) in listeners {
            listening.push(format!("{name}://127.0.0.1:{port}"));
            let port = self.advertised.filter(|_| name == "CLIENT").unwrap_or(port);
            told.extend((name != "CONTROLLER").then(|| format!("{name}://127.0.0.1:{port}")));
            protocols.push(format!("{name}:{protocol}"));
        }
        let mut lines = vec![
            "process.roles=broker,controller".to_owned(),
            "node.id=1".to_owned(),
            format!("controller.quorum.voters=1@127.0.0.1:{controller}"),
            format!("listeners={}", listening.join(",")),
            format!("advertised.listeners={}", told.join(",")),
            format!("listener.security.protocol.map={}", protocols.join(",")),
            "inter.broker.listener.name=INTERNAL".to_owned(),
            "controller.listener.names=CONTROLLER".to_owned(),
            format!("log.dirs={}", sandbox.path().join("data").display()),
            "auto.create.topics.enable=false".to_owned(),
            // One broker has one of everything.
            "default.replication.factor=1".to_owned(),
            "offsets.topic.replication.factor=1".to_owned(),
            "offsets.topic.num.partitions=1".to_owned(),
            "transaction.state.log.replication.factor=1".to_owned(),
            "transaction.state.log.min.isr=1".to_owned(),
            "share.coordinator.state.topic.replication.factor=1".to_owned(),
            "share.coordinator.state.topic.min.isr=1".to_owned(),
            // Tests do not wait for what a large group saves.
            "group.initial.rebalance.delay.ms=0".to_owned(),
            "group.min.session.timeout.ms=300".to_owned(),
            // Many small topics instead of few large ones.
            "log.index.size.max.bytes=65536".to_owned(),
            "log.cleaner.dedupe.buffer.size=4194304".to_owned(),
            "num.network.threads=2".to_owned(),
            "num.io.threads=4".to_owned(),
        ];
        if !self.users.is_empty() {
            lines.push("sasl.enabled.mechanisms=PLAIN,SCRAM-SHA-256,SCRAM-SHA-512".to_owned());
            let users: Vec<String> = self
                .users
                .iter()
                .map(|(name, password)| format!("user_{name}=\"{}\"", quoted(password)))
                .collect();
            for listener in ["client", "tls"] {
                lines.push(format!(
                    "listener.name.{listener}.plain.sasl.jaas.config=\
                     org.apache.kafka.common.security.plain.PlainLoginModule required {};",
                    users.join(" ")
                ));
                lines.extend(["256", "512"].map(|bits| {
                    format!(
                        "listener.name.{listener}.scram-sha-{bits}.sasl.jaas.config=\
                         org.apache.kafka.common.security.scram.ScramLoginModule required;"
                    )
                }));
            }
        }
        if self.acls {
            lines.push(
                "authorizer.class.name=org.apache.kafka.metadata.authorizer.StandardAuthorizer".to_owned(),
            );
            // Whoever comes by the listeners that are not for clients.
            lines.push("super.users=User:ANONYMOUS".to_owned());
            lines.push("allow.everyone.if.no.acl.found=true".to_owned());
        }
        if let Some(tls) = &self.tls {
            // Kafka wants the key and the certificate, each as PEM, in one file.
            let pair = match (tls, made) {
                (Tls::Theirs(certificate, key), _) => Some((certificate, key)),
                (Tls::Own, made) => made.map(|made| (&made.certificate, &made.key)),
            };
            if let Some((certificate, key)) = pair {
                let store = sandbox.path().join("keystore.pem");
                fs::write(&store, fs::read_to_string(key)? + &fs::read_to_string(certificate)?)?;
                lines.push("listener.name.tls.ssl.keystore.type=PEM".to_owned());
                lines.push(format!("listener.name.tls.ssl.keystore.location={}", store.display()));
            }
            if let Some(made) = made {
                // For clients with a certificate, where a setting asks them for one.
                lines.push("listener.name.tls.ssl.truststore.type=PEM".to_owned());
                lines.push(format!("listener.name.tls.ssl.truststore.location={}", made.authority.display()));
            }
        }
        lines.extend(self.settings.iter().cloned());
        fs::write(sandbox.path().join("server.properties"), lines.join("\n") + "\n")
    }
}

impl fmt::Debug for KafkaOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("KafkaOptions")
            .field("home", &self.home)
            .field("users", &self.users.iter().map(|(name, _)| name).collect::<Vec<_>>())
            .field("settings", &self.settings)
            .finish_non_exhaustive()
    }
}

impl Kafka {
    /// The broker that `MSGKIT_KAFKA_URL` names, or a new one that lets everybody connect.
    ///
    /// # Errors
    /// [`BrokerError`] where Kafka or Java is not installed, does not come up, or does not answer.
    pub fn start() -> Result<Self, BrokerError> {
        match std::env::var(URL) {
            Ok(url) => Self::running(url),
            Err(_) => Self::options().start(),
        }
    }

    /// Options for one that is not like all others.
    pub fn options() -> KafkaOptions {
        KafkaOptions {
            home: None,
            users: Vec::new(),
            settings: Vec::new(),
            advertised: None,
            tls: None,
            acls: false,
        }
    }

    /// The broker that all tests of this process have in common, started by the first who asks. It ends with the
    /// process.
    ///
    /// # Errors
    /// As [`start`](Self::start); the same for all who ask.
    pub fn shared() -> Result<&'static Self, BrokerError> {
        static SHARED: OnceLock<Result<Kafka, BrokerError>> = OnceLock::new();
        SHARED.get_or_init(Self::start).as_ref().map_err(Clone::clone)
    }

    fn running(url: String) -> Result<Self, BrokerError> {
        let refused = |why: &str| BrokerError::new(NAME, BrokerErrorKind::Refused, format!("{URL}: {why}"));
        let parsed = TransportUrl::parse(&url).map_err(|error| refused(&error.to_string()))?;
        let address = parsed.address().split(['/', ',']).next().unwrap_or_default();
        let address = if address.contains(':') { address.to_owned() } else { format!("{address}:9092") };
        // With TLS there is more to say than this crate can.
        if parsed.scheme() == "kafka" {
            greet(&address).map_err(|error| {
                BrokerError::io(NAME, format!("nobody speaks Kafka at {address}, which {URL} names"), error)
            })?;
        }
        Ok(Self { place: Place::Theirs, url })
    }

    /// `kafka://user:password@host:port`, with the first of the users.
    #[must_use]
    pub fn url(&self) -> &str {
        &self.url
    }

    /// The address for another user of the options.
    #[must_use]
    pub fn url_as(&self, user: &str) -> Option<String> {
        let ours = self.place.ours()?;
        let user = ours.users.iter().find(|(name, _)| name == user)?;
        Some(format!("kafka://{}127.0.0.1:{}", credentials(Some(user)), ours.ports.client))
    }

    /// `kafkas://user:password@localhost:port`, with the first of the users, where the options ask for TLS.
    #[must_use]
    pub fn tls_url(&self) -> Option<String> {
        let ours = self.place.ours()?;
        let user = credentials(ours.users.first());
        ours.tls.then(|| format!("kafkas://{user}localhost:{}", ours.ports.tls))
    }

    /// The PEM file of the authority that has signed its certificate, where it was made for it; the authority's key
    /// lies beside it as `authority.key`.
    #[must_use]
    pub fn authority(&self) -> Option<&Path> {
        self.place.ours()?.authority.as_deref()
    }

    /// The port on which it listens.
    #[must_use]
    pub fn port(&self) -> Option<u16> {
        Some(self.place.ours()?.ports.client)
    }

    /// Forbids something to a user, where the options ask for [`acls`](KafkaOptions::acls); nobody but this user may do anything with
    /// it from then on.
    ///
    /// # Errors
    /// [`BrokerError`] where it is not ours, or does not take the rule.
    pub fn deny(&self, user: &str, denied: Denied<'_>) -> Result<(), BrokerError> {
        self.rule(user, denied, true)
    }

    /// Takes back what [`deny`](Self::deny) said.
    ///
    /// # Errors
    /// As there.
    pub fn allow(&self, user: &str, denied: Denied<'_>) -> Result<(), BrokerError> {
        self.rule(user, denied, false)
    }

    fn rule(&self, user: &str, denied: Denied<'_>, denies: bool) -> Result<(), BrokerError> {
        let ours = self.place.ours().ok_or_else(|| BrokerError::not_ours(NAME, URL))?;
        let address = format!("127.0.0.1:{}", ours.ports.internal);
        kafka_acls::rule(&address, user, denied, denies)
            .map_err(|error| BrokerError::io(NAME, format!("cannot be told what `{user}` may do"), error))
    }

    /// A prefix of topics and groups that no other test uses: the name space of one test.
    #[must_use]
    pub fn prefix(&self, test: &str) -> String {
        format!("{}.", unique(test))
    }

    /// What it is, for the table of guarantees: `Kafka 4.1.1`.
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

impl fmt::Debug for Kafka {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Kafka").field("port", &self.port()).field("directory", &self.directory()).finish()
    }
}

impl Ours {
    fn java(&self, class: &str) -> Command {
        let mut command = Command::new(&self.java);
        // Little memory, and no time for a code that is fast only after minutes.
        command
            .args([
                "-Xmx768m",
                "-XX:+UseSerialGC",
                "-XX:TieredStopAtLevel=1",
                "-Djava.awt.headless=true",
                "-cp",
            ])
            .arg(self.jars.join("*"))
            .arg(class);
        command
    }

    fn format(&mut self) -> Result<(), BrokerError> {
        let configuration = self.sandbox.path().join("server.properties");
        let mut command = self.java("kafka.tools.StorageTool");
        command.args(["format", "-t", CLUSTER, "-c"]).arg(configuration);
        for (name, password) in &self.users {
            for mechanism in ["SCRAM-SHA-256", "SCRAM-SHA-512"] {
                let user = format!("{mechanism}=[name={name},password={password}]");
                command.arg("--add-scram").arg(user);
            }
        }
        let output = command.output().map_err(|error| BrokerError::io(NAME, "cannot be started", error))?;
        if output.status.success() {
            return Ok(());
        }
        let said =
            String::from_utf8_lossy(if output.stderr.is_empty() { &output.stdout } else { &output.stderr });
        Err(BrokerError::new(
            NAME,
            BrokerErrorKind::NotReady,
            format!("`{FORMAT}` of its directory failed: {}", said.trim()),
        ))
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
        let mut command = self.java("kafka.Kafka");
        command.arg(self.sandbox.path().join("server.properties"));
        self.sandbox
            .spawn(PROCESS, &mut command)
            .map_err(|error| BrokerError::io(NAME, "cannot be started", error))?;
        let address = format!("127.0.0.1:{}", self.ports.client);
        self.sandbox.ready(NAME, PROCESS, READY, || greet(&address))
    }
}

/// An ApiVersions request of version 0, which every version answers, also to those who are not known yet.
fn greet(address: &str) -> io::Result<()> {
    const REQUEST: &[u8] = b"\x00\x00\x00\x0a\x00\x12\x00\x00\x00\x00\x00\x07\xff\xff";
    let mut stream = connect(address, Duration::from_secs(10))?;
    stream.write_all(REQUEST)?;
    let mut answer = [0; 10];
    stream.read_exact(&mut answer)?;
    if answer[4..] != [0, 0, 0, 7, 0, 0] {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "it does not answer as Kafka does"));
    }
    Ok(())
}

/// Where the jars are.
fn jars(home: Option<&Path>) -> Option<PathBuf> {
    let variable = |name: &str| std::env::var_os(name).map(PathBuf::from);
    let cache = variable("XDG_CACHE_HOME").or_else(|| Some(variable("HOME")?.join(".cache")));
    let homes = [
        home.map(Path::to_owned),
        variable(HOME),
        cache.map(|cache| cache.join("msgkit/kafka")),
        Some(PathBuf::from("/opt/kafka")),
    ];
    let homes = homes.into_iter().flatten().map(|home| home.join("libs"));
    homes.into_iter().find(|libs| jar(libs).is_some())
}

/// The version in the name of the broker's jar: `kafka_2.13-4.1.1.jar`.
fn jar(libs: &Path) -> Option<String> {
    fs::read_dir(libs).ok()?.flatten().find_map(|file| {
        let name = file.file_name().into_string().ok()?;
        let (_, version) = name.strip_prefix("kafka_")?.strip_suffix(".jar")?.split_once('-')?;
        Some(version.to_owned())
    })
}

fn version(libs: &Path) -> String {
    jar(libs).map_or_else(|| NAME.to_owned(), |version| format!("{NAME} {version}"))
}

/// As it stands between quotation marks in a file in which every backslash is written twice.
fn quoted(text: &str) -> String {
    text.replace('\\', "\\\\").replace('"', "\\\"").replace('\\', "\\\\")
}

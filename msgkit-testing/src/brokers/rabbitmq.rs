//! RabbitMQ, for AMQP 0-9-1.

use std::fmt;
use std::fs::{self, Permissions};
use std::io::{self, Read, Write};
use std::net::TcpStream;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;
use std::thread;
use std::time::Duration;

use msgkit::transport::TransportUrl;
use serde_json::Value;

use super::certificates::Certificates;
use super::error::{BrokerError, BrokerErrorKind};
use super::http;
use super::place::{Launched, Place, connect, on_free_ports};
use super::sandbox::Sandbox;
use super::system::{escape, find, free_ports, unique};

const NAME: &str = "RabbitMQ";
const URL: &str = "MSGKIT_RABBITMQ_URL";
const API_URL: &str = "MSGKIT_RABBITMQ_API_URL";
/// Debian's `rabbitmq-server` on the search path changes to another user and its directories; this one does not.
const PLACES: [&str; 1] = ["/usr/lib/rabbitmq/bin"];
const NODE: &str = "rabbitmq";
const EPMD: &str = "epmd";
/// It takes 6 seconds on two idle cores, 24 on busy ones.
const READY: Duration = Duration::from_secs(120);
const STOP: Duration = Duration::from_secs(60);

/// A RabbitMQ broker with its management plugin, which ends when it is dropped.
///
/// Starting one takes seconds: use [`shared`](Self::shared) with a [`vhost`](Self::vhost) for each test, and one of your
/// own where the test kills it.
pub struct RabbitMq {
    place: Place<Ours>,
    url: String,
    api: Option<Api>,
}

struct Ours {
    sandbox: Sandbox,
    server: PathBuf,
    epmd: PathBuf,
    ports: Ports,
    certificates: Option<Certificates>,
}

#[derive(Clone, Copy)]
struct Ports {
    amqp: u16,
    tls: u16,
    management: u16,
    epmd: u16,
    distribution: u16,
}

impl RabbitMq {
    /// The broker that `MSGKIT_RABBITMQ_URL` names, with its management API at `MSGKIT_RABBITMQ_API_URL`
    /// (`http://user:password@host:15672`); or a new one.
    ///
    /// # Errors
    /// [`BrokerError`] where RabbitMQ is not installed, does not come up, or does not answer.
    pub fn start() -> Result<Self, BrokerError> {
        match std::env::var(URL) {
            Ok(url) => Self::running(url),
            Err(_) => Self::launch(),
        }
    }

    /// The broker that all tests of this process have in common, started by the first who asks. It ends with the
    /// process.
    ///
    /// # Errors
    /// As [`start`](Self::start); the same for all who ask.
    pub fn shared() -> Result<&'static Self, BrokerError> {
        static SHARED: OnceLock<Result<RabbitMq, BrokerError>> = OnceLock::new();
        SHARED.get_or_init(Self::start).as_ref().map_err(Clone::clone)
    }

    fn running(url: String) -> Result<Self, BrokerError> {
        let address = parse(URL, &url)?.authority(5672);
        greet(&address).map_err(|error| {
            BrokerError::io(NAME, format!("nobody speaks AMQP at {address}, which {URL} names"), error)
        })?;
        let api = match std::env::var(API_URL) {
            Ok(url) => {
                let parsed = parse(API_URL, &url)?;
                Some(Api { address: parsed.authority(15672), user: parsed.user, password: parsed.password })
            }
            Err(_) => None,
        };
        Ok(Self { place: Place::Theirs, url, api })
    }

    /// One of our own, whatever runs already.
    ///
    /// # Errors
    /// [`BrokerError`] where RabbitMQ is not installed or does not come up; then with the end of its log.
    pub fn launch() -> Result<Self, BrokerError> {
        let program = Path::new("rabbitmq-server");
        let server = find(program, &PLACES, |file| file.with_file_name("rabbitmq-env").is_file())
            .ok_or_else(|| BrokerError::missing(NAME, program))?;
        let program = Path::new("epmd");
        let epmd = find(program, &[], |_| true).ok_or_else(|| BrokerError::missing(NAME, program))?;
        on_free_ports("eaddrinuse", || Self::launch_once(&server, &epmd))
    }

    fn launch_once(server: &Path, epmd: &Path) -> Result<Self, BrokerError> {
        let sandbox = Sandbox::new("rabbitmq")
            .map_err(|error| BrokerError::io(NAME, "cannot make its directory", error))?;
        let [amqp, tls, management, epmd_port, distribution] =
            free_ports().map_err(|error| BrokerError::io(NAME, "no free port", error))?;
        let ports = Ports { amqp, tls, management, epmd: epmd_port, distribution };
        let make = || Certificates::make(NAME, sandbox.path());
        let certificates = Certificates::possible().then(make).transpose()?;
        let mut ours =
            Ours { sandbox, server: server.to_owned(), epmd: epmd.to_owned(), ports, certificates };
        ours.write().map_err(|error| BrokerError::io(NAME, "cannot write its configuration", error))?;
        ours.run()?;
        Ok(Self {
            place: Place::Ours(Box::new(ours)),
            url: format!("amqp://guest:guest@127.0.0.1:{amqp}"),
            api: Some(Api::local(management)),
        })
    }

    /// `amqp://user:password@host:port`, without a virtual host: the default one, `/`.
    #[must_use]
    pub fn url(&self) -> &str {
        &self.url
    }

    /// `amqps://user:password@localhost:port`, where `openssl` is there to make a certificate.
    #[must_use]
    pub fn tls_url(&self) -> Option<String> {
        let ours = self.place.ours()?;
        ours.certificates.as_ref().map(|_| format!("amqps://guest:guest@localhost:{}", ours.ports.tls))
    }

    /// The PEM file of the authority that signed its certificate.
    #[must_use]
    pub fn authority(&self) -> Option<&Path> {
        Some(&self.place.ours()?.certificates.as_ref()?.authority)
    }

    /// The port that AMQP is spoken on.
    #[must_use]
    pub fn port(&self) -> Option<u16> {
        Some(self.place.ours()?.ports.amqp)
    }

    /// The management API's `http://user:password@host:port`, without a path.
    #[must_use]
    pub fn api_url(&self) -> Option<String> {
        let Api { address, user, password } = self.api.as_ref()?;
        Some(format!("http://{}:{}@{address}", escape(user), escape(password)))
    }

    /// What it is, for the table of guarantees: `RabbitMQ 3.10.8`.
    #[must_use]
    pub fn version(&self) -> String {
        let overview = self.api("GET", "/api/overview", None).unwrap_or_default();
        match overview["rabbitmq_version"].as_str() {
            Some(version) => format!("{NAME} {version}"),
            None => NAME.to_owned(),
        }
    }

    /// The directory of its configuration, data and log.
    #[must_use]
    pub fn directory(&self) -> Option<&Path> {
        self.place.directory()
    }

    /// A new virtual host that nobody else uses, with `test` in its name: the name space of one test.
    ///
    /// # Errors
    /// [`BrokerError`] where the management API is unknown or refuses.
    pub fn vhost(&self, test: &str) -> Result<VirtualHost, BrokerError> {
        let api = self.management()?.clone();
        let name = unique(test);
        api.call("PUT", &format!("/api/vhosts/{name}"), None)?;
        let url = parse(URL, &self.url)?;
        let host = VirtualHost { url: format!("{}/{name}", url.without_path), name, api };
        let permissions = r#"{"configure":".*","write":".*","read":".*"}"#;
        let path = format!("/api/permissions/{}/{}", host.name, escape(&url.user));
        host.api.call("PUT", &path, Some(permissions))?;
        Ok(host)
    }

    /// Breaks every connection to the broker, as its operator does (320 CONNECTION_FORCED). Answers how many.
    ///
    /// The broker knows a connection by the time that the client has opened it, or a moment later.
    ///
    /// # Errors
    /// [`BrokerError`] where the management API is unknown or refuses.
    pub fn close_connections(&self) -> Result<usize, BrokerError> {
        self.management()?.close_connections("/api/connections")
    }

    /// A request to the management API, as `("GET", "/api/queues", None)`. An empty answer is `null`.
    ///
    /// # Errors
    /// [`BrokerError`] where the API is unknown, or answers with a status other than 2xx.
    pub fn api(&self, method: &str, path: &str, body: Option<&str>) -> Result<Value, BrokerError> {
        self.management()?.call(method, path, body)
    }

    /// Asks it to end (SIGTERM), and waits for that: 6 seconds.
    ///
    /// # Errors
    /// [`BrokerError`] where it is not ours, or had to be killed.
    pub fn stop(&mut self) -> Result<(), BrokerError> {
        self.place.stop()
    }

    /// Waits until the names of all queues that were declared before are on disk, some two seconds: see [`kill`](Self::kill).
    /// Nothing tells that they are.
    ///
    /// # Errors
    /// [`BrokerError`] where the API is unknown, or does not answer.
    pub fn names_written(&self) -> Result<(), BrokerError> {
        // Short waits, with a word of the broker's each: a machine that stands still takes one of them.
        for _ in 0..20 {
            thread::sleep(Duration::from_millis(100));
            self.api("GET", "/api/overview", None)?;
        }
        Ok(())
    }

    /// Kills it (SIGKILL).
    ///
    /// It writes the name of a new quorum queue to disk half a second after it has confirmed it. One that was declared
    /// within the last second may come back without its messages and never elect a leader:
    /// [`names_written`](Self::names_written) waits for that.
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

    fn management(&self) -> Result<&Api, BrokerError> {
        self.api.as_ref().ok_or_else(|| {
            BrokerError::new(
                NAME,
                BrokerErrorKind::NotOurs,
                format!("the broker of {URL} has no management API known; set {API_URL} as well"),
            )
        })
    }
}

impl fmt::Debug for RabbitMq {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RabbitMq").field("port", &self.port()).field("directory", &self.directory()).finish()
    }
}

/// A virtual host for one test; deleted, with what is in it, when it is dropped.
pub struct VirtualHost {
    name: String,
    url: String,
    api: Api,
}

impl VirtualHost {
    /// Its name, which is the given one and something that makes it unique.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// `amqp://user:password@host:port/name`.
    #[must_use]
    pub fn url(&self) -> &str {
        &self.url
    }

    /// Breaks every connection to it, as its operator does (320 CONNECTION_FORCED). Answers how many.
    ///
    /// # Errors
    /// [`BrokerError`] where the management API refuses.
    pub fn close_connections(&self) -> Result<usize, BrokerError> {
        self.api.close_connections(&format!("/api/vhosts/{}/connections", self.name))
    }
}

impl fmt::Debug for VirtualHost {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("VirtualHost").field("name", &self.name).finish_non_exhaustive()
    }
}

impl Drop for VirtualHost {
    fn drop(&mut self) {
        // A broker that was killed meanwhile has taken it along.
        let _ = self.api.call("DELETE", &format!("/api/vhosts/{}", self.name), None);
    }
}

/// The management API.
#[derive(Clone)]
struct Api {
    address: String,
    user: String,
    password: String,
}

impl Api {
    fn local(port: u16) -> Self {
        Self { address: format!("127.0.0.1:{port}"), user: "guest".to_owned(), password: "guest".to_owned() }
    }

    fn call(&self, method: &str, path: &str, body: Option<&str>) -> Result<Value, BrokerError> {
        let answer = http::request(&self.address, (&self.user, &self.password), method, path, body)
            .map_err(|error| BrokerError::io(NAME, format!("{method} {path} is not answered"), error))?;
        let refused = |why: &str| {
            let message = format!("{method} {path}: {} {why}", answer.status);
            BrokerError::new(NAME, BrokerErrorKind::Refused, message)
        };
        match answer.status {
            200..=299 if answer.body.trim().is_empty() => Ok(Value::Null),
            200..=299 => serde_json::from_str(&answer.body).map_err(|error| refused(&error.to_string())),
            _ => Err(refused(&answer.body)),
        }
    }

    fn close_connections(&self, path: &str) -> Result<usize, BrokerError> {
        let connections = self.call("GET", path, None)?;
        let mut closed = 0;
        for name in connections.as_array().into_iter().flatten().filter_map(|one| one["name"].as_str()) {
            let path = format!("/api/connections/{}", escape(name));
            let answer = http::request(&self.address, (&self.user, &self.password), "DELETE", &path, None)
                .map_err(|error| BrokerError::io(NAME, format!("DELETE {path} is not answered"), error))?;
            // Another status says that it went by itself meanwhile.
            closed += usize::from((200..300).contains(&answer.status));
        }
        Ok(closed)
    }
}

impl Ours {
    fn write(&self) -> io::Result<()> {
        let directory = self.sandbox.path();
        let home = directory.join("home");
        for name in ["home", "mnesia", "log"] {
            fs::create_dir(directory.join(name))?;
        }
        // Erlang refuses a cookie that others can read.
        let cookie = home.join(".erlang.cookie");
        fs::write(&cookie, format!("{:016X}", fastrand::u64(..)))?;
        fs::set_permissions(&cookie, Permissions::from_mode(0o400))?;
        fs::write(
            directory.join("enabled_plugins"),
            "[rabbitmq_management,rabbitmq_consistent_hash_exchange,rabbitmq_auth_mechanism_ssl].\n",
        )?;
        let Ports { amqp, tls, management, .. } = self.ports;
        let tls = self.certificates.as_ref().map_or_else(String::new, |files| {
            format!(
                "listeners.ssl.1 = 127.0.0.1:{tls}\n\
                 ssl_options.cacertfile = {}\n\
                 ssl_options.certfile = {}\n\
                 ssl_options.keyfile = {}\n\
                 ssl_options.verify = verify_peer\n\
                 ssl_options.fail_if_no_peer_cert = false\n\
                 auth_mechanisms.1 = PLAIN\n\
                 auth_mechanisms.2 = AMQPLAIN\n\
                 auth_mechanisms.3 = EXTERNAL\n\
                 ssl_cert_login_from = common_name\n",
                files.authority.display(),
                files.certificate.display(),
                files.key.display(),
            )
        });
        fs::write(
            directory.join("rabbitmq.conf"),
            format!(
                "listeners.tcp.1 = 127.0.0.1:{amqp}\n\
                 management.tcp.ip = 127.0.0.1\n\
                 management.tcp.port = {management}\n\
                 log.console = true\n\
                 log.file = false\n\
                 disk_free_limit.absolute = 50MB\n\
                 default_user = guest\n\
                 default_pass = guest\n\
                 collect_statistics_interval = 1000\n\
                 consumer_timeout = 60000\n\
                 {tls}"
            ),
        )
    }
}

impl Launched for Ours {
    const NAME: &'static str = NAME;
    const URL: &'static str = URL;
    const PROCESS: &'static str = NODE;
    const STOP: Duration = STOP;

    fn sandbox(&self) -> &Sandbox {
        &self.sandbox
    }

    fn sandbox_mut(&mut self) -> &mut Sandbox {
        &mut self.sandbox
    }

    fn run(&mut self) -> Result<(), BrokerError> {
        let Ports { amqp, management, epmd, distribution, .. } = self.ports;
        let directory = self.sandbox.path().to_owned();
        // Without one of its own the node leaves a daemon behind, which outlives it.
        if self.sandbox.ended(EPMD).is_some() {
            let mut command = Command::new(&self.epmd);
            command.args(["-port", &epmd.to_string(), "-address", "127.0.0.1"]);
            self.sandbox
                .spawn(EPMD, &mut command)
                .map_err(|error| BrokerError::io(NAME, "`epmd` cannot be started", error))?;
            let connect = || TcpStream::connect(("127.0.0.1", epmd)).map(drop);
            self.sandbox.ready(NAME, EPMD, Duration::from_secs(20), connect)?;
        }
        let mut command = Command::new(&self.server);
        let arguments =
            "-kernel inet_dist_use_interface {127,0,0,1} +S 2:2 +sbwt none +sbwtdcpu none +sbwtdio none";
        for (name, _) in std::env::vars_os() {
            // The settings of a broker that runs on this machine are not ours.
            if name.to_string_lossy().starts_with("RABBITMQ_") {
                command.env_remove(name);
            }
        }
        command
            .env("HOME", directory.join("home"))
            .env("ERL_EPMD_PORT", epmd.to_string())
            .env("ERL_EPMD_ADDRESS", "127.0.0.1")
            .env("RABBITMQ_NODENAME", "msgkit@localhost")
            .env("RABBITMQ_DIST_PORT", distribution.to_string())
            .env("RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS", arguments)
            .env("RABBITMQ_CONF_ENV_FILE", "/dev/null");
        for (name, file) in [
            ("RABBITMQ_MNESIA_BASE", "mnesia"),
            ("RABBITMQ_LOG_BASE", "log"),
            ("RABBITMQ_SCHEMA_DIR", "schema"),
            ("RABBITMQ_GENERATED_CONFIG_DIR", "config"),
            ("RABBITMQ_CONFIG_FILE", "rabbitmq.conf"),
            ("RABBITMQ_ENABLED_PLUGINS_FILE", "enabled_plugins"),
            ("RABBITMQ_PID_FILE", "pid"),
        ] {
            command.env(name, directory.join(file));
        }
        self.sandbox
            .spawn(NODE, &mut command)
            .map_err(|error| BrokerError::io(NAME, "cannot be started", error))?;
        let api = Api::local(management);
        let address = format!("127.0.0.1:{amqp}");
        self.sandbox.ready(NAME, NODE, READY, || {
            greet(&address)?;
            // Tests make their virtual hosts with it.
            api.call("GET", &format!("/api/health/checks/port-listener/{amqp}"), None)
                .map(drop)
                .map_err(io::Error::other)
        })
    }
}

/// The protocol's header, which the broker answers with a method frame (AMQP 0-9-1, section 2.2.4).
fn greet(address: &str) -> io::Result<()> {
    let mut stream = connect(address, Duration::from_secs(5))?;
    stream.write_all(b"AMQP\x00\x00\x09\x01")?;
    let mut answer = [0; 7];
    stream.read_exact(&mut answer)?;
    if answer[0] != 1 {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "it does not answer with AMQP 0-9-1"));
    }
    Ok(())
}

/// The parts of an address that are needed here.
struct Parsed {
    user: String,
    password: String,
    address: String,
    without_path: String,
}

fn parse(variable: &str, url: &str) -> Result<Parsed, BrokerError> {
    let parsed = TransportUrl::parse(url)
        .map_err(|error| BrokerError::new(NAME, BrokerErrorKind::Refused, format!("{variable}: {error}")))?;
    let user = parsed.user().unwrap_or("guest").to_owned();
    let password = parsed.password().unwrap_or("guest").to_owned();
    let address = parsed.address().split('/').next().unwrap_or_default().to_owned();
    let without_path = format!("{}://{}:{}@{address}", parsed.scheme(), escape(&user), escape(&password));
    Ok(Parsed { user, password, address, without_path })
}

impl Parsed {
    fn authority(&self, port: u16) -> String {
        if self.address.contains(':') { self.address.clone() } else { format!("{}:{port}", self.address) }
    }
}

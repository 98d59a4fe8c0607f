//! The real program on real brokers by `--config config/mqtt-amqp.toml` alone: MQTT for `device.>`, RabbitMQ for the rest. A test
//! without its broker is *not run*; with `MSGKIT_REQUIRE_BROKERS=1` that is a failure.
#![allow(clippy::unwrap_used, clippy::expect_used)]

#[path = "../system/platform.rs"]
mod platform;
#[path = "../system/story.rs"]
mod story;

use std::io::{BufRead as _, BufReader, Write as _};
use std::net::TcpStream;
use std::process::{Command, ExitCode};
use std::sync::{LazyLock, OnceLock};
use std::time::Duration;

use libtest_mimic::{Arguments, Completion, Failed, Trial};
use msgkit::transport::TransportUrl;
use msgkit_testing::brokers::{BrokerError, BrokerErrorKind, Mosquitto, RabbitMq, VirtualHost};
use platform::{Launch, Platform};
use story::{Posts, REPLAYED, Totals, comes_to, until};

const CONFIG: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/config/mqtt-amqp.toml");

fn main() -> ExitCode {
    let tests = vec![
        test("check_says_how_it_would_run_without_a_broker", check),
        test("one_process_killed_comes_to_the_totals_of_memory", one_process),
        test("each_component_killed_in_turn_comes_to_the_totals_of_memory", each_component),
        test("a_plain_device_is_seen_on_the_dashboard_and_in_storage", plain_device),
    ];
    libtest_mimic::run(&Arguments::from_args(), tests).exit_code()
}

fn test(name: &str, body: fn() -> Result<(), BrokerError>) -> Trial {
    Trial::ignorable_test(name, move || match body() {
        Ok(()) => Ok(Completion::Completed),
        Err(error) => {
            let required = std::env::var("MSGKIT_REQUIRE_BROKERS").is_ok_and(|value| value == "1");
            if error.kind() == BrokerErrorKind::Missing && !required {
                return Ok(Completion::ignored_with(format!("not run: {error}")));
            }
            Err(Failed::from(error.to_string()))
        }
    })
}

/// Nothing here restarts it, so it need not write all it has with every message.
fn mosquitto() -> Result<&'static Mosquitto, BrokerError> {
    static BROKER: OnceLock<Result<Mosquitto, BrokerError>> = OnceLock::new();
    if std::env::var("MSGKIT_MOSQUITTO_URL").is_ok() {
        return Mosquitto::shared();
    }
    let start = || Mosquitto::options().setting("autosave_on_changes false").start();
    BROKER.get_or_init(start).as_ref().map_err(Clone::clone)
}

/// What both runs must come to.
static WANTED: LazyLock<Totals> = LazyLock::new(story::in_memory);

/// A place of its own on both brokers, and how the program is started there.
struct Place {
    launch: Launch,
    prefix: String,
    folder: tempfile::TempDir,
    _rabbit: VirtualHost,
}

impl Place {
    fn new(test: &str) -> Result<Self, BrokerError> {
        let (mosquitto, rabbit) = (mosquitto()?, RabbitMq::shared()?.vhost(test)?);
        let (prefix, folder) = (mosquitto.prefix(test), tempfile::tempdir().unwrap());
        let launch = Launch::default()
            .with(&["--config", CONFIG, "--data", folder.path().to_str().unwrap()])
            .configured("TRANSPORTS__EDGE__URL", mosquitto.url())
            .configured("TRANSPORTS__EDGE__MQTT__PREFIX", &prefix)
            .configured("TRANSPORTS__EDGE__MQTT__CLIENT_ID", &prefix)
            .configured("TRANSPORTS__BACKBONE__URL", rabbit.url());
        Ok(Self { launch, prefix, folder, _rabbit: rabbit })
    }

    /// With the story's measurements, so fast.
    fn told(&self, speed: &str) -> Launch {
        self.launch.clone().with(&["--speed", speed, "--readings", &REPLAYED.to_string()])
    }
}

fn check() -> Result<(), BrokerError> {
    let output = Command::new(env!("CARGO_BIN_EXE_device-platform"))
        .args(["check", "--config", CONFIG])
        .output()
        .unwrap();
    let printed = String::from_utf8(output.stdout).unwrap();
    let (_, processing) = printed.split_once("processing · group processing").unwrap();
    let (processing, _) = processing.split_once("\nservice ").unwrap();
    assert!(processing.contains("from    edge (mqtt)"), "{printed}");
    assert!(processing.contains("edge: dead letters are kept at backbone"), "{printed}");
    assert!(printed.contains("from    backbone (amqp)"), "{printed}");
    assert!(printed.ends_with("6 components, no warnings\n"), "{printed}");
    Ok(())
}

fn one_process() -> Result<(), BrokerError> {
    let place = Place::new("one")?;
    let launch = place.told("2000");
    let store = story::store(place.folder.path());
    let mut posts = Posts::new();
    let first = launch.start();
    posts.some(20, &first);
    first.kill();
    let second = launch.start();
    posts.rest(&second);
    comes_to(&store, &WANTED);
    Ok(())
}

fn each_component() -> Result<(), BrokerError> {
    let place = Place::new("each")?;
    story::killed_in_turn(place.folder.path(), &place.told("600"), &WANTED);
    Ok(())
}

/// Publishes as a shell does.
fn mosquitto_pub(place: &Place, topic: &str, payload: &str) {
    let url = TransportUrl::parse(mosquitto().unwrap().url()).unwrap();
    let (host, port) = url.address().rsplit_once(':').unwrap_or((url.address(), "1883"));
    let topic = format!("{}/{topic}", place.prefix);
    let mut command = Command::new("mosquitto_pub");
    command.args(["-h", host, "-p", port, "-q", "1", "-t", &topic, "-m", payload]);
    if let (Some(user), Some(password)) = (url.user(), url.password()) {
        command.args(["-u", user, "-P", password]);
    }
    let status = command.status().expect("mosquitto_pub comes with the Debian package mosquitto-clients");
    assert!(status.success());
}

/// The events that a dashboard is told, line by line.
fn dashboard(platform: &Platform) -> impl Iterator<Item = String> + use<> {
    let mut stream = TcpStream::connect(platform.address()).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(120))).unwrap();
    write!(stream, "GET /api/v1/events HTTP/1.1\r\nHost: {}\r\n\r\n", platform.address()).unwrap();
    let mut lines = BufReader::new(stream).lines().map(Result::unwrap);
    // The head has come, so it listens.
    assert!(lines.by_ref().any(|line| line.is_empty()));
    lines
}

fn plain_device() -> Result<(), BrokerError> {
    let place = Place::new("plain")?;
    let platform = place.launch.clone().with(&["--readings", "0"]).start();
    let mut events = dashboard(&platform);
    let plain = r#"{"temperature": 21.5, "humidity": 40, "light": 300, "co2": 600}"#;
    mosquitto_pub(&place, "device/AA:BB/reading", plain);
    assert!(
        events.any(|line| line.contains("AA:BB") && line.contains("\"co2\":600")),
        "the dashboard is not told"
    );
    let (status, rows) = platform.request("GET", "/api/v1/readings?device_id=AA:BB", "").unwrap();
    assert_eq!((status, rows.as_array().unwrap().len()), (200, 1));
    assert_eq!((&rows[0]["temperature"], &rows[0]["co2"]), (&21.5.into(), &600.0.into()));
    // It is stored as any other is: under a trace with every hop, and its aggregates are there.
    let (_, windows) = platform.request("GET", "/api/v1/aggregates?device_id=AA:BB&window=1m", "").unwrap();
    assert_eq!(windows[0]["count"], 1);
    // What cannot be read is visible, bytes and all.
    mosquitto_pub(&place, "device/AA:BB/reading", r#"{"temperature": "warm"}"#);
    until("the unreadable reading is a dead letter", || {
        let (_, letters) = platform.request("GET", "/api/v1/dead-letters", "").unwrap();
        let seen = letters[0]["kind"] == "decode" && letters[0]["payload"] == r#"{"temperature": "warm"}"#;
        if seen { Ok(()) } else { Err(letters.to_string()) }
    });
    Ok(())
}

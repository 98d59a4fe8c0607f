//! Devices on MQTT, whatever the rest is on.

use std::io::{BufRead as _, BufReader, Write as _};
use std::net::TcpStream;
use std::process::Command;
use std::sync::OnceLock;
use std::time::Duration;

use libtest_mimic::Trial;
use msgkit::transport::TransportUrl;
use msgkit_testing::brokers::{BrokerError, Mosquitto};

use crate::platform::{self, Launch, Platform, answered};
use crate::setup::{Apart, Setup};
use crate::story::until;

/// Nothing here restarts it, so it need not write all it has with every message.
fn mosquitto() -> Result<&'static Mosquitto, BrokerError> {
    static BROKER: OnceLock<Result<Mosquitto, BrokerError>> = OnceLock::new();
    if std::env::var("MSGKIT_MOSQUITTO_URL").is_ok() {
        return Mosquitto::shared();
    }
    let start = || Mosquitto::options().setting("autosave_on_changes false").start();
    BROKER.get_or_init(start).as_ref().map_err(Clone::clone)
}

/// The tests of a configuration that has its devices there.
pub(crate) fn tests(setup: Setup) -> Vec<Trial> {
    let mut tests = setup.tests();
    tests.push(setup.test("check_shows_the_devices_and_where_their_dead_letters_are", check));
    tests.push(setup.test("a_plain_device_is_seen_on_the_dashboard_and_in_storage", plain_device));
    tests
}

pub(crate) fn apart(test: &str, launch: Launch) -> Result<Apart, BrokerError> {
    let mosquitto = mosquitto()?;
    let prefix = mosquitto.prefix(test);
    let launch = launch
        .configured("TRANSPORTS__EDGE__URL", mosquitto.url())
        .configured("TRANSPORTS__EDGE__MQTT__PREFIX", &prefix)
        .configured("TRANSPORTS__EDGE__MQTT__CLIENT_ID", &prefix);
    Ok(Apart::new(launch, prefix))
}

/// Publishes as a shell does.
fn mosquitto_pub(prefix: &str, topic: &str, payload: &str) {
    let url = TransportUrl::parse(mosquitto().unwrap().url()).unwrap();
    let (host, port) = url.address().rsplit_once(':').unwrap_or((url.address(), "1883"));
    let topic = format!("{prefix}/{topic}");
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

fn check(setup: Setup) -> Result<(), BrokerError> {
    let (_, printed, _) = platform::check(&setup.path());
    let (_, processing) = printed.split_once("processing · group processing").unwrap();
    let (processing, _) = processing.split_once("\nservice ").unwrap();
    assert!(processing.contains("from    edge (mqtt)"), "{printed}");
    assert!(processing.contains("edge: dead letters are kept at backbone"), "{printed}");
    Ok(())
}

/// A device that knows nothing of msgkit.
fn plain_device(setup: Setup) -> Result<(), BrokerError> {
    let place = setup.place("plain")?;
    let platform = place.apart.launch.clone().with(&["--readings", "0"]).start();
    let publish = |payload: &str| mosquitto_pub(&place.apart.prefix, "device/AA:BB/reading", payload);
    let mut events = dashboard(&platform);
    publish(r#"{"temperature": 21.5, "humidity": 40, "light": 300, "co2": 600}"#);
    assert!(
        events.any(|line| line.contains("AA:BB") && line.contains("\"co2\":600")),
        "the dashboard is not told"
    );
    let rows = answered(platform.address(), "/api/v1/readings?device_id=AA:BB");
    assert_eq!(rows.as_array().unwrap().len(), 1);
    assert_eq!((&rows[0]["temperature"], &rows[0]["co2"]), (&21.5.into(), &600.0.into()));
    // It is stored as any other is: under a trace with every hop, and its aggregates are there.
    let windows = answered(platform.address(), "/api/v1/aggregates?device_id=AA:BB&window=1m");
    assert_eq!(windows[0]["count"], 1);
    // What cannot be read is visible, bytes and all.
    publish(r#"{"temperature": "warm"}"#);
    until("the unreadable reading is a dead letter", || {
        let (_, letters) = platform.request("GET", "/api/v1/dead-letters", "").unwrap();
        let seen = letters[0]["kind"] == "decode" && letters[0]["payload"] == r#"{"temperature": "warm"}"#;
        if seen { Ok(()) } else { Err(letters.to_string()) }
    });
    Ok(())
}

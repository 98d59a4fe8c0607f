//! Start, stop, kill, restart, and what is left behind: nothing.

use std::io::{BufRead, BufReader, Write};
use std::net::TcpStream;
use std::panic;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use libtest_mimic::Arguments;
use msgkit_testing::brokers::{BrokerError, BrokerErrorKind, Kafka, Mosquitto, RabbitMq};
use msgkit_testing::conformance::NotRun;

use super::harness::test;
use super::wire;

/// Makes this binary the process that is killed, or one that finds a broker running.
const VICTIM: &str = "MSGKIT_BROKERS_VICTIM";

pub(crate) fn main() -> ExitCode {
    if let Ok(broker) = std::env::var(VICTIM) {
        return if broker.ends_with("guest") { guest(&broker) } else { victim(&broker) };
    }
    let tests = vec![
        test("mosquitto::starts_and_leaves_nothing_behind", mosquitto_starts),
        test("mosquitto::keeps_messages_over_sigkill_on_the_same_port", mosquitto_survives),
        test("mosquitto::lets_in_only_its_users", mosquitto_users),
        test("mosquitto::has_a_certificate_for_localhost", mosquitto_tls),
        test("mosquitto::is_the_one_that_the_environment_names", mosquitto_running),
        test("mosquitto::says_why_it_does_not_come_up", mosquitto_broken),
        test("mosquitto::ends_with_a_test_that_panics", mosquitto_panic),
        test("mosquitto::ends_with_a_killed_process", || dies_with_its_process("mosquitto")),
        test("rabbitmq::speaks_amqp_in_a_new_virtual_host", rabbitmq_vhost),
        test("rabbitmq::has_a_certificate_for_localhost", rabbitmq_tls),
        test("rabbitmq::is_the_one_that_the_environment_names", rabbitmq_running),
        test("rabbitmq::breaks_the_connections_of_one_virtual_host", rabbitmq_close),
        test("rabbitmq::keeps_queues_over_sigkill_on_the_same_port", rabbitmq_survives),
        test("rabbitmq::ends_with_a_killed_process", || dies_with_its_process("rabbitmq")),
        test("kafka::comes_up_again_on_the_same_port_and_leaves_nothing", kafka_survives),
        test("kafka::says_why_it_does_not_come_up", kafka_broken),
        test("kafka::is_the_one_that_the_environment_names", kafka_running),
        test("kafka::ends_with_a_killed_process", || dies_with_its_process("kafka")),
        test("missing::says_what_installs_it", missing),
    ];
    libtest_mimic::run(&Arguments::from_args(), tests).exit_code()
}

fn own_mosquitto() -> Result<Mosquitto, BrokerError> {
    Mosquitto::options().start()
}

fn mosquitto_starts() -> Result<(), BrokerError> {
    let mut broker = own_mosquitto()?;
    let port = broker.port().unwrap();
    assert_eq!(broker.url(), format!("mqtt://127.0.0.1:{port}"));
    assert!(broker.version().starts_with("Mosquitto 2."), "{}", broker.version());
    assert_eq!(wire::mqtt(&mut wire::connect(port), "somebody", None, true), (false, 0));
    broker.stop()?;
    assert!(refused(port));
    broker.restart()?;
    assert_eq!(wire::mqtt(&mut wire::connect(port), "somebody", None, true), (false, 0));
    let directory = broker.directory().unwrap().to_owned();
    drop(broker);
    assert!(refused(port));
    assert!(!directory.exists());
    Ok(())
}

fn mosquitto_survives() -> Result<(), BrokerError> {
    let mut broker = own_mosquitto()?;
    let port = broker.port().unwrap();
    let mut reader = wire::connect(port);
    wire::mqtt(&mut reader, "reader", None, false);
    wire::mqtt_subscribe(&mut reader, "orders");
    drop(reader);
    let mut writer = wire::connect(port);
    wire::mqtt(&mut writer, "writer", None, true);
    wire::mqtt_publish(&mut writer, "orders", "queued", false);
    wire::mqtt_publish(&mut writer, "state", "retained", true);
    wire::mqtt_ping(&mut writer);

    broker.kill()?;
    assert!(refused(port));
    broker.restart()?;

    let mut reader = wire::connect(port);
    assert_eq!(wire::mqtt(&mut reader, "reader", None, false), (true, 0));
    assert_eq!(wire::mqtt_receive(&mut reader), "queued");
    wire::mqtt_subscribe(&mut reader, "state");
    assert_eq!(wire::mqtt_receive(&mut reader), "retained");
    Ok(())
}

fn mosquitto_users() -> Result<(), BrokerError> {
    let broker = Mosquitto::options().user("svc", "s/v").user("dev", "devpw").websocket().start()?;
    let port = broker.port().unwrap();
    assert_eq!(broker.url(), format!("mqtt://svc:s%2Fv@127.0.0.1:{port}"));
    assert_eq!(broker.url_as("dev").unwrap(), format!("mqtt://dev:devpw@127.0.0.1:{port}"));
    let code = |user| wire::mqtt(&mut wire::connect(port), "c", user, true).1;
    assert_eq!(code(Some(("svc", "s/v"))), 0);
    assert_eq!(code(Some(("dev", "devpw"))), 0);
    assert_eq!(code(Some(("dev", "s/v"))), 5);
    assert_eq!(code(None), 5);
    assert!(broker.websocket_url().unwrap().starts_with("ws://svc:s%2Fv@127.0.0.1:"));
    assert!(!format!("{broker:?} {:?}", Mosquitto::options().user("a", "secret")).contains("secret"));
    Ok(())
}

fn mosquitto_tls() -> Result<(), BrokerError> {
    let broker = Mosquitto::options().tls().start()?;
    handshake(&broker.tls_url().unwrap(), broker.authority().unwrap());
    // The plain listener is still there.
    assert_eq!(wire::mqtt(&mut wire::connect(broker.port().unwrap()), "c", None, true).1, 0);
    Ok(())
}

fn rabbitmq_tls() -> Result<(), BrokerError> {
    let broker = RabbitMq::shared()?;
    if let (Some(url), Some(authority)) = (broker.tls_url(), broker.authority()) {
        handshake(&url, authority);
    }
    Ok(())
}

/// TLS with the host and the port of the address, verified as a client does.
fn handshake(url: &str, authority: &Path) {
    let place = url.rsplit(['/', '@']).next().unwrap();
    let (host, _) = place.split_once(':').unwrap();
    let output = Command::new("openssl")
        .args(["s_client", "-connect", place, "-verify_hostname", host, "-verify_return_error", "-CAfile"])
        .arg(authority)
        .stdin(Stdio::null())
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success() && text.contains("Verify return code: 0 (ok)"), "{text}");
}

fn mosquitto_broken() -> Result<(), BrokerError> {
    let started = Instant::now();
    let error = match Mosquitto::options().setting("no_such_setting 1").start() {
        Err(error) if error.kind() == BrokerErrorKind::Missing => return Err(error),
        other => other.expect_err("a broken configuration"),
    };
    assert_eq!(error.kind(), BrokerErrorKind::NotReady);
    assert!(error.to_string().contains("no_such_setting"), "the log's end is not in: {error}");
    assert!(started.elapsed() < Duration::from_secs(60), "waited for one that had ended");
    Ok(())
}

fn mosquitto_panic() -> Result<(), BrokerError> {
    // Not on this thread, whose panics libtest-mimic reports.
    let (sender, receiver) = std::sync::mpsc::channel();
    let test = thread::spawn(move || {
        let broker = own_mosquitto();
        sender.send(broker.as_ref().map(place).map_err(Clone::clone)).unwrap();
        let _broker = broker;
        panic::resume_unwind(Box::new("a test that fails"));
    });
    let place = receiver.recv().unwrap();
    assert!(test.join().is_err());
    let (port, directory) = place?;
    assert!(refused(port));
    assert!(!directory.exists());
    Ok(())
}

fn place(broker: &Mosquitto) -> (u16, PathBuf) {
    (broker.port().unwrap(), broker.directory().unwrap().to_owned())
}

fn rabbitmq_vhost() -> Result<(), BrokerError> {
    let broker = RabbitMq::shared()?;
    let first = broker.vhost("orders::are billed")?;
    let second = broker.vhost("orders::are billed")?;
    assert_ne!(first.name(), second.name());
    assert_eq!(first.url(), format!("{}/{}", broker.url(), first.name()));
    assert!(broker.version().starts_with("RabbitMQ "), "{}", broker.version());
    if let Some(port) = broker.port() {
        assert_eq!(wire::amqp(&mut wire::connect(port), first.name()), 41);
        let gone = first.name().to_owned();
        drop(first);
        assert_ne!(wire::amqp(&mut wire::connect(port), &gone), 41, "the virtual host is still there");
    }
    let error = broker.api("GET", "/api/queues/none/none", None).expect_err("no such queue");
    assert_eq!(error.kind(), BrokerErrorKind::Refused);
    Ok(())
}

fn rabbitmq_close() -> Result<(), BrokerError> {
    let broker = RabbitMq::shared()?;
    let Some(port) = broker.port() else { return Ok(()) };
    let (ours, theirs) = (broker.vhost("ours")?, broker.vhost("theirs")?);
    let (mut first, mut second) = (wire::connect(port), wire::connect(port));
    assert_eq!(wire::amqp(&mut first, ours.name()), 41);
    assert_eq!(wire::amqp(&mut second, theirs.name()), 41);
    // The management plugin hears of a connection a moment after the client.
    let end = Instant::now() + Duration::from_secs(60);
    while ours.close_connections()? == 0 {
        assert!(Instant::now() < end, "the connection is not closed");
        thread::sleep(Duration::from_millis(10)); // Polls with a deadline.
    }
    let close = wire::amqp_frame(&mut first);
    assert_eq!(wire::method(&close), (10, 50));
    assert_eq!(close[4..6], 320_u16.to_be_bytes());
    second.set_nonblocking(true).unwrap();
    let kept = second.peek(&mut [0]).expect_err("nothing to read");
    assert_eq!(kept.kind(), std::io::ErrorKind::WouldBlock, "the other virtual host's connection was closed");
    Ok(())
}

fn rabbitmq_survives() -> Result<(), BrokerError> {
    let mut broker = RabbitMq::launch()?;
    let port = broker.port().unwrap();
    let host = broker.vhost("restart")?;
    let queue = format!("/api/queues/{}/orders", host.name());
    broker.api("PUT", &queue, Some(r#"{"durable":true,"arguments":{"x-queue-type":"quorum"}}"#))?;
    let exchange = format!("/api/exchanges/{}/amq.default/publish", host.name());
    let message = r#"{"routing_key":"orders","payload":"kept","payload_encoding":"string","properties":{"delivery_mode":2}}"#;
    assert_eq!(broker.api("POST", &exchange, Some(message))?["routed"], true);
    broker.names_written()?;

    broker.kill()?;
    assert!(refused(port));
    broker.restart()?;

    let take = r#"{"count":1,"ackmode":"ack_requeue_false","encoding":"auto"}"#;
    // The queue has no leader for a moment.
    let end = Instant::now() + Duration::from_secs(60);
    let messages = loop {
        let messages = broker.api("POST", &format!("{queue}/get"), Some(take));
        if Instant::now() >= end || messages.as_ref().is_ok_and(|messages| !messages[0].is_null()) {
            break messages?;
        }
        thread::sleep(Duration::from_millis(100)); // Polls with a deadline.
    };
    assert_eq!(messages[0]["payload"], "kept");
    let directory = broker.directory().unwrap().to_owned();
    drop((host, broker));
    assert!(refused(port));
    assert!(!directory.exists());
    Ok(())
}

fn kafka_survives() -> Result<(), BrokerError> {
    let mut broker = Kafka::options().start()?;
    let port = broker.port().unwrap();
    assert!(broker.version().starts_with("Kafka 4."), "{}", broker.version());
    let topics = |broker: &Kafka| wire::kafka_topics(&broker.directory().unwrap().join("data"));
    wire::kafka_create(&mut wire::connect(port), "orders");
    // The controller answers before the broker has made the partition's directory.
    let end = Instant::now() + Duration::from_secs(30);
    while topics(&broker) != ["orders-0"] {
        assert!(Instant::now() < end, "{:?}", topics(&broker));
        thread::sleep(Duration::from_millis(10));
    }

    broker.kill()?;
    assert!(refused(port));
    broker.restart()?;
    assert_eq!(wire::kafka_create(&mut wire::connect(port), "orders"), 36, "it is there already");

    let directory = broker.directory().unwrap().to_owned();
    drop(broker);
    assert!(refused(port));
    assert!(!directory.exists());
    Ok(())
}

fn kafka_broken() -> Result<(), BrokerError> {
    let error = match Kafka::options().setting("num.partitions=none").start() {
        Err(error) if error.kind() != BrokerErrorKind::Missing => error,
        other => return other.map(|broker| panic!("it came up: {broker:?}")),
    };
    assert_eq!(error.kind(), BrokerErrorKind::NotReady);
    assert!(error.to_string().contains("num.partitions"), "{error}");
    Ok(())
}

fn kafka_running() -> Result<(), BrokerError> {
    let broker = Kafka::shared()?;
    let said = said_by_a_guest("kafka guest", &[("MSGKIT_KAFKA_URL", broker.url().to_owned())]);
    assert_eq!(said, format!("Ok(\"{} Err(NotOurs)\")", broker.url()));
    Ok(())
}

/// Uses the broker that the environment names, and tries to kill it.
fn guest(broker: &str) -> ExitCode {
    let said = match broker {
        "kafka guest" => Kafka::start().map(|mut broker| {
            let killed = broker.kill().map_err(|error| error.kind());
            format!("{} {killed:?}", broker.url())
        }),
        "mosquitto guest" => Mosquitto::start().map(|mut broker| {
            let killed = broker.kill().map_err(|error| error.kind());
            format!("{} {killed:?}", broker.url())
        }),
        _ => RabbitMq::start().map(|mut broker| {
            let killed = broker.kill().map_err(|error| error.kind());
            let host = broker.vhost("guest").map(|host| host.url().starts_with(broker.url()));
            format!("{} {killed:?} {host:?}", broker.url())
        }),
    };
    println!("{said:?}");
    ExitCode::SUCCESS
}

fn said_by_a_guest(broker: &str, variables: &[(&str, String)]) -> String {
    let mut guest = Command::new(std::env::current_exe().unwrap());
    let output = guest.env(VICTIM, broker).envs(variables.iter().cloned()).output().unwrap();
    String::from_utf8(output.stdout).unwrap().trim().to_owned()
}

fn mosquitto_running() -> Result<(), BrokerError> {
    let broker = own_mosquitto()?;
    let variables = [("MSGKIT_MOSQUITTO_URL", broker.url().to_owned())];
    let said = said_by_a_guest("mosquitto guest", &variables);
    assert_eq!(said, format!("Ok(\"{} Err(NotOurs)\")", broker.url()));
    assert_eq!(wire::mqtt(&mut wire::connect(broker.port().unwrap()), "c", None, true).1, 0);
    let url = broker.url().to_owned();
    drop(broker);
    let said = said_by_a_guest("mosquitto guest", &variables);
    assert!(said.contains("nobody speaks MQTT at") && !said.contains(&url), "{said}");
    Ok(())
}

fn rabbitmq_running() -> Result<(), BrokerError> {
    let broker = RabbitMq::shared()?;
    let Some(api) = broker.api_url() else { return Ok(()) };
    let variables = [("MSGKIT_RABBITMQ_URL", broker.url().to_owned()), ("MSGKIT_RABBITMQ_API_URL", api)];
    let said = said_by_a_guest("rabbitmq guest", &variables);
    assert_eq!(said, format!("Ok(\"{} Err(NotOurs) Ok(true)\")", broker.url()));
    Ok(())
}

/// Holds a shared broker until somebody kills it.
fn victim(broker: &str) -> ExitCode {
    let place = match broker {
        "mosquitto" => Mosquitto::shared().map(|broker| (broker.port(), broker.directory())),
        "kafka" => Kafka::shared().map(|broker| (broker.port(), broker.directory())),
        _ => RabbitMq::shared().map(|broker| (broker.port(), broker.directory())),
    };
    match place {
        Ok((Some(port), Some(directory))) => println!("{port} {}", directory.display()),
        Ok(_) => println!("not ours"),
        Err(error) => println!("{:?}: {error}", error.kind()),
    }
    let _ = std::io::stdout().flush();
    loop {
        thread::park();
    }
}

fn dies_with_its_process(broker: &str) -> Result<(), BrokerError> {
    // Where it is missing this says so.
    match broker {
        "mosquitto" => drop(own_mosquitto()?),
        "kafka" => _ = Kafka::shared()?,
        _ => _ = RabbitMq::shared()?,
    }
    let mut victim = Command::new(std::env::current_exe().unwrap())
        .env(VICTIM, broker)
        .env_remove("MSGKIT_MOSQUITTO_URL")
        .env_remove("MSGKIT_RABBITMQ_URL")
        .env_remove("MSGKIT_KAFKA_URL")
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut line = String::new();
    BufReader::new(victim.stdout.take().unwrap()).read_line(&mut line).unwrap();
    let place = line.trim().split_once(' ').and_then(|(port, rest)| Some((port.parse().ok()?, rest)));
    let Some((port, directory)) = place else {
        victim.kill().unwrap();
        victim.wait().unwrap();
        panic!("no broker: {line}");
    };
    let directory = Path::new(directory);
    assert!(!refused(port) && directory.exists());
    let before = processes_of(directory);
    assert!(!before.is_empty(), "nobody works in {directory:?}");

    victim.kill().unwrap();
    victim.wait().unwrap();

    let end = Instant::now() + Duration::from_secs(20);
    while !(refused(port) && !directory.exists() && processes_of(directory).is_empty()) {
        assert!(Instant::now() < end, "left: {directory:?} {:?}", processes_of(directory));
        thread::sleep(Duration::from_millis(20));
    }
    Ok(())
}

/// The processes that run in the directory or below it.
fn processes_of(directory: &Path) -> Vec<PathBuf> {
    let all = std::fs::read_dir("/proc").into_iter().flatten().flatten();
    all.map(|entry| entry.path())
        .filter(|path| std::fs::read_link(path.join("cwd")).is_ok_and(|cwd| cwd.starts_with(directory)))
        .collect()
}

fn missing() -> Result<(), BrokerError> {
    let error = Mosquitto::options().program("no-such-mosquitto").start().expect_err("no such program");
    assert_eq!(error.kind(), BrokerErrorKind::Missing);
    let NotRun(reason) = error.into();
    assert!(reason.contains("no-such-mosquitto") && reason.contains("make brokers"), "{reason}");
    Ok(())
}

/// Whether nobody listens.
fn refused(port: u16) -> bool {
    TcpStream::connect(("127.0.0.1", port)).is_err()
}

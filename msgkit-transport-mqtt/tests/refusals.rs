//! Every way to be refused gives one clear line, which names the option or the topic to look at; and TLS as it should be.

mod support;

use std::time::Duration;

use msgkit::envelope::Clock;
use msgkit::transport::{
    Options, Publisher as _, Subscriber as _, Subscription, Transport as _, TransportErrorKind, TransportUrl,
};
use msgkit::{Chain, Registry};
#[cfg(feature = "tls")]
use msgkit_testing::brokers::{Authority, Signed};
use msgkit_testing::brokers::{BrokerError, Mosquitto, MosquittoOptions};
use msgkit_transport_mqtt::{Mqtt, MqttConfig, Version};
use support::{all, group, message, mqtt, nothing, numbered, publish, reader};

type Tested = Result<(), Box<dyn std::error::Error>>;

const VERSIONS: [Version; 2] = [Version::V5, Version::V311];

fn there<T>(started: Result<T, BrokerError>) -> Option<T> {
    match started {
        Ok(broker) => Some(broker),
        Err(error) if std::env::var("MSGKIT_REQUIRE_BROKERS").is_ok_and(|value| value == "1") => {
            panic!("not run: {error}")
        }
        Err(error) => {
            eprintln!("not run: {error}");
            None
        }
    }
}

/// What publishing says, as the log shows it: on one line, and with none of the secrets.
async fn refusal(transport: &Mqtt) -> (TransportErrorKind, String) {
    let error = match transport.publish(vec![message("a.b", "1")]).await {
        Ok(()) => panic!("it was taken"),
        Err(error) => error,
    };
    let line = Chain(&error).to_string();
    assert!(!line.contains('\n'), "{line}");
    assert!(!line.contains("5ecr3t"), "{line}");
    (error.kind(), line)
}

fn says(line: &str, words: &[&str]) {
    for word in words {
        assert!(line.contains(word), "`{word}` is missing: {line}");
    }
}

/// An option that would do nothing is not taken in silence.
#[test]
fn what_would_be_ignored_is_refused() {
    type Change = fn(&mut MqttConfig);
    let cases: [(&str, Change); 3] = [
        ("ca_file", |config| config.ca_file = Some("ca.pem".into())),
        ("cert_file", |config| {
            config.cert_file = Some("cert.pem".into());
            config.key_file = Some("key.pem".into());
        }),
        ("password", |config| config.password = Some("5ecr3t".to_owned())),
    ];
    let url = TransportUrl::parse("mqtt://localhost").unwrap();
    for (option, change) in cases {
        let mut config = MqttConfig::default();
        change(&mut config);
        let refused = Mqtt::with(&url, config, Clock::system()).err().unwrap().to_string();
        assert!(refused.contains(&format!("`{option}`")) && !refused.contains("5ecr3t"), "{refused}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wrong_host_is_named() -> Tested {
    for version in VERSIONS {
        let quick = |config: &mut msgkit_transport_mqtt::MqttConfig| {
            config.version = version;
            config.publish_timeout = Duration::from_secs(2);
        };
        let nobody = std::net::TcpListener::bind("127.0.0.1:0")?.local_addr()?;
        for address in ["no-such-host.invalid:1883".to_owned(), nobody.to_string()] {
            let transport = mqtt(&address, "host", quick);
            // A name that is looked up for long is not known to be none yet.
            let (kind, line) = loop {
                match refusal(&transport).await {
                    (TransportErrorKind::Timeout, _) => {}
                    told => break told,
                }
            };
            assert_eq!(kind, TransportErrorKind::Unavailable, "a host may come up later: {line}");
            says(&line, &[&address, "cannot be reached"]);
        }
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wrong_password_is_refused_at_once_with_the_options() -> Tested {
    let Some(broker) = there(Mosquitto::options().user("dev", "right").start()) else { return Ok(()) };
    let port = broker.port().ok_or("a port")?;
    for version in VERSIONS {
        for credentials in ["", "dev:5ecr3t-wrong@", "nobody:5ecr3t@"] {
            let url = format!("mqtt://{credentials}127.0.0.1:{port}");
            let transport = mqtt(&url, "password", |config| config.version = version);
            let (kind, line) = refusal(&transport).await;
            assert_eq!(kind, TransportErrorKind::Refused, "{line}");
            says(&line, &["`user`", "`password`", &port.to_string()]);
        }
        // The options are for where the url does not name them.
        let named = mqtt(broker.url(), "password", |config| {
            config.version = version;
            (config.user, config.password) = (Some("nobody".to_owned()), Some("wrong".to_owned()));
        });
        publish(&named, "a.b", &numbered(1)).await;
    }
    Ok(())
}

/// MQTT 5 tells who may not publish where. Mosquitto grants a subscription that its rules deny, and then nothing comes;
/// in 3.1.1 it takes a denied publish as well. What cannot be told is not claimed.
#[tokio::test(flavor = "multi_thread")]
async fn a_refused_access_names_the_topic_where_the_broker_tells() -> Tested {
    let rules = "user dev\ntopic readwrite open/#\n";
    let Some(broker) = there(Mosquitto::options().user("dev", "right").acl(rules).start()) else {
        return Ok(());
    };
    let transport = mqtt(broker.url(), "open", |_| {});
    publish(&transport, "a.b", &numbered(1)).await;
    let outside = mqtt(broker.url(), "closed", |config| {
        (config.publish_timeout, config.connect_timeout) = (Duration::from_secs(15), Duration::from_secs(5));
    });
    let (kind, line) = refusal(&outside).await;
    assert_eq!(kind, TransportErrorKind::Refused, "{line}");
    says(&line, &["closed/a/b", "not authorized", "access rules"]);
    let mut deliveries = outside.subscribe(&Subscription::ephemeral(["a.b".parse()?])).await?;
    let _ = outside.publish(vec![message("a.b", "2")]).await;
    nothing(&mut *deliveries, "Mosquitto grants what it denies").await;
    // A group needs its marks, and so finds out.
    let error = match outside.subscribe(&group("g", "a.b")).await {
        Ok(_) => panic!("it was taken"),
        Err(error) => Chain(&error).to_string(),
    };
    says(&error, &["closed/msgkit/slots/g", "may this client read and write there"]);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_message_that_is_too_large_names_the_limit() -> Tested {
    let Some(broker) = there(Mosquitto::options().setting("max_packet_size 20000").start()) else {
        return Ok(());
    };
    let large = "x".repeat(30_000);
    for version in VERSIONS {
        let limited = mqtt(broker.url(), "large", |config| {
            config.version = version;
            config.max_payload = 10_000;
        });
        let error = limited.publish(vec![message("a.b", &large)]).await.unwrap_err();
        assert_eq!(error.kind(), TransportErrorKind::Invalid);
        says(&Chain(&error).to_string(), &["30002 bytes", "10000", "`max_payload`"]);
    }
    // MQTT 5 tells how much the broker takes.
    let transport = mqtt(broker.url(), "large", |_| {});
    let error = transport.publish(vec![message("a.b", &large)]).await.unwrap_err();
    assert_eq!(error.kind(), TransportErrorKind::Invalid);
    says(&Chain(&error).to_string(), &["large/a/b", "20000", "the broker takes"]);
    publish(&transport, "a.b", &numbered(1)).await;
    Ok(())
}

#[test]
fn an_unknown_option_names_the_nearest_known_one() -> Tested {
    let registry = Registry::new().with(msgkit_transport_mqtt::scheme());
    let url = TransportUrl::parse("mqtt://localhost")?;
    let options = Options::from_toml("[transports.edge.mqtt]", "sesion_expiry = \"1h\"")?;
    let line = match registry.build(&url, options) {
        Ok(_) => panic!("it was taken"),
        Err(error) => Chain(&error).to_string(),
    };
    says(&line, &["[transports.edge.mqtt]", "`sesion_expiry`", "`session_expiry`"]);
    let line = match registry.open("mqtt://localhost?keepalive=30s") {
        Ok(_) => panic!("it was taken"),
        Err(error) => Chain(&error).to_string(),
    };
    says(&line, &["`keepalive`", "`keep_alive`"]);
    Ok(())
}

/// A listener with the certificate that the test has made.
#[cfg(feature = "tls")]
fn listener(options: MosquittoOptions, port: u16, signed: &Signed) -> MosquittoOptions {
    options
        .setting(format!("listener {port} 127.0.0.1"))
        .setting(format!("certfile {}", signed.certificate.display()))
        .setting(format!("keyfile {}", signed.key.display()))
}

#[cfg(feature = "tls")]
fn free_port() -> std::io::Result<u16> {
    Ok(std::net::TcpListener::bind("127.0.0.1:0")?.local_addr()?.port())
}

#[cfg(feature = "tls")]
#[tokio::test(flavor = "multi_thread")]
async fn an_expired_certificate_is_called_so() -> Tested {
    let directory = tempfile::tempdir()?;
    let authority = Authority::new(directory.path())?;
    let port = free_port()?;
    let options = listener(Mosquitto::options(), port, &authority.server(true)?);
    let Some(_broker) = there(options.start()) else { return Ok(()) };
    for version in VERSIONS {
        let transport = mqtt(&format!("mqtts://localhost:{port}"), "expired", |config| {
            config.version = version;
            config.ca_file = Some(authority.file().to_owned());
        });
        let (kind, line) = refusal(&transport).await;
        assert_eq!(kind, TransportErrorKind::Refused, "{line}");
        says(&line, &["certificate", "xpired", "`ca_file`"]);
    }
    Ok(())
}

/// Publishing, a group and its deliveries, all over `address`.
#[cfg(feature = "tls")]
async fn works(address: &str, prefix: &str, change: impl Fn(&mut msgkit_transport_mqtt::MqttConfig)) {
    let transport = mqtt(address, prefix, change);
    let mut deliveries = reader(&transport, &group("g", "a.b")).await;
    let sent = numbered(20);
    publish(&transport, "a.b", &sent).await;
    assert_eq!(all(&mut *deliveries, &sent).await, sent);
    assert_eq!(transport.health().await, msgkit::transport::Health::Up);
}

#[cfg(feature = "tls")]
#[tokio::test(flavor = "multi_thread")]
async fn a_client_proves_itself_by_its_certificate() -> Tested {
    let directory = tempfile::tempdir()?;
    let authority = Authority::new(directory.path())?;
    let client = authority.client("device-7")?;
    let port = free_port()?;
    let options = listener(Mosquitto::options(), port, &authority.server(false)?)
        .setting(format!("cafile {}", authority.file().display()))
        .setting("require_certificate true")
        .setting("use_identity_as_username true");
    let Some(_broker) = there(options.start()) else { return Ok(()) };
    let address = format!("mqtts://localhost:{port}");
    for version in VERSIONS {
        works(&address, &format!("{version:?}"), |config| {
            config.version = version;
            config.ca_file = Some(authority.file().to_owned());
            config.cert_file = Some(client.certificate.clone());
            config.key_file = Some(client.key.clone());
        })
        .await;
        let stranger = mqtt(&address, "stranger", |config| {
            config.version = version;
            config.ca_file = Some(authority.file().to_owned());
            config.publish_timeout = Duration::from_secs(15);
        });
        let (kind, line) = refusal(&stranger).await;
        assert_eq!(kind, TransportErrorKind::Refused, "{line}");
        says(&line, &["`cert_file`"]);
    }
    Ok(())
}

#[cfg(all(feature = "tls", feature = "websocket"))]
#[tokio::test(flavor = "multi_thread")]
async fn a_websocket_over_tls_carries_it_all() -> Tested {
    let directory = tempfile::tempdir()?;
    let authority = Authority::new(directory.path())?;
    let port = free_port()?;
    let options =
        listener(Mosquitto::options(), port, &authority.server(false)?).setting("protocol websockets");
    let Some(_broker) = there(options.start()) else { return Ok(()) };
    for version in VERSIONS {
        works(&format!("mqtt+wss://localhost:{port}"), &format!("{version:?}"), |config| {
            config.version = version;
            config.ca_file = Some(authority.file().to_owned());
        })
        .await;
    }
    Ok(())
}

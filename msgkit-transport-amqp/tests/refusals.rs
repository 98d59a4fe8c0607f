//! Every way to be refused gives one clear line, which names the option or the place to look at; and TLS as it should be.

use std::time::Duration;

use bytes::Bytes;
use msgkit::envelope::{Clock, ContentType};
use msgkit::transport::{
    Options, Outgoing, Publisher as _, Transport as _, TransportErrorKind, TransportUrl,
};
use msgkit::{Chain, Envelope, Registry};
#[cfg(feature = "tls")]
use msgkit_testing::brokers::{Authority, Signed};
use msgkit_testing::brokers::{BrokerError, RabbitMq};
use msgkit_transport_amqp::{Amqp, AmqpConfig};

type Tested = Result<(), Box<dyn std::error::Error>>;

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

fn amqp(url: &str, change: impl FnOnce(&mut AmqpConfig)) -> Amqp {
    let mut config = AmqpConfig::default();
    config.connect_timeout = Duration::from_secs(30);
    change(&mut config);
    match TransportUrl::parse(url).and_then(|url| Amqp::with(&url, config, Clock::system())) {
        Ok(amqp) => amqp,
        Err(error) => panic!("{}", Chain(&error)),
    }
}

fn message(size: usize) -> Outgoing {
    let topic = match "a.b".parse() {
        Ok(topic) => topic,
        Err(error) => panic!("{error}"),
    };
    let payload = Bytes::from(vec![b'1'; size]);
    Outgoing::to_topic(Envelope::new(
        "test",
        "test.text",
        topic,
        ContentType::Json,
        payload,
        Clock::system().now(),
    ))
}

/// What publishing says, as the log shows it: on one line, and with none of the secrets.
async fn refusal(transport: &Amqp, size: usize) -> (TransportErrorKind, String) {
    let error = match transport.publish(vec![message(size)]).await {
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

#[tokio::test(flavor = "multi_thread")]
async fn a_wrong_host_is_named() -> Tested {
    let nobody = std::net::TcpListener::bind("127.0.0.1:0")?.local_addr()?;
    for address in ["no-such-host.invalid:5672".to_owned(), nobody.to_string()] {
        let (kind, line) = refusal(&amqp(&format!("amqp://a:5ecr3t@{address}/v"), |_| {}), 1).await;
        assert_eq!(kind, TransportErrorKind::Unavailable, "a host may come up later: {line}");
        says(&line, &["connecting to", &address, "vhost `v`"]);
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wrong_password_and_a_wrong_vhost_say_where_to_look() -> Tested {
    let Some(rabbit) = there(RabbitMq::shared()) else { return Ok(()) };
    let port = rabbit.port().ok_or("a port")?;
    let (kind, line) = refusal(&amqp(&format!("amqp://guest:5ecr3t@127.0.0.1:{port}"), |_| {}), 1).await;
    assert_eq!(kind, TransportErrorKind::Refused, "{line}");
    says(&line, &["user and password in the url", &port.to_string()]);
    let (kind, line) =
        refusal(&amqp(&format!("amqp://guest:guest@127.0.0.1:{port}/no-such"), |_| {}), 1).await;
    assert_eq!(kind, TransportErrorKind::Refused, "{line}");
    says(&line, &["vhost `no-such`", "look at the vhost in the url"]);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refused_access_names_the_exchange() -> Tested {
    let Some(rabbit) = there(RabbitMq::shared()) else { return Ok(()) };
    let vhost = rabbit.vhost("access")?;
    rabbit.api("PUT", "/api/users/reader", Some(r#"{"password":"5ecr3t","tags":""}"#))?;
    let path = format!("/api/permissions/{}/reader", vhost.name());
    rabbit.api("PUT", &path, Some(r#"{"configure":"^$","write":"^$","read":".*"}"#))?;
    let url = vhost.url().replace("guest:guest@", "reader:5ecr3t@");
    let (kind, line) = refusal(&amqp(&url, |_| {}), 1).await;
    assert_eq!(kind, TransportErrorKind::Refused, "{line}");
    says(&line, &["msgkit", "the user's permissions in the vhost"]);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_message_that_is_too_large_names_the_limit() -> Tested {
    let Some(rabbit) = there(RabbitMq::shared()) else { return Ok(()) };
    let vhost = rabbit.vhost("large")?;
    let transport = amqp(vhost.url(), |config| config.max_payload = 1000);
    let (kind, line) = refusal(&transport, 1001).await;
    assert_eq!(kind, TransportErrorKind::Invalid, "{line}");
    says(&line, &["1001 bytes", "1000", "`max_payload`"]);
    transport.publish(vec![message(1000)]).await?;
    transport.close().await?;
    Ok(())
}

#[test]
fn an_unknown_option_names_the_nearest_known_one() -> Tested {
    let registry = Registry::new().with(msgkit_transport_amqp::scheme());
    let url = TransportUrl::parse("amqp://localhost")?;
    let options = Options::from_toml("[transports.backbone.amqp]", "hartbeat = \"1s\"")?;
    let line = match registry.build(&url, options) {
        Ok(_) => panic!("it was taken"),
        Err(error) => Chain(&error).to_string(),
    };
    says(&line, &["[transports.backbone.amqp]", "`hartbeat`", "`heartbeat`"]);
    Ok(())
}

/// A broker that nobody has to trust any more. Any server will do, because the handshake does not come to AMQP.
#[cfg(feature = "tls")]
#[tokio::test(flavor = "multi_thread")]
async fn an_expired_certificate_is_called_so() -> Tested {
    use msgkit_testing::brokers::Mosquitto;

    let directory = tempfile::tempdir()?;
    let authority = Authority::new(directory.path())?;
    let expired = authority.server(true)?;
    let port = std::net::TcpListener::bind("127.0.0.1:0")?.local_addr()?.port();
    let server = Mosquitto::options()
        .setting(format!("listener {port} 127.0.0.1"))
        .setting(format!("certfile {}", expired.certificate.display()))
        .setting(format!("keyfile {}", expired.key.display()));
    let Some(_server) = there(server.start()) else { return Ok(()) };
    let transport = amqp(&format!("amqps://guest:5ecr3t@localhost:{port}"), |config| {
        config.ca_file = Some(authority.file().to_owned());
    });
    let (kind, line) = refusal(&transport, 1).await;
    assert_eq!(kind, TransportErrorKind::Refused, "{line}");
    says(&line, &["xpired", "the server's certificate", "`ca_file`"]);
    Ok(())
}

#[cfg(feature = "tls")]
#[tokio::test(flavor = "multi_thread")]
async fn a_port_without_tls_is_called_so() -> Tested {
    let Some(rabbit) = there(RabbitMq::shared()) else { return Ok(()) };
    let port = rabbit.port().ok_or("a port")?;
    let (kind, line) = refusal(&amqp(&format!("amqps://guest:5ecr3t@localhost:{port}"), |_| {}), 1).await;
    assert_eq!(kind, TransportErrorKind::Refused, "{line}");
    says(&line, &["connecting to", &port.to_string(), "speaks no TLS", "`amqp:`"]);
    Ok(())
}

#[cfg(feature = "tls")]
#[tokio::test(flavor = "multi_thread")]
async fn tls_and_external_authentication_work_and_check_both_sides() -> Tested {
    let Some(rabbit) = there(RabbitMq::shared()) else { return Ok(()) };
    let (Some(url), Some(ca)) = (rabbit.tls_url(), rabbit.authority()) else {
        return Err("the broker has no TLS".into());
    };
    let directory = tempfile::tempdir()?;
    // By user and password.
    let trusting = amqp(&url, |config| config.ca_file = Some(ca.to_owned()));
    trusting.publish(vec![message(1)]).await?;
    trusting.close().await?;
    // An authority of its own, that has not signed the broker's certificate.
    let other = Authority::new(directory.path())?;
    let (kind, line) = refusal(&amqp(&url, |config| config.ca_file = Some(other.file().to_owned())), 1).await;
    assert_eq!(kind, TransportErrorKind::Refused, "{line}");
    says(&line, &["the server's certificate", "`ca_file`"]);
    // By its certificate: the user is its common name.
    let known = Authority::known(ca, &ca.with_file_name("authority.key"), directory.path())?;
    let external = |signed: &Signed| {
        let url = url.replace("guest:guest@", "");
        amqp(&url, |config| {
            config.sasl = msgkit_transport_amqp::Sasl::External;
            config.ca_file = Some(ca.to_owned());
            config.cert_file = Some(signed.certificate.clone());
            config.key_file = Some(signed.key.clone());
        })
    };
    rabbit.api("PUT", "/api/users/service-7", Some(r#"{"password_hash":"","tags":""}"#))?;
    let all = r#"{"configure":".*","write":".*","read":".*"}"#;
    rabbit.api("PUT", "/api/permissions/%2F/service-7", Some(all))?;
    let service = external(&known.client("service-7")?);
    service.publish(vec![message(1)]).await?;
    service.close().await?;
    let (kind, line) = refusal(&external(&known.client("nobody-knows")?), 1).await;
    assert_eq!(kind, TransportErrorKind::Refused, "{line}");
    says(&line, &["connecting to", "look at"]);
    Ok(())
}

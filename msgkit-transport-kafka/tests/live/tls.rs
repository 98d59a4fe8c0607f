//! TLS and SASL as they should be, and every way to be refused: one clear line each, that names the option or where to look.

use std::path::Path;
use std::time::Duration;

use msgkit::transport::{Health, Publisher as _, Transport as _, TransportErrorKind};
use msgkit_testing::brokers::Kafka as Broker;
use msgkit_transport_kafka::{Kafka, KafkaConfig, Sasl};

use super::bench::{PATIENCE, declaration, group, message, reader, take, text, there};
use crate::support;
use crate::support::certificates::Authority;

type Change<'a> = &'a dyn Fn(&mut KafkaConfig);

const PASSWORD: &str = "5ecr3t w0rd";

fn config(prefix: &str, change: impl FnOnce(&mut KafkaConfig)) -> KafkaConfig {
    let mut config = support::quick(prefix);
    change(&mut config);
    config
}

/// A message there and back.
async fn goes_round(kafka: Kafka, word: &str) {
    let mut deliveries = reader(&kafka, &group("g", "a.b")).await;
    kafka.publish(vec![message("a.b", Some("k"), word)]).await.unwrap();
    let came = take(&mut *deliveries, 1).await.remove(0);
    assert_eq!(text(&came), word);
    came.ack();
    let up = async {
        while kafka.health().await != Health::Up {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    tokio::time::timeout(PATIENCE, up).await.expect("it is up");
    deliveries.close().await.unwrap();
    kafka.close().await.unwrap();
}

/// What declaring, publishing and health say, each on one line and without a secret.
async fn refusal(url: &str, config: KafkaConfig) -> (TransportErrorKind, String) {
    support::show_logs();
    let kafka = support::kafka(url, config).unwrap();
    let declared = kafka.declare(&declaration(&group("g", "a.b"))).await.unwrap_err();
    let published = kafka.publish(vec![message("a.b", None, "x")]).await.unwrap_err();
    let Health::Down(health) = kafka.health().await else { panic!("it is up") };
    let lines = [msgkit::Chain(&declared).to_string(), msgkit::Chain(&published).to_string(), health];
    println!("{}", lines[0]);
    for line in &lines {
        assert!(!line.contains('\n'), "{line}");
        assert!(!line.contains("5ecr3t") && !line.contains("w0rd") && !line.contains("PRIVATE"), "{line}");
    }
    assert_eq!(declared.kind(), published.kind(), "{lines:?}");
    kafka.close().await.unwrap();
    (declared.kind(), lines.join("\n"))
}

fn says(lines: &str, words: &[&str]) {
    for line in lines.lines() {
        for word in words {
            assert!(line.contains(word), "`{word}` is missing: {line}");
        }
    }
}

fn no_authority(directory: &Path) -> std::path::PathBuf {
    let file = directory.join("no.pem");
    std::fs::write(&file, "this is no certificate\n").unwrap();
    file
}

/// One who proves himself by each mechanism, with TLS and without.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_mechanism_lets_the_right_one_in_and_no_other() {
    let Some(broker) = there(Broker::options().user("app", PASSWORD).tls().start()) else { return };
    let (tls, plain) = (broker.tls_url().unwrap(), broker.url().to_owned());
    let authority = broker.authority().unwrap().to_owned();
    let mechanisms = [Sasl::Plain, Sasl::ScramSha256, Sasl::ScramSha512];
    for (at, sasl) in mechanisms.into_iter().enumerate() {
        for (url, ca_file) in [(&tls, Some(authority.clone())), (&plain, None)] {
            let prefix = format!("right{at}{}.", ca_file.is_some());
            let right = config(&prefix, |config| (config.sasl, config.ca_file) = (sasl, ca_file.clone()));
            goes_round(support::kafka(url, right).unwrap(), &prefix).await;
            let (user, rest) = url.split_once('@').unwrap();
            let stranger = format!("{}:0ther-w0rd@{rest}", user.rsplit_once(':').unwrap().0);
            let wrong = config("t.", |config| {
                (config.sasl, config.ca_file) = (sasl, ca_file);
                config.connect_timeout = Duration::from_secs(20);
            });
            let (kind, lines) = refusal(&stranger, wrong).await;
            assert_eq!(kind, TransportErrorKind::Refused, "{lines}");
            says(&lines, &["the password of the url", "`sasl`"]);
        }
    }
}

/// A mechanism that the broker has not, and a client that says nothing at all.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_mechanism_that_the_broker_has_not_is_named() {
    let only = "sasl.enabled.mechanisms=SCRAM-SHA-512";
    let Some(broker) = there(Broker::options().user("app", PASSWORD).setting(only).start()) else { return };
    let (kind, lines) = refusal(broker.url(), config("t.", |config| config.sasl = Sasl::ScramSha256)).await;
    assert_eq!(kind, TransportErrorKind::Refused, "{lines}");
    says(&lines, &["does not offer", "`sasl`", "`scram_sha_512`"]);
    goes_round(
        support::kafka(broker.url(), config("u.", |config| config.sasl = Sasl::ScramSha512)).unwrap(),
        "in",
    )
    .await;
    let nobody = format!("kafka://127.0.0.1:{}", broker.port().unwrap());
    let (kind, lines) =
        refusal(&nobody, config("t.", |config| config.connect_timeout = Duration::from_secs(3))).await;
    assert!(kind.is_temporary(), "{lines}");
    says(&lines, &["user"]);
}

/// The server's certificate is checked, and the client's where the broker asks for one.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn both_sides_show_a_certificate() {
    let both = "listener.name.tls.ssl.client.auth=required";
    let Some(broker) = there(Broker::options().tls().setting(both).start()) else { return };
    let url = broker.tls_url().unwrap();
    let directory = tempfile::tempdir().unwrap();
    let ca = broker.authority().unwrap().to_owned();
    let known = Authority::known(&ca, &ca.with_file_name("authority.key"), directory.path()).unwrap();
    let ours = known.client("service-7").unwrap();
    let with = |change: &dyn Fn(&mut KafkaConfig)| {
        config("t.", |config| {
            config.ca_file = Some(ca.clone());
            config.cert_file = Some(ours.certificate.clone());
            config.key_file = Some(ours.key.clone());
            config.connect_timeout = Duration::from_secs(20);
            change(config);
        })
    };
    goes_round(support::kafka(&url, with(&|_| {})).unwrap(), "both").await;
    // An authority that has not signed the server's certificate, and the machine's own ones.
    let other = Authority::new(directory.path()).unwrap();
    for file in [Some(other.file.clone()), None] {
        let (kind, lines) = refusal(&url, with(&|config| config.ca_file = file.clone())).await;
        assert_eq!(kind, TransportErrorKind::Refused, "{lines}");
        says(&lines, &["the server's certificate", "`ca_file`"]);
    }
    // No certificate of the client's, and one that the broker does not know.
    let (kind, lines) =
        refusal(&url, with(&|config| (config.cert_file, config.key_file) = (None, None))).await;
    assert_eq!(kind, TransportErrorKind::Refused, "{lines}");
    says(&lines, &["`cert_file`", "`key_file`"]);
    let stranger = other.client("stranger").unwrap();
    let strange = with(&|config| {
        config.cert_file = Some(stranger.certificate.clone());
        config.key_file = Some(stranger.key.clone());
    });
    let (kind, lines) = refusal(&url, strange).await;
    assert_eq!(kind, TransportErrorKind::Refused, "{lines}");
    says(&lines, &["`cert_file`"]);
    // Files that are not what they should be.
    let bad = no_authority(directory.path());
    let wrong: [(&str, Change<'_>); 5] = [
        ("`ca_file`", &|config| config.ca_file = Some(directory.path().join("missing.pem"))),
        ("`ca_file`", &|config| config.ca_file = Some(bad.clone())),
        ("`cert_file`", &|config| config.cert_file = Some(bad.clone())),
        ("`key_file`", &|config| config.key_file = Some(bad.clone())),
        ("`key_file`", &|config| config.key_file = Some(stranger.key.clone())),
    ];
    for (named, change) in wrong {
        let (kind, lines) = refusal(&url, with(change)).await;
        assert_eq!(kind, TransportErrorKind::Refused, "{lines}");
        says(&lines, &[named]);
    }
}

/// A certificate that was good once; TLS where there is none, and none where there is.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_expired_certificate_and_the_wrong_listener_are_told() {
    let directory = tempfile::tempdir().unwrap();
    let authority = Authority::new(directory.path()).unwrap();
    let expired = authority.server(true).unwrap();
    let Some(broker) = there(Broker::options().tls_with(expired.certificate, expired.key).start()) else {
        return;
    };
    let url = broker.tls_url().unwrap();
    let trusting = |config: &mut KafkaConfig| {
        config.ca_file = Some(authority.file.clone());
        config.connect_timeout = Duration::from_secs(20);
    };
    let quick = |config: &mut KafkaConfig| {
        config.ca_file = Some(authority.file.clone());
        config.connect_timeout = Duration::from_secs(5);
    };
    let (kind, lines) = refusal(&url, config("t.", trusting)).await;
    assert_eq!(kind, TransportErrorKind::Refused, "{lines}");
    says(&lines, &["the server's certificate", "expired", "`ca_file`"]);
    // May be over in a moment, where a broker ends: temporary.
    let tls_to_plain = format!("kafkas://127.0.0.1:{}", broker.port().unwrap());
    let (kind, lines) = refusal(&tls_to_plain, config("t.", quick)).await;
    assert!(kind.is_temporary(), "{lines}");
    says(&lines, &["TLS", "`kafka:`"]);
    let quick = |config: &mut KafkaConfig| config.connect_timeout = Duration::from_secs(5);
    let (kind, lines) = refusal(&url.replace("kafkas:", "kafka:"), config("t.", quick)).await;
    assert!(kind.is_temporary(), "{lines}");
    says(&lines, &["`kafkas:`"]);
}

//! What is refused, and how it says so.

use std::time::Duration;

use msgkit::transport::{Health, Publisher as _, Subscriber as _, Transport as _, TransportErrorKind};
use msgkit_testing::brokers::Kafka;

use super::bench::{declaration, group, message, reader, shared, take, text, there};
use crate::support;

/// What a refusal may take on a busy machine, and less than the half minute in which a client tells the same one only once.
async fn within<T>(future: impl Future<Output = T>) -> T {
    tokio::time::timeout(Duration::from_secs(25), future).await.expect("a refusal is told at once")
}

/// A wrong password is refused for good and by its name; the right one works; neither is printed.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_wrong_password_is_refused() {
    let Some(broker) = there(Kafka::options().user("app", "s3cret-word").start()) else { return };
    let mut config = support::quick("t.");
    let right = support::kafka(broker.url(), config.clone()).unwrap();
    let mut deliveries = reader(&right, &group("g", "a.b")).await;
    right.publish(vec![message("a.b", None, "in")]).await.unwrap();
    assert_eq!(text(&take(&mut *deliveries, 1).await[0]), "in");
    right.close().await.unwrap();
    let wrong = broker.url().replace("s3cret-word", "other-w0rd");
    // Longer than the test may take: a refusal is told when it comes.
    config.connect_timeout = Duration::from_secs(600);
    let kafka = support::kafka(&wrong, config).unwrap();
    let wanted = group("g", "a.b");
    let refusals = async {
        [kafka.declare(&declaration(&wanted)).await.unwrap_err(), kafka.subscribe(&wanted).await.unwrap_err()]
    };
    let refused = within(refusals).await;
    for error in refused {
        let said = msgkit::Chain(&error).to_string();
        assert_eq!(error.kind(), TransportErrorKind::Refused, "{said}");
        assert!(said.contains("password") && !said.contains("other-w0rd"), "{said}");
    }
    let error = within(kafka.publish(vec![message("a.b", None, "x")])).await.unwrap_err();
    assert_eq!(error.kind(), TransportErrorKind::Refused, "{}", msgkit::Chain(&error));
    assert!(matches!(within(kafka.health()).await, Health::Down(why) if why.contains("password")));
    kafka.close().await.unwrap();
}

/// Nobody there is temporary, names the address, and is told within `connect_timeout`.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_address_where_nobody_listens_is_named() {
    let mut config = support::quick("t.");
    config.connect_timeout = Duration::from_secs(2);
    for url in ["kafka://127.0.0.1:1", "kafka://no-such-host.invalid:9092"] {
        let kafka = support::kafka(url, config.clone()).unwrap();
        let error = kafka.declare(&declaration(&group("g", "a.b"))).await.unwrap_err();
        let said = msgkit::Chain(&error).to_string();
        assert!(error.is_temporary(), "{said}");
        let host = url.trim_start_matches("kafka://");
        assert!(said.contains(host), "{said}");
        assert!(matches!(kafka.health().await, Health::Down(why) if why.contains(host)));
        kafka.close().await.unwrap();
    }
}

/// Two topics that are one name to Kafka, and one that is missing while none are made.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn topics_that_cannot_be_are_refused_at_registration() {
    let Some((url, prefix)) = shared("alike") else { return };
    let kafka = support::kafka(&url, support::quick(&prefix)).unwrap();
    kafka.declare(&declaration(&group("g", "orders.line_item"))).await.unwrap();
    let error = kafka.declare(&declaration(&group("g", "orders_line.item"))).await.unwrap_err();
    let said = msgkit::Chain(&error).to_string();
    assert_eq!(error.kind(), TransportErrorKind::Invalid, "{said}");
    assert!(said.contains("orders.line_item") && said.contains("orders_line.item"), "{said}");
    let mut config = support::quick(&prefix);
    config.create_topics = false;
    let strict = support::kafka(&url, config).unwrap();
    let error = strict.publish(vec![message("no.such.topic", None, "x")]).await.unwrap_err();
    let said = msgkit::Chain(&error).to_string();
    assert_eq!(error.kind(), TransportErrorKind::Invalid, "{said}");
    assert!(said.contains("no.such.topic") && said.contains("create_topics"), "{said}");
    kafka.close().await.unwrap();
    strict.close().await.unwrap();
}

/// A message that the broker refuses is given back alone with what follows it; everything before it is taken.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_the_broker_refuses_is_given_back() {
    let Some((url, prefix)) = shared("refused") else { return };
    let mut config = support::quick(&prefix);
    let usual = support::kafka(&url, config.clone()).unwrap();
    usual.declare(&declaration(&group("g", "a.b"))).await.unwrap();
    usual.close().await.unwrap();
    // More than the topic takes, so that the refusal is the broker's own and not the client's.
    config.max_message = 8 << 20;
    let kafka = support::kafka(&url, config).unwrap();
    let mut deliveries = reader(&kafka, &group("g", "a.b")).await;
    let mut large = super::bench::envelope("a.b", Some("k"), "");
    let noise: Vec<u8> = (0..4_000_000_u32)
        .map(|n| b'a' + u8::try_from(n.wrapping_mul(2_654_435_761) >> 28).unwrap_or(0))
        .collect();
    large.set_payload(Some(noise.into()));
    let error = kafka.publish(vec![msgkit::transport::Outgoing::to_topic(large.clone())]).await.unwrap_err();
    let said = msgkit::Chain(&error).to_string();
    assert_eq!(error.kind(), TransportErrorKind::Invalid, "{said}");
    assert!(said.contains("publishing to `"), "it names the topic: {said}");
    assert_eq!(error.rejected()[0].message.envelope, large);
    kafka.publish(vec![message("a.b", Some("k"), "small")]).await.unwrap();
    assert_eq!(text(&take(&mut *deliveries, 1).await[0]), "small");
    kafka.close().await.unwrap();
}

//! What the tests have in common.

use std::collections::VecDeque;
use std::time::Duration;

use bytes::Bytes;
use msgkit::envelope::{ContentType, Timestamp};
use msgkit::transport::{
    Declaration, Deliveries, Delivery, Outgoing, Publisher as _, Subscriber as _, Subscription,
    Transport as _,
};
use msgkit::{Envelope, Group};
use msgkit_testing::brokers::{self, BrokerError};
use msgkit_transport_kafka::Kafka;

/// How long what must come may take, on a machine that has other things to do.
pub(crate) const PATIENCE: Duration = Duration::from_secs(120);

/// What `start` gave; `None`, and a word, where Kafka is not installed.
pub(crate) fn there<T>(started: Result<T, BrokerError>) -> Option<T> {
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

/// The url of the broker that all tests share, and a prefix that nobody else has.
pub(crate) fn shared(test: &str) -> Option<(String, String)> {
    crate::support::show_logs();
    let broker = there(brokers::Kafka::shared())?;
    Some((broker.url().to_owned(), broker.prefix(test)))
}

pub(crate) fn envelope(topic: &str, key: Option<&str>, text: &str) -> Envelope {
    let payload = Bytes::from(format!("\"{text}\""));
    let topic = topic.parse().unwrap();
    let mut envelope =
        Envelope::new("tests", "tests.text", topic, ContentType::Json, payload, Timestamp::now());
    envelope.set_key(key.map(Into::into));
    envelope
}

pub(crate) fn message(topic: &str, key: Option<&str>, text: &str) -> Outgoing {
    Outgoing::to_topic(envelope(topic, key, text))
}

pub(crate) fn group(name: &str, pattern: &str) -> Subscription {
    Subscription::group(Group::new(name.to_owned()).unwrap(), [pattern.parse().unwrap()])
}

pub(crate) fn declaration(subscription: &Subscription) -> Vec<Declaration> {
    vec![Declaration::Group {
        subscription: subscription.clone(),
        retry_steps: vec![Duration::from_secs(1)],
        dead_letters: true,
    }]
}

/// Declared and subscribed; a service tries what is temporary again, and so does this.
pub(crate) async fn reader(kafka: &Kafka, subscription: &Subscription) -> Box<dyn Deliveries> {
    let trying = async {
        loop {
            let begun = async {
                if subscription.group.is_some() {
                    kafka.declare(&declaration(subscription)).await?;
                }
                kafka.subscribe(subscription).await
            };
            match begun.await {
                Err(error) if error.is_temporary() => tokio::time::sleep(Duration::from_millis(100)).await,
                begun => break begun.unwrap(),
            }
        }
    };
    tokio::time::timeout(PATIENCE, trying).await.unwrap()
}

/// Publishes until everything was taken, as a service does with what was given back.
pub(crate) async fn publish(kafka: &Kafka, mut batch: Vec<Outgoing>) {
    let publishing = async {
        while let Err(error) = kafka.publish(batch.clone()).await {
            assert!(error.is_temporary(), "publishing failed: {}", msgkit::Chain(&error));
            batch = error.into_rejected().into_iter().map(|rejected| rejected.message).collect();
        }
    };
    tokio::time::timeout(PATIENCE, publishing).await.unwrap();
}

pub(crate) fn text(delivery: &Delivery) -> String {
    delivery.message().envelope().map_or_else(
        || "(malformed)".to_owned(),
        |envelope| String::from_utf8_lossy(envelope.payload()).trim_matches('"').to_owned(),
    )
}

/// The next `count` messages.
pub(crate) async fn take(deliveries: &mut dyn Deliveries, count: usize) -> Vec<Delivery> {
    let mut came = VecDeque::new();
    let taking = async {
        while came.len() < count {
            let missing = count - came.len();
            if let Err(error) = deliveries.receive(missing, &mut came).await {
                assert!(error.is_temporary(), "receiving failed: {}", msgkit::Chain(&error));
            }
        }
    };
    if tokio::time::timeout(PATIENCE, taking).await.is_err() {
        panic!("{} of {count} came: {:?}", came.len(), came.iter().map(text).collect::<Vec<_>>());
    }
    came.into()
}

/// The texts of what comes until all of `wanted` have come, settled; repeated ones too.
pub(crate) async fn all(deliveries: &mut dyn Deliveries, wanted: &[String]) -> Vec<String> {
    let mut missing: std::collections::BTreeSet<&String> = wanted.iter().collect();
    let mut came = Vec::new();
    while !missing.is_empty() {
        for delivery in take(deliveries, 1).await {
            let text = text(&delivery);
            missing.remove(&text);
            came.push(text);
            delivery.ack();
        }
    }
    came
}

pub(crate) fn numbered(prefix: &str, count: usize) -> Vec<String> {
    (0..count).map(|n| format!("{prefix}{n:05}")).collect()
}

//! What the tests share: envelopes, and receiving with a deadline that only a broken transport reaches.
#![allow(dead_code, reason = "each test binary uses its part")]

use std::collections::VecDeque;
use std::path::Path;
use std::time::Duration;

use bytes::Bytes;
use msgkit::envelope::{Clock, ContentType};
use msgkit::transport::{
    Declaration, Deliveries, Delivery, Destination, Options, Outgoing, Subscription, TransportUrl,
};
use msgkit::{Envelope, Group, Timestamp, Topic};
use msgkit_transport_sqlite::{Sqlite, SqliteConfig};

/// What nothing that works ever takes.
pub(crate) const DEADLINE: Duration = Duration::from_secs(60);

pub(crate) fn config(options: &str) -> SqliteConfig {
    let url = TransportUrl::parse("sqlite:x").unwrap();
    Options::from_toml("the test", options).unwrap().read(&url).unwrap()
}

pub(crate) fn open(file: &Path, options: &str) -> Sqlite {
    Sqlite::with(file, config(options), Clock::system()).unwrap()
}

pub(crate) fn group(name: &str) -> Group {
    Group::new(name).unwrap()
}

pub(crate) fn subscription(name: &str, pattern: &str) -> Subscription {
    Subscription::group(group(name), [pattern.parse().unwrap()])
}

pub(crate) fn declaration(subscription: Subscription) -> Declaration {
    Declaration::Group { subscription, retry_steps: Vec::new(), dead_letters: true }
}

pub(crate) fn envelope(topic: &str, text: &str) -> Envelope {
    let topic: Topic = topic.parse().unwrap();
    let payload = Bytes::from(format!("\"{text}\""));
    Envelope::new("test", "test.said", topic, ContentType::Json, payload, Timestamp::now())
}

pub(crate) fn keyed(topic: &str, key: &str, text: &str) -> Envelope {
    let mut envelope = envelope(topic, text);
    envelope.set_key(Some(key.into()));
    envelope
}

pub(crate) fn message(topic: &str, text: &str) -> Outgoing {
    Outgoing::to_topic(envelope(topic, text))
}

pub(crate) fn retry(name: &str, envelope: Envelope, delay: Duration) -> Outgoing {
    let mut envelope = envelope;
    envelope.set_not_before(Some(Timestamp::now().after(delay)));
    Outgoing::new(Destination::Retry { group: group(name), step: 1, delay }, envelope)
}

pub(crate) fn text(delivery: &Delivery) -> String {
    let payload = delivery.message().envelope().expect("an envelope").payload();
    String::from_utf8_lossy(payload).trim_matches('"').to_owned()
}

/// Receives until there are `count`.
pub(crate) async fn receive(deliveries: &mut dyn Deliveries, count: usize) -> Vec<Delivery> {
    let mut received = VecDeque::new();
    let all = async {
        while received.len() < count {
            deliveries.receive(count - received.len(), &mut received).await.unwrap();
        }
    };
    tokio::time::timeout(DEADLINE, all).await.expect("the messages come");
    received.into()
}

/// Receives `count` and says what is in them, without settling.
pub(crate) async fn texts(deliveries: &mut dyn Deliveries, count: usize) -> (Vec<String>, Vec<Delivery>) {
    let received = receive(deliveries, count).await;
    (received.iter().map(text).collect(), received)
}

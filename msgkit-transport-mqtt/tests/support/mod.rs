//! What the tests of this crate have in common.

#![allow(dead_code, clippy::unwrap_used)] // Each test binary uses a part of it; a panic is how a test fails.

use std::collections::VecDeque;
use std::time::Duration;

use bytes::Bytes;
use msgkit::envelope::{Clock, ContentType};
use msgkit::transport::{Declaration, Deliveries, Delivery, Outgoing, Subscription, Transport, TransportUrl};
use msgkit::{Envelope, Group};
use msgkit_transport_mqtt::{Mqtt, MqttConfig};

/// How long a test waits for what must come.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

/// A transport of the broker at `address`, its names below `prefix`.
pub(crate) fn mqtt(address: &str, prefix: &str, change: impl FnOnce(&mut MqttConfig)) -> Mqtt {
    let mut config = MqttConfig::default();
    config.prefix = prefix.to_owned();
    config.client_id = prefix.to_owned();
    config.takeover_after = Duration::from_millis(200);
    // The machine may stand still for a while.
    config.connect_timeout = Duration::from_secs(30);
    change(&mut config);
    let address = if address.contains("://") { address.to_owned() } else { format!("mqtt://{address}") };
    let url = TransportUrl::parse(&address).unwrap();
    Mqtt::with(&url, config, Clock::system()).unwrap()
}

pub(crate) fn message(topic: &str, text: &str) -> Outgoing {
    Outgoing::to_topic(Envelope::new(
        "test",
        "test.text",
        topic.parse().unwrap(),
        ContentType::Json,
        Bytes::from(format!("\"{text}\"")),
        Clock::system().now(),
    ))
}

pub(crate) fn text(delivery: &Delivery) -> String {
    match delivery.message().envelope() {
        Some(envelope) => String::from_utf8_lossy(envelope.payload()).trim_matches('"').to_owned(),
        None => format!("malformed: {delivery:?}"),
    }
}

pub(crate) fn group(name: &str, pattern: &str) -> Subscription {
    Subscription::group(Group::new(name.to_owned()).unwrap(), [pattern.parse().unwrap()])
}

pub(crate) fn declaration(subscription: &Subscription) -> Vec<Declaration> {
    vec![Declaration::Group {
        subscription: subscription.clone(),
        retry_steps: Vec::new(),
        dead_letters: false,
    }]
}

/// Numbers as texts.
pub(crate) fn numbered(count: usize) -> Vec<String> {
    (0..count).map(|n| format!("{n:05}")).collect()
}

pub(crate) async fn publish(mqtt: &Mqtt, topic: &str, texts: &[String]) {
    use msgkit::transport::Publisher as _;
    let batch = texts.iter().map(|text| message(topic, text)).collect();
    if let Err(error) = mqtt.publish(batch).await {
        panic!("publishing failed: {}", msgkit::Chain(&error));
    }
}

/// The next `count` messages.
pub(crate) async fn take(deliveries: &mut dyn Deliveries, count: usize) -> Vec<Delivery> {
    let mut came = VecDeque::new();
    let taking = async {
        while came.len() < count {
            let missing = count - came.len();
            deliveries.receive(missing, &mut came).await.unwrap();
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
        let mut next = VecDeque::new();
        match tokio::time::timeout(PATIENCE, deliveries.receive(64, &mut next)).await {
            Ok(received) => received.unwrap(),
            Err(_) => panic!("{} came, and never: {missing:?}", came.len()),
        }
        for delivery in next {
            let text = text(&delivery);
            missing.remove(&text);
            came.push(text);
            delivery.ack();
        }
    }
    came
}

/// Asserts that nothing comes for a moment.
pub(crate) async fn nothing(deliveries: &mut dyn Deliveries, why: &str) {
    let mut came = VecDeque::new();
    let _ = tokio::time::timeout(Duration::from_millis(300), deliveries.receive(1, &mut came)).await;
    assert!(came.is_empty(), "{why}, yet {:?} came", came.iter().map(text).collect::<Vec<_>>());
}

/// Waits until `done` says so.
pub(crate) async fn until(what: &str, mut done: impl FnMut() -> bool) {
    let waiting = async {
        while !done() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    assert!(tokio::time::timeout(PATIENCE, waiting).await.is_ok(), "never: {what}");
}

/// Declared and subscribed.
pub(crate) async fn reader(mqtt: &Mqtt, subscription: &Subscription) -> Box<dyn Deliveries> {
    use msgkit::transport::Subscriber as _;
    if subscription.group.is_some() {
        mqtt.declare(&declaration(subscription)).await.unwrap();
    }
    // A connection may break while it takes up a client id; a service tries what is temporary again, and so does this.
    let trying = async {
        loop {
            match mqtt.subscribe(subscription).await {
                Err(error) if error.is_temporary() => tokio::time::sleep(Duration::from_millis(50)).await,
                subscribed => break subscribed.unwrap(),
            }
        }
    };
    tokio::time::timeout(PATIENCE, trying).await.unwrap()
}

/// A client of another kind that looks at one topic.
pub(crate) struct Watching(rumqttc::v5::EventLoop);

impl Watching {
    /// Subscribed when it returns.
    pub(crate) async fn begin(url: &str, topic: &str) -> Result<Self, Box<dyn std::error::Error>> {
        use rumqttc::v5::mqttbytes::{QoS, v5::Packet};
        use rumqttc::v5::{AsyncClient, Event, MqttOptions};

        let port = url.rsplit(':').next().ok_or("a port")?.parse()?;
        let name = format!("look-{}", fastrand::u64(..));
        let (client, mut events) = AsyncClient::new(MqttOptions::new(name, "127.0.0.1", port), 4);
        client.subscribe(topic, QoS::AtLeastOnce).await?;
        let subscribing = async {
            while !matches!(events.poll().await?, Event::Incoming(Packet::SubAck(_))) {}
            Ok::<(), rumqttc::v5::ConnectionError>(())
        };
        tokio::time::timeout(PATIENCE, subscribing).await??;
        Ok(Self(events))
    }

    /// Waits for what `is_it` is looking for.
    pub(crate) async fn until(
        &mut self,
        is_it: impl Fn(&str) -> bool,
    ) -> Result<(), Box<dyn std::error::Error>> {
        use rumqttc::v5::Event;
        use rumqttc::v5::mqttbytes::v5::Packet;

        let waiting = async {
            loop {
                if let Event::Incoming(Packet::Publish(came)) = self.0.poll().await?
                    && is_it(&String::from_utf8_lossy(&came.payload))
                {
                    return Ok::<(), rumqttc::v5::ConnectionError>(());
                }
            }
        };
        tokio::time::timeout(PATIENCE, waiting).await??;
        Ok(())
    }
}

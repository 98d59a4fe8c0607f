//! What the tests have in common.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use msgkit::envelope::{Clock, ContentType};
use msgkit::transport::{
    Declaration, Deliveries, Delivery, Outgoing, Publisher as _, Subscription, Transport as _, TransportUrl,
};
use msgkit::{Envelope, Group};
use msgkit_testing::brokers::{BrokerError, VirtualHost};
use msgkit_transport_amqp::{Amqp, AmqpConfig};

pub(crate) type Tested = Result<(), Box<dyn std::error::Error>>;

/// How long a test waits for what must come: a RabbitMQ that restarts on a busy machine takes its time.
pub(crate) const PATIENCE: Duration = Duration::from_secs(120);

/// What `start` gave; `None`, and a word, where RabbitMQ is not installed.
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

pub(crate) fn amqp(url: &str, change: impl FnOnce(&mut AmqpConfig)) -> Amqp {
    let mut config = AmqpConfig::default();
    change(&mut config);
    match TransportUrl::parse(url).and_then(|url| Amqp::with(&url, config, Clock::system())) {
        Ok(amqp) => amqp,
        Err(error) => panic!("{}", msgkit::Chain(&error)),
    }
}

pub(crate) fn message(text: &str) -> Outgoing {
    let topic = match "a.b".parse() {
        Ok(topic) => topic,
        Err(error) => panic!("{error}"),
    };
    let payload = Bytes::from(text.to_owned());
    Outgoing::to_topic(Envelope::new(
        "test",
        "test.text",
        topic,
        ContentType::Json,
        payload,
        Clock::system().now(),
    ))
}

pub(crate) fn subscription(group: &str) -> Result<Subscription, Box<dyn std::error::Error>> {
    Ok(Subscription::group(Group::new(group.to_owned())?, ["a.b".parse()?]))
}

pub(crate) async fn declare(amqp: &Amqp, group: &str) -> Result<Subscription, Box<dyn std::error::Error>> {
    let subscription = subscription(group)?;
    let declaration = Declaration::Group {
        subscription: subscription.clone(),
        retry_steps: Vec::new(),
        dead_letters: true,
    };
    amqp.declare(&[declaration]).await?;
    Ok(subscription)
}

/// Text and id of everything that was handled.
pub(crate) type Handled = Arc<Mutex<Vec<(String, String)>>>;

/// Handles what comes until it ends.
pub(crate) fn handle(mut deliveries: Box<dyn Deliveries>) -> (Handled, tokio::task::JoinHandle<()>) {
    let handled = Handled::default();
    let ledger = handled.clone();
    let task = tokio::spawn(async move {
        let mut came = VecDeque::new();
        loop {
            if let Err(error) = deliveries.receive(64, &mut came).await {
                eprintln!("receiving ends: {}", msgkit::Chain(&error));
                return;
            }
            for delivery in came.drain(..) {
                if let (Some(envelope), Ok(mut ledger)) = (delivery.message().envelope(), ledger.lock()) {
                    let text = String::from_utf8_lossy(envelope.payload()).into_owned();
                    ledger.push((text, envelope.id().to_string()));
                }
                delivery.ack();
            }
        }
    });
    (handled, task)
}

/// How often each text came, all of them under one id.
pub(crate) fn counted(handled: &Handled) -> BTreeMap<String, usize> {
    let mut ids: BTreeMap<String, Vec<String>> = BTreeMap::new();
    if let Ok(handled) = handled.lock() {
        for (text, id) in handled.iter() {
            ids.entry(text.clone()).or_default().push(id.clone());
        }
    }
    for (text, ids) in &ids {
        assert!(ids.iter().all(|id| *id == ids[0]), "{text} came under several ids: {ids:?}");
    }
    ids.into_iter().map(|(text, ids)| (text, ids.len())).collect()
}

pub(crate) async fn until(what: &str, mut done: impl FnMut() -> bool) {
    let waiting = async {
        while !done() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    assert!(tokio::time::timeout(PATIENCE, waiting).await.is_ok(), "never: {what}");
}

/// Ends both connections of a transport, whose list comes a moment late.
pub(crate) async fn break_connections(vhost: &VirtualHost) {
    let mut broken = 0;
    until("the connections break", || {
        broken += vhost.close_connections().unwrap_or_default();
        broken >= 2
    })
    .await;
}

/// Publishes until it is taken; how often it was not.
pub(crate) async fn publish_until_taken(transport: &Amqp, text: &str) -> usize {
    let mut refused = 0;
    let one = message(text);
    while transport.publish(vec![one.clone()]).await.is_err() {
        refused += 1;
        assert!(refused < 50, "{text} is never taken");
    }
    refused
}

pub(crate) fn text_of(delivery: &Delivery) -> String {
    let envelope = delivery.message().envelope();
    envelope.map(|envelope| String::from_utf8_lossy(envelope.payload()).into_owned()).unwrap_or_default()
}

/// The `host:port` of a url with user and virtual host.
pub(crate) fn host(url: &str) -> &str {
    let rest = url.rsplit('@').next().unwrap_or(url);
    rest.split('/').next().unwrap_or(rest)
}

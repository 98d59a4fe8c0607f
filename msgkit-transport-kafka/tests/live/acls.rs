//! What a broker's ACLs forbid, and that it goes on once it is allowed.

use std::collections::{BTreeSet, VecDeque};
use std::time::Duration;

use msgkit::transport::{
    Publisher as _, Subscriber as _, Subscription, Transport as _, TransportError, TransportErrorKind,
};
use msgkit_testing::brokers::{self, Denied};
use msgkit_transport_kafka::Kafka;

use super::bench::{PATIENCE, all, declaration, group, message, publish, reader, text, there};
use crate::support;

const USER: &str = "app";
/// Between two tries of what may be allowed by now.
const SOON: Duration = Duration::from_millis(50);

fn broker() -> Option<brokers::Kafka> {
    support::show_logs();
    there(brokers::Kafka::options().user(USER, "word").acls().start())
}

fn said(error: &TransportError) -> String {
    let said = msgkit::Chain(error).to_string();
    assert_eq!(error.kind(), TransportErrorKind::Refused, "{said}");
    said
}

/// Declares the group; a broker that has just begun may ask for patience.
async fn declared(kafka: &Kafka, subscription: &Subscription) {
    let trying = async {
        while let Err(error) = kafka.declare(&declaration(subscription)).await {
            assert!(error.is_temporary(), "{}", msgkit::Chain(&error));
            tokio::time::sleep(SOON).await;
        }
    };
    within(trying).await;
}

/// Begins to read until that is refused, and answers how: with the beginning or with what is received. A broker acts by its rules soon,
/// not at once.
async fn refused(kafka: &Kafka, subscription: &Subscription) -> String {
    let refused = async {
        loop {
            let mut deliveries = match kafka.subscribe(subscription).await {
                Ok(deliveries) => deliveries,
                Err(error) if error.is_temporary() => {
                    tokio::time::sleep(SOON).await;
                    continue;
                }
                Err(error) => return said(&error),
            };
            let mut into = VecDeque::new();
            loop {
                match deliveries.receive(1, &mut into).await {
                    Err(error) if error.is_temporary() => tokio::time::sleep(SOON).await,
                    Err(error) => return said(&error),
                    // Not settled, so it comes again.
                    Ok(()) => break,
                }
            }
        }
    };
    tokio::time::timeout(PATIENCE, refused).await.expect("the refusal is told")
}

/// Begins to read as soon as that is allowed, and answers what comes until `wanted` has come.
async fn allowed(kafka: &Kafka, subscription: &Subscription, wanted: &[&str]) {
    let mut missing: BTreeSet<&str> = wanted.iter().copied().collect();
    let reading = async {
        while !missing.is_empty() {
            let Ok(mut deliveries) = kafka.subscribe(subscription).await else {
                tokio::time::sleep(SOON).await;
                continue;
            };
            let mut into = VecDeque::new();
            while !missing.is_empty() && deliveries.receive(1, &mut into).await.is_ok() {
                for delivery in into.drain(..) {
                    missing.remove(text(&delivery).as_str());
                    delivery.ack();
                }
            }
            deliveries.close().await.unwrap();
        }
    };
    tokio::time::timeout(PATIENCE, reading).await.expect("it goes on");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_topic_that_may_not_be_read_is_named_and_goes_on_once_it_may() {
    let Some(broker) = broker() else { return };
    let kafka = support::kafka(broker.url(), support::quick("t.")).unwrap();
    let (closed, wildcard) = (group("closed", "a.closed"), group("all", "a.*"));
    declared(&kafka, &group("open", "a.open")).await;
    declared(&kafka, &closed).await;
    declared(&kafka, &wildcard).await;
    let read = Denied::Read("t.a.closed");
    broker.deny(USER, read).unwrap();
    publish(&kafka, vec![message("a.closed", None, "1")]).await;
    let why = refused(&kafka, &closed).await;
    assert!(why.contains("`t.a.closed`") && why.contains("may not do this"), "{why}");
    // Whoever reads by a wildcard gets the others.
    let mut everything = reader(&kafka, &wildcard).await;
    publish(&kafka, vec![message("a.open", None, "2")]).await;
    assert_eq!(all(&mut *everything, &["2".to_owned()]).await, ["2"]);
    broker.allow(USER, read).unwrap();
    assert_eq!(all(&mut *everything, &["1".to_owned()]).await, ["1"], "and this one once it is allowed");
    everything.close().await.unwrap();
    allowed(&kafka, &closed, &["1"]).await;
    kafka.close().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_may_not_be_written_is_given_back_alone() {
    let Some(broker) = broker() else { return };
    let kafka = support::kafka(broker.url(), support::quick("t.")).unwrap();
    let wildcard = group("all", "a.*");
    for topic in ["a.open", "a.closed"] {
        declared(&kafka, &group("g", topic)).await;
    }
    declared(&kafka, &wildcard).await;
    let write = Denied::Write("t.a.closed");
    broker.deny(USER, write).unwrap();
    let error = within(async {
        loop {
            let batch = vec![message("a.open", None, "1"), message("a.closed", None, "2")];
            match kafka.publish(batch).await {
                Err(error) if error.kind() == TransportErrorKind::Refused => return error,
                _ => tokio::time::sleep(SOON).await,
            }
        }
    })
    .await;
    let why = msgkit::Chain(&error).to_string();
    assert!(why.contains("`t.a.closed`"), "{why}");
    let mut back: Vec<_> = error.into_rejected().into_iter().map(|rejected| rejected.message).collect();
    let topics: Vec<_> = back.iter().map(|message| message.envelope.topic().as_str()).collect();
    assert_eq!(topics, ["a.closed"]);
    broker.allow(USER, write).unwrap();
    within(async {
        while let Err(error) = kafka.publish(back).await {
            back = error.into_rejected().into_iter().map(|rejected| rejected.message).collect();
            tokio::time::sleep(SOON).await;
        }
    })
    .await;
    allowed(&kafka, &wildcard, &["1", "2"]).await;
    kafka.close().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_group_that_may_not_be_joined_is_named() {
    let Some(broker) = broker() else { return };
    let kafka = support::kafka(broker.url(), support::quick("t.")).unwrap();
    let wanted = group("g", "a.b");
    declared(&kafka, &wanted).await;
    publish(&kafka, vec![message("a.b", None, "1")]).await;
    let member = Denied::Group("t.g");
    broker.deny(USER, member).unwrap();
    let why = refused(&kafka, &wanted).await;
    assert!(why.contains("`t.g`") && why.contains("may not be a member"), "{why}");
    broker.allow(USER, member).unwrap();
    allowed(&kafka, &wanted, &["1"]).await;
    kafka.close().await.unwrap();
}

async fn within<T>(future: impl Future<Output = T>) -> T {
    tokio::time::timeout(PATIENCE, future).await.expect("in time")
}

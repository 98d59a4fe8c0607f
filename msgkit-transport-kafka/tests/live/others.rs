//! What others write: tombstones, null headers, names that are no text; and topics that lie elsewhere.

use std::collections::BTreeSet;

use bytes::Bytes;
use msgkit::envelope::{NativeHeaders, NativeValue};
use msgkit::transport::{Incoming, Operate as _, Publisher as _, Transport as _};
use msgkit_transport_kafka::{DestinationRule, Unkeyed};
use rdkafka::ClientConfig;
use rdkafka::message::{Header, OwnedHeaders};
use rdkafka::producer::{BaseProducer, BaseRecord, Producer as _};

use super::bench::{declaration, group, message, reader, shared, take, text};
use crate::support;

/// A null value stays one, and so do null, repeated and binary headers, through a dead letter too.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tombstones_and_null_headers_survive() {
    let Some((url, prefix)) = shared("null") else { return };
    let kafka = support::kafka(&url, support::quick(&prefix)).unwrap();
    let mut deliveries = reader(&kafka, &group("g", "a.b")).await;
    let mut tombstone = super::bench::envelope("a.b", Some("k"), "");
    tombstone.set_payload(None);
    let mut native = NativeHeaders::new();
    native.push("nothing", NativeValue::Null);
    native.push("twice", "1");
    native.push("twice", "2");
    native.push("bytes", Bytes::from_static(b"\xff\x00"));
    native.push("empty", "");
    tombstone.set_native(native.clone());
    kafka.publish(vec![msgkit::transport::Outgoing::to_topic(tombstone.clone())]).await.unwrap();
    let came = take(&mut *deliveries, 1).await.remove(0);
    let envelope = came.message().envelope().unwrap().clone();
    assert_eq!(envelope, tombstone);
    assert!(envelope.is_null());
    // A dead letter lies in a compacted topic, where a null value would delete it.
    let letters = msgkit::transport::Destination::DeadLetter(msgkit::Group::new("g").unwrap());
    let mut dead = envelope.clone();
    dead.set_dead_letter(Some(msgkit::envelope::DeadLetter::new(
        msgkit::envelope::DeadLetterKind::Handler,
        "it failed",
        msgkit::Timestamp::now(),
    )));
    kafka.publish(vec![msgkit::transport::Outgoing::new(letters, dead.clone())]).await.unwrap();
    let listed = kafka.dead_letters(&msgkit::Group::new("g").unwrap(), None, 10).await.unwrap();
    let letter = listed[0].message.envelope().unwrap();
    assert!(letter.is_null());
    assert_eq!(letter.native(), &native);
    came.ack();
    // Of a producer that knows nothing of msgkit, with a value and without.
    let topic = "a.b".parse().unwrap();
    kafka.publish_foreign(&topic, None, &native).await.unwrap();
    let came = take(&mut *deliveries, 1).await.remove(0);
    let Incoming::Malformed(malformed) = came.message() else { panic!("no event: {came:?}") };
    assert_eq!((malformed.payload.as_ref(), &malformed.native), (None, &native));
    came.ack();
    deliveries.close().await.unwrap();
    kafka.close().await.unwrap();
}

/// Several topics in one Kafka topic of another name, read by pattern, each message with its own topic.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn destinations_send_topics_elsewhere() {
    let Some((url, prefix)) = shared("elsewhere") else { return };
    let mut config = support::quick(&prefix);
    let rule = |matches: &str| DestinationRule {
        matches: matches.parse().unwrap(),
        topic: format!("{prefix}fleet"),
    };
    config.destinations = vec![rule("device.>")];
    let kafka = support::kafka(&url, config).unwrap();
    let mut one = reader(&kafka, &group("one", "device.7.*")).await;
    let mut everything = reader(&kafka, &group("all", ">")).await;
    let topics = ["device.7.telemetry", "device.8.telemetry", "orders.created"];
    kafka.publish(topics.iter().map(|topic| message(topic, Some("k"), topic)).collect()).await.unwrap();
    let came = take(&mut *one, 1).await.remove(0);
    assert_eq!((text(&came).as_str(), came.message().topic().as_str()), (topics[0], topics[0]));
    let position = came.position().map(ToString::to_string).unwrap_or_default();
    assert!(position.starts_with(&format!("{prefix}fleet/")), "{position}");
    came.ack();
    let mut came: Vec<String> = take(&mut *everything, 3).await.iter().map(text).collect();
    came.sort();
    assert_eq!(came, topics);
    kafka.close().await.unwrap();
}

/// A record that names no topic in a Kafka topic that several share: of which one it is nobody can tell, so every group
/// that reads there gets it, and a listing shows it. The Kafka topic's own name matches no pattern.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_names_no_topic_is_delivered() {
    let Some((url, prefix)) = shared("nameless") else { return };
    let mut config = support::quick(&prefix);
    let fleet = format!("{prefix}fleet");
    config.destinations =
        vec![DestinationRule { matches: "device.>".parse().unwrap(), topic: fleet.clone() }];
    let kafka = support::kafka(&url, config).unwrap();
    let mapped = group("mapped", "device.>");
    // A place with a dynamic segment (here one that Kafka's names cannot hold) implies none of the topics that lie there.
    let mut placed = group("placed", "unit.7.raw");
    placed.places = vec!["unit.~5F.raw".parse().unwrap()];
    for (wanted, at, name) in [(&mapped, "device.7.raw", "fleet"), (&placed, "unit.~5F.raw", "unit._.raw")] {
        kafka.declare(&declaration(wanted)).await.unwrap();
        let at = at.parse().unwrap();
        kafka.publish_foreign(&at, Some(Bytes::from_static(b"raw")), &NativeHeaders::new()).await.unwrap();
        // An event, of a producer that knows no `ce_topic`.
        foreign_event(&url, &format!("{prefix}{name}"));
        let name = wanted.group.as_ref().unwrap();
        assert_eq!(kafka.peek(name, None, 10).await.unwrap().len(), 2, "{name} shows both");
        let mut deliveries = reader(&kafka, wanted).await;
        let came = take(&mut *deliveries, 2).await;
        let events = came.iter().filter(|delivery| delivery.message().envelope().is_some()).count();
        assert_eq!(events, 1, "{came:?}");
        came.into_iter().for_each(msgkit::transport::Delivery::ack);
        deliveries.close().await.unwrap();
    }
    kafka.close().await.unwrap();
}

/// An event without a topic, by a producer that knows nothing of msgkit.
fn foreign_event(url: &str, topic: &str) {
    let servers = url.trim_start_matches("kafka://");
    let producer: BaseProducer = ClientConfig::new().set("bootstrap.servers", servers).create().unwrap();
    let attributes = [("ce_specversion", "1.0"), ("ce_id", "1"), ("ce_source", "s"), ("ce_type", "t")];
    let headers = attributes
        .into_iter()
        .fold(OwnedHeaders::new(), |all, (key, value)| all.insert(Header { key, value: Some(value) }));
    producer.send(BaseRecord::<(), [u8]>::to(topic).payload(b"{}").headers(headers)).unwrap();
    producer.flush(super::bench::PATIENCE).unwrap();
}

/// A roll-out: the new version takes one more pattern, whose messages share the Kafka topic. Kafka gives the old member its
/// share of them, and what no member takes besides, which stops nobody.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_member_hands_out_what_its_group_takes() {
    let Some((url, prefix)) = shared("rollout") else { return };
    let mut config = support::quick(&prefix);
    config.destinations =
        vec![DestinationRule { matches: "device.>".parse().unwrap(), topic: format!("{prefix}fleet") }];
    let (before, after) =
        (support::kafka(&url, config.clone()).unwrap(), support::kafka(&url, config).unwrap());
    let old = group("g", "device.7.*");
    let mut new = old.clone();
    new.patterns.push("device.8.*".parse().unwrap());
    let mut one = reader(&before, &old).await;
    let mut two = reader(&after, &new).await;
    let mut next = async || {
        tokio::select! {
            mut came = take(&mut *one, 1) => (0, came.remove(0)),
            mut came = take(&mut *two, 1) => (1, came.remove(0)),
        }
    };
    // Both have partitions once both got something that both know.
    let mut have = [false, false];
    while have != [true, true] {
        let known = (0..12).map(|n| message("device.7.a", Some(&n.to_string()), "known"));
        after.publish(known.collect()).await.unwrap();
        for _ in 0..12 {
            let (member, delivery) = next().await;
            have[member] = true;
            delivery.ack();
        }
    }
    let foreign: Vec<_> = (0..3000).map(|n| message("device.9.a", Some(&n.to_string()), "foreign")).collect();
    after.publish(foreign).await.unwrap();
    let sent = super::bench::numbered("", 300);
    after.publish(sent.iter().map(|text| message("device.8.a", Some(text), text)).collect()).await.unwrap();
    // A partition that moves meanwhile brings some of them again.
    let (mut came, mut by_the_old) = (BTreeSet::new(), 0);
    while came.len() < sent.len() {
        let (member, delivery) = next().await;
        let text = text(&delivery);
        delivery.ack();
        if sent.contains(&text) && came.insert(text) && member == 0 {
            by_the_old += 1;
        }
    }
    assert!(by_the_old > 0, "Kafka gives it its share");
    let settled = async {
        while after.groups().await.unwrap()[0].waiting > 0 {
            tokio::time::sleep(std::time::Duration::from_millis(50)).await;
        }
    };
    tokio::time::timeout(super::bench::PATIENCE, settled).await.expect("what nobody takes is settled");
    for (mut deliveries, kafka) in [(one, before), (two, after)] {
        deliveries.close().await.unwrap();
        kafka.close().await.unwrap();
    }
}

/// `unkeyed = "spread"` uses every partition, the default one of them.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_has_no_key_goes_to_one_partition_or_to_all() {
    let Some((url, prefix)) = shared("unkeyed") else { return };
    for (unkeyed, name) in [(Unkeyed::Ordered, "ordered"), (Unkeyed::Spread, "spread")] {
        let mut config = support::quick(&format!("{prefix}{name}."));
        config.unkeyed = unkeyed;
        let kafka = support::kafka(&url, config).unwrap();
        let wanted = group("g", "a.b");
        kafka.declare(&declaration(&wanted)).await.unwrap();
        let mut deliveries = reader(&kafka, &wanted.with_prefetch(400)).await;
        for batch in 0..40 {
            let batch = (0..10).map(|n| message("a.b", None, &format!("{}", batch * 10 + n)));
            kafka.publish(batch.collect()).await.unwrap();
        }
        let came = take(&mut *deliveries, 400).await;
        let partition = |delivery: &msgkit::transport::Delivery| {
            let position = delivery.position().map(ToString::to_string).unwrap_or_default();
            position.rsplit('/').nth(1).unwrap_or_default().to_owned()
        };
        let partitions: std::collections::BTreeSet<String> = came.iter().map(partition).collect();
        let numbers: Vec<usize> = came.iter().map(|delivery| text(delivery).parse().unwrap()).collect();
        match unkeyed {
            Unkeyed::Ordered => {
                assert_eq!(partitions.len(), 1);
                assert!(numbers.is_sorted(), "{numbers:?}");
            }
            _ => assert_eq!(partitions.len(), 3),
        }
        came.into_iter().for_each(msgkit::transport::Delivery::ack);
        kafka.close().await.unwrap();
    }
}

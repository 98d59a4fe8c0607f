//! Static members: one that comes back in time gets its partitions back, and nobody else's work is disturbed.

use std::collections::BTreeSet;
use std::time::Duration;

use msgkit::transport::{Deliveries, Delivery, Publisher as _, Transport as _, TransportErrorKind};
use msgkit_transport_kafka::{Kafka, KafkaConfig};
use rdkafka::ClientConfig;
use rdkafka::consumer::{BaseConsumer, Consumer as _};

use super::bench::{group, message, reader, shared, take};
use crate::support;

const GROUP: &str = "named";

fn config(prefix: &str, instance: &str) -> KafkaConfig {
    let mut config = support::quick(prefix);
    config.partitions = 4;
    config.instance = instance.to_owned();
    // Longer than the whole test may take: nobody is given up.
    config.session_timeout = Duration::from_secs(300);
    config
}

/// The members that the coordinator knows.
fn members(url: &str, prefix: &str) -> BTreeSet<String> {
    let address = url.trim_start_matches("kafka://");
    let asker: BaseConsumer =
        ClientConfig::new().set("bootstrap.servers", address).set("group.id", "asker").create().unwrap();
    let list = asker.fetch_group_list(Some(&format!("{prefix}{GROUP}")), Duration::from_secs(30)).unwrap();
    list.groups()
        .iter()
        .flat_map(rdkafka::groups::GroupInfo::members)
        .map(|member| member.id().to_owned())
        .collect()
}

fn partition(delivery: &Delivery) -> String {
    let position = delivery.position().map(ToString::to_string).unwrap_or_default();
    position.rsplit('/').nth(1).unwrap_or_default().to_owned()
}

/// A message for every partition, by keys that are known to reach them all.
async fn publish(kafka: &Kafka, round: &str) {
    let batch = (0..40).map(|key| message("a.b", Some(&format!("k{key}")), round)).collect();
    kafka.publish(batch).await.unwrap();
}

async fn take_all(deliveries: &mut dyn Deliveries, count: usize) -> BTreeSet<String> {
    let came = take(deliveries, count).await;
    let partitions = came.iter().map(partition).collect();
    came.into_iter().for_each(Delivery::ack);
    partitions
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_that_comes_back_in_time_moves_nothing() {
    let Some((url, prefix)) = shared("static") else { return };
    let wanted = group(GROUP, "a.b").with_prefetch(100);
    let first = support::kafka(&url, config(&prefix, "first")).unwrap();
    let mut one = reader(&first, &wanted).await;
    let second = support::kafka(&url, config(&prefix, "second")).unwrap();
    let mut two = reader(&second, &wanted).await;
    // Both have what they will have once each has two partitions of the four: which, and how many messages that is.
    let mut rounds = 0;
    let (counts, partitions) = loop {
        publish(&first, "before").await;
        let mut missing: BTreeSet<String> = (0..40).map(|key| format!("k{key}")).collect();
        let (mut counts, mut places) = ([0, 0], [BTreeSet::new(), BTreeSet::new()]);
        while !missing.is_empty() {
            let (at, delivery) = tokio::select! {
                mut came = take(&mut *one, 1) => (0, came.remove(0)),
                mut came = take(&mut *two, 1) => (1, came.remove(0)),
            };
            if missing.remove(delivery.message().key().unwrap_or_default()) {
                counts[at] += 1;
                places[at].insert(partition(&delivery));
            }
            delivery.ack();
        }
        if places.each_ref().map(BTreeSet::len) == [2, 2] {
            break (counts, places);
        }
        rounds += 1;
        assert!(rounds < 20, "{places:?}");
    };
    two.close().await.unwrap();
    second.close().await.unwrap();
    let known = members(&url, &prefix);
    assert_eq!(known.len(), 2, "the one that is away is still a member: {known:?}");
    publish(&first, "away").await;
    // Its messages wait for it; the other has its own and no others.
    assert_eq!(take_all(&mut *one, counts[0]).await, partitions[0]);
    let second = support::kafka(&url, config(&prefix, "second")).unwrap();
    let mut two = reader(&second, &wanted).await;
    assert_eq!(take_all(&mut *two, counts[1]).await, partitions[1]);
    publish(&first, "after").await;
    assert_eq!(take_all(&mut *two, counts[1]).await, partitions[1]);
    assert_eq!(take_all(&mut *one, counts[0]).await, partitions[0]);
    for (mut deliveries, kafka) in [(one, first), (two, second)] {
        deliveries.close().await.unwrap();
        kafka.close().await.unwrap();
    }
}

/// Two processes of one name: the one that was there learns why it may not go on.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_name_that_two_have_is_refused() {
    let Some((url, prefix)) = shared("fenced") else { return };
    let wanted = group(GROUP, "a.b");
    let first = support::kafka(&url, config(&prefix, "same")).unwrap();
    let mut one = reader(&first, &wanted).await;
    let second = support::kafka(&url, config(&prefix, "same")).unwrap();
    let mut two = reader(&second, &wanted).await;
    let mut into = std::collections::VecDeque::new();
    let error =
        tokio::time::timeout(super::bench::PATIENCE, one.receive(1, &mut into)).await.unwrap().unwrap_err();
    let said = msgkit::Chain(&error).to_string();
    assert_eq!(error.kind(), TransportErrorKind::Refused, "{said}");
    assert!(said.contains("`instance`"), "{said}");
    publish(&second, "x").await;
    assert_eq!(take_all(&mut *two, 40).await.len(), 4);
    two.close().await.unwrap();
    second.close().await.unwrap();
    first.close().await.unwrap();
}

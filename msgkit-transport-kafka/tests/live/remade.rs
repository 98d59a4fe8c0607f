//! Topics that were deleted and made again: an offset that was written down means another record there, or none.

use std::collections::{BTreeSet, VecDeque};

use msgkit::transport::{Operate as _, Publisher as _, Transport as _, TransportErrorKind};
use rdkafka::ClientConfig;
use rdkafka::admin::{AdminClient, AdminOptions, NewTopic, TopicReplication};
use rdkafka::client::DefaultClientContext;
use rdkafka::consumer::{BaseConsumer, Consumer as _};

use msgkit_testing::brokers::Kafka;

use super::bench::{PATIENCE, all, declaration, group, message, numbered, reader, shared, text, there};
use crate::support;

/// Deletes the topic `name` and makes it again, with one partition, once the broker has forgotten it.
async fn remake(url: &str, name: &str) {
    let servers = url.trim_start_matches("kafka://");
    let native = ClientConfig::new().set("bootstrap.servers", servers).clone();
    let admin: AdminClient<DefaultClientContext> = native.create().unwrap();
    let options = AdminOptions::new().operation_timeout(Some(PATIENCE));
    admin.delete_topics(&[name], &options).await.unwrap().remove(0).unwrap();
    let made = async {
        loop {
            let topic = NewTopic::new(name, 1, TopicReplication::Fixed(1));
            if admin.create_topics(&[topic], &options).await.unwrap().remove(0).is_ok() {
                break;
            }
        }
        let asker: BaseConsumer = native.create().unwrap();
        while asker.fetch_watermarks(name, 0, PATIENCE).is_err() {}
    };
    tokio::time::timeout(PATIENCE, made).await.unwrap();
}

fn config(prefix: &str) -> msgkit_transport_kafka::KafkaConfig {
    let mut config = support::quick(prefix);
    config.partitions = 1;
    // Nobody looks which topics there are: what is fetched has to tell.
    config.topic_refresh = std::time::Duration::from_secs(3600);
    config
}

/// The group was declared behind twenty messages that are not there any more.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_log_that_ends_before_the_group_is_read_from_its_first_record() {
    let Some((url, prefix)) = shared("shorter") else { return };
    let kafka = support::kafka(&url, config(&prefix)).unwrap();
    let batch = |texts: &[String]| texts.iter().map(|text| message("a.b", Some("k"), text)).collect();
    kafka.publish(batch(&numbered("old", 20))).await.unwrap();
    let wanted = group("g", "a.b");
    kafka.declare(&declaration(&wanted)).await.unwrap();
    remake(&url, &format!("{prefix}a.b")).await;
    let sent = numbered("new", 10);
    kafka.publish(batch(&sent)).await.unwrap();
    assert_eq!(kafka.groups().await.unwrap()[0].waiting, 10);
    let mut deliveries = reader(&kafka, &wanted).await;
    assert_eq!(all(&mut *deliveries, &sent).await, sent);
    deliveries.close().await.unwrap();
    kafka.close().await.unwrap();
}

/// The group has read twenty messages, and listens while the topic is made again.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_topic_that_is_made_again_under_a_member_is_read_from_its_first_record() {
    let Some((url, prefix)) = shared("remade") else { return };
    let kafka = support::kafka(&url, config(&prefix)).unwrap();
    let batch = |texts: &[String]| texts.iter().map(|text| message("a.b", Some("k"), text)).collect();
    let wanted = group("g", "a.b");
    let mut deliveries = reader(&kafka, &wanted).await;
    let old = numbered("old", 20);
    kafka.publish(batch(&old)).await.unwrap();
    assert_eq!(all(&mut *deliveries, &old).await, old);
    deliveries.flush().await.unwrap();
    remake(&url, &format!("{prefix}a.b")).await;
    let sent = numbered("new", 40);
    // No more at first than the old log held: beyond that nobody can tell the new one from it.
    for part in sent.chunks(10) {
        kafka.publish(batch(part)).await.unwrap();
        assert_eq!(all(&mut *deliveries, part).await, part);
    }
    deliveries.flush().await.unwrap();
    deliveries.close().await.unwrap();
    assert_eq!(kafka.groups().await.unwrap()[0].waiting, 0);
    kafka.close().await.unwrap();
}

/// The old topic has had another leader before, so the client takes what it is told of the new one for outdated, and reads
/// nothing any more. Whoever holds the subscription begins it anew.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_topic_that_is_made_again_after_its_leader_has_changed_is_not_silent() {
    let Some(mut broker) = there(Kafka::options().start()) else { return };
    let url = broker.url().to_owned();
    let kafka = support::kafka(&url, config("t.")).unwrap();
    let batch = |texts: &[String]| texts.iter().map(|text| message("a.b", Some("k"), text)).collect();
    let wanted = group("g", "a.b");
    kafka.declare(&declaration(&wanted)).await.unwrap();
    let broker = tokio::task::spawn_blocking(move || broker.restart().map(|()| broker));
    let _broker = broker.await.unwrap().unwrap();
    let mut deliveries = reader(&kafka, &wanted).await;
    let old = numbered("old", 20);
    super::bench::publish(&kafka, batch(&old)).await;
    all(&mut *deliveries, &old).await;
    deliveries.flush().await.unwrap();
    remake(&url, "t.a.b").await;
    let sent = numbered("new", 10);
    super::bench::publish(&kafka, batch(&sent)).await;
    let mut missing: BTreeSet<String> = sent.into_iter().collect();
    let coming = async {
        let mut into = VecDeque::new();
        while !missing.is_empty() {
            match deliveries.receive(10, &mut into).await {
                Ok(()) => {}
                Err(error) => {
                    let said = msgkit::Chain(&error).to_string();
                    assert_eq!(error.kind(), TransportErrorKind::Internal, "{said}");
                    assert!(said.contains("`t.a.b` 0"), "{said}");
                    deliveries = reader(&kafka, &wanted).await;
                }
            }
            for delivery in into.drain(..) {
                missing.remove(&text(&delivery));
                delivery.ack();
            }
        }
    };
    tokio::time::timeout(PATIENCE, coming).await.expect("what is there is received");
    deliveries.close().await.unwrap();
    kafka.close().await.unwrap();
}

//! The framework's own topics, made by somebody who did not know what they are for.

use msgkit::transport::{Transport as _, TransportErrorKind};
use rdkafka::ClientConfig;
use rdkafka::admin::{AdminClient, AdminOptions, NewTopic, TopicReplication};
use rdkafka::client::DefaultClientContext;

use super::bench::{declaration, group, shared};
use crate::support;

/// What `declare` says where `name` was made so.
async fn declared(test: &str, name: &str, partitions: i32, settings: &[(&str, &str)]) -> Option<String> {
    let (url, prefix) = shared(test)?;
    let servers = url.trim_start_matches("kafka://");
    let admin: AdminClient<DefaultClientContext> =
        ClientConfig::new().set("bootstrap.servers", servers).create().unwrap();
    let name = format!("{prefix}{name}");
    let mut topic = NewTopic::new(&name, partitions, TopicReplication::Fixed(1));
    for (key, value) in settings {
        topic = topic.set(key, value);
    }
    admin.create_topics(&[topic], &AdminOptions::new()).await.unwrap().remove(0).unwrap();
    let kafka = support::kafka(&url, support::quick(&prefix)).unwrap();
    let error = kafka.declare(&declaration(&group("g", "a.b"))).await.unwrap_err();
    let said = msgkit::Chain(&error).to_string();
    assert_eq!(error.kind(), TransportErrorKind::Invalid, "{said}");
    assert!(said.contains(&format!("`{name}`")), "{said}");
    kafka.close().await.unwrap();
    Some(said)
}

/// Readers look into the first partition alone, so two thirds of the dead letters would be seen by nobody.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn dead_letters_in_several_partitions_are_refused() {
    let compact = [("cleanup.policy", "compact")];
    let Some(said) = declared("split", "msgkit.dead_letter.g", 3, &compact).await else { return };
    assert!(said.contains("3 partitions"), "{said}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn declarations_that_expire_are_refused() {
    let Some(said) = declared("expires", "msgkit.groups", 1, &[]).await else { return };
    assert!(said.contains("`cleanup.policy=compact`"), "{said}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn retry_copies_that_expire_are_refused() {
    let Some(said) = declared("retries", "msgkit.retry.g.1", 1, &[]).await else { return };
    assert!(said.contains("`retention.ms=-1`"), "{said}");
}

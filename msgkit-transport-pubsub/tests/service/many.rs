//! More topics than a connection has room for streams.

use std::collections::BTreeMap;

use msgkit::transport::{Delivery, Publisher as _, Subscriber as _, Transport as _};

use super::{group, message, pubsub, stand_in, support, take, text};

/// The client and the service let a connection have 100.
const TOPICS: usize = 120;

#[tokio::test(flavor = "multi_thread")]
async fn a_group_reads_more_topics_than_a_connection_has_streams() {
    let Some(stand_in) = stand_in() else { return };
    let pubsub = pubsub("many", support::config(stand_in.address()));
    let all: Vec<_> = (0..TOPICS).map(|n| message(&format!("a.{n}"), "k", &n.to_string())).collect();
    pubsub.publish(all.clone()).await.unwrap();
    let mut reader = pubsub.subscribe(&group().with_prefetch(TOPICS)).await.unwrap();
    // Those before nobody is owed.
    pubsub.publish(all).await.unwrap();
    let came = take(&mut *reader, TOPICS).await;
    let mut counts = BTreeMap::<String, usize>::new();
    for delivery in &came {
        assert_eq!(delivery.count(), 1);
        *counts.entry(text(delivery)).or_default() += 1;
    }
    assert_eq!(counts.len(), TOPICS, "each once: {counts:?}");
    came.into_iter().for_each(Delivery::ack);
    reader.flush().await.expect("the service takes every settlement");
    assert_eq!(pubsub.lost_leases(), 0);
    reader.close().await.unwrap();
    pubsub.close().await.unwrap();
}

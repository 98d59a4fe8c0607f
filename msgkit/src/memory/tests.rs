use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use super::*;
use crate::envelope::{ContentType, Envelope, Timestamp};
use crate::transport::{Delivery, Outgoing};

fn outgoing(topic: &str) -> Outgoing {
    let topic = Topic::new(topic).unwrap();
    Outgoing::to_topic(Envelope::new("t", "t", topic, ContentType::Json, "1".into(), Timestamp::now()))
}

fn subscription() -> Subscription {
    Subscription::group(Group::new("g").unwrap(), ["orders".parse().unwrap()])
}

/// The ids that are waiting, in order.
async fn received(memory: &Memory) -> Vec<String> {
    let mut deliveries = memory.subscribe(&subscription()).await.unwrap();
    let mut into: VecDeque<Delivery> = VecDeque::new();
    deliveries.receive(10, &mut into).await.unwrap();
    into.into_iter()
        .map(|delivery| {
            let id = delivery.message().envelope().unwrap().id().to_string();
            delivery.ack();
            id
        })
        .collect()
}

#[tokio::test]
async fn what_is_taken_at_once_is_held_like_anything_else() {
    let memory = Memory::new();
    memory.subscribe(&subscription()).await.unwrap();
    let first = outgoing("orders");
    memory.publish(vec![first.clone()]).await.unwrap();
    // Through a pointer, as a service has it.
    let shared: Arc<dyn Transport> = Arc::new(memory.clone());
    let second = outgoing("orders");
    assert!(shared.try_publish(second.clone(), Timestamp::now()).is_ok());
    assert_eq!(received(&memory).await, [first.envelope.id().to_string(), second.envelope.id().to_string()]);
}

#[tokio::test]
async fn what_has_to_wait_or_fails_is_not_taken_at_once() {
    let config = MemoryConfig { capacity: 2, ..MemoryConfig::default() };
    let memory = Memory::with(config, Clock::system());
    memory.subscribe(&subscription()).await.unwrap();
    let now = Timestamp::now();
    let refused = |message: Outgoing| {
        let id = message.envelope.id().clone();
        let left = memory.try_publish(message, now).unwrap_err();
        assert_eq!(left.envelope.id(), &id, "another message came back");
    };
    // Nobody has published to these yet: who takes them is found out on the long way.
    refused(outgoing("orders"));
    refused(outgoing("nobody"));
    memory.publish(vec![outgoing("orders")]).await.unwrap();
    memory.publish(vec![outgoing("nobody")]).await.unwrap();
    refused(outgoing("nobody"));
    let mut scheduled = outgoing("orders");
    scheduled.envelope.set_not_before(Some(now.after(Duration::from_secs(60))));
    refused(scheduled);
    assert!(memory.try_publish(outgoing("orders"), now).is_ok());
    // Full.
    refused(outgoing("orders"));
    assert_eq!(received(&memory).await.len(), 2);
    memory.close().await.unwrap();
    refused(outgoing("orders"));
}

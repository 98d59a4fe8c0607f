//! A signal never ends a service without a drain, whenever it comes.
#![cfg(unix)]
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a panic is how a test fails")]

use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use msgkit::memory::Memory;
use msgkit::transport::{
    Capabilities, Declaration, Deliveries, Health, Outgoing, PublishError, Publisher, Subscriber,
    Subscription, Transport, TransportError,
};
use msgkit::{Context, Message, Service};
use serde::{Deserialize, Serialize};
use tokio::sync::Notify;

#[derive(Debug, Serialize, Deserialize, Message)]
#[message(name = "test.said", topic = "test.said")]
struct Said {
    text: String,
}

/// A transport whose broker does not answer while a service starts.
#[derive(Debug, Default)]
struct Unanswered {
    memory: Memory,
    asked: Arc<Notify>,
}

#[async_trait]
impl Publisher for Unanswered {
    async fn publish(&self, batch: Vec<Outgoing>) -> Result<(), PublishError> {
        self.memory.publish(batch).await
    }
}

#[async_trait]
impl Subscriber for Unanswered {
    async fn subscribe(&self, subscription: &Subscription) -> Result<Box<dyn Deliveries>, TransportError> {
        self.memory.subscribe(subscription).await
    }
}

#[async_trait]
impl Transport for Unanswered {
    fn system(&self) -> &'static str {
        self.memory.system()
    }
    fn capabilities(&self) -> Capabilities {
        self.memory.capabilities()
    }
    async fn declare(&self, _: &[Declaration]) -> Result<(), TransportError> {
        self.asked.notify_one();
        std::future::pending().await
    }
    async fn health(&self) -> Health {
        self.memory.health().await
    }
    async fn close(&self) -> Result<(), TransportError> {
        self.memory.close().await
    }
}

#[tokio::test]
async fn a_signal_while_the_service_starts_breaks_off_the_start() {
    let transport = Unanswered::default();
    let asked = transport.asked.clone();
    let service =
        Service::new("shop").transport("memory", transport).on("g", |_: Said, _: Context| async { Ok(()) });
    let running = tokio::spawn(service.run());
    asked.notified().await;
    let sent = Command::new("kill").args(["-TERM", &std::process::id().to_string()]).status();
    assert!(sent.unwrap().success());
    let ended = tokio::time::timeout(Duration::from_secs(30), running).await;
    ended.expect("the signal is heard").unwrap().unwrap();
}

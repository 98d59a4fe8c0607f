//! A signal never ends a service without a drain, whenever it comes.
#![cfg(unix)]
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a panic is how a test fails")]

use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
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

/// A transport whose broker does not answer to one of the questions of a start.
#[derive(Debug, Clone)]
struct Unanswered {
    memory: Memory,
    asked: Arc<Notify>,
    /// The group whose subscription it does not answer to; none where it is the declaration.
    group: Option<&'static str>,
}

impl Unanswered {
    fn new(group: Option<&'static str>) -> Self {
        Self { memory: Memory::default(), asked: Arc::default(), group }
    }

    async fn stay_silent(&self) {
        self.asked.notify_one();
        std::future::pending::<()>().await;
    }
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
        if subscription.group.as_ref().is_some_and(|group| Some(group.as_str()) == self.group) {
            self.stay_silent().await;
        }
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
    async fn declare(&self, declarations: &[Declaration]) -> Result<(), TransportError> {
        if self.group.is_none() {
            self.stay_silent().await;
        }
        self.memory.declare(declarations).await
    }
    async fn health(&self) -> Health {
        self.memory.health().await
    }
    async fn close(&self) -> Result<(), TransportError> {
        self.memory.close().await
    }
}

/// A signal reaches the whole process: one test at a time.
static ALONE: tokio::sync::Mutex<()> = tokio::sync::Mutex::const_new(());

fn terminate() {
    let sent = Command::new("kill").args(["-TERM", &std::process::id().to_string()]).status();
    assert!(sent.unwrap().success());
}

async fn ends(running: tokio::task::JoinHandle<Result<(), msgkit::Error>>) {
    let ended = tokio::time::timeout(Duration::from_secs(30), running).await;
    ended.expect("the signal is heard").unwrap().unwrap();
}

#[tokio::test]
async fn a_signal_while_the_service_starts_breaks_off_the_start() {
    let _alone = ALONE.lock().await;
    let transport = Unanswered::new(None);
    let service = Service::new("shop")
        .transport("memory", transport.clone())
        .on("g", |_: Said, _: Context| async { Ok(()) });
    let running = tokio::spawn(service.run());
    transport.asked.notified().await;
    terminate();
    ends(running).await;
}

#[tokio::test]
async fn what_the_first_handler_has_in_hand_is_finished_though_the_second_never_started() {
    let _alone = ALONE.lock().await;
    let transport = Unanswered::new(Some("second"));
    let (begun, goes_on) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
    let handled = Arc::new(AtomicU32::new(0));
    let (tell, wait, counter) = (begun.clone(), goes_on.clone(), handled.clone());
    let first = move |_: Said, _: Context| {
        let (tell, wait, counter) = (tell.clone(), wait.clone(), counter.clone());
        async move {
            tell.notify_one();
            wait.notified().await;
            counter.fetch_add(1, Ordering::SeqCst);
            Ok(())
        }
    };
    let service = Service::new("shop")
        .transport("memory", transport.clone())
        .on("first", first)
        .on("second", |_: Said, _: Context| async { Ok(()) });
    let health = service.health();
    let running = tokio::spawn(service.run());
    transport.asked.notified().await;
    let said = Said { text: "hello".to_owned() };
    let envelope = msgkit::envelope_of(&said, &"test".into(), msgkit::Timestamp::now()).unwrap();
    transport.publish(vec![Outgoing::to_topic(envelope)]).await.unwrap();
    begun.notified().await;
    terminate();
    let draining = ("service".to_owned(), "draining".to_owned());
    while !running.is_finished() && !health.readiness().await.problems.contains(&draining) {
        tokio::task::yield_now().await;
    }
    goes_on.notify_one();
    ends(running).await;
    assert_eq!(handled.load(Ordering::SeqCst), 1, "not broken off");
}

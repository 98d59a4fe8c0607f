//! The test kit: rest without guesses, virtual time, real I/O, restarts, and the same test on a transport by its URL.
#![allow(clippy::unwrap_used, reason = "a test")]

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::Duration;

use msgkit::envelope::DeadLetterKind;
use msgkit::memory::{Memory, MemoryConfig};
use msgkit::transport::{
    Declaration, Factory, Options, Transport, TransportError, TransportErrorKind, TransportUrl,
};
use msgkit::{Context, Error, Message, Registry, Service};
use msgkit_testing::TestKit;
use msgkit_testing::decorate::{Decorate, Decorated};
use serde::{Deserialize, Serialize};

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, Message)]
#[message(name = "orders.placed", topic = "orders.placed")]
struct Placed {
    id: u32,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, Message)]
#[message(name = "orders.shipped", topic = "orders.shipped")]
struct Shipped {
    id: u32,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, Message)]
#[message(name = "orders.billed", topic = "orders.billed")]
struct Billed {
    id: u32,
}

/// Ships at once; bills at the third attempt, and never number 13.
fn shop() -> Service {
    Service::new("shop")
        .on("shipping", |order: Placed, _: Context| async move { Ok(Shipped { id: order.id }) })
        .on("billing", |shipped: Shipped, cx: Context| async move {
            if shipped.id == 13 || cx.attempt() < 3 {
                return Err(format!("attempt {} of {}", cx.attempt(), shipped.id).into());
            }
            Ok(Billed { id: shipped.id })
        })
}

/// What must be true of the shop wherever it runs.
async fn sells(mut kit: TestKit) -> Result<(), Error> {
    kit.publish(&Placed { id: 1 }).await?;
    kit.publish(&Placed { id: 2 }).await?;
    kit.settle().await;
    let mut billed: Vec<u32> = kit.published::<Billed>().iter().map(|billed| billed.id).collect();
    billed.sort_unstable();
    assert_eq!(billed, [1, 2]);
    assert_eq!(kit.published::<Shipped>().len(), 2);
    assert!(kit.published::<Placed>().is_empty(), "those are the test's own");
    assert!(kit.dead_letters("billing").await.is_empty());
    let shipped =
        kit.published_envelopes().into_iter().find(|envelope| envelope.kind() == Shipped::NAME).unwrap();
    assert_eq!(kit.attempts("billing", shipped.id()), 3);
    let history = kit.history(shipped.id());
    assert_eq!(history.iter().filter(|what| **what == "failed").count(), 2, "{history:?}");
    kit.finish().await
}

#[tokio::test]
async fn a_service_runs_in_memory() {
    sells(TestKit::start(shop).await.unwrap()).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn time_that_is_paused_already_is_fine() {
    sells(TestKit::start(shop).await.unwrap()).await.unwrap();
}

#[tokio::test]
async fn the_same_test_runs_on_a_transport_by_its_url() {
    sells(TestKit::at("memory://", &Registry::new(), shop).await.unwrap()).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn the_same_test_runs_on_several_threads_in_real_time() {
    sells(TestKit::at("memory://", &Registry::new(), shop).await.unwrap()).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn virtual_time_on_several_threads_is_refused() {
    let error = TestKit::start(shop).await.unwrap_err();
    assert!(error.to_string().contains("#[tokio::test]"), "{error}");
}

#[tokio::test]
async fn delays_take_no_time_and_are_kept() {
    let begun = std::time::Instant::now();
    let mut kit = TestKit::start(shop).await.unwrap();
    kit.publish(&Shipped { id: 13 }).await.unwrap();
    let before = kit.now();
    kit.settle().await;
    let letters = kit.dead_letters("billing").await;
    assert_eq!(letters.len(), 1);
    let facts = letters[0].dead_letter().unwrap();
    assert_eq!((facts.kind, facts.attempts), (DeadLetterKind::Handler, 18), "3 at once, 5 delayed rounds");
    assert!(kit.now().since(before) >= Duration::from_secs(1 + 2 + 4 + 8 + 16), "{}", kit.now());
    assert!(begun.elapsed() < Duration::from_secs(30), "it was no real time");
    kit.finish().await.unwrap();
}

/// A handler that waits for a thread longer than tokio's paused time would leave it.
#[tokio::test]
async fn real_work_in_a_handler_is_not_overtaken_by_virtual_time() {
    let service = || {
        Service::new("shop").on("shipping", |order: Placed, cx: Context| async move {
            // Whoever waits for a timer of an hour beside it must not make the time jump.
            let (tell, told) = tokio::sync::oneshot::channel();
            std::thread::spawn(move || {
                std::thread::sleep(Duration::from_millis(300));
                tell.send(())
            });
            told.await?;
            assert_eq!(cx.attempt(), 1);
            Ok(Shipped { id: order.id })
        })
    };
    let mut kit = TestKit::start(service).await.unwrap();
    let placed = kit.publish(&Placed { id: 1 }).await.unwrap();
    kit.settle().await;
    assert_eq!(kit.published::<Shipped>(), [Shipped { id: 1 }]);
    assert_eq!(kit.attempts("shipping", placed.id()), 1);
    // The same while the test itself waits for something real.
    let placed = kit.publish(&Placed { id: 2 }).await.unwrap();
    let (tell, told) = tokio::sync::oneshot::channel();
    std::thread::spawn(move || {
        std::thread::sleep(Duration::from_millis(100));
        tell.send(())
    });
    told.await.unwrap();
    kit.settle().await;
    assert_eq!(kit.attempts("shipping", placed.id()), 1);
    kit.finish().await.unwrap();
}

/// A handler that sleeps is a matter of virtual time; one that never ends runs into its timeout.
#[tokio::test]
async fn sleeping_handlers_and_timeouts_are_virtual() {
    let service = || {
        Service::new("shop").on("shipping", |order: Placed, _: Context| async move {
            tokio::time::sleep(Duration::from_secs(if order.id == 1 { 20 } else { 100 })).await;
            Ok(Shipped { id: order.id })
        })
    };
    let begun = std::time::Instant::now();
    let mut kit = TestKit::start(service).await.unwrap();
    kit.publish(&Placed { id: 1 }).await.unwrap();
    kit.settle().await;
    assert_eq!(kit.published::<Shipped>(), [Shipped { id: 1 }]);
    assert!(begun.elapsed() < Duration::from_secs(20), "twenty seconds took {:?}", begun.elapsed());
    let stuck = kit.publish(&Placed { id: 2 }).await.unwrap();
    kit.advance(Duration::from_secs(31)).await;
    assert!(kit.history(stuck.id()).contains(&"failed"), "{:?}", kit.history(stuck.id()));
    kit.finish().await.unwrap();
}

#[tokio::test]
async fn what_is_due_later_comes_when_its_time_has_come() {
    let mut kit = TestKit::start(shop).await.unwrap();
    let due = kit.now().after(Duration::from_secs(3600));
    kit.publish_with(&Placed { id: 1 }, |envelope| envelope.set_not_before(Some(due))).await.unwrap();
    kit.advance(Duration::from_secs(3599)).await;
    assert!(kit.published::<Shipped>().is_empty());
    kit.advance(Duration::from_secs(2)).await;
    assert_eq!(kit.published::<Shipped>(), [Shipped { id: 1 }]);
    kit.settle().await;
    kit.finish().await.unwrap();
}

#[tokio::test]
async fn dead_letters_are_replayed() {
    let mended = Arc::new(AtomicBool::new(false));
    let flag = mended.clone();
    let service = move || {
        let flag = flag.clone();
        Service::new("shop").on("shipping", move |order: Placed, _: Context| {
            let mended = flag.load(Ordering::SeqCst);
            async move { if mended { Ok(Shipped { id: order.id }) } else { Err("no van".into()) } }
        })
    };
    let mut kit = TestKit::start(service).await.unwrap();
    kit.publish(&Placed { id: 1 }).await.unwrap();
    kit.settle().await;
    assert_eq!((kit.dead_letters("shipping").await.len(), kit.published::<Shipped>()), (1, vec![]));
    mended.store(true, Ordering::SeqCst);
    assert_eq!(kit.replay("shipping").await.unwrap(), 1);
    kit.settle().await;
    assert_eq!((kit.dead_letters("shipping").await.len(), kit.published::<Shipped>().len()), (0, 1));
    kit.finish().await.unwrap();
}

#[tokio::test]
async fn a_crash_brings_back_what_was_in_hand_and_a_restart_goes_on() {
    let begun = Arc::new(AtomicU32::new(0));
    let counter = begun.clone();
    let service = move || {
        let counter = counter.clone();
        Service::new("shop").on("shipping", move |order: Placed, cx: Context| {
            let first = counter.fetch_add(1, Ordering::SeqCst) == 0;
            async move {
                if first {
                    std::future::pending::<()>().await;
                }
                assert_eq!(cx.attempt(), 1, "a crash is no attempt of the policy");
                Ok(Shipped { id: order.id })
            }
        })
    };
    let mut kit = TestKit::start(service).await.unwrap();
    kit.publish(&Placed { id: 1 }).await.unwrap();
    kit.advance(Duration::from_millis(10)).await;
    assert_eq!(begun.load(Ordering::SeqCst), 1);
    kit.crash().await.unwrap();
    kit.settle().await;
    assert_eq!(kit.published::<Shipped>(), [Shipped { id: 1 }]);
    kit.restart().await.unwrap();
    kit.publish(&Placed { id: 2 }).await.unwrap();
    kit.settle().await;
    assert_eq!(kit.published::<Shipped>(), [Shipped { id: 1 }, Shipped { id: 2 }]);
    kit.finish().await.unwrap();
}

#[tokio::test]
#[should_panic(expected = "has not come to rest")]
async fn a_flow_that_feeds_itself_is_told() {
    let service = || {
        Service::new("shop")
            .on("shipping", |order: Placed, _: Context| async move { Ok(Shipped { id: order.id }) })
            .on("again", |order: Shipped, _: Context| async move { Ok(Placed { id: order.id }) })
    };
    let mut kit = TestKit::start(service).await.unwrap().with_patience(Duration::from_millis(300));
    kit.publish(&Placed { id: 1 }).await.unwrap();
    kit.settle().await;
}

/// A transport that cannot be reached, and says why.
#[derive(Debug)]
struct Away;

#[async_trait::async_trait]
impl Decorate for Away {
    async fn declare(&self, _: &dyn Transport, _: &[Declaration]) -> Result<(), TransportError> {
        Err(TransportError::new(TransportErrorKind::Unavailable, "nobody listens at broker.example.org"))
    }
}

/// A transport that takes its time, and says nothing.
#[derive(Debug)]
struct Slow(Duration);

#[async_trait::async_trait]
impl Decorate for Slow {
    async fn declare(&self, inner: &dyn Transport, all: &[Declaration]) -> Result<(), TransportError> {
        tokio::time::sleep(self.0).await;
        inner.declare(all).await
    }
}

/// The scheme `memory`, with a decorator around it.
struct Scheme<D>(Arc<D>);

impl<D: Decorate> Factory for Scheme<D> {
    fn schemes(&self) -> &'static [&'static str] {
        &["memory"]
    }

    fn build(&self, _: &TransportUrl, options: Options) -> Result<Arc<dyn Transport>, Error> {
        let memory = Memory::with(MemoryConfig::default(), options.clock());
        Ok(Arc::new(Decorated::sharing(Arc::new(memory), self.0.clone())))
    }
}

/// What becomes of a start on such a transport, and after how long.
async fn started(with: impl Decorate) -> (Result<TestKit, Error>, Duration) {
    let registry = Registry::new().with(Scheme(Arc::new(with)));
    let begun = tokio::time::Instant::now();
    let starting = TestKit::at("memory://", &registry, shop);
    let started = tokio::time::timeout(Duration::from_secs(3600), starting).await.unwrap();
    (started, begun.elapsed())
}

#[tokio::test(start_paused = true)]
async fn a_transport_that_is_away_ends_the_start_with_its_reason() {
    let (started, after) = started(Away).await;
    let said = started.unwrap_err().to_string();
    assert!(said.contains("memory") && said.contains("nobody listens at broker.example.org"), "{said}");
    assert_eq!(after.as_secs(), 30);
}

#[tokio::test(start_paused = true)]
async fn a_transport_that_is_slow_is_waited_for_but_not_for_ever() {
    let (started_late, after) = started(Slow(Duration::from_secs(120))).await;
    assert!(started_late.is_ok() && after.as_secs() == 120, "{started_late:?} {after:?}");
    let (never, after) = started(Slow(Duration::from_secs(3000))).await;
    assert_eq!((never.is_err(), after.as_secs()), (true, 300));
}

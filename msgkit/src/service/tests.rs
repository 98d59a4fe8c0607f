use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::*;
use crate::codec::Json;
use crate::envelope::{DeadLetterKind, NativeHeaders, Timestamp};
use crate::memory::MemoryConfig;
use crate::policy::{Delayed, OnFailure, Order};
use crate::transport::{Destination, Group, Operate as _};
use crate::{Handle, HandlerError};

#[derive(Debug, Clone, Serialize, Deserialize, PartialEq)]
struct Placed {
    id: u32,
    customer: String,
}

impl Message for Placed {
    type Codec = Json;
    const NAME: &'static str = "orders.placed";
    const TOPIC: &'static str = "orders.{customer}";
    fn topic(&self) -> Result<Topic, Error> {
        Self::template()?.render(&[&self.customer])
    }
    fn key(&self) -> Option<std::borrow::Cow<'_, str>> {
        Some(self.customer.as_str().into())
    }
}

#[derive(Debug, Clone, Serialize, Deserialize)]
struct Shipped {
    id: u32,
}

impl Message for Shipped {
    type Codec = Json;
    const NAME: &'static str = "orders.shipped";
    const TOPIC: &'static str = "shipping";
    fn topic(&self) -> Result<Topic, Error> {
        Self::template()?.render(&[])
    }
}

fn placed(id: u32) -> Placed {
    Placed { id, customer: "c1".to_owned() }
}

fn virtual_memory(config: MemoryConfig) -> (Memory, Clock) {
    let clock = Clock::virtual_from("2026-01-01T00:00:00Z".parse::<Timestamp>().unwrap());
    (Memory::with(config, clock), clock)
}

async fn until(what: &str, mut done: impl FnMut() -> bool) {
    for _ in 0..20_000 {
        if done() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("never: {what}");
}

async fn letters(memory: &Memory, group: &str) -> Vec<crate::Envelope> {
    let letters = memory.dead_letters(&Group::new(group).unwrap(), None, 100).await.unwrap();
    letters.into_iter().map(|peeked| peeked.message.envelope().unwrap().clone()).collect()
}

#[tokio::test(start_paused = true)]
async fn a_message_flows_through_two_handlers() {
    let (memory, clock) = virtual_memory(MemoryConfig::default());
    let seen = Arc::new(Mutex::new(Vec::new()));
    let log = seen.clone();
    let running = Service::new("shop")
        .clock(clock)
        .transport("memory", memory.clone())
        .on("shipping", |order: Placed, _| async move { Ok(Shipped { id: order.id }) })
        .on("mail", move |shipped: Shipped, cx: Context| {
            log.lock().unwrap().push((shipped.id, cx.envelope().hop(), cx.envelope().clone()));
            async { Ok(()) }
        })
        .start()
        .await
        .unwrap();
    let first = running.publisher().publish(&placed(7)).await.unwrap();
    until("mail", || !seen.lock().unwrap().is_empty()).await;
    until("idle", || memory.is_idle()).await;
    let (id, hop, envelope) = seen.lock().unwrap()[0].clone();
    assert_eq!((id, hop), (7, 1));
    assert_eq!(envelope.causation_id(), Some(first.id()));
    assert_eq!(envelope.correlation_id(), first.id());
    assert_eq!(envelope.trace().parent.trace_id(), first.trace().parent.trace_id());
    running.drain().await.unwrap();
}

struct Flaky {
    fail: u32,
    calls: Arc<AtomicU32>,
    ids: Arc<Mutex<Vec<crate::MessageId>>>,
}

impl Handle<Placed, Shipped> for Flaky {
    async fn handle(&self, order: Placed, cx: &Context) -> Result<Shipped, HandlerError> {
        let call = self.calls.fetch_add(1, Ordering::SeqCst) + 1;
        assert_eq!(cx.attempt(), call);
        if call <= self.fail {
            return Err("not yet".into());
        }
        cx.publish(&Shipped { id: order.id })?;
        self.ids.lock().unwrap().extend(cx.published().iter().map(|e| e.id().clone()));
        Ok(Shipped { id: order.id })
    }
}

impl crate::Handler for Flaky {
    fn spec(self: Arc<Self>) -> Result<HandlerSpec, Error> {
        Ok(HandlerSpec::new("flaky", "flaky")?.handles::<Placed, _, _, _>(&self).retry(1, 3))
    }
}

/// Immediate and delayed retries, on native delays and on the core's retry topics alike.
async fn retries(config: MemoryConfig) {
    let (memory, clock) = virtual_memory(config);
    let calls = Arc::new(AtomicU32::new(0));
    let running = Service::new("shop")
        .clock(clock)
        .transport("memory", memory.clone())
        .handler(Flaky { fail: 5, calls: calls.clone(), ids: Arc::default() })
        .start()
        .await
        .unwrap();
    let began = clock.now();
    running.publisher().publish(&placed(1)).await.unwrap();
    until("six calls", || calls.load(Ordering::SeqCst) == 6).await;
    let took = clock.now().since(began);
    assert!(took >= Duration::from_secs(3) && took < Duration::from_secs(5), "{took:?}");
    assert!(letters(&memory, "flaky").await.is_empty());
    running.drain().await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn delayed_retries_come_when_they_are_due() {
    retries(MemoryConfig::default()).await;
}

#[tokio::test(start_paused = true)]
async fn delayed_retries_by_retry_topics() {
    retries(MemoryConfig { delay: crate::memory::MemoryDelay::RetryTopics, ..MemoryConfig::default() }).await;
}

#[tokio::test(start_paused = true)]
async fn what_fails_for_good_is_a_complete_dead_letter_and_replays_to_its_group() {
    let (memory, clock) = virtual_memory(MemoryConfig::default());
    let calls = Arc::new(AtomicU32::new(0));
    let running = Service::new("shop")
        .clock(clock)
        .transport("memory", memory.clone())
        .handler(Flaky { fail: 8, calls: calls.clone(), ids: Arc::default() })
        .start()
        .await
        .unwrap();
    let publisher = running.publisher();
    let order = placed(1);
    let sent = publisher.publish_with(&order, |e| {
        e.headers_mut().insert("tenant".try_into().unwrap(), "t1").unwrap();
    });
    let sent = sent.await.unwrap();
    until("eight calls", || calls.load(Ordering::SeqCst) == 8).await;
    until("idle", || memory.is_idle()).await;
    let letters = letters(&memory, "flaky").await;
    let [letter] = letters.as_slice() else { panic!("{letters:?}") };
    let facts = letter.dead_letter().unwrap();
    assert_eq!(facts.kind, DeadLetterKind::Handler);
    assert_eq!((facts.attempts, facts.error.as_str()), (8, "not yet"));
    assert_eq!(
        (facts.group.as_str(), facts.service.as_str(), facts.handler.as_str()),
        ("flaky", "shop", "flaky")
    );
    assert_eq!(facts.topic, "orders.c1");
    assert!(facts.last > facts.first);
    assert_eq!(
        (letter.id(), letter.payload(), letter.headers().get("tenant")),
        (sent.id(), sent.payload(), Some("t1"))
    );
    running.drain().await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn undecodable_and_foreign_bytes_become_dead_letters_untouched() {
    let (memory, clock) = virtual_memory(MemoryConfig::default());
    let running = Service::new("shop")
        .clock(clock)
        .transport("memory", memory.clone())
        .on("g", |_: Placed, _| async { Ok(()) })
        .start()
        .await
        .unwrap();
    let mut native = NativeHeaders::new();
    native.push("X-Odd", crate::envelope::NativeValue::Null);
    memory.publish_foreign(&"orders.x".parse().unwrap(), &b"\xff\x00raw"[..], &native);
    let mut bad = crate::envelope_of(&placed(1), &Text::from("t"), clock.now()).unwrap();
    bad.set_payload(Some("{".into()));
    running.publisher().publish_envelopes(vec![bad]).await.unwrap();
    until("idle", || memory.is_idle()).await;
    let letters = letters(&memory, "g").await;
    assert_eq!(letters.len(), 2);
    assert_eq!((letters[0].payload(), letters[0].native()), (&b"\xff\x00raw"[..], &native));
    for letter in &letters {
        assert_eq!(letter.dead_letter().unwrap().kind, DeadLetterKind::Decode);
    }
    running.drain().await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn panics_and_timeouts_are_failures_of_one_message() {
    let (memory, clock) = virtual_memory(MemoryConfig::default());
    let handled = Arc::new(AtomicU32::new(0));
    let count = handled.clone();
    let spec = HandlerSpec::new("g", "g")
        .unwrap()
        .with(closure(move |order: Placed, _| {
            let count = count.clone();
            async move {
                match order.id {
                    1 => panic!("id {}", order.id),
                    2 => std::future::pending::<()>().await,
                    _ => {}
                }
                count.fetch_add(1, Ordering::SeqCst);
                Ok(())
            }
        }))
        .retry(0, 0);
    let running = Service::new("shop")
        .clock(clock)
        .transport("memory", memory.clone())
        .spec(spec)
        .start()
        .await
        .unwrap();
    running.publisher().publish_all(&[placed(1), placed(2), placed(3)]).await.unwrap();
    until("idle", || memory.is_idle()).await;
    assert_eq!(handled.load(Ordering::SeqCst), 1);
    let kinds: Vec<_> = letters(&memory, "g").await.iter().map(|e| e.dead_letter().unwrap().kind).collect();
    assert_eq!(kinds, [DeadLetterKind::Panic, DeadLetterKind::Timeout]);
    running.drain().await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn keys_stay_in_order_over_lanes_and_hold_keeps_those_behind() {
    for order in [Order::Key(OnFailure::Overtake), Order::Key(OnFailure::Hold)] {
        let (memory, clock) = virtual_memory(MemoryConfig::default());
        let seen: Arc<Mutex<Vec<(String, u32)>>> = Arc::default();
        let (log, failed) = (seen.clone(), Arc::new(AtomicU32::new(0)));
        let spec = HandlerSpec::new("g", "g")
            .unwrap()
            .with(closure(move |order: Placed, _| {
                let (log, failed) = (log.clone(), failed.clone());
                async move {
                    tokio::time::sleep(Duration::from_millis(fastrand::u64(0..5))).await;
                    if order.id == 5 && order.customer == "a" && failed.fetch_add(1, Ordering::SeqCst) < 2 {
                        return Err("once more".into());
                    }
                    log.lock().unwrap().push((order.customer, order.id));
                    Ok(())
                }
            }))
            .order(order)
            .concurrency(4)
            .overrides(|p| {
                p.immediate = Some(0);
                p.delayed = Some(Some(Delayed::new(Duration::from_secs(1), 3)));
            });
        let running = Service::new("shop")
            .clock(clock)
            .transport("memory", memory.clone())
            .spec(spec)
            .start()
            .await
            .unwrap();
        for id in 0..20 {
            for customer in ["a", "b", "c", "d", "e"] {
                running.publisher().publish(&Placed { id, customer: customer.into() }).await.unwrap();
            }
        }
        until("all handled", || seen.lock().unwrap().len() == 100).await;
        until("idle", || memory.is_idle()).await;
        let seen = seen.lock().unwrap().clone();
        for customer in ["a", "b", "c", "d", "e"] {
            let mut ids: Vec<u32> = seen.iter().filter(|(c, _)| c == customer).map(|(_, id)| *id).collect();
            if customer == "a" && order == Order::Key(OnFailure::Overtake) {
                assert_eq!(ids.pop(), Some(5), "the failed one is overtaken");
                assert_eq!(ids, (0..20).filter(|id| *id != 5).collect::<Vec<_>>());
            } else {
                assert_eq!(ids, (0..20).collect::<Vec<_>>(), "{customer} {order:?}");
            }
        }
        running.drain().await.unwrap();
    }
}

#[tokio::test(start_paused = true)]
async fn a_drain_costs_no_attempt_and_gives_back_what_is_not_done() {
    let (memory, clock) = virtual_memory(MemoryConfig::default());
    let started = Arc::new(AtomicU32::new(0));
    let count = started.clone();
    let running = Service::new("shop")
        .clock(clock)
        .transport("memory", Keep(memory.clone()))
        .drain_deadline(Duration::from_secs(1))
        .on("g", move |_: Placed, cx: Context| {
            assert_eq!(cx.attempt(), 1);
            count.fetch_add(1, Ordering::SeqCst);
            async { std::future::pending::<Result<(), HandlerError>>().await }
        })
        .start()
        .await
        .unwrap();
    running.publisher().publish_all(&[placed(1), placed(2), placed(3)]).await.unwrap();
    until("started", || started.load(Ordering::SeqCst) == 1).await;
    running.drain().await.unwrap();
    assert_eq!(started.load(Ordering::SeqCst), 1);
    let handled: Arc<Mutex<Vec<(u32, u32)>>> = Arc::default();
    let log = handled.clone();
    let running = Service::new("shop")
        .clock(clock)
        .transport("memory", Keep(memory.clone()))
        .on("g", move |order: Placed, cx: Context| {
            log.lock().unwrap().push((order.id, cx.attempt()));
            async { Ok(()) }
        })
        .start()
        .await
        .unwrap();
    until("handled", || handled.lock().unwrap().len() == 3).await;
    assert_eq!(*handled.lock().unwrap(), [(1, 1), (2, 1), (3, 1)]);
    running.drain().await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_message_that_kills_the_process_ends_as_a_crash_and_the_innocent_go_on() {
    let (memory, clock) = virtual_memory(MemoryConfig::default());
    let handled: Arc<Mutex<std::collections::BTreeSet<u32>>> = Arc::default();
    let build = |killed: Arc<tokio::sync::Notify>| {
        let log = handled.clone();
        Service::new("shop").clock(clock).transport("memory", Keep(memory.clone())).on(
            "g",
            move |order: Placed, _: Context| {
                let (log, killed) = (log.clone(), killed.clone());
                async move {
                    if order.id == 3 {
                        killed.notify_one();
                        std::future::pending::<()>().await;
                    }
                    log.lock().unwrap().insert(order.id);
                    Ok(())
                }
            },
        )
    };
    let killed = Arc::new(tokio::sync::Notify::new());
    let mut running = build(killed.clone()).start().await.unwrap();
    running.publisher().publish_all(&(0..10).map(placed).collect::<Vec<_>>()).await.unwrap();
    let mut crashes = 0;
    loop {
        tokio::select! {
            () = killed.notified() => {
                crashes += 1;
                assert!(crashes < 20, "never condemned");
                // The process dies: connections break first, so that nothing is given back in good order.
                memory.disconnect();
                running.crash().await;
                running = build(killed.clone()).start().await.unwrap();
            }
            () = tokio::time::sleep(Duration::from_secs(5)) => break,
        }
    }
    assert_eq!(crashes, 5 + 2, "five starts, then two alone");
    assert_eq!(handled.lock().unwrap().len(), 9, "{handled:?}");
    let letters = letters(&memory, "g").await;
    assert_eq!(letters.len(), 1);
    assert_eq!(letters[0].dead_letter().unwrap().kind, DeadLetterKind::Crash);
    running.drain().await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn pause_resume_attach_detach() {
    let (memory, clock) = virtual_memory(MemoryConfig::default());
    let count = Arc::new(AtomicU32::new(0));
    let counter = count.clone();
    let spec = || {
        let counter = counter.clone();
        HandlerSpec::new("g", "g").unwrap().with(closure(move |_: Placed, _| {
            counter.fetch_add(1, Ordering::SeqCst);
            async { Ok(()) }
        }))
    };
    let running = Service::new("shop")
        .clock(clock)
        .transport("memory", memory.clone())
        .spec(spec())
        .start()
        .await
        .unwrap();
    running.pause("g").await.unwrap();
    running.publisher().publish(&placed(1)).await.unwrap();
    tokio::time::sleep(Duration::from_secs(60)).await;
    assert_eq!(count.load(Ordering::SeqCst), 0);
    running.resume("g").await.unwrap();
    until("resumed", || count.load(Ordering::SeqCst) == 1).await;
    running.detach("g").await.unwrap();
    running.publisher().publish(&placed(2)).await.unwrap();
    tokio::time::sleep(Duration::from_secs(60)).await;
    assert_eq!(count.load(Ordering::SeqCst), 1);
    assert!(running.pause("g").await.unwrap_err().to_string().contains("no handler is named `g`"));
    running.attach(spec()).await.unwrap();
    until("attached", || count.load(Ordering::SeqCst) == 2).await;
    running.drain().await.unwrap();
}

/// While copies cannot be confirmed the original stays in hand, unsettled; the lane tries again with pauses, not in a spin.
#[tokio::test(start_paused = true)]
async fn a_copy_that_is_not_confirmed_keeps_the_original() {
    for delayed in [0, 1] {
        let (memory, clock) = virtual_memory(MemoryConfig::default());
        let failures = Arc::new(AtomicU32::new(5));
        let tries = Arc::new(AtomicU32::new(0));
        let counter = tries.clone();
        let spec = HandlerSpec::new("g", "g")
            .unwrap()
            .with(closure(|_: Placed, _| async { Err::<(), _>("no".into()) }))
            .retry(0, delayed);
        let running = Service::new("shop")
            .clock(clock)
            .transport("memory", Faulty { memory: memory.clone(), failures: failures.clone() })
            .observe(move |event: &crate::telemetry::Event<'_>| {
                if event.kind.name() == "copy_failed" {
                    counter.fetch_add(1, Ordering::SeqCst);
                }
            })
            .spec(spec)
            .start()
            .await
            .unwrap();
        let began = clock.now();
        let sent = running.publisher().publish(&placed(1)).await.unwrap();
        until("five tries", || tries.load(Ordering::SeqCst) == 5).await;
        assert!(clock.now().since(began) >= Duration::from_millis(1500), "the lane pauses between tries");
        let status = memory.groups().await.unwrap();
        assert_eq!(
            (status[0].waiting, status[0].in_hand, status[0].delayed),
            (0, Some(1), 0),
            "still in custody"
        );
        assert!(letters(&memory, "g").await.is_empty());
        until("dead letter", || failures.load(Ordering::SeqCst) == 0 && memory.is_idle()).await;
        tokio::time::sleep(Duration::from_secs(5)).await;
        until("idle", || memory.is_idle()).await;
        let letters = letters(&memory, "g").await;
        assert_eq!(letters.iter().map(crate::Envelope::id).collect::<Vec<_>>(), [sent.id()]);
        running.drain().await.unwrap();
    }
}

/// A drain while a copy cannot be confirmed gives the message back instead of losing it.
#[tokio::test(start_paused = true)]
async fn a_drain_during_an_unconfirmed_copy_gives_the_message_back() {
    let (memory, clock) = virtual_memory(MemoryConfig::default());
    let failures = Arc::new(AtomicU32::new(u32::MAX));
    let running = Service::new("shop")
        .clock(clock)
        .transport("memory", Faulty { memory: memory.clone(), failures: failures.clone() })
        .spec(
            HandlerSpec::new("g", "g")
                .unwrap()
                .with(closure(|_: Placed, _| async { Err::<(), _>("no".into()) }))
                .retry(0, 0),
        )
        .start()
        .await
        .unwrap();
    running.publisher().publish(&placed(1)).await.unwrap();
    until("a failed copy", || failures.load(Ordering::SeqCst) < u32::MAX).await;
    running.drain().await.unwrap();
    let status = memory.groups().await.unwrap();
    assert_eq!((status[0].waiting, status[0].in_hand), (1, Some(0)));
}

/// In an outage the breaker holds the message instead of burning its attempts.
#[tokio::test(start_paused = true)]
async fn an_outage_burns_no_attempts() {
    let (memory, clock) = virtual_memory(MemoryConfig::default());
    let down = Arc::new(AtomicU32::new(1));
    let calls = Arc::new(AtomicU32::new(0));
    let (outage, counter) = (down.clone(), calls.clone());
    let spec = HandlerSpec::new("g", "g")
        .unwrap()
        .with(closure(move |_: Placed, _| {
            counter.fetch_add(1, Ordering::SeqCst);
            let down = outage.load(Ordering::SeqCst) == 1;
            async move { if down { Err("the database is down".into()) } else { Ok(()) } }
        }))
        .retry(1, 1)
        .overrides(|policy| {
            policy.breaker = Some(Some(crate::policy::BreakerPolicy { failures: 3, ..Default::default() }));
        });
    let running = Service::new("shop")
        .clock(clock)
        .transport("memory", memory.clone())
        .spec(spec)
        .start()
        .await
        .unwrap();
    running.publisher().publish_all(&[placed(1), placed(2)]).await.unwrap();
    tokio::time::sleep(Duration::from_secs(600)).await;
    let during = calls.load(Ordering::SeqCst);
    assert!(during < 30, "ten minutes of outage cost {during} calls");
    assert!(letters(&memory, "g").await.is_empty());
    down.store(0, Ordering::SeqCst);
    until("all handled", || memory.is_idle()).await;
    tokio::time::sleep(Duration::from_secs(60)).await;
    until("all handled", || memory.is_idle()).await;
    assert!(letters(&memory, "g").await.is_empty(), "nobody is condemned for an outage");
    running.drain().await.unwrap();
}

/// A transport on which copies cannot be published for a while, and that outlives its service's drain.
#[derive(Debug)]
struct Faulty {
    memory: Memory,
    failures: Arc<AtomicU32>,
}

#[async_trait::async_trait]
impl crate::transport::Publisher for Faulty {
    async fn publish(
        &self,
        batch: Vec<crate::transport::Outgoing>,
    ) -> Result<(), crate::transport::PublishError> {
        use crate::transport::{Destination, PublishError, TransportError, TransportErrorKind};
        let copy = batch.iter().any(|message| !matches!(message.to, Destination::Topic { .. }));
        if copy && self.failures.load(Ordering::SeqCst) > 0 {
            self.failures.fetch_sub(1, Ordering::SeqCst);
            return Err(PublishError::all(batch, || {
                TransportError::new(TransportErrorKind::Unavailable, "down")
            }));
        }
        self.memory.publish(batch).await
    }
}

#[async_trait::async_trait]
impl crate::transport::Subscriber for Faulty {
    async fn subscribe(
        &self,
        subscription: &crate::transport::Subscription,
    ) -> Result<Box<dyn crate::transport::Deliveries>, crate::transport::TransportError> {
        self.memory.subscribe(subscription).await
    }
}

#[async_trait::async_trait]
impl Transport for Faulty {
    fn system(&self) -> &'static str {
        self.memory.system()
    }
    fn capabilities(&self) -> crate::transport::Capabilities {
        self.memory.capabilities()
    }
    async fn declare(
        &self,
        declarations: &[crate::transport::Declaration],
    ) -> Result<(), crate::transport::TransportError> {
        self.memory.declare(declarations).await
    }
    async fn health(&self) -> crate::transport::Health {
        self.memory.health().await
    }
    async fn close(&self) -> Result<(), crate::transport::TransportError> {
        Ok(())
    }
}

/// A transport that outlives its service's drain.
#[derive(Debug)]
struct Keep(Memory);

#[async_trait::async_trait]
impl crate::transport::Publisher for Keep {
    async fn publish(
        &self,
        batch: Vec<crate::transport::Outgoing>,
    ) -> Result<(), crate::transport::PublishError> {
        self.0.publish(batch).await
    }
}

#[async_trait::async_trait]
impl crate::transport::Subscriber for Keep {
    async fn subscribe(
        &self,
        subscription: &crate::transport::Subscription,
    ) -> Result<Box<dyn crate::transport::Deliveries>, crate::transport::TransportError> {
        self.0.subscribe(subscription).await
    }
}

#[async_trait::async_trait]
impl Transport for Keep {
    fn system(&self) -> &'static str {
        self.0.system()
    }
    fn capabilities(&self) -> crate::transport::Capabilities {
        self.0.capabilities()
    }
    async fn declare(
        &self,
        declarations: &[crate::transport::Declaration],
    ) -> Result<(), crate::transport::TransportError> {
        self.0.declare(declarations).await
    }
    async fn health(&self) -> crate::transport::Health {
        self.0.health().await
    }
    async fn close(&self) -> Result<(), crate::transport::TransportError> {
        Ok(())
    }
}

#[test]
fn configuration_goes_over_what_the_code_says_and_must_fit_it() {
    let build = |text: &str| {
        let settings = crate::config::Settings::parse(text, "msgkit.toml", []).unwrap();
        Ok::<_, Error>(Service::from_settings(settings, &crate::Registry::new())?.spec(
            HandlerSpec::new("g", "g").unwrap().with(closure(|_: Placed, _| async { Ok(()) })).concurrency(2),
        ))
    };
    let base = "[service]\nname = \"shop\"\n[transports.m]\nurl = \"memory://\"\n";
    let policy =
        |text: &str| build(&format!("{base}{text}")).unwrap().check().map(|r| r.handlers[0].policy.clone());
    assert!(policy("").unwrap().starts_with("2 at once"));
    assert!(policy("[policies.default]\nconcurrency = 3").unwrap().starts_with("3 at once"));
    let both = "[policies.default]\nconcurrency = 3\n[handlers.g]\nconcurrency = 4";
    assert!(policy(both).unwrap().starts_with("4 at once"));
    let error = policy("[handlers.h]\nconcurrency = 4").unwrap_err().to_string();
    assert!(error.contains("`[handlers.h]`") && error.contains("did you mean `g`?"), "{error}");
    let error = build(&base.replace("memory:", "memry:")).unwrap_err().to_string();
    assert!(error.contains("did you mean `memory`?"), "{error}");
    let error = build(&format!("{base}[transports.m.memory]\ncapacty = 1")).unwrap_err().to_string();
    assert!(error.contains("[transports.m.memory]") && error.contains("did you mean `capacity`?"), "{error}");
    let error = policy("[policies.default]\nconcurrency = 0").unwrap_err();
    assert!(crate::Chain(&error).to_string().contains("use at least 1"));
}

fn orders_of(team: &str, publishers: &[&str]) -> crate::Namespace {
    let mut orders =
        crate::Namespace::new("orders", team, "what is bought", crate::NamespaceClass::Data).unwrap();
    orders.publishers = publishers.iter().map(|name| Text::from(*name)).collect();
    orders
}

#[test]
fn the_catalog_is_made_from_what_is_registered() {
    let ship =
        |order: Placed, _cx: Context| async move { Ok((vec![Shipped { id: order.id }], None::<Placed>)) };
    let mut spec = HandlerSpec::new("audit", "audit").unwrap().component("shop.audit").publishes::<Shipped>();
    spec = spec.with(closure(|_: Placed, _cx: Context| async { Ok(()) }));
    let service =
        Service::new("shipping").component("shop.shipping").publishes::<Placed>().on("ship", ship).spec(spec);
    let catalog = service.catalog().unwrap();
    assert_eq!(catalog.components().collect::<Vec<_>>(), ["shop.audit", "shop.shipping"]);
    let handlers: Vec<_> = catalog
        .handlers()
        .map(|handler| {
            let published: Vec<_> = handler.published().map(crate::catalog::MessageType::name).collect();
            (handler.component(), handler.name(), handler.group_name(), published.join(" "))
        })
        .collect();
    assert_eq!(
        handlers,
        [
            ("shop.audit", "audit", Some("audit"), "orders.shipped".to_owned()),
            // What a handler returns is known, also in a list, an option, a tuple.
            ("shop.shipping", "ship", Some("ship"), "orders.placed orders.shipped".to_owned()),
        ]
    );
    assert_eq!(catalog.links().len(), 2, "{:?}", catalog.links());
    assert_eq!(catalog.unheard().len(), 2, "who ships is known to two, and handled by none");
}

#[test]
fn a_handler_that_is_switched_off_is_not_in_the_catalog() {
    let settings = "[service]\nname = \"a\"\n[handlers.ship]\nenabled = false\n";
    let settings = Settings::parse(settings, "msgkit.toml", []).unwrap();
    let service = Service::from_settings(settings, &Registry::new()).unwrap();
    let service = service.on("ship", |_: Placed, _cx: Context| async { Ok(()) });
    assert_eq!(service.catalog().unwrap().handlers().count(), 0);
}

#[tokio::test]
async fn a_check_reports_what_is_warned_of_and_fails_on_what_is_denied() {
    let service = |publishers: &[&str]| {
        Service::new("shipping")
            .publishes::<Placed>()
            .publishes::<Shipped>()
            .namespaces([orders_of("sales", publishers)])
    };
    let report = service(&[]).check().unwrap();
    assert_eq!(report.findings.len(), 1);
    assert!(report.to_string().contains("warn [undeclared_namespace]: topic `shipping`"), "{report}");
    let error = service(&["shop"]).check().unwrap_err();
    assert_eq!(error.kind(), crate::ErrorKind::Refused);
    assert!(
        error.to_string().contains(
            "service `shipping` breaks rules of the catalog: deny [forbidden_publisher]: component"
        ),
        "{error}"
    );
    // Rules are for people who change code: what runs is not stopped, least of all by a date.
    service(&["shop"]).start().await.unwrap().drain().await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_check_takes_the_day_from_the_services_clock() {
    use crate::catalog::{Rule, Rules, Waiver};
    let check = |expires: &str| {
        let clock = Clock::virtual_from("2026-01-01T00:00:00Z".parse().unwrap());
        let waiver = Waiver::new(
            Rule::ForbiddenPublisher,
            "shipping -> orders",
            "until it moves",
            expires.parse().unwrap(),
        );
        let service =
            Service::new("shipping").publishes::<Placed>().namespaces([orders_of("sales", &["shop"])]);
        service.clock(clock).rules(Rules::default().waive(waiver)).check()
    };
    check("2026-01-01").unwrap();
    let error = check("2025-12-31").unwrap_err().to_string();
    assert!(error.contains("expired after 2025-12-31"), "{error}");
}

#[tokio::test]
async fn what_a_handler_returns_shares_one_destination_whatever_its_dynamic_segments() {
    let places = Arc::new(Mutex::new(Vec::new()));
    let seen = places.clone();
    let running = Service::new("shop")
        .on("order", |shipped: Shipped, _cx: Context| async move { Ok(placed(shipped.id)) })
        .observe(move |event: &crate::telemetry::Event<'_>| {
            if let crate::telemetry::EventKind::Published { to: Destination::Topic { topic, place } } =
                &event.kind
            {
                seen.lock().unwrap().push((topic.to_string(), place.as_ref().map(ToString::to_string)));
            }
        })
        .start()
        .await
        .unwrap();
    running.publisher().publish(&Shipped { id: 1 }).await.unwrap();
    until("it is published", || places.lock().unwrap().len() == 2).await;
    running.drain().await.unwrap();
    let wanted = [("shipping".to_owned(), None), ("orders.c1".to_owned(), Some("orders._".to_owned()))];
    assert_eq!(*places.lock().unwrap(), wanted);
}

/// A service whose configuration says what plain devices send, and what it got of them.
fn with_ingest(memory: &Memory, clock: Clock, kind: &str, from: &str) -> (Service, Arc<Mutex<Vec<String>>>) {
    let text = format!(
        "[service]\nname = \"shop\"\n[[handlers.shipping.ingest]]\nmatch = \"{from}\"\ntype = \"{kind}\"\nkey_segment = 1\n"
    );
    let settings = crate::config::Settings::parse(&text, "msgkit.toml", []).unwrap();
    let seen = Arc::new(Mutex::new(Vec::new()));
    let log = seen.clone();
    let service = Service::from_settings(settings, &crate::Registry::new())
        .unwrap()
        .clock(clock)
        .transport("memory", memory.clone())
        .on("shipping", move |order: Placed, cx: Context| {
            let key = cx.envelope().key().unwrap_or_default().to_owned();
            log.lock().unwrap().push(format!("{} of {key}", order.id));
            async { Ok(()) }
        });
    (service, seen)
}

#[tokio::test(start_paused = true)]
async fn configuration_says_what_the_messages_of_plain_devices_are() {
    let (memory, clock) = virtual_memory(MemoryConfig::default());
    let (service, seen) = with_ingest(&memory, clock, "orders.placed", "orders.*");
    let running = service.start().await.unwrap();
    let topic = Topic::new("orders.AA~3ABB").unwrap();
    memory.publish_foreign(&topic, r#"{"id":7,"customer":"somebody"}"#, &NativeHeaders::default());
    until("shipping", || !seen.lock().unwrap().is_empty()).await;
    assert_eq!(*seen.lock().unwrap(), ["7 of AA:BB"]);
    running.drain().await.unwrap();
    let refused = |kind, from| with_ingest(&memory, clock, kind, from).0.check().unwrap_err().to_string();
    let message = refused("order.placed", "orders.*");
    assert!(message.contains("makes `order.placed` of `orders.*`"), "{message}");
    assert!(message.contains("did you mean `orders.placed`?"), "{message}");
    let message = refused("orders.placed", "device.>");
    assert!(
        message.contains("for `device.>`, where nothing comes from; it subscribes to orders.*"),
        "{message}"
    );
}

//! The slots of the pipeline: inbox, unit of work, `tower` layers.
#![allow(clippy::unwrap_used, reason = "a test")]

use std::any::Any;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use msgkit::envelope::DeadLetterKind;
use msgkit::handler::{
    Batch, BatchOutcome, HandleBatch, HandlerIdentity, HandlerSpec, Inbox, MemoryInbox, Unit, UnitOfWork,
    batch, closure, layered,
};
use msgkit::{BoxError, Context, Envelope, HandlerError, Message, Service};
use msgkit_testing::TestKit;
use serde::{Deserialize, Serialize};
use tower::limit::ConcurrencyLimitLayer;
use tower::load_shed::LoadShedLayer;

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

/// An inbox that can be out of order.
#[derive(Debug)]
struct Moody {
    inbox: MemoryInbox,
    asking: AtomicBool,
    noting: AtomicBool,
}

impl Moody {
    fn new(asking: bool, noting: bool) -> Arc<Self> {
        let (asking, noting) = (AtomicBool::new(asking), AtomicBool::new(noting));
        Arc::new(Self { inbox: MemoryInbox::new(100), asking, noting })
    }
}

#[async_trait]
impl Inbox for Moody {
    async fn contains(&self, group: &str, envelope: &Envelope) -> Result<bool, BoxError> {
        if self.asking.load(Ordering::SeqCst) {
            Err("locked".into())
        } else {
            self.inbox.contains(group, envelope).await
        }
    }

    async fn remember(&self, group: &str, envelope: &Envelope) -> Result<(), BoxError> {
        if self.noting.load(Ordering::SeqCst) {
            Err("full".into())
        } else {
            self.inbox.remember(group, envelope).await
        }
    }
}

/// Ships, and fails the first attempt of number 2.
fn shipping(inbox: Arc<dyn Inbox>) -> impl Fn() -> Service + Send + Sync + 'static {
    move || {
        Service::new("shop").inbox(inbox.clone()).on("shipping", |order: Placed, cx: Context| async move {
            if order.id == 2 && cx.attempt() == 1 {
                return Err("no van".into());
            }
            Ok(Shipped { id: order.id })
        })
    }
}

#[tokio::test]
async fn a_message_that_was_handled_is_not_handled_again() {
    let mut kit = TestKit::start(shipping(Arc::new(MemoryInbox::new(100)))).await.unwrap();
    let first = kit.publish(&Placed { id: 1 }).await.unwrap();
    let second = kit.publish(&Placed { id: 2 }).await.unwrap();
    kit.settle().await;
    assert_eq!(kit.attempts("shipping", second.id()), 2, "what has failed was not handled");
    for envelope in [&first, &second, &first] {
        kit.publish_envelope(envelope.clone()).await.unwrap();
    }
    // The same id of another source is another message.
    let mut foreign = first.clone();
    foreign = Envelope::new(
        "elsewhere",
        foreign.kind().to_owned(),
        foreign.topic().clone(),
        foreign.content_type().clone(),
        foreign.payload_bytes().unwrap(),
        kit.now(),
    );
    foreign.set_id(first.id().clone());
    kit.publish_envelope(foreign).await.unwrap();
    kit.settle().await;
    assert_eq!(kit.published::<Shipped>().len(), 3);
    let history = kit.history(second.id());
    assert_eq!(&history[history.len() - 3..], ["received", "duplicate", "settled"]);
    kit.finish().await.unwrap();
}

#[tokio::test]
async fn an_inbox_that_does_not_answer_holds_the_message() {
    let inbox = Moody::new(true, false);
    let mut kit = TestKit::start(shipping(inbox.clone())).await.unwrap();
    let sent = kit.publish(&Placed { id: 1 }).await.unwrap();
    kit.advance(Duration::from_secs(60)).await;
    assert_eq!((kit.attempts("shipping", sent.id()), kit.dead_letters("shipping").await.len()), (0, 0));
    inbox.asking.store(false, Ordering::SeqCst);
    kit.settle().await;
    assert_eq!(kit.published::<Shipped>().len(), 1);
    kit.finish().await.unwrap();
}

#[tokio::test]
async fn an_inbox_that_cannot_note_costs_no_attempt() {
    let inbox = Moody::new(false, true);
    let mut kit = TestKit::start(shipping(inbox.clone())).await.unwrap();
    let sent = kit.publish(&Placed { id: 1 }).await.unwrap();
    kit.advance(Duration::from_secs(600)).await;
    assert!(kit.dead_letters("shipping").await.is_empty(), "{:?}", kit.history(sent.id()));
    inbox.noting.store(false, Ordering::SeqCst);
    kit.settle().await;
    let ids: std::collections::HashSet<String> =
        kit.published_envelopes().iter().map(|envelope| envelope.id().to_string()).collect();
    assert_eq!(ids.len(), 1, "however often it was handled meanwhile, it has published one message");
    kit.finish().await.unwrap();
}

/// Without later attempts there is nothing to fall back on: the message waits in its lane until the inbox is back.
#[tokio::test]
async fn an_inbox_that_cannot_note_condemns_nobody_where_nothing_is_tried_later() {
    let inbox = Moody::new(false, true);
    let slot: Arc<dyn Inbox> = inbox.clone();
    let mut kit = TestKit::start(move || {
        let spec = HandlerSpec::new("shipping", "shipping")
            .unwrap()
            .with(closure(|order: Placed, _: Context| async move { Ok(Shipped { id: order.id }) }))
            .retry(0, 0);
        Service::new("shop").inbox(slot.clone()).spec(spec)
    })
    .await
    .unwrap();
    let sent = kit.publish(&Placed { id: 1 }).await.unwrap();
    kit.advance(Duration::from_secs(600)).await;
    assert!(kit.dead_letters("shipping").await.is_empty(), "{:?}", kit.history(sent.id()));
    inbox.noting.store(false, Ordering::SeqCst);
    kit.settle().await;
    assert_eq!(kit.history(sent.id()).last(), Some(&"settled"));
    assert!(kit.dead_letters("shipping").await.is_empty());
    kit.finish().await.unwrap();
}

/// A database of one table, with an outbox.
#[derive(Debug, Default)]
struct Database {
    rows: Mutex<Vec<u32>>,
    outbox: Mutex<Vec<Envelope>>,
    rolled_back: AtomicU32,
    down: AtomicBool,
}

#[derive(Debug)]
struct Transactions(Arc<Database>);

/// What the handler writes into.
#[derive(Debug, Default)]
struct Rows(Mutex<Vec<u32>>);

struct Transaction {
    database: Arc<Database>,
    rows: Arc<Rows>,
}

#[async_trait]
impl UnitOfWork for Transactions {
    async fn begin(&self, _: &Envelope, identity: &HandlerIdentity) -> Result<Box<dyn Unit>, HandlerError> {
        assert_eq!(identity.handler.as_str(), "shipping");
        if self.0.down.load(Ordering::SeqCst) {
            return Err("the database is down".into());
        }
        Ok(Box::new(Transaction { database: self.0.clone(), rows: Arc::default() }))
    }
}

#[async_trait]
impl Unit for Transaction {
    fn shared(&self) -> Arc<dyn Any + Send + Sync> {
        self.rows.clone()
    }

    async fn commit(self: Box<Self>, published: Vec<Envelope>) -> Result<Vec<Envelope>, HandlerError> {
        self.database.rows.lock().unwrap().append(&mut self.rows.0.lock().unwrap());
        self.database.outbox.lock().unwrap().extend(published);
        Ok(Vec::new())
    }

    async fn roll_back(self: Box<Self>) {
        self.database.rolled_back.fetch_add(1, Ordering::SeqCst);
    }
}

fn transactional(database: Arc<Database>) -> impl Fn() -> Service + Send + Sync + 'static {
    move || {
        let spec = HandlerSpec::new("shipping", "shipping")
            .unwrap()
            .unit_of_work(Arc::new(Transactions(database.clone())))
            // Behind an open breaker attempts do not count, and this handler counts on them.
            .overrides(|policy| policy.breaker = Some(None))
            .with(closure(|order: Placed, cx: Context| async move {
                cx.unit::<Rows>().ok_or("no transaction")?.0.lock().unwrap().push(order.id);
                if cx.attempt() < 3 {
                    return Err("not yet".into());
                }
                Ok(Shipped { id: order.id })
            }));
        Service::new("shop").spec(spec)
    }
}

#[tokio::test]
async fn a_unit_of_work_takes_what_was_done_and_published() {
    let database = Arc::new(Database::default());
    let mut kit = TestKit::start(transactional(database.clone())).await.unwrap();
    kit.publish(&Placed { id: 1 }).await.unwrap();
    kit.publish(&Placed { id: 2 }).await.unwrap();
    kit.settle().await;
    assert_eq!(*database.rows.lock().unwrap(), [1, 2], "failed attempts have written nothing");
    assert_eq!(database.rolled_back.load(Ordering::SeqCst), 4);
    assert_eq!(database.outbox.lock().unwrap().len(), 2);
    assert!(kit.published::<Shipped>().is_empty(), "the outbox relays it");
    kit.finish().await.unwrap();
}

#[tokio::test]
async fn a_unit_of_work_that_cannot_begin_costs_no_attempt() {
    let database = Arc::new(Database::default());
    database.down.store(true, Ordering::SeqCst);
    let mut kit = TestKit::start(transactional(database.clone())).await.unwrap();
    kit.publish(&Placed { id: 1 }).await.unwrap();
    kit.advance(Duration::from_secs(3600)).await;
    assert!(database.rows.lock().unwrap().is_empty() && kit.dead_letters("shipping").await.is_empty());
    database.down.store(false, Ordering::SeqCst);
    kit.settle().await;
    assert_eq!(*database.rows.lock().unwrap(), [1]);
    kit.finish().await.unwrap();
}

struct InBatches;

impl HandleBatch<Placed> for InBatches {
    async fn handle_batch(&self, batch: Vec<Batch<Placed>>) -> Result<BatchOutcome, HandlerError> {
        let outcome = |one: &Batch<Placed>| {
            let rows = one.cx.unit::<Rows>().ok_or("no transaction")?;
            rows.0.lock().unwrap().push(one.message.id);
            if one.message.id == 2 { Err(HandlerError::permanent("never")) } else { Ok(()) }
        };
        Ok(BatchOutcome::each(batch.iter().map(outcome).collect()))
    }
}

#[tokio::test]
async fn each_message_of_a_batch_has_its_own_unit_of_work() {
    let database = Arc::new(Database::default());
    let begin = database.clone();
    let service = move || {
        let spec = HandlerSpec::new("shipping", "shipping").unwrap();
        let spec = spec.unit_of_work(Arc::new(Transactions(begin.clone())));
        Service::new("shop").spec(spec.with(batch(&Arc::new(InBatches), 8, Duration::from_secs(1))))
    };
    let mut kit = TestKit::start(service).await.unwrap();
    for id in 1..=5 {
        kit.publish(&Placed { id }).await.unwrap();
    }
    kit.settle().await;
    assert_eq!(*database.rows.lock().unwrap(), [1, 3, 4, 5]);
    assert_eq!(kit.dead_letters("shipping").await.len(), 1);
    kit.finish().await.unwrap();
}

#[tokio::test]
async fn layers_limit_and_what_the_handler_answered_survives_them() {
    let (running, most) = (Arc::new(AtomicU32::new(0)), Arc::new(AtomicU32::new(0)));
    let seen = most.clone();
    let limit = ConcurrencyLimitLayer::new(2);
    let service = move || {
        let (running, most, limit) = (running.clone(), most.clone(), limit.clone());
        let handler = move |order: Placed, _: Context| {
            let (running, most) = (running.clone(), most.clone());
            async move {
                most.fetch_max(running.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
                tokio::time::sleep(Duration::from_millis(10)).await;
                running.fetch_sub(1, Ordering::SeqCst);
                match order.id {
                    7 => Err(HandlerError::permanent("no such order")),
                    8 => Err(HandlerError::discard("a test")),
                    id => Ok(Shipped { id }),
                }
            }
        };
        let spec = HandlerSpec::new("shipping", "shipping").unwrap().concurrency(8);
        Service::new("shop").spec(spec.with(layered(limit, handler)))
    };
    let mut kit = TestKit::start(service).await.unwrap();
    for id in 0..10 {
        kit.publish(&Placed { id }).await.unwrap();
    }
    kit.settle().await;
    assert_eq!(seen.load(Ordering::SeqCst), 2, "eight lanes, two at once");
    assert_eq!(kit.published::<Shipped>().len(), 8);
    let letters = kit.dead_letters("shipping").await;
    assert_eq!(letters.len(), 1);
    assert_eq!(letters[0].dead_letter().unwrap().kind, DeadLetterKind::Rejected);
    assert_eq!(letters[0].dead_letter().unwrap().error.as_str(), "no such order");
    kit.finish().await.unwrap();
}

/// Load that is shed is retried by the policy.
#[tokio::test]
async fn an_error_of_a_layer_is_retried() {
    let layers =
        || tower::ServiceBuilder::new().layer(LoadShedLayer::new()).layer(ConcurrencyLimitLayer::new(1));
    let stack = layers();
    let service = move || {
        let spec = HandlerSpec::new("shipping", "shipping").unwrap().concurrency(4).retry(0, 9);
        let handler = |order: Placed, _: Context| async move {
            tokio::time::sleep(Duration::from_millis(10)).await;
            Ok::<_, HandlerError>(Shipped { id: order.id })
        };
        Service::new("shop").spec(spec.with(layered(stack.clone(), handler)))
    };
    let mut kit = TestKit::start(service).await.unwrap();
    for id in 0..4 {
        kit.publish(&Placed { id }).await.unwrap();
    }
    kit.settle().await;
    assert_eq!(kit.published::<Shipped>().len(), 4);
    kit.finish().await.unwrap();
}

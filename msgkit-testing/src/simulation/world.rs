//! The system that is simulated, and the ledger of what happened in it.
//!
//! ```text
//! source ── ordered (keys hold) ── worked (lanes, retries) ── stored (batches)
//!                └── audited (another group on the same messages)
//! ```

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use msgkit::codec::Json;
use msgkit::envelope::Clock;
use msgkit::handler::{Batch, BatchOutcome, HandleBatch, HandlerSpec, batch, closure};
use msgkit::policy::{Delayed, OnFailure, Order};
use msgkit::transport::Transport;
use msgkit::{Context, Error, HandlerError, Message, Service, Topic};
use serde::{Deserialize, Serialize};

use super::chaos::Chaos;
use super::plan::{Fault, Stage};

/// How many keys the messages of a run have.
pub(super) const KEYS: u32 = 8;

macro_rules! step {
    ($type:ident, $name:literal) => {
        #[derive(Debug, Clone, Serialize, Deserialize)]
        pub(super) struct $type {
            pub(super) n: u32,
        }

        impl Message for $type {
            type Codec = Json;
            const NAME: &'static str = $name;
            const TOPIC: &'static str = $name;
            fn topic(&self) -> Result<Topic, Error> {
                Self::template()?.render(&[])
            }
            fn key(&self) -> Option<Cow<'_, str>> {
                Some(format!("key-{}", self.n % KEYS).into())
            }
        }
    };
}

step!(Started, "simulation.started");
step!(Ordered, "simulation.ordered");
step!(Worked, "simulation.worked");

/// What has arrived where.
#[derive(Debug, Default)]
pub(super) struct Ledger {
    /// In the order of first successes, by key.
    pub(super) ordered: BTreeMap<u32, Vec<u32>>,
    pub(super) audited: BTreeSet<u32>,
    /// The ids under which each number was stored, and how often.
    pub(super) stored: BTreeMap<u32, BTreeSet<String>>,
    pub(super) stores: usize,
    pub(super) most_attempts: u32,
}

/// What handlers share.
pub(super) struct World {
    pub(super) chaos: Arc<Chaos>,
    ledger: Mutex<Ledger>,
}

impl World {
    pub(super) fn new(chaos: Arc<Chaos>) -> Arc<Self> {
        Arc::new(Self { chaos, ledger: Mutex::default() })
    }

    pub(super) fn ledger(&self) -> MutexGuard<'_, Ledger> {
        self.ledger.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What happens inside a handler besides its work.
    async fn live(&self, cx: &Context) -> Result<(), HandlerError> {
        {
            let mut ledger = self.ledger();
            ledger.most_attempts = ledger.most_attempts.max(cx.attempt());
        }
        self.chaos.moment().await;
        match self.chaos.next(Stage::Handle) {
            Some(Fault::Failed) => return Err("failed by the simulation".into()),
            Some(Fault::Panicked) => panic!("panicked by the simulation"),
            Some(Fault::Hung) => std::future::pending().await,
            Some(Fault::Delayed) => tokio::time::sleep(Duration::from_secs(5)).await,
            Some(Fault::CrashedBefore | Fault::CrashedAfter) => self.chaos.die().await,
            Some(fault) => self.chaos.interrupt(fault),
            None => {}
        }
        Ok(())
    }
}

/// Numbers that never succeed: one in 40 at the second hop.
pub(super) fn is_poison(n: u32) -> bool {
    n % 40 == 39
}

struct Store(Arc<World>);

impl HandleBatch<Worked> for Store {
    async fn handle_batch(&self, batch: Vec<Batch<Worked>>) -> Result<BatchOutcome, HandlerError> {
        let mut outcomes = Vec::with_capacity(batch.len());
        for one in &batch {
            let outcome = self.0.live(&one.cx).await;
            if outcome.is_ok() {
                let mut ledger = self.0.ledger();
                ledger.stores += 1;
                ledger.stored.entry(one.message.n).or_default().insert(one.cx.envelope().id().to_string());
            }
            outcomes.push(outcome);
        }
        Ok(BatchOutcome::each(outcomes))
    }
}

/// The most attempts of the policy of this system.
pub(super) const MOST_ATTEMPTS: u32 = 2 * (ROUNDS + 1);
const ROUNDS: u32 = 4;

fn spec(name: &'static str, lanes: usize, order: Order) -> Result<HandlerSpec, Error> {
    Ok(HandlerSpec::new(name, name)?.concurrency(lanes).order(order).overrides(|policy| {
        policy.immediate = Some(1);
        policy.delayed = Some(Some(Delayed::new(Duration::from_secs(2), ROUNDS)));
        policy.timeout = Some(Duration::from_secs(10));
        policy.in_flight = Some(24);
    }))
}

/// The system, on `transport`.
pub(super) fn service(
    world: &Arc<World>,
    transport: Arc<dyn Transport>,
    clock: Clock,
) -> Result<Service, Error> {
    let (first, second, third) = (world.clone(), world.clone(), world.clone());
    let ordered = spec("ordered", 3, Order::Key(OnFailure::Hold))?.with(closure(
        move |message: Started, cx: Context| {
            let world = first.clone();
            async move {
                world.live(&cx).await?;
                let mut ledger = world.ledger();
                let seen = ledger.ordered.entry(message.n % KEYS).or_default();
                if !seen.contains(&message.n) {
                    seen.push(message.n);
                }
                Ok(Ordered { n: message.n })
            }
        },
    ));
    let worked = spec("worked", 2, Order::None)?.with(closure(move |message: Ordered, cx: Context| {
        let world = second.clone();
        async move {
            world.live(&cx).await?;
            // Some need a second attempt, some never succeed.
            if is_poison(message.n) || (message.n % 13 == 5 && cx.attempt() == 1) {
                return Err(HandlerError::retry("not this one"));
            }
            Ok(Worked { n: message.n })
        }
    }));
    let audited = spec("audited", 1, Order::None)?.with(closure(move |message: Ordered, cx: Context| {
        let world = third.clone();
        async move {
            world.live(&cx).await?;
            world.ledger().audited.insert(message.n);
            Ok(())
        }
    }));
    let stored = spec("stored", 1, Order::None)?;
    let stored = stored.with(batch(&Arc::new(Store(world.clone())), 5, Duration::from_millis(50)));
    let service = Service::new("simulation").clock(clock).drain_deadline(Duration::from_secs(3));
    Ok(service.share("broker", transport).spec(ordered).spec(worked).spec(audited).spec(stored))
}

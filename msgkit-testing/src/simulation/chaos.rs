//! The transport between the service and its broker, which goes wrong as planned.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use fastrand::Rng;
use msgkit::memory::Memory;
use msgkit::transport::{
    Deliveries, Delivery, Destination, Outgoing, PublishError, Token, Transport, TransportError,
    TransportErrorKind,
};
use tokio::sync::Notify;

use super::plan::{Fault, Plan, Stage};
use crate::decorate::{Decorate, Nobody};

/// How long a destination that is down stays so.
const DOWN: Duration = Duration::from_secs(60);
/// After how long a broker that did not hear of a settlement hands the message out again.
const FORGOTTEN: Duration = Duration::from_secs(20);

/// What goes wrong, and what did.
pub(super) struct Chaos {
    state: Mutex<State>,
    broker: Memory,
    /// The service is to be killed.
    pub(super) crash: Notify,
    /// The service is to be drained and started again.
    pub(super) restart: Notify,
}

struct State {
    plan: Plan,
    rng: Rng,
    counts: HashMap<Stage, u32>,
    happened: BTreeMap<(Fault, Stage), u32>,
    down: HashMap<Stage, tokio::time::Instant>,
    calm: bool,
}

impl Chaos {
    pub(super) fn new(plan: Plan, rng: Rng, broker: Memory) -> Self {
        let state = State {
            plan,
            rng,
            counts: HashMap::new(),
            happened: BTreeMap::new(),
            down: HashMap::new(),
            calm: false,
        };
        Self { state: Mutex::new(state), broker, crash: Notify::new(), restart: Notify::new() }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// From now on nothing more goes wrong.
    pub(super) fn calm(&self) {
        let mut state = self.lock();
        state.calm = true;
        state.down.clear();
    }

    pub(super) fn happened(&self) -> BTreeMap<(Fault, Stage), u32> {
        self.lock().happened.clone()
    }

    /// The next operation of `stage`: what goes wrong with it.
    pub(super) fn next(&self, stage: Stage) -> Option<Fault> {
        let mut state = self.lock();
        if state.calm {
            return None;
        }
        let count = state.counts.entry(stage).or_default();
        *count += 1;
        let nth = *count - 1;
        let fault = state.plan.take(stage, nth)?;
        *state.happened.entry((fault, stage)).or_default() += 1;
        Some(fault)
    }

    /// A moment of random length, so that tasks come in any order.
    pub(super) async fn moment(&self) {
        let millis = {
            let mut state = self.lock();
            if state.rng.u32(0..4) == 0 { state.rng.u64(1..20) } else { 0 }
        };
        if millis == 0 {
            tokio::task::yield_now().await;
        } else {
            tokio::time::sleep(Duration::from_millis(millis)).await;
        }
    }

    fn seconds(&self) -> Duration {
        Duration::from_secs(self.lock().rng.u64(1..40))
    }

    fn is_down(&self, stage: Stage) -> bool {
        let mut state = self.lock();
        let now = tokio::time::Instant::now();
        state.down.retain(|_, until| *until > now);
        state.down.contains_key(&stage)
    }

    /// What interrupts the service as a whole; the operation goes on.
    pub(super) fn interrupt(&self, fault: Fault) {
        match fault {
            Fault::Disconnected => self.broker.disconnect(),
            Fault::Restarted => self.restart.notify_one(),
            Fault::CrashedBefore | Fault::CrashedAfter => self.crash.notify_one(),
            _ => {}
        }
    }

    /// The process is killed here: nothing after this happens.
    pub(super) async fn die(&self) {
        self.crash.notify_one();
        std::future::pending::<()>().await;
    }

    /// Publishes `batch`, or what becomes of it.
    pub(super) async fn publish(
        &self,
        stage: Stage,
        inner: &dyn Transport,
        batch: Vec<Outgoing>,
    ) -> Result<(), PublishError> {
        self.moment().await;
        let fault = self.next(stage);
        if self.is_down(stage) {
            return Err(refused(batch));
        }
        match fault {
            Some(Fault::Refused) => return Err(refused(batch)),
            Some(Fault::Down) => {
                self.lock().down.insert(stage, tokio::time::Instant::now() + DOWN);
                return Err(refused(batch));
            }
            Some(Fault::Delayed) => tokio::time::sleep(self.seconds()).await,
            Some(Fault::CrashedBefore) => self.die().await,
            Some(Fault::Doubled) => inner.publish(batch.clone()).await?,
            Some(fault @ (Fault::Disconnected | Fault::Restarted)) => self.interrupt(fault),
            _ => {}
        }
        let sent = batch.clone();
        inner.publish(batch).await?;
        match fault {
            Some(Fault::Unconfirmed) => {
                return Err(PublishError::all(sent, || {
                    TransportError::new(TransportErrorKind::Timeout, "the confirmation was lost")
                }));
            }
            Some(Fault::CrashedAfter) => self.die().await,
            _ => {}
        }
        self.moment().await;
        Ok(())
    }
}

fn refused(batch: Vec<Outgoing>) -> PublishError {
    PublishError::all(batch, || {
        TransportError::new(TransportErrorKind::Unavailable, "refused by the simulation")
    })
}

impl fmt::Debug for Chaos {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Chaos").finish_non_exhaustive()
    }
}

#[async_trait]
impl Decorate for Chaos {
    async fn publish(&self, inner: &dyn Transport, batch: Vec<Outgoing>) -> Result<(), PublishError> {
        let stage = match batch.first().map(|message| &message.to) {
            Some(Destination::Retry { .. }) => Stage::Retry,
            Some(Destination::DeadLetter(_)) => Stage::DeadLetter,
            _ => Stage::Publish,
        };
        Chaos::publish(self, stage, inner, batch).await
    }

    async fn receive(
        &self,
        inner: &mut dyn Deliveries,
        max: usize,
        into: &mut VecDeque<Delivery>,
    ) -> Result<(), TransportError> {
        // Nothing may be awaited with messages in hand: a receive that is dropped loses none.
        self.moment().await;
        let before = into.len();
        let fault = loop {
            inner.receive(max, into).await?;
            if into.len() == before {
                return Ok(());
            }
            match self.next(Stage::Receive) {
                Some(Fault::Delayed) => {
                    let back: Vec<Delivery> = into.drain(before..).collect();
                    back.into_iter().for_each(Delivery::give_back);
                    tokio::time::sleep(self.seconds()).await;
                }
                fault => break fault,
            }
        };
        match fault {
            Some(Fault::Doubled) => {
                if let Some(first) = into.get(before) {
                    let again =
                        Delivery::new(first.message().clone(), Token { id: 0, epoch: 0 }, Arc::new(Nobody));
                    into.insert(before, again.with_count(first.count()));
                }
            }
            Some(Fault::Reordered) => {
                for at in before + 1..into.len() {
                    if into[at - 1].message().key() != into[at].message().key() {
                        into.swap(at - 1, at);
                        break;
                    }
                }
            }
            Some(fault) => self.interrupt(fault),
            None => {}
        }
        Ok(())
    }

    fn settle(&self, delivery: Delivery) {
        match self.next(Stage::Settle) {
            // Not heard, or the process dies first: the message comes again.
            Some(Fault::Lost) => {
                tokio::spawn(async move {
                    tokio::time::sleep(FORGOTTEN).await;
                    delivery.give_back();
                });
            }
            Some(Fault::CrashedBefore) => {
                self.interrupt(Fault::CrashedBefore);
                drop(delivery);
            }
            Some(fault) => {
                delivery.ack();
                self.interrupt(fault);
            }
            None => delivery.ack(),
        }
    }
}

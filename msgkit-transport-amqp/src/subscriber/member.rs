//! A subscription as both sides see it: the deliveries that a service holds, and the task that owns the channel.

use std::collections::{HashMap, VecDeque};
use std::fmt;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use msgkit::transport::{Delivery, Group, Incoming, Settle, Token, TransportError};
use tokio::sync::{Notify, oneshot, watch};

use super::lost_settlements;
use crate::broker::Broker;
use crate::error::closed;

/// What the two sides share. Everything in it is bounded by the prefetch.
pub(crate) struct Member {
    state: Mutex<State>,
    /// Something came for the receiver.
    pub(crate) arrived: Notify,
    /// Something came for the task.
    pub(crate) wake: Notify,
    left: watch::Sender<bool>,
    over: watch::Sender<bool>,
    broker: Arc<Broker>,
    group: Option<Group>,
}

#[derive(Default)]
struct State {
    /// Which channel the tags belong to; counts up with each.
    epoch: u64,
    /// What was fetched, or given back, and not handed out; by tag.
    buffer: VecDeque<Fetched>,
    /// How many are in hand.
    in_hand: usize,
    /// Of those, the starts of each that was started before, by tag.
    restarted: HashMap<u64, u32>,
    settled: Vec<u64>,
    /// Settlements were lost of which no flush has told yet.
    lost: bool,
    flushes: Vec<oneshot::Sender<Result<(), TransportError>>>,
    failure: Option<TransportError>,
    /// Why there is no channel, while none can be had.
    trouble: Option<String>,
    stopped: bool,
    left: bool,
    over: bool,
}

impl State {
    /// A message is in hand no more, which happens once to each; how often it was started.
    fn leaves_hand(&mut self, tag: u64) -> u32 {
        self.in_hand = self.in_hand.saturating_sub(1);
        // Nearly always empty, and then it costs nothing.
        if self.restarted.is_empty() { 1 } else { self.restarted.remove(&tag).unwrap_or(1) }
    }

    /// What was fetched is not this side's any more.
    fn forget(&mut self) {
        self.buffer.clear();
        self.in_hand = 0;
        self.restarted.clear();
    }
}

/// A message that waits to be received.
#[derive(Debug)]
pub(crate) struct Fetched {
    pub(crate) tag: u64,
    pub(crate) count: u32,
    pub(crate) message: Incoming,
}

/// What a receiver finds.
pub(crate) enum Found {
    Messages,
    Nothing,
    End,
}

/// What the task has to do.
#[derive(Default)]
pub(crate) struct Work {
    pub(crate) settled: Vec<u64>,
    pub(crate) flushes: Vec<oneshot::Sender<Result<(), TransportError>>>,
    pub(crate) stopped: bool,
    pub(crate) left: bool,
}

impl Member {
    pub(crate) fn new(broker: Arc<Broker>, group: Option<Group>) -> Self {
        Self {
            state: Mutex::default(),
            arrived: Notify::new(),
            wake: Notify::new(),
            left: watch::Sender::new(false),
            over: watch::Sender::new(false),
            broker,
            group,
        }
    }

    /// How many messages of `group` the broker waits for here, fetched or handed out; `None` = it reads for somebody else.
    pub(crate) fn holds(&self, group: &Group) -> Option<u64> {
        let state = self.lock();
        let held = u64::try_from(state.buffer.len() + state.in_hand).unwrap_or(u64::MAX);
        (self.group.as_ref() == Some(group) && !state.over).then_some(held)
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// For the receiver: at most `max` of what was fetched.
    pub(crate) fn take(
        &self,
        settler: &Arc<dyn Settle>,
        max: usize,
        into: &mut VecDeque<Delivery>,
    ) -> Result<Found, TransportError> {
        let mut state = self.lock();
        if let Some(failure) = state.failure.take() {
            return Err(failure);
        }
        if state.stopped {
            return Ok(Found::End);
        }
        if state.over {
            return Err(closed());
        }
        if state.buffer.is_empty() {
            return Ok(Found::Nothing);
        }
        let count = max.min(state.buffer.len());
        let epoch = state.epoch;
        let State { buffer, in_hand, restarted, .. } = &mut *state;
        *in_hand += count;
        for fetched in buffer.drain(..count) {
            if fetched.count > 1 {
                restarted.insert(fetched.tag, fetched.count);
            }
            let token = Token { id: fetched.tag, epoch };
            let delivery = Delivery::new(fetched.message, token, settler.clone());
            into.push_back(delivery.with_count(fetched.count));
        }
        Ok(Found::Messages)
    }

    pub(crate) fn stop(&self) {
        self.lock().stopped = true;
        self.wake.notify_one();
        self.arrived.notify_one();
    }

    /// The receiver is gone: what it has is the broker's again.
    pub(crate) fn leave(&self) {
        let mut state = self.lock();
        state.left = true;
        state.stopped = true;
        drop(state);
        self.left.send_replace(true);
        self.wake.notify_one();
    }

    /// Resolves when the broker has taken what was settled before. What was lost since the last flush fails this one: the
    /// channel that answers it knows nothing of that.
    pub(crate) async fn flush(&self) -> Result<(), TransportError> {
        let (reply, answer) = oneshot::channel();
        {
            let mut state = self.lock();
            if state.over {
                // Nobody will answer.
                drop(reply);
            } else {
                state.flushes.push(reply);
            }
        }
        self.wake.notify_one();
        let told = answer.await;
        let lost = std::mem::take(&mut self.lock().lost);
        match told {
            Ok(Err(error)) => Err(error),
            _ if lost => Err(lost_settlements()),
            // Where the task is over, what it had was told to the broker before.
            Ok(Ok(())) | Err(_) => Ok(()),
        }
    }

    /// For the task: whether nothing is fetched or in hand.
    pub(crate) fn is_idle(&self) -> bool {
        let state = self.lock();
        state.buffer.is_empty() && state.in_hand == 0
    }

    /// Resolves when the receiver has gone.
    pub(crate) async fn left(&self) {
        let _ = self.left.subscribe().wait_for(|left| *left).await;
    }

    /// Resolves when the task is over.
    pub(crate) async fn gone(&self) {
        let _ = self.over.subscribe().wait_for(|over| *over).await;
    }

    /// For the task: a new channel, whose tags begin anew. What was fetched by the one before comes again; `unanswered` says
    /// that it was told settlements without the broker's word on them.
    pub(crate) fn new_epoch(&self, unanswered: bool) {
        let mut state = self.lock();
        state.epoch += 1;
        state.forget();
        let lost = state.settled.drain(..).len() as u64;
        state.lost |= unanswered || lost > 0;
        self.count_late(lost);
    }

    /// For the task: why there is no channel; none where there is one.
    pub(crate) fn has_trouble(&self, why: Option<String>) {
        self.lock().trouble = why;
    }

    /// Why nothing can be consumed.
    pub(crate) fn trouble(&self) -> Option<String> {
        self.lock().trouble.clone()
    }

    /// For the task: what came from the broker, tags ascending.
    pub(crate) fn give(&self, fetched: Vec<Fetched>) {
        self.lock().buffer.extend(fetched);
        self.arrived.notify_one();
    }

    /// For the task: what is to be done.
    pub(crate) fn work(&self) -> Work {
        let mut state = self.lock();
        Work {
            settled: std::mem::take(&mut state.settled),
            flushes: std::mem::take(&mut state.flushes),
            stopped: state.stopped,
            left: state.left,
        }
    }

    /// For the task: it is over, with an error for the receiver where there is one.
    pub(crate) fn end(&self, failure: Option<TransportError>) {
        let mut state = self.lock();
        state.epoch += 1;
        state.over = true;
        state.trouble = None;
        state.failure = failure;
        state.forget();
        let lost = state.settled.drain(..).len() as u64;
        state.lost |= lost > 0;
        state.flushes.clear();
        drop(state);
        self.count_late(lost);
        self.over.send_replace(true);
        self.arrived.notify_one();
    }

    fn count_late(&self, late: u64) {
        if late > 0 {
            self.broker.counters.late.fetch_add(late, Ordering::Relaxed);
        }
    }
}

impl Settle for Member {
    fn done(&self, tokens: &mut Vec<Token>) {
        let mut state = self.lock();
        let mut late = 0;
        for token in tokens.drain(..) {
            // What belongs to a channel that is gone is not settled: the broker hands it out again.
            if token.epoch == state.epoch {
                state.leaves_hand(token.id);
                state.settled.push(token.id);
            } else {
                late += 1;
            }
        }
        state.lost |= late > 0;
        drop(state);
        self.count_late(late);
        self.wake.notify_one();
    }

    /// The message waits here for the next receive, at its old place: nothing is told to the broker, which would count a
    /// start. When the subscription ends, all that is unsettled goes back.
    fn returned(&self, token: Token, message: Incoming) {
        let mut state = self.lock();
        if token.epoch != state.epoch {
            return;
        }
        let count = state.leaves_hand(token.id);
        let at = state.buffer.partition_point(|fetched| fetched.tag < token.id);
        state.buffer.insert(at, Fetched { tag: token.id, count, message });
        drop(state);
        self.arrived.notify_one();
    }
}

impl fmt::Debug for Member {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Member").finish_non_exhaustive()
    }
}

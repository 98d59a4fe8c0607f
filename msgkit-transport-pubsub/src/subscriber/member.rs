//! A subscription as both sides see it: the deliveries that a service holds, and the tasks that read for it.

mod state;

use std::collections::{BTreeSet, HashMap};
use std::fmt;
use std::future::ready;
use std::pin::pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures_util::StreamExt as _;
use futures_util::future::{BoxFuture, FutureExt as _};
use futures_util::stream::FuturesUnordered;
use google_cloud_pubsub::subscriber::handler::{ExactlyOnce, Handler};
use msgkit::transport::{Incoming, Settle, Token, TransportError, TransportErrorKind};
use msgkit::{Envelope, Topic};
use tokio::sync::{Notify, watch};

use self::state::{Ack, Again, Held, Key, State, Withheld};
use crate::core::{Core, Refusal};
use crate::error::closed;

/// What the two sides share. Everything in it is bounded by what the service lets a stream have outstanding: so many messages
/// as the prefetch and `fetch_ahead`, so many bytes as `fetch_buffer`, for each topic that is read. All of it is read at once:
/// what waited in the connection would have no lease that is renewed, and come again before it was seen.
pub(crate) struct Member {
    state: Mutex<State>,
    prefetch: usize,
    /// Something came for the receiver.
    pub(crate) arrived: Notify,
    /// Whether something came that the receiver was not told of.
    untold: AtomicBool,
    /// Something came of which nobody here knows whose it is.
    pub(crate) unknown: Notify,
    /// Settlements wait to be confirmed.
    pub(crate) settled: Notify,
    /// The word on a settlement came.
    confirmed: Notify,
    phase: watch::Sender<Phase>,
    over: watch::Sender<bool>,
    core: Arc<Core>,
}

/// How far a subscription is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Phase {
    Reads,
    /// Fetches no more; what is in hand can be settled.
    Stopped,
    /// What is unsettled goes back.
    Left,
}

/// A message as it came from the service.
pub(crate) struct Came {
    /// Which of those that read for the subscription it came to, and by which of its connections.
    pub(crate) source: usize,
    pub(crate) connection: u64,
    pub(crate) id: Arc<str>,
    pub(crate) key: String,
    pub(crate) message: Incoming,
    pub(crate) handler: Handler,
}

/// A message that is being handed out.
#[derive(Debug)]
pub(crate) struct Handed {
    pub(crate) token: Token,
    pub(crate) count: u32,
    pub(crate) position: Arc<str>,
    pub(crate) message: Incoming,
}

/// The service's word on a settlement.
#[derive(Debug)]
pub(crate) struct Answer {
    number: u64,
    key: Option<Key>,
    /// Why it was not taken.
    refused: Option<String>,
}

/// What a receiver finds.
pub(crate) enum Found {
    Messages,
    Nothing,
    End,
}

impl Member {
    pub(crate) fn new(core: &Arc<Core>, prefetch: usize) -> Self {
        Self {
            state: Mutex::default(),
            prefetch: prefetch.max(1),
            arrived: Notify::new(),
            unknown: Notify::new(),
            untold: AtomicBool::new(false),
            settled: Notify::new(),
            confirmed: Notify::new(),
            phase: watch::Sender::new(Phase::Reads),
            over: watch::Sender::new(false),
            core: core.clone(),
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// For the receiver: at most `max` of what was fetched.
    pub(crate) fn take(&self, max: usize, into: &mut Vec<Handed>) -> Result<Found, TransportError> {
        let mut state = self.lock();
        if let Some(failure) = state.failure.take() {
            return Err(failure);
        }
        if *self.phase.borrow() >= Phase::Stopped {
            return Ok(Found::End);
        }
        if state.over {
            return Err(closed());
        }
        let mut room = max.min(self.prefetch.saturating_sub(state.in_hand));
        while room > 0
            && let Some((id, message)) = state.next_out()
        {
            state.in_hand += 1;
            room -= 1;
            let Some(held) = state.held.get_mut(&id) else { continue };
            held.handed = true;
            into.push(Handed {
                token: Token { id, epoch: held.epoch },
                count: held.count,
                position: held.message.clone(),
                message,
            });
        }
        Ok(if into.is_empty() { Found::Nothing } else { Found::Messages })
    }

    /// How many are fetched or in hand.
    #[cfg(test)]
    pub(crate) fn fetched(&self) -> usize {
        self.lock().held.len()
    }

    /// How far it is, for those who read for it.
    pub(crate) fn phase(&self) -> Phase {
        *self.phase.borrow()
    }

    pub(crate) fn enter(&self, phase: Phase) {
        self.phase.send_if_modified(|now| {
            let later = *now < phase;
            *now = (*now).max(phase);
            later
        });
        self.arrived.notify_one();
    }

    /// Resolves when it is so far.
    pub(crate) async fn reached(&self, phase: Phase) {
        let _ = self.phase.subscribe().wait_for(|now| *now >= phase).await;
    }

    /// Resolves when its tasks are over.
    pub(crate) async fn gone(&self) {
        let _ = self.over.subscribe().wait_for(|over| *over).await;
    }

    /// For a reading task: what came from the service. The receiver hears of it with [`Member::tell`].
    pub(crate) fn put(&self, came: Came) {
        self.add(came, false);
    }

    /// For a reading task: the same of a message that the group may take, as far as is known. It keeps its lease and its place
    /// until [`Member::decide`].
    pub(crate) fn withhold(&self, came: Came) {
        self.add(came, true);
        self.unknown.notify_one();
    }

    fn add(&self, came: Came, undecided: bool) {
        let Came { source, connection, id: message_id, key, message, handler } = came;
        let count =
            handler.delivery_attempt().and_then(|count| u32::try_from(count).ok()).unwrap_or(1).max(1);
        let mut state = self.lock();
        let known = (source, message_id.clone());
        if let Some(id) = state.ids.get(&known).copied() {
            let withheld = Withheld { undecided, message };
            state.supersede(id, Again { connection, withheld, count, handler });
            drop(state);
            self.untold.store(true, Ordering::Release);
            return;
        }
        let withheld = undecided || state.withholds(source, &key);
        let id = state.number(source, &key);
        state.ids.insert(known, id);
        let (epoch, handed) = (0, false);
        state
            .held
            .insert(id, Held { source, connection, message: message_id, key, count, handler, epoch, handed });
        if withheld {
            state.withheld.insert(id, Withheld { undecided, message });
        } else {
            state.buffer.insert(id, message);
        }
        drop(state);
        self.untold.store(true, Ordering::Release);
    }

    /// For the supervising task: which of those that read has suspects.
    pub(crate) fn suspects(&self, source: usize) {
        self.lock().suspects = Some(source);
    }

    /// For the supervising task: a suspect that nobody can have started.
    pub(crate) fn unstarted(&self) -> Option<(Token, Envelope)> {
        let state = self.lock();
        let suspects = state.suspects?;
        let all = state.buffer.keys().filter_map(|id| Some((*id, state.held.get(id)?)));
        // One that has come before may have been started by who had it then.
        let is_new = |held: &Held| held.source == suspects && !held.handed && held.count <= 1;
        let (id, held) = all.into_iter().find(|(_, held)| is_new(held))?;
        let envelope = state.buffer.get(&id)?.envelope()?.clone();
        Some((Token { id, epoch: held.epoch }, envelope))
    }

    /// For the supervising task: the number before which everything came that is undecided; `None` where nothing is.
    pub(crate) fn undecided(&self) -> Option<u64> {
        let state = self.lock();
        (!state.withheld.is_empty()).then_some(state.next)
    }

    /// For the supervising task: what the group takes is handed out. What it does not is skipped, if it came `before` that was
    /// asked; what came later waits for the next answer.
    pub(crate) fn decide(&self, before: u64, takes: impl Fn(&Topic) -> bool) {
        let mut state = self.lock();
        let mut foreign = Vec::new();
        for (id, withheld) in &mut state.withheld {
            let ours = withheld.message.envelope().is_none_or(|envelope| takes(envelope.topic()));
            withheld.undecided &= !ours;
            if withheld.undecided && *id < before {
                foreign.push(*id);
            }
        }
        for id in foreign {
            if let Some(held) = state.take(id) {
                state.settle(id, held);
            }
        }
        state.release();
        drop(state);
        self.settled.notify_one();
        self.arrived.notify_one();
    }

    /// For a reading task: the receiver is told of what has come.
    pub(crate) fn tell(&self) {
        if self.untold.swap(false, Ordering::AcqRel) {
            self.arrived.notify_one();
        }
    }

    /// For a reading task: a message that does not belong to the subscription.
    pub(crate) fn skip(&self, came: Came) {
        let Came { source, connection, id: message, key, handler, .. } = came;
        let mut state = self.lock();
        let id = state.number(source, &key);
        let (count, epoch, handed) = (0, 0, false);
        state.settle(id, Held { source, connection, message, key, count, handler, epoch, handed });
        drop(state);
        self.settled.notify_one();
    }

    /// For a reading task: its subscription is gone, and everything that came with it.
    pub(crate) fn lose(&self, source: usize) {
        let mut state = self.lock();
        let all = state.held.iter().chain(&state.parked).filter(|(_, held)| held.source == source);
        let ids: Vec<u64> = all.map(|(id, _)| *id).collect();
        for id in ids {
            if let Some(held) = state.take(id).or_else(|| state.parked.remove(&id)) {
                state.ids.remove(&(source, held.message.clone()));
                state.leaves_key(held.source, &held.key, id);
                state.keep_stale(held.handler);
            }
        }
        let lost = state.lose_waiting(source);
        drop(state);
        self.core.count_late(lost);
        self.confirmed.notify_waiters();
    }

    /// For a reading task: its connection has fallen silent, and another takes its place.
    pub(crate) fn exchanged(&self, source: usize) {
        let lost = self.lock().lose_waiting(source);
        self.core.count_late(lost);
        self.confirmed.notify_waiters();
    }

    /// For the supervising task: what is to be confirmed, each key apart, so that none waits for another's. It begins when it is
    /// polled.
    pub(crate) fn acks(&self) -> Vec<BoxFuture<'static, Vec<Answer>>> {
        let acks = self.lock().take_acks();
        // A settlement that goes into a silent connection has no answer ever, and no lease after so long.
        let patience = self.core.config.lease * 2;
        let (mut unconfirmed, mut keys) = (Vec::new(), Vec::new());
        let mut places = HashMap::new();
        for Ack { number, key, handler } in acks {
            match handler {
                Handler::ExactlyOnce(handler) => {
                    let place = *places.entry(key.clone()).or_insert_with(|| {
                        keys.push((key, Vec::new()));
                        keys.len() - 1
                    });
                    keys[place].1.push((number, handler));
                }
                // The service says nothing.
                other => {
                    other.ack();
                    unconfirmed.push(Answer { number, key, refused: None });
                }
            }
        }
        let confirmed = keys.into_iter().map(|(key, acks)| confirmed(key, acks, patience).boxed());
        let unconfirmed = (!unconfirmed.is_empty()).then(|| ready(unconfirmed).boxed());
        confirmed.chain(unconfirmed).collect()
    }

    /// For the supervising task: the service's word on settlements.
    pub(crate) fn answered(&self, answers: Vec<Answer>) {
        let mut state = self.lock();
        for Answer { number, key, refused } in answers {
            state.unconfirmed.remove(&number);
            if let Some(key) = key {
                state.heard(key);
            }
            if let Some(why) = refused {
                tracing::debug!(%why, "a settlement was not taken; its message comes again");
                state.lost += 1;
                self.core.count_late(1);
            }
        }
        drop(state);
        // Of what waited for it.
        self.settled.notify_one();
        self.confirmed.notify_waiters();
    }

    /// Resolves when the service has answered for everything that was settled before. What lies behind an unsettled message of its
    /// key it cannot be told yet.
    pub(crate) async fn flush(&self) -> Result<(), TransportError> {
        let until = self.lock().told;
        self.settled.notify_one();
        loop {
            let changed = self.confirmed.notified();
            let mut changed = std::pin::pin!(changed);
            changed.as_mut().enable();
            {
                let mut state = self.lock();
                if state.over || state.unconfirmed.first().is_none_or(|first| *first > until) {
                    // Nobody hears any more what becomes of the others.
                    let unheard = if state.over { state.unconfirmed.len() as u64 } else { 0 };
                    return match std::mem::take(&mut state.lost) + unheard {
                        0 => Ok(()),
                        lost => Err(TransportError::new(
                            TransportErrorKind::Unavailable,
                            format!(
                                "the leases of {lost} messages were lost before they were settled; they come again"
                            ),
                        )),
                    };
                }
            }
            changed.await;
        }
    }

    /// Everything that is unsettled goes back, the oldest first; and with it what was settled behind one of these of its key,
    /// which the service would not take, and what still waits for its word.
    pub(crate) fn give_back(&self) {
        let mut state = self.lock();
        let parked: Vec<(u64, Held)> = state.parked.drain().collect();
        let waiting = state.give_up_waiting(None);
        self.core.count_late((parked.len() + waiting.len()) as u64);
        let mut held: Vec<(u64, Held)> = state.held.drain().chain(parked).collect();
        held.sort_unstable_by_key(|(id, _)| *id);
        state.buffer.clear();
        state.withheld.clear();
        state.ids.clear();
        state.keys.clear();
        state.in_hand = 0;
        let stale = std::mem::take(&mut state.stale);
        drop(state);
        // Dropping them tells the service.
        drop(stale);
        drop(waiting);
        drop(held);
    }

    /// For the supervising task: it is over, with an error for the receiver where there is one.
    pub(crate) fn end(&self, failure: Option<TransportError>) {
        self.give_back();
        let mut state = self.lock();
        state.over = true;
        if state.failure.is_none() {
            state.failure = failure;
        }
        drop(state);
        self.over.send_replace(true);
        self.arrived.notify_one();
        self.confirmed.notify_waiters();
    }

    /// The receiver is told of what is tried again, and goes on with the rest: to begin anew would give that back, and each time
    /// the service would count a start of it. Health is told as well, as long as the answer is kept.
    pub(crate) fn trouble(&self, refused: &TransportError) -> Refusal {
        let text = format!("{}; it is tried again", msgkit::Chain(refused));
        // The first is kept: it may be the end, and what is tried again is told again.
        let failure = || TransportError::new(TransportErrorKind::Unavailable, text);
        self.lock().failure.get_or_insert_with(failure);
        self.arrived.notify_one();
        Refusal::new(&self.core, refused)
    }

    /// The receiver is told, once; nothing more is fetched for it.
    pub(crate) fn fail(&self, failure: TransportError) {
        self.lock().failure = Some(failure);
        self.enter(Phase::Stopped);
    }
}

/// The service's word on settlements of one key, or on those without one.
async fn confirmed(key: Option<Key>, acks: Vec<(u64, ExactlyOnce)>, patience: Duration) -> Vec<Answer> {
    let mut answers = Vec::with_capacity(acks.len());
    let mut open: BTreeSet<u64> = acks.iter().map(|(number, _)| *number).collect();
    let asked =
        acks.into_iter().map(|(number, handler)| async move { (number, handler.confirmed_ack().await) });
    let mut asked: FuturesUnordered<_> = asked.collect();
    let mut end = pin!(tokio::time::sleep(patience));
    while !open.is_empty() {
        tokio::select! {
            biased;
            Some((number, told)) = asked.next() => {
                open.remove(&number);
                let refused = told.err().map(|error| msgkit::Chain(&error).to_string());
                answers.push(Answer { number, key: key.clone(), refused });
            }
            () = &mut end => {
                let nothing = "there was no answer to it";
                answers.extend(open.into_iter().map(|number| {
                    let refused = Some(nothing.to_owned());
                    Answer { number, key: key.clone(), refused }
                }));
                break;
            }
        }
    }
    answers
}

impl Settle for Member {
    fn done(&self, tokens: &mut Vec<Token>) {
        let mut state = self.lock();
        let mut late = 0;
        for token in tokens.drain(..) {
            // Where there is none it has come again since, or the subscription is over.
            let current = state.of(token).is_some();
            match current.then(|| state.take(token.id)).flatten() {
                Some(held) => state.settle(token.id, held),
                None => late += 1,
            }
        }
        drop(state);
        if late > 0 {
            self.core.count_late(late);
        }
        self.settled.notify_one();
        self.arrived.notify_one();
    }

    /// The message waits here for the next receive, at its old place; its lease is renewed meanwhile. Nothing is told to the
    /// service, which would count a start.
    fn returned(&self, token: Token, message: Incoming) {
        let mut state = self.lock();
        if state.of(token).is_none() {
            return;
        }
        state.in_hand = state.in_hand.saturating_sub(1);
        state.buffer.insert(token.id, message);
        drop(state);
        self.arrived.notify_one();
    }
}

impl fmt::Debug for Member {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Member").finish_non_exhaustive()
    }
}

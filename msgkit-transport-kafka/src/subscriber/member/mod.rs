//! What a subscription has: shared by its thread, which fills it, the service, which receives from it, and deliveries,
//! which settle from anywhere.

mod commits;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use msgkit::Pattern;
use msgkit::transport::{Group, Incoming, Position, Settle, Token, TransportError};
use tokio::sync::{Notify, oneshot};

use super::partition::Partition;
use super::signal::Signal;
use crate::cluster::Cluster;
use crate::error::closed;
use crate::look::Record;

/// A subscription's messages in this process.
#[derive(Debug)]
pub(crate) struct Member {
    /// The group, but of a delay step.
    pub(crate) group: Option<Group>,
    cluster: Weak<Cluster>,
    state: Mutex<State>,
    /// For the thread: there is something to do.
    pub(super) signal: Arc<Signal>,
    /// For the transport that closes: the thread is over.
    over: Notify,
    /// For the service: there is something to receive.
    pub(super) arrived: Notify,
    prefetch: usize,
}

#[derive(Debug, Default)]
pub(super) struct State {
    /// Each assignment of a partition, by the number that its tokens carry.
    pub(super) partitions: BTreeMap<u64, Partition>,
    /// What waits to be handed out, in the order of arrival.
    waiting: VecDeque<Waiting>,
    /// What the thread has to decide on, in the order of arrival.
    undecided: Vec<Undecided>,
    in_hand: usize,
    arrivals: u64,
    epochs: u64,
    /// Partitions of which something is wanted, while the starts of what waits are not written down.
    demand: BTreeSet<u64>,
    stopped: bool,
    leaving: bool,
    ended: bool,
    gone: bool,
    /// Something of it is committed: not where it has no group.
    commits: bool,
    /// Something was settled that the brokers have not taken, and never will.
    behind: bool,
    /// Why receiving fails, told once.
    error: Option<TransportError>,
    flushes: Vec<oneshot::Sender<Result<(), TransportError>>>,
}

#[derive(Debug)]
struct Waiting {
    /// Its place in the order of arrival.
    sequence: u64,
    epoch: u64,
    offset: u64,
    message: Incoming,
}

/// A message of which it is not known yet whether the group takes it.
#[derive(Debug)]
struct Undecided {
    sequence: u64,
    epoch: u64,
    offset: u64,
    record: Record,
    size: usize,
}

/// A message on its way to the service.
#[derive(Debug)]
pub(super) struct Handed {
    pub(super) token: Token,
    pub(super) message: Incoming,
    pub(super) count: u32,
    pub(super) position: Position,
}

/// What there is to receive.
pub(super) enum Found {
    Messages,
    Nothing,
    End,
}

/// A message as it came from the client.
pub(super) struct Arrived {
    pub(super) epoch: u64,
    pub(super) offset: u64,
    pub(super) what: What,
}

/// Where a partition begins.
#[derive(Debug, Clone, Copy)]
pub(super) struct Begin {
    pub(super) offset: u64,
    /// Not where it was left: its log ends before that.
    pub(super) again: bool,
}

/// Whose a message is.
pub(super) enum What {
    Ours(Incoming),
    /// None of the subscription's.
    Foreign,
    /// None that a known pattern takes, with its size.
    Undecided(Record, usize),
}

impl State {
    /// Lets a message wait to be handed out, at its place in the order of arrival.
    fn put(&mut self, waiting: Waiting) {
        let partition = self.partitions.get(&waiting.epoch);
        if partition.is_some_and(|one| one.counted_to > 0 && waiting.offset >= one.counted_to) {
            self.demand.insert(waiting.epoch);
        }
        let at = self.waiting.partition_point(|other| other.sequence < waiting.sequence);
        self.waiting.insert(at, waiting);
    }
}

impl Member {
    pub(super) fn new(cluster: &Arc<Cluster>, group: Option<Group>, prefetch: usize) -> Self {
        Self {
            group,
            cluster: Arc::downgrade(cluster),
            state: Mutex::default(),
            signal: Arc::default(),
            arrived: Notify::new(),
            over: Notify::new(),
            prefetch: prefetch.max(1),
        }
    }

    pub(super) fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Lets the thread look for something to do.
    pub(crate) fn wake(&self) {
        self.signal.ring();
    }

    /// How many messages are in hand unsettled; `None` = it is no member any more.
    pub(crate) fn in_hand(&self) -> Option<u64> {
        let state = self.state();
        if state.gone { None } else { u64::try_from(state.in_hand).ok() }
    }

    /// Takes what may be handed out, at most `max`.
    pub(super) fn take(&self, max: usize, into: &mut Vec<Handed>) -> Result<Found, TransportError> {
        let mut guard = self.state();
        let state = &mut *guard;
        if let Some(error) = state.error.take() {
            return Err(error);
        }
        let mut held_back: BTreeSet<u64> = BTreeSet::new();
        let mut left = Vec::new();
        while !state.stopped
            && into.len() < max
            && let Some(waiting) = state.waiting.pop_front()
        {
            let Waiting { sequence, epoch, offset, .. } = waiting;
            let partition = state.partitions.get_mut(&epoch);
            match partition.filter(|partition| offset < partition.counted_to) {
                // What comes behind it in its partition waits too.
                Some(partition) if !held_back.contains(&epoch) => {
                    partition.in_hand.insert(offset, sequence);
                    state.in_hand += 1;
                    into.push(Handed {
                        token: Token { id: offset, epoch },
                        message: waiting.message,
                        count: partition.count(offset),
                        position: partition.position_of(offset),
                    });
                }
                _ => {
                    held_back.insert(epoch);
                    left.push(waiting);
                }
            }
        }
        for waiting in left.into_iter().rev() {
            state.waiting.push_front(waiting);
        }
        if !into.is_empty() {
            return Ok(Found::Messages);
        }
        if state.stopped || state.leaving || state.ended {
            let closed_by_transport = state.ended && !state.stopped && !state.leaving;
            return if closed_by_transport { Err(closed()) } else { Ok(Found::End) };
        }
        let before = state.demand.len();
        state.demand.extend(held_back);
        if state.demand.len() > before {
            self.signal.ring();
        }
        Ok(Found::Nothing)
    }

    pub(super) fn stop(&self) {
        let mut state = self.state();
        state.stopped = true;
        // What nobody will receive any more is left for the next member.
        state.waiting.clear();
        drop(state);
        self.arrived.notify_one();
        self.signal.ring();
    }

    pub(super) fn leave(&self) {
        let mut state = self.state();
        state.stopped = true;
        state.leaving = true;
        state.waiting.clear();
        drop(state);
        self.arrived.notify_one();
        self.signal.ring();
    }

    /// The thread is told to go by the transport, not by the service.
    pub(crate) fn dismiss(&self) {
        let mut state = self.state();
        state.ended = true;
        state.waiting.clear();
        drop(state);
        self.arrived.notify_one();
        self.signal.ring();
    }

    pub(super) fn must_go(&self) -> bool {
        let state = self.state();
        state.leaving || state.ended
    }

    /// Waits until the thread is gone.
    pub(crate) async fn is_gone(&self) {
        loop {
            let over = self.over.notified();
            if self.state().gone {
                return;
            }
            over.await;
        }
    }

    /// The thread is gone.
    pub(super) fn gone(&self) {
        let mut state = self.state();
        state.ended = true;
        state.gone = true;
        let bounds = state.bounds();
        state.behind = state.partitions.values().any(|partition| partition.is_behind(bounds.of(partition)));
        state.waiting.clear();
        state.undecided.clear();
        state.partitions.clear();
        state.in_hand = 0;
        state.flushes.clear();
        drop(state);
        self.arrived.notify_one();
        self.over.notify_waiters();
    }

    pub(super) fn fail(&self, error: TransportError) {
        self.state().error = Some(error);
        self.arrived.notify_one();
    }

    /// How many messages there is room for.
    pub(super) fn room(&self) -> usize {
        let state = self.state();
        if state.stopped { 0 } else { self.prefetch.saturating_sub(state.in_hand + state.waiting.len()) }
    }

    /// A new assignment of a partition; its epoch.
    pub(super) fn assigned(
        &self,
        topic: &str,
        number: i32,
        begin: Begin,
        before: crate::starts::Starts,
        free: bool,
    ) -> u64 {
        let mut state = self.state();
        state.epochs += 1;
        state.commits |= !free;
        let epoch = state.epochs;
        let Begin { offset, again } = begin;
        let mut partition = Partition::new(topic.to_owned(), number, offset, before, self.prefetch, free);
        if again {
            partition = partition.begun_again();
        }
        state.partitions.insert(epoch, partition);
        epoch
    }

    /// Takes what came from the client; tells which epochs others have taken the place of.
    pub(super) fn arrived(&self, messages: impl Iterator<Item = Arrived>) -> BTreeMap<u64, u64> {
        let mut guard = self.state();
        let state = &mut *guard;
        let mut any = false;
        let mut renewed = BTreeMap::new();
        for Arrived { epoch, offset, what } in messages {
            let mut epoch = renewed.get(&epoch).copied().unwrap_or(epoch);
            let Some(mut partition) = state.partitions.get_mut(&epoch) else { continue };
            if partition.leaving {
                continue;
            }
            if !partition.received(offset) {
                // The client never goes back by itself: the log ends before the next offset, so it is another one.
                tracing::warn!(
                    topic = partition.topic,
                    partition = partition.number,
                    expected = partition.next(),
                    offset,
                    "a Kafka partition goes back: its topic was made again, or its log was cut off; what is there now is \
                     read from here"
                );
                let mut next = partition.renewed(offset);
                next.received(offset);
                let before = std::mem::replace(&mut epoch, state.epochs + 1);
                state.epochs = epoch;
                for (_, current) in renewed.iter_mut().filter(|(_, current)| **current == before) {
                    *current = epoch;
                }
                renewed.insert(before, epoch);
                partition = state.partitions.entry(epoch).or_insert(next);
            }
            if let What::Foreign = what {
                partition.settled(offset);
                continue;
            }
            if state.stopped {
                continue;
            }
            state.arrivals += 1;
            let sequence = state.arrivals;
            match what {
                What::Ours(message) => {
                    any = true;
                    state.put(Waiting { sequence, epoch, offset, message });
                }
                What::Undecided(record, size) => {
                    state.undecided.push(Undecided { sequence, epoch, offset, record, size });
                }
                What::Foreign => {}
            }
        }
        drop(guard);
        if any {
            self.arrived.notify_one();
        }
        renewed
    }

    /// The offset behind the last that came of a partition; `None` where nothing of it is taken any more.
    pub(super) fn next(&self, epoch: u64) -> Option<u64> {
        let state = self.state();
        let partition = state.partitions.get(&epoch).filter(|partition| !partition.leaving);
        partition.map(Partition::next)
    }

    /// How many messages wait for a decision, and how many bytes they have.
    pub(super) fn undecided(&self) -> (usize, usize) {
        let state = self.state();
        (state.undecided.len(), state.undecided.iter().map(|one| one.size).sum())
    }

    /// Decides on all that wait for it: the group takes `patterns` and nothing else.
    pub(super) fn decide(&self, patterns: &[Pattern]) {
        let mut guard = self.state();
        let state = &mut *guard;
        for Undecided { sequence, epoch, offset, record, .. } in std::mem::take(&mut state.undecided) {
            let Some(partition) = state.partitions.get_mut(&epoch) else { continue };
            if !record.is_for(patterns) {
                partition.settled(offset);
            } else if !partition.leaving && !state.stopped {
                // Those that came behind it may be in hand already.
                state.put(Waiting { sequence, epoch, offset, message: record.message });
            }
        }
        drop(guard);
        self.arrived.notify_one();
    }

    /// Lets nothing more of these partitions out.
    pub(super) fn begin_to_leave(&self, epochs: &[u64]) {
        let mut guard = self.state();
        let state = &mut *guard;
        for epoch in epochs {
            if let Some(partition) = state.partitions.get_mut(epoch) {
                partition.leaving = true;
            }
        }
        state.waiting.retain(|waiting| !epochs.contains(&waiting.epoch));
    }

    /// Whether nothing of these partitions is in hand.
    pub(super) fn are_settled(&self, epochs: &[u64]) -> bool {
        let state = self.state();
        epochs
            .iter()
            .filter_map(|epoch| state.partitions.get(epoch))
            .all(|partition| partition.in_hand.is_empty())
    }

    /// Forgets partitions; what is in hand of them settles to no effect. Tells whether settlements were lost with them.
    pub(super) fn lost(&self, epochs: &[u64]) -> bool {
        let mut guard = self.state();
        let state = &mut *guard;
        let mut behind = false;
        let bounds = state.bounds();
        let places: Vec<(String, i32)> = epochs
            .iter()
            .filter_map(|epoch| state.partitions.get(epoch))
            .map(|partition| (partition.topic.clone(), partition.number))
            .collect();
        // With each goes what it had taken the place of.
        let epochs: Vec<u64> = state
            .partitions
            .iter()
            .filter(|(_, partition)| places.iter().any(|(topic, number)| partition.is(topic, *number)))
            .map(|(epoch, _)| *epoch)
            .collect();
        for epoch in &epochs {
            if let Some(partition) = state.partitions.remove(epoch) {
                state.in_hand -= partition.in_hand.len();
                behind |= partition.is_behind(bounds.of(&partition));
            }
        }
        state.waiting.retain(|waiting| !epochs.contains(&waiting.epoch));
        state.undecided.retain(|undecided| !epochs.contains(&undecided.epoch));
        behind
    }

    /// The partitions that have as much above an unsettled message as may be.
    pub(super) fn full(&self) -> BTreeSet<u64> {
        let state = self.state();
        state
            .partitions
            .iter()
            .filter(|(_, partition)| partition.is_full())
            .map(|(epoch, _)| *epoch)
            .collect()
    }

    /// After something left the hand: the thread fetches more where enough room has come about.
    fn made_room(&self, state: &State) -> bool {
        let held = state.in_hand + state.waiting.len();
        state.waiting.is_empty()
            || held <= self.prefetch - (self.prefetch / 4).max(1)
            || state.partitions.values().any(|partition| partition.leaving)
    }
}

impl Settle for Member {
    fn done(&self, tokens: &mut Vec<Token>) {
        let mut guard = self.state();
        let state = &mut *guard;
        let mut late = 0;
        for token in tokens.drain(..) {
            let Some(partition) = state.partitions.get_mut(&token.epoch) else {
                late += 1;
                continue;
            };
            if partition.in_hand.remove(&token.id).is_none() {
                late += 1;
                continue;
            }
            partition.settled(token.id);
            state.in_hand -= 1;
        }
        state.behind |= late > 0 && state.gone && state.commits;
        let ring = self.made_room(state);
        drop(guard);
        if late > 0
            && let Some(cluster) = self.cluster.upgrade()
        {
            cluster.late.fetch_add(late, Ordering::Relaxed);
        }
        if ring {
            self.signal.ring();
        }
    }

    fn returned(&self, token: Token, message: Incoming) {
        let mut guard = self.state();
        let state = &mut *guard;
        let Some(partition) = state.partitions.get_mut(&token.epoch) else { return };
        let Some(sequence) = partition.in_hand.remove(&token.id) else { return };
        state.in_hand -= 1;
        if !partition.leaving && !state.stopped {
            let Token { id: offset, epoch } = token;
            let at = state.waiting.partition_point(|waiting| waiting.sequence < sequence);
            state.waiting.insert(at, Waiting { sequence, epoch, offset, message });
        }
        let ring = self.made_room(state);
        drop(guard);
        self.arrived.notify_one();
        if ring {
            self.signal.ring();
        }
    }
}

#[cfg(test)]
mod tests;

//! The broker itself: its queues, what they take, what is kept.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::fmt;
use std::hash::{BuildHasherDefault, Hasher};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use bytes::Bytes;

use super::Connection;
use super::config::{MemoryConfig, MemoryDelay};
use super::queue::Queue;
use crate::envelope::{Clock, Envelope, NativeHeaders, Timestamp};
use crate::topic::Topic;
use crate::transport::{
    Destination, Group, Incoming, Malformed, OnUnrouted, Outgoing, Start, Subscription, TransportError,
    TransportErrorKind,
};

pub(super) struct Broker {
    pub(super) config: MemoryConfig,
    pub(super) clock: Clock,
    queues: RwLock<Queues>,
    pub(super) dead: Mutex<BTreeMap<Group, VecDeque<(u64, Envelope)>>>,
    retained: Mutex<VecDeque<(Timestamp, Envelope)>>,
    members: AtomicU64,
    letters: AtomicU64,
    pub(super) unrouted: AtomicU64,
}

/// All queues, and which of them take which topic.
#[derive(Default)]
pub(super) struct Queues {
    pub(super) groups: BTreeMap<Group, Subscribed>,
    pub(super) retries: BTreeMap<(Group, u32), Arc<Queue>>,
    ephemeral: Vec<(u64, Subscribed)>,
    by_topic: HashMap<Topic, Arc<[Arc<Queue>]>, BuildHasherDefault<Quick>>,
}

/// Eight bytes at a time: quick over names, and nobody gains by making topics collide in a cache that is emptied when it
/// is full.
#[derive(Clone, Copy, Default)]
struct Quick(u64);

impl Quick {
    fn mix(&mut self, word: u64) {
        self.0 = (self.0.rotate_left(5) ^ word).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    }
}

impl Hasher for Quick {
    fn finish(&self) -> u64 {
        self.0 ^ self.0 >> 32
    }

    fn write(&mut self, bytes: &[u8]) {
        let (words, rest) = bytes.as_chunks();
        for word in words {
            self.mix(u64::from_le_bytes(*word));
        }
        self.mix(rest.iter().fold(rest.len() as u64, |word, byte| word << 8 | u64::from(*byte)));
    }

    fn write_u8(&mut self, byte: u8) {
        self.mix(byte.into());
    }
}

/// A queue and what it takes.
#[derive(Clone)]
pub(super) struct Subscribed {
    pub(super) subscription: Subscription,
    pub(super) queue: Arc<Queue>,
}

/// How many topics are remembered with their queues; dynamic topics are without number.
const REMEMBERED_TOPICS: usize = 4096;

impl Queues {
    pub(super) fn subscribed(&self) -> impl Iterator<Item = &Subscribed> {
        self.groups.values().chain(self.ephemeral.iter().map(|(_, subscribed)| subscribed))
    }

    pub(super) fn all(&self) -> impl Iterator<Item = &Arc<Queue>> {
        self.subscribed().map(|subscribed| &subscribed.queue).chain(self.retries.values())
    }

    fn taking(&self, topic: &Topic) -> Arc<[Arc<Queue>]> {
        self.subscribed()
            .filter(|subscribed| subscribed.subscription.matches(topic))
            .map(|subscribed| subscribed.queue.clone())
            .collect()
    }

    fn retry(&mut self, group: &Group, step: u32) -> Arc<Queue> {
        self.retries.entry((group.clone(), step)).or_insert_with(|| Queue::new(group.as_str())).clone()
    }
}

impl Broker {
    pub(super) fn new(config: MemoryConfig, clock: Clock) -> Self {
        Self {
            config,
            clock,
            queues: RwLock::default(),
            dead: Mutex::default(),
            retained: Mutex::default(),
            members: AtomicU64::new(0),
            letters: AtomicU64::new(0),
            unrouted: AtomicU64::new(0),
        }
    }

    pub(super) fn read(&self) -> RwLockReadGuard<'_, Queues> {
        self.queues.read().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn write(&self) -> RwLockWriteGuard<'_, Queues> {
        self.queues.write().unwrap_or_else(PoisonError::into_inner)
    }

    fn taking(&self, topic: &Topic) -> Arc<[Arc<Queue>]> {
        if let Some(known) = self.read().by_topic.get(topic) {
            return known.clone();
        }
        let mut queues = self.write();
        let taking = queues.taking(topic);
        if queues.by_topic.len() >= REMEMBERED_TOPICS {
            queues.by_topic.clear();
        }
        queues.by_topic.insert(topic.clone(), taking.clone());
        taking
    }

    pub(super) fn group(&self, subscription: &Subscription, group: &Group) -> Arc<Queue> {
        let mut queues = self.write();
        if let Some(step) = subscription.retry_step {
            return queues.retry(group, step);
        }
        let queue = match queues.groups.get_mut(group) {
            Some(known) => {
                if known.subscription == *subscription {
                    return known.queue.clone();
                }
                // A service of another version takes more or other topics: what waits stays the group's.
                known.subscription = subscription.clone();
                known.queue.clone()
            }
            None => {
                let queue = Queue::new(group.as_str());
                let subscribed = Subscribed { subscription: subscription.clone(), queue: queue.clone() };
                queues.groups.insert(group.clone(), subscribed);
                self.start(subscription, &queue);
                queue
            }
        };
        queues.by_topic.clear();
        queue
    }

    /// A new member of what `subscription` names, and its queue.
    pub(super) fn join(&self, subscription: &Subscription) -> (u64, Arc<Queue>) {
        let member = self.members.fetch_add(1, Ordering::Relaxed);
        let queue = match &subscription.group {
            Some(group) => self.group(subscription, group),
            None => {
                let queue = Queue::new("(ephemeral)");
                let subscribed = Subscribed { subscription: subscription.clone(), queue: queue.clone() };
                let mut queues = self.write();
                queues.ephemeral.push((member, subscribed));
                queues.by_topic.clear();
                queue
            }
        };
        queue.join(member, subscription.prefetch.max(1));
        (member, queue)
    }

    /// An ephemeral subscription ends with everything that it had.
    pub(super) fn forget_ephemeral(&self, member: u64) {
        let mut queues = self.write();
        queues.ephemeral.retain(|(other, _)| *other != member);
        queues.by_topic.clear();
    }

    /// Forgets a group with everything in its queues.
    pub(super) fn forget(&self, group: &Group) {
        let mut queues = self.write();
        queues.groups.remove(group);
        queues.retries.retain(|(of, _), _| of != group);
        queues.by_topic.clear();
    }

    /// Lets every publisher that waits for room look again.
    pub(super) fn wake_publishers(&self) {
        for queue in self.read().all() {
            queue.room.notify_waiters();
        }
    }

    /// Fills the queue of a new group with what is retained.
    fn start(&self, subscription: &Subscription, queue: &Queue) {
        let retained = self.retained.lock().unwrap_or_else(PoisonError::into_inner);
        for (at, envelope) in retained.iter() {
            let wanted = match subscription.start {
                Start::Latest => false,
                Start::Earliest => true,
                Start::At(from) => *at >= from,
            };
            if wanted && subscription.matches(envelope.topic()) {
                queue.reserve_unbounded();
                queue.push(Incoming::Envelope(envelope.clone()), *at, envelope.not_before());
            }
        }
    }

    #[inline]
    fn retain(&self, envelope: &Envelope, now: Timestamp) {
        if self.config.retain == 0 {
            return;
        }
        let mut retained = self.retained.lock().unwrap_or_else(PoisonError::into_inner);
        if retained.len() == self.config.retain {
            retained.pop_front();
        }
        retained.push_back((now, envelope.clone()));
    }

    pub(super) async fn take(&self, message: &Outgoing, from: &Connection) -> Result<(), TransportError> {
        match &message.to {
            Destination::Topic { topic, .. } => self.take_topic(topic, &message.envelope, from).await,
            Destination::Retry { group, step, .. } => self.take_retry(group, *step, &message.envelope),
            Destination::DeadLetter(group) => self.take_dead_letter(group, &message.envelope),
        }
    }

    async fn take_topic(
        &self,
        topic: &Topic,
        envelope: &Envelope,
        from: &Connection,
    ) -> Result<(), TransportError> {
        let queues = self.taking(topic);
        if queues.is_empty() {
            self.unrouted.fetch_add(1, Ordering::Relaxed);
            if self.config.on_unrouted == OnUnrouted::Error {
                return Err(TransportError::new(
                    TransportErrorKind::Unrouted,
                    format!("no group takes topic `{topic}`; declare one, or set `on_unrouted = \"accept\"`"),
                ));
            }
        }
        let bound = self.bound(envelope);
        if !reserve_all(&queues, bound) {
            self.wait_for_room(&queues, bound, from).await?;
        }
        self.push(&queues, envelope.clone(), self.clock.now());
        Ok(())
    }

    /// Takes a message for a topic that is known to have readers, all of them with room; gives any other back.
    #[inline]
    pub(super) fn try_take(&self, message: Outgoing, now: Timestamp) -> Result<(), Outgoing> {
        let Destination::Topic { topic, .. } = &message.to else { return Err(message) };
        let known = self.read();
        let Some(queues) = known.by_topic.get(topic) else {
            drop(known);
            return Err(message);
        };
        // What is scheduled is kept back by this broker's own clock.
        let scheduled = message.envelope.not_before().is_some();
        if scheduled || queues.is_empty() || !reserve_all(queues, self.bound(&message.envelope)) {
            drop(known);
            return Err(message);
        }
        self.push(queues, message.envelope, now);
        Ok(())
    }

    /// How many messages a queue may hold for this one to be let in.
    ///
    /// What is published because of a message in hand may use as much again, so that a cycle does not block itself.
    fn bound(&self, envelope: &Envelope) -> usize {
        let reserve = if envelope.causation_id().is_some() { 2 } else { 1 };
        self.config.capacity.saturating_mul(reserve)
    }

    /// Puts a message into queues in each of which a place is reserved for it.
    fn push(&self, queues: &[Arc<Queue>], envelope: Envelope, now: Timestamp) {
        self.retain(&envelope, now);
        let due = match self.config.delay {
            MemoryDelay::Native => envelope.not_before(),
            MemoryDelay::RetryTopics => None,
        };
        if let [only] = queues {
            return only.push(Incoming::Envelope(envelope), now, due);
        }
        let Some((last, others)) = queues.split_last() else { return };
        for queue in others {
            queue.push(Incoming::Envelope(envelope.clone()), now, due);
        }
        last.push(Incoming::Envelope(envelope), now, due);
    }

    /// Waits until every one of `queues` has room, and takes it.
    async fn wait_for_room(
        &self,
        queues: &[Arc<Queue>],
        bound: usize,
        from: &Connection,
    ) -> Result<(), TransportError> {
        let deadline = tokio::time::Instant::now() + self.config.publish_timeout;
        loop {
            let Some(full) = queues.iter().find(|queue| !queue.has_room(bound)) else {
                if reserve_all(queues, bound) {
                    return Ok(());
                }
                continue;
            };
            let waiting = full.wait_for_room(bound);
            if tokio::time::timeout_at(deadline, waiting).await.is_err() {
                return Err(TransportError::full(
                    &full.name,
                    self.config.capacity,
                    self.config.publish_timeout,
                ));
            }
            from.check()?;
        }
    }

    /// Gives bytes without an envelope to every group that takes `topic`.
    pub(super) fn take_foreign(&self, topic: &Topic, payload: &Bytes, headers: &NativeHeaders) {
        let now = self.clock.now();
        let position = self.letters.fetch_add(1, Ordering::Relaxed).to_string();
        for Subscribed { subscription, queue } in self.read().subscribed() {
            if !subscription.matches(topic) {
                continue;
            }
            queue.reserve_unbounded();
            let message = match subscription.ingest.envelope(
                "memory",
                topic,
                Some(&position),
                Some(payload.clone()),
                headers.clone(),
                now,
            ) {
                Some(envelope) => Incoming::Envelope(envelope),
                None => Incoming::Malformed(Box::new(Malformed::new(
                    topic.clone(),
                    Some(payload.clone()),
                    headers.clone(),
                    "the message is no CloudEvents event, and no ingest rule matches its topic",
                ))),
            };
            queue.push(message, now, None);
        }
    }

    fn take_retry(&self, group: &Group, step: u32, envelope: &Envelope) -> Result<(), TransportError> {
        let now = self.clock.now();
        let (queue, due) = match self.config.delay {
            MemoryDelay::Native => {
                let queues = self.read();
                (queues.groups.get(group).map(|subscribed| subscribed.queue.clone()), envelope.not_before())
            }
            MemoryDelay::RetryTopics => (Some(self.write().retry(group, step)), None),
        };
        let Some(queue) = queue else {
            return Err(TransportError::new(
                TransportErrorKind::Invalid,
                format!("group `{group}` is not declared, so nothing can be retried there; declare it first"),
            ));
        };
        queue.reserve_unbounded();
        queue.push(Incoming::Envelope(envelope.clone()), now, due);
        Ok(())
    }

    fn take_dead_letter(&self, group: &Group, envelope: &Envelope) -> Result<(), TransportError> {
        let mut dead = self.dead.lock().unwrap_or_else(PoisonError::into_inner);
        let letters = dead.entry(group.clone()).or_default();
        if letters.len() >= self.config.dead_letters {
            return Err(TransportError::new(
                TransportErrorKind::Full,
                format!(
                    "group `{group}` has {} dead letters, as many as `dead_letters` allows; replay or remove some",
                    letters.len()
                ),
            ));
        }
        letters.push_back((self.letters.fetch_add(1, Ordering::Relaxed), envelope.clone()));
        Ok(())
    }
}

/// Takes one place in each queue, or in none.
fn reserve_all(queues: &[Arc<Queue>], bound: usize) -> bool {
    if let [only] = queues {
        return only.reserve(bound);
    }
    for (at, queue) in queues.iter().enumerate() {
        if !queue.reserve(bound) {
            for taken in &queues[..at] {
                taken.unreserve();
            }
            return false;
        }
    }
    true
}

impl fmt::Debug for Broker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Broker").field("config", &self.config).finish_non_exhaustive()
    }
}

//! The memory transport, `memory://`: the reference semantics of the contract, in one process.
//!
//! Groups, ephemeral subscriptions, wildcards, key order across a group, bounded queues with back-pressure, delays,
//! delivery counts, redelivery at the old place, backlog for groups that are away, lag and peek. It runs on the clock it
//! is given, so that tests turn the time. Nothing in it survives the process.

mod config;
mod operate;
mod queue;

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::fmt;
use std::hash::{BuildHasherDefault, Hasher};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard, Weak};

use async_trait::async_trait;
use bytes::Bytes;

pub use self::config::{MemoryConfig, MemoryDelay, OnUnrouted};
use self::queue::Queue;
use crate::envelope::{Clock, Envelope, NativeHeaders, Timestamp};
use crate::error::Error;
use crate::topic::Topic;
use crate::transport::{
    Capabilities, Declaration, Deliveries, Delivery, Destination, Factory, Group, Health, Incoming, KeyOrder,
    Malformed, Operate, Options, Outgoing, PublishError, Publisher, Rejected, Settle, Start, StartPositions,
    Subscriber, Subscription, Token, Transport, TransportError, TransportErrorKind, TransportUrl,
};

/// The scheme `memory://`, for a [`Registry`](crate::Registry).
///
/// Within one registry `memory://name` is the same broker wherever it is named, `memory://` a new one each time.
#[must_use]
pub fn scheme() -> impl Factory {
    Scheme::default()
}

#[derive(Debug, Default)]
struct Scheme {
    named: Mutex<HashMap<String, Weak<Broker>>>,
}

impl Factory for Scheme {
    fn schemes(&self) -> &'static [&'static str] {
        &["memory"]
    }

    fn build(&self, url: &TransportUrl, options: Options) -> Result<Arc<dyn Transport>, Error> {
        let clock = options.clock();
        let config: MemoryConfig = options.read(url)?;
        if config.capacity == 0 {
            return Err(Error::config(
                "`capacity = 0` lets nothing be published to a memory transport; use at least 1",
            ));
        }
        if url.address().is_empty() {
            return Ok(Arc::new(Memory::with(config, clock)));
        }
        let mut named = self.named.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(broker) = named.get(url.address()).and_then(Weak::upgrade) {
            return Ok(Arc::new(Memory(broker)));
        }
        let memory = Memory::with(config, clock);
        named.insert(url.address().to_owned(), Arc::downgrade(&memory.0));
        Ok(Arc::new(memory))
    }
}

/// A broker in memory; clones share it.
#[derive(Debug, Clone)]
pub struct Memory(Arc<Broker>);

struct Broker {
    config: MemoryConfig,
    clock: Clock,
    queues: RwLock<Queues>,
    dead: Mutex<BTreeMap<Group, VecDeque<(u64, Envelope)>>>,
    retained: Mutex<VecDeque<(Timestamp, Envelope)>>,
    members: AtomicU64,
    letters: AtomicU64,
    unrouted: AtomicU64,
    closed: AtomicBool,
}

/// All queues, and which of them take which topic.
#[derive(Default)]
struct Queues {
    groups: BTreeMap<Group, Subscribed>,
    retries: BTreeMap<(Group, u32), Arc<Queue>>,
    ephemeral: Vec<(u64, Subscribed)>,
    by_topic: HashMap<Topic, Arc<[Arc<Queue>]>, BuildHasherDefault<Fnv>>,
}

/// FNV-1a: quick over short names, and nobody gains by making topics collide in a cache that is emptied when it is full.
#[derive(Clone, Copy)]
struct Fnv(u64);

impl Default for Fnv {
    fn default() -> Self {
        Self(0xcbf2_9ce4_8422_2325)
    }
}

impl Hasher for Fnv {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.0 = (self.0 ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3);
        }
    }
}

/// A queue and what it takes.
#[derive(Clone)]
struct Subscribed {
    subscription: Subscription,
    queue: Arc<Queue>,
}

/// How many topics are remembered with their queues; dynamic topics are without number.
const REMEMBERED_TOPICS: usize = 4096;

impl Queues {
    fn subscribed(&self) -> impl Iterator<Item = &Subscribed> {
        self.groups.values().chain(self.ephemeral.iter().map(|(_, subscribed)| subscribed))
    }

    fn all(&self) -> impl Iterator<Item = &Arc<Queue>> {
        self.subscribed().map(|subscribed| &subscribed.queue).chain(self.retries.values())
    }

    fn taking(&self, topic: &Topic) -> Arc<[Arc<Queue>]> {
        self.subscribed()
            .filter(|subscribed| subscribed.subscription.matches(topic))
            .map(|subscribed| subscribed.queue.clone())
            .collect()
    }
}

impl Default for Memory {
    fn default() -> Self {
        Self::new()
    }
}

impl Memory {
    /// An empty broker with the default options, on the system's clock.
    #[must_use]
    pub fn new() -> Self {
        Self::with(MemoryConfig::default(), Clock::system())
    }

    /// An empty broker.
    #[must_use]
    pub fn with(config: MemoryConfig, clock: Clock) -> Self {
        Self(Arc::new(Broker {
            config,
            clock,
            queues: RwLock::default(),
            dead: Mutex::default(),
            retained: Mutex::default(),
            members: AtomicU64::new(0),
            letters: AtomicU64::new(0),
            unrouted: AtomicU64::new(0),
            closed: AtomicBool::new(false),
        }))
    }

    /// Breaks all connections, as a network would: everything in hand comes again with its starts counted, and what is
    /// settled afterwards comes too late.
    pub fn disconnect(&self) {
        let queues = self.0.read();
        for queue in queues.all() {
            queue.disconnect();
        }
    }

    /// Publishes bytes as a foreign producer would: no envelope, any headers. Subscriptions read them by their ingest
    /// rules; without one they are malformed.
    pub fn publish_foreign(&self, topic: &Topic, payload: impl Into<Bytes>, headers: &NativeHeaders) {
        let payload = payload.into();
        let now = self.0.clock.now();
        let position = self.0.letters.fetch_add(1, Ordering::Relaxed).to_string();
        for Subscribed { subscription, queue } in self.0.read().subscribed() {
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

    /// How many messages no group took.
    #[must_use]
    pub fn unrouted(&self) -> u64 {
        self.0.unrouted.load(Ordering::Relaxed)
    }

    /// How many settlements came too late, after a connection had broken.
    #[must_use]
    pub fn lost_leases(&self) -> u64 {
        let queues = self.0.read();
        queues.all().map(|queue| queue.lost_leases()).sum()
    }

    /// Whether nothing waits, nothing is in hand; what is kept back until later does not count.
    #[must_use]
    pub fn is_idle(&self) -> bool {
        let queues = self.0.read();
        queues.all().all(|queue| {
            let counts = queue.counts();
            counts.ready == 0 && counts.in_hand == 0
        })
    }

    /// Forgets a group with everything in its queues; its dead letters stay.
    pub fn forget(&self, group: &Group) {
        let mut queues = self.0.write();
        queues.groups.remove(group);
        queues.retries.retain(|(of, _), _| of != group);
        queues.by_topic.clear();
    }
}

impl Broker {
    fn read(&self) -> RwLockReadGuard<'_, Queues> {
        self.queues.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> RwLockWriteGuard<'_, Queues> {
        self.queues.write().unwrap_or_else(PoisonError::into_inner)
    }

    fn is_closed(&self) -> bool {
        self.closed.load(Ordering::Acquire)
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

    fn group(&self, subscription: &Subscription, group: &Group) -> Arc<Queue> {
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

    async fn take(&self, message: &Outgoing) -> Result<(), TransportError> {
        match &message.to {
            Destination::Topic { topic, .. } => self.take_topic(topic, &message.envelope).await,
            Destination::Retry { group, step, .. } => self.take_retry(group, *step, &message.envelope),
            Destination::DeadLetter(group) => self.take_dead_letter(group, &message.envelope),
        }
    }

    async fn take_topic(&self, topic: &Topic, envelope: &Envelope) -> Result<(), TransportError> {
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
        // What is published because of a message in hand may use as much again, so that a cycle does not block itself.
        let reserve = if envelope.causation_id().is_some() { 2 } else { 1 };
        let bound = self.config.capacity.saturating_mul(reserve);
        if let [queue] = &*queues {
            if !queue.reserve(bound) {
                self.wait_for_room(&queues, bound).await?;
            }
        } else if !reserve_all(&queues, bound) {
            self.wait_for_room(&queues, bound).await?;
        }
        let now = self.clock.now();
        self.retain(envelope, now);
        let due = match self.config.delay {
            MemoryDelay::Native => envelope.not_before(),
            MemoryDelay::RetryTopics => None,
        };
        for queue in queues.iter() {
            queue.push(Incoming::Envelope(envelope.clone()), now, due);
        }
        Ok(())
    }

    /// Waits until every one of `queues` has room, and takes it.
    async fn wait_for_room(&self, queues: &[Arc<Queue>], bound: usize) -> Result<(), TransportError> {
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
            if self.is_closed() {
                return Err(TransportError::closed("memory"));
            }
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

impl Queues {
    fn retry(&mut self, group: &Group, step: u32) -> Arc<Queue> {
        self.retries.entry((group.clone(), step)).or_insert_with(|| Queue::new(group.as_str())).clone()
    }
}

#[async_trait]
impl Publisher for Memory {
    async fn publish(&self, batch: Vec<Outgoing>) -> Result<(), PublishError> {
        if self.0.is_closed() {
            return Err(PublishError::all(batch, || TransportError::closed("memory")));
        }
        let mut messages = batch.into_iter();
        while let Some(message) = messages.next() {
            if let Err(error) = self.0.take(&message).await {
                let kind = error.kind();
                let text = error.to_string();
                let mut rejected = vec![Rejected { message, error }];
                // Nothing may overtake what was not taken.
                rejected.extend(
                    messages
                        .map(|message| Rejected { message, error: TransportError::new(kind, text.clone()) }),
                );
                return Err(PublishError::new(rejected));
            }
        }
        Ok(())
    }
}

#[async_trait]
impl Subscriber for Memory {
    async fn subscribe(&self, subscription: &Subscription) -> Result<Box<dyn Deliveries>, TransportError> {
        if self.0.is_closed() {
            return Err(TransportError::closed("memory"));
        }
        let member = self.0.members.fetch_add(1, Ordering::Relaxed);
        let queue = match &subscription.group {
            Some(group) => self.0.group(subscription, group),
            None => {
                let queue = Queue::new("(ephemeral)");
                let subscribed = Subscribed { subscription: subscription.clone(), queue: queue.clone() };
                let mut queues = self.0.write();
                queues.ephemeral.push((member, subscribed));
                queues.by_topic.clear();
                queue
            }
        };
        queue.join(member, subscription.prefetch.max(1));
        let settler: Arc<dyn Settle> = Arc::new(Settler { queue: queue.clone(), member });
        Ok(Box::new(MemoryDeliveries {
            broker: self.0.clone(),
            queue,
            member,
            settler,
            ephemeral: subscription.group.is_none(),
            stopped: false,
        }))
    }
}

#[async_trait]
impl Transport for Memory {
    fn system(&self) -> &'static str {
        "memory"
    }

    fn capabilities(&self) -> Capabilities {
        let retains = self.0.config.retain > 0;
        Capabilities {
            durable: false,
            groups: true,
            ephemeral: true,
            backlog: true,
            keeps_unread: true,
            key_order: KeyOrder::Group,
            delay: self.0.config.delay.into(),
            delivery_count: true,
            nack: true,
            max_hold: None,
            start: StartPositions::new(retains, retains),
            detects_unrouted: true,
            lag: true,
            peek: true,
            max_payload: None,
            live_patterns: true,
            native_headers: true,
            back_pressure: true,
        }
    }

    async fn declare(&self, declarations: &[Declaration]) -> Result<(), TransportError> {
        if self.0.is_closed() {
            return Err(TransportError::closed("memory"));
        }
        for declaration in declarations {
            if let Declaration::Group { subscription, .. } = declaration
                && let Some(group) = &subscription.group
            {
                self.0.group(subscription, group);
            }
        }
        Ok(())
    }

    async fn health(&self) -> Health {
        if self.0.is_closed() { Health::Down("closed".to_owned()) } else { Health::Up }
    }

    fn operate(&self) -> Option<&dyn Operate> {
        Some(self)
    }

    async fn close(&self) -> Result<(), TransportError> {
        self.0.closed.store(true, Ordering::Release);
        let queues = self.0.read();
        for queue in queues.all() {
            queue.arrived.notify_waiters();
            queue.room.notify_waiters();
        }
        Ok(())
    }
}

impl fmt::Debug for Broker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Broker").field("config", &self.config).finish_non_exhaustive()
    }
}

#[derive(Debug)]
struct Settler {
    queue: Arc<Queue>,
    member: u64,
}

impl Settle for Settler {
    fn done(&self, tokens: &mut Vec<Token>) {
        self.queue.done(self.member, tokens);
    }

    fn returned(&self, token: Token, _: Incoming) {
        self.queue.returned(self.member, token);
    }
}

#[derive(Debug)]
struct MemoryDeliveries {
    broker: Arc<Broker>,
    queue: Arc<Queue>,
    member: u64,
    settler: Arc<dyn Settle>,
    ephemeral: bool,
    stopped: bool,
}

#[async_trait]
impl Deliveries for MemoryDeliveries {
    async fn receive(&mut self, max: usize, into: &mut VecDeque<Delivery>) -> Result<(), TransportError> {
        loop {
            if self.stopped {
                return Ok(());
            }
            if self.broker.is_closed() {
                return Err(TransportError::closed("memory"));
            }
            let clock = self.broker.clock;
            let before = into.len();
            let due = self.queue.receive(self.member, max.max(1), || clock.now(), &self.settler, into);
            if into.len() > before {
                return Ok(());
            }
            // A permit that came meanwhile wakes at once.
            match due {
                None => self.queue.arrived.notified().await,
                Some(due) => {
                    let _ =
                        tokio::time::timeout_at(clock.instant_of(due), self.queue.arrived.notified()).await;
                }
            }
        }
    }

    fn stop(&mut self) {
        self.stopped = true;
    }

    async fn flush(&mut self) -> Result<(), TransportError> {
        Ok(())
    }

    async fn close(&mut self) -> Result<(), TransportError> {
        self.stopped = true;
        self.queue.leave(self.member);
        Ok(())
    }
}

impl Drop for MemoryDeliveries {
    fn drop(&mut self) {
        self.queue.leave(self.member);
        if self.ephemeral {
            let mut queues = self.broker.write();
            queues.ephemeral.retain(|(member, _)| *member != self.member);
            queues.by_topic.clear();
        }
    }
}

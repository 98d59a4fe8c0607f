//! The memory transport, `memory://`: the reference semantics of the contract, in one process.
//!
//! Groups, ephemeral subscriptions, wildcards, key order across a group, bounded queues with back-pressure, delays,
//! delivery counts, redelivery at the old place, backlog for groups that are away, lag and peek. It runs on the clock it
//! is given, so that tests turn the time. Nothing in it survives the process.

mod broker;
mod config;
mod deliveries;
mod operate;
mod queue;
#[cfg(test)]
mod tests;

use std::collections::HashMap;
use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};

use async_trait::async_trait;
use bytes::Bytes;

use self::broker::Broker;
pub use self::config::{MemoryConfig, MemoryDelay};
use self::deliveries::MemoryDeliveries;
use self::queue::Queue;
use crate::envelope::{Clock, NativeHeaders, Timestamp};
use crate::error::Error;
use crate::topic::Topic;
use crate::transport::{
    Capabilities, Declaration, Deliveries, Factory, Group, Health, KeyOrder, Operate, Options, Outgoing,
    PublishError, Publisher, Rejected, StartPositions, Subscriber, Subscription, Transport, TransportError,
    TransportUrl,
};

/// The scheme `memory://`, for a [`Registry`](crate::Registry).
///
/// Within one registry `memory://name` is one more connection to the same broker wherever it is named, with the same
/// options each time; `memory://` is a new broker each time.
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
            if broker.config != config {
                return Err(Error::config(format!(
                    "`memory://{}` is used with different options; a broker has one set of them, so name the same ones \
                     everywhere, or another broker",
                    url.address()
                )));
            }
            return Ok(Arc::new(Memory::connected(broker)));
        }
        let memory = Memory::with(config, clock);
        named.insert(url.address().to_owned(), Arc::downgrade(&memory.broker));
        Ok(Arc::new(memory))
    }
}

/// A connection to a broker in memory; clones are the same connection.
///
/// The broker lives as long as one of its connections does. Closing a connection ends its own subscriptions and calls,
/// and no others.
#[derive(Debug, Clone)]
pub struct Memory {
    broker: Arc<Broker>,
    connection: Arc<Connection>,
}

/// What one connection has open.
#[derive(Default)]
struct Connection {
    closed: AtomicBool,
    members: Mutex<Vec<(u64, Arc<Queue>)>>,
}

impl Connection {
    /// # Errors
    /// [`TransportErrorKind::Closed`](crate::transport::TransportErrorKind::Closed) after close.
    fn check(&self) -> Result<(), TransportError> {
        if self.closed.load(Ordering::Acquire) { Err(TransportError::closed("memory")) } else { Ok(()) }
    }

    /// Notes a member, so that closing ends it; false where it is too late.
    fn admit(&self, member: u64, queue: &Arc<Queue>) -> bool {
        let mut members = self.members.lock().unwrap_or_else(PoisonError::into_inner);
        let open = self.check().is_ok();
        if open {
            members.push((member, queue.clone()));
        }
        open
    }

    fn forget(&self, member: u64) {
        let mut members = self.members.lock().unwrap_or_else(PoisonError::into_inner);
        members.retain(|(other, _)| *other != member);
    }

    /// Closes; gives the members that are to be ended.
    fn close(&self) -> Vec<(u64, Arc<Queue>)> {
        let mut members = self.members.lock().unwrap_or_else(PoisonError::into_inner);
        self.closed.store(true, Ordering::Release);
        std::mem::take(&mut members)
    }
}

impl fmt::Debug for Connection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Connection").field("closed", &self.closed).finish_non_exhaustive()
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
        Self::connected(Arc::new(Broker::new(config, clock)))
    }

    fn connected(broker: Arc<Broker>) -> Self {
        Self { broker, connection: Arc::default() }
    }

    /// One more connection to the same broker, as another process would have it.
    #[must_use]
    pub fn connection(&self) -> Self {
        Self::connected(self.broker.clone())
    }

    /// Breaks all connections, as a network would: everything in hand comes again with its starts counted, and what is
    /// settled afterwards comes too late.
    pub fn disconnect(&self) {
        let queues = self.broker.read();
        for queue in queues.all() {
            queue.disconnect();
        }
    }

    /// Publishes bytes as a foreign producer would: no envelope, any headers. Subscriptions read them by their ingest
    /// rules; without one they are malformed.
    pub fn publish_foreign(&self, topic: &Topic, payload: impl Into<Bytes>, headers: &NativeHeaders) {
        self.broker.take_foreign(topic, &payload.into(), headers);
    }

    /// How many messages no group took.
    #[must_use]
    pub fn unrouted(&self) -> u64 {
        self.broker.unrouted.load(Ordering::Relaxed)
    }

    /// How many settlements came too late, after a connection had broken.
    #[must_use]
    pub fn lost_leases(&self) -> u64 {
        let queues = self.broker.read();
        queues.all().map(|queue| queue.lost_leases()).sum()
    }

    /// Whether nothing waits, nothing is in hand; what is kept back until later does not count.
    #[must_use]
    pub fn is_idle(&self) -> bool {
        let queues = self.broker.read();
        queues.all().all(|queue| {
            let counts = queue.counts();
            counts.ready == 0 && counts.in_hand == 0
        })
    }

    /// Forgets a group with everything in its queues; its dead letters stay.
    pub fn forget(&self, group: &Group) {
        self.broker.forget(group);
    }
}

#[async_trait]
impl Publisher for Memory {
    async fn publish(&self, batch: Vec<Outgoing>) -> Result<(), PublishError> {
        if self.connection.check().is_err() {
            return Err(PublishError::all(batch, || TransportError::closed("memory")));
        }
        let mut messages = batch.into_iter();
        while let Some(message) = messages.next() {
            if let Err(error) = self.broker.take(&message, &self.connection).await {
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

    fn try_publish(&self, message: Outgoing, now: Timestamp) -> Result<(), Outgoing> {
        if self.connection.check().is_err() {
            return Err(message);
        }
        self.broker.try_take(message, now)
    }
}

#[async_trait]
impl Subscriber for Memory {
    async fn subscribe(&self, subscription: &Subscription) -> Result<Box<dyn Deliveries>, TransportError> {
        self.connection.check()?;
        self.capabilities().admit("memory", subscription)?;
        let (member, queue) = self.broker.join(subscription);
        let deliveries = MemoryDeliveries::new(self, queue.clone(), member, subscription.group.is_none());
        if !self.connection.admit(member, &queue) {
            return Err(TransportError::closed("memory"));
        }
        Ok(Box::new(deliveries))
    }
}

#[async_trait]
impl Transport for Memory {
    fn system(&self) -> &'static str {
        "memory"
    }

    fn capabilities(&self) -> Capabilities {
        let retains = self.broker.config.retain > 0;
        Capabilities {
            durable: false,
            groups: true,
            ephemeral: true,
            backlog: true,
            keeps_unread: true,
            key_order: KeyOrder::Group,
            delay: self.broker.config.delay.into(),
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
            costs: Vec::new(),
        }
    }

    async fn declare(&self, declarations: &[Declaration]) -> Result<(), TransportError> {
        self.connection.check()?;
        for declaration in declarations {
            if let Declaration::Group { subscription, .. } = declaration {
                self.capabilities().admit("memory", subscription)?;
                if let Some(group) = &subscription.group {
                    self.broker.group(subscription, group);
                }
            }
        }
        Ok(())
    }

    async fn health(&self) -> Health {
        match self.connection.check() {
            Ok(()) => Health::Up,
            Err(_) => Health::Down("closed".to_owned()),
        }
    }

    fn operate(&self) -> Option<&dyn Operate> {
        Some(self)
    }

    async fn close(&self) -> Result<(), TransportError> {
        for (member, queue) in self.connection.close() {
            queue.leave(member);
        }
        // Publishers of this connection that wait for room find out that it is closed.
        self.broker.wake_publishers();
        Ok(())
    }
}

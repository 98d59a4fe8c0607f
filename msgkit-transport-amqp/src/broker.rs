//! What all parts of one transport share: its connections, its names, what it knows of the broker.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use lapin::Channel;
use msgkit::envelope::Clock;
use msgkit::transport::{Group, TransportError};
use msgkit::{Pattern, Topic};
use serde::{Deserialize, Serialize};
use tokio::sync::watch;
use tokio::task::JoinHandle;

use crate::config::AmqpConfig;
use crate::connection::{Address, Link};
use crate::error;
use crate::publisher::Confirms;
use crate::subscriber::Member;
use crate::topology::{Declarer, Names};

/// A transport's shared heart.
pub(crate) struct Broker {
    pub(crate) config: Arc<AmqpConfig>,
    pub(crate) names: Names,
    pub(crate) clock: Clock,
    /// What publishes; an alarm of the broker blocks it.
    pub(crate) publishing: Link,
    /// What consumes and settles, which no alarm blocks.
    pub(crate) consuming: Link,
    pub(crate) confirms: Confirms,
    pub(crate) counters: Counters,
    closing: watch::Sender<bool>,
    put_aside: watch::Sender<u64>,
    known: Mutex<Known>,
    drivers: Mutex<Vec<(JoinHandle<()>, Weak<Member>)>>,
    /// What writes down groups for those who consume.
    writing: Mutex<Option<JoinHandle<()>>>,
}

/// What is counted since the transport was made.
#[derive(Debug, Default)]
pub(crate) struct Counters {
    pub(crate) unrouted: AtomicU64,
    pub(crate) late: AtomicU64,
    pub(crate) cancelled: AtomicU64,
    pub(crate) exchanges: AtomicBool,
}

/// What this transport has declared.
#[derive(Debug, Default)]
struct Known {
    groups: BTreeMap<Group, KnownGroup>,
    queues: BTreeSet<String>,
    /// What of the groups is written down at the broker.
    registered: BTreeMap<Group, KnownGroup>,
    /// How often the broker has ended a consumer of each group.
    cancelled: BTreeMap<Group, u64>,
}

/// What this transport knows of a group.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct KnownGroup {
    /// What it takes.
    pub(crate) patterns: BTreeSet<String>,
    /// The delays for which it has queues, in milliseconds.
    pub(crate) delays: BTreeSet<u64>,
}

impl KnownGroup {
    /// Adds what `other` has; true where something was new.
    pub(crate) fn learn(&mut self, other: Self) -> bool {
        let before = (self.patterns.len(), self.delays.len());
        self.patterns.extend(other.patterns);
        self.delays.extend(other.delays);
        before != (self.patterns.len(), self.delays.len())
    }

    /// Whether it takes `topic`.
    pub(crate) fn takes(&self, topic: &Topic) -> bool {
        self.patterns
            .iter()
            .any(|pattern| pattern.parse::<Pattern>().is_ok_and(|pattern| pattern.matches(topic)))
    }
}

impl Broker {
    pub(crate) fn new(address: &Address, config: AmqpConfig, clock: Clock) -> Self {
        let config = Arc::new(config);
        let closing = watch::Sender::new(false);
        let link = |role| Link::new(address.clone(), config.clone(), role, closing.subscribe());
        Self {
            names: Names::new(&config.exchange),
            publishing: link("publishes"),
            consuming: link("consumes"),
            confirms: Confirms::default(),
            counters: Counters::default(),
            closing,
            put_aside: watch::Sender::new(0),
            known: Mutex::default(),
            drivers: Mutex::default(),
            writing: Mutex::default(),
            clock,
            config,
        }
    }

    pub(crate) fn is_closed(&self) -> bool {
        *self.closing.borrow()
    }

    /// A signal that the transport closes.
    pub(crate) fn closing(&self) -> Closing {
        Closing(self.closing.subscribe())
    }

    /// A signal that a suspect was put aside.
    pub(crate) fn suspects(&self) -> PutAside {
        PutAside(self.put_aside.subscribe())
    }

    /// Tells every subscription that a suspect was put aside.
    pub(crate) fn suspect_put_aside(&self) {
        self.put_aside.send_modify(|count| *count += 1);
    }

    /// A channel for one thing to be declared or asked: a refusal closes it.
    pub(crate) async fn asking(&self) -> Result<Channel, TransportError> {
        self.consuming.channel().await
    }

    /// What the broker answers where nothing is published, in time.
    pub(crate) async fn answer<T>(
        &self,
        asking: impl Future<Output = lapin::Result<T>>,
        doing: &str,
    ) -> Result<T, TransportError> {
        self.consuming.until(self.consuming.deadline(), asking, doing).await
    }

    pub(crate) fn declarer<'a>(&'a self, channel: &'a Channel) -> Declarer<'a> {
        Declarer { channel, broker: self, names: &self.names, config: &self.config }
    }

    pub(crate) fn has_exchanges(&self) -> bool {
        self.counters.exchanges.load(Ordering::Acquire)
    }

    /// Makes the exchanges, once.
    pub(crate) async fn ensure_exchanges(&self, channel: &Channel) -> Result<(), TransportError> {
        if !self.has_exchanges() {
            self.declarer(channel).exchanges().await?;
            self.counters.exchanges.store(true, Ordering::Release);
        }
        Ok(())
    }

    /// From now on everything is declared again before it is used: the broker may have lost it. What was written down stays so
    /// until something is found missing: all services share the list.
    pub(crate) fn forget(&self) {
        self.counters.exchanges.store(false, Ordering::Release);
        self.lock().queues.clear();
    }

    /// Something that was there is gone: then the list may be gone too, or begun anew by others who do not know these groups.
    pub(crate) fn unregister(&self) {
        self.lock().registered.clear();
    }

    /// Whether `queue` was declared already.
    pub(crate) fn has_queue(&self, queue: &str) -> bool {
        self.lock().queues.contains(queue)
    }

    pub(crate) fn know_queue(&self, queue: String) {
        self.lock().queues.insert(queue);
    }

    /// Takes note of what is known of a group; true where something about it is new.
    pub(crate) fn know_group(&self, group: &Group, news: KnownGroup) -> bool {
        let mut known = self.lock();
        match known.groups.get_mut(group) {
            Some(entry) => entry.learn(news),
            None => {
                known.groups.insert(group.clone(), news);
                true
            }
        }
    }

    /// The groups that this transport knows of, by name.
    pub(crate) fn known_groups(&self) -> BTreeMap<Group, KnownGroup> {
        self.lock().groups.clone()
    }

    /// Whether all of `known` is written down already.
    pub(crate) fn is_registered(&self, known: &BTreeMap<Group, KnownGroup>) -> bool {
        self.lock().registered == *known
    }

    pub(crate) fn registered(&self, known: BTreeMap<Group, KnownGroup>) {
        self.lock().registered = known;
    }

    /// The broker has ended a consumer, of a group where it was one's.
    pub(crate) fn consumer_cancelled(&self, group: Option<&Group>) {
        self.counters.cancelled.fetch_add(1, Ordering::Relaxed);
        if let Some(group) = group {
            *self.lock().cancelled.entry(group.clone()).or_default() += 1;
        }
    }

    /// How often the broker has ended a consumer of `group`.
    pub(crate) fn cancelled(&self, group: &Group) -> u64 {
        self.lock().cancelled.get(group).copied().unwrap_or(0)
    }

    /// How many messages of `group` this process has in hand; `None` where it does not read for it.
    pub(crate) fn in_hand(&self, group: &Group) -> Option<u64> {
        let drivers = self.drivers();
        let members = drivers.iter().filter_map(|(_, member)| member.upgrade());
        members.filter_map(|member| member.holds(group)).reduce(|all, more| all + more)
    }

    /// Owns a subscription's task from now on.
    pub(crate) fn adopt(&self, driver: JoinHandle<()>, member: &Arc<Member>) {
        let mut drivers = self.drivers();
        drivers.retain(|(driver, _)| !driver.is_finished());
        drivers.push((driver, Arc::downgrade(member)));
    }

    /// Writes down what is new, in a task that those who consume do not wait for: dropped half way, a list could still go out,
    /// and settlements cannot wait for a slow one. One at a time; what comes meanwhile is for the next look.
    pub(crate) fn write_down_aside(self: &Arc<Self>) {
        let mut writing = self.writing();
        if writing.as_ref().is_none_or(JoinHandle::is_finished) {
            let broker = self.clone();
            *writing = Some(tokio::spawn(async move { broker.write_down().await }));
        }
    }

    /// Why a subscription gets nothing although the connection may be there.
    pub(crate) fn trouble(&self) -> Option<String> {
        self.drivers().iter().find_map(|(_, member)| member.upgrade()?.trouble())
    }

    /// Ends everything in good order: what was settled is told to the broker, then the connections close.
    pub(crate) async fn close(&self) -> Result<(), TransportError> {
        if self.closing.send_replace(true) {
            return Err(error::closed());
        }
        let drivers = std::mem::take(&mut *self.drivers());
        for (driver, _) in drivers {
            // A task that broke has nothing more to tell.
            let _ = tokio::time::timeout(self.config.connect_timeout, driver).await;
        }
        let writing = self.writing().take();
        if let Some(writing) = writing {
            let _ = tokio::time::timeout(self.config.connect_timeout, writing).await;
        }
        self.publishing.close().await;
        self.consuming.close().await;
        Ok(())
    }

    fn drivers(&self) -> MutexGuard<'_, Vec<(JoinHandle<()>, Weak<Member>)>> {
        self.drivers.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn writing(&self) -> MutexGuard<'_, Option<JoinHandle<()>>> {
        self.writing.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn lock(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A signal that a suspect was put aside by this transport.
pub(crate) struct PutAside(watch::Receiver<u64>);

impl PutAside {
    /// Resolves when there is one more.
    pub(crate) async fn changed(&mut self) {
        if self.0.changed().await.is_err() {
            std::future::pending::<()>().await;
        }
    }
}

/// A signal that the transport closes.
pub(crate) struct Closing(watch::Receiver<bool>);

impl Closing {
    /// Resolves when it closes.
    pub(crate) async fn begun(&mut self) {
        let _ = self.0.wait_for(|closed| *closed).await;
    }
}

impl fmt::Debug for Broker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Broker")
            .field("at", &self.consuming)
            .field("config", &self.config)
            .field("closed", &self.is_closed())
            .finish_non_exhaustive()
    }
}

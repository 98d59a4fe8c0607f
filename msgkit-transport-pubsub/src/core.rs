//! What everything of one transport shares.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::fmt;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use msgkit::envelope::Clock;
use msgkit::transport::{Group, TransportError};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::Instant;

use crate::client::Clients;
use crate::config::PubsubConfig;
use crate::error::{self, closed};
use crate::names::Names;
use crate::places::Entries;
use crate::publisher::Sender;

/// How long the service may take to see the end of a stream.
const ROUND_TRIP: Duration = Duration::from_secs(2);

/// The longest time in which nothing comes until the connection is asked for a sign of life.
const PULSE: Duration = Duration::from_secs(30);

/// For how long a subscription that keeps copies is trusted to be there still.
const SEEN: Duration = Duration::from_secs(5);

/// The most refusals that health tells in full.
const REFUSED: usize = 5;

pub(crate) struct Core {
    pub(crate) clients: Clients,
    pub(crate) names: Names,
    pub(crate) config: PubsubConfig,
    pub(crate) clock: Clock,
    pub(crate) sender: Sender,
    /// Settlements that came after their lease was lost.
    pub(crate) late: AtomicU64,
    /// A topic was made here: readers look again.
    pub(crate) made: watch::Sender<u64>,
    /// One reader at a time looks into dead letters.
    pub(crate) looking: tokio::sync::Mutex<()>,
    /// Who that is, among other processes.
    pub(crate) looker: u64,
    /// When the entries were asked for last because of what came, and what they said; one asks at a time, for all.
    pub(crate) asked: tokio::sync::Mutex<Option<(Instant, Option<Arc<Entries>>)>>,
    pub(crate) closing: watch::Sender<bool>,
    known: Mutex<Known>,
    drivers: Mutex<Vec<JoinHandle<()>>>,
    has_pulse: AtomicBool,
}

#[derive(Default)]
struct Known {
    /// Topics and subscriptions that are there.
    there: HashSet<String>,
    /// When the service last said so, of subscriptions that keep what nobody may be reading.
    seen: HashMap<String, Instant>,
    /// How often the subscription of a group was gone and had to be made again.
    broken_off: HashMap<Group, u64>,
    /// What is refused for good, by the number of its [`Refusal`].
    refused: BTreeMap<u64, String>,
    refusals: u64,
}

/// Something that is refused for good and tried again: as long as this is kept, health is down and names it.
#[must_use]
pub(crate) struct Refusal {
    core: Arc<Core>,
    number: u64,
}

impl Refusal {
    pub(crate) fn new(core: &Arc<Core>, why: &TransportError) -> Self {
        let mut known = core.known();
        known.refusals += 1;
        let number = known.refusals;
        known.refused.insert(number, msgkit::Chain(why).to_string());
        drop(known);
        Self { core: core.clone(), number }
    }
}

impl Drop for Refusal {
    fn drop(&mut self) {
        self.core.known().refused.remove(&self.number);
    }
}

impl Core {
    pub(crate) fn new(clients: Clients, names: Names, config: PubsubConfig, clock: Clock) -> Self {
        Self {
            clients,
            names,
            sender: Sender::new(config.publish_buffer),
            config,
            clock,
            late: AtomicU64::new(0),
            made: watch::Sender::new(0),
            looking: tokio::sync::Mutex::default(),
            looker: fastrand::u64(..),
            asked: tokio::sync::Mutex::default(),
            closing: watch::Sender::new(false),
            known: Mutex::default(),
            drivers: Mutex::default(),
            has_pulse: AtomicBool::new(false),
        }
    }

    /// From the first subscription on connections are asked for signs of life, until the transport closes.
    pub(crate) fn watch(self: &Arc<Self>) {
        if !self.has_pulse.swap(true, Ordering::Relaxed) {
            self.adopt(tokio::spawn(pulse(self.clone())));
        }
    }

    pub(crate) fn is_closed(&self) -> bool {
        *self.closing.borrow()
    }

    pub(crate) fn open(&self) -> Result<(), TransportError> {
        if self.is_closed() { Err(closed()) } else { Ok(()) }
    }

    fn known(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn is_there(&self, name: &str) -> bool {
        self.known().there.contains(name)
    }

    pub(crate) fn know(&self, name: &str) {
        self.known().there.insert(name.to_owned());
    }

    /// Whether the service has said of the subscription `name` a moment ago that it is there.
    pub(crate) fn was_seen(&self, name: &str) -> bool {
        self.known().seen.get(name).is_some_and(|at| at.elapsed() < SEEN)
    }

    pub(crate) fn see(&self, name: &str) {
        self.known().seen.insert(name.to_owned(), Instant::now());
    }

    /// It is asked for again before it is used.
    pub(crate) fn forget_one(&self, name: &str) {
        self.known().there.remove(name);
    }

    /// Everything is looked for again before it is used: where one thing is gone, others may be.
    pub(crate) fn forget(&self) {
        let mut known = self.known();
        known.there.clear();
        known.seen.clear();
    }

    /// Says and counts that a subscription which is read was gone.
    pub(crate) fn note_gone(&self, subscription: &str, group: Option<&Group>) {
        tracing::warn!(
            subscription,
            "the subscription is gone: somebody has deleted it, or it has expired. What it held is gone, and so is what is \
             published before it is there again"
        );
        if let Some(group) = group {
            *self.known().broken_off.entry(group.clone()).or_default() += 1;
        }
    }

    pub(crate) fn broken_off(&self, group: &Group) -> u64 {
        self.known().broken_off.get(group).copied().unwrap_or(0)
    }

    /// Why not all is read that should be; `None` where it is.
    pub(crate) fn refused(&self) -> Option<String> {
        let known = self.known();
        let mut told: Vec<&str> = known.refused.values().map(String::as_str).collect();
        told.sort_unstable();
        told.dedup();
        let more = told.len().saturating_sub(REFUSED);
        told.truncate(REFUSED);
        let told = told.join("; ");
        match more {
            _ if told.is_empty() => None,
            0 => Some(told),
            more => Some(format!("{told}; and {more} more")),
        }
    }

    pub(crate) fn count_late(&self, late: u64) {
        self.late.fetch_add(late, Ordering::Relaxed);
    }

    /// Waits for any answer of the service. A stream that was ended before is then over for it too; what goes back earlier may be
    /// handed to that stream, and be seen by nobody until its lease runs out.
    pub(crate) async fn round_trip(&self) {
        let asking = async {
            let client = self.clients.topics().await?;
            let listing = client.list_topics().set_project(self.names.project()).set_page_size(1);
            listing.send().await.map_err(|error| error::of(error, "asking for the topics"))
        };
        let _: Result<Result<_, TransportError>, _> = tokio::time::timeout(ROUND_TRIP, asking).await;
    }

    /// Owns a subscription's task from now on.
    pub(crate) fn adopt(&self, driver: JoinHandle<()>) {
        let mut drivers = self.drivers.lock().unwrap_or_else(PoisonError::into_inner);
        drivers.retain(|driver| !driver.is_finished());
        drivers.push(driver);
    }

    pub(crate) fn take_drivers(&self) -> Vec<JoinHandle<()>> {
        std::mem::take(&mut *self.drivers.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl fmt::Debug for Core {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Core")
            .field("names", &self.names)
            .field("clients", &self.clients)
            .field("closed", &self.is_closed())
            .finish_non_exhaustive()
    }
}

/// Asks for a sign of life whenever nothing came for half a lease.
async fn pulse(core: Arc<Core>) {
    let Ok(nothing) = core.names.nothing() else { return };
    let pause = (core.config.lease / 2).min(PULSE);
    let beating = async {
        loop {
            tokio::time::sleep(pause).await;
            core.clients.pulse(&nothing).await;
        }
    };
    tokio::select! {
        () = closing(&core) => {}
        () = beating => {}
    }
}

/// Resolves when the transport closes.
pub(crate) async fn closing(core: &Arc<Core>) {
    let _ = core.closing.subscribe().wait_for(|closed| *closed).await;
}

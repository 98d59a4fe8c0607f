//! What a broker's file says of it, and what a subject does with it.

use std::any::Any;
use std::ops::Range;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{anyhow, bail};
use msgkit::Registry;
use tokio::sync::Notify;
use tokio::task::JoinHandle;

use crate::run::{Clocks, Flow, Run, Scenario, Taken};

/// A broker and its client.
pub(crate) struct System {
    /// The scheme of its urls, and the first part of its scenarios' names.
    pub(crate) name: &'static str,
    /// The crate that both subjects use.
    pub(crate) client: &'static str,
    /// A place at a broker that nobody has used.
    pub(crate) place: fn() -> anyhow::Result<Place>,
    /// The transport under measurement.
    pub(crate) register: fn(Registry) -> Registry,
    /// The transport's options as TOML, where its defaults are not what the other side does.
    pub(crate) options: &'static str,
    /// What is measured.
    pub(crate) scenarios: &'static [Scenario],
    /// A run by hand: `|run| Box::pin(run.drive::<Raw>())`.
    pub(crate) raw: fn(Run) -> Running,
}

/// How much is measured on a broker, and who else does the work there.
pub(crate) struct Measured {
    pub(crate) system: &'static System,
    /// How many messages of a run are done with before its clocks start; none where a client takes in far more than it hands
    /// out, so that what is read is measured all or not at all.
    pub(crate) warm: usize,
    /// How many are measured unless told otherwise.
    pub(crate) messages: usize,
    pub(crate) peers: &'static [Peer],
}

impl Measured {
    /// A broker that takes tens of thousands of messages a second.
    pub(crate) const fn broker(system: &'static System) -> Self {
        Self { system, warm: 4_000, messages: 40_000, peers: &[] }
    }
}

/// Somebody else's transport for the same broker.
pub(crate) struct Peer {
    /// The crate, which is also how its runs are named.
    pub(crate) name: &'static str,
    /// What of the broker's scenarios it is compared in.
    pub(crate) flows: &'static [Flow],
    pub(crate) run: fn(Run) -> Running,
}

/// A run on its way.
pub(crate) type Running = Pin<Box<dyn Future<Output = anyhow::Result<Taken>>>>;

/// Where a run finds its broker.
pub(crate) struct Place {
    pub(crate) url: String,
    /// Ends it when dropped.
    pub(crate) _keep: Box<dyn Any>,
}

/// One way to do the work.
pub(crate) trait Subject: Sized {
    /// Connects, and declares the group that everything is published to.
    async fn open(run: &Run) -> anyhow::Result<Self>;

    /// Publishes in batches of [`BATCH`](crate::run::BATCH), each confirmed before the next.
    async fn publish(&self, numbers: Range<usize>) -> anyhow::Result<()>;

    /// Adds a member to the group, which has [`PREFETCH`](crate::run::PREFETCH) messages in hand at most.
    async fn join(&mut self, work: Work) -> anyhow::Result<()>;

    /// Returns when the broker knows all settlements.
    async fn close(self) -> anyhow::Result<()>;
}

/// Why a part of this process's run has ended before the run has.
static FAILURE: Mutex<Option<anyhow::Error>> = Mutex::new(None);
static FAILED: Notify = Notify::const_new();

/// Runs a part of a subject beside it, which lasts as long as the run does. Where it ends before, so does the run, instead of
/// waiting for what never comes.
pub(crate) fn spawn(part: impl Future<Output = anyhow::Result<()>> + Send + 'static) -> JoinHandle<()> {
    // Dropped without a word where the part is broken off at the end, or panics.
    let ended = Ended(Some(anyhow!("it has panicked, or was broken off")));
    tokio::spawn(async move {
        let mut ended = ended;
        ended.0 = Some(part.await.err().unwrap_or_else(|| anyhow!("it has left")));
    })
}

struct Ended(Option<anyhow::Error>);

impl Drop for Ended {
    fn drop(&mut self) {
        if let Some(why) = self.0.take() {
            FAILURE.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(why);
            FAILED.notify_one();
        }
    }
}

/// Returns once a part of the run has ended.
pub(crate) async fn failed() -> anyhow::Error {
    loop {
        FAILED.notified().await;
        if let Some(error) = FAILURE.lock().unwrap_or_else(PoisonError::into_inner).take() {
            return error.context("a part of the run has ended");
        }
    }
}

/// What the members of a run do together, and the clocks of it. Each member has a clone of its own.
pub(crate) struct Work {
    shared: Arc<Shared>,
    /// Whether this member has had anything.
    busy: Arc<AtomicBool>,
}

struct Shared {
    handled: AtomicUsize,
    /// After how many messages the clocks start, and after how many they stop.
    from: usize,
    to: AtomicUsize,
    started: OnceLock<Clocks>,
    taken: OnceLock<Taken>,
    over: Notify,
    pause: Duration,
    members: Mutex<Vec<Arc<AtomicBool>>>,
}

/// How long nothing may come until a run is given up.
const STILL: Duration = Duration::from_secs(60);

impl Clone for Work {
    fn clone(&self) -> Self {
        let busy = Arc::<AtomicBool>::default();
        self.shared.members.lock().unwrap_or_else(PoisonError::into_inner).push(busy.clone());
        Self { shared: self.shared.clone(), busy }
    }
}

impl Work {
    /// Measures what is handled after the first `from` messages, until `to` are handled.
    pub(crate) fn between(from: usize, to: usize) -> Self {
        Self::slow(from, to, Duration::ZERO)
    }

    /// The same, with a handler that takes `pause` for each message.
    pub(crate) fn slow(from: usize, to: usize, pause: Duration) -> Self {
        Self {
            shared: Arc::new(Shared {
                handled: AtomicUsize::new(0),
                from,
                to: AtomicUsize::new(to),
                started: OnceLock::new(),
                taken: OnceLock::new(),
                over: Notify::new(),
                pause,
                members: Mutex::default(),
            }),
            busy: Arc::default(),
        }
    }

    /// Measures nothing before [`begin`](Self::begin).
    pub(crate) fn later() -> Self {
        Self::between(usize::MAX, usize::MAX)
    }

    /// The clocks start now, and stop when `messages` more are handled.
    pub(crate) fn begin(&self, messages: usize) {
        let handled = self.shared.handled.load(Ordering::SeqCst);
        self.shared.to.store(handled.saturating_add(messages), Ordering::SeqCst);
        self.shared.started.get_or_init(|| Clocks::start(handled));
    }

    /// What a slow handler waits for each message.
    pub(crate) fn pause(&self) -> Duration {
        self.shared.pause
    }

    /// So many more are handled and on their way to be settled. The clocks are read here, at once: a task that waits for it
    /// may come late on a busy machine.
    pub(crate) fn handled(&self, count: usize) {
        let Shared { handled, from, to, started, taken, over, .. } = &*self.shared;
        if !self.busy.load(Ordering::Relaxed) {
            self.busy.store(count > 0, Ordering::Relaxed);
        }
        let handled = handled.fetch_add(count, Ordering::SeqCst) + count;
        if handled >= *from && started.get().is_none() {
            started.get_or_init(|| Clocks::start(handled));
        }
        if handled >= to.load(Ordering::SeqCst)
            && let Some(clocks) = started.get()
        {
            taken.get_or_init(|| clocks.stop(handled));
            over.notify_one();
        }
    }

    /// Whether every member has had something.
    pub(crate) fn all_busy(&self) -> bool {
        let members = self.shared.members.lock().unwrap_or_else(PoisonError::into_inner);
        members.iter().all(|busy| busy.load(Ordering::Relaxed))
    }

    /// Returns when so many are handled.
    pub(crate) async fn reached(&self, count: usize) -> anyhow::Result<()> {
        self.until(count, |handled| (handled >= count).then_some(()), Duration::from_millis(2)).await
    }

    /// What it took, once all are handled.
    pub(crate) async fn taken(&self) -> anyhow::Result<Taken> {
        let all = self.shared.to.load(Ordering::SeqCst);
        self.until(all, |_| self.shared.taken.get().cloned(), Duration::from_secs(1)).await
    }

    /// Looks whenever all are handled, and every `pause`.
    async fn until<T>(
        &self,
        count: usize,
        look: impl Fn(usize) -> Option<T>,
        pause: Duration,
    ) -> anyhow::Result<T> {
        let (mut last, mut since) = (0, Instant::now());
        loop {
            let handled = self.shared.handled.load(Ordering::SeqCst);
            if let Some(found) = look(handled) {
                return Ok(found);
            }
            if handled != last {
                (last, since) = (handled, Instant::now());
            } else if since.elapsed() > STILL {
                bail!("{handled} of {count} messages have come, then none for {STILL:?}");
            }
            let _ = tokio::time::timeout(pause, self.shared.over.notified()).await;
        }
    }
}

//! What a broker's file says of it, and what a subject does with it.

use std::any::Any;
use std::ops::Range;
use std::pin::Pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Duration;

use msgkit::Registry;
use tokio::sync::Notify;
use tokio::task::JoinHandle;

use crate::run::{Clocks, Run, Scenario, Taken};

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

/// Runs a part of a subject beside it. Where it ends with an error, so does the run, instead of waiting for what never comes.
pub(crate) fn spawn(part: impl Future<Output = anyhow::Result<()>> + Send + 'static) -> JoinHandle<()> {
    tokio::spawn(async {
        if let Err(error) = part.await {
            FAILURE.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(error);
            FAILED.notify_one();
        }
    })
}

/// Returns once a part of the run has ended with an error.
pub(crate) async fn failed() -> anyhow::Error {
    loop {
        FAILED.notified().await;
        if let Some(error) = FAILURE.lock().unwrap_or_else(PoisonError::into_inner).take() {
            return error.context("a part of the run has ended");
        }
    }
}

/// What the members of a run do together, and the clocks of it.
#[derive(Clone)]
pub(crate) struct Work(Arc<Shared>);

struct Shared {
    handled: AtomicUsize,
    /// After how many messages the clocks start, and after how many they stop.
    from: usize,
    to: usize,
    started: OnceLock<Clocks>,
    taken: OnceLock<Taken>,
    over: Notify,
    pause: Duration,
}

impl Work {
    /// Measures what is handled after the first `from` messages, until `to` are handled.
    pub(crate) fn between(from: usize, to: usize) -> Self {
        Self::slow(from, to, Duration::ZERO)
    }

    /// The same, with a handler that takes `pause` for each message.
    pub(crate) fn slow(from: usize, to: usize, pause: Duration) -> Self {
        let (handled, started) = (AtomicUsize::new(0), OnceLock::new());
        Self(Arc::new(Shared {
            handled,
            from,
            to,
            started,
            taken: OnceLock::new(),
            over: Notify::new(),
            pause,
        }))
    }

    /// What a slow handler waits for each message.
    pub(crate) fn pause(&self) -> Duration {
        self.0.pause
    }

    /// So many more are handled and on their way to be settled. The clocks are read here, at once: a task that waits for it
    /// may come late on a busy machine.
    pub(crate) fn handled(&self, count: usize) {
        let Shared { handled, from, to, started, taken, over, .. } = &*self.0;
        let handled = handled.fetch_add(count, Ordering::SeqCst) + count;
        if handled >= *from && started.get().is_none() {
            started.get_or_init(|| Clocks::start(handled));
        }
        if handled >= *to
            && let Some(clocks) = started.get()
        {
            taken.get_or_init(|| clocks.stop(handled));
            over.notify_one();
        }
    }

    /// What it took, once all are handled.
    pub(crate) async fn taken(&self) -> Taken {
        loop {
            if let Some(taken) = self.0.taken.get() {
                return taken.clone();
            }
            self.0.over.notified().await;
        }
    }
}

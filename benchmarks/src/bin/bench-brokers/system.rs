//! What a broker's file says of it, and what a subject does with it.

use std::any::Any;
use std::ops::Range;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use msgkit::Registry;
use tokio::sync::Notify;

use crate::run::{Run, Scenario, Taken};

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

/// What the members of a run have done together.
#[derive(Clone, Default)]
pub(crate) struct Work(Arc<Shared>);

#[derive(Default)]
struct Shared {
    handled: AtomicUsize,
    target: AtomicUsize,
    reached: Notify,
    pause: Duration,
}

impl Work {
    /// Each message takes so long.
    pub(crate) fn slow(pause: Duration) -> Self {
        Self(Arc::new(Shared { pause, ..Shared::default() }))
    }

    /// What a slow handler waits for each message.
    pub(crate) fn pause(&self) -> Duration {
        self.0.pause
    }

    /// So many more are handled and on their way to be settled.
    pub(crate) fn handled(&self, count: usize) {
        // SeqCst with `until`: either this sees the target, or the waiter sees these messages.
        let handled = self.0.handled.fetch_add(count, Ordering::SeqCst) + count;
        if handled >= self.0.target.load(Ordering::SeqCst) {
            self.0.reached.notify_one();
        }
    }

    /// Waits until `messages` in all are handled.
    pub(crate) async fn until(&self, messages: usize) {
        self.0.target.store(messages, Ordering::SeqCst);
        while self.0.handled.load(Ordering::SeqCst) < messages {
            self.0.reached.notified().await;
        }
    }
}

//! What every handler does with a message, whichever framework calls it.

use std::{
    hint::{black_box, spin_loop},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering::Relaxed, Ordering::SeqCst},
    },
    time::{Duration, Instant},
};

use tokio::sync::Notify;

use crate::{
    payload,
    scenario::{Flow, Scenario, Variant},
};

/// The handler's work, shared by the handlers and by the loop that waits for them.
///
/// A message costs one atomic increment and one load, and the waiter is woken once per wait: what the framework does is
/// to show, not this.
#[derive(Clone, Debug)]
pub struct Work(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    handled: AtomicU64,
    target: AtomicU64,
    reached: Notify,
    /// Which messages have failed already; empty where none shall fail.
    failed: Box<[AtomicBool]>,
    slow: bool,
}

/// A first attempt that was asked to fail.
#[derive(Debug)]
pub struct Unlucky;

impl std::fmt::Display for Unlucky {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("the first attempt of every tenth message fails")
    }
}

impl std::error::Error for Unlucky {}

impl Work {
    /// How long the handler of [`Flow::Backlog`] takes: several times what publishing does.
    pub const SLOW: Duration = Duration::from_micros(5);

    /// The work of one run of `scenario` over `messages`.
    #[must_use]
    pub fn new(scenario: Scenario, messages: u64) -> Self {
        let may_fail = if scenario.variant == Variant::Retry { messages } else { 0 };
        Self(Arc::new(Inner {
            handled: AtomicU64::new(0),
            target: AtomicU64::new(u64::MAX),
            reached: Notify::new(),
            failed: (0..may_fail).map(|_| AtomicBool::new(false)).collect(),
            slow: scenario.flow == Flow::Backlog,
        }))
    }

    /// Handles a message.
    pub fn handle(&self, id: u64, customer: u64) {
        black_box((id, customer));
        if self.0.slow {
            let start = Instant::now();
            while start.elapsed() < Self::SLOW {
                spin_loop();
            }
        }
        // SeqCst with `until`: either this sees the target, or the waiter sees this message.
        let handled = self.0.handled.fetch_add(1, SeqCst) + 1;
        if handled == self.0.target.load(SeqCst) {
            self.0.reached.notify_one();
        }
    }

    /// Handles a message, unless it is a tenth one here for the first time.
    ///
    /// # Errors
    /// On the first attempt of every tenth message.
    pub fn try_handle(&self, id: u64, customer: u64) -> Result<(), Unlucky> {
        let index = payload::index(id);
        if index % 10 == 9
            && let Some(failed) = usize::try_from(index).ok().and_then(|index| self.0.failed.get(index))
            && !failed.swap(true, Relaxed)
        {
            return Err(Unlucky);
        }
        self.handle(id, customer);
        Ok(())
    }

    /// Waits until `messages` in all have been handled.
    pub async fn until(&self, messages: u64) {
        self.0.target.store(messages, SeqCst);
        while self.handled() < messages {
            self.0.reached.notified().await;
        }
    }

    /// How many messages have been handled so far.
    #[must_use]
    pub fn handled(&self) -> u64 {
        self.0.handled.load(SeqCst)
    }

    /// How many attempts failed, as [`try_handle`](Self::try_handle) asks for.
    #[must_use]
    pub fn failed(&self) -> usize {
        self.0.failed.iter().filter(|failed| failed.load(Relaxed)).count()
    }
}

//! A circuit breaker that slows the fetch in an outage instead of burning attempts.

use std::sync::Mutex;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use tokio::time::Instant;

use super::BreakerPolicy;

/// What the breaker lets through.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum BreakerState {
    /// Everything.
    Closed,
    /// Nothing until this instant; then one attempt.
    Open(Instant),
    /// One attempt is under way; the others wait for its outcome.
    Probing,
}

/// Counts failures in a row over all lanes of one handler, and holds them back once there are too many.
///
/// An outage fails everything alike; letting every message run through its attempts would only turn the whole backlog
/// into dead letters. While the breaker is open nothing is started, and the message that met it is tried again without
/// its attempt being counted; after a few tries it waits as a delayed retry and another one goes first, because it may be
/// that message which fails. Where no other comes nobody can tell: after [`BreakerPolicy::patience`] its attempts count.
#[derive(Debug)]
pub struct Breaker {
    policy: BreakerPolicy,
    in_a_row: AtomicU32,
    open: Mutex<Option<Open>>,
}

#[derive(Debug, Clone, Copy)]
struct Open {
    until: Instant,
    wait: Duration,
    probing: bool,
}

impl Breaker {
    /// A closed breaker.
    #[must_use]
    pub fn new(policy: BreakerPolicy) -> Self {
        Self { policy, in_a_row: AtomicU32::new(0), open: Mutex::new(None) }
    }

    /// Whether attempts run freely: one relaxed load, the price of a breaker on a good day.
    #[must_use]
    pub fn is_closed(&self) -> bool {
        self.in_a_row.load(Ordering::Relaxed) < self.policy.failures
    }

    /// What it lets through now.
    #[must_use]
    pub fn state(&self) -> BreakerState {
        match *self.lock() {
            None => BreakerState::Closed,
            Some(open) if open.probing => BreakerState::Probing,
            Some(open) => BreakerState::Open(open.until),
        }
    }

    /// Takes note of a success; closes the breaker.
    pub fn succeeded(&self) {
        if self.in_a_row.load(Ordering::Relaxed) > 0 {
            self.in_a_row.store(0, Ordering::Relaxed);
            *self.lock() = None;
        }
    }

    /// Takes note of a failure that may be an outage's; opens the breaker, or keeps it open for longer.
    ///
    /// Tells whether it is open now, so that this failure counts for no attempt.
    pub fn failed(&self) -> bool {
        let failures = self.in_a_row.fetch_add(1, Ordering::Relaxed).saturating_add(1);
        if failures < self.policy.failures {
            return false;
        }
        let mut open = self.lock();
        let wait = match *open {
            Some(before) if before.probing => (before.wait * 2).min(self.policy.max_wait),
            Some(_) => return true,
            None => self.policy.wait,
        };
        *open = Some(Open { until: Instant::now() + wait, wait, probing: false });
        true
    }

    /// Waits until an attempt may start; of many that wait, one goes first.
    ///
    /// # Cancel safety
    /// Dropping the future changes nothing, unless it was the one that went first and never reported: then
    /// [`Breaker::abandoned`] lets the next one go.
    pub async fn admit(&self) {
        loop {
            let wait_until = {
                let mut open = self.lock();
                match &mut *open {
                    None => return,
                    Some(state) if state.probing => Instant::now() + Duration::from_millis(50),
                    Some(state) if state.until <= Instant::now() => {
                        state.probing = true;
                        return;
                    }
                    Some(state) => state.until,
                }
            };
            tokio::time::sleep_until(wait_until).await;
        }
    }

    /// The attempt that went first has told nothing of an outage: the message itself was refused, or given up.
    pub fn abandoned(&self) {
        if let Some(open) = &mut *self.lock() {
            open.probing = false;
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Option<Open>> {
        self.open.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}

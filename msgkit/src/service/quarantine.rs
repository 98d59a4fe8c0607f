//! The last start of a message that seems to kill the process: alone, with nothing else in hand.
//!
//! A broker's delivery count rises for every message that was in hand when a process died, whoever killed it. So a count
//! that is too high only makes a message a suspect. A suspect is started once more with nothing beside it: everything
//! that is in hand unstarted goes back first, in the whole service. Only a message that dies alone is guilty.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use tokio::sync::{Mutex, MutexGuard, Notify, watch};

/// Lets one message run while everything else of the service stands still.
#[derive(Debug)]
pub(crate) struct Quarantine {
    active: AtomicBool,
    state: watch::Sender<bool>,
    participants: AtomicUsize,
    parked: AtomicUsize,
    changed: Notify,
    turn: Mutex<()>,
}

impl Quarantine {
    pub(crate) fn new() -> Self {
        Self {
            active: AtomicBool::new(false),
            state: watch::Sender::new(false),
            participants: AtomicUsize::new(0),
            parked: AtomicUsize::new(0),
            changed: Notify::new(),
            turn: Mutex::new(()),
        }
    }

    /// Whether a suspect runs, or waits to run: one relaxed load.
    pub(crate) fn is_active(&self) -> bool {
        self.active.load(Ordering::Relaxed)
    }

    /// Counts a lane or a fetcher in, for as long as the guard lives.
    pub(crate) fn join(self: &std::sync::Arc<Self>) -> Participant {
        self.participants.fetch_add(1, Ordering::AcqRel);
        Participant(self.clone())
    }

    /// A signal that a quarantine begins.
    pub(crate) fn signal(&self) -> watch::Receiver<bool> {
        self.state.subscribe()
    }

    /// Stands still until the quarantine is over; the caller has given back what it had in hand.
    pub(crate) async fn stand_still(&self) {
        let _parked = self.park();
        let mut state = self.state.subscribe();
        let _ = state.wait_for(|active| !active).await;
    }

    /// Waits until everything else stands still; the caller has given back all but the suspect. Dropped while it waits, it lets
    /// the others go on.
    ///
    /// `None` where another suspect has its turn: a second one in hand goes back, or a process that dies of the first would
    /// count a start of the second.
    pub(crate) async fn alone(&self) -> Option<Alone<'_>> {
        let turn = self.turn.try_lock().ok()?;
        // Made before it is true, so that whoever gives up waiting holds nobody back.
        let alone = Alone { quarantine: self, _turn: turn };
        self.active.store(true, Ordering::Relaxed);
        self.state.send_replace(true);
        loop {
            let mut changed = std::pin::pin!(self.changed.notified());
            changed.as_mut().enable();
            if self.parked.load(Ordering::Acquire) + 1 >= self.participants.load(Ordering::Acquire) {
                break;
            }
            changed.await;
        }
        Some(alone)
    }

    /// Counts a lane as standing still for as long as the guard lives: it waits for something that may take long, and starts
    /// nothing meanwhile. Afterwards it has to ask [`Quarantine::is_over`] before it starts anything.
    pub(crate) fn waits(&self) -> Parked<'_> {
        self.park()
    }

    /// Waits until no suspect runs; for a lane that was counted as standing still and is not any more.
    ///
    /// It looks only after that: whoever begins a quarantine either still waits for this lane, or is seen here.
    pub(crate) async fn is_over(&self) {
        while *self.state.borrow() {
            self.stand_still().await;
        }
    }

    fn park(&self) -> Parked<'_> {
        self.parked.fetch_add(1, Ordering::AcqRel);
        self.changed.notify_waiters();
        Parked(self)
    }
}

/// One that stands still.
#[derive(Debug)]
pub(crate) struct Parked<'a>(&'a Quarantine);

impl Drop for Parked<'_> {
    fn drop(&mut self) {
        self.0.parked.fetch_sub(1, Ordering::AcqRel);
    }
}

/// A lane or a fetcher that has to stand still before a suspect starts.
#[derive(Debug)]
pub(crate) struct Participant(std::sync::Arc<Quarantine>);

impl Drop for Participant {
    fn drop(&mut self) {
        self.0.participants.fetch_sub(1, Ordering::AcqRel);
        self.0.changed.notify_waiters();
    }
}

/// The time in which a suspect runs.
#[derive(Debug)]
pub(crate) struct Alone<'a> {
    quarantine: &'a Quarantine,
    _turn: MutexGuard<'a, ()>,
}

impl Drop for Alone<'_> {
    fn drop(&mut self) {
        self.quarantine.active.store(false, Ordering::Relaxed);
        self.quarantine.state.send_replace(false);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::time::Duration;

    use super::*;

    /// Whether a suspect could begin now.
    async fn is_alone(quarantine: &Quarantine) -> bool {
        let alone = tokio::time::timeout(Duration::from_secs(1), quarantine.alone()).await;
        alone.is_ok_and(|alone| alone.is_some())
    }

    #[tokio::test(start_paused = true)]
    async fn a_suspect_waits_for_whoever_moves_again() {
        let quarantine = Arc::new(Quarantine::new());
        let (_suspects, _other) = (quarantine.join(), quarantine.join());
        assert!(!is_alone(&quarantine).await, "the other one moves");
        assert!(!quarantine.is_active(), "whoever gave up waiting holds nobody back");
        let stands = quarantine.waits();
        assert!(is_alone(&quarantine).await);
        drop(stands);
        assert!(!is_alone(&quarantine).await, "it moves again");
    }

    #[tokio::test(start_paused = true)]
    async fn a_suspect_does_not_wait_for_who_has_gone() {
        let quarantine = Arc::new(Quarantine::new());
        let (_suspects, other) = (quarantine.join(), quarantine.join());
        let waiting = tokio::spawn({
            let quarantine = quarantine.clone();
            async move { is_alone(&quarantine).await }
        });
        tokio::task::yield_now().await;
        drop(other);
        assert!(waiting.await.unwrap(), "it is told that the other one went");
        assert!(is_alone(&quarantine).await);
    }
}

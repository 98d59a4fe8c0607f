//! What happened to messages, as the service tells it.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use msgkit::telemetry::{Event, EventKind, Observer};
use msgkit::transport::Destination;
use msgkit::{Envelope, MessageId};
use tokio::sync::Notify;

/// Everything that was told, and who is at work now.
#[derive(Debug, Default)]
pub(super) struct Journal {
    state: Mutex<State>,
    /// Something was told.
    pub(super) progress: Notify,
    still: Arc<Still>,
}

#[derive(Debug, Default)]
struct State {
    mine: HashSet<MessageId>,
    published: Vec<Envelope>,
    happened: Vec<(Option<MessageId>, &'static str)>,
    attempts: HashMap<(String, MessageId), u32>,
    running: HashMap<(String, MessageId), tokio::time::Instant>,
    /// Messages to topics that were published: what a broker owes to the handlers that take them.
    owed: Vec<Envelope>,
    settled: usize,
    copies: usize,
    told: u64,
}

/// Holds the paused time still while a handler runs: tokio lets it jump only while nothing runs on its blocking threads.
#[derive(Debug, Default)]
struct Still {
    held: Mutex<bool>,
    released: Condvar,
}

/// A handler at work.
#[derive(Debug, Clone)]
pub(super) struct AtWork {
    pub(super) handler: String,
    pub(super) message: MessageId,
    pub(super) since: tokio::time::Instant,
}

impl Journal {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The test itself publishes this message.
    pub(super) fn mine(&self, id: &MessageId) {
        self.lock().mine.insert(id.clone());
    }

    pub(super) fn published(&self) -> Vec<Envelope> {
        let state = self.lock();
        state.published.iter().filter(|envelope| !state.mine.contains(envelope.id())).cloned().collect()
    }

    pub(super) fn attempts(&self, handler: &str, id: &MessageId) -> u32 {
        self.lock().attempts.get(&(handler.to_owned(), id.clone())).copied().unwrap_or_default()
    }

    pub(super) fn history(&self, id: &MessageId) -> Vec<&'static str> {
        let state = self.lock();
        state.happened.iter().filter(|(of, _)| of.as_ref() == Some(id)).map(|(_, what)| *what).collect()
    }

    /// A dead letter goes back to its group: one more message to be settled.
    pub(super) fn replayed(&self) {
        self.lock().copies += 1;
    }

    /// How much has been told so far.
    pub(super) fn told(&self) -> u64 {
        self.lock().told
    }

    pub(super) fn at_work(&self) -> Vec<AtWork> {
        let state = self.lock();
        let at_work = |((handler, message), since): (&(String, MessageId), &tokio::time::Instant)| AtWork {
            handler: handler.clone(),
            message: message.clone(),
            since: *since,
        };
        state.running.iter().map(at_work).collect()
    }

    /// How many settlements are still to come, where `takers` counts the handlers that take a message.
    pub(super) fn outstanding(&self, takers: impl Fn(&Envelope) -> usize) -> usize {
        let state = self.lock();
        let owed: usize = state.owed.iter().map(takers).sum();
        (owed + state.copies).saturating_sub(state.settled)
    }

    /// The service is gone, and with it everything that it had in hand.
    pub(super) fn forget_running(&self) {
        self.lock().running.clear();
        self.release();
    }

    /// Lets the time jump again.
    pub(super) fn release(&self) {
        *self.still.held.lock().unwrap_or_else(PoisonError::into_inner) = false;
        self.still.released.notify_all();
    }

    fn hold(&self) {
        let mut held = self.still.held.lock().unwrap_or_else(PoisonError::into_inner);
        if *held {
            return;
        }
        *held = true;
        drop(held);
        let still = self.still.clone();
        tokio::task::spawn_blocking(move || {
            let mut held = still.held.lock().unwrap_or_else(PoisonError::into_inner);
            while *held {
                held = still.released.wait(held).unwrap_or_else(PoisonError::into_inner);
            }
        });
    }

    fn on(&self, event: &Event<'_>) {
        let mut state = self.lock();
        state.told += 1;
        let id = event.envelope.map(|envelope| envelope.id().clone());
        state.happened.push((id.clone(), event.kind.name()));
        if let (EventKind::Published { to: Destination::Topic { .. } }, Some(envelope)) =
            (&event.kind, event.envelope)
        {
            state.published.push(envelope.clone());
            state.owed.push(envelope.clone());
        }
        if let (Some(handler), Some(id)) = (event.handler, id) {
            let key = (handler.handler.as_str().to_owned(), id);
            match &event.kind {
                EventKind::Started { .. } => {
                    *state.attempts.entry(key.clone()).or_default() += 1;
                    state.running.insert(key, tokio::time::Instant::now());
                }
                EventKind::RetryScheduled { .. } => {
                    state.copies += 1;
                    state.running.remove(&key);
                }
                EventKind::Settled => {
                    state.settled += 1;
                    state.running.remove(&key);
                }
                EventKind::Succeeded { .. }
                | EventKind::Failed { .. }
                | EventKind::DeadLettered(_)
                | EventKind::Discarded { .. }
                | EventKind::GivenBack => {
                    state.running.remove(&key);
                }
                _ => {}
            }
        }
        let idle = state.running.is_empty();
        drop(state);
        if idle {
            self.release();
        } else {
            self.hold();
        }
        self.progress.notify_one();
    }
}

/// The journal as the service's observer.
#[derive(Debug)]
pub(super) struct Observing(pub(super) Arc<Journal>);

impl Observer for Observing {
    fn on(&self, event: &Event<'_>) {
        self.0.on(event);
    }
}

//! The seam between a lane, which knows no message type, and a coroutine, which knows one.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::task::Poll;

use super::context::Context;
use super::error::HandlerError;
use crate::envelope::DeadLetterKind;

/// Why an attempt failed.
#[derive(Debug)]
pub(crate) struct Failure {
    pub(crate) kind: DeadLetterKind,
    pub(crate) error: HandlerError,
    /// The broker could not take what the handler published: nothing that the message is to blame for.
    pub(crate) outage: bool,
}

impl Failure {
    pub(crate) fn new(kind: DeadLetterKind, error: HandlerError) -> Self {
        Self { kind, error, outage: false }
    }

    pub(crate) fn handler(error: HandlerError) -> Self {
        Self::new(DeadLetterKind::Handler, error)
    }

    pub(crate) fn outage(error: HandlerError) -> Self {
        Self { outage: true, ..Self::handler(error) }
    }

    pub(crate) fn decode(error: crate::Error) -> Self {
        Self::new(DeadLetterKind::Decode, HandlerError::permanent(error))
    }
}

/// Holds one attempt on its way in, then its outcome on its way out.
///
/// Lane and coroutine run in one task and never at the same time, so the lock is never contended; it is what makes the
/// sharing safe without `unsafe`.
#[derive(Debug, Default)]
pub struct Slot(Mutex<State>);

#[derive(Debug, Default)]
enum State {
    #[default]
    Empty,
    Job(Context),
    Done(Context, Result<(), Failure>),
}

impl Slot {
    /// Puts an attempt in, for the coroutine to take at its next poll.
    pub(crate) fn put(&self, context: Context) {
        *self.lock() = State::Job(context);
    }

    /// Takes the outcome, if there is one.
    pub(crate) fn take(&self) -> Option<(Context, Result<(), Failure>)> {
        let mut state = self.lock();
        match std::mem::take(&mut *state) {
            State::Done(context, outcome) => Some((context, outcome)),
            other => {
                *state = other;
                None
            }
        }
    }

    /// Empties it, after a coroutine was dropped half-way.
    pub(crate) fn clear(&self) {
        *self.lock() = State::Empty;
    }

    /// The coroutine's side: waits for the next attempt.
    pub(crate) async fn next(&self) -> Context {
        std::future::poll_fn(|_| {
            let mut state = self.lock();
            match std::mem::take(&mut *state) {
                State::Job(context) => Poll::Ready(context),
                other => {
                    *state = other;
                    Poll::Pending
                }
            }
        })
        .await
    }

    /// The coroutine's side: reports the outcome and takes the next attempt, when there is one.
    pub(crate) async fn finish(&self, context: Context, outcome: Result<(), Failure>) -> Context {
        *self.lock() = State::Done(context, outcome);
        // The lane polls again only with a new attempt in the slot, so the first poll need not look.
        let mut reported = false;
        std::future::poll_fn(|_| {
            if !reported {
                reported = true;
                return Poll::Pending;
            }
            let mut state = self.lock();
            match std::mem::take(&mut *state) {
                State::Job(context) => Poll::Ready(context),
                other => {
                    *state = other;
                    Poll::Pending
                }
            }
        })
        .await
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

//! The seam between a lane, which knows no message type, and a coroutine, which knows one.

use std::collections::VecDeque;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::task::Poll;

use super::context::Context;
use super::error::HandlerError;
use crate::envelope::DeadLetterKind;
use crate::service::Stretch;
use crate::transport::{Acks, Delivery};

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

/// What lane and coroutine share: an attempt on its way in, its outcome on its way out, and the lane's batch meanwhile.
///
/// Both run in one task and never at the same time, so the lock is never contended; it is what makes the sharing safe
/// without `unsafe`. A coroutine that works off a batch of its own type takes it once for each message.
#[derive(Debug)]
pub struct Slot(Mutex<Desk>);

#[derive(Debug)]
struct Desk {
    attempt: State,
    stretch: Stretch,
}

#[derive(Debug, Default)]
enum State {
    #[default]
    Empty,
    Job(Context),
    Done(Context, Result<(), Failure>),
}

/// How an attempt ended.
#[derive(Debug)]
pub(crate) struct Done {
    /// Its context, to be used again.
    pub(crate) context: Context,
    /// What became of it.
    pub(crate) outcome: Result<(), Failure>,
    /// Whether its message is the first of the batch that was lent; it is settled otherwise.
    pub(crate) in_hand: bool,
}

impl Slot {
    /// An empty one, for the coroutines of one lane.
    pub(crate) fn new(stretch: Stretch) -> Self {
        Self(Mutex::new(Desk { attempt: State::Empty, stretch }))
    }

    /// Lends the lane's batch to its coroutines, or takes it back.
    pub(crate) fn exchange(&self, batch: &mut VecDeque<Delivery>, acks: &mut Acks) {
        self.lock().stretch.exchange(batch, acks);
    }

    /// Puts the first attempt of the next plain message in, and tells which of the tracks it is for.
    pub(crate) fn begin(
        &self,
        context: &mut Option<Context>,
        track: impl FnOnce(&str) -> Option<usize>,
    ) -> Option<usize> {
        let mut desk = self.lock();
        let (track, context) = desk.stretch.begin(context, track)?;
        desk.attempt = State::Job(context);
        Some(track)
    }

    /// Puts an attempt in, for the coroutine to take at its next poll.
    pub(crate) fn put(&self, context: Context) {
        self.lock().attempt = State::Job(context);
    }

    /// Takes the outcome, if there is one.
    pub(crate) fn take(&self) -> Option<Done> {
        let mut desk = self.lock();
        match std::mem::take(&mut desk.attempt) {
            State::Done(context, outcome) => {
                Some(Done { context, outcome, in_hand: desk.stretch.is_begun() })
            }
            other => {
                desk.attempt = other;
                None
            }
        }
    }

    /// Empties it, after a coroutine was dropped half-way.
    pub(crate) fn clear(&self) {
        self.lock().attempt = State::Empty;
    }

    /// The coroutine's side: waits for the next attempt.
    pub(crate) async fn next(&self) -> Context {
        std::future::poll_fn(|_| {
            let mut desk = self.lock();
            match std::mem::take(&mut desk.attempt) {
                State::Job(context) => Poll::Ready(context),
                other => {
                    desk.attempt = other;
                    Poll::Pending
                }
            }
        })
        .await
    }

    /// The coroutine's side, for messages called `name`: reports an outcome, and waits for the next attempt.
    ///
    /// After a success that is the next message of the batch, if the lane need not look at it first: then nothing waits.
    #[inline]
    pub(crate) async fn report(&self, context: Context, outcome: Result<(), Failure>, name: &str) -> Context {
        let next = match outcome {
            Ok(()) => self.succeeded(context, name),
            Err(failure) => {
                self.lock().attempt = State::Done(context, Err(failure));
                None
            }
        };
        match next {
            Some(context) => context,
            None => self.pause().await,
        }
    }

    fn succeeded(&self, mut context: Context, name: &str) -> Option<Context> {
        let mut desk = self.lock();
        if desk.stretch.go_on(&mut context, name) {
            return Some(context);
        }
        desk.attempt = State::Done(context, Ok(()));
        None
    }

    /// Lets the lane take the outcome, and waits for the next attempt.
    async fn pause(&self) -> Context {
        // The lane polls again only with a new attempt in the slot, so the first poll need not look.
        let mut reported = false;
        std::future::poll_fn(|_| match std::mem::replace(&mut reported, true) {
            false => Poll::Pending,
            true => Poll::Ready(()),
        })
        .await;
        self.next().await
    }

    fn lock(&self) -> MutexGuard<'_, Desk> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

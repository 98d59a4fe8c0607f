//! A subscription as both sides see it: the deliveries that a service holds, and the writer that serves them.

use std::collections::VecDeque;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use msgkit::transport::{Incoming, Settle, Token, TransportError};
use tokio::sync::Notify;

use crate::error::Failure;
use crate::store::Counters;
use crate::wire::Stored;

/// A message that was claimed and waits to be received.
#[derive(Debug)]
pub(crate) struct Claimed {
    pub(crate) stored: Stored,
    pub(crate) starts: u32,
    /// The member under which it was claimed.
    pub(crate) member: i64,
}

impl Claimed {
    pub(crate) fn token(&self) -> Token {
        Token { id: self.stored.id.cast_unsigned(), epoch: self.member.cast_unsigned() }
    }
}

/// What the two sides share. Settlements wait here until the writer takes them: never more than are in hand.
#[derive(Debug)]
pub(crate) struct Member {
    state: Mutex<State>,
    /// Something came for the receiver.
    pub(crate) arrived: Notify,
    /// Something came for the writer.
    pub(crate) writer: Arc<Notify>,
    prefetch: usize,
    counters: Arc<Counters>,
}

#[derive(Debug, Default)]
struct State {
    buffer: VecDeque<Claimed>,
    in_hand: usize,
    want: usize,
    settled: Settled,
    failure: Option<Failure>,
    stopped: bool,
    closed: bool,
    left: bool,
    dismissed: bool,
}

/// What was settled since the writer asked last.
#[derive(Debug, Default)]
pub(crate) struct Settled {
    pub(crate) done: Vec<Token>,
    pub(crate) returned: Vec<Token>,
}

impl Settled {
    pub(crate) fn is_empty(&self) -> bool {
        self.done.is_empty() && self.returned.is_empty()
    }
}

/// What a receiver finds.
pub(crate) enum Found {
    Messages,
    Nothing,
    End,
}

impl Member {
    pub(crate) fn new(prefetch: usize, writer: Arc<Notify>, counters: Arc<Counters>) -> Self {
        let prefetch = prefetch.max(1);
        Self { state: Mutex::default(), arrived: Notify::new(), writer, prefetch, counters }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// For the receiver: what was claimed for it, else its wish for at most `max` is noted.
    pub(crate) fn take(&self, max: usize, into: &mut VecDeque<Claimed>) -> Result<Found, TransportError> {
        let mut state = self.lock();
        if state.closed {
            return Err(TransportError::closed("sqlite"));
        }
        if !state.buffer.is_empty() {
            let count = max.min(state.buffer.len());
            into.extend(state.buffer.drain(..count));
            state.want = 0;
            return Ok(Found::Messages);
        }
        if state.stopped {
            return Ok(Found::End);
        }
        if let Some(failure) = state.failure.take() {
            return Err(failure.to_error());
        }
        let want = max.min(self.prefetch.saturating_sub(state.in_hand));
        let more = want > state.want;
        state.want = want;
        drop(state);
        if more {
            self.writer.notify_one();
        }
        Ok(Found::Nothing)
    }

    /// For the receiver: it waits no more.
    pub(crate) fn unwant(&self) {
        self.lock().want = 0;
    }

    pub(crate) fn stop(&self) {
        let mut state = self.lock();
        state.stopped = true;
        state.want = 0;
    }

    /// The receiver is gone: the writer gives back what it has.
    pub(crate) fn leave(&self) {
        let mut state = self.lock();
        state.left = true;
        state.stopped = true;
        state.want = 0;
        drop(state);
        self.writer.notify_one();
    }

    /// For the writer: all that was in hand has been given back; what is settled from now on comes too late.
    pub(crate) fn dismiss(&self) {
        self.lock().dismissed = true;
    }

    /// For the writer: whether the receiver is gone.
    pub(crate) fn has_left(&self) -> bool {
        self.lock().left
    }

    /// For the writer: how many messages to claim. None while something waits to be given back, which comes first:
    /// otherwise what is younger would overtake it.
    pub(crate) fn wanted(&self) -> usize {
        let state = self.lock();
        if state.settled.returned.is_empty() { state.want } else { 0 }
    }

    pub(crate) fn has_settled(&self) -> bool {
        !self.lock().settled.is_empty()
    }

    /// For the writer: what was settled.
    pub(crate) fn take_settled(&self) -> Settled {
        std::mem::take(&mut self.lock().settled)
    }

    /// For the writer: settlements that could not be written, to be tried again before later ones.
    pub(crate) fn put_settled_back(&self, mut settled: Settled) {
        let mut state = self.lock();
        settled.done.append(&mut state.settled.done);
        settled.returned.append(&mut state.settled.returned);
        state.settled = settled;
    }

    /// For the writer: hands over what was claimed.
    pub(crate) fn give(&self, claimed: Vec<Claimed>) {
        let mut state = self.lock();
        state.in_hand += claimed.len();
        state.want = state.want.saturating_sub(claimed.len());
        state.failure = None;
        if state.left || state.closed {
            // Whoever wanted them has gone in between: they go back as if never claimed.
            state.settled.returned.extend(claimed.iter().map(Claimed::token));
            drop(state);
            self.writer.notify_one();
            return;
        }
        state.buffer.extend(claimed);
        drop(state);
        self.arrived.notify_one();
    }

    /// For the writer: what nobody received goes back as if never claimed.
    pub(crate) fn unreceived(&self) -> Vec<Token> {
        self.lock().buffer.drain(..).map(|claimed| claimed.token()).collect()
    }

    /// For the writer: the database does not answer.
    pub(crate) fn fail(&self, failure: &Failure) {
        let mut state = self.lock();
        if state.want > 0 {
            state.want = 0;
            state.failure = Some(failure.clone());
            drop(state);
            self.arrived.notify_one();
        }
    }

    /// For the writer: the transport is closed.
    pub(crate) fn close(&self) {
        let mut state = self.lock();
        state.closed = true;
        state.want = 0;
        drop(state);
        self.arrived.notify_one();
    }

    fn settle(&self, settle: impl FnOnce(&mut Settled) -> usize) {
        let mut state = self.lock();
        let count = settle(&mut state.settled);
        let blocked = state.in_hand >= self.prefetch;
        state.in_hand = state.in_hand.saturating_sub(count);
        drop(state);
        if blocked {
            self.arrived.notify_one();
        }
        self.writer.notify_one();
    }
}

impl Settle for Member {
    fn done(&self, tokens: &mut Vec<Token>) {
        if self.lock().dismissed {
            let late = tokens.drain(..).len();
            self.counters.lost_leases.fetch_add(late as u64, Ordering::Relaxed);
            return;
        }
        self.settle(|settled| {
            settled.done.extend_from_slice(tokens);
            tokens.drain(..).len()
        });
    }

    fn returned(&self, token: Token, _: Incoming) {
        if self.lock().dismissed {
            return;
        }
        self.settle(|settled| {
            settled.returned.push(token);
            1
        });
    }
}

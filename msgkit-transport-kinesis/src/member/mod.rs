//! A member of a group: one subscription, with the shards that it holds leases of.
//!
//! One task, the keeper (`keeper.rs`, `others.rs`, `writer.rs`), writes all rows of what is held: signs of life, checkpoints,
//! taking and giving shards. Another, the seeker (`seeker.rs`), adds the rows of shards that are new. One task for each shard
//! held (`reader.rs`) fetches. What they share is `state.rs`, behind a lock that is never held across an await.

mod keeper;
mod others;
mod reader;
mod seeker;
mod state;
mod writer;

use std::collections::VecDeque;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use msgkit::transport::{
    Delivery, Incoming, Settle, Subscription, Token, TransportError, TransportErrorKind,
};
use tokio::sync::Notify;

use self::state::{Found, Held, State};
use crate::core::Core;
use crate::lease::LeaseStore;
use crate::names::Wanted;

/// How long a flush waits for the table of leases.
const FLUSH: Duration = Duration::from_secs(30);

/// What one subscription is made of.
#[derive(Debug)]
pub(crate) struct Member {
    pub(crate) core: Arc<Core>,
    /// The table of leases: everybody's, or one of its own.
    store: Arc<dyn LeaseStore>,
    space: String,
    wanted: Wanted,
    subscription: Subscription,
    state: Mutex<State>,
    /// For the receiver: something came, or it is over.
    arrived: Notify,
    /// For the keeper: something is to be written.
    due: Notify,
    /// For the seeker: there may be new shards.
    look: Notify,
    /// For the readers: there is room, or it is over.
    room: Notify,
    /// For whoever waits for the keeper.
    kept: Notify,
}

impl Member {
    /// A member of `space`, whose keeper runs from now on.
    pub(crate) fn start(
        core: &Arc<Core>,
        store: Arc<dyn LeaseStore>,
        space: String,
        wanted: Wanted,
        subscription: &Subscription,
    ) -> Arc<Self> {
        let patterns =
            if subscription.retry_step.is_some() { Vec::new() } else { subscription.patterns.clone() };
        let member = Arc::new(Self {
            core: core.clone(),
            store,
            space,
            wanted,
            subscription: subscription.clone(),
            state: Mutex::new(State::new(
                subscription.prefetch.max(1),
                patterns,
                // Its table of leases is its own.
                subscription.group.is_none(),
            )),
            arrived: Notify::new(),
            due: Notify::new(),
            look: Notify::new(),
            room: Notify::new(),
            kept: Notify::new(),
        });
        core.enlist(&member);
        tokio::spawn(member.clone().keep());
        member
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits until it has its share of the shards, or for a few signs of life where the others cannot give it now.
    pub(crate) async fn settle_in(&self) {
        let patience = self.core.config.heartbeat * 5;
        let ready = async {
            loop {
                let kept = self.kept.notified();
                let mut kept = std::pin::pin!(kept);
                kept.as_mut().enable();
                {
                    let state = self.lock();
                    if state.has_share || state.gone || state.failure.is_some() {
                        return;
                    }
                }
                kept.await;
            }
        };
        let _ = tokio::time::timeout(patience, ready).await;
    }

    pub(crate) async fn receive(
        self: &Arc<Self>,
        settler: &Arc<dyn Settle>,
        max: usize,
        into: &mut VecDeque<Delivery>,
    ) -> Result<(), TransportError> {
        loop {
            let (found, to_write) = {
                let mut state = self.lock();
                let found = state.take(settler, max, into)?;
                (found, state.held.values().any(|held| held.to_start().is_some()))
            };
            if to_write {
                self.due.notify_one();
            }
            match found {
                Found::Some => {
                    self.room.notify_waiters();
                    return Ok(());
                }
                Found::End => return Ok(()),
                Found::Nothing | Found::Unwritten => {}
            }
            let again = self.lock().tell_silence(self.core.config.lease);
            let again = again
                .map_err(|why| TransportError::new(TransportErrorKind::Unavailable, self.silent(&why)))?;
            let _ = tokio::time::timeout_at(again, self.arrived.notified()).await;
        }
    }

    fn silent(&self, why: &str) -> String {
        let (space, lease) = (&self.space, self.core.config.lease);
        format!("the leases of `{space}` could not be kept for {lease:?}, so messages may wait: {why}")
    }

    /// Why messages may wait: the table of leases is silent, or a shard cannot be read for longer than trying again takes.
    pub(crate) fn trouble(&self) -> Option<String> {
        let state = self.lock();
        let unread = || {
            let read_on = |held: &&Held| !state.stopped && !held.ended && held.leaving.is_none();
            let held = state.held.values().filter(read_on).find(|held| held.unread.is_some())?;
            let (stream, shard) = (&held.lease.stream, &held.lease.shard);
            held.unread
                .as_ref()
                .map(|why| format!("`{stream}/{shard}` is not read, so its messages wait: {why}"))
        };
        state.silence(self.core.config.lease).map(|why| self.silent(&why)).or_else(unread)
    }

    /// This process has published to `stream`: there is something to read.
    pub(crate) fn nudge(&self, stream: &str) {
        let mut any = false;
        for held in self.lock().held.values_mut().filter(|held| held.lease.stream == stream) {
            (held.nudged, any) = (true, true);
        }
        if any {
            self.room.notify_waiters();
        }
    }

    /// Nothing more is fetched, and nothing more handed out.
    pub(crate) fn stop(&self) {
        self.lock().stopped = true;
        self.arrived.notify_one();
        self.room.notify_waiters();
    }

    /// Waits until what was settled is in the table of leases.
    pub(crate) async fn flush(&self) -> Result<(), TransportError> {
        let asked = {
            let mut state = self.lock();
            state.flush_asked += 1;
            state.flush_asked
        };
        self.due.notify_one();
        let written = async {
            loop {
                let kept = self.kept.notified();
                let mut kept = std::pin::pin!(kept);
                kept.as_mut().enable();
                {
                    let mut state = self.lock();
                    if state.flush_done >= asked {
                        return state.flush_error.take();
                    }
                    if state.gone {
                        // It has left by itself: what it could not write then is told now.
                        return state.flush_error.take().or_else(|| state.unflushed.take());
                    }
                }
                kept.await;
            }
        };
        let text = match tokio::time::timeout(FLUSH, written).await {
            Ok(None) => return Ok(()),
            Ok(Some(error)) => error,
            Err(_) => format!("the table of leases has not answered for {FLUSH:?}"),
        };
        let text = format!(
            "what was settled could not be written down, so it comes again unless its stream was deleted: {text}"
        );
        Err(TransportError::new(TransportErrorKind::Unavailable, text))
    }

    /// Writes down what is settled, gives back the rest and leaves. Does not wait for it.
    pub(crate) fn quit(&self) {
        let mut state = self.lock();
        (state.stopped, state.quitting) = (true, true);
        drop(state);
        self.due.notify_one();
        self.arrived.notify_one();
        self.room.notify_waiters();
    }

    /// The transport is closed: a receive that waits ends.
    pub(crate) fn shut(&self) {
        self.lock().closed = true;
        self.quit();
    }

    /// Waits until it has left.
    pub(crate) async fn left(&self) -> Result<(), TransportError> {
        let gone = async {
            loop {
                let kept = self.kept.notified();
                let mut kept = std::pin::pin!(kept);
                kept.as_mut().enable();
                {
                    let mut state = self.lock();
                    if state.gone {
                        return state.flush_error.take().or_else(|| state.unflushed.take());
                    }
                }
                kept.await;
            }
        };
        match tokio::time::timeout(FLUSH, gone).await {
            Ok(None) => Ok(()),
            Ok(Some(error)) => Err(TransportError::new(
                TransportErrorKind::Unavailable,
                format!(
                    "the leases could not be given back; others take them when they have expired: {error}"
                ),
            )),
            Err(_) => Err(TransportError::new(
                TransportErrorKind::Timeout,
                "the leases could not be given back in time; others take them when they have expired",
            )),
        }
    }
}

impl Settle for Member {
    fn done(&self, tokens: &mut Vec<Token>) {
        let mut state = self.lock();
        let full = state.held.values().any(|held| held.places() == 0);
        let mut late = 0;
        for token in tokens.drain(..) {
            if !state.done(token) {
                late += 1;
            }
        }
        let leaves = state.held.values().any(Held::goes);
        drop(state);
        if late > 0 {
            self.core.late.fetch_add(late, Ordering::Relaxed);
        }
        if full {
            self.room.notify_waiters();
        }
        if leaves {
            self.due.notify_one();
        }
        self.arrived.notify_one();
    }

    fn returned(&self, token: Token, message: Incoming) {
        let mut state = self.lock();
        state.returned(token, message);
        let leaves = state.held.values().any(Held::goes);
        drop(state);
        if leaves {
            self.due.notify_one();
        }
        self.arrived.notify_one();
    }
}

//! What a subscription has in hand, and how it is settled.

use std::collections::HashSet;
use std::fs;
use std::io;
use std::path::PathBuf;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex};

use msgkit::transport::{Delivery, Incoming, Settle, Token, TransportError};

use crate::error::failed;
use crate::store::{Store, held, if_there};
use crate::turn::Turn;
use crate::wire::{Name, read};

/// One reader of a group.
#[derive(Debug)]
pub(crate) struct Member {
    pub(crate) store: Arc<Store>,
    /// The group's directory.
    place: PathBuf,
    prefetch: usize,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    /// Never more than `prefetch`. What was taken from this member by [`recover`](crate::recover) stays in it until it is
    /// settled, too late.
    in_hand: HashSet<Token>,
    /// Handled, but their files could not be deleted: `flush` tries again, and says so.
    undone: Vec<Token>,
    left: bool,
}

impl Member {
    pub(crate) fn new(store: Arc<Store>, place: PathBuf, prefetch: usize) -> Self {
        Self { store, place, prefetch: prefetch.max(1), state: Mutex::default() }
    }

    fn ready(&self, name: Name) -> PathBuf {
        self.place.join("ready").join(name.to_string())
    }

    fn in_hand(&self, name: Name) -> PathBuf {
        self.place.join("in-hand").join(name.to_string())
    }

    /// Claims at most `max` of the oldest messages. Blocks.
    pub(crate) fn claim(
        self: &Arc<Self>,
        turn: &Turn<'_>,
        max: usize,
    ) -> Result<Vec<Delivery>, TransportError> {
        let claiming = || {
            let room = self.prefetch.saturating_sub(held(&self.state).in_hand.len());
            if room == 0 {
                return Ok(Vec::new());
            }
            let mut claimed = Vec::new();
            for name in turn.ready(&self.place)?.into_iter().take(max.min(room)) {
                // An error drops what was claimed before it, and so gives it back.
                claimed.extend(self.take(name)?);
            }
            Ok(claimed)
        };
        claiming().map_err(|error| failed(&self.place, error))
    }

    /// Takes one message in hand.
    fn take(self: &Arc<Self>, name: Name) -> io::Result<Option<Delivery>> {
        let started = name.started();
        let token = started.token();
        {
            let mut state = held(&self.state);
            // Dying before the rename: it waits. Dying after it: it lies in `in-hand/` with its start counted, until the
            // next process to open the directory puts it back.
            if state.left || !if_there(fs::rename(self.ready(name), self.in_hand(started)))? {
                return Ok(None);
            }
            state.in_hand.insert(token);
        }
        match fs::read(self.in_hand(started)) {
            Ok(body) => {
                let count = u32::try_from(started.starts).unwrap_or(u32::MAX);
                let delivery = Delivery::new(read(body), token, self.clone());
                Ok(Some(delivery.with_count(count).with_position(name.number)))
            }
            Err(error) => {
                self.give_back(token);
                if_there(Err(error)).map(|_| None)
            }
        }
    }

    /// Puts a message back to its old place, where it is still in this member's hand.
    fn give_back(&self, token: Token) {
        let mut state = held(&self.state);
        if !state.in_hand.contains(&token) {
            return;
        }
        // Before the rename it is in hand, after it it waits, its start not counted. What cannot be renamed now stays in
        // hand, and is tried again when the member leaves.
        let name = Name::of(token);
        if if_there(fs::rename(self.in_hand(name), self.ready(name.given_back()))).is_ok() {
            state.in_hand.remove(&token);
        }
    }

    /// Deletes the files that could not be deleted when their messages were settled.
    pub(crate) fn flush(&self) -> Result<(), TransportError> {
        let again = std::mem::take(&mut held(&self.state).undone);
        let errors = again.into_iter().filter_map(|token| self.settle(token).err());
        errors.last().map_or(Ok(()), |error| Err(failed(&self.place, error)))
    }

    /// Settles one message, where it is still in this member's hand.
    fn settle(&self, token: Token) -> io::Result<()> {
        let mut state = held(&self.state);
        // Dying before the file is deleted: the message comes again though it was handled, a duplicate. Dying after it: the
        // message is gone for good. So this is called once it is handled, or a copy is confirmed, and never earlier.
        let mut settled = false;
        if state.in_hand.contains(&token) {
            let deleted = if_there(fs::remove_file(self.in_hand(Name::of(token))));
            settled = deleted.inspect_err(|_| state.undone.push(token))?;
        }
        state.in_hand.remove(&token);
        if !settled {
            // The member has left, or was taken for dead: somebody else has the message, and it stays there.
            self.store.late.fetch_add(1, Ordering::Relaxed);
        }
        Ok(())
    }

    /// Gives everything back, and takes nothing more.
    pub(crate) fn leave(&self) {
        let tokens: Vec<Token> = {
            let mut state = held(&self.state);
            state.left = true;
            state.in_hand.iter().copied().collect()
        };
        for token in tokens {
            // Dying in between: the rest lies in `in-hand/` until the next process to open the directory puts it back.
            self.give_back(token);
        }
        // What is settled from now on comes too late.
        held(&self.state).in_hand.clear();
    }

    pub(crate) fn has_left(&self) -> bool {
        held(&self.state).left
    }
}

/// Settling is one `unlink` or one `rename`, a few microseconds, so it is done at once and on the caller's thread: a queue
/// and a thread to empty it would cost more, and would be one more place where a settlement can get lost.
impl Settle for Member {
    fn done(&self, tokens: &mut Vec<Token>) {
        for token in tokens.drain(..) {
            // Nobody can be told here; `flush` tells.
            let _ = self.settle(token);
        }
    }

    fn returned(&self, token: Token, _: Incoming) {
        self.give_back(token);
    }
}

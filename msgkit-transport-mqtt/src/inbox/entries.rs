//! What a subscription holds, in the order in which it came.

use std::collections::VecDeque;

use msgkit::transport::Incoming;

/// What is held, in the order in which it came.
#[derive(Debug, Default)]
pub(super) struct Entries(pub(super) VecDeque<(u64, Entry)>);

impl Entries {
    /// The last one of all.
    pub(super) fn push(&mut self, at: u64, entry: Entry) {
        self.0.push_back((at, entry));
    }

    pub(super) fn get(&self, at: u64) -> Option<&Entry> {
        find(&self.0, at, |(at, _)| *at).map(|place| &self.0[place].1)
    }

    pub(super) fn get_mut(&mut self, at: u64) -> Option<&mut Entry> {
        find(&self.0, at, |(at, _)| *at).map(|place| &mut self.0[place].1)
    }

    /// Mostly one of the first, so that little has to move.
    pub(super) fn remove(&mut self, at: u64) -> Option<Entry> {
        let place = find(&self.0, at, |(at, _)| *at)?;
        self.0.remove(place).map(|(_, entry)| entry)
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &(u64, Entry)> {
        self.0.iter()
    }
}

/// Where `at` is among what ascends, mostly without a gap.
pub(super) fn find<T>(all: &VecDeque<T>, at: u64, known_by: impl Fn(&T) -> u64) -> Option<usize> {
    let guess = usize::try_from(at.checked_sub(known_by(all.front()?))?).ok()?;
    match all.get(guess) {
        Some(one) if known_by(one) == at => Some(guess),
        _ => all.binary_search_by_key(&at, known_by).ok(),
    }
}

#[derive(Debug)]
pub(super) struct Entry {
    pub(super) link: u64,
    pub(super) epoch: u64,
    /// `None` while it is in hand.
    pub(super) message: Option<Incoming>,
    /// Whether the broker waits for an acknowledgement on the connection that brought it.
    pub(super) owed: bool,
}

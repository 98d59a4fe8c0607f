//! What was broken in a run, and how many duplicates that can explain.

use std::fmt;

use crate::member::{IN_FLIGHT, SUBSCRIPTIONS};
use crate::publisher::BATCH;

/// The faults of a run.
///
/// A message may come twice when nobody can know whether it was taken: the publisher's batch whose confirmation is lost,
/// and what members have in hand when a connection or a process ends. That, and nothing more, is the bound.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Faults {
    broken: Vec<(String, u64)>,
    bound: u64,
    /// What members may have in hand beside what they have asked for.
    unasked: u64,
}

impl Faults {
    /// None yet, where members may have so much more in hand than they have asked for.
    pub(crate) fn new(unasked: u64) -> Self {
        Self { unasked, ..Self::default() }
    }

    /// The most that `members` have in hand.
    fn in_hand(&self, members: usize) -> u64 {
        (members * IN_FLIGHT * SUBSCRIPTIONS) as u64 + self.unasked
    }

    /// Every connection broke, with so many members at work.
    pub(crate) fn connections(&mut self, what: &str, members: usize) {
        self.note(what, BATCH + self.in_hand(members));
    }

    /// A member was killed, or stood still: what it has in hand comes to others.
    pub(crate) fn member(&mut self, what: &str) {
        self.note(what, self.in_hand(1));
    }

    /// Something that no duplicate follows from.
    pub(crate) fn harmless(&mut self, what: &str) {
        self.note(what, 0);
    }

    /// A member has left, and may have given back what it had in hand.
    pub(crate) fn given_back(&mut self) {
        self.bound += (IN_FLIGHT * SUBSCRIPTIONS) as u64;
    }

    /// So many messages were on their way while something happened that may double them.
    pub(crate) fn on_the_way(&mut self, messages: u64) {
        self.bound += messages;
    }

    fn note(&mut self, what: &str, duplicates: u64) {
        self.bound += duplicates;
        match self.broken.iter_mut().find(|(known, _)| known == what) {
            Some((_, times)) => *times += 1,
            None => self.broken.push((what.to_owned(), 1)),
        }
    }

    /// The most duplicates that they explain.
    #[must_use]
    pub fn bound(&self) -> u64 {
        self.bound
    }
}

impl fmt::Display for Faults {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (at, (what, times)) in self.broken.iter().enumerate() {
            write!(f, "{}{what} × {times}", if at == 0 { "" } else { ", " })?;
        }
        Ok(())
    }
}

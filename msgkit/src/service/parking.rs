//! Keys that wait: a message that is tried again in place, later, and those of its key behind it.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use tokio::time::Instant;

use super::lane::{Work, later};
use crate::envelope::Envelope;
use crate::text::Text;
use crate::transport::Delivery;

/// What waits on one lane. The subscription's prefetch bounds it, as everything here is unsettled.
#[derive(Debug, Default)]
pub(crate) struct Parking {
    /// By key; messages without one wait each for itself, under no key.
    keys: BTreeMap<Text, VecDeque<(usize, Delivery)>>,
    /// Each with whether its key waits with it.
    waiting: Vec<(Instant, Work, bool)>,
    /// What may go on, because its key does not wait any more.
    freed: VecDeque<(usize, Delivery)>,
}

impl Parking {
    /// Lets `work` wait, and its key with it.
    pub(crate) fn park(&mut self, work: Work, wait: Duration) {
        if let Some(key) = work.key() {
            self.keys.entry(Text::from(key)).or_default();
        }
        self.waiting.push((later(wait), work, true));
    }

    /// Lets `work` wait, and nothing of its key with it: it was published for later.
    pub(crate) fn park_alone(&mut self, work: Work, wait: Duration) {
        self.waiting.push((later(wait), work, false));
    }

    /// Whether nothing waits.
    pub(crate) fn is_empty(&self) -> bool {
        self.waiting.is_empty() && self.keys.is_empty() && self.freed.is_empty()
    }

    /// Whether messages of this key wait.
    pub(crate) fn is_parked(&self, envelope: &Envelope) -> bool {
        !self.keys.is_empty() && envelope.key().is_some_and(|key| self.keys.contains_key(key))
    }

    /// Puts a delivery of `origin` behind the one of its key that waits.
    pub(crate) fn behind(&mut self, origin: usize, delivery: Delivery, envelope: &Envelope) {
        if let Some(queue) = envelope.key().and_then(|key| self.keys.get_mut(key)) {
            queue.push_back((origin, delivery));
        }
    }

    /// When the next one is due.
    pub(crate) fn due(&self) -> Option<Instant> {
        if !self.freed.is_empty() {
            return Some(Instant::now());
        }
        self.waiting.iter().map(|(due, ..)| *due).min()
    }

    /// The first one that is due; those behind it go on once it is settled.
    pub(crate) fn take_due(&mut self) -> Option<Work> {
        let now = Instant::now();
        let (at, _) = self
            .waiting
            .iter()
            .enumerate()
            .filter(|(_, (due, ..))| *due <= now)
            .min_by_key(|(_, (due, ..))| *due)?;
        Some(self.waiting.swap_remove(at).1)
    }

    /// Opens `key` again where nothing of it waits any more: what was behind goes on, in order.
    pub(crate) fn open(&mut self, key: &str) {
        if !self.waiting.iter().any(|(_, work, holds)| *holds && work.key() == Some(key))
            && let Some(behind) = self.keys.remove(key)
        {
            self.freed.extend(behind);
        }
    }

    /// The next delivery whose key does not wait any more, with its origin.
    pub(crate) fn next_freed(&mut self) -> Option<(usize, Delivery)> {
        self.freed.pop_front()
    }

    /// Everything that waits, to be given back in order.
    pub(crate) fn drain(&mut self) -> Vec<Delivery> {
        let mut all: Vec<Delivery> =
            self.waiting.drain(..).map(|(_, work, _)| work.into_delivery()).collect();
        for (_, behind) in std::mem::take(&mut self.keys) {
            all.extend(behind.into_iter().map(|(_, delivery)| delivery));
        }
        all.extend(self.freed.drain(..).map(|(_, delivery)| delivery));
        all
    }
}

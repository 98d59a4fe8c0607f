//! What a member holds, and the order of its settlements.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet, VecDeque};
use std::sync::Arc;

use google_cloud_pubsub::subscriber::handler::Handler;
use msgkit::transport::{Incoming, Token, TransportError};

/// The most handles of superseded deliveries that are kept: dropping one would tell the service to hand the message out again.
const MOST_STALE: usize = 10_000;

#[derive(Default)]
pub(super) struct State {
    pub(super) next: u64,
    /// What was fetched, or given back, and not handed out, by the order in which it came.
    pub(super) buffer: BTreeMap<u64, Incoming>,
    /// What was fetched and is not handed out yet: it is undecided whose it is, or whose one before it of its key is.
    pub(super) withheld: BTreeMap<u64, Withheld>,
    /// Everything that is unsettled, fetched or in hand.
    pub(super) held: HashMap<u64, Held>,
    /// What was settled, while an earlier message of its key is not: the service takes settlements of a key in order.
    pub(super) parked: HashMap<u64, Held>,
    /// Those of all that are held or parked.
    pub(super) ids: HashMap<(usize, Arc<str>), u64>,
    /// The unsettled and parked messages of each key, by topic.
    pub(super) keys: HashMap<(usize, String), BTreeSet<u64>>,
    pub(super) in_hand: usize,
    /// Which of those that read for the subscription has suspects.
    pub(super) suspects: Option<usize>,
    /// Those of deliveries that have come again since.
    pub(super) stale: VecDeque<Handler>,
    /// To be confirmed.
    pub(super) acks: Vec<(u64, Handler)>,
    pub(super) unconfirmed: BTreeSet<u64>,
    pub(super) told: u64,
    pub(super) lost: u64,
    pub(super) failure: Option<TransportError>,
    pub(super) over: bool,
}

pub(super) struct Held {
    pub(super) source: usize,
    pub(super) message: Arc<str>,
    pub(super) key: String,
    pub(super) count: u32,
    pub(super) handler: Handler,
    /// How often it has come again since: a settlement of an earlier delivery is none of this one.
    pub(super) epoch: u64,
    /// Whether it was handed out: nobody knows then whether it was started.
    pub(super) handed: bool,
}

pub(super) struct Withheld {
    pub(super) undecided: bool,
    pub(super) message: Incoming,
}

impl State {
    /// The first suspect that is fetched and not handed out, or that was given back.
    pub(super) fn suspect(&self) -> Option<u64> {
        let suspects = self.suspects?;
        let is_one = |id: &&u64| self.held.get(*id).is_some_and(|held| held.source == suspects);
        self.buffer.keys().find(is_one).copied()
    }

    /// What is to be handed out next. A suspect waits behind no copy that is not due, only behind another suspect: each time that
    /// a process leaves with it the service counts a start.
    pub(super) fn next_out(&mut self) -> Option<(u64, Incoming)> {
        match self.suspect() {
            Some(id) => self.buffer.remove_entry(&id),
            None => self.buffer.pop_first(),
        }
    }

    /// A message is nobody's any more; until the service is told it keeps its number.
    pub(super) fn take(&mut self, id: u64) -> Option<Held> {
        let held = self.held.remove(&id)?;
        if self.buffer.remove(&id).is_none() && self.withheld.remove(&id).is_none() {
            self.in_hand = self.in_hand.saturating_sub(1);
        }
        Some(held)
    }

    /// The number of a message that has come; those of a key are settled in the order of theirs.
    pub(super) fn number(&mut self, source: usize, key: &str) -> u64 {
        let id = self.next;
        self.next += 1;
        if !key.is_empty() {
            self.keys.entry((source, key.to_owned())).or_default().insert(id);
        }
        id
    }

    pub(super) fn leaves_key(&mut self, source: usize, key: &str, id: u64) {
        if !key.is_empty() {
            let key = (source, key.to_owned());
            if let Some(ids) = self.keys.get_mut(&key) {
                ids.remove(&id);
                if ids.is_empty() {
                    self.keys.remove(&key);
                }
            }
        }
    }

    /// Whether the latest message of a key is withheld, so that what comes behind it is as well.
    pub(super) fn withholds(&self, source: usize, key: &str) -> bool {
        if key.is_empty() || self.withheld.is_empty() {
            return false;
        }
        let latest = self.keys.get(&(source, key.to_owned())).and_then(BTreeSet::last);
        latest.is_some_and(|latest| self.withheld.contains_key(latest))
    }

    /// Withholds no more what is decided, unless one before it of its key is not.
    pub(super) fn release(&mut self) {
        let mut closed = HashSet::new();
        for (id, withheld) in std::mem::take(&mut self.withheld) {
            let held = self.held.get(&id).filter(|held| !held.key.is_empty());
            let key = held.map(|held| (held.source, held.key.clone()));
            if withheld.undecided || key.as_ref().is_some_and(|key| closed.contains(key)) {
                closed.extend(key);
                self.withheld.insert(id, withheld);
            } else {
                self.buffer.insert(id, withheld.message);
            }
        }
    }

    /// A message comes again while it is held here: its lease was lost, or the service hands it out twice. It keeps its place,
    /// before those of its key that came after it; one that is settled already, its settlement.
    pub(super) fn supersede(&mut self, id: u64, again: Withheld, count: u32, handler: Handler) {
        if let Some(parked) = self.parked.get_mut(&id) {
            let stale = std::mem::replace(&mut parked.handler, handler);
            return self.keep_stale(stale);
        }
        let Some(held) = self.held.get_mut(&id) else { return };
        let stale = std::mem::replace(&mut held.handler, handler);
        held.count = count;
        held.epoch += 1;
        self.keep_stale(stale);
        if let Some(withheld) = self.withheld.get_mut(&id) {
            withheld.message = again.message;
            withheld.undecided &= again.undecided;
            self.release();
        } else if self.buffer.insert(id, again.message).is_none() {
            // It was in hand.
            self.in_hand = self.in_hand.saturating_sub(1);
        }
    }

    /// Keeps the handle of a delivery that is superseded: dropped, it would tell the service to hand the message out again.
    pub(super) fn keep_stale(&mut self, handler: Handler) {
        if self.stale.len() >= MOST_STALE {
            self.stale.pop_front();
        }
        self.stale.push_back(handler);
    }

    /// The delivery of a token, where that is the one of now.
    pub(super) fn of(&self, token: Token) -> Option<&Held> {
        self.held.get(&token.id).filter(|held| held.epoch == token.epoch)
    }

    pub(super) fn tell(&mut self, held: Held) {
        self.ids.remove(&(held.source, held.message));
        self.told += 1;
        self.unconfirmed.insert(self.told);
        self.acks.push((self.told, held.handler));
    }

    /// Settles `held`, and what was parked behind it; or parks it behind an earlier message of its key.
    pub(super) fn settle(&mut self, id: u64, held: Held) {
        if held.key.is_empty() {
            return self.tell(held);
        }
        let key = (held.source, held.key.clone());
        self.parked.insert(id, held);
        while let Some(first) = self.keys.get(&key).and_then(|ids| ids.first().copied()) {
            let Some(held) = self.parked.remove(&first) else { return };
            self.leaves_key(held.source, &held.key, first);
            self.tell(held);
        }
    }
}

//! What a member holds, and the order of its settlements.

use std::collections::hash_map::Entry;
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
    /// To be told.
    pub(super) acks: Vec<Ack>,
    /// Keys of which settlements are to be confirmed.
    pub(super) confirming: HashMap<Key, Confirming>,
    pub(super) unconfirmed: BTreeSet<u64>,
    pub(super) told: u64,
    pub(super) lost: u64,
    pub(super) failure: Option<TransportError>,
    pub(super) over: bool,
}

/// A key of one of those that read, by one of its connections.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct Key {
    source: usize,
    connection: u64,
    key: String,
}

/// A settlement that the service is to be told.
pub(super) struct Ack {
    pub(super) number: u64,
    /// Of one that the service confirms.
    pub(super) key: Option<Key>,
    pub(super) handler: Handler,
}

/// The settlements of a key on which the service's word is awaited, and those that wait for it. One that reached the service
/// before an earlier one would be refused for now, as would everything behind it, and the client tries each again by itself, with
/// ever longer pauses: once begun, that never ends.
#[derive(Default)]
pub(super) struct Confirming {
    open: usize,
    /// Whether they are on their way, so that no other goes with them.
    on_way: bool,
    waiting: Vec<(u64, Handler)>,
}

pub(super) struct Held {
    pub(super) source: usize,
    /// By which of its connections it came: what falls silent has no say in what comes by the next one.
    pub(super) connection: u64,
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

/// A message that has come again.
pub(super) struct Again {
    pub(super) connection: u64,
    pub(super) withheld: Withheld,
    pub(super) count: u32,
    pub(super) handler: Handler,
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
    pub(super) fn supersede(&mut self, id: u64, again: Again) {
        let Again { connection, withheld, count, handler } = again;
        if let Some(parked) = self.parked.get_mut(&id) {
            parked.connection = connection;
            let stale = std::mem::replace(&mut parked.handler, handler);
            return self.keep_stale(stale);
        }
        let Some(held) = self.held.get_mut(&id) else { return };
        held.connection = connection;
        let stale = std::mem::replace(&mut held.handler, handler);
        held.count = count;
        held.epoch += 1;
        self.keep_stale(stale);
        if let Some(before) = self.withheld.get_mut(&id) {
            before.message = withheld.message;
            before.undecided &= withheld.undecided;
            self.release();
        } else if self.buffer.insert(id, withheld.message).is_none() {
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

    fn tell(&mut self, held: Held) {
        let Held { source, connection, message, key, handler, .. } = held;
        self.ids.remove(&(source, message));
        self.told += 1;
        let number = self.told;
        self.unconfirmed.insert(number);
        if key.is_empty() || !matches!(handler, Handler::ExactlyOnce(_)) {
            return self.acks.push(Ack { number, key: None, handler });
        }
        let key = Key { source, connection, key };
        let confirming = self.confirming.entry(key.clone()).or_default();
        if confirming.on_way {
            return confirming.waiting.push((number, handler));
        }
        confirming.open += 1;
        self.acks.push(Ack { number, key: Some(key), handler });
    }

    /// What the service is to be told now.
    pub(super) fn take_acks(&mut self) -> Vec<Ack> {
        let acks = std::mem::take(&mut self.acks);
        for key in acks.iter().filter_map(|ack| ack.key.as_ref()) {
            if let Some(confirming) = self.confirming.get_mut(key) {
                confirming.on_way = true;
            }
        }
        acks
    }

    /// The service's word on a settlement of `key` has come: after the last of them those go that waited for it.
    pub(super) fn heard(&mut self, key: Key) {
        let Entry::Occupied(mut entry) = self.confirming.entry(key) else { return };
        let confirming = entry.get_mut();
        confirming.open = confirming.open.saturating_sub(1);
        if confirming.open > 0 {
            return;
        }
        let waiting = std::mem::take(&mut confirming.waiting);
        if waiting.is_empty() {
            entry.remove();
            return;
        }
        (confirming.open, confirming.on_way) = (waiting.len(), false);
        let ack = |(number, handler)| Ack { number, key: Some(entry.key().clone()), handler };
        self.acks.extend(waiting.into_iter().map(ack));
    }

    /// The settlements, of `source` alone where there is one, that wait and will not be told any more.
    pub(super) fn give_up_waiting(&mut self, source: Option<usize>) -> Vec<(u64, Handler)> {
        let is_of = |key: &Key| source.is_none_or(|source| source == key.source);
        let of = self.confirming.iter_mut().filter(|(key, _)| is_of(key));
        of.flat_map(|(_, confirming)| std::mem::take(&mut confirming.waiting)).collect()
    }

    /// The same of a source whose connection takes no settlements any more; their messages come again. Answers how many.
    pub(super) fn lose_waiting(&mut self, source: usize) -> u64 {
        let settled = self.give_up_waiting(Some(source));
        let lost = settled.len() as u64;
        self.lost += lost;
        for (number, handler) in settled {
            self.unconfirmed.remove(&number);
            self.keep_stale(handler);
        }
        lost
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

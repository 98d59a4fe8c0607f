//! From the queues at the client to the member, while there is room.

use std::collections::BTreeSet;
use std::ops::Bound::{Excluded, Unbounded};
use std::time::Duration;

use msgkit::Timestamp;

use super::deciding::{MOST, MOST_BYTES};
use super::watching::Quiet;
use super::{Driver, Held, Source};
use crate::look;
use crate::subscriber::member::{Arrived, What};

/// How many messages of one partition are taken before the next one has its turn.
const TURN: usize = 64;

impl Driver {
    /// Takes messages from the queues while there is room; how many.
    pub(super) fn fetch(&mut self) -> usize {
        let mut room = self.member.room();
        if room == 0 || self.held.is_empty() || self.has_many_undecided() {
            self.held.values_mut().for_each(|held| held.quiet.not_asked());
            return 0;
        }
        let full = self.member.full();
        // One look at the clock for all that come now.
        let now = self.cluster.clock.now();
        let (mut arrived, mut told) = (Vec::new(), Vec::new());
        // Those of which there was nothing to take.
        let mut empty = BTreeSet::new();
        let (mut undecided, mut bytes) = self.member.undecided();
        let mut more = true;
        // Where no more could be taken the last time: who stands first in a fixed order would take it all.
        let mut turn = std::mem::take(&mut self.turn);
        while more && room > 0 {
            more = false;
            let behind = self.held.range((Excluded(&turn), Unbounded)).chain(self.held.range(..=&turn));
            let mut ended = None;
            for (place, held) in behind.filter(|(_, held)| !full.contains(&held.epoch)) {
                for _ in 0..TURN.min(room) {
                    if undecided >= MOST || bytes >= MOST_BYTES {
                        break;
                    }
                    match held.queue.poll(Duration::ZERO) {
                        Some(Ok(message)) => {
                            let one = self.arrived(held, &message, now);
                            match &one.what {
                                What::Ours(_) => room -= 1,
                                What::Undecided(_, size) => {
                                    undecided += 1;
                                    bytes += size;
                                }
                                What::Foreign => {}
                            }
                            arrived.push(one);
                            more = true;
                        }
                        Some(Err(error)) => told.push((error, place.0.clone())),
                        None => {
                            empty.insert(held.epoch);
                            break;
                        }
                    }
                }
                let decide_first = undecided >= MOST || bytes >= MOST_BYTES;
                if room == 0 || decide_first {
                    more &= !decide_first;
                    ended = Some(place.clone());
                    break;
                }
            }
            turn = ended.unwrap_or(turn);
            // What is none of ours takes no room, and must not keep the thread here.
            more &= arrived.len() < TURN * 64;
        }
        self.turn = turn;
        let count = arrived.len();
        tracing::trace!(count, room, "messages came");
        for (error, topic) in told {
            // The client says it here and nowhere else, and only once.
            self.hear_of(error, topic);
        }
        let heard: BTreeSet<u64> = arrived.iter().map(|one| one.epoch).collect();
        for held in self.held.values_mut() {
            if heard.contains(&held.epoch) {
                held.quiet = Quiet::new();
            } else if room == 0 || !empty.contains(&held.epoch) {
                // Full, or behind those that took it all.
                held.quiet.not_asked();
            }
        }
        self.take_in(arrived.into_iter());
        count
    }

    /// Gives messages to the member, and follows where one of its partitions is another now.
    pub(super) fn take_in(&mut self, arrived: impl Iterator<Item = Arrived>) {
        let renewed = self.member.arrived(arrived);
        for held in self.held.values_mut().filter(|_| !renewed.is_empty()) {
            held.epoch = renewed.get(&held.epoch).copied().unwrap_or(held.epoch);
        }
    }

    pub(super) fn arrived<M: rdkafka::Message>(&self, held: &Held, message: &M, now: Timestamp) -> Arrived {
        held.newest.set(held.newest.get().max(message.timestamp().to_millis()));
        let record = look::read(message, &held.implied, &self.subscription.ingest, now);
        let what = match self.source {
            Source::Step(_) => What::Ours(record.message),
            _ if record.is_for(&self.patterns) => What::Ours(record.message),
            Source::Group(_) => What::Undecided(record, message.payload().map_or(0, <[u8]>::len)),
            Source::Alone => What::Foreign,
        };
        Arrived { epoch: held.epoch, offset: u64::try_from(message.offset()).unwrap_or(0), what }
    }
}

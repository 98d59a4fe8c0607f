//! From the queues at the client to the member, while there is room.

use std::time::Duration;

use msgkit::Timestamp;

use super::{Driver, Held, Source};
use crate::look;
use crate::subscriber::member::Arrived;

/// How many messages of one partition are taken before the next one has its turn.
const TURN: usize = 64;

impl Driver {
    /// Takes messages from the queues while there is room; how many.
    pub(super) fn fetch(&mut self) -> usize {
        let mut room = self.member.room();
        if room == 0 || self.held.is_empty() {
            return 0;
        }
        let full = self.member.full();
        // One look at the clock for all that come now.
        let now = self.cluster.clock.now();
        let mut arrived = Vec::new();
        let mut more = true;
        while more && room > 0 {
            more = false;
            for held in self.held.values().filter(|held| !full.contains(&held.epoch)) {
                for _ in 0..TURN.min(room) {
                    match held.queue.poll(Duration::ZERO) {
                        Some(Ok(message)) => {
                            let one = self.arrived(held, &message, now);
                            room -= usize::from(one.message.is_some());
                            arrived.push(one);
                            more = true;
                        }
                        Some(Err(error)) => tracing::debug!(%error, "a Kafka partition tells"),
                        None => break,
                    }
                }
            }
            // What is none of ours takes no room, and must not keep the thread here.
            more &= arrived.len() < TURN * 64;
        }
        let count = arrived.len();
        tracing::trace!(count, room, "messages came");
        self.member.arrived(arrived.into_iter());
        count
    }

    pub(super) fn arrived<M: rdkafka::Message>(&self, held: &Held, message: &M, now: Timestamp) -> Arrived {
        let record = look::read(message, &held.implied, &self.subscription.ingest, now);
        let ours = matches!(self.source, Source::Step(_)) || record.is_for(&self.subscription.patterns);
        Arrived {
            epoch: held.epoch,
            offset: u64::try_from(message.offset()).unwrap_or(0),
            message: ours.then_some(record.message),
        }
    }
}

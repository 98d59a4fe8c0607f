//! Partitions that come, each where it was left, and go, each when its handlers have finished.

use std::time::{Duration, Instant};

use msgkit::transport::TransportError;
use rdkafka::consumer::Consumer as _;
use rdkafka::{Offset, TopicPartitionList};

use super::beginning::HANDED_OVER;
use super::settling::lost_settlements;
use super::watching::Quiet;
use super::{AGAIN, Driver, Going, Held, Source};
use crate::cluster::ASK;
use crate::error;
use crate::look;
use crate::starts::Starts;
use crate::subscriber::member::Begin;

/// How long it may take until the ends of partitions are known that have no leader, or one that has just begun.
const CATCH_UP: Duration = Duration::from_secs(2);
/// What one question has in any case.
const LEAST: Duration = Duration::from_millis(250);

impl Driver {
    /// Begins with the partitions that were assigned, where each of them was left.
    pub(super) fn begin_coming(&mut self) {
        if self.coming.is_empty() || self.coming_again.is_some_and(|at| at > Instant::now()) {
            return;
        }
        while let Some(partitions) = self.coming.first() {
            match self.begin(&partitions.clone()) {
                Ok(()) => {
                    self.coming.remove(0);
                    self.coming_again = None;
                    let none = self.held.is_empty();
                    self.ready_by =
                        if none { self.ready_by.min(Instant::now() + HANDED_OVER) } else { Instant::now() };
                }
                Err(error) => {
                    tracing::debug!(error = %msgkit::Chain(&error), "partitions cannot be begun yet");
                    self.coming_again = Some(Instant::now() + AGAIN);
                    return;
                }
            }
        }
    }

    pub(super) fn begin(&mut self, partitions: &TopicPartitionList) -> Result<(), TransportError> {
        tracing::debug!(?partitions, "partitions are assigned");
        let mut places = Vec::new();
        if partitions.count() > 0 {
            let committed = look::patiently(|| self.client.committed_offsets(partitions.clone(), ASK))
                .map_err(|error| error::of(error, "asking for committed offsets"))?;
            // One time for all: a topic that was made again may have many partitions.
            let until = Instant::now() + CATCH_UP;
            for one in committed.elements() {
                one.error().map_err(|error| error::of(error, "asking for committed offsets"))?;
                let (topic, number) = (one.topic().to_owned(), one.partition());
                let place = match one.offset() {
                    Offset::Offset(offset) => {
                        // Somebody else's metadata may be anything, which makes the client panic.
                        let text = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
                            one.metadata().to_owned()
                        }));
                        match self.still_there(&topic, number, offset, until) {
                            begin @ Begin { again: true, .. } => (begin, Starts::default()),
                            begin => (begin, Starts::read(&text.unwrap_or_default(), begin.offset)),
                        }
                    }
                    _ => (self.first_of(&topic, number, until), Starts::default()),
                };
                places.push((topic, number, place));
            }
        }
        let mut begun = TopicPartitionList::new();
        let mut held = Vec::new();
        for (topic, number, (begin, before)) in places {
            let offset = Offset::Offset(i64::try_from(begin.offset).unwrap_or(i64::MAX));
            begun
                .add_partition_offset(&topic, number, offset)
                .map_err(|error| error::of(error, "beginning a partition"))?;
            // Set apart before it begins, so that nothing of it comes by the common queue.
            let Some(mut queue) = self.client.split_partition_queue(&topic, number) else {
                return Err(error::broke_off("setting a partition's queue apart"));
            };
            let signal = self.member.signal.clone();
            queue.set_nonempty_callback(move || signal.ring());
            held.push((topic, number, begin, before, queue));
        }
        self.client.incremental_assign(&begun).map_err(|error| error::of(error, "taking partitions"))?;
        let free = matches!(self.source, Source::Alone);
        for (topic, number, begin, before, queue) in held {
            let epoch = self.member.assigned(&topic, number, begin, before, free);
            let implied = self.cluster.names.implied(&topic);
            let (quiet, newest) = (Quiet::new(), Default::default());
            self.held.insert((topic, number), Held { epoch, implied, queue, quiet, newest });
        }
        Ok(())
    }

    /// Where a partition begins of which the group has committed nothing.
    fn first_of(&self, topic: &str, number: i32, until: Instant) -> Begin {
        let declared = match (&self.source, &self.subscription.group) {
            (Source::Group(_), Some(group)) => self.cluster.declared_start(group, topic, number),
            _ => None,
        };
        match declared {
            Some(offset) => self.still_there(topic, number, offset, until),
            None => {
                // The client goes on with the first record by itself where that is behind the offset.
                let first = self.ends_of(topic, number, until).map_or(0, |(first, _)| first);
                Begin { offset: u64::try_from(first).unwrap_or(0), again: false }
            }
        }
    }

    /// Where to go on from an offset that was written down: there, or, where the log ends before it, with the first
    /// record. Then the topic was made again or its log cut off, and what is there now was never seen. Where nobody can tell, the
    /// client finds out when it fetches, and [`take_in`](Self::take_in) sees it go back.
    fn still_there(&self, topic: &str, number: i32, offset: i64, until: Instant) -> Begin {
        loop {
            let Some((first, end)) = self.ends_of(topic, number, until).filter(|(_, end)| offset > *end)
            else {
                return Begin { offset: u64::try_from(offset).unwrap_or(0), again: false };
            };
            // A broker that has just begun to lead may not know yet how far the log goes.
            if Instant::now() < until {
                std::thread::sleep(AGAIN);
                continue;
            }
            tracing::warn!(
                topic,
                partition = number,
                offset,
                end,
                first,
                "a Kafka partition ends before the offset at which the group goes on: its topic was made again, or its log was \
                 cut off; it is read from its first record"
            );
            return Begin { offset: u64::try_from(first).unwrap_or(0), again: true };
        }
    }

    /// The first offset and the one behind the last; `None` where nobody can tell.
    fn ends_of(&self, topic: &str, number: i32, until: Instant) -> Option<(i64, i64)> {
        let left = || until.saturating_duration_since(Instant::now()).max(LEAST);
        let told = look::patiently_until(until, || self.client.fetch_watermarks(topic, number, left()));
        told.inspect_err(
            |error| tracing::debug!(topic, number, %error, "the ends of a partition are not known"),
        )
        .ok()
    }

    pub(super) fn revoked(&mut self, partitions: TopicPartitionList, lost: bool) {
        tracing::debug!(?partitions, lost, "partitions are revoked");
        // What has not been begun needs no goodbye.
        let keys: Vec<(String, i32)> =
            partitions.elements().iter().map(|one| (one.topic().to_owned(), one.partition())).collect();
        let epochs: Vec<u64> =
            keys.iter().filter_map(|key| self.held.get(key)).map(|held| held.epoch).collect();
        self.coming.clear();
        if let Some(going) = self.going.take() {
            // One at a time; the client asks for the next when it has this.
            self.give(&going.partitions, &going.epochs, lost);
        }
        if lost {
            self.give(&partitions, &epochs, true);
            return;
        }
        self.member.begin_to_leave(&epochs);
        let until = Instant::now() + self.cluster.config.revoke_grace;
        self.going = Some(Going { partitions, epochs, until });
    }

    /// Gives partitions away once their handlers have finished, or had their time.
    pub(super) fn give_going(&mut self) {
        let Some(going) = &self.going else { return };
        let lost = self.client.assignment_lost();
        let working = Instant::now() < going.until && !self.member.are_settled(&going.epochs);
        // A commit that is on its way must not come behind the last one.
        if !lost && (working || self.on_its_way.is_some()) {
            return;
        }
        if let Some(Going { partitions, epochs, .. }) = self.going.take() {
            self.give(&partitions, &epochs, lost);
        }
    }

    pub(super) fn give(&mut self, partitions: &TopicPartitionList, epochs: &[u64], lost: bool) {
        if !lost {
            self.last_commit(Some(epochs));
        }
        let behind = self.member.lost(epochs);
        self.held.retain(|_, held| !epochs.contains(&held.epoch));
        if let Err(error) = self.client.incremental_unassign(partitions) {
            tracing::debug!(%error, "the Kafka client refused to give partitions away");
        }
        if behind {
            let flushes = self.flushes.drain(..);
            let flushes = flushes.chain(self.on_its_way.iter_mut().flat_map(|one| one.flushes.drain(..)));
            for (flush, _) in flushes {
                let _ = flush.send(Err(lost_settlements()));
            }
        }
    }
}

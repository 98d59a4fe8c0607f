//! Partitions of which nothing comes although there is something. The client stops reading one, without a word, whose topic
//! was made again after it had changed its leader: what it hears of the new one it takes for older than what it knows.
//! Nothing that can be done to that client helps; a new one reads on.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use msgkit::transport::{TransportError, TransportErrorKind};
use rdkafka::consumer::Consumer as _;
use rdkafka::{Offset, TopicPartitionList};

use super::{Driver, Held};
use crate::cluster::Cluster;
use crate::look::{Look, Span};

/// After how long without a message a partition is looked at, and then again.
const QUIET: Duration = Duration::from_secs(10);
/// How long the brokers may take to tell where partitions end: the thread waits for it.
const ASK: Duration = Duration::from_secs(1);

/// What is known of a partition that may be silent.
pub(super) struct Quiet {
    /// When something came last, or there was no room for it.
    since: Instant,
    /// It has been seen to end elsewhere than where this member goes on.
    suspect: bool,
    /// The end before which nothing is to come: what lies there was compacted away, or marks a transaction.
    nothing_to: Option<u64>,
}

impl Quiet {
    pub(super) fn new() -> Self {
        Self { since: Instant::now(), suspect: false, nothing_to: None }
    }
}

impl Driver {
    /// Fails the subscription where another client reads records that, over two looks, have not come.
    pub(super) fn watch(&mut self) {
        let now = Instant::now();
        if self.watched + QUIET > now {
            return;
        }
        self.watched = now;
        let ends = self.ends_of_quiet(now).unwrap_or_else(|error| {
            tracing::debug!(error = %msgkit::Chain(&error), "the ends of quiet partitions are not known");
            BTreeMap::new()
        });
        for ((topic, number), held) in &mut self.held {
            let end = ends.get(&(topic.clone(), *number)).copied();
            let next = self.member.next(held.epoch);
            let (Some(end), Some(next)) = (end.filter(|_| end != next && end != held.quiet.nothing_to), next)
            else {
                held.quiet.suspect = false;
                continue;
            };
            if !std::mem::replace(&mut held.quiet.suspect, true) {
                continue;
            }
            match self.cluster.has_record(topic, *number, next, end) {
                Ok(true) => self.member.fail(TransportError::new(
                    TransportErrorKind::Internal,
                    format!(
                        "the Kafka client reads nothing of `{topic}` {number} any more, which ends at {end}, not at \
                         {next}; its topic may have been made again"
                    ),
                )),
                Ok(false) => held.quiet.nothing_to = Some(end),
                Err(error) => tracing::debug!(error = %msgkit::Chain(&error), "a quiet partition cannot be read"),
            }
        }
    }

    /// Where the partitions end of which nothing came for a while.
    fn ends_of_quiet(&self, now: Instant) -> Result<BTreeMap<(String, i32), u64>, TransportError> {
        let is_quiet = |held: &Held| held.quiet.since + QUIET <= now;
        let mut wanted = TopicPartitionList::new();
        for ((topic, number), _) in self.held.iter().filter(|(_, held)| is_quiet(held)) {
            // In the place of a time that asks for the end.
            wanted
                .add_partition_offset(topic, *number, Offset::End)
                .map_err(|error| crate::error::of(error, "asking for the ends of partitions"))?;
        }
        if wanted.count() == 0 {
            return Ok(BTreeMap::new());
        }
        let told = self
            .cluster
            .asker()?
            .offsets_for_times(wanted, ASK)
            .map_err(|error| crate::error::of(error, "asking for the ends of partitions"))?;
        let end = |offset| match offset {
            Offset::Offset(offset) => u64::try_from(offset).ok(),
            _ => None,
        };
        let told = told.elements();
        let told = told.iter().filter(|one| one.error().is_ok());
        Ok(told
            .filter_map(|one| Some(((one.topic().to_owned(), one.partition()), end(one.offset())?)))
            .collect())
    }
}

impl Cluster {
    /// Whether a client of its own reads a record there: from `next` on, or, where the log ends before that, from its first.
    fn has_record(&self, topic: &str, partition: i32, next: u64, end: u64) -> Result<bool, TransportError> {
        let from = if next < end {
            i64::try_from(next).unwrap_or(i64::MAX)
        } else {
            self.watermarks(topic, partition)?.0
        };
        let to = i64::try_from(end).unwrap_or(i64::MAX);
        let mut look = Look::begin(self, &[Span { topic: topic.to_owned(), partition, from, to }])?;
        Ok(look.next()?.is_some())
    }
}

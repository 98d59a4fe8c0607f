//! Partitions of which nothing comes although there is something. The client stops reading one, without a word, whose topic
//! was made again after it had changed its leader: what it hears of the new one it takes for older than what it knows.
//! Nothing that can be done to that client helps; a new one reads on.
//!
//! A member that reads well must never fail for this: only a partition counts whose queue was found empty each time, and only
//! a record that another client has read, and that this member has not got until then.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::mpsc::{self, Receiver, TryRecvError};
use std::time::{Duration, Instant};

use msgkit::transport::{TransportError, TransportErrorKind};
use rdkafka::consumer::Consumer as _;
use rdkafka::message::Message as _;
use rdkafka::{Offset, TopicPartitionList};

use super::{Driver, Held};
use crate::cluster::Cluster;
use crate::look::{Look, Span};

/// After how long without a message a partition is looked at, and then again.
const QUIET: Duration = Duration::from_secs(10);
/// How long the brokers may take to tell where partitions end: the subscription's thread waits for it.
const ASK: Duration = Duration::from_secs(1);

/// What is known of a partition that may be silent.
pub(super) struct Quiet {
    /// When something came last, or it was not waited for.
    since: Instant,
    /// It has been seen to end elsewhere than where this member goes on.
    suspect: bool,
    /// The end before which nothing is to come: what lies there was compacted away, or marks a transaction.
    nothing_to: Option<u64>,
    /// Where it was seen to end, before the offset at which this member goes on.
    cut_at: Option<u64>,
}

/// Where another client begins to read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum From {
    Offset(u64),
    /// With the first record that is younger than that, in milliseconds.
    YoungerThan(i64),
}

impl Quiet {
    pub(super) fn new() -> Self {
        Self { since: Instant::now(), suspect: false, nothing_to: None, cut_at: None }
    }

    /// It was not waited for: what was seen of its log holds all the same.
    pub(super) fn not_asked(&mut self) {
        self.since = Instant::now();
        self.suspect = false;
    }

    /// What is to be read, over two looks, of a partition that ends at `end` while this member goes on at `next`; `newest` is
    /// the time of the youngest record that came.
    fn question(&mut self, next: u64, end: u64, newest: Option<i64>) -> Option<From> {
        if end == next || self.nothing_to == Some(end) {
            self.suspect = false;
            return None;
        }
        if end < next {
            self.cut_at = Some(self.cut_at.map_or(end, |at| at.min(end)));
        }
        if !std::mem::replace(&mut self.suspect, true) {
            return None;
        }
        match self.cut_at {
            _ if end > next => Some(From::Offset(next)),
            // What is left of a log that was cut off has come already; what follows it has not.
            Some(at) if end > at => Some(From::Offset(at)),
            // Nor has what is younger than all that came: then its topic was made again.
            _ => newest.map(From::YoungerThan),
        }
    }
}

/// What is asked of a quiet partition.
#[derive(Debug, Clone, Copy)]
struct Question {
    number: i32,
    epoch: u64,
    next: u64,
    end: u64,
    from: From,
}

/// Of one topic: what was asked, and which of the partitions holds something.
type Answer = (String, Vec<Question>, Result<Option<i32>, TransportError>);

/// Another client that reads, in a thread of its own: this subscription's has rebalances to serve.
pub(super) struct Looking {
    answers: Receiver<Answer>,
}

impl Looking {
    /// Nobody waits for the thread's end: it has no part in what the subscription does, and ends with the question at which
    /// nobody hears it any more.
    fn begin(cluster: Arc<Cluster>, questions: BTreeMap<String, Vec<Question>>) -> std::io::Result<Self> {
        let (told, answers) = mpsc::channel();
        std::thread::Builder::new().name("msgkit-kafka-look".to_owned()).spawn(move || {
            // The end of a partition tells its number and not its topic, so each topic is read by itself.
            for (topic, asked) in questions {
                let found = cluster.with_record(&topic, &asked);
                let stop = cluster.is_closed() || matches!(found, Ok(Some(_)));
                if told.send((topic, asked, found)).is_err() || stop {
                    return;
                }
            }
        })?;
        Ok(Self { answers })
    }
}

impl Driver {
    /// Fails the subscription where another client reads records that, over two looks, have not come.
    pub(super) fn watch(&mut self) {
        self.hear_look();
        let now = Instant::now();
        if self.looking.is_some() || self.watched + QUIET > now {
            return;
        }
        self.watched = now;
        let ends = self.ends_of_quiet(now).unwrap_or_else(|error| {
            tracing::debug!(error = %msgkit::Chain(&error), "the ends of quiet partitions are not known");
            BTreeMap::new()
        });
        let mut questions: BTreeMap<String, Vec<Question>> = BTreeMap::new();
        for (place, held) in &mut self.held {
            let (Some(end), Some(next)) = (ends.get(place).copied(), self.member.next(held.epoch)) else {
                held.quiet.suspect = false;
                continue;
            };
            if let Some(from) = held.quiet.question(next, end, held.newest.get()) {
                let (topic, number) = place.clone();
                let question = Question { number, epoch: held.epoch, next, end, from };
                questions.entry(topic).or_default().push(question);
            }
        }
        if questions.is_empty() {
            return;
        }
        match Looking::begin(self.cluster.clone(), questions) {
            Ok(looking) => self.looking = Some(looking),
            Err(error) => tracing::debug!(%error, "no thread can be started to look at quiet partitions"),
        }
    }

    /// Takes what the other client has found.
    fn hear_look(&mut self) {
        let Some(looking) = self.looking.take() else { return };
        loop {
            match looking.answers.try_recv() {
                Ok((topic, asked, Ok(found))) => self.judge(&topic, &asked, found),
                Ok((topic, _, Err(error))) => {
                    tracing::debug!(topic, error = %msgkit::Chain(&error), "quiet partitions cannot be read");
                }
                Err(TryRecvError::Empty) => {
                    self.looking = Some(looking);
                    return;
                }
                Err(TryRecvError::Disconnected) => return,
            }
        }
    }

    fn judge(&mut self, topic: &str, asked: &[Question], found: Option<i32>) {
        for one in asked {
            let Some(held) = self.held.get_mut(&(topic.to_owned(), one.number)) else { continue };
            // What has come meanwhile, or has another owner, is not silent.
            if held.epoch != one.epoch || self.member.next(one.epoch) != Some(one.next) {
                continue;
            }
            match found {
                None => held.quiet.nothing_to = Some(one.end),
                Some(number) if number == one.number && held.quiet.suspect => {
                    self.member.fail(TransportError::new(
                        TransportErrorKind::Internal,
                        format!(
                            "the Kafka client reads nothing of `{topic}` {number} any more, which ends at {}, not at {}; its \
                             topic may have been made again",
                            one.end, one.next
                        ),
                    ));
                }
                Some(_) => {}
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
        self.cluster.offsets_of(wanted, ASK)
    }
}

impl Cluster {
    /// The offsets of times, as far as they are known. Blocks.
    fn offsets_of(
        &self,
        times: TopicPartitionList,
        patience: Duration,
    ) -> Result<BTreeMap<(String, i32), u64>, TransportError> {
        if times.count() == 0 {
            return Ok(BTreeMap::new());
        }
        let told = self
            .asker()?
            .offsets_for_times(times, patience)
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

    /// One of the partitions of which a client of its own reads a record; `None` where each was read to its end. Blocks.
    fn with_record(&self, topic: &str, asked: &[Question]) -> Result<Option<i32>, TransportError> {
        let mut younger = TopicPartitionList::new();
        for one in asked {
            if let From::YoungerThan(time) = one.from {
                younger
                    .add_partition_offset(topic, one.number, Offset::Offset(time.saturating_add(1)))
                    .map_err(|error| crate::error::of(error, "asking for younger records"))?;
            }
        }
        let younger = self.offsets_of(younger, crate::cluster::ASK)?;
        let span = |one: &Question| {
            let from = match one.from {
                From::Offset(from) => from,
                From::YoungerThan(_) => *younger.get(&(topic.to_owned(), one.number))?,
            };
            let at = |offset| i64::try_from(offset).unwrap_or(i64::MAX);
            let (topic, partition) = (topic.to_owned(), one.number);
            Some(Span { topic, partition, from: at(from), to: at(one.end) })
        };
        let spans: Vec<Span> = asked.iter().filter_map(span).collect();
        if spans.is_empty() {
            return Ok(None);
        }
        Ok(Look::begin(self, &spans)?.next()?.map(|record| record.partition()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What is asked at each of some looks between which nothing came.
    fn asked(next: u64, ends: &[u64], newest: Option<i64>) -> Vec<Option<From>> {
        let mut quiet = Quiet::new();
        ends.iter().map(|end| quiet.question(next, *end, newest)).collect()
    }

    #[test]
    fn what_lies_behind_is_asked_for_at_the_second_look() {
        assert_eq!(asked(10, &[20, 20], None), [None, Some(From::Offset(10))]);
        assert_eq!(asked(10, &[10, 20, 10, 20], None), [None; 4]);
    }

    /// Its records have come before it was cut off, and who begins anew would get all of them again.
    #[test]
    fn what_is_left_of_a_log_that_was_cut_off_is_not_missing() {
        assert_eq!(asked(100, &[50, 50, 50], None), [None; 3]);
        let younger = Some(From::YoungerThan(7));
        assert_eq!(asked(100, &[50, 50], Some(7)), [None, younger], "only what is younger is");
        assert_eq!(asked(100, &[50, 60], Some(7)), [None, Some(From::Offset(50))], "or what follows");
        assert_eq!(asked(100, &[50, 120], None), [None, Some(From::Offset(100))]);
    }

    /// A mark of a transaction lies there: a busy moment is no reason to read it again.
    #[test]
    fn what_was_read_in_vain_is_not_read_again() {
        let mut quiet = Quiet::new();
        quiet.nothing_to = Some(11);
        quiet.not_asked();
        assert_eq!([quiet.question(10, 11, None), quiet.question(10, 11, None)], [None; 2]);
        assert_eq!(quiet.question(10, 12, None), None);
        assert_eq!(quiet.question(10, 12, None), Some(From::Offset(10)));
    }
}

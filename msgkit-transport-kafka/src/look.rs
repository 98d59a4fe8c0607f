//! Reading without consuming: spans of partitions from an offset up to another, by a client that is no group's member.

use std::time::{Duration, Instant};

use msgkit::Pattern;
use msgkit::envelope::ingest::Ingest;
use msgkit::transport::{Incoming, Start, TransportError, TransportErrorKind};
use rdkafka::consumer::{BaseConsumer, Consumer as _};
use rdkafka::error::{KafkaError, KafkaResult, RDKafkaErrorCode};
use rdkafka::message::{Message as _, OwnedMessage};
use rdkafka::{Offset, TopicPartitionList};

use crate::client::Listening;
use crate::cluster::{ASK, Cluster};
use crate::error;
use crate::names::{Implied, Names};
use crate::threads::nobody_waits;
use crate::wire::{self, Named, Position, Raw};

/// How long the next record may take.
const PATIENCE: Duration = Duration::from_secs(10);

/// A part of a partition: `from..to`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Span {
    pub(crate) topic: String,
    pub(crate) partition: i32,
    pub(crate) from: i64,
    pub(crate) to: i64,
}

/// A reading of several spans; within each the records come in order.
pub(crate) struct Look {
    consumer: BaseConsumer<Listening>,
    open: Vec<Span>,
}

impl Look {
    /// Begins to read `spans`; empty ones are left out.
    pub(crate) fn begin(cluster: &Cluster, spans: &[Span]) -> Result<Self, TransportError> {
        let consumer = cluster.looker()?;
        let open: Vec<Span> = spans.iter().filter(|span| span.from < span.to).cloned().collect();
        let mut wanted = TopicPartitionList::new();
        for span in &open {
            wanted
                .add_partition_offset(&span.topic, span.partition, Offset::Offset(span.from))
                .map_err(|error| error::of(error, "looking into a Kafka topic"))?;
        }
        consumer.assign(&wanted).map_err(|error| error::of(error, "looking into a Kafka topic"))?;
        Ok(Self { consumer, open })
    }

    /// The next record; `None` = all spans were read.
    pub(crate) fn next(&mut self) -> Result<Option<OwnedMessage>, TransportError> {
        let until = Instant::now() + PATIENCE;
        while !self.open.is_empty() {
            if nobody_waits() {
                return Err(error::broke_off("looking into a Kafka topic"));
            }
            if Instant::now() >= until {
                return Err(TransportError::new(
                    TransportErrorKind::Timeout,
                    format!("the Kafka brokers gave nothing for {PATIENCE:?} of a topic that holds records"),
                ));
            }
            match self.consumer.poll(Duration::from_millis(100)) {
                None => {}
                Some(Ok(message)) => {
                    let (topic, partition, offset) = (message.topic(), message.partition(), message.offset());
                    let is_it = |span: &Span| span.topic == topic && span.partition == partition;
                    let Some(at) = self.open.iter().position(is_it) else { continue };
                    let within = offset < self.open[at].to;
                    let message = message.detach();
                    if offset + 1 >= self.open[at].to {
                        self.open.remove(at);
                    }
                    if within {
                        return Ok(Some(message));
                    }
                }
                // What lies at the end was compacted away, or is a mark of a transaction.
                Some(Err(KafkaError::PartitionEOF(partition))) => {
                    let ended = self.ended(partition);
                    self.open.retain(|span| !ended.contains(span));
                }
                Some(Err(error)) if error::of(error.clone(), "").is_temporary() => {}
                Some(Err(error)) => return Err(error::of(error, "looking into a Kafka topic")),
            }
        }
        Ok(None)
    }

    /// The spans of `partition` that were read to their end: an end tells no topic, the position does.
    fn ended(&self, partition: i32) -> Vec<Span> {
        let position = self.consumer.position().ok();
        self.open
            .iter()
            .filter(|span| span.partition == partition)
            .filter(|span| {
                let here = position.as_ref().and_then(|all| all.find_partition(&span.topic, partition));
                // Of a span of which nothing came at all the client has no position.
                let alone = self.open.iter().filter(|other| other.partition == partition).count() == 1;
                here.is_some_and(|here| matches!(here.offset(), Offset::Offset(at) if at >= span.to)) || alone
            })
            .cloned()
            .collect()
    }
}

/// Asks again while a partition has no leader, as it is for a moment after its topic was created or a broker left. Blocks.
pub(crate) fn patiently<T>(ask: impl FnMut() -> KafkaResult<T>) -> KafkaResult<T> {
    patiently_until(Instant::now() + ASK, ask)
}

pub(crate) fn patiently_until<T>(until: Instant, mut ask: impl FnMut() -> KafkaResult<T>) -> KafkaResult<T> {
    loop {
        match ask() {
            Err(error) if Instant::now() < until && is_leaderless(&error) => {
                std::thread::sleep(Duration::from_millis(20));
            }
            other => return other,
        }
    }
}

fn is_leaderless(error: &KafkaError) -> bool {
    use RDKafkaErrorCode as Code;
    matches!(
        error.rdkafka_error_code(),
        Some(
            Code::NotLeaderForPartition
                | Code::LeaderNotAvailable
                | Code::UnknownTopicOrPartition
                | Code::UnknownPartition
                | Code::CoordinatorNotAvailable
                | Code::CoordinatorLoadInProgress
                | Code::NotCoordinator
        )
    )
}

impl Cluster {
    /// The offsets of the first record and behind the last. Blocks.
    pub(crate) fn watermarks(&self, topic: &str, partition: i32) -> Result<(i64, i64), TransportError> {
        let asker = self.asker()?;
        patiently(|| asker.fetch_watermarks(topic, partition, ASK)).map_err(|error| {
            self.said.explain(error, &format!("asking for the end of `{topic}` {partition}"))
        })
    }

    /// The offset of `start` in a partition. Blocks.
    pub(crate) fn start_of(&self, topic: &str, partition: i32, start: Start) -> Result<i64, TransportError> {
        let (first, end) = self.watermarks(topic, partition)?;
        let at = match start {
            Start::Earliest => return Ok(first),
            Start::At(at) => at,
            _ => return Ok(end),
        };
        let doing = || format!("asking for the offset of a time in `{topic}` {partition}");
        let mut wanted = TopicPartitionList::new();
        wanted
            .add_partition_offset(topic, partition, Offset::Offset(at.as_millis().max(0)))
            .map_err(|error| error::of(error, &doing()))?;
        let asker = self.asker()?;
        let found = patiently(|| asker.offsets_for_times(wanted.clone(), ASK))
            .map_err(|error| self.said.explain(error, &doing()))?;
        match found.find_partition(topic, partition).map(|found| found.offset()) {
            Some(Offset::Offset(offset)) => Ok(offset),
            // Nothing is as young as that.
            _ => Ok(end),
        }
    }
}

/// A record that was read.
#[derive(Debug)]
pub(crate) struct Record {
    pub(crate) message: Incoming,
    /// Whether its topic is known: by its own word, or by the Kafka topic's name. What is malformed has said nothing.
    told: bool,
}

impl Record {
    /// Whether who takes `patterns` gets it. What tells no topic is for everybody who reads here: better seen than lost.
    pub(crate) fn is_for(&self, patterns: &[Pattern]) -> bool {
        !self.told || patterns.iter().any(|pattern| pattern.matches(self.message.topic()))
    }
}

/// Reads a record; `implied` is what its Kafka topic says of one that names no topic.
pub(crate) fn read<M: rdkafka::Message>(
    message: &M,
    implied: &Implied,
    ingest: &Ingest,
    now: msgkit::Timestamp,
) -> Record {
    let headers = wire::headers_of(message.headers());
    let (message, named) = wire::read(raw(message, &implied.topic, &headers), ingest, now);
    let told = message.envelope().is_some() && (named || implied.sure);
    Record { message, told }
}

/// Reads a dead letter, whose record's key is its place and not its message's.
pub(crate) fn read_letter<M: rdkafka::Message>(
    message: &M,
    names: &Names,
    now: msgkit::Timestamp,
) -> Incoming {
    let (implied, headers) = (names.topic(message.topic()), wire::headers_of(message.headers()));
    let raw = Raw { key: None, ..raw(message, &implied, &headers) };
    wire::read(raw, &Ingest::default(), now).0
}

fn raw<'a, M: rdkafka::Message>(
    message: &'a M,
    implied: &'a msgkit::Topic,
    headers: &'a [Named<'a>],
) -> Raw<'a> {
    let (topic, partition, offset) = (message.topic(), message.partition(), message.offset());
    let position = Position { topic, partition, offset };
    Raw { implied, position, key: message.key(), value: message.payload(), headers }
}

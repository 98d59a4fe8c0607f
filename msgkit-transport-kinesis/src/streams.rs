//! Calls of the service, each with its errors told apart: streams, shards, records.

use std::collections::BTreeSet;
use std::sync::PoisonError;
use std::time::Duration;

use aws_sdk_kinesis::primitives::DateTime;
use aws_sdk_kinesis::types::{Record, ShardIteratorType, StreamMode, StreamModeDetails, StreamStatus};
use msgkit::transport::{Destination, TransportError, TransportErrorKind};
use tokio::time::Instant;

use crate::config::KinesisConfig;
use crate::core::Core;
use crate::error::{self, Cause, Failure, invalid};
use crate::position::{Position, Sequence};

/// How long a stream may take to be made: on-demand ones take half a minute.
const MAKING: Duration = Duration::from_secs(180);
/// How far back a reader looks for the last record, and how much farther where the clocks differ.
const BACK: [i64; 3] = [5_000, 60_000, 600_000];

/// What the largest record of a stream may be, in KiB: at first, and at most.
const LEAST_KIB: i32 = 1 << 10;
const MOST_KIB: i32 = 10 << 10;

/// A shard of a stream.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Shard {
    pub(crate) id: String,
    pub(crate) parents: Vec<String>,
    /// Whether nothing more is written to it.
    pub(crate) closed: bool,
}

/// How a stream is made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Made {
    shards: u32,
    retention: Duration,
    /// The most bytes of a record.
    pub(crate) record: usize,
    /// Whether its records are copies, which are larger than what came and must have a place all the same.
    pub(crate) copies: bool,
}

impl Made {
    /// For topics of users.
    pub(crate) fn topic(config: &KinesisConfig) -> Self {
        let (shards, retention) = (config.shards, config.retention);
        Self { shards, retention, record: config.max_record_size, copies: false }
    }

    /// For copies that wait.
    pub(crate) fn retry(config: &KinesisConfig) -> Self {
        Self { shards: 1, retention: config.retention, record: config.max_copy(), copies: true }
    }

    /// For dead letters.
    pub(crate) fn letters(config: &KinesisConfig) -> Self {
        Self { retention: config.dead_letter_retention, ..Self::retry(config) }
    }

    pub(crate) fn of(to: &Destination, config: &KinesisConfig) -> Self {
        match to {
            Destination::Retry { .. } => Self::retry(config),
            Destination::DeadLetter(_) => Self::letters(config),
            _ => Self::topic(config),
        }
    }

    /// What the service is told of the record's size; `None` = it is what every stream takes.
    fn kib(self) -> Option<i32> {
        let kib = i32::try_from(self.record.div_ceil(1 << 10)).unwrap_or(MOST_KIB).min(MOST_KIB);
        (kib > LEAST_KIB).then_some(kib)
    }
}

/// What one read of a shard gave.
#[derive(Debug)]
pub(crate) struct Page {
    pub(crate) records: Vec<Record>,
    /// Where to go on; `None` = the shard is closed, and this was all.
    pub(crate) next: Option<String>,
    pub(crate) behind: i64,
}

impl Core {
    /// Runs `call` again, slower and slower, while the service says that it is too much.
    pub(crate) async fn patiently<T, F>(&self, mut call: impl FnMut() -> F) -> Result<T, Failure>
    where
        F: Future<Output = Result<T, Failure>>,
    {
        let mut wait = Duration::from_millis(50);
        let end = Instant::now() + self.config.publish_timeout;
        loop {
            match call().await {
                Err(failure) if failure.cause == Cause::Throttled && Instant::now() < end => {
                    self.open()?;
                    tokio::time::sleep(wait.mul_f64(0.5 + fastrand::f64())).await;
                    wait = (wait * 2).min(Duration::from_secs(2));
                }
                other => return other,
            }
        }
    }

    /// Sees to it that `stream` is there, made so where it is missing. Answers whether it was.
    pub(crate) async fn ensure(&self, stream: &str, wanted: Made) -> Result<bool, TransportError> {
        if self.streams.lock().unwrap_or_else(PoisonError::into_inner).contains(stream) {
            return Ok(false);
        }
        let mut made = false;
        match self.patiently(|| self.status(stream)).await {
            Ok(told) if is_usable(&told.0) => self.raise(stream, wanted, told.1).await,
            Ok(_) => self.made(stream).await?,
            Err(failure) if failure.cause == Cause::NotFound && self.config.create => {
                self.create(stream, wanted).await?;
                made = true;
            }
            Err(failure) if failure.cause == Cause::NotFound => {
                return Err(self.missing(stream, failure.error));
            }
            Err(failure) => return Err(failure.error),
        }
        self.streams.lock().unwrap_or_else(PoisonError::into_inner).insert(stream.to_owned());
        Ok(made)
    }

    fn missing(&self, stream: &str, error: TransportError) -> TransportError {
        invalid(format!(
            "stream `{stream}` does not exist in {}; create it, or set `create = true`",
            self.account.region()
        ))
        .with_source(error)
    }

    /// A stream that was known is not there any more.
    pub(crate) fn forget(&self, stream: &str) {
        self.streams.lock().unwrap_or_else(PoisonError::into_inner).remove(stream);
    }

    /// A stream of copies that an older configuration has made takes what all take, which may be less than a copy has.
    async fn raise(&self, stream: &str, wanted: Made, takes: Option<i32>) {
        let Some((kib, takes)) = wanted.kib().zip(takes) else { return };
        if !wanted.copies || takes >= kib || !self.config.create {
            return;
        }
        let raised = async {
            let client = self.account.client().await?;
            let told = client.describe_stream_summary().stream_name(stream).send().await;
            let told = told.map_err(|error| error::of(error, &format!("asking for stream `{stream}`")))?;
            let arn = told.stream_description_summary.map(|summary| summary.stream_arn);
            let asked = client.update_max_record_size().set_stream_arn(arn).max_record_size_in_kib(kib);
            asked
                .send()
                .await
                .map_err(|error| error::of(error, &format!("raising what `{stream}` takes")))?;
            self.made(stream).await.map_err(Failure::from)
        };
        if let Err(failure) = raised.await {
            let error = msgkit::Chain(&failure.error).to_string();
            tracing::warn!(
                stream,
                error,
                "the stream takes records of {takes} KiB at most, copies may have {kib}: raise it by hand"
            );
        }
    }

    /// What it is doing, and the largest record that it takes, in KiB.
    async fn status(&self, stream: &str) -> Result<(StreamStatus, Option<i32>), Failure> {
        let asked = self.account.client().await?.describe_stream_summary().stream_name(stream).send().await;
        let told = asked.map_err(|error| error::of(error, &format!("asking for stream `{stream}`")))?;
        let told = told.stream_description_summary;
        Ok(told
            .map_or((StreamStatus::Creating, None), |told| (told.stream_status, told.max_record_size_in_kib)))
    }

    async fn create(&self, stream: &str, wanted: Made) -> Result<(), TransportError> {
        let doing = format!("creating stream `{stream}`");
        let client = self.account.client().await?;
        let asked = client.create_stream().stream_name(stream).set_max_record_size_in_kib(wanted.kib());
        let asked = match i32::try_from(wanted.shards) {
            Ok(0) | Err(_) => {
                let mode = StreamModeDetails::builder().stream_mode(StreamMode::OnDemand).build();
                asked.set_stream_mode_details(mode.ok())
            }
            Ok(shards) => asked.shard_count(shards),
        };
        let created = self
            .patiently(|| {
                let asked = asked.clone();
                async { asked.send().await.map_err(|error| error::of(error, &doing)) }
            })
            .await;
        match created {
            Ok(_) => {}
            // Somebody else makes it at this moment.
            Err(failure) if failure.cause == Cause::InUse => return self.made(stream).await,
            Err(failure) => return Err(failure.error),
        }
        self.made(stream).await?;
        let hours = i32::try_from(wanted.retention.as_secs().div_ceil(3600)).unwrap_or(8760);
        if hours > 24 {
            self.patiently(|| async {
                let asked = client
                    .increase_stream_retention_period()
                    .stream_name(stream)
                    .retention_period_hours(hours);
                asked.send().await.map(drop).map_err(|error| error::of(error, "raising the retention"))
            })
            .await?;
            self.made(stream).await?;
        }
        Ok(())
    }

    /// Waits until the stream can be used.
    async fn made(&self, stream: &str) -> Result<(), TransportError> {
        let end = Instant::now() + MAKING;
        let mut wait = Duration::from_millis(20);
        loop {
            match self.status(stream).await {
                Ok((status, _)) if is_usable(&status) => return Ok(()),
                Ok(_) => {}
                Err(failure) if matches!(failure.cause, Cause::NotFound | Cause::Throttled) => {}
                Err(failure) => return Err(failure.error),
            }
            self.open()?;
            if Instant::now() >= end {
                let text = format!("stream `{stream}` is still being made after {MAKING:?}");
                return Err(TransportError::new(TransportErrorKind::Timeout, text));
            }
            tokio::time::sleep(wait).await;
            wait = (wait * 2).min(Duration::from_secs(2));
        }
    }

    /// The names of all streams of the account.
    pub(crate) async fn list_streams(&self) -> Result<BTreeSet<String>, TransportError> {
        let client = self.account.client().await?;
        let mut names = BTreeSet::new();
        loop {
            let last = names.last().cloned();
            let page = self
                .patiently(|| async {
                    let asked = client.list_streams().set_exclusive_start_stream_name(last.clone());
                    asked.send().await.map_err(|error| error::of(error, "listing the streams"))
                })
                .await?;
            let before = names.len();
            names.extend(page.stream_names);
            if !page.has_more_streams || names.len() == before {
                return Ok(names);
            }
        }
    }

    /// The shards of a stream, closed ones too as long as they keep records.
    pub(crate) async fn shards(&self, stream: &str) -> Result<Vec<Shard>, Failure> {
        let client = self.account.client().await?;
        let mut shards = Vec::new();
        let mut token: Option<String> = None;
        loop {
            let page = self
                .patiently(|| async {
                    let asked = client.list_shards();
                    let asked = match &token {
                        Some(token) => asked.next_token(token),
                        None => asked.stream_name(stream),
                    };
                    asked
                        .send()
                        .await
                        .map_err(|error| error::of(error, &format!("listing the shards of `{stream}`")))
                })
                .await?;
            for shard in page.shards.unwrap_or_default() {
                let parents = [shard.parent_shard_id, shard.adjacent_parent_shard_id];
                let range = shard.sequence_number_range;
                shards.push(Shard {
                    id: shard.shard_id,
                    parents: parents.into_iter().flatten().collect(),
                    closed: range.is_some_and(|range| range.ending_sequence_number.is_some()),
                });
            }
            match page.next_token {
                Some(next) => token = Some(next),
                None => return Ok(shards),
            }
        }
    }

    pub(crate) async fn iterator(
        &self,
        stream: &str,
        shard: &str,
        at: &Position,
    ) -> Result<Option<String>, Failure> {
        let asked = self.account.client().await?.get_shard_iterator().stream_name(stream).shard_id(shard);
        let asked = match at {
            Position::Oldest => asked.shard_iterator_type(ShardIteratorType::TrimHorizon),
            Position::Time(millis) => asked
                .shard_iterator_type(ShardIteratorType::AtTimestamp)
                .timestamp(DateTime::from_millis(*millis)),
            Position::After(sequence) => asked
                .shard_iterator_type(ShardIteratorType::AfterSequenceNumber)
                .starting_sequence_number(sequence.as_str()),
        };
        let told = asked.send().await;
        let told =
            told.map_err(|error| error::of(error, &format!("looking for a place in `{stream}/{shard}`")))?;
        Ok(told.shard_iterator)
    }

    pub(crate) async fn records(&self, place: &str, iterator: &str, limit: usize) -> Result<Page, Failure> {
        let limit = i32::try_from(limit.clamp(1, 10_000)).unwrap_or(10_000);
        let asked = self.account.client().await?.get_records().shard_iterator(iterator).limit(limit);
        let told = asked.send().await.map_err(|error| error::of(error, &format!("reading `{place}`")))?;
        Ok(Page {
            records: told.records,
            next: told.next_shard_iterator,
            behind: told.millis_behind_latest.unwrap_or_default(),
        })
    }

    /// Reads a shard from `at` to its present end, until `each` answers no. Answers how far behind it is then.
    pub(crate) async fn walk(
        &self,
        stream: &str,
        shard: &str,
        at: &Position,
        mut each: impl FnMut(Record) -> bool,
    ) -> Result<i64, Failure> {
        let place = format!("{stream}/{shard}");
        let mut iterator = self.patiently(|| self.iterator(stream, shard, at)).await?;
        let mut behind = 0;
        while let Some(from) = iterator {
            let page = self.patiently(|| self.records(&place, &from, 10_000)).await?;
            behind = page.behind;
            let empty = page.records.is_empty();
            for record in page.records {
                if !each(record) {
                    return Ok(behind);
                }
            }
            if empty && behind == 0 {
                return Ok(0);
            }
            iterator = page.next;
        }
        Ok(behind)
    }

    /// Where a reader begins that wants what is published from now on: behind the last record that is there, so that the
    /// place stays the same however long the reader is away. Where there was none lately, then.
    pub(crate) async fn tip(&self, stream: &str, shard: &str) -> Result<Position, Failure> {
        let now = self.clock.now().as_millis();
        let mut failed = None;
        for back in BACK {
            let from = Position::Time(now - back);
            let mut last = None;
            let walked = self
                .walk(stream, shard, &from, |record| {
                    last = Some(Sequence::new(&record.sequence_number));
                    true
                })
                .await;
            match walked {
                Ok(_) => return Ok(last.map_or(from, Position::After)),
                // This machine's clock is ahead of the service's.
                Err(failure)
                    if failure.error.kind() == TransportErrorKind::Invalid
                        && failure.cause == Cause::Other =>
                {
                    failed = Some(failure);
                }
                Err(failure) => return Err(failure),
            }
        }
        Err(failed.unwrap_or_else(|| Failure { cause: Cause::Other, error: invalid("no place was found") }))
    }
}

fn is_usable(status: &StreamStatus) -> bool {
    matches!(status, StreamStatus::Active | StreamStatus::Updating)
}

impl From<TransportError> for Failure {
    fn from(error: TransportError) -> Self {
        Self { cause: Cause::Other, error }
    }
}

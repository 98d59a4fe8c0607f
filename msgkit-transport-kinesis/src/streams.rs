//! Calls of the service, each with its errors told apart: shards, records.

use std::collections::BTreeSet;
use std::time::Duration;

use aws_sdk_kinesis::primitives::DateTime;
use aws_sdk_kinesis::types::{Record, ShardIteratorType};
use msgkit::transport::TransportError;
use tokio::time::Instant;

use crate::core::Core;
use crate::error::{self, Cause, Failure, invalid};
use crate::position::{Position, Sequence};

/// How far back a reader looks for the last record, and how much farther where the clocks differ.
const BACK: [i64; 3] = [5_000, 60_000, 600_000];

/// A shard of a stream.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Shard {
    pub(crate) id: String,
    pub(crate) parents: Vec<String>,
    /// Whether nothing more is written to it.
    pub(crate) closed: bool,
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
                Err(failure) if failure.cause == Cause::Argument => failed = Some(failure),
                Err(failure) => return Err(failure),
            }
        }
        Err(failed.unwrap_or_else(|| Failure { cause: Cause::Other, error: invalid("no place was found") }))
    }
}

impl From<TransportError> for Failure {
    fn from(error: TransportError) -> Self {
        Self { cause: Cause::Other, error }
    }
}

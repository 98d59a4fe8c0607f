//! Streams: how each is made, and seeing to it that it is there.

use std::sync::PoisonError;
use std::time::Duration;

use aws_sdk_kinesis::types::{StreamMode, StreamModeDetails, StreamStatus};
use msgkit::transport::{Destination, TransportError, TransportErrorKind};
use tokio::time::Instant;

use crate::config::KinesisConfig;
use crate::core::Core;
use crate::error::{self, Cause, Failure, invalid};

/// How long a stream may take to be made: on-demand ones take half a minute.
const MAKING: Duration = Duration::from_secs(180);

/// What the largest record of a stream may be, in KiB: at first, and at most.
const LEAST_KIB: i32 = 1 << 10;
const MOST_KIB: i32 = 10 << 10;

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

impl Core {
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
}

fn is_usable(status: &StreamStatus) -> bool {
    matches!(status, StreamStatus::Active | StreamStatus::Updating)
}

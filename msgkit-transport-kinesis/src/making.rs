//! Streams: how each is made, and seeing to it that it is there.

use std::sync::PoisonError;
use std::time::Duration;

use aws_sdk_kinesis::types::{StreamDescriptionSummary, StreamMode, StreamModeDetails, StreamStatus};
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

    fn hours(self) -> i32 {
        i32::try_from(self.retention.as_secs().div_ceil(3600)).unwrap_or(8760)
    }

    /// What the service is told of the record's size; `None` = it is what every stream takes.
    fn kib(self) -> Option<i32> {
        let kib = i32::try_from(self.record.div_ceil(1 << 10)).unwrap_or(MOST_KIB).min(MOST_KIB);
        (kib > LEAST_KIB).then_some(kib)
    }
}

impl Core {
    /// Sees to it that `stream` is there, made so where it is missing, and keeps what it is to keep. Answers whether it was
    /// missing.
    pub(crate) async fn ensure(&self, stream: &str, wanted: Made) -> Result<bool, TransportError> {
        let Some(known) = self.is_to_be_ensured(stream) else { return Ok(false) };
        let mut made = false;
        let asked = match known {
            true => self.described(stream).await,
            false => self.patiently(|| self.described(stream)).await,
        };
        let told = match asked {
            Ok(told) if is_usable(&told) => told,
            Ok(_) => self.made(stream).await?,
            Err(failure) if failure.cause == Cause::NotFound && self.config.create => {
                self.create(stream, wanted).await?;
                made = true;
                self.made(stream).await?
            }
            Err(failure) if failure.cause == Cause::NotFound => {
                return Err(self.missing(stream, failure.error));
            }
            // It was there before, so that it can be used; what is left to do is tried again later.
            Err(_) if known => return Ok(false),
            Err(failure) => return Err(failure.error),
        };
        // Also where it was made just now: whoever makes a stream may die before it keeps what it is to keep.
        self.raise(stream, wanted, &told).await;
        let kept = self.keep(stream, wanted, &told).await?;
        let again = (!kept).then(|| Instant::now() + self.config.discover);
        self.streams.lock().unwrap_or_else(PoisonError::into_inner).insert(stream.to_owned(), again);
        Ok(made)
    }

    /// Whether a stream was known to be there before, where it is to be looked at (again); of many who ask, one does then. `None` =
    /// nothing is left to do.
    fn is_to_be_ensured(&self, stream: &str) -> Option<bool> {
        let now = Instant::now();
        match self.streams.lock().unwrap_or_else(PoisonError::into_inner).get_mut(stream) {
            Some(Some(again)) if now >= *again => {
                *again = now + self.config.discover;
                Some(true)
            }
            Some(_) => None,
            None => Some(false),
        }
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
    async fn raise(&self, stream: &str, wanted: Made, told: &StreamDescriptionSummary) {
        let Some((kib, takes)) = wanted.kib().zip(told.max_record_size_in_kib) else { return };
        if !wanted.copies || takes >= kib || !self.config.create {
            return;
        }
        let raised = async {
            let asked = self.account.client().await?.update_max_record_size().stream_arn(&told.stream_arn);
            asked
                .max_record_size_in_kib(kib)
                .send()
                .await
                .map_err(|error| error::of(error, &format!("raising what `{stream}` takes")))?;
            self.made(stream).await.map(drop).map_err(Failure::from)
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

    /// Sees to it that a stream keeps its records as long as is wished. Where that cannot be, copies are refused, since nobody
    /// else has them; of other streams it is told. Answers whether no more is to be done: what fails for a moment is tried again
    /// later.
    async fn keep(
        &self,
        stream: &str,
        wanted: Made,
        told: &StreamDescriptionSummary,
    ) -> Result<bool, TransportError> {
        let (hours, keeps) = (wanted.hours(), told.retention_period_hours);
        if keeps >= hours {
            return Ok(true);
        }
        let error = match self.config.create {
            true => match self.raise_retention(stream, wanted).await {
                Ok(()) => return Ok(true),
                Err(failure) => Some(failure.error),
            },
            false => None,
        };
        let passes = error.as_ref().is_some_and(TransportError::is_temporary);
        let text = format!(
            "stream `{stream}` keeps its records for {keeps} h, and shall keep them for {hours} h: raise its retention, or lower \
             `retention` and `dead_letter_retention`"
        );
        if !wanted.copies {
            let error = error.map(|error| msgkit::Chain(&error).to_string());
            tracing::warn!(error, "{text}");
            return Ok(!passes);
        }
        Err(match error {
            Some(error) if passes => error,
            Some(error) => invalid(text).with_source(error),
            None => invalid(text),
        })
    }

    /// Raises the retention. For streams of copies it waits while they are changed; who publishes to others does not wait for it.
    async fn raise_retention(&self, stream: &str, wanted: Made) -> Result<(), Failure> {
        let client = self.account.client().await?;
        let (hours, end) = (wanted.hours(), Instant::now() + MAKING);
        let mut wait = Duration::from_millis(100);
        loop {
            let raise = || async {
                let asked = client.increase_stream_retention_period().stream_name(stream);
                let asked = asked.retention_period_hours(hours).send().await.map(drop);
                asked.map_err(|error| error::of(error, &format!("raising the retention of `{stream}`")))
            };
            let raised = if wanted.copies { self.patiently(raise).await } else { raise().await };
            // What the service has taken it does, though it tells the old hours for a while.
            let Err(failure) = raised else { return Ok(()) };
            // Somebody else may have raised it, or does so at this moment.
            let now = match wanted.copies {
                true => self.becomes(stream, is_active).await?,
                false => self.described(stream).await?,
            };
            if now.retention_period_hours >= hours {
                return Ok(());
            }
            if !wanted.copies || failure.cause != Cause::InUse || Instant::now() >= end {
                return Err(failure);
            }
            self.open()?;
            tokio::time::sleep(wait).await;
            wait = (wait * 2).min(Duration::from_secs(2));
        }
    }

    /// What the service says of a stream.
    pub(crate) async fn described(&self, stream: &str) -> Result<StreamDescriptionSummary, Failure> {
        let doing = format!("asking for stream `{stream}`");
        let asked = self.account.client().await?.describe_stream_summary().stream_name(stream).send().await;
        let told = asked.map_err(|error| error::of(error, &doing))?;
        told.stream_description_summary.ok_or_else(|| {
            let text = format!("{doing}: the answer says nothing of it");
            TransportError::new(TransportErrorKind::Unavailable, text).into()
        })
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
            Ok(_) => Ok(()),
            // Somebody else makes it at this moment.
            Err(failure) if failure.cause == Cause::InUse => Ok(()),
            Err(failure) => Err(failure.error),
        }
    }

    /// Waits until the stream can be used.
    async fn made(&self, stream: &str) -> Result<StreamDescriptionSummary, TransportError> {
        self.becomes(stream, is_usable).await
    }

    /// Waits until the stream is as `is` says.
    async fn becomes(
        &self,
        stream: &str,
        is: fn(&StreamDescriptionSummary) -> bool,
    ) -> Result<StreamDescriptionSummary, TransportError> {
        let end = Instant::now() + MAKING;
        let mut wait = Duration::from_millis(20);
        loop {
            match self.described(stream).await {
                Ok(told) if is(&told) => return Ok(told),
                Ok(_) => {}
                Err(failure) if matches!(failure.cause, Cause::NotFound | Cause::Throttled) => {}
                Err(failure) => return Err(failure.error),
            }
            self.open()?;
            if Instant::now() >= end {
                let text = format!("stream `{stream}` is still being made, or changed, after {MAKING:?}");
                return Err(TransportError::new(TransportErrorKind::Timeout, text));
            }
            tokio::time::sleep(wait).await;
            wait = (wait * 2).min(Duration::from_secs(2));
        }
    }
}

fn is_active(told: &StreamDescriptionSummary) -> bool {
    told.stream_status == StreamStatus::Active
}

fn is_usable(told: &StreamDescriptionSummary) -> bool {
    matches!(told.stream_status, StreamStatus::Active | StreamStatus::Updating)
}

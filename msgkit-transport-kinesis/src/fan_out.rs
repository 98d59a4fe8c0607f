//! Enhanced fan-out: a group as a registered consumer of a stream, and the subscriptions to shards that push to it.

use std::time::Duration;

use aws_sdk_kinesis::operation::subscribe_to_shard::SubscribeToShardOutput;
use aws_sdk_kinesis::primitives::DateTime;
use aws_sdk_kinesis::types::{
    ConsumerStatus, ShardIteratorType, StartingPosition, SubscribeToShardEventStream,
};
use msgkit::transport::{TransportError, TransportErrorKind};
use tokio::time::Instant;

use crate::core::Core;
use crate::error::{self, Cause, Failure};
use crate::position::Position;
use crate::streams::Page;

/// How long a consumer may take to be made.
const MAKING: Duration = Duration::from_secs(60);
/// Something is pushed every few seconds, if only that there is nothing; a connection that is silent for longer is dead.
const SILENCE: Duration = Duration::from_secs(40);

/// A subscription to one shard, which the service ends after five minutes.
pub(crate) struct Pushed {
    place: String,
    output: SubscribeToShardOutput,
}

impl Core {
    /// The consumer called `name` of `stream`, registered where it is not there.
    pub(crate) async fn consumer(&self, stream: &str, name: &str) -> Result<String, Failure> {
        let doing = format!("registering `{name}` as a consumer of stream `{stream}`");
        let client = self.account.client().await?;
        let told = client.describe_stream_summary().stream_name(stream).send().await;
        let told = told.map_err(|error| error::of(error, &doing))?.stream_description_summary;
        let arn = told.map(|summary| summary.stream_arn).unwrap_or_default();
        let end = Instant::now() + MAKING;
        let mut wait = Duration::from_millis(50);
        loop {
            let asked = client.describe_stream_consumer().stream_arn(&arn).consumer_name(name).send().await;
            match asked.map_err(|error| error::of(error, &doing)) {
                Ok(told) => match told.consumer_description {
                    Some(consumer) if consumer.consumer_status == ConsumerStatus::Active => {
                        return Ok(consumer.consumer_arn);
                    }
                    _ => {}
                },
                Err(failure) if failure.cause == Cause::NotFound => {
                    let asked = client.register_stream_consumer().stream_arn(&arn).consumer_name(name);
                    match asked.send().await.map_err(|error| error::of(error, &doing)) {
                        Ok(_) => {}
                        // Another member registers it at this moment.
                        Err(failure) if failure.cause == Cause::InUse => {}
                        Err(failure) if failure.cause == Cause::Throttled => {
                            return Err(too_many(failure, &doing));
                        }
                        Err(failure) => return Err(failure),
                    }
                }
                Err(failure) if failure.cause == Cause::Throttled => {}
                Err(failure) => return Err(failure),
            }
            if Instant::now() >= end {
                let text = format!("{doing}: it is still being made after {MAKING:?}");
                return Err(TransportError::new(TransportErrorKind::Timeout, text).into());
            }
            tokio::time::sleep(wait).await;
            wait = (wait * 2).min(Duration::from_secs(2));
        }
    }

    /// Subscribes `consumer` to a shard, from `at` on.
    pub(crate) async fn push(&self, place: &str, consumer: &str, at: &Position) -> Result<Pushed, Failure> {
        let doing = format!("subscribing to `{place}`");
        let (_, shard) = place.split_once('/').unwrap_or(("", place));
        let from = StartingPosition::builder();
        let from = match at {
            Position::Oldest => from.r#type(ShardIteratorType::TrimHorizon),
            Position::Time(millis) => {
                from.r#type(ShardIteratorType::AtTimestamp).timestamp(DateTime::from_millis(*millis))
            }
            Position::After(sequence) => {
                from.r#type(ShardIteratorType::AfterSequenceNumber).sequence_number(sequence.as_str())
            }
        };
        let from = from.build().map_err(|error| {
            TransportError::new(TransportErrorKind::Internal, doing.clone()).with_source(error)
        })?;
        let asked = self.account.client().await?.subscribe_to_shard().consumer_arn(consumer);
        let asked = asked.shard_id(shard).starting_position(from).send().await;
        let output = asked.map_err(|error| error::of(error, &doing))?;
        Ok(Pushed { place: place.to_owned(), output })
    }
}

/// One consumer more than the service takes, or at once.
fn too_many(failure: Failure, doing: &str) -> Failure {
    let text = format!(
        "{doing} failed; a stream takes 20 consumers, and some at once: where it has them, deregister one that nobody uses, or read \
         without `fan_out`"
    );
    let kind = failure.error.kind();
    Failure { cause: failure.cause, error: TransportError::new(kind, text).with_source(failure.error) }
}

impl Pushed {
    /// What is pushed next; `None` = the subscription is over, and another one goes on.
    pub(crate) async fn next(&mut self) -> Result<Option<Page>, Failure> {
        let doing = || format!("reading `{}`", self.place);
        loop {
            let Ok(came) = tokio::time::timeout(SILENCE, self.output.event_stream.recv()).await else {
                let text = format!("{} failed; nothing was pushed for {SILENCE:?}", doing());
                return Err(TransportError::new(TransportErrorKind::Timeout, text).into());
            };
            match came.map_err(|error| error::of(error, &doing()))? {
                None => return Ok(None),
                Some(SubscribeToShardEventStream::SubscribeToShardEvent(event)) => {
                    // The children of a closed shard are named at its end, and only then.
                    let over = event.child_shards.is_some_and(|children| !children.is_empty());
                    return Ok(Some(Page {
                        records: event.records,
                        next: (!over).then_some(event.continuation_sequence_number),
                        behind: event.millis_behind_latest,
                    }));
                }
                // What a later version of the service says beside records.
                Some(_) => {}
            }
        }
    }
}

//! The component: what is to be kept comes in, answers go out.

use msgkit::handler::{Batch, BatchOutcome, HandleBatch};
use msgkit::{Context, Handle, Handler, HandlerError};

use super::{Store, StoreError};
use crate::messages::{
    AggregateUpdated, AggregatesAnswer, AggregatesQuery, AlertCleared, AlertRaised, AlertsAnswer,
    AlertsQuery, DeadLettersAnswer, DeadLettersQuery, DevicesAnswer, DevicesQuery, HistoryAnswer,
    HistoryQuery, HopsRecorded, ReadingEnriched, ReadingsAnswer, ReadingsQuery, StoredAlert, StoredReading,
    TraceAnswer, TraceQuery,
};

/// Trying again helps only where the store says so.
fn failed(error: StoreError) -> HandlerError {
    if error.is_temporary() { error.into() } else { HandlerError::permanent(error) }
}

fn trace_id(cx: &Context) -> String {
    cx.envelope().trace().parent.trace_id().to_string()
}

/// Keeps readings, many in one transaction, and tells what is stored now.
#[derive(Debug, Handler)]
#[handler(message = ReadingEnriched, group = "store_readings", batch(size = 100, wait = "5ms"),
    publishes(StoredReading, AggregateUpdated), component = "data_core.data_api")]
pub struct StoreReadings(pub Store);

impl HandleBatch<ReadingEnriched> for StoreReadings {
    async fn handle_batch(&self, batch: Vec<Batch<ReadingEnriched>>) -> Result<BatchOutcome, HandlerError> {
        let readings: Vec<_> =
            batch.iter().map(|one| StoredReading::new(trace_id(&one.cx), &one.message)).collect();
        let recorded = self.0.record_readings(&readings).await.map_err(failed)?;
        let tell = |cx: &Context, reading: &StoredReading, aggregates: &[AggregateUpdated]| {
            cx.publish(reading)?;
            aggregates.iter().try_for_each(|aggregate| cx.publish(aggregate))?;
            Ok(())
        };
        let outcomes = batch.iter().zip(&readings).zip(&recorded);
        Ok(BatchOutcome::each(
            outcomes.map(|((one, reading), recorded)| tell(&one.cx, reading, &recorded.aggregates)).collect(),
        ))
    }
}

/// Keeps beginnings and ends of alerts.
#[derive(Debug, Handler)]
#[handler(
    messages(AlertRaised, AlertCleared),
    group = "store_alerts",
    order = "key",
    component = "data_core.data_api"
)]
pub struct StoreAlerts(pub Store);

impl Handle<AlertRaised> for StoreAlerts {
    async fn handle(&self, alert: AlertRaised, cx: &Context) -> Result<(), HandlerError> {
        let alert = StoredAlert::raised(cx.envelope().id().to_string(), trace_id(cx), alert);
        self.0.record_alert(&alert).await.map(drop).map_err(failed)
    }
}

impl Handle<AlertCleared> for StoreAlerts {
    async fn handle(&self, alert: AlertCleared, cx: &Context) -> Result<(), HandlerError> {
        let alert = StoredAlert::cleared(cx.envelope().id().to_string(), trace_id(cx), alert);
        self.0.record_alert(&alert).await.map(drop).map_err(failed)
    }
}

/// Keeps the trace journal.
#[derive(Debug, Handler)]
#[handler(message = HopsRecorded, group = "store_journal", component = "data_core.data_api")]
pub struct StoreJournal(pub Store);

impl Handle<HopsRecorded> for StoreJournal {
    async fn handle(&self, journal: HopsRecorded, _: &Context) -> Result<(), HandlerError> {
        self.0.record_hops(&journal.hops).await.map_err(failed)
    }
}

/// Answers questions; the answer's cause is the question.
#[derive(Debug, Handler)]
#[handler(
    messages(
        DevicesQuery,
        ReadingsQuery,
        AggregatesQuery,
        AlertsQuery,
        DeadLettersQuery,
        TraceQuery,
        HistoryQuery
    ),
    group = "queries",
    concurrency = 4,
    retry(immediate = 0, delayed = 0),
    component = "data_core.data_api"
)]
pub struct Answer(pub Store);

/// A question that the store answers by one of its methods.
macro_rules! answer {
    ($($query:ident => $answer:ident: $method:ident),+) => {
        $(impl Handle<$query, $answer> for Answer {
            async fn handle(&self, query: $query, _: &Context) -> Result<$answer, HandlerError> {
                self.0.$method(&query).await.map_err(failed)
            }
        })+
    };
}

answer!(
    DevicesQuery => DevicesAnswer: devices,
    ReadingsQuery => ReadingsAnswer: readings,
    AggregatesQuery => AggregatesAnswer: aggregates,
    AlertsQuery => AlertsAnswer: alerts,
    DeadLettersQuery => DeadLettersAnswer: dead_letters,
    TraceQuery => TraceAnswer: trace
);

impl Handle<HistoryQuery, HistoryAnswer> for Answer {
    async fn handle(&self, query: HistoryQuery, _: &Context) -> Result<HistoryAnswer, HandlerError> {
        let before = (query.at, query.id.as_str());
        let readings = self.0.readings_before(&query.device_id, before, query.limit).await.map_err(failed)?;
        Ok(HistoryAnswer { readings })
    }
}

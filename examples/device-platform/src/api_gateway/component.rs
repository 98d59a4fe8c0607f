//! The component: HTTP on one side, messages on the other.

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use async_trait::async_trait;
use msgkit::service::PublishHandle;

use super::{Accepted, Queries, ReadingSink, Unavailable};
use crate::messages::{
    AggregatesAnswer, AggregatesQuery, AlertsAnswer, AlertsQuery, DeadLettersAnswer, DeadLettersQuery,
    DevicesAnswer, DevicesQuery, ReadingReported, ReadingsAnswer, ReadingsQuery, TraceAnswer, TraceQuery,
};
use crate::system::Asker;

fn unavailable(error: &msgkit::Error) -> Unavailable {
    Unavailable { reason: msgkit::Chain(error).to_string(), retry_after: Duration::from_secs(2) }
}

/// Publishes readings, and asks by messages.
#[derive(Debug)]
pub struct ByMessages {
    /// The gateway's own publisher, once its service runs.
    pub publisher: OnceLock<PublishHandle>,
    /// Asks `data_core.data_api`.
    pub asker: Arc<Asker>,
}

#[async_trait]
impl ReadingSink for ByMessages {
    async fn accept(&self, reading: ReadingReported) -> Result<Accepted, Unavailable> {
        let Some(publisher) = self.publisher.get() else {
            return Err(Unavailable { reason: "starting".to_owned(), retry_after: Duration::from_secs(1) });
        };
        let envelope = publisher.publish(&reading).await.map_err(|error| unavailable(&error))?;
        Ok(Accepted {
            id: envelope.id().to_string(),
            trace_id: envelope.trace().parent.trace_id().to_string(),
        })
    }
}

/// One method for each question.
macro_rules! ask {
    ($($method:ident: $query:ident => $answer:ident),+) => {
        #[async_trait]
        impl Queries for ByMessages {
            $(async fn $method(&self, query: $query) -> Result<$answer, Unavailable> {
                self.asker.ask(&query).await.map_err(|error| unavailable(&error))
            })+
        }
    };
}

ask!(
    devices: DevicesQuery => DevicesAnswer,
    readings: ReadingsQuery => ReadingsAnswer,
    aggregates: AggregatesQuery => AggregatesAnswer,
    alerts: AlertsQuery => AlertsAnswer,
    dead_letters: DeadLettersQuery => DeadLettersAnswer,
    trace: TraceQuery => TraceAnswer
);

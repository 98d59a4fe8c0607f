//! `service_platform.api_gateway`: the platform over HTTP.
//!
//! | request | answer |
//! |---|---|
//! | `POST /api/v1/devices/{device_id}/readings` | 202 with `id` and `trace_id`, once the transport holds the message |
//! | `GET /api/v1/devices?limit=` | devices, each with its newest reading |
//! | `GET /api/v1/readings?device_id=&limit=` | readings, newest first |
//! | `GET /api/v1/aggregates?window=&device_id=&limit=` | windows of `1m` or `10m`, newest first |
//! | `GET /api/v1/alerts?device_id=&limit=` | beginnings and ends of alerts, newest first |
//! | `GET /api/v1/dead-letters?limit=` | messages that were given up, newest first |
//! | `GET /api/v1/traces/{trace_id}` | what became of a message and of all that it caused, causes first |
//! | `GET /api/v1/events` | server-sent events |
//! | `GET /health/live`, `/health/ready` | for a supervisor |
//! | `GET /metrics` | Prometheus |
//! | `GET /` | the dashboard |
//!
//! Every error is `{"error": {"code", "message"}}`. The gateway owns no data and knows no broker: readings go to a [`ReadingSink`],
//! questions to [`Queries`], and both are messages in the running system.

mod access;
pub mod component;
mod dashboard;
mod error;
pub mod metrics;
mod params;
mod readings;
mod routes;

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use serde::{Deserialize, Serialize};

pub use access::Access;
pub use error::ApiError;
pub use readings::NewReading;
pub use routes::router;

use crate::messages::{
    AggregatesAnswer, AggregatesQuery, AlertsAnswer, AlertsQuery, DeadLettersAnswer, DeadLettersQuery,
    DevicesAnswer, DevicesQuery, ReadingReported, ReadingsAnswer, ReadingsQuery, TraceAnswer, TraceQuery,
};
use crate::notification::Hub;
use metrics::{Exposition, HttpMetrics};

/// Takes readings into the platform.
#[async_trait]
pub trait ReadingSink: Send + Sync {
    /// Returns once the transport has confirmed the message: from then on it cannot be lost.
    ///
    /// # Errors
    /// When it may not have been taken. The client may send it again.
    async fn accept(&self, reading: ReadingReported) -> Result<Accepted, Unavailable>;
}

/// Under which ids a reading was taken.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Accepted {
    /// The message's id.
    pub id: String,
    /// The trace that shows what becomes of it.
    pub trace_id: String,
}

/// The platform cannot answer now.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{reason}")]
pub struct Unavailable {
    /// Why, for whoever reads the response.
    pub reason: String,
    /// When to try again.
    pub retry_after: Duration,
}

/// Answers questions about what the platform knows.
///
/// Each method asks one question and fails when there is no answer in time.
#[async_trait]
#[allow(missing_docs)]
pub trait Queries: Send + Sync {
    async fn devices(&self, query: DevicesQuery) -> Result<DevicesAnswer, Unavailable>;
    async fn readings(&self, query: ReadingsQuery) -> Result<ReadingsAnswer, Unavailable>;
    async fn aggregates(&self, query: AggregatesQuery) -> Result<AggregatesAnswer, Unavailable>;
    async fn alerts(&self, query: AlertsQuery) -> Result<AlertsAnswer, Unavailable>;
    async fn dead_letters(&self, query: DeadLettersQuery) -> Result<DeadLettersAnswer, Unavailable>;
    async fn trace(&self, query: TraceQuery) -> Result<TraceAnswer, Unavailable>;
}

/// What the gateway tells about the rest of its process.
#[async_trait]
pub trait Status: Send + Sync {
    /// Why the process is not ready to work; empty when it is.
    async fn not_ready(&self) -> Vec<String>;

    /// Adds the metrics of the rest of the process.
    fn metrics(&self, exposition: &mut Exposition);
}

/// What the gateway works with. Cheap to clone.
#[derive(Clone)]
pub struct Gateway {
    /// Where readings go.
    pub sink: Arc<dyn ReadingSink>,
    /// Who answers.
    pub queries: Arc<dyn Queries>,
    /// Where events come from.
    pub hub: Hub,
    /// How the rest of the process is.
    pub status: Arc<dyn Status>,
    /// Who may come in.
    pub access: Arc<Access>,
    /// What was asked so far.
    pub http: Arc<HttpMetrics>,
}

impl fmt::Debug for Gateway {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Gateway").field("access", &self.access).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests;

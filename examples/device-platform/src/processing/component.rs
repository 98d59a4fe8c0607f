//! The component: readings in, enriched readings out.

use msgkit::{Context, Handle, Handler, HandlerError};

use super::{enrich, plain};
use crate::messages::{ReadingEnriched, ReadingMeasured, ReadingReported};

/// Enriches readings; those that cannot be true become dead letters at once.
///
/// The readings of a device stay in their order whatever happens: one that cannot be published yet holds up those behind it.
#[derive(Debug, Handler)]
#[handler(
    messages(ReadingReported, ReadingMeasured),
    group = "processing",
    concurrency = 4,
    order = "key_hold",
    publishes(ReadingEnriched),
    component = "service_platform.container.processing"
)]
pub struct Processing;

impl Handle<ReadingReported, ReadingEnriched> for Processing {
    async fn handle(&self, reading: ReadingReported, cx: &Context) -> Result<ReadingEnriched, HandlerError> {
        enrich(cx.envelope().id().to_string(), reading).map_err(HandlerError::permanent)
    }
}

impl Handle<ReadingMeasured, ReadingEnriched> for Processing {
    async fn handle(&self, measured: ReadingMeasured, cx: &Context) -> Result<ReadingEnriched, HandlerError> {
        let (id, reading) = plain::read(measured, cx.envelope()).map_err(HandlerError::permanent)?;
        enrich(id, reading).map_err(HandlerError::permanent)
    }
}

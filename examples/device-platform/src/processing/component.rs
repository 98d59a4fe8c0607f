//! The component: readings in, enriched readings out.

use msgkit::{Context, Handle, Handler, HandlerError};

use super::enrich;
use crate::messages::{ReadingEnriched, ReadingReported};

/// Enriches readings; those that cannot be true become dead letters at once.
#[derive(Debug, Handler)]
#[handler(message = ReadingReported, group = "processing", concurrency = 4, order = "key",
    publishes(ReadingEnriched), component = "service_platform.container.processing")]
pub struct Processing;

impl Handle<ReadingReported, ReadingEnriched> for Processing {
    async fn handle(&self, reading: ReadingReported, cx: &Context) -> Result<ReadingEnriched, HandlerError> {
        enrich(cx.envelope().id().to_string(), reading).map_err(HandlerError::permanent)
    }
}

//! Publishing.

use async_trait::async_trait;
use msgkit::transport::{Outgoing, PublishError, Publisher, Rejected, TransportError};

use crate::transport::Files;
use crate::wire::Parcel;

#[async_trait]
impl Publisher for Files {
    async fn publish(&self, batch: Vec<Outgoing>) -> Result<(), PublishError> {
        if batch.is_empty() {
            return Ok(());
        }
        // The batch stays here: whatever happens to the thread that writes, its messages can be given back.
        let parcels: Vec<Parcel> = batch.iter().map(Parcel::of).collect();
        let written = self.store().run(move |turn| Ok(turn.publish(&parcels))).await;
        let (taken, error) = match written {
            Ok(Ok(())) => return Ok(()),
            Ok(Err(partly)) => partly,
            Err(error) => (0, error),
        };
        let (kind, text) = (error.kind(), error.to_string());
        let mut first = Some(error);
        let rejected = batch.into_iter().skip(taken).map(|message| {
            let error = first.take().unwrap_or_else(|| TransportError::new(kind, text.clone()));
            Rejected { message, error }
        });
        Err(PublishError::new(rejected.collect()))
    }
}

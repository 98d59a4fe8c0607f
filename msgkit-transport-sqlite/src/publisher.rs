//! Publishing: messages are written out where they come from, and handed to the writer as one piece of its next commit.

use async_trait::async_trait;
use msgkit::Topic;
use msgkit::envelope::NativeHeaders;
use msgkit::transport::{Outgoing, PublishError, Publisher, Rejected, TransportError, TransportErrorKind};
use tokio::sync::oneshot;

use crate::store::{Command, Publication, closed};
use crate::transport::Sqlite;
use crate::wire::Parcel;

#[async_trait]
impl Publisher for Sqlite {
    async fn publish(&self, batch: Vec<Outgoing>) -> Result<(), PublishError> {
        let most = self.config().max_payload;
        let too_large = |message: &Outgoing| message.envelope.payload().len() > most;
        let (large, batch): (Vec<_>, Vec<_>) = if batch.iter().any(too_large) {
            batch.into_iter().partition(too_large)
        } else {
            (Vec::new(), batch)
        };
        let mut rejected: Vec<_> = large.into_iter().map(|message| refuse_large(message, most)).collect();
        if !batch.is_empty()
            && let Err((taken, error)) = self.hand_over(batch.iter().map(Parcel::of).collect()).await
        {
            // Nothing may overtake what was not taken, so all that follows was not taken either.
            let (kind, text) = (error.kind(), error.to_string());
            let mut first = Some(error);
            rejected.extend(batch.into_iter().skip(taken).map(|message| Rejected {
                message,
                error: first.take().unwrap_or_else(|| TransportError::new(kind, text.clone())),
            }));
        }
        if rejected.is_empty() { Ok(()) } else { Err(PublishError::new(rejected)) }
    }
}

fn refuse_large(message: Outgoing, most: usize) -> Rejected {
    let error = TransportError::new(
        TransportErrorKind::Invalid,
        format!(
            "message {} for `{}` has {} bytes of payload, more than the {most} of `max_payload`; keep the data elsewhere and send its address",
            message.envelope.id(),
            message.to,
            message.envelope.payload().len(),
        ),
    );
    Rejected { message, error }
}

impl Sqlite {
    /// Publishes bytes as a foreign program would that writes to the file: no envelope, any headers. Subscriptions read
    /// them by their ingest rules; without one they are malformed.
    ///
    /// # Errors
    /// [`TransportError`] where the file cannot be written, or a group is full.
    pub async fn publish_foreign(
        &self,
        topic: &Topic,
        payload: impl AsRef<[u8]> + Send,
        headers: &NativeHeaders,
    ) -> Result<(), TransportError> {
        let parcel = Parcel::foreign(topic, payload.as_ref(), headers);
        self.hand_over(vec![parcel]).await.map_err(|(_, error)| error)
    }

    /// Resolves after the commit that holds all parcels; an error tells how many were taken before it.
    async fn hand_over(&self, parcels: Vec<Parcel>) -> Result<(), (usize, TransportError)> {
        let commands = self.store().commands().await.map_err(|error| (0, error))?;
        let (reply, answer) = oneshot::channel();
        let publication = Publication::new(parcels, reply, self.config().publish_timeout);
        commands.send(Command::Publish(publication)).await.map_err(|_| (0, closed()))?;
        answer.await.unwrap_or_else(|_| Err((0, closed())))
    }
}

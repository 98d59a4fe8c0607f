//! Publishing: what goes where, and what the broker's word means.

use async_trait::async_trait;
use msgkit::transport::{
    Destination, Group, Outgoing, PublishError, Publisher, Rejected, TransportError, TransportErrorKind,
};

use crate::config::OnUnrouted;
use crate::sending::Outcome;
use crate::transport::Mqtt;
use crate::wire::Parcel;

#[async_trait]
impl Publisher for Mqtt {
    async fn publish(&self, batch: Vec<Outgoing>) -> Result<(), PublishError> {
        if let Err(error) = self.open() {
            drop(error);
            return Err(PublishError::all(batch, || TransportError::closed("mqtt")));
        }
        let mut rejected = Vec::new();
        let mut parcels = Vec::with_capacity(batch.len());
        let mut messages = Vec::with_capacity(batch.len());
        for message in batch {
            match self.parcel(&message).await {
                Ok(parcel) => {
                    parcels.push(parcel);
                    messages.push(message);
                }
                Err(error) => rejected.push(Rejected { message, error }),
            }
        }
        let outcomes = self.sending().send(parcels, self.config().publish_timeout).await;
        for (message, outcome) in messages.into_iter().zip(outcomes) {
            if let Err(error) = self.judge(&message, outcome).await {
                rejected.push(Rejected { message, error });
            }
        }
        if rejected.is_empty() { Ok(()) } else { Err(PublishError::new(rejected)) }
    }
}

impl Mqtt {
    /// A message as it goes to the broker.
    async fn parcel(&self, message: &Outgoing) -> Result<Parcel, TransportError> {
        let envelope = &message.envelope;
        let (size, most) = (envelope.payload().len(), self.config().max_payload);
        if size > most {
            let text = format!(
                "the payload of message {} has {size} bytes, more than the {most} of `max_payload`",
                envelope.id()
            );
            return Err(TransportError::new(TransportErrorKind::Invalid, text));
        }
        let topic = match &message.to {
            Destination::Topic { topic, .. } => self.names().topic(topic),
            Destination::Retry { group, step, .. } => {
                self.ensure_step(group, *step).await?;
                self.names().retry(group, *step)
            }
            Destination::DeadLetter(group) => return Err(keeps_no_letters(group)),
            other => self.names().topic(&other.as_topic()),
        };
        let mut parcel = Parcel::of(envelope, topic, self.names(), self.config().format());
        parcel.confirmed = self.config().qos > 0 || !matches!(message.to, Destination::Topic { .. });
        Ok(parcel)
    }

    /// What the broker's word means for a message.
    async fn judge(&self, message: &Outgoing, outcome: Outcome) -> Result<(), TransportError> {
        match (outcome, &message.to) {
            (Outcome::Taken, _) => Ok(()),
            (Outcome::Failed(error), _) => Err(error),
            // A copy that nobody holds is no copy: the session of its step has expired.
            (Outcome::Unrouted, Destination::Retry { group, step, .. }) => {
                self.steps().remove(&(group.clone(), *step));
                let parcel = self.parcel(message).await?;
                match self.sending().send(vec![parcel], self.config().publish_timeout).await.pop() {
                    Some(Outcome::Taken) => Ok(()),
                    Some(Outcome::Failed(error)) => Err(error),
                    Some(Outcome::Unrouted) | None => Err(TransportError::new(
                        TransportErrorKind::Unavailable,
                        format!("no session of delay step {step} of group `{group}` holds the copy"),
                    )),
                }
            }
            (Outcome::Unrouted, to) => {
                self.counters().unrouted.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
                match self.config().on_unrouted {
                    OnUnrouted::Accept => Ok(()),
                    OnUnrouted::Error => Err(TransportError::new(
                        TransportErrorKind::Unrouted,
                        format!("nobody is subscribed to `{to}`, and `on_unrouted` is \"error\""),
                    )),
                }
            }
        }
    }
}

/// MQTT drops what nobody is subscribed to, so a dead letter would be lost.
pub(crate) fn keeps_no_letters(group: &Group) -> TransportError {
    TransportError::new(
        TransportErrorKind::Unsupported,
        format!(
            "MQTT keeps no message that nobody reads, so it cannot keep the dead letters of group `{group}`; set \
             `dead_letters = \"<another transport>\"` in the transport's table"
        ),
    )
}

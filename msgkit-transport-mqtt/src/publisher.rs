//! Publishing: what goes where, and what the broker's word means.

use async_trait::async_trait;
use msgkit::transport::{
    Destination, Group, Outgoing, PublishError, Publisher, Rejected, TransportError, TransportErrorKind,
};

use crate::config::OnUnrouted;
use crate::sending::Outcome;
use crate::transport::Mqtt;

#[async_trait]
impl Publisher for Mqtt {
    async fn publish(&self, batch: Vec<Outgoing>) -> Result<(), PublishError> {
        if let Err(error) = self.open() {
            drop(error);
            return Err(PublishError::all(batch, || TransportError::closed("mqtt")));
        }
        let mut rejected = Vec::new();
        let mut messages = Vec::with_capacity(batch.len());
        for message in batch {
            match self.admit(&message).await {
                Ok(()) => messages.push(message),
                Err(error) => rejected.push(Rejected { message, error }),
            }
        }
        for (message, outcome) in self.sending().send(messages, self.config().publish_timeout).await {
            if let Err(error) = self.judge(&message, outcome).await {
                rejected.push(Rejected { message, error });
            }
        }
        if rejected.is_empty() { Ok(()) } else { Err(PublishError::new(rejected)) }
    }
}

impl Mqtt {
    /// Refuses what no broker would take; makes what must be there before `message` is.
    async fn admit(&self, message: &Outgoing) -> Result<(), TransportError> {
        let envelope = &message.envelope;
        let (size, most) = (envelope.payload().len(), self.config().max_payload);
        if size > most {
            let text = format!(
                "the payload of message {} has {size} bytes, more than the {most} of `max_payload`",
                envelope.id()
            );
            return Err(TransportError::new(TransportErrorKind::Invalid, text));
        }
        match &message.to {
            Destination::Retry { group, step, .. } => self.ensure_step(group, *step).await,
            Destination::DeadLetter(group) => Err(keeps_no_letters(group)),
            _ => Ok(()),
        }
    }

    /// What the broker's word means for a message.
    async fn judge(&self, message: &Outgoing, outcome: Outcome) -> Result<(), TransportError> {
        match (outcome, &message.to) {
            (Outcome::Taken, _) => Ok(()),
            (Outcome::Failed(error), _) => Err(error),
            // A copy that nobody holds is no copy: the session of its step has expired.
            (Outcome::Unrouted, Destination::Retry { group, step, .. }) => {
                self.steps().remove(&(group.clone(), *step));
                self.admit(message).await?;
                let again = vec![message.clone()];
                let sent = self.sending().send(again, self.config().publish_timeout).await.pop();
                match sent.map(|(_, outcome)| outcome) {
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

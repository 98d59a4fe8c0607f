//! Publishing: each message goes out with a wish for the broker's confirmation, many at once, and is told of as taken
//! when that has come.

mod confirms;
mod place;

use std::sync::atomic::Ordering;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use msgkit::envelope::NativeHeaders;
use msgkit::transport::{Outgoing, PublishError, Publisher, Rejected, TransportError, TransportErrorKind};
use msgkit::{Envelope, Topic};
use tokio::time::Instant;

pub(crate) use self::confirms::{Confirms, Outcome};
pub(crate) use self::place::{Parcel, Place};
use crate::broker::Broker;
use crate::config::OnUnrouted;
use crate::error::closed;
use crate::transport::Amqp;
use crate::wire;

/// The shortest and the longest pause before a full queue is looked at again.
const PAUSE: (Duration, Duration) = (Duration::from_millis(10), Duration::from_millis(250));

#[async_trait]
impl Publisher for Amqp {
    async fn publish(&self, batch: Vec<Outgoing>) -> Result<(), PublishError> {
        let broker = self.broker();
        let mut rejected = Vec::new();
        let mut parcels = Vec::with_capacity(batch.len());
        for message in batch {
            match broker.pack(message) {
                Ok(parcel) => parcels.push(parcel),
                Err(refused) => rejected.push(refused),
            }
        }
        broker.send(parcels, &mut rejected).await;
        if rejected.is_empty() { Ok(()) } else { Err(PublishError::new(rejected)) }
    }
}

impl Amqp {
    /// Publishes bytes as a foreign program does: no envelope, any headers. Subscriptions read them by their ingest
    /// rules; without one they are malformed.
    ///
    /// # Errors
    /// [`TransportError`] where the broker does not take them.
    pub async fn publish_foreign(
        &self,
        topic: &Topic,
        payload: impl Into<Bytes> + Send,
        headers: &NativeHeaders,
    ) -> Result<(), TransportError> {
        let broker = self.broker();
        let channel = broker.publishing.channel().await?;
        broker.ensure_exchanges(&channel).await?;
        let written = wire::write_foreign(payload.into(), headers, broker.config.attribute_prefix);
        let place = Place::Topic { reserved: topic.is_reserved(), key: topic.as_str().to_owned() };
        match broker.confirm(vec![(&place, written)]).await.pop() {
            Some(Outcome::Taken | Outcome::Unrouted) => Ok(()),
            Some(Outcome::Failed(error)) => Err(error),
            Some(Outcome::Refused) | None => Err(TransportError::new(
                TransportErrorKind::Full,
                format!("a queue that takes `{topic}` is full"),
            )),
        }
    }
}

impl Broker {
    /// Publishes `envelope` to one place, confirmed and held there.
    pub(crate) async fn send_to(&self, place: Place, envelope: Envelope) -> Result<(), TransportError> {
        let written = wire::write(&envelope, self.config.attribute_prefix, None);
        let (kind, what) = match self.confirm(vec![(&place, written)]).await.pop() {
            Some(Outcome::Taken) => return Ok(()),
            Some(Outcome::Failed(error)) => return Err(error),
            Some(Outcome::Refused) => (TransportErrorKind::Full, "is full"),
            Some(Outcome::Unrouted) | None => (TransportErrorKind::Unrouted, "does not exist"),
        };
        let (_, queue) = place.address(&self.names);
        Err(TransportError::new(
            kind,
            format!("queue `{queue}` {what}, so message {} stays where it is", envelope.id()),
        ))
    }

    /// Publishes `parcels` in their order until each is taken, or refused for good, or its time is up.
    async fn send(&self, mut parcels: Vec<Parcel>, rejected: &mut Vec<Rejected>) {
        let began = Instant::now();
        let mut pause = PAUSE.0;
        let mut declared_again = false;
        while !parcels.is_empty() {
            if self.is_closed() {
                reject_all(parcels, rejected, closed);
                return;
            }
            let outcomes = match self.attempt(&mut parcels).await {
                Ok(outcomes) => outcomes,
                Err(error) => {
                    let (kind, text) = (error.kind(), error.to_string());
                    let mut first = Some(error);
                    reject_all(parcels, rejected, || {
                        first.take().unwrap_or_else(|| TransportError::new(kind, text.clone()))
                    });
                    return;
                }
            };
            let (mut full, mut homeless) = (Vec::new(), Vec::new());
            for (parcel, outcome) in parcels.into_iter().zip(outcomes) {
                match outcome {
                    Outcome::Taken if matches!(parcel.place, Place::Suspect(_)) => self.suspect_put_aside(),
                    Outcome::Taken => {}
                    Outcome::Refused => full.push(parcel),
                    Outcome::Failed(error) => rejected.push(Rejected { message: parcel.message, error }),
                    Outcome::Unrouted if !parcel.place.is_topic() && !declared_again => homeless.push(parcel),
                    Outcome::Unrouted => self.unrouted(parcel, rejected),
                }
            }
            if !homeless.is_empty() {
                // Somebody has deleted their queues: they are made again, once.
                self.forget();
                self.unregister();
                declared_again = true;
                homeless.append(&mut full);
                parcels = homeless;
                continue;
            }
            parcels = full;
            if !parcels.is_empty() && pause == PAUSE.0 {
                // Which groups there may be, to find the one that is full; without an answer those known here must do.
                let _ = self.look_up().await;
            }
            if !parcels.is_empty() && !self.wait_for_room(&parcels, began, &mut pause).await {
                let names = self.full_groups(&parcels).await;
                let waited = began.elapsed();
                let closed_meanwhile = self.is_closed();
                reject_all(parcels, rejected, || {
                    if closed_meanwhile { closed() } else { self.full(&names, waited) }
                });
                return;
            }
        }
    }

    /// Waits until room may be there again; false where the time is up or the transport closed.
    async fn wait_for_room(&self, parcels: &[Parcel], began: Instant, pause: &mut Duration) -> bool {
        let deadline = began + self.config.publish_timeout;
        let mut closing = self.closing();
        loop {
            let until = (Instant::now() + *pause).min(deadline);
            *pause = (*pause * 2).min(PAUSE.1);
            tokio::select! {
                biased;
                () = closing.begun() => return false,
                () = tokio::time::sleep_until(until) => {}
            }
            if Instant::now() >= deadline {
                return false;
            }
            // Publishing again gives the message to the groups that have room once more: not before this one has.
            if self.full_groups(parcels).await.is_empty() {
                return true;
            }
        }
    }

    fn full(&self, groups: &[String], waited: Duration) -> TransportError {
        let capacity = usize::try_from(self.config.capacity).unwrap_or(usize::MAX);
        match groups {
            [] => TransportError::new(
                TransportErrorKind::Full,
                format!(
                    "a queue that takes the message has held its limit for {waited:?}; which group's it is, is not known \
                     here: look for the one that is longest, raise its handler's concurrency, or `capacity`"
                ),
            ),
            groups => TransportError::full(&groups.join("`, `"), capacity, waited),
        }
    }

    fn unrouted(&self, parcel: Parcel, rejected: &mut Vec<Rejected>) {
        let text = if !parcel.place.is_topic() {
            format!("the copy for `{}` has no queue to go to; is the group declared?", parcel.message.to)
        } else if self.config.on_unrouted == OnUnrouted::Error {
            format!(
                "no group takes topic `{}`, and `on_unrouted = \"error\"` refuses that; declare a group first",
                parcel.message.to
            )
        } else {
            self.counters.unrouted.fetch_add(1, Ordering::Relaxed);
            tracing::debug!(topic = %parcel.message.to, "no queue takes the message");
            return;
        };
        let error = TransportError::new(TransportErrorKind::Unrouted, text);
        rejected.push(Rejected { message: parcel.message, error });
    }
}

fn reject_all(parcels: Vec<Parcel>, rejected: &mut Vec<Rejected>, mut error: impl FnMut() -> TransportError) {
    rejected.extend(parcels.into_iter().map(|parcel| Rejected { message: parcel.message, error: error() }));
}

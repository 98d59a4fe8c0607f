//! The contract between msgkit and a broker: what a transport crate implements, and all that the rest knows of it.
//!
//! [`Transport`] = [`Publisher`] + [`Subscriber`] + what it can do, as data ([`Capabilities`]). The calls are dynamic
//! and take batches: `dyn` is what lets configuration choose the transport, the batch is what makes it free.
//!
//! In one paragraph: `publish` resolves when the broker holds every message. `subscribe` gives [`Deliveries`], from
//! which `receive` takes messages as [`Delivery`] values, each a duty to settle. Settling is a synchronous hand-over;
//! `flush` waits for the broker's word. A delivery that is dropped goes back. Attempts, delays and dead letters are not
//! the transport's business: it only carries the copies, see [`Destination`].

mod capabilities;
mod delivery;
mod destination;
mod error;
mod operate;
mod registry;
mod subscription;
#[cfg(test)]
mod tests;
mod url;
mod watermark;

use std::collections::VecDeque;
use std::fmt::Debug;
use std::sync::Arc;

use async_trait::async_trait;

use crate::envelope::Timestamp;

pub use self::capabilities::{Capabilities, Delay, KeyOrder, StartPositions};
pub use self::delivery::{Acks, Delivery, Incoming, Malformed, Position, Settle, Token};
pub use self::destination::{Destination, Outgoing};
pub use self::error::{PublishError, Rejected, TransportError, TransportErrorKind};
pub use self::operate::{GroupStatus, Operate, Peeked};
pub use self::registry::{Factory, OnUnrouted, Options, Registry};
pub use self::subscription::{Declaration, Group, Start, Subscription};
pub use self::url::TransportUrl;
pub use self::watermark::{Watermark, WatermarkError};

/// Gives messages into a broker's custody.
#[async_trait]
pub trait Publisher: Send + Sync + Debug {
    /// Returns when the broker has durably taken every message of `batch`.
    ///
    /// Messages of one key and destination are taken in the order of the batch. A destination that nobody reads is no
    /// error unless the transport is configured so.
    ///
    /// # Errors
    /// [`PublishError`] names, and gives back, each message that the broker did not take, or of which that is unknown.
    ///
    /// # Cancel safety
    /// Dropping the future leaves it open which messages were taken; publishing them again may duplicate them.
    async fn publish(&self, batch: Vec<Outgoing>) -> Result<(), PublishError>;

    /// Takes `message` at once, where the broker can do that without waiting for anything; else gives it back, to go
    /// through [`Publisher::publish`]. `_now` is the publisher's time, so that the clock is read once.
    ///
    /// What it takes is as durably the broker's as what `publish` has taken; where it gives a message back, nothing has
    /// happened. A transport whose confirmations come from elsewhere leaves this as it is. A decorator that has to see
    /// every message leaves it as well: then all of them go through its `publish`.
    ///
    /// # Errors
    /// The message, where it was not taken.
    fn try_publish(&self, message: Outgoing, _now: Timestamp) -> Result<(), Outgoing> {
        Err(message)
    }
}

/// Hands out what a broker holds for a reader.
#[async_trait]
pub trait Subscriber: Send + Sync + Debug {
    /// Begins to receive what `subscription` asks for; the group is declared where it is not yet.
    ///
    /// # Errors
    /// [`TransportError`]: permanent where the broker refuses it for good (credentials, an unknown option, a topic that
    /// may not exist), temporary where it cannot be reached now.
    async fn subscribe(&self, subscription: &Subscription) -> Result<Box<dyn Deliveries>, TransportError>;
}

/// A running subscription.
///
/// Dropping it gives everything back that is unsettled.
#[async_trait]
pub trait Deliveries: Send + Debug {
    /// Waits for at least one message and appends at most `max` to `into`.
    ///
    /// A lost connection is repaired inside and is not the end. After [`Deliveries::stop`] it appends what had been
    /// fetched before, if anything, and then returns without a message.
    ///
    /// # Errors
    /// [`TransportError`]: temporary ones may be tried again, anything else ends the subscription.
    ///
    /// # Cancel safety
    /// Dropping the future loses no message.
    async fn receive(&mut self, max: usize, into: &mut VecDeque<Delivery>) -> Result<(), TransportError>;

    /// Fetches no more; what is in hand can still be settled.
    fn stop(&mut self);

    /// Waits until the broker has taken every settlement that was handed over before the call.
    ///
    /// # Errors
    /// [`TransportError`] where the broker did not take them; their messages will come again.
    async fn flush(&mut self) -> Result<(), TransportError>;

    /// Stops, gives back what is unsettled, and leaves.
    ///
    /// # Errors
    /// [`TransportError`] where the broker could not be told; it finds out by itself later.
    async fn close(&mut self) -> Result<(), TransportError>;
}

/// How a transport is.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Health {
    /// Connected; messages can flow.
    Up,
    /// Not connected, and why; it is being tried again.
    Down(String),
}

/// A broker: publishes, subscribes, says what it can do.
#[async_trait]
pub trait Transport: Publisher + Subscriber {
    /// The kind of broker, as URLs and metrics name it: `memory`, `sqlite`, `mqtt`, ….
    fn system(&self) -> &'static str;

    /// What it can do, proven by the conformance suite in both directions.
    fn capabilities(&self) -> Capabilities;

    /// Makes what `declarations` name, before the first publish; what exists already is left as it is.
    ///
    /// # Errors
    /// [`TransportError`] naming the thing that cannot be made, or that exists with other properties.
    async fn declare(&self, declarations: &[Declaration]) -> Result<(), TransportError>;

    /// Whether it is connected.
    async fn health(&self) -> Health;

    /// What operators can ask of it, where it can answer.
    fn operate(&self) -> Option<&dyn Operate> {
        None
    }

    /// Flushes what was published, ends every subscription and closes the connection. Later calls fail as closed.
    ///
    /// # Errors
    /// [`TransportError`] where messages that were not confirmed are left.
    async fn close(&self) -> Result<(), TransportError>;
}

/// Both halves of a shared transport.
#[must_use]
pub fn halves(transport: Arc<dyn Transport>) -> (Arc<dyn Publisher>, Arc<dyn Subscriber>) {
    (transport.clone(), transport)
}

/// Passes every call of the contract on to what a pointer holds.
macro_rules! forward {
    ($pointer:ident) => {
        #[async_trait]
        impl<T: Publisher + ?Sized> Publisher for $pointer<T> {
            async fn publish(&self, batch: Vec<Outgoing>) -> Result<(), PublishError> {
                (**self).publish(batch).await
            }
            fn try_publish(&self, message: Outgoing, now: Timestamp) -> Result<(), Outgoing> {
                (**self).try_publish(message, now)
            }
        }

        #[async_trait]
        impl<T: Subscriber + ?Sized> Subscriber for $pointer<T> {
            async fn subscribe(
                &self,
                subscription: &Subscription,
            ) -> Result<Box<dyn Deliveries>, TransportError> {
                (**self).subscribe(subscription).await
            }
        }

        #[async_trait]
        impl<T: Transport + ?Sized> Transport for $pointer<T> {
            fn system(&self) -> &'static str {
                (**self).system()
            }
            fn capabilities(&self) -> Capabilities {
                (**self).capabilities()
            }
            async fn declare(&self, declarations: &[Declaration]) -> Result<(), TransportError> {
                (**self).declare(declarations).await
            }
            async fn health(&self) -> Health {
                (**self).health().await
            }
            fn operate(&self) -> Option<&dyn Operate> {
                (**self).operate()
            }
            async fn close(&self) -> Result<(), TransportError> {
                (**self).close().await
            }
        }
    };
}

forward!(Arc);
forward!(Box);

/// Must compile: the contract is what configuration chooses from at run time.
#[allow(dead_code)]
fn object_safe(
    _: &dyn Publisher,
    _: &dyn Subscriber,
    _: &dyn Transport,
    _: &mut dyn Deliveries,
    _: &dyn Operate,
) {
}

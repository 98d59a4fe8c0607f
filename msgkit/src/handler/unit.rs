//! What a handler does and publishes as one unit: a slot of the pipeline.

use std::any::Any;
use std::fmt::Debug;
use std::sync::Arc;

use async_trait::async_trait;

use super::context::HandlerIdentity;
use super::error::HandlerError;
use crate::envelope::Envelope;

/// Begins a unit of work for each attempt: as a rule a transaction of the application's database, in which the handler
/// writes and which takes what the handler publishes along (an outbox).
///
/// Without one, what a handler publishes is confirmed by the broker before its message is settled.
#[async_trait]
pub trait UnitOfWork: Send + Sync + Debug + 'static {
    /// Begins the unit of one attempt.
    ///
    /// # Errors
    /// Where it cannot be begun now; that is an outage and costs the message no attempt.
    async fn begin(
        &self,
        envelope: &Envelope,
        identity: &HandlerIdentity,
    ) -> Result<Box<dyn Unit>, HandlerError>;
}

/// The unit of one attempt. Dropping it without a commit rolls it back: that is what a timeout, a panic and a shutdown do.
#[async_trait]
pub trait Unit: Send + Sync {
    /// What the handler finds by its type in [`Context::unit`](super::Context::unit): the open transaction, behind a lock.
    fn shared(&self) -> Arc<dyn Any + Send + Sync>;

    /// Commits what the handler has done, with what it has published. Gives back what is still to be published before the
    /// message is settled: nothing where the unit keeps it and relays it later, everything where it keeps none.
    ///
    /// If the process dies after the commit and before the message is settled, the message is handled again, and
    /// publishes the same ids again.
    ///
    /// # Errors
    /// Where nothing was committed; the attempt has failed.
    async fn commit(self: Box<Self>, published: Vec<Envelope>) -> Result<Vec<Envelope>, HandlerError>;

    /// Undoes what a failing handler has done.
    async fn roll_back(self: Box<Self>);
}

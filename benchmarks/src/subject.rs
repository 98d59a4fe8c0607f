//! What a framework has to offer to be measured.

use crate::{Scenario, work::Work};

/// One framework, with a service running for one scenario on its in-memory transport.
///
/// The service is what a user would write: typed messages, the default policy, no private API. One handler per service
/// takes every message and calls [`Work::handle`], or [`Work::try_handle`] where retries are measured.
#[expect(async_fn_in_trait, reason = "only this crate calls it, on a runtime that needs no `Send`")]
pub trait Subject: Sized {
    /// Starts a service for `scenario`; it is ready to receive when this returns.
    ///
    /// # Errors
    /// As the framework's own start.
    async fn start(scenario: Scenario, work: Work) -> anyhow::Result<Self>;

    /// Publishes the message at `index`, typed, in the way that the framework offers to code outside a handler.
    ///
    /// # Errors
    /// As the framework's own publish.
    async fn publish(&self, index: u64) -> anyhow::Result<()>;

    /// Stops the service and waits for it.
    ///
    /// # Errors
    /// As the framework's own shutdown.
    async fn stop(self) -> anyhow::Result<()>;
}

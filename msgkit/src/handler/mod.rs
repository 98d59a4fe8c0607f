//! User code for message types, and how the service holds it.
//!
//! A user implements [`Handle`] for each message type and derives [`Handler`], which says group and policy. The service
//! sees only a [`HandlerSpec`]: a list of [`Registration`]s, each of which makes one coroutine per lane. The coroutine is
//! the typed part (decode, call, encode what is returned); the lane around it is the same code for all.

mod batch;
mod closure;
mod context;
mod error;
mod inbox;
#[cfg(feature = "tower")]
mod layered;
mod outbox;
mod registration;
mod slot;
mod spec;
mod unit;

use std::future::Future;
use std::sync::Arc;

pub(crate) use self::batch::BatchRegistration;
pub use self::batch::{Batch, BatchOutcome, HandleBatch, batch};
pub use self::closure::closure;
pub(crate) use self::context::ContextParts;
pub use self::context::{Context, HandlerIdentity, State};
pub use self::error::{Disposition, HandlerError};
pub use self::inbox::{Inbox, MemoryInbox};
#[cfg(feature = "tower")]
pub use self::layered::{Call, Innermost, layered};
pub use self::outbox::{IntoMessages, Outbox};
pub use self::registration::{BoxedCoroutine, Coroutine, Registration, register};
pub(crate) use self::slot::{Failure, Slot};
pub use self::spec::{HandlerSpec, PolicyOverrides};
pub use self::unit::{Unit, UnitOfWork};
use crate::error::Error;

/// Handles one message type; `R` is what to publish: nothing, one message, several, maybe one.
///
/// Write a plain `async fn`:
///
/// ```
/// # use msgkit::{Context, Handle, HandlerError};
/// struct Greet;
/// impl Handle<String> for Greet {
///     async fn handle(&self, name: String, _cx: &Context) -> Result<(), HandlerError> {
///         println!("hello, {name}");
///         Ok(())
///     }
/// }
/// ```
#[diagnostic::on_unimplemented(
    message = "`{Self}` does not handle `{M}`",
    label = "`impl Handle<{M}> for {Self}` is missing",
    note = "write `impl Handle<{M}> for {Self} {{ async fn handle(&self, message: {M}, cx: &Context) -> Result<(), HandlerError> {{ … }} }}`"
)]
pub trait Handle<M, R = (), E = HandlerError>: Send + Sync + 'static {
    /// Handles `message`; an error is retried by the policy unless it says otherwise.
    ///
    /// # Cancel safety
    /// The future is dropped where it takes longer than the policy's timeout or than a shutdown waits.
    fn handle(&self, message: M, cx: &Context) -> impl Future<Output = Result<R, E>> + Send;
}

/// Something that handles messages of one group: what a service is given.
///
/// Derived as a rule (`#[derive(Handler)]`); by hand it returns a [`HandlerSpec`].
#[diagnostic::on_unimplemented(
    message = "`{Self}` is not a handler",
    label = "not a handler",
    note = "add `#[derive(Handler)]` and `#[handler(message = …, group = \"…\")]` to `{Self}`"
)]
pub trait Handler: Send + Sync + Sized + 'static {
    /// What it handles and how.
    ///
    /// # Errors
    /// Where a name in it breaks its grammar.
    fn spec(self: Arc<Self>) -> Result<HandlerSpec, Error>;
}

//! `tower` layers around a handler: limits, load shedding, whatever the ecosystem has.

use std::future::{Future, poll_fn};
use std::marker::PhantomData;
use std::pin::Pin;
use std::sync::Arc;
use std::task::Poll;

use tower_layer::Layer;
use tower_service::Service;

use super::closure::closure;
use super::context::Context;
use super::error::HandlerError;
use super::outbox::IntoMessages;
use super::registration::Registration;
use crate::error::BoxError;
use crate::message::Message;

/// One call of a handler, as layers see it.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Call<M> {
    /// The message.
    pub message: M,
    /// What the handler knows besides it.
    pub cx: Context,
}

/// The innermost service: the handler itself.
pub struct Innermost<M, R, F> {
    handler: Arc<F>,
    types: PhantomData<fn(M) -> R>,
}

impl<M, R, F> Clone for Innermost<M, R, F> {
    fn clone(&self) -> Self {
        Self { handler: self.handler.clone(), types: PhantomData }
    }
}

impl<M, R, F> std::fmt::Debug for Innermost<M, R, F> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Innermost").finish_non_exhaustive()
    }
}

impl<M, R, F, Fut> Service<Call<M>> for Innermost<M, R, F>
where
    F: Fn(M, Context) -> Fut,
    Fut: Future<Output = Result<R, HandlerError>> + Send + 'static,
{
    type Response = R;
    type Error = BoxError;
    type Future = Pin<Box<dyn Future<Output = Result<R, BoxError>> + Send>>;

    fn poll_ready(&mut self, _: &mut std::task::Context<'_>) -> Poll<Result<(), BoxError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, Call { message, cx }: Call<M>) -> Self::Future {
        let handling = (self.handler)(message, cx);
        Box::pin(async move { handling.await.map_err(HandlerError::into_boxed) })
    }
}

/// The registration of `handler` with `layer` around it: one layer, or a stack from `tower::ServiceBuilder`.
///
/// The layered service is cloned for each call, as everywhere in `tower`; a layer that limits shares its limit between
/// clones. An error of a layer (shed load, a timeout) is retried by the policy; what the handler itself answered
/// ([`HandlerError::permanent`], `retry_after`, `discard`) survives the way through the layers.
///
/// ```
/// # use msgkit::{Context, Error, HandlerError, Message, Topic, handler::{HandlerSpec, layered}};
/// # use serde::{Deserialize, Serialize};
/// # #[derive(Serialize, Deserialize)] struct Placed { id: u32 }
/// # impl Message for Placed {
/// #     type Codec = msgkit::codec::Json;
/// #     const NAME: &'static str = "orders.placed";
/// #     const TOPIC: &'static str = "orders";
/// #     fn topic(&self) -> Result<Topic, Error> { Self::template()?.render(&[]) }
/// # }
/// # fn main() -> Result<(), Error> {
/// use tower::limit::ConcurrencyLimitLayer;
///
/// // Eight lanes take messages, and no more than two of them call the shop at the same time.
/// let spec = HandlerSpec::new("ship", "shipping")?.concurrency(8).with(layered(
///     ConcurrencyLimitLayer::new(2),
///     |order: Placed, _cx: Context| async move { Ok(println!("order {}", order.id)) },
/// ));
/// # Ok(()) }
/// ```
#[must_use]
pub fn layered<M, R, F, Fut, L>(layer: L, handler: F) -> Registration
where
    M: Message,
    R: IntoMessages + 'static,
    F: Fn(M, Context) -> Fut + Send + Sync + 'static,
    Fut: Future<Output = Result<R, HandlerError>> + Send + 'static,
    L: Layer<Innermost<M, R, F>>,
    L::Service:
        Service<Call<M>, Response = R, Error: Into<BoxError>, Future: Send> + Clone + Send + Sync + 'static,
{
    let service = layer.layer(Innermost { handler: Arc::new(handler), types: PhantomData });
    closure(move |message: M, cx: Context| {
        let mut service = service.clone();
        async move {
            poll_fn(|task| service.poll_ready(task))
                .await
                .map_err(|error| HandlerError::from(error.into()))?;
            service.call(Call { message, cx }).await.map_err(|error| HandlerError::from(error.into()))
        }
    })
}

//! Handlers that are closures: `service.on("group", |event: LoginSucceeded, cx| async move { … })`.

use std::future::Future;
use std::marker::PhantomData;
use std::sync::Arc;

use super::context::Context;
use super::error::HandlerError;
use super::outbox::IntoMessages;
use super::registration::{BoxedCoroutine, Coroutine, Registration, publish};
use super::slot::{Failure, Slot};
use crate::message::Message;

/// The registration of a closure for `M`.
#[must_use]
pub fn closure<M, R, F, Fut>(handler: F) -> Registration
where
    M: Message,
    R: IntoMessages + 'static,
    F: Fn(M, Context) -> Fut + Send + Sync + 'static,
    Fut: Future<Output = Result<R, HandlerError>> + Send + 'static,
{
    Registration {
        name: M::NAME,
        template: M::TOPIC,
        coroutine: Arc::new(Closure { handler: Arc::new(handler), types: PhantomData }),
        batch: None,
        returns: R::message_types,
    }
}

struct Closure<F, M, R> {
    handler: Arc<F>,
    types: PhantomData<fn(M) -> R>,
}

impl<M, R, F, Fut> Coroutine for Closure<F, M, R>
where
    M: Message,
    R: IntoMessages + 'static,
    F: Fn(M, Context) -> Fut + Send + Sync + 'static,
    Fut: Future<Output = Result<R, HandlerError>> + Send + 'static,
{
    fn start(&self, slot: Arc<Slot>) -> BoxedCoroutine {
        let handler = self.handler.clone();
        Box::pin(async move {
            let mut cx = slot.next().await;
            loop {
                let outcome = match M::decode(cx.envelope()) {
                    Ok(message) => match handler(message, cx.clone()).await {
                        Ok(returned) => publish(returned, &cx),
                        Err(error) => Err(Failure::handler(error)),
                    },
                    Err(error) => Err(Failure::decode(error)),
                };
                cx = slot.report(cx, outcome, M::NAME).await;
            }
        })
    }
}

//! How a typed handler becomes something that a lane can run.

use std::fmt;
use std::future::Future;
use std::marker::PhantomData;
use std::pin::Pin;
use std::sync::Arc;

use super::Handle;
use super::context::Context;
use super::error::HandlerError;
use super::outbox::IntoMessages;
use super::slot::{Failure, Slot};
use crate::error::Error;
use crate::message::Message;
use crate::topic::TopicTemplate;

/// The typed part of a handler, made once per lane and driven by it.
pub type BoxedCoroutine = Pin<Box<dyn Future<Output = ()> + Send>>;

/// Makes coroutines that take attempts from a slot and put outcomes back, for ever.
pub trait Coroutine: Send + Sync {
    /// A new one on `slot`.
    fn start(&self, slot: Arc<Slot>) -> BoxedCoroutine;
}

/// One message type of a handler.
#[derive(Clone)]
pub struct Registration {
    pub(crate) name: &'static str,
    pub(crate) template: &'static str,
    pub(crate) coroutine: Arc<dyn Coroutine>,
    pub(crate) batch: Option<super::batch::BatchRegistration>,
    /// Tells the types of what it returns.
    pub(crate) returns: fn(&mut Vec<(&'static str, &'static str)>),
}

impl Registration {
    /// The wire name of the message.
    #[must_use]
    pub fn name(&self) -> &'static str {
        self.name
    }

    /// The topic template of the message.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidName`](crate::ErrorKind::InvalidName) where it breaks the grammar.
    pub fn template(&self) -> Result<TopicTemplate, Error> {
        TopicTemplate::new(crate::Text::from_static(self.template))
    }
}

impl fmt::Debug for Registration {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Registration")
            .field("name", &self.name)
            .field("topic", &self.template)
            .finish_non_exhaustive()
    }
}

/// The registration of `handler` for `M`.
#[must_use]
pub fn register<H, M, R, E>(handler: &Arc<H>) -> Registration
where
    H: Handle<M, R, E>,
    M: Message,
    R: IntoMessages + 'static,
    E: Into<HandlerError> + Send + 'static,
{
    Registration {
        name: M::NAME,
        template: M::TOPIC,
        coroutine: Arc::new(Typed { handler: handler.clone(), types: PhantomData }),
        batch: None,
        returns: R::message_types,
    }
}

/// What a coroutine needs of the types: phantom, and never sent anywhere.
type Types<M, R, E> = PhantomData<fn(M) -> (R, E)>;

struct Typed<H, M, R, E> {
    handler: Arc<H>,
    types: Types<M, R, E>,
}

impl<H, M, R, E> Coroutine for Typed<H, M, R, E>
where
    H: Handle<M, R, E>,
    M: Message,
    R: IntoMessages + 'static,
    E: Into<HandlerError> + Send + 'static,
{
    fn start(&self, slot: Arc<Slot>) -> BoxedCoroutine {
        let handler = self.handler.clone();
        Box::pin(async move {
            let mut cx = slot.next().await;
            loop {
                let outcome = match M::decode(cx.envelope()) {
                    Ok(message) => match handler.handle(message, &cx).await {
                        Ok(returned) => publish(returned, &cx),
                        Err(error) => Err(Failure::handler(error.into())),
                    },
                    Err(error) => Err(Failure::decode(error)),
                };
                cx = slot.report(cx, outcome, M::NAME).await;
            }
        })
    }
}

/// Hands what a handler returned to the outbox; what cannot be written will not be writable later either.
pub(super) fn publish<R: IntoMessages>(returned: R, cx: &Context) -> Result<(), Failure> {
    returned.into_messages(cx).map_err(|error| Failure::handler(HandlerError::permanent(error)))
}

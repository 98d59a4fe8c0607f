//! What a handler knows besides its message.

use std::any::{Any, TypeId};
use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::outbox::{Origin, Outbox};
use crate::envelope::{Clock, Envelope};
use crate::error::Error;
use crate::message::{self, Message};
use crate::service::PublishHandle;
use crate::text::Text;

/// Values that all handlers of a service share, by type.
#[derive(Clone, Default)]
pub struct State(Arc<HashMap<TypeId, Arc<dyn Any + Send + Sync>>>);

impl State {
    pub(crate) fn insert<T: Send + Sync + 'static>(&mut self, value: T) {
        Arc::make_mut(&mut self.0).insert(TypeId::of::<T>(), Arc::new(value));
    }

    fn get<T: Send + Sync + 'static>(&self) -> Option<Arc<T>> {
        self.0.get(&TypeId::of::<T>())?.clone().downcast().ok()
    }
}

impl fmt::Debug for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "State({} values)", self.0.len())
    }
}

/// Who handles: part of every derived id, dead letter and log line.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct HandlerIdentity {
    /// The service.
    pub service: Text,
    /// The handler.
    pub handler: Text,
    /// The group; the service's name where the subscription is ephemeral.
    pub group: Text,
}

impl HandlerIdentity {
    /// `handler` of `group` in `service`.
    pub fn new(service: impl Into<Text>, handler: impl Into<Text>, group: impl Into<Text>) -> Self {
        Self { service: service.into(), handler: handler.into(), group: group.into() }
    }
}

/// What a handler knows besides its message: the envelope, the attempt, and the way to publish more.
///
/// Cheap to clone. What is published through it becomes part of the message's flow.
#[derive(Clone)]
pub struct Context(Arc<Inner>);

struct Inner {
    envelope: Envelope,
    attempt: u32,
    parts: Arc<ContextParts>,
    outbox: Mutex<Outbox>,
}

/// What stays the same for all messages of one handler.
#[derive(Debug)]
pub(crate) struct ContextParts {
    pub(crate) identity: HandlerIdentity,
    pub(crate) publisher: PublishHandle,
    pub(crate) state: State,
    pub(crate) clock: Clock,
}

impl Context {
    pub(crate) fn new(parts: Arc<ContextParts>, envelope: Envelope, attempt: u32) -> Self {
        Self(Arc::new(Inner { envelope, attempt, parts, outbox: Mutex::default() }))
    }

    /// Makes it the context of another attempt; a new one where the handler kept the old one.
    pub(crate) fn reset(&mut self, envelope: &Envelope, attempt: u32) {
        if let Some(inner) = Arc::get_mut(&mut self.0) {
            inner.envelope = envelope.clone();
            inner.attempt = attempt;
            inner.outbox.get_mut().unwrap_or_else(PoisonError::into_inner).clear();
        } else {
            *self = Self::new(self.0.parts.clone(), envelope.clone(), attempt);
        }
    }

    /// A context for a unit test of a handler: what it publishes is found in [`Context::published`].
    #[must_use]
    pub fn test(envelope: Envelope) -> Self {
        Self::new(
            Arc::new(ContextParts {
                identity: HandlerIdentity::new("test", "test", "test"),
                publisher: PublishHandle::detached("test"),
                state: State::default(),
                clock: Clock::system(),
            }),
            envelope,
            1,
        )
    }

    /// The message's metadata, headers and raw payload.
    #[must_use]
    pub fn envelope(&self) -> &Envelope {
        &self.0.envelope
    }

    /// Which attempt this is, from 1, counted over all retries.
    #[must_use]
    pub fn attempt(&self) -> u32 {
        self.0.attempt
    }

    /// Who handles.
    #[must_use]
    pub fn identity(&self) -> &HandlerIdentity {
        &self.0.parts.identity
    }

    /// The clock of the service, which a test can turn.
    #[must_use]
    pub fn clock(&self) -> Clock {
        self.0.parts.clock
    }

    /// The shared value of type `T`, as given to [`Service::state`](crate::Service::state).
    #[must_use]
    pub fn state<T: Send + Sync + 'static>(&self) -> Option<Arc<T>> {
        self.0.parts.state.get()
    }

    /// Publishes `message` once the handler has succeeded and before its own message is settled.
    ///
    /// # Errors
    /// Where its topic cannot be rendered or its payload not be written.
    pub fn publish<M: Message>(&self, message: &M) -> Result<(), Error> {
        self.outbox().push(message, self.origin())
    }

    /// As [`Context::publish`], with headers, key or expiry set on the envelope by `edit`.
    ///
    /// # Errors
    /// As [`Context::publish`].
    pub fn publish_with<M: Message>(
        &self,
        message: &M,
        edit: impl FnOnce(&mut Envelope),
    ) -> Result<(), Error> {
        let mut envelope =
            message::envelope(message, &self.0.parts.identity.service, self.0.parts.clock.now())?;
        edit(&mut envelope);
        self.outbox().push_envelope(envelope, self.origin());
        Ok(())
    }

    /// Publishes `message` at once, whatever becomes of the handler, and returns when the broker holds it.
    ///
    /// # Errors
    /// [`ErrorKind::Transport`](crate::ErrorKind::Transport) where the broker did not take it; else as [`Context::publish`].
    pub async fn publish_now<M: Message>(&self, message: &M) -> Result<(), Error> {
        let envelope = message::envelope(message, &self.0.parts.identity.service, self.0.parts.clock.now())?;
        let envelope = self.outbox().published(envelope, self.origin());
        self.0.parts.publisher.publish_envelopes(vec![envelope]).await
    }

    /// What the unit of work of this attempt shares, by its type: an open transaction. `None` without a unit of work.
    #[must_use]
    pub fn unit<T: Send + Sync + 'static>(&self) -> Option<Arc<T>> {
        self.outbox().unit.clone()?.downcast().ok()
    }

    pub(crate) fn set_unit(&self, unit: Arc<dyn Any + Send + Sync>) {
        self.outbox().unit = Some(unit);
    }

    /// What waits to be published when the handler succeeds, in order.
    #[must_use]
    pub fn published(&self) -> Vec<Envelope> {
        self.outbox().waiting().to_vec()
    }

    /// Whether the handler published anything that waits.
    pub(crate) fn has_outbox(&mut self) -> bool {
        match Arc::get_mut(&mut self.0) {
            Some(inner) => !inner.outbox.get_mut().unwrap_or_else(PoisonError::into_inner).is_empty(),
            None => !self.outbox().is_empty(),
        }
    }

    pub(crate) fn take_outbox(&mut self) -> Vec<Envelope> {
        if let Some(inner) = Arc::get_mut(&mut self.0) {
            let outbox = inner.outbox.get_mut().unwrap_or_else(PoisonError::into_inner);
            if outbox.is_empty() { Vec::new() } else { outbox.take() }
        } else {
            self.outbox().take()
        }
    }

    fn origin(&self) -> Origin<'_> {
        let parts = &*self.0.parts;
        Origin {
            cause: &self.0.envelope,
            service: &parts.identity.service,
            group: &parts.identity.group,
            handler: &parts.identity.handler,
            now: parts.clock.now(),
        }
    }

    fn outbox(&self) -> MutexGuard<'_, Outbox> {
        self.0.outbox.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for Context {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Context")
            .field("envelope", &self.0.envelope)
            .field("attempt", &self.0.attempt)
            .field("handler", &self.0.parts.identity.handler)
            .finish_non_exhaustive()
    }
}

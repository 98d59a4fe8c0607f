//! What a handler publishes: collected during the attempt, published before its message is settled.

use std::any::Any;
use std::sync::Arc;

use crate::envelope::{Envelope, MessageId, Timestamp};
use crate::error::Error;
use crate::message::{self, Message};
use crate::text::Text;
use crate::topic::Topic;

/// The messages of one attempt, in order.
///
/// Each gets its id from its cause (promise 7): the id of the handled message, group, handler, type, topic, key, and
/// how many like it there were before. A second run that publishes the same again publishes the same ids.
#[derive(Debug, Default)]
pub struct Outbox {
    waiting: Vec<Envelope>,
    /// What was published at once, so that it counts among its like.
    published: Vec<(Text, Topic, Option<Text>)>,
    /// What the unit of work of this attempt shares with the handler.
    pub(super) unit: Option<Arc<dyn Any + Send + Sync>>,
}

/// Who publishes, and because of what: the parts of a derived id besides the message itself.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Origin<'a> {
    pub(crate) cause: &'a Envelope,
    pub(crate) service: &'a Text,
    pub(crate) group: &'a str,
    pub(crate) handler: &'a str,
    pub(crate) now: Timestamp,
}

impl Outbox {
    pub(crate) fn push<M: Message>(&mut self, message: &M, origin: Origin<'_>) -> Result<(), Error> {
        let envelope = message::envelope(message, origin.service, origin.now)?;
        self.push_envelope(envelope, origin);
        Ok(())
    }

    pub(crate) fn push_envelope(&mut self, envelope: Envelope, origin: Origin<'_>) {
        let envelope = self.caused(envelope, origin);
        self.waiting.push(envelope);
    }

    /// An envelope that is published at once instead of with the others; it counts among its like all the same.
    pub(crate) fn published(&mut self, envelope: Envelope, origin: Origin<'_>) -> Envelope {
        let envelope = self.caused(envelope, origin);
        self.published.push((
            envelope.kind().into(),
            envelope.topic().clone(),
            envelope.key().map(Text::from),
        ));
        envelope
    }

    fn caused(&self, mut envelope: Envelope, origin: Origin<'_>) -> Envelope {
        let nth = self.like(&envelope);
        let id = origin.cause.id().with_str(|cause| {
            MessageId::derived(&[
                cause.as_bytes(),
                origin.group.as_bytes(),
                origin.handler.as_bytes(),
                envelope.kind().as_bytes(),
                envelope.topic().as_str().as_bytes(),
                envelope.key().unwrap_or_default().as_bytes(),
                &nth.to_be_bytes(),
            ])
        });
        envelope.set_cause(origin.cause);
        envelope.set_id(id);
        envelope
    }

    fn like(&self, envelope: &Envelope) -> u32 {
        let waiting = self.waiting.iter().filter(|other| {
            other.kind() == envelope.kind()
                && other.topic() == envelope.topic()
                && other.key() == envelope.key()
        });
        let published = self.published.iter().filter(|(kind, topic, key)| {
            kind == envelope.kind() && topic == envelope.topic() && key.as_deref() == envelope.key()
        });
        u32::try_from(waiting.count() + published.count()).unwrap_or(u32::MAX)
    }

    /// Whether nothing waits to be published.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }

    /// What waits to be published, in order.
    #[must_use]
    pub fn waiting(&self) -> &[Envelope] {
        &self.waiting
    }

    pub(crate) fn take(&mut self) -> Vec<Envelope> {
        std::mem::take(&mut self.waiting)
    }

    pub(crate) fn clear(&mut self) {
        self.waiting.clear();
        self.published.clear();
        self.unit = None;
    }
}

/// What a handler may return: nothing, one message, several, maybe one, or a tuple of those.
#[diagnostic::on_unimplemented(
    message = "`{Self}` cannot be published",
    label = "a handler returns nothing, a message, `Option`, `Vec` or a tuple of messages",
    note = "derive `Message` for it, or return `()`"
)]
pub trait IntoMessages: Send {
    /// Hands each message to `cx`, in order.
    ///
    /// # Errors
    /// Where a topic cannot be rendered or a payload not be written.
    fn into_messages(self, cx: &super::Context) -> Result<(), Error>;

    /// Adds name and topic of each message type that it may hold: what the catalog says of the handler.
    fn message_types(_types: &mut Vec<(&'static str, &'static str)>)
    where
        Self: Sized,
    {
    }
}

impl IntoMessages for () {
    fn into_messages(self, _: &super::Context) -> Result<(), Error> {
        Ok(())
    }
}

impl<M: Message> IntoMessages for M {
    fn into_messages(self, cx: &super::Context) -> Result<(), Error> {
        cx.publish(&self)
    }
    fn message_types(types: &mut Vec<(&'static str, &'static str)>) {
        types.push((M::NAME, M::TOPIC));
    }
}

impl<M: IntoMessages> IntoMessages for Option<M> {
    fn into_messages(self, cx: &super::Context) -> Result<(), Error> {
        self.map_or(Ok(()), |message| message.into_messages(cx))
    }
    fn message_types(types: &mut Vec<(&'static str, &'static str)>) {
        M::message_types(types);
    }
}

impl<M: IntoMessages> IntoMessages for Vec<M> {
    fn into_messages(self, cx: &super::Context) -> Result<(), Error> {
        self.into_iter().try_for_each(|message| message.into_messages(cx))
    }
    fn message_types(types: &mut Vec<(&'static str, &'static str)>) {
        M::message_types(types);
    }
}

macro_rules! tuples {
    ($($name:ident)+) => {
        impl<$($name: IntoMessages),+> IntoMessages for ($($name,)+) {
            #[allow(non_snake_case)]
            fn into_messages(self, cx: &super::Context) -> Result<(), Error> {
                let ($($name,)+) = self;
                $($name.into_messages(cx)?;)+
                Ok(())
            }
            fn message_types(types: &mut Vec<(&'static str, &'static str)>) {
                $($name::message_types(types);)+
            }
        }
    };
}

tuples!(A);
tuples!(A B);
tuples!(A B C);
tuples!(A B C D);

//! What a typed payload says of itself.

use std::borrow::Cow;

use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::codec::{self, Codec};
use crate::envelope::{Envelope, Payload, Timestamp};
use crate::error::Error;
use crate::text::Text;
use crate::topic::{Topic, TopicTemplate};

/// A typed payload with a stable wire name: what is published and handled.
///
/// Derived as a rule (`#[derive(Message)]`); by hand it is this:
///
/// ```
/// use msgkit::{Message, Topic, codec::Json, Error};
/// use serde::{Deserialize, Serialize};
///
/// #[derive(Serialize, Deserialize)]
/// struct TelemetryReported { device_id: String, temperature: f64 }
///
/// impl Message for TelemetryReported {
///     type Codec = Json;
///     const NAME: &'static str = "device.telemetry.reported";
///     const TOPIC: &'static str = "device.{device_id}.telemetry";
///     fn topic(&self) -> Result<Topic, Error> {
///         Self::template()?.render(&[&self.device_id])
///     }
///     fn key(&self) -> Option<std::borrow::Cow<'_, str>> {
///         Some(self.device_id.as_str().into())
///     }
/// }
/// ```
#[diagnostic::on_unimplemented(
    message = "`{Self}` is not a message",
    label = "not a message",
    note = "add `#[derive(Serialize, Deserialize, Message)]` and `#[message(name = \"…\", topic = \"…\")]` to `{Self}`"
)]
pub trait Message: Serialize + DeserializeOwned + Send + 'static {
    /// How its payload is written.
    type Codec: Codec;

    /// The wire name, CloudEvents' `type`; a breaking change gets a new one (`….v2`).
    const NAME: &'static str;

    /// The topic template, `device.{device_id}.telemetry`.
    const TOPIC: &'static str;

    /// The topic of this very message.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidName`](crate::ErrorKind::InvalidName) where the fields make it longer than 255 bytes.
    fn topic(&self) -> Result<Topic, Error>;

    /// The ordering key; messages of one key stay in order where the policy asks for it.
    fn key(&self) -> Option<Cow<'_, str>> {
        None
    }

    /// What the message is about, CloudEvents' `subject`.
    fn subject(&self) -> Option<Cow<'_, str>> {
        None
    }

    /// The topic template, read.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidName`](crate::ErrorKind::InvalidName) where [`Message::TOPIC`] breaks the grammar; the derive
    /// checks it at compile time.
    fn template() -> Result<TopicTemplate, Error> {
        TopicTemplate::new(Text::from_static(Self::TOPIC))
    }

    /// The payload.
    ///
    /// # Errors
    /// [`ErrorKind::Encode`](crate::ErrorKind::Encode) where the codec cannot express it.
    fn encode(&self) -> Result<Payload, Error> {
        codec::encode::<Self::Codec, _>(Self::NAME, self)
    }

    /// The message of an envelope's payload, read by its content type.
    ///
    /// # Errors
    /// [`ErrorKind::Decode`](crate::ErrorKind::Decode) where the bytes are no such message.
    fn decode(envelope: &Envelope) -> Result<Self, Error> {
        codec::decode::<Self::Codec, _>(Self::NAME, envelope.content_type(), envelope.payload())
    }
}

/// The envelope of `message` at the source of a flow.
///
/// # Errors
/// Where the topic cannot be rendered or the payload not be written.
pub fn envelope<M: Message>(message: &M, source: &Text, now: Timestamp) -> Result<Envelope, Error> {
    let mut envelope = Envelope::with_payload(
        source.clone(),
        Text::from_static(M::NAME),
        message.topic()?,
        M::Codec::CONTENT_TYPE,
        message.encode()?,
        now,
    );
    if let Some(key) = message.key() {
        envelope.set_key(Some(Text::from(key.into_owned())));
    }
    if let Some(subject) = message.subject() {
        envelope.set_subject(Some(Text::from(subject.into_owned())));
    }
    Ok(envelope)
}

//! How payloads are written: JSON by default, MessagePack where it is asked for, chosen per message.
//!
//! A payload is read by what its envelope says it is, so a service understands both whatever it writes itself.
//! Adding a codec is implementing [`Codec`] and naming it in the message: `#[message(codec = Cbor)]`.

mod json;
#[cfg(feature = "messagepack")]
mod messagepack;

use std::cell::RefCell;

use serde::Serialize;
use serde::de::DeserializeOwned;

pub use self::json::Json;
#[cfg(feature = "messagepack")]
pub use self::messagepack::MessagePack;
use crate::envelope::{ContentType, Payload};
use crate::error::{BoxError, Error, ErrorKind};

/// A way to write a payload.
pub trait Codec: Send + Sync + 'static {
    /// The media type that is written into the envelope.
    const CONTENT_TYPE: ContentType;

    /// Whether payloads of `content_type` can be read.
    fn reads(content_type: &ContentType) -> bool;

    /// Writes `value` at the end of `buffer`.
    ///
    /// # Errors
    /// What the format cannot express.
    fn write<T: Serialize>(value: &T, buffer: &mut Vec<u8>) -> Result<(), BoxError>;

    /// Reads a value; bytes left over behind it are an error.
    ///
    /// # Errors
    /// What is wrong with the bytes.
    fn read<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, BoxError>;
}

/// Reads `payload` by its media type: the message's own codec, else any that this build knows.
///
/// # Errors
/// [`ErrorKind::Decode`] naming the message type; the codec's own words are the source.
pub fn decode<C: Codec, T: DeserializeOwned>(
    name: &str,
    content_type: &ContentType,
    payload: &[u8],
) -> Result<T, Error> {
    let read = if C::reads(content_type) {
        C::read(payload)
    } else if Json::reads(content_type) {
        Json::read(payload)
    } else {
        #[cfg(feature = "messagepack")]
        if MessagePack::reads(content_type) {
            return MessagePack::read(payload).map_err(|error| undecodable(name, error));
        }
        return Err(Error::new(
            ErrorKind::Decode,
            format!(
                "message `{name}` came as `{content_type}`, which no codec here reads; send JSON, or give the message \
                 a codec that reads it"
            ),
        ));
    };
    read.map_err(|error| undecodable(name, error))
}

#[cold]
fn undecodable(name: &str, error: BoxError) -> Error {
    Error::new(ErrorKind::Decode, format!("the payload is no `{name}`")).with_source(error)
}

/// Writes `value` with `C`.
///
/// # Errors
/// [`ErrorKind::Encode`] naming the message type; the codec's own words are the source.
pub fn encode<C: Codec, T: Serialize>(name: &str, value: &T) -> Result<Payload, Error> {
    thread_local! {
        /// Grows once; a payload then costs one allocation of its own size, or none where it is small.
        static BUFFER: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
    }
    let written = BUFFER.with(|buffer| match buffer.try_borrow_mut() {
        Ok(mut buffer) => {
            buffer.clear();
            let written = C::write(value, &mut buffer).map(|()| Payload::copy_from_slice(&buffer));
            // One giant must not be remembered for ever.
            if buffer.capacity() > LARGEST_KEPT {
                *buffer = Vec::new();
            }
            written
        }
        // A value whose own serialization encodes another message.
        Err(_) => {
            let mut own = Vec::new();
            C::write(value, &mut own).map(|()| Payload::from(own))
        }
    });
    written.map_err(|error| {
        Error::new(ErrorKind::Encode, format!("message `{name}` cannot be written as {}", C::CONTENT_TYPE))
            .with_source(error)
    })
}

/// The largest buffer that a thread keeps, in bytes.
const LARGEST_KEPT: usize = 1 << 20;

//! Envelopes as AMQP messages: CloudEvents in binary mode. Every attribute is a header under the configured prefix, but
//! `datacontenttype`, which is the property `content-type`; the payload is the body.
//!
//! Read liberally: all four prefixes, structured events, and what is no event at all.

mod read;
mod values;

use std::collections::BTreeMap;

use bytes::Bytes;
use lapin::BasicProperties;
use lapin::types::{AMQPValue, FieldTable, ShortString};
use msgkit::Envelope;
use msgkit::envelope::{NativeHeaders, attributes};

pub(crate) use self::read::{Raw, Topics, read};
use self::values::{from_native, is_exact};
use crate::config::AttributePrefix;
use crate::later;

/// Tells one dead letter from another, though their ids may repeat.
pub(crate) const LETTER: &str = "x-msgkit-letter";

/// Headers that the broker makes or obeys. They are not part of a message: those it makes would be taken for its own
/// (a `x-death` that travels on copies makes it drop them as going round in circles), those it obeys would send copies
/// to others.
const BROKERS: [&str; 14] = [
    "BCC",
    "CC",
    "x-acquired-count",
    "x-death",
    "x-delay",
    "x-delivery-count",
    "x-first-death-exchange",
    "x-first-death-queue",
    "x-first-death-reason",
    "x-last-death-exchange",
    "x-last-death-queue",
    "x-last-death-reason",
    LETTER,
    "x-stream-offset",
];

/// Of those, the ones that a foreign producer sets, which are kept for a handler to see.
fn is_producers(name: &str) -> bool {
    name == "CC"
}

/// Messages that outlive a restart of the broker.
pub(crate) const PERSISTENT: u8 = 2;

/// A message as the client takes it.
#[derive(Debug)]
pub(crate) struct Written {
    pub(crate) properties: BasicProperties,
    pub(crate) payload: Bytes,
    /// About how many bytes the properties take on the wire; the broker takes no more than one frame.
    pub(crate) head: usize,
}

/// Writes `envelope`; `letter` is the name of the dead letter that it becomes.
pub(crate) fn write(envelope: &Envelope, prefix: AttributePrefix, letter: Option<u128>) -> Written {
    let mut headers = Headers::default();
    let mut properties = BasicProperties::default().with_delivery_mode(PERSISTENT);
    let mut content_type = None;
    let prefix = prefix.as_str();
    attributes::visit(envelope, |name, value| {
        if name == "datacontenttype" && value.len() <= 255 {
            content_type = Some(value.to_owned());
        } else {
            headers.text([prefix, name].concat(), value);
        }
    });
    write_native(envelope.native(), prefix, &mut headers);
    if let Some(letter) = letter {
        headers.text(LETTER, &format!("{letter:032x}"));
    }
    if let Some(content_type) = content_type.and_then(|text| ShortString::try_new(text).ok()) {
        properties = properties.with_content_type(content_type);
    }
    if let Some(id) = envelope.id().with_str(|id| ShortString::try_new(id).ok()) {
        properties = properties.with_message_id(id);
    }
    let head = headers.bytes + 600;
    Written {
        properties: properties.with_headers(FieldTable::from(headers.table)),
        payload: envelope.payload_bytes().unwrap_or_default(),
        head,
    }
}

/// Writes bytes that are no envelope, with any headers.
pub(crate) fn write_foreign(payload: Bytes, native: &NativeHeaders, prefix: AttributePrefix) -> Written {
    let mut headers = Headers::default();
    write_native(native, prefix.as_str(), &mut headers);
    Written {
        head: headers.bytes + 600,
        properties: BasicProperties::default()
            .with_delivery_mode(PERSISTENT)
            .with_headers(FieldTable::from(headers.table)),
        payload,
    }
}

#[derive(Default)]
struct Headers {
    table: BTreeMap<ShortString, AMQPValue>,
    bytes: usize,
}

impl Headers {
    fn text(&mut self, name: impl Into<String>, value: &str) {
        self.insert(name, AMQPValue::LongString(value.into()), value.len());
    }

    fn insert(&mut self, name: impl Into<String>, value: AMQPValue, bytes: usize) {
        if let Ok(name) = ShortString::try_new(name) {
            self.bytes += name.as_str().len() + bytes + 6;
            self.table.insert(name, value);
        }
    }
}

/// Writes foreign headers as AMQP has them. An AMQP table knows no order and no name twice; where that, or a type,
/// would be lost, an attribute carries the exact list beside it, and only that is read back.
fn write_native(native: &NativeHeaders, prefix: &str, headers: &mut Headers) {
    let mut exact = true;
    let mut last: Option<&str> = None;
    for (name, value) in native.iter() {
        let plain = !name.is_empty() && name.len() <= 255 && !belongs_to_wire(name);
        exact &= plain && last.is_none_or(|last| last < name) && is_exact(value);
        last = Some(name);
        if plain && !headers.table.contains_key(name) {
            let value = from_native(value);
            let bytes = values::bytes(&value);
            headers.insert(name, value, bytes);
        }
    }
    if !exact {
        headers.text(format!("{prefix}nativeheaders"), &native.to_json());
    }
}

/// Whether a foreign header of this name would be read as something else.
fn belongs_to_wire(name: &str) -> bool {
    name.starts_with(PROPERTY)
        || name.starts_with(later::HEADER)
        || BROKERS.contains(&name)
        || attribute(name).is_some()
        || is_trace(name)
}

/// What stands before the names of properties that a foreign message has, among its headers.
const PROPERTY: &str = "amqp:";

/// The attribute's name behind one of the prefixes.
fn attribute(name: &str) -> Option<&str> {
    AttributePrefix::ALL
        .iter()
        .find_map(|prefix| name.strip_prefix(prefix.as_str()))
        .filter(|rest| !rest.is_empty())
}

/// The headers in which tracing libraries of others carry the context, without a prefix.
fn is_trace(name: &str) -> bool {
    matches!(name, "traceparent" | "tracestate")
}

#[cfg(test)]
mod tests;

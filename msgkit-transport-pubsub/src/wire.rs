//! Envelopes as messages of Pub/Sub: CloudEvents in binary mode. Every attribute of the envelope is an attribute `ce-…` of
//! the message, but `datacontenttype`, which is `content-type`; the payload is the data, the ordering key the ordering key.
//!
//! A message has at most 100 attributes of 1024 bytes each. An envelope that does not fit is written as structured JSON.
//! Read liberally: both forms, and what is no event at all.

use std::collections::HashMap;
use std::sync::Arc;

use bytes::Bytes;
use google_cloud_pubsub::model::Message;
use msgkit::envelope::attributes::{self, Reader};
use msgkit::envelope::ingest::Ingest;
use msgkit::envelope::{NativeHeaders, NativeValue, structured};
use msgkit::transport::{Incoming, Malformed};
use msgkit::{Envelope, Timestamp, Topic};

use crate::error::SYSTEM;
use crate::names::Names;

/// What stands before the names of attributes.
const PREFIX: &str = "ce-";
const CONTENT_TYPE: &str = "content-type";
const STRUCTURED: &str = "application/cloudevents+json";
/// Carries foreign headers that are no attributes of Pub/Sub as they are.
const NATIVE: &str = "ce-nativeheaders";
/// The limits of a message's attributes.
const MOST: usize = 100;
const LONGEST_NAME: usize = 256;
const LONGEST_VALUE: usize = 1024;

/// Writes `envelope`, with its topic: the service may move it to another Pub/Sub topic, whose name does not say it.
pub(crate) fn write(envelope: &Envelope) -> Message {
    let mut all = HashMap::with_capacity(16);
    attributes::visit(envelope, |attribute, value| match attribute {
        "datacontenttype" => drop(all.insert(CONTENT_TYPE.to_owned(), value.to_owned())),
        _ => drop(all.insert(format!("{PREFIX}{attribute}"), value.to_owned())),
    });
    native(envelope.native(), &mut all);
    let mut message = Message::new();
    if fits(&all) {
        message.attributes = all;
        message.data = envelope.payload_bytes().unwrap_or_default();
    } else {
        message.attributes = HashMap::from([(CONTENT_TYPE.to_owned(), STRUCTURED.to_owned())]);
        message.data = Bytes::from(structured::to_vec(envelope));
    }
    message.ordering_key = ordering_key(envelope.key());
    message
}

/// An ordering key has at most 1024 bytes; a longer one is cut, which only puts more messages in one order.
fn ordering_key(key: Option<&str>) -> String {
    let key = key.unwrap_or_default();
    key[..key.floor_char_boundary(LONGEST_VALUE)].to_owned()
}

fn fits(attributes: &HashMap<String, String>) -> bool {
    let short =
        |(name, value): (&String, &String)| name.len() <= LONGEST_NAME && value.len() <= LONGEST_VALUE;
    attributes.len() <= MOST && attributes.iter().all(short)
}

/// Writes foreign headers as Pub/Sub has them. Where something would be lost, an attribute carries the exact list beside them,
/// and only that is read back.
fn native(native: &NativeHeaders, into: &mut HashMap<String, String>) {
    let mut sorted = true;
    let mut last: Option<&str> = None;
    for (name, value) in native.iter() {
        // Attributes have no order, so they are read in that of their names.
        sorted &= last.is_none_or(|last| last < name);
        last = Some(name);
        match value {
            NativeValue::Text(text) if !belongs_to_wire(name) => {
                into.entry(name.to_owned()).or_insert_with(|| text.as_str().to_owned());
            }
            _ => sorted = false,
        }
    }
    if !sorted {
        into.insert(NATIVE.to_owned(), native.to_json());
    }
}

/// Writes bytes that are no envelope, with any headers.
pub(crate) fn write_foreign(payload: Bytes, headers: &NativeHeaders) -> Message {
    let mut message = Message::new();
    native(headers, &mut message.attributes);
    message.data = payload;
    message
}

/// Whether a foreign header of this name would be read as something else, or is none that Pub/Sub takes.
fn belongs_to_wire(name: &str) -> bool {
    name.starts_with(PREFIX)
        || name == CONTENT_TYPE
        || is_trace(name)
        || name.is_empty()
        || name.starts_with("goog")
}

/// The attributes in which tracing libraries of others carry the context, without a prefix.
fn is_trace(name: &str) -> bool {
    matches!(name, "traceparent" | "tracestate")
}

/// About how many bytes a message takes in a request.
pub(crate) fn bytes(message: &Message) -> usize {
    let attributes: usize = message.attributes.iter().map(|(name, value)| name.len() + value.len() + 8).sum();
    message.data.len() + message.ordering_key.len() + attributes + 32
}

/// A message as it came off the wire.
#[derive(Debug)]
pub(crate) struct Raw {
    /// The topic that it is taken for where it names none.
    pub(crate) implied: Topic,
    pub(crate) id: Arc<str>,
    pub(crate) key: String,
    pub(crate) attributes: HashMap<String, String>,
    pub(crate) data: Bytes,
}

impl Raw {
    pub(crate) fn new(message: Message, implied: Topic) -> Self {
        Self {
            implied,
            id: message.message_id.into(),
            key: message.ordering_key,
            attributes: message.attributes,
            data: message.data,
        }
    }

    /// Of a message that the service has moved because it was started too often: the subscription that it was moved from.
    pub(crate) fn moved_from(&self) -> Option<&str> {
        self.get("CloudPubSubDeadLetterSourceSubscription")
    }

    fn get(&self, name: &str) -> Option<&str> {
        self.attributes.get(name).map(String::as_str)
    }

    fn key(&self) -> Option<&str> {
        Some(self.key.as_str()).filter(|key| !key.is_empty())
    }

    /// The attributes that are not of an event, or all where it is none.
    fn foreign(&self, is_event: bool) -> NativeHeaders {
        if let Some(carried) = self.get(NATIVE).and_then(NativeHeaders::from_json) {
            return carried;
        }
        let ours =
            |name: &str| is_event && (name.starts_with(PREFIX) || name == CONTENT_TYPE || is_trace(name));
        let mut all: Vec<(&str, &str)> = self
            .attributes
            .iter()
            .map(|(name, value)| (name.as_str(), value.as_str()))
            .filter(|(name, _)| !ours(name))
            .collect();
        all.sort_unstable();
        all.into_iter().map(|(name, value)| (name, NativeValue::Text(value.into()))).collect()
    }
}

/// The attributes that Pub/Sub and tracing libraries have a place of their own for, which counts where there is no `ce-…`.
const BESIDES: [&str; 4] = ["datacontenttype", "partitionkey", "traceparent", "tracestate"];

/// Reads a message, and tells whether it names its topic; what is no event is read by `ingest`, else malformed. Never panics,
/// whatever came.
pub(crate) fn read(raw: &Raw, ingest: &Ingest, now: Timestamp) -> (Incoming, bool) {
    let mut reader = Reader::new(&raw.implied);
    let mut besides = [None, raw.key(), None, None];
    let mut told = [false; BESIDES.len()];
    let mut others = false;
    let mut named = false;
    for (name, value) in &raw.attributes {
        match name.strip_prefix(PREFIX) {
            Some(attribute) if !attribute.is_empty() => {
                reader.attribute(attribute, value);
                named |= attribute == "topic" && Topic::from_wire(value.as_str()).is_ok();
                if let Some(place) = BESIDES.iter().position(|beside| *beside == attribute) {
                    told[place] = true;
                }
            }
            _ => match name.as_str() {
                CONTENT_TYPE => besides[0] = Some(value),
                "traceparent" => besides[2] = Some(value),
                "tracestate" => besides[3] = Some(value),
                _ => others = true,
            },
        }
    }
    if reader.is_event() {
        for ((attribute, value), told) in BESIDES.into_iter().zip(besides).zip(told) {
            if let Some(value) = value
                && !told
            {
                reader.attribute(attribute, value);
            }
        }
        if others && raw.get(NATIVE).is_none() {
            for (name, value) in raw.foreign(true).iter() {
                reader.native(name, value.clone());
            }
        }
        return match reader.finish(Some(raw.data.clone())) {
            Ok(envelope) => (Incoming::Envelope(envelope), named),
            Err(error) => (malformed(raw, error.to_string()), false),
        };
    }
    let keyed = |mut envelope: Envelope| {
        if envelope.key().is_none() {
            envelope.set_key(raw.key().map(Into::into));
        }
        Incoming::Envelope(envelope)
    };
    let is_structured = raw
        .get(CONTENT_TYPE)
        .is_some_and(|text| text.to_ascii_lowercase().starts_with("application/cloudevents"));
    let error = if is_structured {
        // Read with a topic that no event has, so that one that names none can be told.
        let nowhere = Names::nowhere();
        match structured::from_slice(&raw.data, &nowhere) {
            Ok(mut envelope) => {
                let named = envelope.topic() != &nowhere;
                if !named {
                    envelope.set_topic(raw.implied.clone());
                }
                return (keyed(envelope), named);
            }
            Err(error) => error.to_string(),
        }
    } else {
        "the message has no CloudEvents attributes, and no ingest rule says what it is".to_owned()
    };
    let position = Some(&*raw.id);
    match ingest.envelope(SYSTEM, &raw.implied, position, Some(raw.data.clone()), raw.foreign(false), now) {
        Some(envelope) => (keyed(envelope), false),
        None => (malformed(raw, error), false),
    }
}

fn malformed(raw: &Raw, error: String) -> Incoming {
    let native = raw.foreign(false);
    let mut malformed = Malformed::new(raw.implied.clone(), Some(raw.data.clone()), native, error);
    malformed.key = raw.key().map(Into::into);
    Incoming::Malformed(Box::new(malformed))
}

#[cfg(test)]
mod tests;

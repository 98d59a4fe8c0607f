//! Envelopes as Kafka records: CloudEvents in binary mode. Every attribute is a header `ce_…`, but `datacontenttype`, which
//! is the header `content-type`; the payload is the value, the ordering key the key. A payload that is null is a null
//! value, a tombstone.
//!
//! Read liberally: structured events, headers that are null, repeated or no text, and what is no event at all.

use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};

use bytes::Bytes;
use msgkit::envelope::attributes::{self, Reader};
use msgkit::envelope::ingest::Ingest;
use msgkit::envelope::{NativeHeaders, NativeValue, structured};
use msgkit::transport::{Incoming, Malformed};
use msgkit::{Envelope, Timestamp, Topic};
use rdkafka::message::{Header, Headers, OwnedHeaders};

use crate::error::SYSTEM;
use crate::names::Names;

/// What stands before the names of attributes.
const PREFIX: &str = "ce_";
const CONTENT_TYPE: &str = "content-type";
/// Carries foreign headers that Kafka cannot hold as they are.
const NATIVE: &str = "nativeheaders";
/// What a header whose name cannot be read is kept under.
const UNREADABLE: &str = "kafka:unreadable-name";

/// What a key that is no text is kept under.
const KEY: &str = "kafka:key";

/// A record as the client takes it.
#[derive(Debug)]
pub(crate) struct Written {
    /// Always there; taken while one is added.
    pub(crate) headers: Option<OwnedHeaders>,
    /// `None` is a tombstone.
    pub(crate) value: Option<Bytes>,
    /// About how many bytes the headers take.
    pub(crate) head: usize,
}

/// Writes `envelope`, its topic only where the Kafka topic's name does not say it. Where `tombstones` is off, a payload
/// that is null is written as an attribute, because a tombstone would delete.
pub(crate) fn write(envelope: &Envelope, names_topic: bool, tombstones: bool) -> Written {
    let mut headers = Written { headers: Some(OwnedHeaders::new_with_capacity(16)), value: None, head: 0 };
    let mut name = String::from(PREFIX);
    attributes::visit(envelope, |attribute, value| match attribute {
        "datacontenttype" => headers.add(CONTENT_TYPE, Some(value.as_bytes())),
        "topic" if !names_topic => {}
        "payloadnull" if tombstones => {}
        _ => {
            name.truncate(PREFIX.len());
            name.push_str(attribute);
            headers.add(&name, Some(value.as_bytes()));
        }
    });
    headers.native(envelope.native());
    headers.value = match envelope.payload_bytes() {
        None if !tombstones => Some(Bytes::new()),
        payload => payload,
    };
    headers
}

/// Writes bytes that are no envelope, with any headers.
pub(crate) fn write_foreign(native: &NativeHeaders) -> OwnedHeaders {
    let mut written = Written { headers: Some(OwnedHeaders::new()), value: None, head: 0 };
    written.native(native);
    written.headers.unwrap_or_default()
}

impl Written {
    fn add(&mut self, name: &str, value: Option<&[u8]>) {
        self.head += name.len() + value.map_or(0, <[u8]>::len) + 10;
        self.headers = self.headers.take().map(|headers| headers.insert(Header { key: name, value }));
    }

    /// Writes foreign headers as Kafka has them. Where a type would be lost, an attribute carries the exact list beside
    /// them, and only that is read back.
    fn native(&mut self, native: &NativeHeaders) {
        let mut exact = true;
        for (name, value) in native.iter() {
            if belongs_to_wire(name) || name.contains('\0') {
                exact = false;
                continue;
            }
            match value {
                NativeValue::Null => self.add(name, None),
                NativeValue::Text(text) => self.add(name, Some(text.as_str().as_bytes())),
                NativeValue::Bytes(bytes) => {
                    exact &= std::str::from_utf8(bytes).is_err();
                    self.add(name, Some(bytes));
                }
                other => {
                    exact = false;
                    self.add(name, Some(format!("{other:?}").as_bytes()));
                }
            }
        }
        if !exact {
            self.add(&format!("{PREFIX}{NATIVE}"), Some(native.to_json().as_bytes()));
        }
    }
}

/// Whether a foreign header of this name would be read as something else.
fn belongs_to_wire(name: &str) -> bool {
    name.starts_with(PREFIX) || name == CONTENT_TYPE || is_trace(name) || name == UNREADABLE
}

/// The headers in which tracing libraries of others carry the context, without a prefix.
fn is_trace(name: &str) -> bool {
    matches!(name, "traceparent" | "tracestate")
}

/// A record as it came off the wire, which is read where it lies.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Raw<'a> {
    /// The topic that it is taken for where it names none.
    pub(crate) implied: &'a Topic,
    /// Where it lies, for people.
    pub(crate) position: Position<'a>,
    pub(crate) key: Option<&'a [u8]>,
    pub(crate) value: Option<&'a [u8]>,
    pub(crate) headers: &'a [Named<'a>],
}

/// A header: its name, and its value unless that is null.
pub(crate) type Named<'a> = (&'a str, Option<&'a [u8]>);

/// Where a record lies: `topic/partition/offset`.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Position<'a> {
    pub(crate) topic: &'a str,
    pub(crate) partition: i32,
    pub(crate) offset: i64,
}

impl fmt::Display for Position<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}/{}", self.topic, self.partition, self.offset)
    }
}

/// The headers of a record. A name that is no text makes the client panic, so that header's value is kept without it.
pub(crate) fn headers_of<H: Headers>(headers: Option<&H>) -> Vec<Named<'_>> {
    let Some(headers) = headers else { return Vec::new() };
    let mut all = Vec::with_capacity(headers.count());
    for at in 0..headers.count() {
        match catch_unwind(AssertUnwindSafe(|| headers.try_get(at))) {
            Ok(Some(header)) => all.push((header.key, header.value)),
            Ok(None) => break,
            Err(_) => all.push((UNREADABLE, None)),
        }
    }
    all
}

/// A header or a key that is text.
fn text(value: Option<&[u8]>) -> Option<&str> {
    std::str::from_utf8(value?).ok()
}

/// What a record says beside the attributes in its headers, and which of those stand for it.
#[derive(Debug, Default)]
struct Beside<'a> {
    content_type: Option<&'a str>,
    trace_parent: Option<&'a str>,
    trace_state: Option<&'a str>,
    names_topic: bool,
    names_content_type: bool,
    names_key: bool,
    names_trace_parent: bool,
    names_trace_state: bool,
    /// The exact list of the foreign headers is there.
    carries_native: bool,
    /// There are headers of other kinds.
    foreign: bool,
}

impl<'a> Beside<'a> {
    fn note_attribute(&mut self, name: &str) {
        match name {
            "topic" => self.names_topic = true,
            "datacontenttype" => self.names_content_type = true,
            "partitionkey" => self.names_key = true,
            "traceparent" => self.names_trace_parent = true,
            "tracestate" => self.names_trace_state = true,
            NATIVE => self.carries_native = true,
            _ => {}
        }
    }

    fn note_header(&mut self, name: &str, value: Option<&'a str>) {
        let kept = match name {
            CONTENT_TYPE => &mut self.content_type,
            "traceparent" => &mut self.trace_parent,
            "tracestate" => &mut self.trace_state,
            _ => {
                self.foreign = true;
                return;
            }
        };
        *kept = kept.or(value);
    }

    /// What counts for an event that does not say it by an attribute. A producer may know tracing and no CloudEvents
    /// extension for it.
    fn attributes(&self, key: Option<&'a str>) -> impl Iterator<Item = (&'static str, &'a str)> {
        let all = [
            (self.names_content_type, "datacontenttype", self.content_type),
            (self.names_key, "partitionkey", key),
            (self.names_trace_parent, "traceparent", self.trace_parent),
            (self.names_trace_state, "tracestate", self.trace_state),
        ];
        all.into_iter().filter_map(|(named, name, value)| Some((name, value.filter(|_| !named)?)))
    }
}

/// Reads a record; what is no event is read by `ingest`, else malformed. Tells too whether it is an event that names its
/// topic itself. Never panics, whatever came.
pub(crate) fn read(raw: Raw<'_>, ingest: &Ingest, now: Timestamp) -> (Incoming, bool) {
    let mut reader = Reader::new(raw.implied);
    let mut beside = Beside::default();
    for &(name, value) in raw.headers {
        match (name.strip_prefix(PREFIX).filter(|rest| !rest.is_empty()), text(value)) {
            (Some(attribute), Some(text)) => {
                beside.note_attribute(attribute);
                reader.attribute(attribute, text);
            }
            // A null or unreadable attribute is kept among the foreign headers.
            (Some(_), None) => reader.native(name, native_value(value)),
            (None, text) => beside.note_header(name, text),
        }
    }
    let key = text(raw.key).filter(|key| !key.is_empty());
    let payload = raw.value.map(Bytes::copy_from_slice);
    if reader.is_event() {
        for (name, value) in beside.attributes(key) {
            reader.attribute(name, value);
        }
        if beside.foreign && !beside.carries_native {
            for &(name, value) in raw.headers {
                if !name.starts_with(PREFIX) && name != CONTENT_TYPE && !is_trace(name) {
                    reader.native(name, native_value(value));
                }
            }
        }
        if !beside.carries_native
            && let Some(key) = binary_key(&raw)
        {
            reader.native(KEY, NativeValue::Bytes(key));
        }
        return match reader.finish(payload) {
            Ok(envelope) => (Incoming::Envelope(envelope), beside.names_topic),
            Err(error) => (malformed(&raw, error.to_string()), false),
        };
    }
    let structured = beside
        .content_type
        .is_some_and(|text| text.to_ascii_lowercase().starts_with("application/cloudevents"));
    let error = if structured {
        // Read with a topic that no event has, so that one that names none can be told.
        let nowhere = Names::nowhere();
        match structured::from_slice(raw.value.unwrap_or_default(), &nowhere) {
            Ok(mut envelope) => {
                let named = envelope.topic() != &nowhere;
                if !named {
                    envelope.set_topic(raw.implied.clone());
                }
                if envelope.key().is_none()
                    && let Some(key) = key
                {
                    envelope.set_key(Some(key.into()));
                }
                return (Incoming::Envelope(envelope), named);
            }
            Err(error) => error.to_string(),
        }
    } else {
        "the record has no CloudEvents attributes, and no ingest rule says what it is".to_owned()
    };
    let position = raw.position.to_string();
    match ingest.envelope(SYSTEM, raw.implied, Some(&position), payload, foreign(&raw), now) {
        Some(mut envelope) => {
            if envelope.key().is_none()
                && let Some(key) = key
            {
                envelope.set_key(Some(key.into()));
            }
            (Incoming::Envelope(envelope), false)
        }
        None => (malformed(&raw, error), false),
    }
}

fn malformed(raw: &Raw<'_>, error: String) -> Incoming {
    let payload = raw.value.map(Bytes::copy_from_slice);
    let mut malformed = Malformed::new(raw.implied.clone(), payload, foreign(raw), error);
    malformed.key = text(raw.key).filter(|key| !key.is_empty()).map(Into::into);
    Incoming::Malformed(Box::new(malformed))
}

/// Every header of a record that is no event, as it came.
fn foreign(raw: &Raw<'_>) -> NativeHeaders {
    let carried = raw.headers.iter().find(|(name, _)| *name == "ce_nativeheaders");
    if let Some((_, json)) = carried
        && let Some(native) = text(*json).and_then(NativeHeaders::from_json)
    {
        return native;
    }
    let headers = raw.headers.iter().map(|(name, value)| (*name, native_value(*value)));
    headers.chain(binary_key(raw).map(|key| (KEY, NativeValue::Bytes(key)))).collect()
}

/// A key that is no text, and so none that an envelope can have. It is kept among the foreign headers.
fn binary_key(raw: &Raw<'_>) -> Option<Bytes> {
    raw.key.filter(|key| std::str::from_utf8(key).is_err()).map(Bytes::copy_from_slice)
}

fn native_value(value: Option<&[u8]>) -> NativeValue {
    match value {
        None => NativeValue::Null,
        Some(bytes) => match std::str::from_utf8(bytes) {
            Ok(text) => NativeValue::Text(text.into()),
            Err(_) => NativeValue::Bytes(Bytes::copy_from_slice(bytes)),
        },
    }
}

#[cfg(test)]
mod tests;

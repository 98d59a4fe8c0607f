//! AMQP messages as envelopes, or as bytes with everything that came with them.

use std::borrow::Cow;

use bytes::Bytes;
use lapin::BasicProperties;
use lapin::types::{AMQPValue, FieldTable};
use msgkit::Timestamp;
use msgkit::Topic;
use msgkit::envelope::attributes::Reader;
use msgkit::envelope::ingest::Ingest;
use msgkit::envelope::{NativeHeaders, NativeValue, structured};
use msgkit::transport::{Incoming, Malformed};

use super::values::{as_text, to_native};
use super::{BROKERS, PROPERTY, attribute, is_producers, is_trace};
use crate::error::SYSTEM;
use crate::later;

/// A message as it came off the wire.
#[derive(Debug)]
pub(crate) struct Raw {
    pub(crate) routing_key: String,
    pub(crate) properties: BasicProperties,
    pub(crate) payload: Bytes,
}

impl Raw {
    /// How often the broker has handed it out, this time included. Quorum queues count; without a count it is the first.
    pub(crate) fn count(&self) -> u32 {
        let count = self.header("x-delivery-count").and_then(whole).unwrap_or(0);
        u32::try_from(count).unwrap_or(u32::MAX).saturating_add(1)
    }

    /// What the message is known by among those of its queue: its producer's id, else what it says.
    pub(crate) fn print(&self) -> String {
        if let Some(id) = self.properties.message_id() {
            return id.as_str().to_owned();
        }
        // FNV-1a, 64 bits: the same in every process and version.
        let hash = self.payload.iter().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
            (hash ^ u64::from(*byte)).wrapping_mul(0x100_0000_01b3)
        });
        format!("{hash:016x}")
    }

    /// A text among the headers.
    pub(crate) fn text(&self, name: &str) -> Option<String> {
        self.header(name).and_then(as_text).map(Cow::into_owned)
    }

    fn header(&self, name: &str) -> Option<&AMQPValue> {
        self.properties.headers().as_ref()?.inner().get(name)
    }
}

fn whole(value: &AMQPValue) -> Option<i64> {
    match value {
        AMQPValue::LongLongInt(value) => Some(*value),
        AMQPValue::LongInt(value) => Some((*value).into()),
        AMQPValue::LongUInt(value) => Some((*value).into()),
        AMQPValue::ShortInt(value) => Some((*value).into()),
        AMQPValue::ShortUInt(value) => Some((*value).into()),
        AMQPValue::ShortShortInt(value) => Some((*value).into()),
        AMQPValue::ShortShortUInt(value) => Some((*value).into()),
        _ => None,
    }
}

/// The topics of routing keys. Those of one topic often come one behind the other, so the last one is kept.
#[derive(Debug, Default)]
pub(crate) struct Topics(Option<Topic>);

impl Topics {
    fn of(&mut self, key: &str) -> Topic {
        match &self.0 {
            Some(last) if last.as_str() == key => last.clone(),
            _ => self.0.insert(topic_of(key)).clone(),
        }
    }
}

/// Reads a message; what is no event is read by `ingest`, else malformed. Never panics, whatever came.
pub(crate) fn read(raw: Raw, topics: &mut Topics, ingest: &Ingest, now: Timestamp) -> Incoming {
    let topic = topics.of(&raw.routing_key);
    let properties = &raw.properties;
    let empty = FieldTable::default();
    let headers = properties.headers().as_ref().unwrap_or(&empty);
    let mut reader = Reader::new(&topic);
    let came = read_attributes(headers, &mut reader);
    if reader.is_event() {
        if let (Some(content_type), false) = (properties.content_type(), came.content_type) {
            reader.attribute("datacontenttype", content_type.as_str());
        }
        if came.others && !came.native {
            read_native(headers, true, &mut reader);
        }
        return match reader.finish(Some(raw.payload.clone())) {
            Ok(envelope) => Incoming::Envelope(envelope),
            Err(error) => {
                let native = foreign(&topic, headers, properties);
                Incoming::Malformed(Box::new(Malformed::new(
                    topic,
                    Some(raw.payload),
                    native,
                    error.to_string(),
                )))
            }
        };
    }
    let error = if is_structured(properties) {
        match structured::from_slice(&raw.payload, &topic) {
            Ok(envelope) => return Incoming::Envelope(envelope),
            Err(error) => error.to_string(),
        }
    } else {
        "the message has no CloudEvents attributes, and no ingest rule says what it is".to_owned()
    };
    // AMQP gives no message a place of its own: only the producer's id tells two equal ones apart.
    let position = properties.message_id().as_ref().map(|id| id.as_str().to_owned());
    let native = foreign(&topic, headers, properties);
    match ingest.envelope(SYSTEM, &topic, position.as_deref(), Some(raw.payload.clone()), native.clone(), now)
    {
        Some(envelope) => Incoming::Envelope(envelope),
        None => Incoming::Malformed(Box::new(Malformed::new(topic, Some(raw.payload), native, error))),
    }
}

/// Everything that came with a message that is no event.
fn foreign(topic: &Topic, headers: &FieldTable, properties: &BasicProperties) -> NativeHeaders {
    let mut reader = Reader::new(topic);
    let carried = headers.into_iter().find(|(name, _)| attribute(name.as_str()) == Some("nativeheaders"));
    match carried.and_then(|(_, value)| as_text(value)) {
        Some(json) => reader.attribute("nativeheaders", &json),
        None => read_native(headers, false, &mut reader),
    }
    read_properties(properties, &mut reader);
    reader.into_native()
}

/// What is among the headers of a message.
#[derive(Default)]
struct Came {
    /// The attribute `datacontenttype`.
    content_type: bool,
    /// The exact list of foreign headers.
    native: bool,
    /// Headers that are no attributes.
    others: bool,
}

fn read_attributes(headers: &FieldTable, reader: &mut Reader) -> Came {
    let mut came = Came::default();
    for (name, value) in headers {
        let Some(attribute) = attribute(name.as_str()) else {
            came.others = true;
            continue;
        };
        came.content_type |= attribute == "datacontenttype";
        came.native |= attribute == "nativeheaders";
        let text = if is_time(attribute) { time(value).map(Cow::Owned) } else { None };
        match text.or_else(|| as_text(value)) {
            Some(text) => reader.attribute(attribute, &text),
            None => reader.native(name.as_str(), to_native(value)),
        }
    }
    // Of a producer that knows tracing and no CloudEvents extension for it.
    for name in ["traceparent", "tracestate"].into_iter().filter(|_| came.others) {
        let known = || headers.inner().keys().any(|key| attribute(key.as_str()) == Some(name));
        if let Some(text) = headers.inner().get(name).and_then(as_text)
            && !known()
        {
            reader.attribute(name, &text);
        }
    }
    came
}

/// The attributes that CloudEvents has as timestamps, which producers may write as numbers.
fn is_time(attribute: &str) -> bool {
    matches!(attribute, "time" | "notbefore" | "expirytime")
}

/// The text of a timestamp that is a number: of milliseconds, as AMQP 1.0 has them and Python's `cloudevents` writes them on
/// AMQP 0-9-1 too (CloudEvents AMQP binding, section 2.2).
fn time(value: &AMQPValue) -> Option<String> {
    whole(value).map(|millis| Timestamp::from_millis(millis).to_string())
}

/// The headers that are no attributes; of what is no event, what looks like an attribute is a header like any other.
fn read_native(headers: &FieldTable, event: bool, reader: &mut Reader) {
    for (name, value) in headers {
        let name = name.as_str();
        let brokers = (BROKERS.contains(&name) && !is_producers(name)) || name.starts_with(later::HEADER);
        if !brokers && !(event && (attribute(name).is_some() || is_trace(name))) {
            reader.native(name, to_native(value));
        }
    }
}

/// The properties of a message that is no event.
fn read_properties(properties: &BasicProperties, reader: &mut Reader) {
    let mut text = |name: &str, value: &Option<lapin::types::ShortString>| {
        if let Some(value) = value {
            reader.native(format!("{PROPERTY}{name}"), value.as_str());
        }
    };
    text("content_type", properties.content_type());
    text("content_encoding", properties.content_encoding());
    text("correlation_id", properties.correlation_id());
    text("reply_to", properties.reply_to());
    text("expiration", properties.expiration());
    text("message_id", properties.message_id());
    text("type", properties.kind());
    text("user_id", properties.user_id());
    text("app_id", properties.app_id());
    if let Some(timestamp) = properties.timestamp() {
        reader.native(format!("{PROPERTY}timestamp"), i64::try_from(*timestamp).unwrap_or(i64::MAX));
    }
    if let Some(priority) = properties.priority() {
        reader.native(format!("{PROPERTY}priority"), NativeValue::Int((*priority).into()));
    }
}

fn is_structured(properties: &BasicProperties) -> bool {
    let content_type = properties.content_type().as_ref().map(|text| text.as_str().to_ascii_lowercase());
    content_type.is_some_and(|text| text.starts_with("application/cloudevents"))
}

/// The topic of a routing key; of one that no topic can have, the nearest that shows it.
fn topic_of(key: &str) -> Topic {
    if let Ok(topic) = Topic::from_wire(key) {
        return topic;
    }
    let rendered: Vec<_> = key.split('.').map(Topic::render_segment).collect();
    match Topic::from_wire(rendered.join(".")).or_else(|_| Topic::from_wire("msgkit.unknown")) {
        Ok(topic) => topic,
        Err(_) => unreachable!("`msgkit.unknown` is a legal topic"),
    }
}

//! The structured JSON form, `application/cloudevents+json`: for transports without headers (Kinesis, MQTT 3.1.1,
//! WebSocket) and for storage.

use std::borrow::Cow;
use std::fmt;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use bytes::Bytes;
use serde::de::{Deserialize, Deserializer, MapAccess, Visitor};
use serde_json::value::RawValue;

use super::Envelope;
use super::attributes::{self, Reader};
use crate::error::{Error, ErrorKind};
use crate::topic::Topic;

/// The media type of the form.
pub const MEDIA_TYPE: &str = "application/cloudevents+json";

/// The envelope as one JSON text.
///
/// A JSON payload stands in it as JSON where that gives back the same bytes; everything else as `data_base64`.
#[must_use]
pub fn to_vec(envelope: &Envelope) -> Vec<u8> {
    let mut json = String::with_capacity(512 + envelope.payload().len());
    json.push('{');
    attributes::visit(envelope, |name, value| {
        if json.len() > 1 {
            json.push(',');
        }
        push_string(&mut json, name);
        json.push(':');
        // Numbers are integers of the standard, so they are written as numbers.
        if matches!(name, "hop" | "deliveryattempt" | "retryround" | "dlattempts" | "dlreplays")
            && value.parse::<i32>().is_ok()
        {
            json.push_str(value);
        } else {
            push_string(&mut json, value);
        }
    });
    if !envelope.native().is_empty() {
        json.push_str(",\"nativeheaders\":");
        push_string(&mut json, &envelope.native().to_json());
    }
    if !envelope.is_null() {
        let payload = envelope.payload();
        match embeddable(envelope, payload) {
            Some(text) => {
                json.push_str(",\"data\":");
                json.push_str(text);
            }
            None => {
                json.push_str(",\"data_base64\":\"");
                BASE64.encode_string(payload, &mut json);
                json.push('"');
            }
        }
    }
    json.push('}');
    json.into_bytes()
}

/// The payload as a JSON value that reads back to the same bytes.
fn embeddable<'a>(envelope: &Envelope, payload: &'a [u8]) -> Option<&'a str> {
    if !envelope.content_type().is_json() {
        return None;
    }
    let text = std::str::from_utf8(payload).ok()?;
    // `null` as data would read as no data; white space around a value would be lost.
    if text == "null" || text.trim() != text {
        return None;
    }
    serde_json::from_str::<&RawValue>(text).ok().map(RawValue::get)
}

fn push_string(json: &mut String, text: &str) {
    // As nearly all are: nothing that JSON writes otherwise.
    if text.bytes().all(|byte| byte >= b' ' && byte != b'"' && byte != b'\\') {
        json.push('"');
        json.push_str(text);
        return json.push('"');
    }
    match serde_json::to_string(text) {
        Ok(written) => json.push_str(&written),
        // A string always has a JSON form.
        Err(_) => json.push_str("\"\""),
    }
}

/// Reads the form; `destination` is the topic where the event names none.
///
/// # Errors
/// [`ErrorKind::Decode`] where the bytes are no JSON object, or lack an attribute that every event has. Never panics,
/// whatever the bytes.
pub fn from_slice(bytes: &[u8], destination: &Topic) -> Result<Envelope, Error> {
    let members: Members<'_> = serde_json::from_slice(bytes).map_err(|error| {
        Error::new(ErrorKind::Decode, "the bytes are no JSON object of a CloudEvents event")
            .with_source(error)
    })?;
    let mut reader = Reader::new(destination);
    let mut data = None;
    for (name, value) in members.0 {
        match &*name {
            "data" if data.is_none() => data = Some(Data::Json(value)),
            "data_base64" if data.is_none() => data = Some(Data::Base64(value)),
            "data" | "data_base64" => {}
            _ => match scalar(value) {
                Some(Scalar::Null) => {}
                Some(Scalar::Text(text)) => reader.attribute(&name, &text),
                None => reader.native(name.into_owned(), value.get()),
            },
        }
    }
    let json = reader_is_json(&reader);
    let payload = match data {
        None => None,
        Some(Data::Json(value)) if value.get() == "null" => None,
        Some(Data::Json(value)) if json => Some(Bytes::copy_from_slice(value.get().as_bytes())),
        Some(Data::Json(value)) => Some(match serde_json::from_str::<String>(value.get()) {
            Ok(text) => Bytes::from(text),
            Err(_) => Bytes::copy_from_slice(value.get().as_bytes()),
        }),
        Some(Data::Base64(value)) => {
            let decoded = serde_json::from_str::<Cow<'_, str>>(value.get())
                .ok()
                .and_then(|text| BASE64.decode(text.as_bytes()).ok())
                .ok_or_else(|| Error::new(ErrorKind::Decode, "`data_base64` holds no base64 text"))?;
            Some(Bytes::from(decoded))
        }
    };
    reader.finish(payload)
}

fn reader_is_json(reader: &Reader) -> bool {
    reader.content_type().is_none_or(super::ContentType::is_json)
}

enum Data<'a> {
    Json(&'a RawValue),
    Base64(&'a RawValue),
}

enum Scalar<'a> {
    Null,
    Text(Cow<'a, str>),
}

/// An attribute's value: a string, a number or a truth value in its canonical text; nothing else is legal.
fn scalar(value: &RawValue) -> Option<Scalar<'_>> {
    let text = value.get();
    match text.as_bytes().first()? {
        // Without an escape it stands as it is between its quotation marks.
        b'"' if !text.contains('\\') => Some(Scalar::Text(Cow::Borrowed(text.get(1..text.len() - 1)?))),
        b'"' => serde_json::from_str(text).ok().map(|text: String| Scalar::Text(Cow::Owned(text))),
        b'n' => Some(Scalar::Null),
        b'{' | b'[' => None,
        _ => Some(Scalar::Text(Cow::Borrowed(text))),
    }
}

/// A member's name, where it can be as it stands.
#[derive(serde::Deserialize)]
#[serde(transparent)]
struct Name<'a>(#[serde(borrow)] Cow<'a, str>);

/// The members of an object in order, repeated ones included, values unread.
struct Members<'a>(Vec<(Cow<'a, str>, &'a RawValue)>);

impl<'de> Deserialize<'de> for Members<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Collect;
        impl<'de> Visitor<'de> for Collect {
            type Value = Members<'de>;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a JSON object")
            }
            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
                let mut members = Vec::with_capacity(16);
                while let Some((Name(name), value)) = map.next_entry::<Name<'de>, &'de RawValue>()? {
                    members.push((name, value));
                }
                Ok(Members(members))
            }
        }
        deserializer.deserialize_map(Collect)
    }
}

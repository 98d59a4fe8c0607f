//! The events that are exchanged, and how they are compared.

use std::collections::BTreeMap;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use msgkit::envelope::attributes::{self, Reader};
use msgkit::{Envelope, Timestamp, Topic};
use serde_json::{Value, json};

use super::Form;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Mode {
    Binary,
    Structured,
}

impl Mode {
    fn name(self) -> &'static str {
        match self {
            Self::Binary => "binary",
            Self::Structured => "structured",
        }
    }
}

/// Every attribute that an envelope can have, besides those that differ from event to event.
const COMMON: [(&str, &str); 34] = [
    ("causationid", "01890a5d-ac96-774b-bcce-b302099a8057"),
    ("correlationid", "order 17/b"),
    ("dataref", "https://example.org/blobs/17"),
    ("dataschema", "https://example.org/schemas/reading/2"),
    ("deliveryattempt", "3"),
    ("dlattempts", "3"),
    ("dlerror", "the table `readings` is locked: äöü"),
    ("dlfingerprint", "0123456789abcdef"),
    ("dlfirst", "2026-01-01T00:00:01Z"),
    ("dlgroup", "storage"),
    ("dlhandler", "store"),
    ("dlkind", "handler"),
    ("dllast", "2026-01-01T00:01:01Z"),
    ("dlposition", "42"),
    ("dlreplays", "1"),
    ("dlservice", "data-api"),
    ("dltopic", "device.d-1.telemetry"),
    ("expirytime", "2099-12-31T23:59:59Z"),
    ("hop", "2"),
    ("notbefore", "2026-01-01T00:00:02Z"),
    ("partitionkey", "d-1"),
    ("principal", "user:ada"),
    ("replyto", "device.d-1.replies"),
    ("retryfirst", "2026-01-01T00:00:01Z"),
    ("retrylast", "true"),
    ("retryround", "1"),
    ("sequence", "0000017"),
    ("source", "https://example.org/devices/d-1"),
    ("specversion", "1.0"),
    ("subject", "Zürich/Raum 5 ✓"),
    ("tenant", "Müller & Söhne <\"1\">"),
    ("time", "2026-01-01T00:00:00.123Z"),
    ("traceparent", "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"),
    ("tracestate", "vendor=a,other=b"),
];

/// What a producer does not write: the accounts that a pipeline keeps of its own attempts.
fn is_pipelines(name: &str) -> bool {
    name.starts_with("dl") || name.starts_with("retry") || name == "deliveryattempt"
}

/// What an envelope has though nobody sent it.
const ADDED: [&str; 2] = ["deliveryattempt", "topic"];

/// An event as a list of texts, and a payload.
#[derive(Debug, Clone)]
pub(crate) struct Event {
    attributes: BTreeMap<String, String>,
    payload: Vec<u8>,
}

impl Event {
    /// One with JSON, one with text, one with bytes that are no text.
    pub(crate) fn all(kind: &str, topic: &str) -> Vec<Self> {
        let bytes: Vec<u8> = (0..=255).rev().collect();
        let payloads: [(&str, &[u8]); 3] = [
            ("application/json", r#"{"temperature":21.5,"room":"Küche ✓","ok":true,"none":null}"#.as_bytes()),
            ("text/plain", "Grüezi\nmitenand ✓".as_bytes()),
            ("application/octet-stream", &bytes),
        ];
        let event = |(at, (content_type, payload)): (usize, (&str, &[u8]))| {
            let mut attributes: BTreeMap<String, String> =
                COMMON.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
            for (name, value) in [
                ("id", &*format!("event {at}")),
                ("type", kind),
                ("topic", topic),
                ("datacontenttype", content_type),
            ] {
                attributes.insert(name.to_owned(), value.to_owned());
            }
            Self { attributes, payload: payload.to_vec() }
        };
        payloads.into_iter().enumerate().map(event).collect()
    }

    pub(crate) fn as_producers_write_it(&self) -> Self {
        let mut event = self.clone();
        event.attributes.retain(|name, _| !is_pipelines(name) && name != "topic");
        event
    }

    /// The same as msgkit has it; nothing of it is lost on the way.
    pub(crate) fn envelope(&self) -> Envelope {
        let topic: Topic = self.attributes["topic"].parse().unwrap();
        let mut reader = Reader::new(&topic);
        for (name, value) in &self.attributes {
            reader.attribute(name, value);
        }
        let envelope = reader.finish(Some(Bytes::from(self.payload.clone()))).unwrap();
        assert_same(&listed(&envelope), &self.attributes, &[], "the envelope itself");
        envelope
    }

    /// The line that tells a foreign client to publish it.
    pub(crate) fn line(&self, form: Form) -> String {
        let payload = STANDARD.encode(&self.payload);
        json!({
            "mode": form.mode.name(),
            "binding": form.binding,
            "attributes": self.attributes,
            "payload": payload,
        })
        .to_string()
    }

    fn is_json(&self) -> bool {
        self.attributes["datacontenttype"] == "application/json"
    }

    /// Compares it with what a foreign client has read; it is not told what is `untold`.
    pub(crate) fn assert_read(&self, line: &str, untold: &[&str]) {
        let read: Value = serde_json::from_str(line).unwrap();
        let attributes: BTreeMap<String, String> =
            serde_json::from_value(read["attributes"].clone()).unwrap();
        let mut expected = self.attributes.clone();
        expected.retain(|name, _| !untold.contains(&name.as_str()));
        assert_same(&attributes, &expected, &[], line);
        if self.is_json() {
            assert_eq!(read["data"], serde_json::from_slice::<Value>(&self.payload).unwrap(), "{line}");
        }
        // In the structured form a JSON payload is part of the document, and has no bytes of its own.
        if !self.is_json() || read["mode"] == "binary" {
            assert_eq!(read["payload"], STANDARD.encode(&self.payload), "{line}");
        }
    }

    /// Compares it with what a handler has got.
    pub(crate) fn assert_handled(&self, envelope: &Envelope, form: Form) {
        let place = format!("{form:?}");
        assert_same(&listed(envelope), &self.attributes, &ADDED, &place);
        assert_eq!(envelope.native().iter().count(), 0, "{place}: {:?}", envelope.native());
        if self.is_json() {
            let value = |bytes: &[u8]| serde_json::from_slice::<Value>(bytes).unwrap();
            assert_eq!(value(envelope.payload()), value(&self.payload), "{place}");
        } else {
            assert_eq!(envelope.payload(), self.payload, "{place}");
        }
    }
}

fn listed(envelope: &Envelope) -> BTreeMap<String, String> {
    attributes::list(envelope).into_iter().collect()
}

/// Every attribute is there and equal, and besides those in `added` there is no other. A time may be written in any way.
fn assert_same(
    found: &BTreeMap<String, String>,
    expected: &BTreeMap<String, String>,
    added: &[&str],
    place: &str,
) {
    for (name, value) in expected {
        let Some(other) = found.get(name) else { panic!("`{name}` is missing: {place}") };
        let is_time = value.starts_with("20") && value.ends_with('Z');
        let instant = |text: &str| text.parse::<Timestamp>().ok();
        let same = if is_time { instant(other) == instant(value) } else { other == value };
        assert!(same, "`{name}` is `{other}` instead of `{value}`: {place}");
    }
    let strange: Vec<&String> = found
        .keys()
        .filter(|name| !expected.contains_key(*name) && !added.contains(&name.as_str()))
        .collect();
    assert!(strange.is_empty(), "nobody sent {strange:?}: {place}");
}

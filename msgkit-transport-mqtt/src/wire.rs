//! Envelopes as MQTT carries them: the CloudEvents MQTT binding, and bytes of plain devices.
//!
//! MQTT 5, binary: every attribute is a user property of its own name, the media type is the content type as well, because
//! some readers know only one of the two. An event that has something which a text of MQTT cannot carry (64 KiB of it, control
//! characters) goes structured instead. The expiry is no message expiry: a broker would drop the message without a word,
//! where the pipeline makes it a dead letter. Structured JSON is read from both versions, announced or not, because 3.1.1
//! has no way to announce it.

use bytes::Bytes;
use msgkit::envelope::attributes::{self, Reader};
use msgkit::envelope::ingest::Ingest;
use msgkit::envelope::{Clock, Envelope, NativeHeaders, NativeValue, structured};
use msgkit::transport::{Destination, Incoming, Malformed, Outgoing};
use msgkit::{Text, Topic};

use crate::config::Format;
use crate::names::Names;

/// A message as it goes to the broker, given away to the client.
#[derive(Debug)]
pub(crate) struct Parcel {
    pub(crate) topic: String,
    pub(crate) payload: Bytes,
    /// Whether the broker has to confirm it.
    pub(crate) confirmed: bool,
    pub(crate) retain: bool,
    pub(crate) properties: Properties,
}

/// What MQTT 5 carries beside the payload.
#[derive(Debug, Default)]
pub(crate) struct Properties {
    pub(crate) content_type: Option<String>,
    pub(crate) is_text: bool,
    pub(crate) response_topic: Option<String>,
    pub(crate) correlation: Option<Bytes>,
    pub(crate) user: Vec<(String, String)>,
}

/// A message as it came from the broker.
#[derive(Debug, Clone)]
pub(crate) struct Arrived {
    pub(crate) topic: String,
    pub(crate) payload: Bytes,
    /// The packet's number, 0 where nothing is to be acknowledged.
    pub(crate) number: u16,
    pub(crate) retained: bool,
    pub(crate) content_type: Option<String>,
    pub(crate) user: Vec<(String, String)>,
}

const NATIVE: &str = "nativeheaders";
/// What the media types of structured events begin with.
const ANNOUNCED: &str = "application/cloudevents";

/// How a transport writes its messages.
#[derive(Debug)]
pub(crate) struct Writer {
    pub(crate) names: Names,
    pub(crate) format: Format,
    /// Whether the broker confirms what goes to topics; it always confirms copies.
    pub(crate) confirmed: bool,
}

impl Writer {
    /// `message` as it goes to the broker.
    pub(crate) fn parcel(&self, message: &Outgoing) -> Parcel {
        let mut parcel = Parcel::of(&message.envelope, self.topic(message), &self.names, self.format);
        parcel.confirmed = self.confirmed || !matches!(message.to, Destination::Topic { .. });
        parcel
    }

    /// Where it goes.
    pub(crate) fn topic(&self, message: &Outgoing) -> String {
        match &message.to {
            Destination::Topic { topic, .. } => self.names.topic(topic),
            Destination::Retry { group, step, .. } => self.names.retry(group, *step),
            other => self.names.topic(&other.as_topic()),
        }
    }
}

impl Properties {
    /// Whether MQTT can carry each of them. What it cannot makes no packet, or one for which a broker ends the connection, with
    /// every message behind it.
    fn are_carried(&self) -> bool {
        let Self { content_type, is_text: _, response_topic, correlation, user } = self;
        [content_type, response_topic].into_iter().flatten().all(|text| is_carried(text))
            && correlation.as_ref().is_none_or(|bytes| bytes.len() <= MOST_TEXT)
            && user.iter().all(|(name, value)| is_carried(name) && is_carried(value))
    }
}

/// The most bytes of a text of MQTT (MQTT 5, 1.5.4).
const MOST_TEXT: usize = u16::MAX as usize;

/// Whether `text` can be a text of MQTT: of a length that it can say, and without what a broker may take for malformed (MQTT 5,
/// 1.5.4): control characters, and what is no character for Unicode.
pub(crate) fn is_carried(text: &str) -> bool {
    // All bytes at once, because almost every text is plain.
    let plain = text.bytes().fold(true, |plain, byte| plain & matches!(byte, b' '..=b'~'));
    let is_none = |c: char| matches!(u32::from(c), 0xfdd0..=0xfdef) || u32::from(c) & 0xfffe == 0xfffe;
    text.len() <= MOST_TEXT && (plain || !text.chars().any(|c| c.is_control() || is_none(c)))
}

impl Parcel {
    /// `envelope` to `topic`.
    pub(crate) fn of(envelope: &Envelope, topic: String, names: &Names, format: Format) -> Self {
        let retain =
            envelope.hints("mqtt").any(|hint| hint.name == "retain" && hint.value == NativeValue::Bool(true));
        let properties = match format {
            Format::Binary => Some(binary(envelope, names)).filter(Properties::are_carried),
            Format::Structured => None,
        };
        let (payload, properties) = match properties {
            Some(properties) => (envelope.payload_bytes().unwrap_or_default(), properties),
            None => {
                let content_type = Some(structured::MEDIA_TYPE.to_owned());
                let properties = Properties { content_type, is_text: true, ..Properties::default() };
                (Bytes::from(structured::to_vec(envelope)), properties)
            }
        };
        Self { topic, payload, confirmed: true, retain, properties }
    }

    /// A parcel of this transport's own.
    pub(crate) fn own(topic: String, payload: String, retain: bool) -> Self {
        let properties = Properties { is_text: true, ..Properties::default() };
        Self { topic, payload: payload.into(), confirmed: true, retain, properties }
    }
}

fn binary(envelope: &Envelope, names: &Names) -> Properties {
    let mut user = Vec::with_capacity(16);
    attributes::visit(envelope, |name, value| user.push((name.to_owned(), value.to_owned())));
    let native = envelope.native();
    if !native.is_empty() {
        // What a reader takes for a foreign header again stands for itself, everything else in one property.
        let plain = |name: &str, value: &NativeValue| {
            matches!(value, NativeValue::Text(_))
                && !attributes::is_attribute(name)
                && msgkit::envelope::HeaderName::new(name).is_err()
        };
        if native.iter().all(|(name, value)| plain(name, value)) {
            for (name, value) in native.iter() {
                user.push((name.to_owned(), value.as_str().unwrap_or_default().to_owned()));
            }
        } else {
            user.push((NATIVE.to_owned(), native.to_json()));
        }
    }
    Properties {
        content_type: Some(envelope.content_type().as_str().to_owned()),
        // Not claimed of a payload that nobody has looked at: a broker may refuse it for that.
        is_text: false,
        response_topic: envelope.reply_to().map(|topic| names.topic(topic)),
        correlation: Some(envelope.correlation_id().with_str(|id| Bytes::copy_from_slice(id.as_bytes()))),
        user,
    }
}

impl Arrived {
    /// The message; what is no event is read by `ingest`, else malformed. `topic` is where it came from.
    pub(crate) fn read(self, topic: Option<Topic>, ingest: &Ingest, clock: Clock) -> Incoming {
        let known = topic.is_some();
        let topic = topic.unwrap_or_else(unknown_topic);
        let announced = self
            .content_type
            .as_deref()
            .and_then(|kind| kind.get(..ANNOUNCED.len()))
            .is_some_and(|start| start.eq_ignore_ascii_case(ANNOUNCED));
        let mut reader = Reader::new(&topic);
        if !announced {
            for (name, value) in &self.user {
                reader.attribute(name, value);
            }
        }
        let error = if reader.is_event() {
            if let Some(kind) = &self.content_type {
                reader.attribute("datacontenttype", kind);
            }
            match reader.finish(Some(self.payload.clone())) {
                Ok(envelope) => return Incoming::Envelope(envelope),
                Err(error) => error,
            }
        } else {
            match structured::from_slice(&self.payload, &topic) {
                Ok(envelope) => return Incoming::Envelope(envelope),
                Err(error) => error,
            }
        };
        let native = foreign(self.user, self.content_type, (!known).then_some(self.topic));
        // MQTT knows no position of a message, so the id of a foreign one is new on every connection.
        let (payload, now) = (Some(self.payload.clone()), clock.now());
        match ingest.envelope("mqtt", &topic, None, payload, native.clone(), now) {
            Some(envelope) => Incoming::Envelope(envelope),
            None => Incoming::Malformed(Box::new(Malformed::new(
                topic,
                Some(self.payload),
                native,
                error.to_string(),
            ))),
        }
    }
}

/// The headers of a message that is no event, as they came.
fn foreign(
    user: Vec<(String, String)>,
    content_type: Option<String>,
    topic: Option<String>,
) -> NativeHeaders {
    let mut native = NativeHeaders::new();
    for (name, value) in user {
        match (name == NATIVE).then(|| NativeHeaders::from_json(&value)).flatten() {
            Some(carried) => {
                for (name, value) in carried.iter() {
                    native.push(name, value.clone());
                }
            }
            None => native.push(name, NativeValue::Text(Text::from(value))),
        }
    }
    for (name, value) in [("content-type", content_type), ("mqtt-topic", topic)] {
        if let Some(value) = value {
            native.push(name, NativeValue::Text(Text::from(value)));
        }
    }
    native
}

/// The topic of a message whose MQTT topic no topic of msgkit can stand for; the header `mqtt-topic` tells it.
fn unknown_topic() -> Topic {
    match Topic::from_wire("msgkit.unknown") {
        Ok(topic) => topic,
        Err(_) => unreachable!("`msgkit.unknown` is a legal topic"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use msgkit::envelope::ingest::IngestRule;
    use msgkit::envelope::{ContentType, Timestamp};

    fn arrived(parcel: Parcel) -> Arrived {
        Arrived {
            topic: parcel.topic,
            payload: parcel.payload,
            number: 1,
            retained: false,
            content_type: parcel.properties.content_type,
            user: parcel.properties.user,
        }
    }

    fn bare(payload: &'static [u8], user: &[(&str, &str)]) -> Arrived {
        Arrived {
            topic: "device/7/raw".to_owned(),
            payload: Bytes::from_static(payload),
            number: 1,
            retained: false,
            content_type: None,
            user: user.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect(),
        }
    }

    fn sample() -> Envelope {
        let mut envelope = Envelope::new(
            "test",
            "test.thing.v2",
            "a.b".parse().unwrap(),
            ContentType::Json,
            Bytes::from_static(b"{\"a\":1}"),
            Timestamp::EPOCH,
        );
        envelope.set_key(Some("k\u{e4}".into()));
        envelope.set_reply_to(Some("a.reply".parse().unwrap()));
        envelope
    }

    fn read(arrived: Arrived, ingest: &Ingest) -> Incoming {
        let topic = Names::new("").read(&arrived.topic);
        arrived.read(topic, ingest, Clock::system())
    }

    #[test]
    fn both_formats_bring_back_what_was_sent() {
        let mut envelope = sample();
        for native in [
            NativeHeaders::new(),
            NativeHeaders::from_iter([("X-One", "1"), ("X-One", "2")]),
            NativeHeaders::from_iter([("X-One", NativeValue::Null), ("plain", NativeValue::from("text"))]),
        ] {
            envelope.set_native(native);
            for format in [Format::Binary, Format::Structured] {
                let parcel = Parcel::of(&envelope, "a/b".to_owned(), &Names::new(""), format);
                let came = read(arrived(parcel), &Ingest::default());
                assert_eq!(came.envelope(), Some(&envelope), "{format:?}");
            }
        }
    }

    #[test]
    fn binary_events_have_the_names_of_the_binding() {
        let parcel = Parcel::of(&sample(), "a/b".to_owned(), &Names::new("p"), Format::Binary);
        let get = |name: &str| {
            parcel.properties.user.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str())
        };
        assert_eq!(get("specversion"), Some("1.0"));
        assert_eq!(get("type"), Some("test.thing.v2"));
        assert_eq!(get("datacontenttype"), Some("application/json"), "some readers look only here");
        assert_eq!(parcel.properties.content_type.as_deref(), Some("application/json"));
        assert_eq!(parcel.properties.response_topic.as_deref(), Some("p/a/reply"));
        assert_eq!(&parcel.payload[..], b"{\"a\":1}");
    }

    #[test]
    fn a_plain_device_is_no_event_though_its_headers_look_like_one() {
        let user = [("type", "thermometer"), ("id", "7"), ("id", "8")];
        let came = read(bare(b"21.5", &user), &Ingest::default());
        let Incoming::Malformed(malformed) = came else { panic!("it is no event") };
        assert_eq!(malformed.native, NativeHeaders::from_iter(user), "in order, repeated ones too");
        assert_eq!(malformed.payload.as_deref(), Some(&b"21.5"[..]));
        let mut rule = IngestRule::new("device.*.raw".parse().unwrap(), "device.reading");
        rule.key_segment = Some(1);
        let came = read(bare(b"21.5", &[]), &Ingest(vec![rule]));
        let envelope = came.envelope().unwrap();
        assert_eq!((envelope.kind(), envelope.key()), ("device.reading", Some("7")));
    }

    #[test]
    fn no_bytes_panic() {
        for payload in [&b""[..], b"{", b"{}", b"null", b"\xff\x00", b"[1]"] {
            let came =
                read(bare(payload, &[("specversion", "1.0"), ("nativeheaders", "[")]), &Ingest::default());
            assert!(matches!(came, Incoming::Malformed(_)));
        }
    }
}

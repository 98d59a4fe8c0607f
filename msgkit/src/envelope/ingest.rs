//! How messages of others become envelopes: plain devices, foreign services, anything that is no CloudEvents event.
//!
//! The rules are a handler's, in code ([`HandlerSpec::ingest`](crate::handler::HandlerSpec::ingest)) or in configuration, whose rules
//! are asked first:
//!
//! ```toml
//! [[handlers.storage.ingest]]
//! match = "device.*.raw"
//! type = "device.reading"               # one of those that the handler takes
//! content_type = "application/msgpack"  # where it is not application/json
//! key_segment = 1                       # the ordering key is the second segment of the topic
//! ```

use bytes::Bytes;

use super::{ContentType, Envelope, MessageId, NativeHeaders, Timestamp};
use crate::text::Text;
use crate::topic::{Pattern, Topic};

/// One rule: what comes from these topics and is no event is taken for a message of this kind.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct IngestRule {
    /// The topics it holds for.
    pub from: Pattern,
    /// The wire name that the message gets.
    pub kind: Text,
    /// How its payload is written.
    pub content_type: ContentType,
    /// Which segment of the topic (from 0) is its ordering key.
    pub key_segment: Option<usize>,
}

impl IngestRule {
    /// What comes from `from` is a message `kind` in JSON.
    pub fn new(from: Pattern, kind: impl Into<Text>) -> Self {
        Self { from, kind: kind.into(), content_type: ContentType::Json, key_segment: None }
    }
}

/// The rules of one subscription, first match wins; without a match the bytes are malformed.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Ingest(pub Vec<IngestRule>);

impl Ingest {
    /// The envelope of a foreign message, where a rule matches `topic`.
    ///
    /// `position` is where the broker has the message; where it is known, the id follows from it and so is the same on
    /// every redelivery.
    #[must_use]
    pub fn envelope(
        &self,
        system: &str,
        topic: &Topic,
        position: Option<&str>,
        payload: Option<Bytes>,
        native: NativeHeaders,
        now: Timestamp,
    ) -> Option<Envelope> {
        let rule = self.0.iter().find(|rule| rule.from.matches(topic))?;
        let mut envelope = Envelope::new(
            Text::from(system),
            rule.kind.clone(),
            topic.clone(),
            rule.content_type.clone(),
            Bytes::new(),
            now,
        );
        if let Some(position) = position {
            envelope.set_id(MessageId::derived(&[
                b"ingest",
                system.as_bytes(),
                topic.as_str().as_bytes(),
                position.as_bytes(),
            ]));
        }
        envelope.set_payload(payload);
        if let Some(segment) = rule.key_segment {
            let key = topic.segments().nth(segment).and_then(Topic::read_segment);
            envelope.set_key(key.map(|key| Text::from(key.into_owned())));
        }
        envelope.set_native(native);
        Some(envelope)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_rule_that_matches_makes_an_envelope_of_what_is_none() {
        let mut rule = IngestRule::new("device.*.raw".parse().unwrap(), "device.reading");
        (rule.content_type, rule.key_segment) = (ContentType::MessagePack, Some(1));
        let ingest = Ingest(vec![rule, IngestRule::new("device.>".parse().unwrap(), "device.other")]);
        let (now, native) = (Timestamp::from_millis(1), NativeHeaders::from_iter([("a", "1")]));
        let of = |topic: &str, position: Option<&str>| {
            let topic: Topic = topic.parse().unwrap();
            ingest.envelope("mqtt", &topic, position, Some("7".into()), native.clone(), now)
        };
        let read = of("device.d7.raw", Some("1/2")).unwrap();
        assert_eq!(
            (read.source(), read.kind(), read.topic().as_str()),
            ("mqtt", "device.reading", "device.d7.raw")
        );
        assert_eq!(
            (read.key(), read.content_type(), read.payload()),
            (Some("d7"), &ContentType::MessagePack, &b"7"[..])
        );
        assert_eq!((read.time(), read.native()), (Some(now), &native));
        assert_eq!(read.id(), of("device.d7.raw", Some("1/2")).unwrap().id(), "the same on every redelivery");
        assert_ne!(read.id(), of("device.d7.raw", Some("1/3")).unwrap().id());
        assert_ne!(of("device.d7.raw", None).unwrap().id(), of("device.d7.raw", None).unwrap().id());
        let other = of("device.d7", None).unwrap();
        assert_eq!((other.kind(), other.key()), ("device.other", None));
        assert!(of("sensor.d7", None).is_none());
    }
}

//! The message by hand, as a program without msgkit writes and reads a CloudEvent.

use std::borrow::Cow;
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::{Context as _, ensure};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

/// Who publishes, what, and where.
pub(crate) const SOURCE: &str = "bench";
pub(crate) const KIND: &str = "bench.reading";
pub(crate) const TOPIC: &str = "bench.reading";

/// The payload of message `n`; all have one length.
pub(crate) fn payload(n: usize) -> Vec<u8> {
    format!(
        "{{\"id\":{},\"device\":\"d-{:04}\",\"temperature\":21.5,\"humidity\":40,\"light\":300}}",
        1_000_000 + n,
        n % 1000
    )
    .into_bytes()
}

/// What a new event says of itself: what [`msgkit::Envelope::new`] makes.
pub(crate) struct Event {
    pub(crate) id: String,
    pub(crate) time: String,
    pub(crate) trace: String,
}

impl Event {
    pub(crate) fn new() -> Self {
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let millis = u64::try_from(since.as_millis()).unwrap_or(u64::MAX);
        let mut random = [0; 10];
        fastrand::fill(&mut random);
        let time = jiff::Timestamp::from_millisecond(i64::try_from(millis).unwrap_or(0)).unwrap_or_default();
        Self {
            id: uuid::Builder::from_unix_timestamp_millis(millis, &random).into_uuid().to_string(),
            time: format!("{time:.3}"),
            trace: format!("00-{:032x}-{:016x}-01", fastrand::u128(..), fastrand::u64(..)),
        }
    }

    /// Its attributes without the content type, which every broker carries in a place of its own.
    pub(crate) fn attributes(&self) -> [(&'static str, &str); 9] {
        [
            ("specversion", "1.0"),
            ("id", &self.id),
            ("source", SOURCE),
            ("type", KIND),
            ("topic", TOPIC),
            ("time", &self.time),
            ("correlationid", &self.id),
            ("hop", "0"),
            ("traceparent", &self.trace),
        ]
    }
}

/// What a consumer reads of an event, without a copy.
#[derive(Debug, Default)]
pub(crate) struct Read<'a> {
    pub(crate) id: Option<&'a str>,
    source: Option<&'a str>,
    kind: Option<&'a str>,
    topic: Option<&'a str>,
    time: Option<&'a str>,
    correlation: Option<&'a str>,
    hop: u32,
    trace: Option<&'a str>,
}

impl<'a> Read<'a> {
    /// Reads attributes, names without a prefix.
    pub(crate) fn from(attributes: impl Iterator<Item = (&'a str, &'a str)>) -> anyhow::Result<Self> {
        let mut read = Self::default();
        for (name, value) in attributes {
            match name {
                "specversion" => ensure!(value == "1.0", "CloudEvents {value} is not known"),
                "id" => read.id = Some(value),
                "source" => read.source = Some(value),
                "type" => read.kind = Some(value),
                "topic" => read.topic = Some(value),
                "time" => read.time = Some(value),
                "correlationid" => read.correlation = Some(value),
                "hop" => read.hop = value.parse().context("`hop`")?,
                "traceparent" => read.trace = Some(value),
                _ => {}
            }
        }
        ensure!(read.id.is_some() && read.source.is_some() && read.kind.is_some(), "this is no CloudEvent");
        Ok(read)
    }
}

/// An event as one JSON text, for a broker whose messages have no headers.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Structured<'a> {
    #[serde(borrow)]
    specversion: Cow<'a, str>,
    #[serde(borrow)]
    id: Cow<'a, str>,
    #[serde(borrow)]
    source: Cow<'a, str>,
    #[serde(borrow, rename = "type")]
    kind: Cow<'a, str>,
    #[serde(borrow)]
    topic: Cow<'a, str>,
    #[serde(borrow)]
    time: Cow<'a, str>,
    #[serde(borrow)]
    datacontenttype: Cow<'a, str>,
    #[serde(borrow)]
    correlationid: Cow<'a, str>,
    hop: u32,
    #[serde(borrow)]
    traceparent: Cow<'a, str>,
    #[serde(borrow)]
    data: &'a RawValue,
}

impl<'a> Structured<'a> {
    pub(crate) fn write(event: &Event, payload: &[u8]) -> anyhow::Result<Vec<u8>> {
        let written = Structured {
            specversion: "1.0".into(),
            id: event.id.as_str().into(),
            source: SOURCE.into(),
            kind: KIND.into(),
            topic: TOPIC.into(),
            time: event.time.as_str().into(),
            datacontenttype: "application/json".into(),
            correlationid: event.id.as_str().into(),
            hop: 0,
            traceparent: event.trace.as_str().into(),
            data: serde_json::from_slice(payload)?,
        };
        Ok(serde_json::to_vec(&written)?)
    }

    pub(crate) fn read(json: &'a [u8]) -> anyhow::Result<Self> {
        Ok(serde_json::from_slice(json)?)
    }

    pub(crate) fn attributes(&self) -> anyhow::Result<Read<'_>> {
        ensure!(self.specversion == "1.0", "CloudEvents {} is not known", self.specversion);
        Ok(Read {
            id: Some(&self.id),
            source: Some(&self.source),
            kind: Some(&self.kind),
            topic: Some(&self.topic),
            time: Some(&self.time),
            correlation: Some(&self.correlationid),
            hop: self.hop,
            trace: Some(&self.traceparent),
        })
    }

    pub(crate) fn payload(&self) -> &[u8] {
        self.data.get().as_bytes()
    }
}

#[cfg(test)]
mod tests {
    use msgkit::envelope::{ContentType, attributes, structured};
    use msgkit::{Clock, Envelope};

    use super::{Event, KIND, Read, SOURCE, Structured, TOPIC, payload};

    /// The same as one text: only what is random differs.
    #[test]
    fn the_structured_form_is_that_of_an_envelope() {
        let (topic, now) = (TOPIC.parse().unwrap(), Clock::system().now());
        let envelope = Envelope::new(SOURCE, KIND, topic, ContentType::Json, payload(7).into(), now);
        let theirs = String::from_utf8(structured::to_vec(&envelope)).unwrap();
        let event = Event::new();
        let ours = String::from_utf8(Structured::write(&event, &payload(7)).unwrap()).unwrap();
        let theirs_read = Structured::read(theirs.as_bytes()).unwrap();
        let same = ours
            .replace(&event.id, &theirs_read.id)
            .replace(&event.time, &theirs_read.time)
            .replace(&event.trace, &theirs_read.traceparent);
        assert_eq!(same, theirs);
        assert_eq!(theirs_read.payload(), payload(7));
        assert_eq!(theirs_read.attributes().unwrap().id, Some(&*envelope.id().to_string()));
    }

    /// Both sides put the same on the wire, to the byte but for what is random.
    #[test]
    fn the_attributes_are_those_of_an_envelope() {
        let topic = TOPIC.parse().unwrap();
        let now = Clock::system().now();
        let envelope = Envelope::new(SOURCE, KIND, topic, ContentType::Json, "{}".into(), now);
        let mut theirs = Vec::new();
        attributes::visit(&envelope, |name, value| theirs.push((name.to_owned(), value.to_owned())));
        theirs.retain(|(name, _)| name != "datacontenttype");
        let event = Event::new();
        let ours = event.attributes();
        assert_eq!(ours.len(), theirs.len(), "{theirs:?}");
        for ((name, value), (their_name, their_value)) in ours.iter().zip(&theirs) {
            assert_eq!((*name, value.len()), (their_name.as_str(), their_value.len()), "{their_value}");
        }
        assert_eq!(Read::from(ours.into_iter()).unwrap().id, Some(&*event.id));
    }
}

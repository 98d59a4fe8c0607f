//! Messages as the file holds them: envelopes in structured JSON, and batches as one value for one statement.

use std::fmt::Write as _;

use bytes::Bytes;
use msgkit::envelope::{Envelope, NativeHeaders, Timestamp, ingest::Ingest, structured};
use msgkit::transport::{Destination, Incoming, Malformed, Outgoing};
use msgkit::{Text, Topic};

/// Where a message goes.
#[derive(Debug, Clone)]
pub(crate) enum Place {
    /// To every group that takes the topic.
    Topic(Topic),
    /// To one group, as the copy of what failed there.
    Retry { group: Text, step: u32 },
    /// To one group's dead letters.
    DeadLetter(Text),
}

/// A message ready to be written.
#[derive(Debug)]
pub(crate) struct Parcel {
    pub(crate) place: Place,
    /// [`key_hash`] of its ordering key.
    pub(crate) key: Option<i64>,
    /// When it is due, in microseconds since 1970.
    pub(crate) due: Option<i64>,
    /// Whether it was published because of another message, and so may use a queue's reserve.
    pub(crate) caused: bool,
    pub(crate) body: Vec<u8>,
    /// What a message that is no envelope came with.
    pub(crate) foreign: Option<Foreign>,
}

/// What a message that is no envelope came with.
#[derive(Debug)]
pub(crate) struct Foreign {
    pub(crate) topic: String,
    pub(crate) headers: String,
}

impl Parcel {
    pub(crate) fn of(message: &Outgoing) -> Self {
        let envelope = &message.envelope;
        let place = match &message.to {
            Destination::Topic { topic, .. } => Place::Topic(topic.clone()),
            Destination::Retry { group, step, .. } => {
                Place::Retry { group: group.text().clone(), step: *step }
            }
            Destination::DeadLetter(group) => Place::DeadLetter(group.text().clone()),
            // A destination that this version does not know would be a silent loss anywhere else.
            other => Place::Topic(other.as_topic()),
        };
        Self {
            place,
            key: envelope.key().map(key_hash),
            due: envelope.not_before().map(micros_up),
            caused: envelope.causation_id().is_some(),
            body: structured::to_vec(envelope),
            foreign: None,
        }
    }

    pub(crate) fn foreign(topic: &Topic, payload: Bytes, headers: &NativeHeaders) -> Self {
        Self {
            place: Place::Topic(topic.clone()),
            key: None,
            due: None,
            caused: false,
            body: payload.into(),
            foreign: Some(Foreign { topic: topic.as_str().to_owned(), headers: headers.to_json() }),
        }
    }
}

/// A message as it was read from the file.
#[derive(Debug)]
pub(crate) struct Stored {
    pub(crate) id: i64,
    pub(crate) body: Vec<u8>,
    pub(crate) topic: Option<String>,
    pub(crate) headers: Option<String>,
}

impl Stored {
    /// The message; what is no envelope is read by `ingest`, else malformed.
    pub(crate) fn read(self, ingest: &Ingest, now: Timestamp) -> Incoming {
        let unknown = || Topic::from_wire(UNKNOWN_TOPIC).ok();
        let topic = match &self.topic {
            Some(topic) => Topic::from_wire(topic.as_str()).ok().or_else(unknown),
            None => unknown(),
        };
        let Some(topic) = topic else { unreachable!("`{UNKNOWN_TOPIC}` is a legal topic") };
        let error = match structured::from_slice(&self.body, &topic) {
            Ok(envelope) => return Incoming::Envelope(envelope),
            Err(error) => error,
        };
        let native = self.headers.as_deref().and_then(NativeHeaders::from_json).unwrap_or_default();
        let position = self.id.to_string();
        let payload = Some(Bytes::from(self.body));
        match ingest.envelope("sqlite", &topic, Some(&position), payload.clone(), native.clone(), now) {
            Some(envelope) => Incoming::Envelope(envelope),
            None => Incoming::Malformed(Box::new(Malformed::new(topic, payload, native, error.to_string()))),
        }
    }
}

/// The topic of a row that tells none: nothing that this crate wrote.
const UNKNOWN_TOPIC: &str = "msgkit.unknown";

/// The envelope of a dead letter as an operator replays it.
pub(crate) fn replayed(body: &[u8]) -> Option<Envelope> {
    let topic = Topic::from_wire(UNKNOWN_TOPIC).ok()?;
    structured::from_slice(body, &topic).ok().map(|envelope| envelope.replayed())
}

/// FNV-1a, 64 bits: the same in every process and version. Keys that share a hash are ordered together, which is harmless.
pub(crate) fn key_hash(key: &str) -> i64 {
    let hash = key
        .bytes()
        .fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x100_0000_01b3));
    hash.cast_signed()
}

/// Microseconds since 1970, rounded up: what waits for them is never early.
pub(crate) fn micros_up(at: Timestamp) -> i64 {
    at.as_micros().saturating_add(i64::from(at.as_nanos().rem_euclid(1000) != 0))
}

/// Several bodies as one blob and one JSON object `{"<id>": place}`, for one statement that writes them all.
#[derive(Debug, Default)]
pub(crate) struct Bodies {
    pub(crate) blob: Vec<u8>,
    pub(crate) places: Json,
}

/// The low bits of a place hold the length, the rest the offset.
const LENGTH_BITS: u32 = 30;

impl Bodies {
    pub(crate) fn push(&mut self, id: i64, body: &[u8]) {
        let place = ((self.blob.len() as u64) << LENGTH_BITS) | body.len() as u64;
        self.blob.extend_from_slice(body);
        self.places.entry(id, Some(place.cast_signed()));
    }
}

/// A JSON object `{"<number>": number, …}`, written as text.
#[derive(Debug)]
pub(crate) struct Json(String);

impl Default for Json {
    fn default() -> Self {
        Self("{".to_owned())
    }
}

impl Json {
    pub(crate) fn entry(&mut self, name: i64, value: Option<i64>) {
        let comma = if self.is_empty() { "" } else { "," };
        // Writing to a string does not fail.
        let _ = match value {
            Some(value) => write!(self.0, "{comma}\"{name}\":{value}"),
            None => write!(self.0, "{comma}\"{name}\":null"),
        };
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.0.len() == 1
    }

    pub(crate) fn finish(mut self) -> String {
        self.0.push('}');
        self.0
    }
}

/// A JSON list of numbers.
pub(crate) fn json_list(numbers: impl IntoIterator<Item = i64>) -> String {
    let mut json = String::from("[");
    for number in numbers {
        let comma = if json.len() == 1 { "" } else { "," };
        let _ = write!(json, "{comma}{number}");
    }
    json.push(']');
    json
}

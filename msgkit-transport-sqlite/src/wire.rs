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
        }
    }

    pub(crate) fn foreign(topic: &Topic, payload: &[u8], headers: &NativeHeaders) -> Self {
        Self {
            place: Place::Topic(topic.clone()),
            key: None,
            due: None,
            caused: false,
            body: foreign::write(topic, headers, payload),
        }
    }
}

/// A message as it was read from the file.
#[derive(Debug)]
pub(crate) struct Stored {
    pub(crate) id: i64,
    pub(crate) body: Vec<u8>,
}

impl Stored {
    /// The message; what is no envelope is read by `ingest`, else malformed.
    pub(crate) fn read(self, ingest: &Ingest, now: Timestamp) -> Incoming {
        let body = Bytes::from(self.body);
        let (topic, native, payload) = match foreign::read(&body) {
            Some(foreign) => foreign,
            None => (unknown_topic(), NativeHeaders::new(), body),
        };
        let error = match structured::from_slice(&payload, &topic) {
            Ok(envelope) => return Incoming::Envelope(envelope),
            Err(error) => error,
        };
        let position = self.id.to_string();
        match ingest.envelope("sqlite", &topic, Some(&position), Some(payload.clone()), native.clone(), now) {
            Some(envelope) => Incoming::Envelope(envelope),
            None => {
                Incoming::Malformed(Box::new(Malformed::new(topic, Some(payload), native, error.to_string())))
            }
        }
    }
}

/// How a message that is no envelope lies in the file: a zero byte, with which no JSON begins, the lengths of topic and
/// headers, then topic, headers and the bytes untouched.
mod foreign {
    use bytes::Bytes;
    use msgkit::Topic;
    use msgkit::envelope::NativeHeaders;

    const MARK: u8 = 0;
    /// The mark and two lengths of four bytes.
    const HEAD: usize = 9;

    pub(super) fn write(topic: &Topic, headers: &NativeHeaders, payload: &[u8]) -> Vec<u8> {
        let (topic, headers) = (topic.as_str().as_bytes(), headers.to_json());
        let mut body = Vec::with_capacity(HEAD + topic.len() + headers.len() + payload.len());
        body.push(MARK);
        for part in [topic.len(), headers.len()] {
            body.extend_from_slice(&u32::try_from(part).unwrap_or(u32::MAX).to_be_bytes());
        }
        body.extend_from_slice(topic);
        body.extend_from_slice(headers.as_bytes());
        body.extend_from_slice(payload);
        body
    }

    /// Topic, headers and payload, where the bytes are such a message.
    pub(super) fn read(body: &Bytes) -> Option<(Topic, NativeHeaders, Bytes)> {
        let (head, rest) = body.split_first_chunk::<HEAD>()?;
        let [MARK, lengths @ ..] = head else { return None };
        let length = |at: usize| {
            let bytes: [u8; 4] = lengths.get(at..at + 4)?.try_into().ok()?;
            usize::try_from(u32::from_be_bytes(bytes)).ok()
        };
        let (topic, rest) = rest.split_at_checked(length(0)?)?;
        let (headers, payload) = rest.split_at_checked(length(4)?)?;
        Some((
            Topic::from_wire(std::str::from_utf8(topic).ok()?).ok()?,
            NativeHeaders::from_json(std::str::from_utf8(headers).ok()?)?,
            body.slice_ref(payload),
        ))
    }
}

/// The topic of a row that tells none: nothing that this crate wrote.
fn unknown_topic() -> Topic {
    match Topic::from_wire("msgkit.unknown") {
        Ok(topic) => topic,
        Err(_) => unreachable!("`msgkit.unknown` is a legal topic"),
    }
}

/// The envelope of a dead letter as an operator replays it.
pub(crate) fn replayed(body: &[u8]) -> Option<Envelope> {
    structured::from_slice(body, &unknown_topic()).ok().map(|envelope| envelope.replayed())
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn foreign_messages_survive_and_no_bytes_panic() {
        let topic: Topic = "a.b".parse().unwrap();
        let mut headers = NativeHeaders::new();
        headers.push("name", Bytes::from_static(&[0, 255]));
        let whole = foreign::write(&topic, &headers, b"\0payload");
        let read = foreign::read(&Bytes::from(whole.clone()));
        assert_eq!(read, Some((topic, headers, Bytes::from_static(b"\0payload"))));
        for end in 0..whole.len() - 8 {
            assert_eq!(foreign::read(&Bytes::copy_from_slice(&whole[..end])), None, "{end}");
        }
        assert_eq!(foreign::read(&Bytes::from_static(&[0, 255, 255, 255, 255, 255, 255, 255, 255, 1])), None);
    }

    #[test]
    fn bodies_are_found_by_their_places() {
        let mut bodies = Bodies::default();
        for (id, body) in [(7, &b"one"[..]), (8, b""), (9, b"three")] {
            bodies.push(id, body);
        }
        let places: serde_json::Value = serde_json::from_str(&bodies.places.finish()).unwrap();
        let found = ["7", "8", "9"].map(|id| {
            let place = usize::try_from(places[id].as_u64().unwrap()).unwrap();
            let (offset, length) = (place >> LENGTH_BITS, place & ((1 << LENGTH_BITS) - 1));
            &bodies.blob[offset..offset + length]
        });
        assert_eq!(found, [&b"one"[..], b"", b"three"]);
    }

    #[test]
    fn what_is_kept_back_is_never_early() {
        let at: Timestamp = "2026-01-31T12:00:00.000001001Z".parse().unwrap();
        assert!(Timestamp::from_micros(micros_up(at)) >= at);
        assert_eq!(micros_up(Timestamp::from_micros(-5)), -5);
    }

    #[test]
    fn a_key_has_the_same_hash_in_every_version() {
        assert_eq!(key_hash(""), 0xcbf2_9ce4_8422_2325_u64.cast_signed());
        assert_eq!(key_hash("a"), 0xaf63_dc4c_8601_ec8c_u64.cast_signed());
    }
}

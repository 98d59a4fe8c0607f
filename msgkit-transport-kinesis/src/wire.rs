//! Envelopes as records: structured CloudEvents JSON, which every other consumer can read, because records have no headers.

use bytes::Bytes;
use msgkit::envelope::ingest::Ingest;
use msgkit::envelope::{Envelope, MessageId, NativeHeaders, Timestamp, structured};
use msgkit::transport::{Destination, Incoming, Malformed, TransportError};

use crate::config::{KinesisConfig, Unkeyed};
use crate::error::{SYSTEM, invalid};
use crate::making::Made;
use crate::names::Names;

/// The most characters of a partition key.
const MOST_KEY: usize = 256;
/// What a partition key begins with that is no ordering key: it stands for nothing but a shard.
const NO_KEY: char = '~';

/// A message as it goes to a stream.
#[derive(Debug, Clone)]
pub(crate) struct Parcel {
    pub(crate) stream: String,
    pub(crate) partition_key: String,
    /// Whether its key is an ordering key, so that nothing of it may overtake.
    pub(crate) keyed: bool,
    pub(crate) data: Bytes,
    /// How its stream is made where it is missing.
    pub(crate) made: Made,
}

impl Parcel {
    /// `envelope` to `to`.
    ///
    /// # Errors
    /// [`TransportErrorKind::Invalid`](msgkit::transport::TransportErrorKind::Invalid) where no stream takes it, naming the
    /// limit.
    pub(crate) fn of(
        to: &Destination,
        envelope: &Envelope,
        names: &Names,
        config: &KinesisConfig,
    ) -> Result<Self, TransportError> {
        let stream = names.stream_of(to);
        if stream.len() > 128 {
            return Err(invalid(format!(
                "topic `{to}` would have the stream `{stream}`, whose name is longer than the 128 bytes that Kinesis \
                 allows; shorten its first segment, or give it a stream in `destinations`"
            )));
        }
        let data = Bytes::from(structured::to_vec(envelope));
        let key = envelope.key();
        let partition_key = partition_key(key, || match config.unkeyed {
            Unkeyed::Spread => format!("{NO_KEY}{:016x}", fastrand::u64(..)),
            _ => format!("{NO_KEY}{}", to.place()),
        });
        let size = data.len() + partition_key.len();
        let written = written(&data, envelope.payload().len());
        let made = Made::of(to, config);
        if size > made.record || (!made.copies && written > config.max_written()) {
            return Err(invalid(format!(
                "message {} has {size} bytes as a record of stream `{stream}` (its payload {}); Kinesis takes {} of them, \
                 its attributes included: put the payload elsewhere and publish a reference (`dataref`), or raise the \
                 stream's record size and `max_record_size`",
                envelope.id(),
                envelope.payload().len(),
                made.record,
            )));
        }
        Ok(Self { stream, partition_key, keyed: key.is_some(), data, made })
    }

    /// What it counts for in the limits of a request.
    pub(crate) fn size(&self) -> usize {
        self.data.len() + self.partition_key.len()
    }
}

/// The bytes that the payload takes in the record: four for every three where it is written as base64.
fn written(data: &[u8], payload: usize) -> usize {
    const NAME: &[u8] = b"\"data_base64\":\"";
    let base64 = payload.div_ceil(3) * 4;
    // It is the last member, before a quotation mark and the brace.
    let before = data.len().checked_sub(base64 + 2).map_or(&data[..0], |at| &data[..at]);
    if before.ends_with(NAME) { base64 } else { payload }
}

/// What decides which shard a message goes to.
fn partition_key(key: Option<&str>, unkeyed: impl FnOnce() -> String) -> String {
    match key {
        // Longer than the service allows, or like one of our own: its digest is as good, the key itself is in the event.
        Some(key) if key.is_empty() || key.starts_with(NO_KEY) || key.chars().count() > MOST_KEY => {
            MessageId::derived(&[b"partition key", key.as_bytes()]).to_string()
        }
        Some(key) => key.to_owned(),
        None => {
            let key = unkeyed();
            if key.chars().count() <= MOST_KEY {
                return key;
            }
            format!("{NO_KEY}{}", MessageId::derived(&[b"partition key", key.as_bytes()]))
        }
    }
}

/// A record as it came.
#[derive(Debug, Clone)]
pub(crate) struct Arrived<'a> {
    pub(crate) stream: &'a str,
    /// Where it lies: its shard as `stream/shard`, and its number there.
    pub(crate) place: &'a str,
    pub(crate) number: &'a str,
    pub(crate) partition_key: &'a str,
    pub(crate) data: Bytes,
}

/// What a record is, and whether it says itself, or the configuration for it, which topic it has.
pub(crate) fn read(
    arrived: &Arrived<'_>,
    names: &Names,
    ingest: &Ingest,
    now: Timestamp,
) -> (Incoming, bool) {
    let key = Some(arrived.partition_key).filter(|key| !key.is_empty() && !key.starts_with(NO_KEY));
    // Read with a topic that no event has, so that one that names none can be told from one whose topic is the stream's.
    let nowhere = Names::nowhere();
    let error = match structured::from_slice(&arrived.data, &nowhere) {
        Ok(mut envelope) => {
            let told = match envelope.topic() == &nowhere {
                true => {
                    let (topic, told) = names.topic_of(arrived.stream, arrived.partition_key);
                    envelope.set_topic(topic);
                    told
                }
                false => true,
            };
            // Ours has its key in the event; the event of somebody else may only have the record's.
            if envelope.key().is_none()
                && let Some(key) = key
            {
                envelope.set_key(Some(key.into()));
            }
            return (Incoming::Envelope(envelope), told);
        }
        Err(error) => error,
    };
    let (topic, told) = names.topic_of(arrived.stream, arrived.partition_key);
    let position = format!("{}/{}", arrived.place, arrived.number);
    let data = Some(arrived.data.clone());
    match ingest.envelope(SYSTEM, &topic, Some(&position), data.clone(), NativeHeaders::new(), now) {
        Some(mut envelope) => {
            if envelope.key().is_none() {
                envelope.set_key(key.map(Into::into));
            }
            (Incoming::Envelope(envelope), told)
        }
        None => {
            let text = msgkit::Chain(&error).to_string();
            let mut malformed = Malformed::new(topic, data, NativeHeaders::new(), text);
            malformed.key = key.map(Into::into);
            (Incoming::Malformed(Box::new(malformed)), told)
        }
    }
}

#[cfg(test)]
mod tests {
    use msgkit::envelope::ContentType;

    use super::*;
    use crate::config::DestinationRule;

    fn names() -> Names {
        Names::new(
            String::new(),
            vec![DestinationRule::new("x.y".parse().unwrap(), "x").with_foreign("x.{key}")],
        )
    }

    fn event(payload: &[u8], content_type: ContentType) -> Envelope {
        let payload = Bytes::copy_from_slice(payload);
        Envelope::new("test", "test.thing", "a.b".parse().unwrap(), content_type, payload, Timestamp::EPOCH)
    }

    fn parcel(envelope: &Envelope) -> Result<Parcel, TransportError> {
        let to = Destination::topic(envelope.topic().clone());
        Parcel::of(&to, envelope, &names(), &KinesisConfig::default())
    }

    fn back(stream: &str, partition_key: &str, data: Bytes) -> (Incoming, bool) {
        let arrived = Arrived { stream, place: "x/0", number: "1", partition_key, data };
        read(&arrived, &names(), &Ingest::default(), Timestamp::EPOCH)
    }

    #[test]
    fn what_is_written_is_read() {
        for key in [None, Some("k"), Some(""), Some("~k"), Some("ä long key ")] {
            let mut envelope = event(b"{\"a\":1}", ContentType::Json);
            envelope.set_key(key.map(Into::into));
            let parcel = parcel(&envelope).unwrap();
            assert!(!parcel.partition_key.is_empty());
            let (came, told) = back(&parcel.stream, &parcel.partition_key, parcel.data);
            assert_eq!(came.envelope(), Some(&envelope), "{key:?}");
            assert!(told);
        }
        let mut envelope = event(b"1", ContentType::Json);
        envelope.set_key(Some("k".repeat(300).into()));
        assert!(parcel(&envelope).unwrap().partition_key.len() <= 256);
    }

    #[test]
    fn the_largest_payload_fits_whatever_it_is() {
        let config = KinesisConfig::default();
        let other = || ContentType::Other("application/octet-stream".into());
        assert!(parcel(&event(&vec![0xff; config.max_payload()], other())).is_ok());
        assert!(parcel(&event(&vec![b'x'; config.max_payload()], ContentType::Json)).is_ok());
        for content_type in [other(), ContentType::Json] {
            let error = parcel(&event(&vec![b'x'; config.max_payload() + 1], content_type)).unwrap_err();
            assert!(error.to_string().contains("1048576"), "{error}");
        }
        // What is JSON already needs no base64.
        let text = format!("\"{}\"", "x".repeat(config.max_payload() + 1000));
        assert!(parcel(&event(text.as_bytes(), ContentType::Json)).is_ok());
    }

    #[test]
    fn whatever_came_has_room_as_a_copy() {
        let config = KinesisConfig::default();
        // As much as a stream takes, and no text.
        let came =
            event(&vec![0xff; config.max_record_size], ContentType::Other("application/octet-stream".into()));
        assert!(parcel(&came).is_err());
        let group: msgkit::Group = "g".parse().unwrap();
        let delay = std::time::Duration::from_secs(1);
        for to in [Destination::DeadLetter(group.clone()), Destination::Retry { group, step: 1, delay }] {
            assert!(Parcel::of(&to, &came, &names(), &config).is_ok(), "{to}");
        }
    }

    #[test]
    fn an_event_of_somebody_else_has_the_records_key_and_the_streams_topic() {
        let data = Bytes::from_static(br#"{"specversion":"1.0","id":"1","source":"s","type":"t","data":1}"#);
        let (came, told) = back("orders", "customer 7", data.clone());
        let envelope = came.envelope().unwrap();
        assert_eq!((envelope.topic().as_str(), envelope.key(), told), ("orders", Some("customer 7"), false));
        let (came, told) = back("x", "y", data);
        assert_eq!((came.topic().as_str(), told), ("x.y", true));
    }

    #[test]
    fn an_event_may_have_the_topic_that_its_stream_is_named_after() {
        let mut envelope = event(b"1", ContentType::Json);
        envelope.set_topic("orders".parse().unwrap());
        let parcel = parcel(&envelope).unwrap();
        let (came, told) = back("orders", &parcel.partition_key, parcel.data);
        assert_eq!(
            (came.topic().as_str(), told),
            ("orders", true),
            "or every group of the stream would get it"
        );
    }

    #[test]
    fn no_bytes_panic_and_none_are_lost() {
        for data in [&b""[..], b"{", b"null", b"\xf3\x89\x9a\xc2 aggregated", b"[1]", b"{}"] {
            let (came, _) = back("orders", "k", Bytes::from_static(data));
            let Incoming::Malformed(malformed) = came else { panic!("{data:?} is no event") };
            assert_eq!(malformed.payload.as_deref(), Some(data));
            assert_eq!(malformed.key.as_deref(), Some("k"));
            assert!(!malformed.error.is_empty());
        }
    }
}

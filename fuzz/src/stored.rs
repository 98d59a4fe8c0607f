//! What lies in a SQLite transport's file: the bytes are one message's body.

use msgkit::Timestamp;
use msgkit::envelope::ingest::{Ingest, IngestRule};
use msgkit::transport::Incoming;

use crate::envelope;
use crate::wire::{Parcel, Stored, key_hash, replayed};

/// Panics where a promise does not hold for these bytes.
pub fn check(bytes: &[u8]) {
    // The ids that a message without a trace gets.
    fastrand::seed(1);
    let read =
        |ingest: &Ingest, body: &[u8]| Stored { id: 7, body: body.to_vec() }.read(ingest, Timestamp::EPOCH);
    let everything = match ">".parse() {
        Ok(pattern) => Ingest(vec![IngestRule::new(pattern, "foreign")]),
        Err(error) => unreachable!("`>` is a pattern: {error}"),
    };
    match read(&Ingest::default(), bytes) {
        Incoming::Envelope(read) => {
            let _ = read.key().map(key_hash);
            envelope::check(&read);
        }
        Incoming::Malformed(malformed) => {
            assert!(!malformed.error.is_empty() && malformed.error.len() < 4096);
            let payload = malformed.payload.unwrap_or_default();
            let body = Parcel::foreign(&malformed.topic, &payload, &malformed.native).body;
            match read(&Ingest::default(), &body) {
                Incoming::Malformed(again) => {
                    assert_eq!((again.topic, again.payload), (malformed.topic, Some(payload)));
                    assert_eq!(again.native.to_json(), malformed.native.to_json());
                }
                // Bytes that were no message lie there as a foreign one whose payload is one.
                Incoming::Envelope(read) => envelope::check(&read),
            }
        }
    }
    if let Incoming::Envelope(read) = read(&everything, bytes) {
        envelope::check(&read);
    }
    if let Some(read) = replayed(bytes) {
        envelope::check(&read);
    }
}

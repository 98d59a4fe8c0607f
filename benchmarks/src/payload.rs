//! What the messages say. Every subject declares its own structs, with its own derives, as its user would; their JSON
//! must equal [`json`], which a test beside each checks.
//!
//! All numbers have a fixed width, so that the last message of a run costs what the first one does.

use crate::scenario::Variant;

/// The number of ordering keys.
pub const KEYS: u64 = 16;

/// Fills [`Variant::Kibibyte`] up to 1,024 bytes of JSON.
pub const TEXT: &str = {
    const BYTES: [u8; 985] = [b'm'; 985];
    match std::str::from_utf8(&BYTES) {
        Ok(text) => text,
        Err(_) => panic!("the filler is ASCII"),
    }
};

/// The first id; ids have seven digits for nine million messages.
const FIRST_ID: u64 = 1_000_000;

/// The id of the message at `index`, from 0.
#[must_use]
pub const fn id(index: u64) -> u64 {
    FIRST_ID + index
}

/// The index of the message with `id`.
#[must_use]
pub const fn index(id: u64) -> u64 {
    id - FIRST_ID
}

/// The customer of the message at `index`, which is also its ordering key.
#[must_use]
pub const fn customer(index: u64) -> u64 {
    100 + index % KEYS
}

/// Which of the three message types of [`Variant::Types`] the message at `index` has.
#[must_use]
pub const fn kind(index: u64) -> u64 {
    index % 3
}

/// The JSON of the message at `index`.
#[must_use]
pub fn json(variant: Variant, index: u64) -> String {
    let (id, customer) = (id(index), customer(index));
    match variant {
        Variant::Kibibyte => format!(r#"{{"id":{id},"customer":{customer},"text":"{TEXT}"}}"#),
        _ => format!(r#"{{"id":{id},"customer":{customer}}}"#),
    }
}

#[cfg(test)]
mod tests {
    use super::{Variant, json};

    #[test]
    fn the_large_payload_is_a_kibibyte() {
        assert_eq!(json(Variant::Kibibyte, 0).len(), 1024);
    }

    #[test]
    fn every_message_is_as_long_as_the_first() {
        assert_eq!(json(Variant::Json, 0).len(), json(Variant::Json, 8_999_999).len());
    }
}

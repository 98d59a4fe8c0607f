//! The bytes of a message: small ones in place, larger ones shared.

use std::fmt;
use std::ops::Deref;

use bytes::Bytes;

/// What fits into an envelope itself: with the length, 64 bytes.
const ROOM: usize = 63;

/// The payload of a message that is written here.
///
/// Up to 63 bytes lie in the envelope itself, so that a small message (a reading, an id and a state) is one allocation
/// and not two. Larger ones are shared, as is whatever comes as [`Bytes`]: what a transport received is never copied.
#[derive(Clone)]
pub struct Payload(Repr);

#[derive(Clone)]
enum Repr {
    InPlace(Place),
    Shared(Bytes),
}

/// Aligned, since who reads the bytes takes a word at a time, and before the first whole word one byte after the other.
#[derive(Clone)]
#[repr(C, align(8))]
struct Place {
    bytes: [u8; ROOM],
    length: u8,
}

impl Payload {
    /// A copy of `bytes`.
    #[must_use]
    #[inline]
    pub fn copy_from_slice(bytes: &[u8]) -> Self {
        match u8::try_from(bytes.len()) {
            Ok(length) if bytes.len() <= ROOM => {
                let mut place = Place { bytes: [0; ROOM], length };
                place.bytes[..bytes.len()].copy_from_slice(bytes);
                Self(Repr::InPlace(place))
            }
            _ => Self(Repr::Shared(Bytes::copy_from_slice(bytes))),
        }
    }

    /// The bytes.
    #[must_use]
    pub fn as_slice(&self) -> &[u8] {
        match &self.0 {
            Repr::InPlace(place) => &place.bytes[..usize::from(place.length)],
            Repr::Shared(bytes) => bytes,
        }
    }

    /// The bytes, shared: a clone without a copy, except of those that lie in place.
    #[must_use]
    pub fn to_bytes(&self) -> Bytes {
        match &self.0 {
            Repr::InPlace(_) => Bytes::copy_from_slice(self.as_slice()),
            Repr::Shared(bytes) => bytes.clone(),
        }
    }
}

impl Deref for Payload {
    type Target = [u8];
    fn deref(&self) -> &[u8] {
        self.as_slice()
    }
}

impl From<Bytes> for Payload {
    fn from(bytes: Bytes) -> Self {
        Self(Repr::Shared(bytes))
    }
}

impl From<Vec<u8>> for Payload {
    fn from(bytes: Vec<u8>) -> Self {
        Self(Repr::Shared(bytes.into()))
    }
}

impl PartialEq for Payload {
    fn eq(&self, other: &Self) -> bool {
        self.as_slice() == other.as_slice()
    }
}

impl Eq for Payload {}

impl fmt::Debug for Payload {
    /// How many bytes there are; never the bytes, which may hold what nobody may log.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Payload({} bytes)", self.as_slice().len())
    }
}

#[cfg(test)]
mod tests {
    use super::{Payload, ROOM, Repr};

    #[test]
    fn every_length_comes_back_as_it_was() {
        let bytes: Vec<u8> = (0..=255).chain(0..=255).collect();
        for length in [0, 1, ROOM - 1, ROOM, ROOM + 1, 255, 256, 257, bytes.len() - 2] {
            let payload = Payload::copy_from_slice(&bytes[..length]);
            assert_eq!(&*payload, &bytes[..length]);
            assert_eq!(payload.to_bytes(), bytes[..length]);
            assert_eq!(payload, Payload::from(bytes[..length].to_vec()));
            assert_ne!(payload, Payload::from(bytes[1..=length + 1].to_vec()));
            assert_eq!(matches!(payload.0, Repr::InPlace(_)), length <= ROOM, "{length} bytes");
        }
    }

    #[test]
    fn a_small_payload_makes_an_envelope_no_larger_than_it_says() {
        // The length, and a word for the tag.
        assert_eq!(size_of::<Payload>(), ROOM + 1 + 8);
    }

    #[test]
    fn debug_tells_no_bytes() {
        assert_eq!(format!("{:?}", Payload::copy_from_slice(b"secret")), "Payload(6 bytes)");
    }
}

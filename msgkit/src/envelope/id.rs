//! Message ids: version 7 at the source of a flow, derived inside it, foreign ones kept as they came.

use std::fmt;
use std::str::FromStr;

use uuid::Uuid;

use super::hex;
use super::time::Timestamp;
use crate::error::Error;
use crate::text::Text;

/// The longest foreign id that is read from a wire, in bytes.
pub const MAX_ID: usize = 255;

/// The id of one message: unique with its source, equal on every redelivery, retry copy and replay.
///
/// A UUID in its canonical form takes no allocation; any other non-empty text is a foreign id and kept to the letter.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct MessageId(Repr);

#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
enum Repr {
    Uuid(Uuid),
    Foreign(Text),
}

/// The name space of derived ids (RFC 9562, section 5.5): a constant of msgkit's wire, never to change.
const DERIVED: Uuid = Uuid::from_u128(0x6d73_676b_6974_5f69_8064_5f64_6572_6976);

impl MessageId {
    /// A new id at the source of a flow: a UUID version 7 of `at` and random bits.
    #[must_use]
    pub fn new(at: Timestamp) -> Self {
        Self::random(at, fastrand::u128(..))
    }

    /// As [`MessageId::new`], from the given random bits; 74 of them count.
    pub(super) fn random(at: Timestamp, bits: u128) -> Self {
        // RFC 9562, section 5.7: 48 bits of time, then version and variant among random bits.
        const RANDOM: u128 = 0x0fff_3fff_ffff_ffff_ffff;
        const VERSION_AND_VARIANT: u128 = 0x7000_8000_0000_0000_0000;
        let millis = u64::try_from(at.as_millis()).unwrap_or(0);
        Self(Repr::Uuid(Uuid::from_u128(u128::from(millis) << 80 | VERSION_AND_VARIANT | bits & RANDOM)))
    }

    /// The id that follows from `parts`: the same parts give the same id, on every machine and in every version.
    ///
    /// A UUID version 5 over the parts, each preceded by its length, so that no two lists of parts read the same.
    #[must_use]
    pub fn derived(parts: &[&[u8]]) -> Self {
        let mut name = Vec::with_capacity(parts.iter().map(|part| part.len() + 4).sum());
        for part in parts {
            name.extend_from_slice(&u32::try_from(part.len()).unwrap_or(u32::MAX).to_be_bytes());
            name.extend_from_slice(part);
        }
        Self(Repr::Uuid(Uuid::new_v5(&DERIVED, &name)))
    }

    /// Reads an id from a wire.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidName`](crate::ErrorKind::InvalidName) where it is empty, longer than 255 bytes, or holds
    /// control characters.
    pub fn parse(id: &str) -> Result<Self, Error> {
        if let Some(uuid) = canonical_uuid(id) {
            return Ok(Self(Repr::Uuid(uuid)));
        }
        if id.is_empty() {
            return Err(Error::invalid_name("a message id is empty; give each message an id of its own"));
        }
        if id.len() > MAX_ID {
            return Err(Error::invalid_name(format!(
                "a message id has {} bytes, more than {MAX_ID}",
                id.len()
            )));
        }
        if id.chars().any(char::is_control) {
            return Err(Error::invalid_name(format!("message id {id:?} holds control characters")));
        }
        Ok(Self(Repr::Foreign(id.into())))
    }

    /// Calls `read` with the id's text, without an allocation.
    pub fn with_str<R>(&self, read: impl FnOnce(&str) -> R) -> R {
        match &self.0 {
            Repr::Uuid(uuid) => read(uuid.hyphenated().encode_lower(&mut [0; 36])),
            Repr::Foreign(text) => read(text),
        }
    }
}

/// A UUID only where its text is the canonical one, so that the text survives the way through 16 bytes.
fn canonical_uuid(id: &str) -> Option<Uuid> {
    let id: &[u8; 36] = id.as_bytes().try_into().ok()?;
    if [id[8], id[13], id[18], id[23]] != *b"----" {
        return None;
    }
    let field = |digits: &[u8]| hex::read(digits);
    let high = field(&id[..8])? << 96 | field(&id[9..13])? << 80 | field(&id[14..18])? << 64;
    Some(Uuid::from_u128(high | field(&id[19..23])? << 48 | field(&id[24..])?))
}

impl FromStr for MessageId {
    type Err = Error;
    fn from_str(id: &str) -> Result<Self, Error> {
        Self::parse(id)
    }
}

impl fmt::Display for MessageId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.with_str(|id| f.pad(id))
    }
}

impl fmt::Debug for MessageId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.with_str(|id| write!(f, "MessageId({id})"))
    }
}

#[cfg(test)]
mod tests {
    use super::{MessageId, Timestamp};

    #[test]
    fn a_new_id_is_a_uuid_of_version_7_whatever_is_random() {
        let at = Timestamp::from_millis(0x0123_4567_89ab);
        assert_eq!(MessageId::random(at, 0).to_string(), "01234567-89ab-7000-8000-000000000000");
        assert_eq!(MessageId::random(at, u128::MAX).to_string(), "01234567-89ab-7fff-bfff-ffffffffffff");
        assert_ne!(MessageId::new(at), MessageId::new(at));
    }

    #[test]
    fn a_uuid_in_its_canonical_form_and_nothing_else_is_kept_as_one() {
        let canonical = "01a20015-5978-747d-9c89-3e76818677b7";
        assert_eq!(super::canonical_uuid(canonical), uuid::Uuid::try_parse(canonical).ok());
        for other in [
            "01A20015-5978-747d-9c89-3e76818677b7",
            "01a200155978-747d-9c89-3e76818677b7-",
            "01a20015-5978-747d-9c89-3e76818677b",
            "01a20015-5978-747d-9c89-3e76818677bg",
            "01a200155978747d9c893e76818677b7",
        ] {
            assert_eq!(super::canonical_uuid(other), None, "{other}");
            assert_eq!(MessageId::parse(other).unwrap().to_string(), other);
        }
    }

    #[test]
    fn the_longest_id_is_one_and_no_longer_one() {
        let longest = "x".repeat(255);
        assert_eq!(format!("{:?}", MessageId::parse(&longest).unwrap()), format!("MessageId({longest})"));
        let error = MessageId::parse(&"x".repeat(256)).unwrap_err().to_string();
        assert!(error.contains("256 bytes, more than 255"), "{error}");
    }
}

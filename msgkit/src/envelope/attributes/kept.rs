//! Texts that many messages share, their source and their type: made once, and cloned for the next message.

use std::cell::RefCell;

use crate::text::Text;

/// How many texts a thread keeps at most.
const PLACES: usize = 64;
/// The longest text that is kept, in bytes.
const LONGEST: usize = 64;

thread_local! {
    /// What was read last, each at the place that its bytes say; who comes to the same place takes it.
    static KEPT: RefCell<[Option<Text>; PLACES]> = const { RefCell::new([const { None }; PLACES]) };
}

/// `value`, without an allocation where it has been read by this thread before.
pub(super) fn kept(value: &str) -> Text {
    if value.len() > LONGEST {
        return value.into();
    }
    KEPT.with_borrow_mut(|kept| match &mut kept[place_of(value.as_bytes())] {
        Some(text) if text.as_str() == value => text.clone(),
        place => place.insert(value.into()).clone(),
    })
}

/// By its length, and its first and last eight bytes.
fn place_of(bytes: &[u8]) -> usize {
    let first = bytes.first_chunk().copied().map_or(0, u64::from_le_bytes);
    let last = bytes.last_chunk().copied().map_or(0, u64::from_le_bytes);
    let length = bytes.len() as u64;
    // A multiplication brings every bit into the highest ones (Knuth's, by the golden ratio).
    let mixed = (first.rotate_left(23) ^ last ^ length).wrapping_mul(0x9E37_79B9_7F4A_7C15);
    (mixed >> 58) as usize
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn what_was_read_before_is_not_made_again() {
        for value in ["", "s", "services", "a-service-of-some-kind"] {
            let (first, second) = (kept(value), kept(value));
            assert_eq!(first, value);
            assert!(std::ptr::eq(first.as_str(), second.as_str()), "{value}");
        }
        let long = "x".repeat(LONGEST + 1);
        assert!(!std::ptr::eq(kept(&long).as_str(), kept(&long).as_str()), "what is long is not kept");
    }

    proptest! {
        #[test]
        fn nothing_is_taken_for_something_else(values in prop::collection::vec(".{0,70}", 1..200)) {
            for value in &values {
                prop_assert_eq!(&kept(value), value.as_str());
            }
        }
    }
}

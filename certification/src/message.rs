//! The message that is published: a number, from which everything else follows.

use msgkit::Message;
use serde::{Deserialize, Serialize};

/// How many keys the messages have.
const KEYS: u64 = 16;

/// A numbered message.
#[derive(Debug, Serialize, Deserialize, Message)]
#[message(name = "certification.numbered", topic = "certification.numbered", key = key)]
pub(crate) struct Numbered {
    pub(crate) n: u64,
    pub(crate) key: String,
}

impl Numbered {
    pub(crate) fn new(n: u64) -> Self {
        Self { n, key: key_of(n).to_string() }
    }
}

/// The key of message `n`. Messages of one key have ascending numbers.
pub(crate) fn key_of(n: u64) -> u64 {
    n % KEYS
}

/// What a handler does with a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fate {
    /// It is handled.
    Handled,
    /// It fails at first, and is handled as a delayed copy. Younger messages of its key may overtake it.
    Delayed,
    /// It fails for good, and becomes a dead letter.
    Condemned,
}

impl Fate {
    /// The fate of message `n`: one of a hundred is delayed, one condemned.
    pub(crate) fn of(n: u64) -> Self {
        match n % 100 {
            37 => Self::Delayed,
            73 => Self::Condemned,
            _ => Self::Handled,
        }
    }

    /// How many messages below `n` are condemned.
    pub(crate) fn condemned(n: u64) -> u64 {
        (n + 26) / 100
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_condemned_are_counted() {
        for n in 0..1000 {
            let counted = (0..n).filter(|n| Fate::of(*n) == Fate::Condemned).count();
            assert_eq!(Fate::condemned(n), counted as u64, "below {n}");
        }
    }
}

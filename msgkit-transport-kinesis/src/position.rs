//! Where in a shard something is: sequence numbers, which are larger than any integer, and the places a reader starts at.

use std::cmp::Ordering;

use serde::{Deserialize, Serialize};

/// A record's number in its shard: decimal digits, 56 of them as a rule.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub(crate) struct Sequence(String);

impl Sequence {
    pub(crate) fn new(number: &str) -> Self {
        Self(number.trim_start_matches('0').to_owned())
    }

    /// What the service takes; zero, which is no record's number, stands for itself.
    pub(crate) fn as_str(&self) -> &str {
        if self.0.is_empty() { "0" } else { &self.0 }
    }
}

impl Ord for Sequence {
    fn cmp(&self, other: &Self) -> Ordering {
        // Without leading zeros the longer number is the larger one.
        self.0.len().cmp(&other.0.len()).then_with(|| self.0.cmp(&other.0))
    }
}

impl PartialOrd for Sequence {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

/// Where a reader of a shard goes on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Position {
    /// With the oldest record that is kept.
    Oldest,
    /// With the first record that arrived then, in milliseconds since 1970, or later.
    Time(i64),
    /// Behind this record.
    After(Sequence),
}

impl Position {
    /// Whether the record `sequence` is known to be before it.
    pub(crate) fn is_past(&self, sequence: &Sequence) -> bool {
        matches!(self, Self::After(after) if sequence <= after)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_compared_as_numbers() {
        let number = Sequence::new;
        assert!(number("9") < number("10"));
        assert!(
            number("49671246667567228643283430150187087032206582658")
                < number("49671246667567228643283430150187087032206582659")
        );
        assert_eq!(number("007"), number("7"));
        assert_eq!(number("0").as_str(), "0");
        assert!(Position::After(number("10")).is_past(&number("9")));
        assert!(!Position::After(number("10")).is_past(&number("11")));
        assert!(!Position::Oldest.is_past(&number("1")));
    }

    #[test]
    fn positions_are_stored_and_read_back() {
        for position in [Position::Oldest, Position::Time(17), Position::After(Sequence::new("12"))] {
            let text = serde_json::to_string(&position).unwrap();
            assert_eq!(serde_json::from_str::<Position>(&text).unwrap(), position, "{text}");
        }
    }
}

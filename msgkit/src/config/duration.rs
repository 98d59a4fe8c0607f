//! Durations as people write them: `250ms`, `1s`, `5m`, `1h 30m`; for `#[serde(with = "msgkit::config::duration")]`.

use std::fmt;
use std::time::Duration;

use serde::de::{self, Visitor};
use serde::{Deserializer, Serializer};

use crate::error::Error;

/// Reads a duration.
///
/// # Errors
/// [`ErrorKind::Config`](crate::ErrorKind::Config) where `text` has no unit, or is negative.
pub fn parse(text: &str) -> Result<Duration, Error> {
    text.trim()
        .parse::<jiff::SignedDuration>()
        .ok()
        .and_then(|duration| Duration::try_from(duration).ok())
        .ok_or_else(|| {
            Error::config(format!("`{text}` is no duration; write a number and a unit: 250ms, 1s, 5m, 1h"))
        })
}

/// Writes a duration so that [`parse`] reads it back.
#[must_use]
pub fn format(duration: Duration) -> String {
    let mut text = String::new();
    let (seconds, nanos) = (duration.as_secs(), u64::from(duration.subsec_nanos()));
    let parts = [
        ("h", seconds / 3600),
        ("m", seconds % 3600 / 60),
        ("s", seconds % 60),
        ("ms", nanos / 1_000_000),
        ("us", nanos / 1000 % 1000),
        ("ns", nanos % 1000),
    ];
    for (unit, count) in parts {
        if count > 0 {
            text.push_str(&format!("{count}{unit} "));
        }
    }
    if text.is_empty() {
        text.push_str("0ms ");
    }
    text.truncate(text.len() - 1);
    text
}

/// Reads a duration from configuration.
///
/// # Errors
/// Where the text is no duration.
pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Duration, D::Error> {
    deserializer.deserialize_str(Written)
}

/// A duration in its text.
struct Written;

impl Visitor<'_> for Written {
    type Value = Duration;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a duration in quotes, with its unit: \"250ms\", \"10s\", \"5m\"")
    }

    fn visit_str<E: de::Error>(self, text: &str) -> Result<Duration, E> {
        parse(text).map_err(E::custom)
    }
}

/// Writes a duration.
///
/// # Errors
/// Those of the serializer.
pub fn serialize<S: Serializer>(duration: &Duration, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(&format(*duration))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_read_and_write() {
        for (text, millis) in
            [("250ms", 250), ("1s", 1000), ("5m", 300_000), ("1h 30m", 5_400_000), ("0s", 0)]
        {
            assert_eq!(parse(text).unwrap(), Duration::from_millis(millis), "{text}");
            assert_eq!(parse(&format(Duration::from_millis(millis))).unwrap(), Duration::from_millis(millis));
        }
        let longest = Duration::new(i64::MAX.unsigned_abs(), 999_999_999);
        for odd in [Duration::from_nanos(1), Duration::from_micros(1001), Duration::new(3661, 1), longest] {
            assert_eq!(parse(&format(odd)).unwrap(), odd);
        }
        for bad in ["5", "-1s", "soon", ""] {
            assert!(parse(bad).unwrap_err().to_string().contains("250ms"), "{bad}");
        }
    }

    #[test]
    fn a_number_without_a_unit_is_told_what_is_missing() {
        #[derive(Debug, serde::Deserialize)]
        struct Options {
            #[serde(with = "super")]
            heartbeat: Duration,
        }
        let read = |text: &str| {
            crate::config::from_table::<Options>(text.parse().unwrap(), "[x]")
                .map(|options| options.heartbeat)
        };
        assert_eq!(read("heartbeat = \"10s\"").unwrap(), Duration::from_secs(10));
        assert_eq!(
            read("heartbeat = 10").unwrap_err().to_string(),
            "[x]: `heartbeat`: invalid type, expected a duration in quotes, with its unit: \"250ms\", \"10s\", \"5m\""
        );
    }
}

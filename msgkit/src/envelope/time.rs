//! Points in time, as the wire writes them, and the clock that gives them.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use crate::error::Error;

/// A point in time in UTC, with the nanoseconds that a wire may carry.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Timestamp(jiff::Timestamp);

impl Timestamp {
    /// 1970-01-01T00:00:00Z.
    pub const EPOCH: Self = Self(jiff::Timestamp::UNIX_EPOCH);

    /// The time of the system's clock. Inside a service take its [`Clock`] instead, which a test can turn.
    #[must_use]
    pub fn now() -> Self {
        Self::from(std::time::SystemTime::now())
    }

    /// The time `millis` milliseconds after 1970; the nearest that can be written where that is out of range.
    #[must_use]
    pub fn from_millis(millis: i64) -> Self {
        Self(jiff::Timestamp::from_millisecond(millis).unwrap_or(if millis < 0 {
            jiff::Timestamp::MIN
        } else {
            jiff::Timestamp::MAX
        }))
    }

    /// The time `micros` microseconds after 1970; the nearest that can be written where that is out of range.
    #[must_use]
    pub fn from_micros(micros: i64) -> Self {
        Self(jiff::Timestamp::from_microsecond(micros).unwrap_or(if micros < 0 {
            jiff::Timestamp::MIN
        } else {
            jiff::Timestamp::MAX
        }))
    }

    /// Milliseconds since 1970, rounded down.
    #[must_use]
    pub fn as_millis(self) -> i64 {
        self.0.as_millisecond()
    }

    /// Microseconds since 1970, rounded down.
    #[must_use]
    pub fn as_micros(self) -> i64 {
        self.0.as_microsecond()
    }

    /// Nanoseconds since 1970.
    #[must_use]
    pub fn as_nanos(self) -> i128 {
        self.0.as_nanosecond()
    }

    /// The time `by` later; the last that can be written where that is out of range.
    #[must_use]
    pub fn after(self, by: Duration) -> Self {
        Self(self.0.saturating_add(by).unwrap_or(jiff::Timestamp::MAX))
    }

    /// How long after `earlier` this is; zero where it is before.
    #[must_use]
    pub fn since(self, earlier: Self) -> Duration {
        Duration::try_from(self.0.duration_since(earlier.0)).unwrap_or(Duration::ZERO)
    }
}

impl FromStr for Timestamp {
    type Err = Error;
    /// Reads RFC 3339 with any offset.
    fn from_str(text: &str) -> Result<Self, Error> {
        if let Some(time) = written(text.as_bytes()) {
            return Ok(Self(time));
        }
        text.parse().map(Self).map_err(|error| {
            Error::invalid_name(format!("`{text:.60}` is no time; write RFC 3339, like 2026-01-31T12:00:00Z"))
                .with_source(error)
        })
    }
}

/// Reads the form in which times are written here, of any number of decimals: `2026-01-31T12:00:00.123Z`. Each message has one,
/// and the long way, which takes every form that there is, costs ten times as much.
fn written(text: &[u8]) -> Option<jiff::Timestamp> {
    let (&[y1, y2, y3, y4, b'-', m1, m2, b'-', d1, d2, b'T', h1, h2, b':', i1, i2, b':', s1, s2], rest) =
        text.split_first_chunk()?
    else {
        return None;
    };
    let fraction = match rest {
        b"Z" => &[][..],
        [b'.', fraction @ .., b'Z'] if (1..=9).contains(&fraction.len()) => fraction,
        _ => return None,
    };
    let number = |digits: &[u8]| {
        digits.iter().try_fold(0_i32, |number, digit| match digit {
            b'0'..=b'9' => Some(number * 10 + i32::from(digit - b'0')),
            _ => None,
        })
    };
    let two = |tens: u8, ones: u8| number(&[tens, ones]).and_then(|number| i8::try_from(number).ok());
    let year = i16::try_from(number(&[y1, y2, y3, y4])?).ok()?;
    let nanos = number(fraction)? * 10_i32.pow(9 - u32::try_from(fraction.len()).ok()?);
    let (month, day) = (two(m1, m2)?, two(d1, d2)?);
    let time = (two(h1, h2)?, two(i1, i2)?, two(s1, s2)?);
    let civil = jiff::civil::DateTime::new(year, month, day, time.0, time.1, time.2, nanos).ok()?;
    jiff::tz::Offset::UTC.to_timestamp(civil).ok()
}

impl fmt::Display for Timestamp {
    /// RFC 3339 in UTC.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl fmt::Debug for Timestamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl From<std::time::SystemTime> for Timestamp {
    fn from(time: std::time::SystemTime) -> Self {
        // The short way for every time since 1970, as each message asks for it once.
        if let Ok(since) = time.duration_since(std::time::UNIX_EPOCH)
            && let (Ok(seconds), Ok(nanos)) =
                (i64::try_from(since.as_secs()), i32::try_from(since.subsec_nanos()))
            && let Ok(time) = jiff::Timestamp::new(seconds, nanos)
        {
            return Self(time);
        }
        Self(jiff::Timestamp::try_from(time).unwrap_or(jiff::Timestamp::MAX))
    }
}

/// Where a service, a transport or a test takes the time from.
///
/// The system's clock, or a virtual one that runs on the runtime's timer: paused and advanced together with it.
#[derive(Debug, Clone, Copy, Default)]
pub struct Clock(Option<Virtual>);

#[derive(Debug, Clone, Copy)]
struct Virtual {
    origin: Timestamp,
    start: tokio::time::Instant,
}

impl Clock {
    /// The system's clock.
    #[must_use]
    pub const fn system() -> Self {
        Self(None)
    }

    /// A clock that shows `origin` now and goes on with the runtime's timer.
    #[must_use]
    pub fn virtual_from(origin: Timestamp) -> Self {
        Self(Some(Virtual { origin, start: tokio::time::Instant::now() }))
    }

    /// The time.
    #[must_use]
    #[inline]
    pub fn now(&self) -> Timestamp {
        match self.0 {
            None => Timestamp::now(),
            Some(clock) => clock.origin.after(clock.start.elapsed()),
        }
    }

    /// The runtime's instant at which this clock will show `at`; now where that is past.
    #[must_use]
    pub fn instant_of(&self, at: Timestamp) -> tokio::time::Instant {
        tokio::time::Instant::now() + at.since(self.now())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::{Duration, Timestamp, written};

    #[test]
    fn what_no_wire_can_write_is_the_nearest_that_one_can() {
        let (first, last) = (Timestamp(jiff::Timestamp::MIN), Timestamp(jiff::Timestamp::MAX));
        for (number, nearest) in [(i64::MIN, first), (i64::MAX, last)] {
            assert_eq!(Timestamp::from_millis(number), nearest);
            assert_eq!(Timestamp::from_micros(number), nearest);
        }
        assert_eq!(last.after(Duration::from_secs(1)), last);
    }

    #[test]
    fn a_time_is_told_in_each_unit() {
        let time: Timestamp = "2001-09-09T01:46:40.123456789Z".parse().unwrap();
        assert_eq!(time.as_millis(), 1_000_000_000_123);
        assert_eq!(time.as_micros(), 1_000_000_000_123_456);
        assert_eq!(time.as_nanos(), 1_000_000_000_123_456_789);
        assert_eq!(Timestamp::from_micros(1_000_000_000_123_456).as_nanos(), 1_000_000_000_123_456_000);
        assert_eq!(
            format!("{time} {time:?}"),
            "2001-09-09T01:46:40.123456789Z 2001-09-09T01:46:40.123456789Z"
        );
        let later = time.after(Duration::from_millis(1_500));
        assert_eq!(later.since(time), Duration::from_millis(1_500));
        assert_eq!(time.since(later), Duration::ZERO);
        let old = std::time::UNIX_EPOCH - Duration::from_secs(1);
        assert_eq!(Timestamp::from(old).as_millis(), -1_000);
    }

    #[tokio::test(start_paused = true)]
    async fn a_virtual_clock_goes_with_the_runtimes_timer() {
        let clock = super::Clock::virtual_from(Timestamp::EPOCH);
        tokio::time::advance(Duration::from_secs(5)).await;
        assert_eq!(clock.now(), Timestamp::EPOCH.after(Duration::from_secs(5)));
        let in_a_minute = tokio::time::Instant::now() + Duration::from_secs(60);
        assert_eq!(clock.instant_of(clock.now().after(Duration::from_secs(60))), in_a_minute);
        assert!(super::Clock::system().now() > clock.now());
    }

    #[test]
    fn what_is_no_time_is_left_to_the_long_way() {
        for text in [
            "",
            "2026-01-31T12:00:00",
            "2026-01-31T12:00:00+00:00",
            "2026-01-31t12:00:00Z",
            "2026-02-29T12:00:00Z",
            "2026-01-31T24:00:00Z",
            "2026-01-31T12:00:60Z",
            "2026-01-31T12:00:00.Z",
            "2026-01-31T12:00:00.1234567890Z",
            "2026-01-31T12:00:0:Z",
            "+026-01-31T12:00:00Z",
        ] {
            assert_eq!(written(text.as_bytes()), None, "{text}");
        }
    }

    proptest! {
        #[test]
        fn the_short_way_reads_what_the_long_one_reads(
            seconds in -62_135_596_800_i64..253_402_207_200,
            nanos in 0..1_000_000_000_i32,
            decimals in 0_usize..=9,
        ) {
            let time = jiff::Timestamp::new(seconds, nanos).unwrap();
            let text = format!("{time:.decimals$}");
            prop_assert_eq!(written(text.as_bytes()), Some(text.parse().unwrap()), "{}", text);
        }

        #[test]
        fn no_text_is_read_otherwise(text in "[0-9]{4}-[0-2][0-9]-[0-4][0-9]T[0-3][0-9]:[0-7][0-9]:[0-7][0-9](\\.[0-9]{0,10})?Z") {
            if let Some(time) = written(text.as_bytes()) {
                prop_assert_eq!(Ok(time), text.parse().map_err(|_: jiff::Error| ()));
            }
        }
    }
}

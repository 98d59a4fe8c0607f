//! Days, for what expires.

use std::fmt;
use std::str::FromStr;

use crate::envelope::Timestamp;
use crate::error::Error;

/// A day of the calendar, in UTC.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Day(jiff::civil::Date);

impl From<Timestamp> for Day {
    /// The day on which `time` falls in UTC.
    fn from(time: Timestamp) -> Self {
        let time = jiff::Timestamp::from_millisecond(time.as_millis()).unwrap_or(jiff::Timestamp::MAX);
        Self(jiff::tz::TimeZone::UTC.to_datetime(time).date())
    }
}

impl FromStr for Day {
    type Err = Error;
    fn from_str(text: &str) -> Result<Self, Error> {
        // Only the plain form: jiff would also take a date with a time behind it.
        let plain = text.len() == 10 && text.bytes().all(|byte| byte.is_ascii_digit() || byte == b'-');
        text.parse().ok().filter(|_| plain).map(Self).ok_or_else(|| {
            Error::config(format!("`{text:.40}` is no day of the calendar; write it as in \"2027-01-31\""))
        })
    }
}

impl fmt::Display for Day {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

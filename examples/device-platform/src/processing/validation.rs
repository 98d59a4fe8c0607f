//! What a reading can be.

use std::ops::RangeInclusive;

use jiff::Timestamp;

use crate::messages::{Quantity, ReadingReported};

/// What the sensors can measure, with the reason for the limits.
const RANGES: [(Quantity, RangeInclusive<f64>, &str); 4] = [
    (Quantity::Temperature, -40.0..=85.0, "°C, what the sensor is made for"),
    (Quantity::Humidity, 0.0..=100.0, "%, from dry to saturated air"),
    (Quantity::Light, 0.0..=200_000.0, "lux, from darkness to direct sunlight"),
    (Quantity::Co2, 0.0..=50_000.0, "ppm, what the sensor is made for"),
];

/// From 2000 to 2100: a device whose clock is not set reports 1970.
const TIMES: RangeInclusive<i64> = 946_684_800..=4_102_444_800;

/// A reading that cannot be true.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum Implausible {
    /// A value is outside of its range.
    #[error("{quantity} {value} is out of range: {min} to {max} {why}")]
    OutOfRange {
        /// Which quantity.
        quantity: Quantity,
        /// What was reported.
        value: f64,
        /// The least that is accepted.
        min: f64,
        /// The most that is accepted.
        max: f64,
        /// The unit, and why these limits.
        why: &'static str,
    },
    /// The time of measurement cannot be right.
    #[error("at {at} is out of range: 2000 to 2100, is the device's clock set?")]
    Time {
        /// What was reported.
        at: Timestamp,
    },
}

impl Implausible {
    /// The reason in one word, for metrics: the name of what is out of range.
    #[must_use]
    pub fn reason(&self) -> &'static str {
        match self {
            Self::OutOfRange { quantity, .. } => quantity.as_str(),
            Self::Time { .. } => "at",
        }
    }
}

/// Checks every value against its range.
///
/// # Errors
/// Names the first one that is out of range. A value that is not a number is out of every range.
pub fn check(reading: &ReadingReported) -> Result<(), Implausible> {
    for (quantity, range, why) in RANGES {
        let value = match quantity {
            Quantity::Temperature => reading.temperature,
            Quantity::Humidity => reading.humidity,
            Quantity::Light => reading.light,
            Quantity::Co2 => reading.co2,
            Quantity::HumidityRatio => continue,
        };
        if !range.contains(&value) {
            let (min, max) = range.into_inner();
            return Err(Implausible::OutOfRange { quantity, value, min, max, why });
        }
    }
    if !TIMES.contains(&reading.at.as_second()) {
        return Err(Implausible::Time { at: reading.at });
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::device_hw::dataset::SOURCES;

    fn good() -> ReadingReported {
        ReadingReported {
            device_id: "d".to_owned(),
            temperature: 21.0,
            humidity: 40.0,
            light: 0.0,
            co2: 420.0,
            at: "2015-02-02T14:19:00Z".parse().unwrap(),
        }
    }

    #[test]
    fn every_real_measurement_is_plausible() {
        for row in SOURCES.iter().flat_map(|s| s.rows().unwrap()) {
            check(&row.reading).unwrap();
        }
    }

    #[test]
    fn the_limits_belong_to_the_range() {
        for (temperature, humidity) in [(-40.0, 0.0), (85.0, 100.0)] {
            check(&ReadingReported { temperature, humidity, ..good() }).unwrap();
        }
    }

    #[test]
    fn an_error_names_the_quantity_and_the_range() {
        let error = check(&ReadingReported { humidity: 100.1, ..good() }).unwrap_err();
        assert_eq!(
            error.to_string(),
            "humidity 100.1 is out of range: 0 to 100 %, from dry to saturated air"
        );
        assert_eq!(error.reason(), "humidity");
        for (reading, reason) in [
            (ReadingReported { temperature: -40.1, ..good() }, "temperature"),
            (ReadingReported { temperature: f64::NAN, ..good() }, "temperature"),
            (ReadingReported { light: -1.0, ..good() }, "light"),
            (ReadingReported { co2: f64::INFINITY, ..good() }, "co2"),
            (ReadingReported { at: Timestamp::UNIX_EPOCH, ..good() }, "at"),
        ] {
            assert_eq!(check(&reading).unwrap_err().reason(), reason);
        }
    }
}

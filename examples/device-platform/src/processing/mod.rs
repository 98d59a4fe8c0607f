//! `service_platform.container.processing`: what makes a reading out of a measurement.
//!
//! [`enrich`] refuses what cannot be true and adds the [humidity ratio](humidity); [`aggregate`] condenses readings into windows. All
//! of it is pure: the same input gives the same output, so a message that is handled twice changes nothing.

pub mod aggregate;
pub mod component;
pub mod humidity;
mod plain;
pub mod validation;

use crate::messages::{ReadingEnriched, ReadingReported};
use validation::Implausible;

/// Checks a reading and adds what follows from it.
///
/// `reading_id` is the id of the message that reported it.
///
/// # Errors
/// When a value lies outside of what the sensors can measure. Trying again cannot help.
pub fn enrich(
    reading_id: impl Into<String>,
    reading: ReadingReported,
) -> Result<ReadingEnriched, Implausible> {
    validation::check(&reading)?;
    let ReadingReported { device_id, temperature, humidity, light, co2, at } = reading;
    let humidity_ratio = humidity::ratio(temperature, humidity);
    let reading_id = reading_id.into();
    Ok(ReadingEnriched { reading_id, device_id, temperature, humidity, light, co2, humidity_ratio, at })
}

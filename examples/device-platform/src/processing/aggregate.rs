//! Readings, condensed into windows of event time.
//!
//! The aggregate of a window is a function of the *set* of its readings: their order, late ones and repetitions do not change it, and a
//! computation over the stored rows gives the very same numbers, to the last bit. Two things make that so. Whoever keeps a [`Tally`]
//! adds a reading only when its id is new (the store does both in one transaction). And sums are whole numbers: adding floating point
//! numbers gives a result that depends on the order, adding integers does not.

use jiff::{Timestamp, ToSpan};

use crate::messages::{AggregateUpdated, Quantity, StoredReading, Summary, Window};

/// A millionth of each measured unit is far below what any sensor resolves. The humidity ratio is about a thousandth, so it gets more
/// digits. Within the plausible ranges the sum of nine million readings of one window fits.
const fn steps_per_unit(quantity: Quantity) -> f64 {
    match quantity {
        Quantity::HumidityRatio => 1e12,
        _ => 1e6,
    }
}

impl Window {
    /// How long it is, in seconds.
    #[must_use]
    pub fn seconds(self) -> i64 {
        match self {
            Self::OneMinute => 60,
            Self::TenMinutes => 600,
        }
    }

    /// Where the window begins that holds this instant.
    #[must_use]
    pub fn start(self, at: Timestamp) -> Timestamp {
        // `as_second` rounds towards 1970, `div_euclid` downwards: the fraction is taken off first.
        let second = at.as_second() - i64::from(at.subsec_nanosecond() < 0);
        let start = second.div_euclid(self.seconds()) * self.seconds();
        Timestamp::from_second(start).unwrap_or(Timestamp::MIN)
    }

    /// Where it ends; the end belongs to the next window.
    #[must_use]
    pub fn end(self, start: Timestamp) -> Timestamp {
        start.checked_add(self.seconds().seconds()).unwrap_or(Timestamp::MAX)
    }
}

/// The least, the most and the sum of one quantity.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Extent {
    /// The smallest value.
    pub min: f64,
    /// The largest value.
    pub max: f64,
    /// The sum, as a whole number of small steps (see the module).
    pub sum: i64,
}

impl Extent {
    /// Of a single value.
    #[must_use]
    pub fn of(quantity: Quantity, value: f64) -> Self {
        // Saturates where the value is beyond all ranges, which a validated reading is not.
        #[allow(clippy::cast_possible_truncation)]
        let sum = (value * steps_per_unit(quantity)).round() as i64;
        Self { min: value, max: value, sum }
    }

    fn and(self, other: Self) -> Self {
        Self {
            min: self.min.min(other.min),
            max: self.max.max(other.max),
            sum: self.sum.saturating_add(other.sum),
        }
    }

    /// What is told of it.
    #[must_use]
    #[allow(clippy::cast_precision_loss)] // The mean of so many is not known to more digits.
    pub fn summary(self, quantity: Quantity, count: u64) -> Summary {
        // The rounding to steps must not take the mean of equal values out of their range.
        let mean = self.sum as f64 / count as f64 / steps_per_unit(quantity);
        Summary { min: self.min, max: self.max, mean: mean.clamp(self.min, self.max) }
    }
}

/// What is known about one window of one device. Never empty.
#[derive(Debug, Clone, PartialEq)]
pub struct Tally {
    /// How many readings.
    pub count: u64,
    /// In the order of [`Quantity::ALL`].
    pub extents: [Extent; 5],
}

impl Tally {
    /// Of one reading.
    #[must_use]
    pub fn of(reading: &StoredReading) -> Self {
        let reading = reading.to_enriched();
        Self { count: 1, extents: Quantity::ALL.map(|q| Extent::of(q, reading.value(q))) }
    }

    /// Of the readings of two disjoint sets. The order does not matter.
    #[must_use]
    pub fn and(&self, other: &Self) -> Self {
        Self {
            count: self.count + other.count,
            extents: std::array::from_fn(|i| self.extents[i].and(other.extents[i])),
        }
    }

    /// What is told of it.
    #[must_use]
    pub fn report(&self, device_id: impl Into<String>, window: Window, start: Timestamp) -> AggregateUpdated {
        let [temperature, humidity, light, co2, humidity_ratio] =
            std::array::from_fn(|i| self.extents[i].summary(Quantity::ALL[i], self.count));
        AggregateUpdated {
            device_id: device_id.into(),
            window,
            start,
            count: self.count,
            temperature,
            humidity,
            light,
            co2,
            humidity_ratio,
        }
    }
}

/// Computes all windows of some readings from scratch, ordered by device and start: what the store must hold when it holds these
/// readings. A reading that is there twice counts once.
#[must_use]
pub fn aggregate<'a>(
    window: Window,
    readings: impl IntoIterator<Item = &'a StoredReading>,
) -> Vec<AggregateUpdated> {
    let mut seen = std::collections::HashSet::new();
    let mut windows = std::collections::BTreeMap::<(&str, Timestamp), Tally>::new();
    for reading in readings {
        if seen.insert(reading.id.as_str()) {
            let one = Tally::of(reading);
            windows
                .entry((&reading.device_id, window.start(reading.at)))
                .and_modify(|tally| *tally = tally.and(&one))
                .or_insert(one);
        }
    }
    windows.into_iter().map(|((device_id, start), tally)| tally.report(device_id, window, start)).collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::device_hw::dataset::SOURCES;
    use crate::processing::enrich;

    fn stored() -> Vec<StoredReading> {
        let rows = SOURCES[0].rows().unwrap().into_iter();
        rows.map(|row| StoredReading::new("t", &enrich(row.id, row.reading).unwrap())).collect()
    }

    fn at(text: &str) -> Timestamp {
        text.parse().unwrap()
    }

    #[test]
    fn windows_are_aligned_on_event_time() {
        let start = |window: Window, text| window.start(at(text)).to_string();
        assert_eq!(start(Window::OneMinute, "2015-02-02T14:19:59.999Z"), "2015-02-02T14:19:00Z");
        assert_eq!(start(Window::OneMinute, "2015-02-02T14:20:00Z"), "2015-02-02T14:20:00Z");
        assert_eq!(start(Window::TenMinutes, "2015-02-02T14:19:59.999Z"), "2015-02-02T14:10:00Z");
        assert_eq!(start(Window::OneMinute, "1969-12-31T23:59:59.5Z"), "1969-12-31T23:59:00Z");
        assert_eq!(start(Window::OneMinute, "1969-12-31T23:59:00Z"), "1969-12-31T23:59:00Z");
        assert_eq!(Window::TenMinutes.end(at("2015-02-02T14:10:00Z")), at("2015-02-02T14:20:00Z"));
    }

    #[test]
    fn counts_extremes_and_mean_are_those_of_the_readings() {
        let readings = stored();
        let windows = aggregate(Window::TenMinutes, &readings);
        assert_eq!(windows.iter().map(|w| w.count).sum::<u64>(), 2_665);

        let window = &windows[1];
        let of_window: Vec<_> =
            readings.iter().filter(|r| Window::TenMinutes.start(r.at) == window.start).collect();
        assert_eq!(window.count, of_window.len() as u64);
        let mean = of_window.iter().map(|r| r.co2).sum::<f64>() / of_window.len() as f64;
        assert!((window.co2.mean - mean).abs() < 1e-6, "{} {mean}", window.co2.mean);
        let mean = of_window.iter().map(|r| r.humidity_ratio).sum::<f64>() / of_window.len() as f64;
        assert!((window.humidity_ratio.mean / mean - 1.0).abs() < 1e-9);
        assert_eq!(window.co2.max, of_window.iter().map(|r| r.co2).fold(f64::MIN, f64::max));
        assert_eq!(window.co2.min, of_window.iter().map(|r| r.co2).fold(f64::MAX, f64::min));
    }

    #[test]
    fn a_reading_that_is_there_twice_counts_once() {
        let readings = stored();
        let twice: Vec<_> = readings.iter().chain(&readings).collect();
        assert_eq!(aggregate(Window::OneMinute, twice), aggregate(Window::OneMinute, &readings));
    }

    #[test]
    fn the_mean_of_one_value_is_that_value() {
        let reading = StoredReading { temperature: 23.718_333_333_333_3, ..stored().swap_remove(0) };
        let summary = Tally::of(&reading).report("d", Window::OneMinute, reading.at).temperature;
        assert_eq!((summary.min, summary.mean, summary.max), (summary.min, summary.min, summary.min));
    }

    #[test]
    fn the_order_of_readings_does_not_matter() {
        let readings = &stored()[..400];
        let windows = aggregate(Window::TenMinutes, readings);
        let order = Just((0..readings.len()).collect::<Vec<_>>()).prop_shuffle();
        proptest!(|(order in order)| {
            let shuffled: Vec<_> = order.into_iter().map(|i| &readings[i]).collect();
            prop_assert_eq!(aggregate(Window::TenMinutes, shuffled), windows.clone());
        });
    }
}

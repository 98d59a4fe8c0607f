//! Which reading is due when.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use uuid::Uuid;

use super::dataset::{DatasetError, Row, SOURCES};

/// How many times faster than in life the measurements are replayed.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Speed(Option<f64>);

impl Speed {
    /// As fast as the platform takes them.
    pub const MAX: Self = Self(None);

    /// So many times real time.
    ///
    /// # Errors
    /// When `times` is not a number above zero.
    pub fn times(times: f64) -> Result<Self, SpeedError> {
        if times.is_finite() && times > 0.0 {
            Ok(Self(Some(times)))
        } else {
            Err(SpeedError(times.to_string()))
        }
    }

    /// How long the replay takes for what took so long in life.
    fn scale(self, real: Duration) -> Duration {
        let seconds = self.0.map_or(0.0, |times| real.as_secs_f64() / times);
        Duration::try_from_secs_f64(seconds).unwrap_or(Duration::MAX)
    }
}

/// Not a speed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is not a speed: give a number above 0 (1 is real time, 60 is a minute each second), or `max`")]
pub struct SpeedError(String);

impl FromStr for Speed {
    type Err = SpeedError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if text == "max" {
            return Ok(Self::MAX);
        }
        text.parse().map_err(|_| SpeedError(text.to_owned())).and_then(Self::times)
    }
}

impl fmt::Display for Speed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Some(times) => write!(f, "{times}"),
            None => f.write_str("max"),
        }
    }
}

/// A row and the moment to send it.
#[derive(Debug, Clone, PartialEq)]
pub struct Due {
    /// How long after the start of the replay.
    pub after: Duration,
    /// What to send.
    pub row: Row,
}

/// All readings of all devices in the order in which they are due; each device's period begins at the start of the replay.
#[derive(Debug)]
pub struct Replay {
    devices: Vec<std::iter::Peekable<Timeline>>,
    left: usize,
}

impl Replay {
    /// The whole data set at a speed.
    ///
    /// # Errors
    /// When the data set cannot be read.
    pub fn new(speed: Speed) -> Result<Self, DatasetError> {
        let devices = SOURCES.iter().map(|source| Ok(Timeline::new(source.rows()?, speed).peekable()));
        let devices: Vec<_> = devices.collect::<Result<_, _>>()?;
        let left = devices.iter().map(|device| device.size_hint().0).sum();
        Ok(Self { devices, left })
    }

    /// Ends after so many readings.
    #[must_use]
    pub fn up_to(mut self, readings: usize) -> Self {
        self.left = self.left.min(readings);
        self
    }

    /// Goes on behind the reading `id`; says how many lie before that, or `None` where it holds no such reading, and is over then.
    pub fn go_on_behind(&mut self, id: Uuid) -> Option<usize> {
        self.position(|due| due.row.id == id).map(|at| at + 1)
    }
}

impl Iterator for Replay {
    type Item = Due;

    fn next(&mut self) -> Option<Due> {
        // In the order of real time, so that the order does not depend on the speed.
        self.left = self.left.checked_sub(1)?;
        let next = self.devices.iter_mut().filter_map(|d| d.peek().map(|due| due.0)).min()?;
        self.devices.iter_mut().find_map(|d| d.next_if(|due| due.0 == next)).map(|(_, due)| due)
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        (self.left, Some(self.left))
    }
}

impl ExactSizeIterator for Replay {}

/// The rows of one device, each with its distance to the first in real time.
#[derive(Debug)]
struct Timeline {
    rows: std::vec::IntoIter<Row>,
    start: jiff::Timestamp,
    speed: Speed,
}

impl Timeline {
    fn new(rows: Vec<Row>, speed: Speed) -> Self {
        let start = rows.first().map(|row| row.reading.at).unwrap_or_default();
        Self { rows: rows.into_iter(), start, speed }
    }
}

impl Iterator for Timeline {
    type Item = (Duration, Due);

    fn next(&mut self) -> Option<Self::Item> {
        let row = self.rows.next()?;
        let real = Duration::try_from(row.reading.at.duration_since(self.start)).unwrap_or_default();
        Some((real, Due { after: self.speed.scale(real), row }))
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        self.rows.size_hint()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn three_devices_start_together_and_keep_their_pace() {
        let replay = Replay::new(Speed::times(60.0).unwrap()).unwrap();
        assert_eq!(replay.len(), 20_560);
        let first: Vec<_> = replay.take(6).map(|d| (d.after.as_millis(), d.row.reading.device_id)).collect();
        let seen: Vec<_> = first.iter().map(|(after, device)| (*after, device.as_str())).collect();
        // The second row of two of the files is 59 seconds after the first.
        assert_eq!(
            seen,
            [
                (0, "office-a"),
                (0, "office-b"),
                (0, "office-c"),
                (983, "office-a"),
                (983, "office-b"),
                (1000, "office-c"),
            ]
        );
    }

    #[test]
    fn the_order_is_the_same_at_every_speed() {
        let ids = |speed| Replay::new(speed).unwrap().map(|d| d.row.id).collect::<Vec<_>>();
        assert_eq!(ids(Speed::MAX), ids(Speed::times(1.0).unwrap()));
    }

    #[test]
    fn at_full_speed_everything_is_due_at_once() {
        assert!(Replay::new(Speed::MAX).unwrap().all(|d| d.after == Duration::ZERO));
    }

    #[test]
    fn what_is_due_never_goes_back() {
        let replay: Vec<_> = Replay::new(Speed::times(3600.0).unwrap()).unwrap().collect();
        assert!(replay.is_sorted_by_key(|d| d.after));
        assert_eq!(replay.len(), 20_560);
    }

    #[test]
    fn it_goes_on_where_it_was_and_ends_where_it_is_told() {
        let ids = |replay: Replay| replay.map(|due| due.row.id).collect::<Vec<_>>();
        let all = ids(Replay::new(Speed::MAX).unwrap());
        for at in [0, 1, 9_999, all.len() - 1] {
            let mut rest = Replay::new(Speed::MAX).unwrap();
            assert_eq!(rest.go_on_behind(all[at]), Some(at + 1));
            assert_eq!(rest.len(), all.len() - at - 1);
            assert_eq!(ids(rest), all[at + 1..]);
        }
        let mut some = Replay::new(Speed::MAX).unwrap().up_to(100);
        assert_eq!(some.go_on_behind(all[59]), Some(60));
        assert_eq!((some.len(), ids(some)), (40, all[60..100].to_vec()));
        let mut others = Replay::new(Speed::MAX).unwrap();
        assert_eq!((others.go_on_behind(Uuid::nil()), others.next()), (None, None));
    }

    #[test]
    fn a_speed_is_above_zero_or_max() {
        assert_eq!("max".parse(), Ok(Speed::MAX));
        assert_eq!("1.5".parse(), Ok(Speed(Some(1.5))));
        for text in ["0", "-1", "NaN", "inf", "fast", ""] {
            assert!(text.parse::<Speed>().unwrap_err().to_string().contains("is not a speed"), "{text}");
        }
    }
}

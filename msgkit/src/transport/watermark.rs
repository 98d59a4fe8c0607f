//! How far a cumulative settlement may go when handlers finish in any order.
//!
//! Kafka, Kinesis, AMQP's `multiple` and MQTT's order of PUBACKs all settle "everything up to here". [`Watermark`] is
//! the one place that decides where "here" is.

use std::collections::VecDeque;
use std::fmt;

/// Tracks which positions of one ordered stream are settled, and up to where all of them are.
///
/// ```
/// use msgkit::transport::Watermark;
/// let mut watermark = Watermark::new();
/// for offset in [7, 8, 10] {
///     watermark.received(offset)?;
/// }
/// assert_eq!(watermark.settled(8)?, None); // 7 is still being handled
/// assert_eq!(watermark.settled(7)?, Some(8)); // 7 and 8 are done, 10 is not
/// # Ok::<(), msgkit::transport::WatermarkError>(())
/// ```
#[derive(Debug, Clone, Default)]
pub struct Watermark {
    /// What was received and is not below the mark, ascending; whether it is settled.
    open: VecDeque<(u64, bool)>,
    /// The highest position that was received.
    last: Option<u64>,
    /// The highest position below or at which everything that was received is settled.
    mark: Option<u64>,
}

impl Watermark {
    /// A stream from which nothing was received.
    #[must_use]
    pub const fn new() -> Self {
        Self { open: VecDeque::new(), last: None, mark: None }
    }

    /// Takes note of the next message; positions ascend, gaps are legal.
    ///
    /// # Errors
    /// [`WatermarkError::NotAscending`] where `position` is not above every position before it; nothing changes.
    pub fn received(&mut self, position: u64) -> Result<(), WatermarkError> {
        if let Some(last) = self.last
            && position <= last
        {
            return Err(WatermarkError::NotAscending { position, last });
        }
        self.last = Some(position);
        self.open.push_back((position, false));
        Ok(())
    }

    /// Takes note that a message is settled; `Some` is the new mark where it moved: everything up to and including it
    /// is settled.
    ///
    /// # Errors
    /// [`WatermarkError::Unknown`] where `position` was never received or is settled already; nothing changes.
    pub fn settled(&mut self, position: u64) -> Result<Option<u64>, WatermarkError> {
        let at = self
            .open
            .binary_search_by_key(&position, |(position, _)| *position)
            .map_err(|_| WatermarkError::Unknown { position })?;
        if std::mem::replace(&mut self.open[at].1, true) {
            return Err(WatermarkError::Unknown { position });
        }
        let before = self.mark;
        while let Some((position, true)) = self.open.front().copied() {
            self.open.pop_front();
            self.mark = Some(position);
        }
        Ok(self.mark.filter(|_| self.mark != before))
    }

    /// The highest position up to which everything is settled.
    #[must_use]
    pub fn mark(&self) -> Option<u64> {
        self.mark
    }

    /// How many messages are above the mark: unsettled ones, and settled ones behind them.
    #[must_use]
    pub fn open(&self) -> usize {
        self.open.len()
    }

    /// The lowest position that is not settled: what holds the mark.
    #[must_use]
    pub fn held_by(&self) -> Option<u64> {
        self.open.front().map(|(position, _)| *position)
    }
}

/// Why a position was refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum WatermarkError {
    /// The position is not above the last one.
    NotAscending {
        /// The position.
        position: u64,
        /// The highest position before it.
        last: u64,
    },
    /// The position was never received, or is settled already.
    Unknown {
        /// The position.
        position: u64,
    },
}

impl fmt::Display for WatermarkError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotAscending { position, last } => write!(f, "position {position} came after {last}"),
            Self::Unknown { position } => write!(f, "position {position} is not open"),
        }
    }
}

impl std::error::Error for WatermarkError {}

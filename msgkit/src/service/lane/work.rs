//! A message on its way, and what is to become of it.

use std::fmt;
use std::time::Duration;

use tokio::time::Instant;

use crate::envelope::{DeadLetterKind, Envelope, Timestamp};
use crate::text::Text;
use crate::transport::Delivery;

/// The longest time that anything waits. An instant beyond all numbers is a panic, and waits come from outside, too.
const LONGEST: Duration = Duration::from_secs(30 * 365 * 86_400);

/// The instant after `wait`.
pub(crate) fn later(wait: Duration) -> Instant {
    Instant::now() + wait.min(LONGEST)
}

/// A message on its way through the attempts.
#[derive(Debug)]
pub(crate) struct Work {
    pub(super) delivery: Delivery,
    pub(super) envelope: Envelope,
    pub(super) track: usize,
    pub(super) origin: usize,
    pub(super) attempts: u32,
    /// Attempts in place since the last delay.
    pub(super) in_place: u32,
    /// When it failed first, where it has.
    pub(super) first_failure: Option<Timestamp>,
    /// How often it went first while the breaker was open.
    pub(super) probes: u32,
    /// Delayed retries so far.
    pub(super) round: u32,
}

impl Work {
    /// The message's ordering key.
    pub(crate) fn key(&self) -> Option<&str> {
        self.envelope.key()
    }

    /// The delivery, to give it back.
    pub(crate) fn into_delivery(self) -> Delivery {
        self.delivery
    }
}

/// What a failed attempt means.
pub(super) enum Decision {
    /// Try again here, at once.
    Again,
    /// Try again here, later; the key waits.
    Park(Duration),
    /// Settle it one way or the other.
    Do(Action),
}

impl fmt::Display for Decision {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Again => f.write_str("again at once"),
            Self::Park(wait) => write!(f, "again here in {wait:?}"),
            Self::Do(Action::Retry(delay)) => write!(f, "a copy, due in {delay:?}"),
            Self::Do(Action::Bury { .. }) => f.write_str("a dead letter"),
            Self::Do(Action::Discard(_)) => f.write_str("discarded"),
        }
    }
}

/// How a failed message is settled.
pub(super) enum Action {
    /// A copy that is due later.
    Retry(Duration),
    /// A dead letter.
    Bury { kind: DeadLetterKind, error: String },
    /// Dropped, because the handler said so.
    Discard(Text),
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_wait_of_years_is_kept_and_one_beyond_all_numbers_is_no_panic() {
        let years = Duration::from_secs(29 * 365 * 86_400);
        assert_eq!(later(years), Instant::now() + years);
        assert!(later(Duration::MAX) > later(years));
    }
}

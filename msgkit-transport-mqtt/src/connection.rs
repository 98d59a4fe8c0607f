//! The pauses between two tries to connect.

use std::time::Duration;

/// The longest pause.
pub(crate) const LONGEST_PAUSE: Duration = Duration::from_secs(15);
/// The shortest and the longest pause.
const PAUSE: (Duration, Duration) = (Duration::from_millis(50), LONGEST_PAUSE);

/// Pauses that grow with each failure, with a part of chance, so that many clients do not come back at once.
#[derive(Debug)]
pub(crate) struct Pauses(Duration);

impl Pauses {
    pub(crate) const fn new() -> Self {
        Self(PAUSE.0)
    }

    /// It worked: the next failure is the first again.
    pub(crate) fn reset(&mut self) {
        self.0 = PAUSE.0;
    }

    /// How long to wait before the next try.
    pub(crate) fn next(&mut self) -> Duration {
        let pause = self.0;
        self.0 = (pause * 2).min(PAUSE.1);
        pause / 2 + pause.mul_f64(fastrand::f64() / 2.0)
    }
}

/// A name that nobody else has.
pub(crate) fn unique() -> String {
    format!("{:016x}", fastrand::u64(..))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_and_have_an_end() {
        let mut pauses = Pauses::new();
        assert!(pauses.next() <= PAUSE.0);
        for _ in 0..20 {
            pauses.next();
        }
        let longest = pauses.next();
        assert!(longest <= PAUSE.1 && longest >= PAUSE.1 / 2, "{longest:?}");
        pauses.reset();
        assert!(pauses.next() <= PAUSE.0);
    }
}

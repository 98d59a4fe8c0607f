//! What happens when handling fails, and how much is handled at once.
//!
//! A [`Policy`] is a value: named in configuration, set in a handler's derive, or built in code. It never depends on the
//! transport; what a transport cannot do natively is emulated visibly or refused at start.

mod breaker;
#[cfg(test)]
mod tests;

use std::time::Duration;

pub use self::breaker::{Breaker, BreakerState};
use crate::error::Error;

/// How one handler is run.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct Policy {
    /// Retries in place, at once.
    pub immediate: u32,
    /// Retries later, as copies in the transport's custody; `None` = none.
    pub delayed: Option<Delayed>,
    /// How long one attempt may take.
    pub timeout: Duration,
    /// How many messages are handled at once.
    pub concurrency: usize,
    /// Whether messages of one key stay in order.
    pub order: Order,
    /// The most messages in hand of one transport: being handled, waiting for a lane, parked behind their key; beside them one
    /// of each delay step that the core keeps. At least `concurrency`.
    pub in_flight: usize,
    /// How often a message may be started without being settled before its next start is its last, alone.
    pub max_starts: u32,
    /// Slows down when everything fails; `None` = never.
    pub breaker: Option<BreakerPolicy>,
    /// What becomes of a message of a type that the handler does not take.
    pub unhandled: Unhandled,
    /// How long a copy (delayed retry, dead letter) may take to be confirmed before the lane backs off and tries again.
    pub copy_deadline: Duration,
}

impl Default for Policy {
    fn default() -> Self {
        Self {
            immediate: 2,
            delayed: Some(Delayed::default()),
            timeout: Duration::from_secs(30),
            concurrency: 1,
            order: Order::None,
            in_flight: 128,
            max_starts: 5,
            breaker: Some(BreakerPolicy::default()),
            unhandled: Unhandled::Skip,
            copy_deadline: Duration::from_secs(10),
        }
    }
}

/// Retries that wait: the delay grows from `initial` by `factor` up to `max`, `rounds` times.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct Delayed {
    /// The first delay.
    pub initial: Duration,
    /// By how much each delay is longer than the one before; at least 1.
    pub factor: f64,
    /// The longest delay.
    pub max: Duration,
    /// How many delayed retries there are.
    pub rounds: u32,
    /// Up to which share of a delay is added at random, 0 to 1, so that what failed together does not come back together.
    pub jitter: f64,
}

impl Default for Delayed {
    fn default() -> Self {
        Self {
            initial: Duration::from_secs(1),
            factor: 2.0,
            max: Duration::from_secs(300),
            rounds: 5,
            jitter: 0.1,
        }
    }
}

impl Delayed {
    /// `rounds` retries, the first after `initial`, each delay twice the one before.
    #[must_use]
    pub fn new(initial: Duration, rounds: u32) -> Self {
        Self { initial, rounds, ..Self::default() }
    }

    /// The delay of `round`, from 1, without jitter.
    #[must_use]
    pub fn delay(&self, round: u32) -> Duration {
        let power = i32::try_from(round.saturating_sub(1)).unwrap_or(i32::MAX);
        let seconds = self.initial.as_secs_f64() * self.factor.max(1.0).powi(power);
        Duration::try_from_secs_f64(seconds).unwrap_or(self.max).min(self.max)
    }

    /// The distinct delays, ascending: one retry destination each.
    #[must_use]
    pub fn steps(&self) -> Vec<Duration> {
        let mut steps: Vec<Duration> = Vec::new();
        for round in 1..=self.rounds {
            let delay = self.delay(round);
            if steps.last() != Some(&delay) {
                steps.push(delay);
            } else if delay == self.max {
                break;
            }
        }
        steps
    }

    /// The sum of all delays.
    #[must_use]
    pub fn total(&self) -> Duration {
        (1..=self.rounds).fold(Duration::ZERO, |sum, round| sum.saturating_add(self.delay(round)))
    }

    /// The time that jitter adds to `delay`.
    pub(crate) fn jitter_of(&self, delay: Duration) -> Duration {
        if self.jitter <= 0.0 {
            Duration::ZERO
        } else {
            delay.mul_f64(fastrand::f64() * self.jitter.min(1.0))
        }
    }
}

/// Whether messages of one key stay in order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum Order {
    /// Lanes take messages as they come.
    #[default]
    None,
    /// Messages of one key are handled one after the other; what happens to those behind a failing one is for
    /// [`OnFailure`] to say.
    Key(OnFailure),
}

/// Key order and delayed retries conflict; this says which wins.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum OnFailure {
    /// Later messages of the key go on while the failing one waits for its delayed retry.
    #[default]
    Overtake,
    /// The key waits: the failing message is retried in place with the delays of the policy, then dead-lettered.
    Hold,
}

/// What becomes of a message of a type that the handler does not take.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum Unhandled {
    /// It is settled and counted.
    #[default]
    Skip,
    /// It is dead-lettered: for roll-outs in which old members would skip what only new ones take.
    DeadLetter,
}

/// When to slow down.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct BreakerPolicy {
    /// How many attempts in a row must fail, none succeeding between them.
    pub failures: u32,
    /// How long to wait before one attempt is let through; doubles while that fails, up to `max_wait`.
    pub wait: Duration,
    /// The longest wait.
    pub max_wait: Duration,
    /// For how long a message may fail without its attempts being counted: then it is taken for the message's own fault,
    /// so that messages which nothing will ever handle do not go round for ever where no other comes to tell.
    pub patience: Duration,
}

impl Default for BreakerPolicy {
    fn default() -> Self {
        Self {
            failures: 50,
            wait: Duration::from_secs(1),
            max_wait: Duration::from_secs(60),
            patience: Duration::from_secs(3600),
        }
    }
}

impl Policy {
    /// Checks that the numbers make sense.
    ///
    /// # Errors
    /// [`ErrorKind::Config`](crate::ErrorKind::Config) naming the key and the fix.
    pub fn check(&self) -> Result<(), Error> {
        if self.concurrency == 0 {
            return Err(Error::config(
                "`concurrency = 0` handles nothing; pause the handler, or use at least 1",
            ));
        }
        if self.in_flight < self.concurrency {
            return Err(Error::config(format!(
                "`in_flight = {}` is less than `concurrency = {}`; the lanes could never all work",
                self.in_flight, self.concurrency
            )));
        }
        if self.timeout.is_zero() {
            return Err(Error::config("`timeout` is zero, so every attempt would fail; use at least 1ms"));
        }
        if self.copy_deadline.is_zero() {
            return Err(Error::config(
                "`copy_deadline` is zero, so no copy would ever be confirmed in time; use at least 100ms",
            ));
        }
        if self.max_starts == 0 {
            return Err(Error::config("`max_starts = 0` starts nothing; use at least 1"));
        }
        if let Some(delayed) = &self.delayed {
            if delayed.factor < 1.0 || !delayed.factor.is_finite() {
                return Err(Error::config(format!(
                    "`delayed.factor = {}` must be at least 1",
                    delayed.factor
                )));
            }
            if delayed.initial.is_zero() || delayed.max < delayed.initial {
                return Err(Error::config(
                    "`delayed.initial` must be longer than zero and not longer than `delayed.max`",
                ));
            }
            if !(0.0..=1.0).contains(&delayed.jitter) {
                return Err(Error::config(format!(
                    "`delayed.jitter = {}` must be between 0 and 1",
                    delayed.jitter
                )));
            }
            if delayed.rounds == 0 || delayed.rounds > 1000 {
                return Err(Error::config(
                    "`delayed.rounds` must be between 1 and 1000; leave `delayed` out for none",
                ));
            }
        }
        Ok(())
    }

    /// How often a message is handed to the handler at the most.
    #[must_use]
    pub fn max_attempts(&self) -> u32 {
        let rounds = self.delayed.as_ref().map_or(0, |delayed| delayed.rounds);
        (self.immediate.saturating_add(1)).saturating_mul(rounds.saturating_add(1))
    }
}

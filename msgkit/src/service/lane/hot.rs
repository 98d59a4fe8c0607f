//! The short way: plain messages, handled in one poll.

use std::panic::{AssertUnwindSafe, catch_unwind};

use super::Lane;
use super::track::{Begun, Ended, panicked};
use super::work::Work;
use crate::transport::{Delivery, Incoming};

/// Where the good day ended.
pub(super) enum Hot {
    /// The batch is worked off.
    Empty,
    /// This one is for the slow path, from its beginning.
    Unusual(Delivery),
    /// The first attempt of this one has begun.
    Begun(Box<Work>, Begun),
}

impl Lane {
    /// The good day: as long as nothing is unusual, messages are handled in one poll, without a future of their own.
    ///
    /// The coroutine of a type works off what there is of it by itself ([`Stretch`](super::Stretch)); the lane looks where
    /// the type changes. Whatever is not plain (a message with a past or a schedule, an observer, a handler that waits,
    /// fails or publishes) leaves through the slow path, which starts where this stopped.
    pub(super) fn hot(&mut self, task: &mut std::task::Context<'_>) -> Hot {
        let shared = &self.shared;
        let unusual = shared.observers.any()
            || shared.plan.spec.has_slots()
            || !self.parking.is_empty()
            || shared.breaker.as_ref().is_some_and(|breaker| !breaker.is_closed())
            || tracing::enabled!(tracing::Level::INFO);
        let begun = if unusual {
            None
        } else {
            self.slot.exchange(&mut self.batch, &mut self.acks);
            let begun = self.work_off_plain(task);
            self.slot.exchange(&mut self.batch, &mut self.acks);
            begun
        };
        if self.shared.quarantine.is_active() && begun.is_none() {
            return Hot::Empty;
        }
        let Some(delivery) = self.batch.pop_front() else { return Hot::Empty };
        match (begun, delivery.message()) {
            (Some((track, begun)), Incoming::Envelope(envelope)) => {
                let envelope = envelope.clone();
                let origin = self.origin;
                let work = Work {
                    delivery,
                    envelope,
                    track,
                    origin,
                    attempts: 0,
                    in_place: 0,
                    first_failure: None,
                    probes: 0,
                    round: 0,
                };
                Hot::Begun(Box::new(work), begun)
            }
            _ => Hot::Unusual(delivery),
        }
    }

    /// Handles what is plain, from the head of the batch that was lent. Where an attempt began that did not end in a plain
    /// success, tells its track and how far it has come: its message is the head of what is left.
    fn work_off_plain(&mut self, task: &mut std::task::Context<'_>) -> Option<(usize, Begun)> {
        let Self { shared, tracks, slot, context, swift, .. } = self;
        loop {
            let track = slot.begin(context, |kind| tracks.iter().position(|track| track.name == kind))?;
            let typed = &mut tracks[track];
            match catch_unwind(AssertUnwindSafe(|| typed.coroutine.as_mut().poll(task))) {
                Err(panic) => {
                    typed.restart();
                    return Some((track, Begun::Ended(Ended::Broken(panicked(&*panic)))));
                }
                Ok(_) => {
                    let Some(done) = slot.take() else { return Some((track, Begun::Waits)) };
                    *context = Some(done.context);
                    if done.in_hand {
                        return Some((track, Begun::Ended(Ended::Outcome(done.outcome))));
                    }
                    *swift = true;
                    if shared.quarantine.is_active() {
                        return None;
                    }
                }
            }
        }
    }
}

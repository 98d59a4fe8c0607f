//! The short way: plain messages, handled in one poll.

use std::panic::{AssertUnwindSafe, catch_unwind};

use super::Lane;
use super::track::{Begun, Ended, panic_text};
use super::work::Work;
use crate::envelope::DeadLetterKind;
use crate::handler::{Context, Failure, HandlerError};
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
    /// Whatever is not plain (a message with a past or a schedule, an observer, a handler that waits, fails or publishes)
    /// leaves through the slow path, which starts where this stopped.
    pub(super) fn hot(&mut self, task: &mut std::task::Context<'_>) -> Hot {
        let Self { shared, tracks, context, acks, batch, parking, origin, swift, .. } = self;
        let unusual = shared.observers.any()
            || shared.plan.spec.has_slots()
            || !parking.is_empty()
            || shared.breaker.as_ref().is_some_and(|breaker| !breaker.is_closed());
        let max_starts = shared.plan.policy.max_starts;
        while let Some(delivery) = batch.pop_front() {
            let Incoming::Envelope(envelope) = delivery.message() else { return Hot::Unusual(delivery) };
            if unusual
                || !envelope.is_plain()
                || delivery.count() > max_starts
                || tracing::enabled!(tracing::Level::INFO)
            {
                return Hot::Unusual(delivery);
            }
            let Some(at) = tracks.iter().position(|track| track.name == envelope.kind()) else {
                return Hot::Unusual(delivery);
            };
            let track = &mut tracks[at];
            let cx = match context.take() {
                Some(mut cx) => {
                    cx.reset(envelope, 1);
                    cx
                }
                None => Context::new(shared.parts.clone(), envelope.clone(), 1),
            };
            track.slot.put(cx);
            let begun = match catch_unwind(AssertUnwindSafe(|| track.coroutine.as_mut().poll(task))) {
                Err(panic) => {
                    let failure =
                        Failure::new(DeadLetterKind::Panic, HandlerError::retry(panic_text(&*panic)));
                    track.restart();
                    Begun::Ended(Ended::Broken(failure))
                }
                Ok(_) => match track.slot.take() {
                    Some((mut cx, Ok(()))) => {
                        let published = cx.has_outbox();
                        *context = Some(cx);
                        if !published {
                            if let Some(breaker) = &shared.breaker {
                                breaker.succeeded();
                            }
                            delivery.ack_into(acks);
                            *swift = true;
                            if shared.quarantine.is_active() {
                                return Hot::Empty;
                            }
                            continue;
                        }
                        Begun::Ended(Ended::Outcome(Ok(())))
                    }
                    Some((cx, outcome)) => {
                        *context = Some(cx);
                        Begun::Ended(Ended::Outcome(outcome))
                    }
                    None => Begun::Waits,
                },
            };
            let envelope = envelope.clone();
            let work = Work {
                delivery,
                envelope,
                track: at,
                origin: *origin,
                attempts: 0,
                in_place: 0,
                first_failure: None,
                probes: 0,
                round: 0,
            };
            return Hot::Begun(Box::new(work), begun);
        }
        Hot::Empty
    }
}

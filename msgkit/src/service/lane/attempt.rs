//! Attempts: running the handler, and saying what a failure means.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::task::Poll;
use std::time::Duration;

use tokio::time::Instant;

use super::Lane;
use super::complete::{begin, complete, handing_over};
use super::track::{Begun, Ended, panicked};
use super::work::{Action, Decision, Work, later};
use crate::envelope::DeadLetterKind;
use crate::handler::{Context, Disposition, Failure, HandlerError, Unit};
use crate::policy::{OnFailure, Order};
use crate::telemetry::{EventKind, span};

/// How often a message may go first in an outage before another one does.
const PROBES: u32 = 3;

/// How long a message waits in an outage where its policy has no delays.
const OUTAGE_PAUSE: Duration = Duration::from_secs(5);

impl Lane {
    /// Runs attempts until the message is settled, gone back, or parked.
    ///
    /// `begun` is what has happened of the first attempt, where it has begun.
    pub(super) async fn attempts(&mut self, mut work: Work, mut begun: Option<Begun>) {
        loop {
            if begun.is_none()
                && let Some(breaker) = &self.shared.breaker
                && !breaker.is_closed()
            {
                self.acks.hand_over();
                let admitted = tokio::select! {
                    biased;
                    () = self.control.draining() => false,
                    () = breaker.admit() => true,
                };
                if !admitted {
                    return self.return_one(work);
                }
            }
            let first = begun.take();
            if first.is_none() {
                work.attempts = work.attempts.saturating_add(1);
            }
            let observed = self.shared.observers.any();
            let began = observed.then(Instant::now);
            if observed {
                self.tell(Some(&work.envelope), EventKind::Started { attempt: work.attempts });
            }
            let (ended, unit) = match first {
                Some(Begun::Ended(ended)) => (ended, None),
                Some(Begun::Waits) => (self.attempt(&work, true).await, None),
                None => match handing_over(&mut self.acks, begin(&self.shared, &work)).await {
                    Err(failure) => (Ended::Outcome(Err(failure)), None),
                    Ok(unit) => {
                        self.prepare(&work, unit.as_deref());
                        (self.attempt(&work, false).await, unit)
                    }
                },
            };
            let took = began.map_or(Duration::ZERO, |began| began.elapsed());
            let result = match ended {
                Ended::Outcome(Ok(())) => {
                    let published = self.context.as_mut().map(Context::take_outbox).unwrap_or_default();
                    handing_over(&mut self.acks, complete(&self.shared, &work, unit, published)).await
                }
                Ended::Outcome(Err(failure)) | Ended::Broken(failure) => {
                    if let Some(unit) = unit {
                        unit.roll_back().await;
                    }
                    Err(failure)
                }
            };
            match result {
                Ok(()) => {
                    if let Some(breaker) = &self.shared.breaker {
                        breaker.succeeded();
                    }
                    if observed {
                        self.tell(
                            Some(&work.envelope),
                            EventKind::Succeeded { attempt: work.attempts, took },
                        );
                    }
                    return self.settle(work);
                }
                Err(failure) => match self.failed(&mut work, failure, took).await {
                    Decision::Again => {}
                    Decision::Park(wait) => return self.parking.park(work, wait),
                    Decision::Do(action) => return self.act(work, action).await,
                },
            }
        }
    }

    /// Makes the context of an attempt that has not begun.
    fn prepare(&mut self, work: &Work, unit: Option<&dyn Unit>) {
        let cx = match self.context.take() {
            Some(mut cx) => {
                cx.reset(&work.envelope, work.attempts);
                cx
            }
            None => Context::new(self.shared.parts.clone(), work.envelope.clone(), work.attempts),
        };
        if let Some(unit) = unit {
            cx.set_unit(unit.shared());
        }
        self.context = Some(cx);
    }

    /// One attempt: the coroutine is polled until it reports, panics, or takes too long.
    pub(super) async fn attempt(&mut self, work: &Work, begun: bool) -> Ended {
        let Self { shared, tracks, context, acks, timer, swift, .. } = self;
        let track = &mut tracks[work.track];
        if !begun && let Some(cx) = context.take() {
            track.slot.put(cx);
        }
        let system = shared.plan.origins[work.origin].from.transport.system();
        let span = span::process(system, &shared.plan.identity, &work.envelope, work.attempts);
        let timeout = shared.plan.policy.timeout;
        let mut armed = false;
        let ended = std::future::poll_fn(|task| {
            let _entered = (!span.is_disabled()).then(|| span.enter());
            match catch_unwind(AssertUnwindSafe(|| track.coroutine.as_mut().poll(task))) {
                Err(panic) => {
                    return Poll::Ready(Ended::Broken(panicked(&*panic)));
                }
                Ok(_) => {
                    if let Some(done) = track.slot.take() {
                        *context = Some(done.context);
                        return Poll::Ready(Ended::Outcome(done.outcome));
                    }
                }
            }
            // It has to wait: what was settled before need not wait with it, and the clock begins to run.
            let timer = timer.get_or_insert_with(|| Box::pin(tokio::time::sleep(timeout)));
            if !armed {
                armed = true;
                *swift = false;
                acks.hand_over();
                timer.as_mut().reset(later(timeout));
            }
            if timer.as_mut().poll(task).is_ready() {
                let error = format!("the handler took longer than {timeout:?}");
                return Poll::Ready(Ended::Broken(Failure::new(
                    DeadLetterKind::Timeout,
                    HandlerError::retry(error),
                )));
            }
            Poll::Pending
        })
        .await;
        if !armed {
            *swift = true;
        }
        if let Ended::Broken(failure) | Ended::Outcome(Err(failure)) = &ended {
            span.record("otel.status_code", "ERROR");
            span.record("error.type", failure.kind.as_str());
        }
        if matches!(ended, Ended::Broken(_)) {
            self.tracks[work.track].restart();
        }
        ended
    }

    /// Says what a failed attempt means for its message.
    pub(super) async fn failed(&mut self, work: &mut Work, failure: Failure, took: Duration) -> Decision {
        let shared = self.shared.clone();
        let attempt = work.attempts;
        if shared.observers.any() {
            let error = failure.error.to_string();
            self.tell(Some(&work.envelope), EventKind::Failed { attempt, error: &error, took });
        }
        if let (Some(breaker), Disposition::Permanent | Disposition::Discard(_)) =
            (&shared.breaker, failure.error.disposition())
        {
            // It says nothing of an outage; if it was the one that went first, the next one goes.
            breaker.abandoned();
        }
        let retry_after = match failure.error.disposition() {
            Disposition::Permanent => {
                let handler = failure.kind == DeadLetterKind::Handler;
                let kind = if handler { DeadLetterKind::Rejected } else { failure.kind };
                return Decision::Do(Action::Bury { kind, error: failure.error.to_string() });
            }
            Disposition::Discard(reason) => return Decision::Do(Action::Discard(reason.clone())),
            Disposition::Retry => None,
            Disposition::RetryAfter(after) => Some(*after),
        };
        let decision = self.what_next(work, &failure, retry_after);
        let identity = &shared.plan.identity;
        tracing::warn!(
            handler = %identity.handler, group = %identity.group, message_id = %work.envelope.id(),
            trace_id = %work.envelope.trace().parent.trace_id(), attempt, error = %failure.error, next = %decision,
            "the attempt failed"
        );
        decision
    }

    /// What becomes of a message whose attempt failed and may be repeated.
    fn what_next(&self, work: &mut Work, failure: &Failure, retry_after: Option<Duration>) -> Decision {
        let shared = &self.shared;
        let policy = &shared.plan.policy;
        let mut outage = failure.outage;
        // Mostly nobody wants to read the text.
        let bury = || Decision::Do(Action::Bury { kind: failure.kind, error: failure.error.to_string() });
        let now = shared.parts.clock.now();
        let first = *work.first_failure.get_or_insert(now);
        let patience = policy.breaker.as_ref().map_or(Duration::ZERO, |breaker| breaker.patience);
        if let Some(breaker) = &shared.breaker
            && breaker.failed()
            && now.since(first) < patience
        {
            // Everything fails: that is an outage and not this message's fault, so the attempt does not count.
            work.attempts = work.attempts.saturating_sub(1);
            work.probes += 1;
            if work.probes < PROBES {
                return Decision::Again;
            }
            // It may be this message after all that fails: another one goes first, while this one waits elsewhere.
            work.probes = 0;
            outage = true;
        } else if outage {
            work.attempts = work.attempts.saturating_sub(1);
        }
        // Tries that did not count may have come in between: the cap holds all the same.
        if !outage && work.attempts >= policy.max_attempts() {
            return bury();
        }
        if retry_after.is_none() && work.in_place < policy.immediate && !outage {
            work.in_place += 1;
            return Decision::Again;
        }
        // Nobody else can be asked to keep a copy for an ephemeral handler's instance, and a key that holds waits here.
        let here = matches!(policy.order, Order::Key(OnFailure::Hold)) || shared.plan.spec.group.is_none();
        let Some(delayed) = &policy.delayed else {
            return match retry_after {
                // The handler knows better when than the policy, which has no delays.
                Some(after) if !here && !outage => Decision::Do(Action::Retry(after)),
                Some(after) => Decision::Park(after),
                // An outage is not the message's fault, and must not condemn it.
                None if outage => Decision::Park(OUTAGE_PAUSE),
                None => bury(),
            };
        };
        if !outage {
            work.round += 1;
        }
        if work.round > delayed.rounds {
            return bury();
        }
        let delay = delayed.delay(work.round.max(1));
        let delay = retry_after.unwrap_or(delay).saturating_add(delayed.jitter_of(delay));
        work.in_place = 0;
        if here { Decision::Park(delay) } else { Decision::Do(Action::Retry(delay)) }
    }
}

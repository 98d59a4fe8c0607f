//! Attempts: running the handler, and saying what a failure means.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::task::Poll;
use std::time::Duration;

use tokio::time::Instant;

use super::track::{Begun, Ended, panic_text};
use super::work::{Action, Decision, Work};
use super::{Lane, Shared};
use crate::envelope::{DeadLetterKind, Envelope};
use crate::error::Chain;
use crate::handler::{Context, Disposition, Failure, HandlerError};
use crate::policy::{OnFailure, Order};
use crate::telemetry::EventKind;

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
            let ended = match first {
                Some(Begun::Ended(ended)) => ended,
                Some(Begun::Waits) => self.attempt(&work, true).await,
                None => self.attempt(&work, false).await,
            };
            let took = began.map_or(Duration::ZERO, |began| began.elapsed());
            let result = match ended {
                Ended::Outcome(Ok(())) => self.publish_outbox(&work).await,
                Ended::Outcome(Err(failure)) | Ended::Broken(failure) => Err(failure),
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

    /// One attempt: the coroutine is polled until it reports, panics, or takes too long.
    pub(super) async fn attempt(&mut self, work: &Work, begun: bool) -> Ended {
        let Self { shared, tracks, context, acks, timer, swift, .. } = self;
        let track = &mut tracks[work.track];
        if !begun {
            let cx = match context.take() {
                Some(mut cx) => {
                    cx.reset(&work.envelope, work.attempts);
                    cx
                }
                None => Context::new(shared.parts.clone(), work.envelope.clone(), work.attempts),
            };
            track.slot.put(cx);
        }
        let identity = &shared.plan.identity;
        let span = tracing::info_span!(
            "process",
            otel.kind = "consumer",
            messaging.operation.type = "process",
            messaging.destination.name = tracing::field::Empty,
            messaging.consumer.group.name = tracing::field::Empty,
            handler = tracing::field::Empty,
            message_id = tracing::field::Empty,
            trace_id = tracing::field::Empty,
            attempt = work.attempts,
        );
        if !span.is_disabled() {
            span.record("messaging.destination.name", work.envelope.topic().as_str());
            span.record("messaging.consumer.group.name", identity.group.as_str());
            span.record("handler", identity.handler.as_str());
            span.record("message_id", tracing::field::display(work.envelope.id()));
            span.record("trace_id", tracing::field::display(work.envelope.trace().parent.trace_id()));
        }
        let timeout = shared.plan.policy.timeout;
        let mut armed = false;
        let ended = std::future::poll_fn(|task| {
            let _entered = (!span.is_disabled()).then(|| span.enter());
            match catch_unwind(AssertUnwindSafe(|| track.coroutine.as_mut().poll(task))) {
                Err(panic) => {
                    let failure =
                        Failure::new(DeadLetterKind::Panic, HandlerError::retry(panic_text(&*panic)));
                    return Poll::Ready(Ended::Broken(failure));
                }
                Ok(_) => {
                    if let Some((cx, outcome)) = track.slot.take() {
                        *context = Some(cx);
                        return Poll::Ready(Ended::Outcome(outcome));
                    }
                }
            }
            // It has to wait: what was settled before need not wait with it, and the clock begins to run.
            let timer = timer.get_or_insert_with(|| Box::pin(tokio::time::sleep(timeout)));
            if !armed {
                armed = true;
                *swift = false;
                acks.hand_over();
                timer.as_mut().reset(Instant::now() + timeout);
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
        if matches!(ended, Ended::Broken(_)) {
            self.tracks[work.track].restart();
        }
        ended
    }

    /// Publishes what the handler published, before its message is settled.
    pub(super) async fn publish_outbox(&mut self, work: &Work) -> Result<(), Failure> {
        let Some(cx) = &mut self.context else { return Ok(()) };
        let outgoing = cx.take_outbox();
        if outgoing.is_empty() {
            return Ok(());
        }
        debug_assert_eq!(cx.envelope().id(), work.envelope.id());
        publish_before_ack(&self.shared, outgoing).await
    }

    /// Says what a failed attempt means for its message.
    pub(super) async fn failed(&mut self, work: &mut Work, failure: Failure, took: Duration) -> Decision {
        let shared = self.shared.clone();
        let policy = &shared.plan.policy;
        let error = failure.error.to_string();
        if shared.observers.any() {
            self.tell(
                Some(&work.envelope),
                EventKind::Failed { attempt: work.attempts, error: &error, took },
            );
        }
        let kind = failure.kind;
        let retry_after = match failure.error.disposition() {
            Disposition::Permanent => {
                let kind = if kind == DeadLetterKind::Handler { DeadLetterKind::Rejected } else { kind };
                return Decision::Do(Action::Bury { kind, error });
            }
            Disposition::Discard(reason) => return Decision::Do(Action::Discard(reason.clone())),
            Disposition::Retry => None,
            Disposition::RetryAfter(after) => Some(*after),
        };
        tracing::warn!(
            handler = %shared.plan.identity.handler, message_id = %work.envelope.id(),
            trace_id = %work.envelope.trace().parent.trace_id(), attempt = work.attempts, error, "the attempt failed"
        );
        if let Some(breaker) = &shared.breaker
            && breaker.failed()
        {
            // Everything fails: that is an outage and not this message's fault, so the attempt does not count.
            work.attempts = work.attempts.saturating_sub(1);
            return Decision::Again;
        }
        if retry_after.is_none() && work.in_place < policy.immediate && !failure.outage {
            work.in_place += 1;
            return Decision::Again;
        }
        let Some(delayed) = &policy.delayed else {
            return Decision::Do(Action::Bury { kind, error });
        };
        if failure.outage {
            work.attempts = work.attempts.saturating_sub(1);
        } else {
            work.round += 1;
        }
        if work.round > delayed.rounds {
            return Decision::Do(Action::Bury { kind, error });
        }
        let delay = delayed.delay(work.round.max(1));
        let delay = retry_after.unwrap_or(delay) + delayed.jitter_of(delay);
        work.in_place = 0;
        if matches!(policy.order, Order::Key(OnFailure::Hold)) {
            return Decision::Park(delay);
        }
        if shared.plan.spec.group.is_none() {
            // Nobody else can be asked to keep a copy for this instance: its lane waits.
            return Decision::Park(delay);
        }
        Decision::Do(Action::Retry(delay))
    }
}

/// Publishes a handler's messages; what is temporary is tried again for as long as a copy may take.
pub(super) async fn publish_before_ack(shared: &Shared, outgoing: Vec<Envelope>) -> Result<(), Failure> {
    let publisher = &shared.parts.publisher;
    let batches =
        publisher.split(outgoing).map_err(|error| Failure::handler(HandlerError::permanent(error)))?;
    let deadline = Instant::now() + shared.plan.policy.copy_deadline;
    for (transport, mut batch) in batches {
        let mut pause = Duration::from_millis(50);
        loop {
            let error = match tokio::time::timeout_at(deadline, publisher.publish_batch(&*transport, batch))
                .await
            {
                Ok(Ok(())) => break,
                Ok(Err(error)) => error,
                Err(_) => {
                    let error = format!("publishing took longer than {:?}", shared.plan.policy.copy_deadline);
                    return Err(Failure::outage(HandlerError::retry(error)));
                }
            };
            let text = Chain(&error).to_string();
            if !error.is_temporary() {
                return Err(Failure::handler(HandlerError::permanent(format!("publishing failed: {text}"))));
            }
            if Instant::now() + pause >= deadline {
                return Err(Failure::outage(HandlerError::retry(format!("publishing failed: {text}"))));
            }
            batch = error.into_rejected().into_iter().map(|rejected| rejected.message).collect();
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(Duration::from_secs(2));
        }
    }
    Ok(())
}

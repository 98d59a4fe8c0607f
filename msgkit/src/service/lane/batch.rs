//! Several messages of one type, handled at once.

use std::collections::BTreeSet;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::task::Poll;

use tokio::time::Instant;

use super::Lane;
use super::complete::{begin, complete, handing_over};
use super::track::panicked;
use super::work::{Decision, Work};
use crate::envelope::DeadLetterKind;
use crate::handler::{Context, Failure, HandlerError};
use crate::policy::{OnFailure, Order};
use crate::telemetry::{EventKind, span};
use crate::text::Text;

impl Lane {
    /// Runs the messages at the head of the batch through a batch handler, all at once.
    pub(super) async fn work_off_batch(&mut self) {
        let Some(batch) = self.tracks[0].batch.clone() else { return };
        let mut works = Vec::with_capacity(batch.size.min(self.batch.len()));
        let holds = matches!(self.shared.plan.policy.order, Order::Key(OnFailure::Hold));
        let mut keys = BTreeSet::new();
        while works.len() < batch.size && !self.ends_before_next(!works.is_empty(), &keys) {
            let Some(delivery) = self.batch.pop_front() else { break };
            if let Some(mut work) = self.admit(delivery).await {
                work.attempts = work.attempts.saturating_add(1);
                keys.extend(work.key().filter(|_| holds).map(Text::from));
                works.push(work);
            }
        }
        if works.is_empty() {
            return;
        }
        let shared = self.shared.clone();
        if shared.breaker.as_ref().is_some_and(|breaker| !breaker.is_closed()) {
            // Nothing starts in an outage but what the breaker lets through, one by one.
            return self.one_by_one(works).await;
        }
        let mut units = Vec::with_capacity(works.len());
        for work in &works {
            match handing_over(&mut self.acks, begin(&shared, work)).await {
                Ok(unit) => units.push(unit),
                // What cannot begin together is tried one by one, where an outage is dealt with.
                Err(_) => {
                    for unit in units.into_iter().flatten() {
                        unit.roll_back().await;
                    }
                    return self.one_by_one(works).await;
                }
            }
        }
        let mut contexts: Vec<Context> = works
            .iter()
            .zip(&units)
            .map(|(work, unit)| {
                let cx = Context::new(shared.parts.clone(), work.envelope.clone(), work.attempts);
                if let Some(unit) = unit {
                    cx.set_unit(unit.shared());
                }
                cx
            })
            .collect();
        if shared.observers.any() {
            for work in &works {
                self.tell(Some(&work.envelope), EventKind::Started { attempt: work.attempts });
            }
        }
        let began = Instant::now();
        let mut running = batch.run.run(contexts.clone());
        let system = shared.plan.origins[works[0].origin].from.transport.system();
        let span = span::process_batch(system, &shared.plan.identity, &works[0].envelope, works.len());
        let guarded = std::future::poll_fn(|task| {
            let _entered = span.enter();
            catch_unwind(AssertUnwindSafe(|| running.as_mut().poll(task)))
                .unwrap_or_else(|panic| Poll::Ready(vec![Err(panicked(&*panic))]))
        });
        self.acks.hand_over();
        let timeout = shared.plan.policy.timeout;
        let mut results = tokio::time::timeout(timeout, guarded).await.unwrap_or_else(|_| {
            let error = format!("the handler took longer than {timeout:?}");
            vec![Err(Failure::new(DeadLetterKind::Timeout, HandlerError::retry(error)))]
        });
        let took = began.elapsed();
        // What it holds, a connection or a lock, must not be held against the tries that follow.
        drop(running);
        if results.len() == 1 && works.len() > 1 {
            // A panic or a timeout is one outcome for all.
            let first = match &results[0] {
                Err(failure) => (failure.kind, failure.error.to_string()),
                Ok(()) => (DeadLetterKind::Handler, "the batch handler gave no outcome".to_owned()),
            };
            results = works
                .iter()
                .map(|_| Err(Failure::new(first.0, HandlerError::retry(first.1.clone()))))
                .collect();
        }
        for (((mut work, result), cx), unit) in works.into_iter().zip(results).zip(&mut contexts).zip(units) {
            let result = match result {
                Ok(()) => {
                    let completing = complete(&shared, &work, unit, cx.take_outbox());
                    handing_over(&mut self.acks, completing).await
                }
                Err(failure) => {
                    if let Some(unit) = unit {
                        unit.roll_back().await;
                    }
                    Err(failure)
                }
            };
            match result {
                Ok(()) => {
                    if let Some(breaker) = &shared.breaker {
                        breaker.succeeded();
                    }
                    if shared.observers.any() {
                        self.tell(
                            Some(&work.envelope),
                            EventKind::Succeeded { attempt: work.attempts, took },
                        );
                    }
                    self.settle(work);
                }
                Err(failure) => match self.failed(&mut work, failure, took).await {
                    // Tried again alone: what fails in a batch must not take the others with it.
                    Decision::Again => self.attempts(work, None).await,
                    Decision::Park(wait) => self.parking.park(work, wait),
                    Decision::Do(action) => self.act(work, action).await,
                },
            }
        }
    }

    async fn one_by_one(&mut self, works: Vec<Work>) {
        for mut work in works {
            work.attempts = work.attempts.saturating_sub(1);
            self.attempts(work, None).await;
        }
    }

    /// Whether the batch ends before the next delivery: with one of `keys`, which hold, the second message of a key would
    /// be handled although the first one fails; and a suspect has to start with nothing else in hand.
    fn ends_before_next(&self, begun: bool, keys: &BTreeSet<Text>) -> bool {
        let Some(next) = self.batch.front().and_then(|delivery| delivery.message().envelope()) else {
            return false;
        };
        let suspect = next.retry().is_some_and(|retry| retry.last_start);
        begun && suspect || next.key().is_some_and(|key| keys.contains(key))
    }
}

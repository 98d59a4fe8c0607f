//! How a message is settled, and only how: after its success, or after its copy was confirmed.

use super::Lane;
use super::work::{Action, Work};
use crate::envelope::DeadLetterKind;
use crate::service::copies::{self, Failed};
use crate::telemetry::EventKind;
use crate::transport::Outgoing;

impl Lane {
    pub(super) fn settle(&mut self, work: Work) {
        if self.shared.observers.any() {
            self.tell(Some(&work.envelope), EventKind::Settled);
        }
        work.delivery.ack_into(&mut self.acks);
    }

    pub(super) fn return_one(&mut self, work: Work) {
        if self.shared.observers.any() {
            self.tell(Some(&work.envelope), EventKind::GivenBack);
        }
        work.delivery.give_back();
    }

    pub(super) async fn act(&mut self, work: Work, action: Action) {
        match action {
            Action::Retry(delay) => {
                let (plan, now) = (self.shared.plan.clone(), self.shared.parts.clock.now());
                let accounts = (work.attempts, work.round, work.first_failure.unwrap_or(now));
                let copy = copies::retry(&plan, &work.envelope, accounts, delay, now);
                let told = EventKind::RetryScheduled { attempt: work.attempts, round: work.round, delay };
                self.replace(work, copy, Some(told)).await;
            }
            Action::Bury { kind, error } => self.bury(work, kind, &error).await,
            Action::Discard(reason) => {
                tracing::info!(
                    handler = %self.shared.plan.identity.handler, message_id = %work.envelope.id(),
                    reason = reason.as_str(), "discarded"
                );
                if self.shared.observers.any() {
                    self.tell(Some(&work.envelope), EventKind::Discarded { reason: &reason });
                }
                self.settle(work);
            }
        }
    }

    /// Puts a confirmed copy in the place of a message, then settles it; without a confirmation it goes back.
    pub(super) async fn replace(&mut self, work: Work, copy: Outgoing, told: Option<EventKind<'_>>) {
        self.acks.hand_over();
        let shared = self.shared.clone();
        let origin = &shared.plan.origins[work.origin];
        let confirming = copies::confirm(&shared, origin, &copy, &mut self.control);
        // It starts nothing while its copy is on the way, so a suspect elsewhere need not wait for that.
        let waits = shared.quarantine.waits();
        let confirmed = confirming.await;
        drop(waits);
        if confirmed {
            if let Some(told) = told
                && shared.observers.any()
            {
                self.tell(Some(&work.envelope), told);
            }
            self.settle(work);
        } else {
            self.return_one(work);
        }
        if !self.alone {
            shared.quarantine.is_over().await;
        }
    }

    pub(super) async fn bury(&mut self, work: Work, kind: DeadLetterKind, error: &str) {
        let shared = self.shared.clone();
        let now = shared.parts.clock.now();
        let failed = Failed {
            kind,
            error,
            attempts: work.attempts,
            first: work.first_failure.unwrap_or(now),
            position: work.delivery.position(),
        };
        let (copy, letter) = copies::dead_letter(&shared.plan, &work.envelope, &failed, now);
        let identity = &shared.plan.identity;
        tracing::error!(
            handler = %identity.handler, group = %identity.group, message_id = %work.envelope.id(),
            trace_id = %work.envelope.trace().parent.trace_id(), kind = %kind, error,
            kept_at = %shared.plan.origins[work.origin].dead_letters.name, "dead letter"
        );
        self.replace(work, copy, Some(EventKind::DeadLettered(&letter))).await;
    }
}

//! Everything before the first attempt.

use super::complete::handing_over;
use super::work::Work;
use super::{Feed, Lane};
use std::time::Duration;

use crate::envelope::{DeadLetterKind, Envelope};
use crate::error::Chain;
use crate::policy::Unhandled;
use crate::service::copies;
use crate::telemetry::EventKind;
use crate::transport::{Delivery, Incoming, Outgoing};

/// The shortest and the longest pause between two questions to an inbox that does not answer.
const PAUSE: (Duration, Duration) = (Duration::from_millis(50), Duration::from_secs(5));
/// How often a suspect is started alone before it is condemned.
const LAST_STARTS: u32 = 2;

impl Lane {
    /// Takes one delivery through the pipeline.
    pub(super) async fn process(&mut self, delivery: Delivery) {
        if let Some(work) = self.admit(delivery).await {
            self.attempts(work, None).await;
        }
    }

    /// Everything before the first attempt; `None` where there will be none.
    pub(super) async fn admit(&mut self, delivery: Delivery) -> Option<Work> {
        let observed = self.shared.observers.any();
        let envelope = match delivery.message() {
            Incoming::Envelope(envelope) => envelope.clone(),
            Incoming::Malformed(malformed) => {
                if observed {
                    self.tell(None, EventKind::Malformed(malformed));
                }
                self.bury_malformed(delivery).await;
                return None;
            }
        };
        if observed {
            self.tell(Some(&envelope), EventKind::Received { count: delivery.count() });
        }
        if self.parking.is_parked(&envelope) {
            self.parking.behind(self.origin, delivery, &envelope);
            return None;
        }
        let Some(track) = self.tracks.iter().position(|track| track.name == envelope.kind()) else {
            self.unhandled(delivery, &envelope).await;
            return None;
        };
        let retry = envelope.retry().copied();
        let work = Work {
            attempts: envelope.attempt(),
            in_place: 0,
            first_failure: retry.map(|retry| retry.first),
            probes: 0,
            round: retry.map_or(0, |retry| retry.round),
            track,
            origin: self.origin,
            delivery,
            envelope,
        };
        if let Some(expires) = work.envelope.expires()
            && expires <= self.shared.parts.clock.now()
        {
            let error = format!("the message expired at {expires}");
            self.bury(work, DeadLetterKind::Expired, &error).await;
            return None;
        }
        if let Some(due) = work.envelope.not_before() {
            let rest = due.since(self.shared.parts.clock.now());
            if !rest.is_zero() && self.shared.plan.spec.group.is_none() {
                self.parking.park_alone(work, rest);
                return None;
            }
            if !rest.is_zero() {
                // Published for later to a transport that does not keep it back: the core does.
                let copy = Outgoing::new(self.shared.plan.retry_destination(rest), work.envelope.clone());
                self.replace(work, copy, None).await;
                return None;
            }
        }
        if retry.is_some_and(|retry| retry.last_start) {
            self.last_start(work).await;
            return None;
        }
        if work.delivery.count() > self.shared.plan.policy.max_starts && self.shared.plan.spec.group.is_some()
        {
            let copy = copies::last_start(&self.shared.plan, &work.envelope, self.shared.parts.clock.now());
            tracing::warn!(
                handler = %self.shared.plan.identity.handler, message_id = %work.envelope.id(),
                starts = work.delivery.count(),
                "the message was started too often without being settled; its next start is its last, alone"
            );
            self.replace(work, copy, None).await;
            return None;
        }
        if self.shared.plan.spec.inbox.is_some() { self.unless_known(work).await } else { Some(work) }
    }

    /// The message, where the group's inbox does not know it; an inbox that cannot tell is asked again.
    async fn unless_known(&mut self, work: Work) -> Option<Work> {
        let shared = self.shared.clone();
        let inbox = shared.plan.spec.inbox.as_ref()?;
        let mut pause = PAUSE.0;
        let mut waited = false;
        loop {
            let asking = inbox.contains(&shared.plan.identity.group, &work.envelope);
            let error = match handing_over(&mut self.acks, asking).await {
                Ok(false) => {
                    if waited {
                        shared.quarantine.is_over().await;
                    }
                    return Some(work);
                }
                Ok(true) => {
                    if shared.observers.any() {
                        self.tell(Some(&work.envelope), EventKind::Duplicate);
                    }
                    self.settle(work);
                    return None;
                }
                Err(error) => error,
            };
            tracing::warn!(
                handler = %shared.plan.identity.handler, message_id = %work.envelope.id(), error = %Chain(&*error),
                "the inbox cannot tell whether the message was handled; it waits"
            );
            self.acks.hand_over();
            waited = true;
            // A suspect elsewhere need not wait for this outage's end.
            let _waits = shared.quarantine.waits();
            tokio::select! {
                biased;
                () = self.control.draining() => {
                    self.return_one(work);
                    return None;
                }
                () = tokio::time::sleep(pause) => pause = (pause * 2).min(PAUSE.1),
            }
        }
    }

    /// Starts a suspect with nothing beside it in hand, or condemns it.
    pub(super) async fn last_start(&mut self, work: Work) {
        if work.delivery.count() > LAST_STARTS {
            let error =
                "the process died each time that the message was started, at last with nothing beside it";
            self.bury(work, DeadLetterKind::Crash, error).await;
            return;
        }
        self.give_back();
        if let Feed::Source(source) = &mut self.feed {
            source.flush().await;
        }
        let quarantine = self.shared.quarantine.clone();
        let alone = tokio::select! {
            biased;
            () = self.control.draining() => None,
            alone = quarantine.alone() => alone,
        };
        let Some(alone) = alone else { return self.return_one(work) };
        self.alone = true;
        self.attempts(work, None).await;
        self.alone = false;
        self.acks.hand_over();
        drop(alone);
    }

    pub(super) async fn bury_malformed(&mut self, delivery: Delivery) {
        let Incoming::Malformed(malformed) = delivery.message() else { return };
        let system = self.shared.plan.origins[self.origin].from.transport.system();
        let now = self.shared.parts.clock.now();
        let envelope = copies::envelope_of(malformed, system, delivery.position(), now);
        let error = malformed.error.clone();
        let work = Work {
            delivery,
            envelope,
            track: 0,
            origin: self.origin,
            attempts: 0,
            in_place: 0,
            first_failure: None,
            probes: 0,
            round: 0,
        };
        self.bury(work, DeadLetterKind::Decode, &error).await;
    }

    pub(super) async fn unhandled(&mut self, delivery: Delivery, envelope: &Envelope) {
        let work = Work {
            delivery,
            envelope: envelope.clone(),
            track: 0,
            origin: self.origin,
            attempts: envelope.attempt(),
            in_place: 0,
            first_failure: None,
            probes: 0,
            round: 0,
        };
        match self.shared.plan.policy.unhandled {
            Unhandled::Skip => {
                if self.shared.observers.any() {
                    self.tell(Some(envelope), EventKind::Skipped);
                }
                self.settle(work);
            }
            Unhandled::DeadLetter => {
                let error = format!(
                    "handler `{}` does not take `{}`",
                    self.shared.plan.identity.handler,
                    envelope.kind()
                );
                self.bury(work, DeadLetterKind::Rejected, &error).await;
            }
        }
    }
}

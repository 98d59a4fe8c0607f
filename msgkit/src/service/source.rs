//! Where a handler's deliveries come from: subscriptions that repair themselves.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use super::control::{Control, Mode};
use super::health::HealthBoard;
use super::plan::{Origin, Plan};
use super::quarantine::Quarantine;
use crate::envelope::Clock;
use crate::error::Chain;
use crate::text::Text;
use crate::transport::{
    Deliveries, Delivery, Outgoing, Publisher as _, Subscriber as _, Subscription, TransportError,
    TransportErrorKind,
};

/// The most deliveries that are taken at once.
const BATCH: usize = 128;
/// The shortest and the longest pause between two tries to subscribe or to receive.
const PAUSE: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(30));

/// For how long the head of a delay step is held at least, however short the step is.
const SHORTEST_TURN: Duration = Duration::from_secs(30);

/// What every subscription of a handler is made with.
#[derive(Debug, Clone)]
pub(crate) struct Beginning {
    pub(crate) plan: Arc<Plan>,
    pub(crate) control: Control,
    pub(crate) quarantine: Arc<Quarantine>,
    pub(crate) health: HealthBoard,
    pub(crate) clock: Clock,
}

impl Beginning {
    pub(crate) fn source(
        &self,
        origin: usize,
        subscription: Subscription,
        deliveries: Box<dyn Deliveries>,
    ) -> Source {
        let Self { plan, control, quarantine, health, clock } = self.clone();
        Source { plan, origin, subscription, deliveries, ended: false, control, quarantine, health, clock }
    }
}

/// One subscription of a handler.
#[derive(Debug)]
pub(crate) struct Source {
    pub(crate) plan: Arc<Plan>,
    /// Which of the plan's origins it is.
    pub(crate) origin: usize,
    pub(crate) subscription: Subscription,
    pub(crate) deliveries: Box<dyn Deliveries>,
    /// Whether it is over, so that a new one has to be begun.
    pub(crate) ended: bool,
    pub(crate) control: Control,
    pub(crate) quarantine: Arc<Quarantine>,
    pub(crate) health: HealthBoard,
    pub(crate) clock: Clock,
}

/// Why a fetch returned.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Fetched {
    /// There are deliveries.
    Some,
    /// The handler drains, or the transport is closed.
    Stop,
    /// A suspect is to run alone: give back what is in hand and stand still.
    StandStill,
}

impl Source {
    fn origin(&self) -> &Origin {
        &self.plan.origins[self.origin]
    }

    /// Waits for deliveries; repairs the subscription where it broke.
    pub(crate) async fn fetch(&mut self, max: usize, into: &mut VecDeque<Delivery>) -> Fetched {
        let mut pause = PAUSE.0;
        loop {
            let mode = self.control.mode();
            if mode == Mode::Draining {
                return Fetched::Stop;
            }
            if self.quarantine.is_active() {
                return Fetched::StandStill;
            }
            let mut signal = self.quarantine.signal();
            if mode == Mode::Paused {
                tokio::select! {
                    biased;
                    () = self.control.changed() => continue,
                    _ = signal.wait_for(|active| *active) => return Fetched::StandStill,
                }
            }
            let Self { plan, origin, subscription, deliveries, ended, health, .. } = self;
            let receiving = async {
                if *ended {
                    *deliveries = plan.origins[*origin].from.transport.subscribe(subscription).await?;
                    *ended = false;
                    health.up(&thing(plan, *origin, subscription));
                }
                deliveries.receive(max, into).await
            };
            let received = tokio::select! {
                biased;
                () = self.control.changed() => continue,
                received = receiving => received,
                _ = signal.wait_for(|active| *active) => return Fetched::StandStill,
            };
            // Only a drain stops a subscription, and it has been looked for: one that ends by itself is begun again.
            let ended = "the subscription ended by itself, which a transport may not let it do";
            let error = match received {
                Ok(()) if !into.is_empty() => return Fetched::Some,
                Ok(()) => TransportError::new(TransportErrorKind::Internal, ended),
                Err(error) => error,
            };
            let name = &self.origin().from.name;
            self.health.down(&thing(&self.plan, self.origin, &self.subscription), &Chain(&error).to_string());
            if error.kind() == TransportErrorKind::Closed {
                tracing::error!(
                    handler = %self.plan.identity.handler, transport = %name,
                    "the transport was closed under the handler, which receives nothing any more"
                );
                return Fetched::Stop;
            }
            tracing::warn!(
                handler = %self.plan.identity.handler, transport = %name, error = %Chain(&error),
                "receiving failed; trying again in {pause:?}"
            );
            self.ended |= !error.is_temporary();
            tokio::select! {
                biased;
                () = self.control.changed() => {}
                () = tokio::time::sleep(pause) => {}
            }
            pause = (pause * 2).min(PAUSE.1);
            if !self.ended {
                // The transport repairs it inside, and says itself how it is.
                self.health.up(&thing(&self.plan, self.origin, &self.subscription));
            }
        }
    }

    /// As [`Source::fetch`] for a delay step: only the head, and only when it is due.
    ///
    /// A head that has to wait for as long as a larger step takes goes on as a confirmed copy to the largest within the
    /// rest; at the largest step it is held, and what is behind it comes later than it should, never earlier. One that has to
    /// wait for longer than a message of this step ever does goes to the end of the step, again as a confirmed copy, so that
    /// nobody can stop a group's retries with a date.
    pub(crate) async fn fetch_due(&mut self, into: &mut VecDeque<Delivery>) -> Fetched {
        let Some(step) = self.subscription.retry_step else { return self.fetch(BATCH, into).await };
        loop {
            match self.fetch(1, into).await {
                Fetched::Some => {}
                other => return other,
            }
            let Some(due) = into.back().and_then(|delivery| delivery.message().envelope()?.not_before())
            else {
                return Fetched::Some;
            };
            let rest = due.since(self.clock.now());
            if rest.is_zero() {
                return Fetched::Some;
            }
            let Some(head) = into.pop_back() else { return Fetched::Some };
            if self.plan.retry_step(rest) > step {
                self.pass_on(head, rest).await;
                continue;
            }
            let longest = self.origin().from.transport.capabilities().max_hold;
            let wait = longest.map_or(rest, |longest| rest.min(longest / 2)).min(self.longest_turn(step));
            let mut signal = self.quarantine.signal();
            tokio::select! {
                biased;
                // Given back: it costs nothing and comes again at its old place.
                () = self.control.draining() => return Fetched::Stop,
                _ = signal.wait_for(|active| *active) => return Fetched::StandStill,
                () = tokio::time::sleep(wait) => {}
            }
            if wait == rest {
                into.push_back(head);
                return Fetched::Some;
            }
            self.pass_on(head, rest - wait).await;
        }
    }

    /// For how long the head of a step is held: twice its delay, as jitter may double that.
    fn longest_turn(&self, step: u32) -> Duration {
        let at = usize::try_from(step).unwrap_or(usize::MAX).saturating_sub(1);
        let delay = self.plan.steps.get(at).copied().unwrap_or_default();
        delay.saturating_mul(2).max(SHORTEST_TURN)
    }

    async fn pass_on(&mut self, head: Delivery, rest: Duration) {
        let Some(envelope) = head.message().envelope().cloned() else { return };
        let copy = Outgoing::new(self.plan.retry_destination(rest), envelope);
        let publishing = self.origin().from.transport.publish(vec![copy]);
        match tokio::time::timeout(self.plan.policy.copy_deadline, publishing).await {
            Ok(Ok(())) => head.ack(),
            // It goes back and is tried again, after a pause so that a broker that is down is not beaten.
            Ok(Err(_)) | Err(_) => {
                drop(head);
                tokio::time::sleep(PAUSE.0).await;
            }
        }
    }

    /// Waits for the broker's word on what was settled and given back.
    pub(crate) async fn flush(&mut self) {
        if let Err(error) = self.deliveries.flush().await {
            tracing::warn!(
                handler = %self.plan.identity.handler, error = %Chain(&error),
                "settlements were not confirmed; their messages come again"
            );
        }
    }

    /// Stops fetching, waits for the broker's word on what was settled, leaves.
    pub(crate) async fn close(mut self) {
        self.deliveries.stop();
        let name = self.origin().from.name.clone();
        let closing = async {
            self.deliveries.flush().await?;
            self.deliveries.close().await
        };
        if let Err(error) = closing.await {
            tracing::warn!(
                handler = %self.plan.identity.handler, transport = %name, error = %Chain(&error),
                "the subscription did not close cleanly; what is unsettled comes again"
            );
        }
    }
}

/// What the board of health calls a subscription.
fn thing(plan: &Plan, origin: usize, subscription: &Subscription) -> Text {
    let (handler, transport) = (&plan.identity.handler, &plan.origins[origin].from.name);
    match subscription.retry_step {
        None => format!("subscription of {handler} on {transport}").into(),
        Some(step) => format!("retry step {step} of {handler} on {transport}").into(),
    }
}

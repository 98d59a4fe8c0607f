//! Plain messages of one type, one after the other, without a word to the lane in between.

use std::collections::VecDeque;
use std::sync::Arc;

use super::Shared;
use crate::envelope::Envelope;
use crate::handler::Context;
use crate::text::same;
use crate::transport::{Acks, Delivery, Incoming};

/// What a lane lends to its coroutines while they work: its batch, and what is settled of it.
///
/// After a success the coroutine goes on with the next message by itself, as long as that is of its type and nothing is
/// unusual about it. Everything else is for the lane.
#[derive(Debug)]
pub(crate) struct Stretch {
    shared: Arc<Shared>,
    batch: VecDeque<Delivery>,
    acks: Acks,
    /// How many from the head of the batch are settled; they stay in it until it is given back, all at once.
    settled: usize,
    /// Whether the one after those is in hand.
    begun: bool,
}

impl Stretch {
    pub(super) fn new(shared: Arc<Shared>) -> Self {
        Self { shared, batch: VecDeque::new(), acks: Acks::new(), settled: 0, begun: false }
    }

    /// Takes what the lane has, or gives it back; nothing is in hand of the coroutine from now on.
    pub(crate) fn exchange(&mut self, batch: &mut VecDeque<Delivery>, acks: &mut Acks) {
        self.batch.drain(..self.settled);
        self.settled = 0;
        std::mem::swap(&mut self.batch, batch);
        std::mem::swap(&mut self.acks, acks);
        self.begun = false;
    }

    /// Whether a message is in hand and not settled: the first of the batch that is given back.
    pub(crate) fn is_begun(&self) -> bool {
        self.begun
    }

    /// The next message, where it has no past and no schedule and did not kill anyone.
    fn next(&self) -> Option<&Envelope> {
        let delivery = self.batch.get(self.settled)?;
        let Incoming::Envelope(envelope) = delivery.message() else { return None };
        let plain = envelope.is_plain() && delivery.count() <= self.shared.plan.policy.max_starts;
        plain.then_some(envelope)
    }

    /// Begins with the next message, if it is plain: which of `tracks` it is for, and the context of its first attempt.
    pub(crate) fn begin(
        &mut self,
        context: &mut Option<Context>,
        track: impl FnOnce(&str) -> Option<usize>,
    ) -> Option<(usize, Context)> {
        let envelope = self.next()?;
        let track = track(envelope.kind())?;
        let context = match context.take() {
            Some(mut context) => {
                context.reset(envelope, 1);
                context
            }
            None => Context::new(self.shared.parts.clone(), envelope.clone(), 1),
        };
        self.begun = true;
        Some((track, context))
    }

    /// After a success: settles the message in hand, and makes `context` that of the next one called `name`. False where
    /// the lane has to look: nothing was lent, the handler published something, or the next message is not plain.
    pub(crate) fn go_on(&mut self, context: &mut Context, name: &str) -> bool {
        if !self.begun || context.has_outbox() {
            return false;
        }
        self.begun = false;
        if let Some(breaker) = &self.shared.breaker {
            breaker.succeeded();
        }
        if let Some(handled) = self.batch.get_mut(self.settled) {
            handled.settle_into(&mut self.acks);
            self.settled += 1;
        }
        if self.shared.quarantine.is_active() {
            return false;
        }
        let Some(envelope) = self.next().filter(|envelope| same(envelope.kind(), name)) else { return false };
        context.reset(envelope, 1);
        self.begun = true;
        true
    }
}

//! What a broken pipeline does at one step, as it meets the transport.

use async_trait::async_trait;
use msgkit::envelope::MessageId;
use msgkit::transport::{Delivery, Destination, Incoming, Outgoing, PublishError, Transport};
use msgkit::{Envelope, Message};

use crate::conformance::Said;
use crate::decorate::Decorate;

pub(super) struct Reads(pub(super) fn(&mut Envelope));

impl Decorate for Reads {
    fn show(&self, delivery: &Delivery) -> (Incoming, u32) {
        let mut message = delivery.message().clone();
        if let Incoming::Envelope(envelope) = &mut message {
            (self.0)(envelope);
        }
        (message, delivery.count())
    }
}

/// Takes a refused publish for success.
pub(super) struct Trusts(pub(super) fn(&Destination) -> bool);

#[async_trait]
impl Decorate for Trusts {
    async fn publish(&self, inner: &dyn Transport, batch: Vec<Outgoing>) -> Result<(), PublishError> {
        let trusted = batch.iter().all(|message| (self.0)(&message.to));
        match inner.publish(batch).await {
            Err(_) if trusted => Ok(()),
            other => other,
        }
    }
}

pub(super) struct Spins;

#[async_trait]
impl Decorate for Spins {
    async fn publish(&self, inner: &dyn Transport, mut batch: Vec<Outgoing>) -> Result<(), PublishError> {
        let mut turns = 0;
        loop {
            match inner.publish(batch).await {
                Err(error) if turns < 1000 => {
                    batch = error.into_rejected().into_iter().map(|rejected| rejected.message).collect();
                    turns += 1;
                }
                other => return other,
            }
        }
    }
}

pub(super) struct BuriesTwice;

#[async_trait]
impl Decorate for BuriesTwice {
    async fn publish(&self, inner: &dyn Transport, mut batch: Vec<Outgoing>) -> Result<(), PublishError> {
        let again: Vec<Outgoing> = batch
            .iter()
            .filter(|message| matches!(message.to, Destination::DeadLetter(_)))
            .cloned()
            .collect();
        batch.extend(again);
        inner.publish(batch).await
    }
}

/// Ids of cause and number alone: a handler's messages are published in one batch.
pub(super) struct Numbers;

#[async_trait]
impl Decorate for Numbers {
    async fn publish(&self, inner: &dyn Transport, mut batch: Vec<Outgoing>) -> Result<(), PublishError> {
        for (number, message) in (0..u8::MAX).zip(&mut batch) {
            if let (true, Some(cause)) = (is_said(message), message.envelope.causation_id()) {
                let id = MessageId::derived(&[cause.to_string().as_bytes(), &[number]]);
                message.envelope.set_id(id);
            }
        }
        inner.publish(batch).await
    }
}

/// Whether a handler has published it.
pub(super) fn is_said(message: &Outgoing) -> bool {
    message.envelope.kind() == Said::NAME
}

pub(super) struct KeysByType;

impl Decorate for KeysByType {
    fn show(&self, delivery: &Delivery) -> (Incoming, u32) {
        let mut message = delivery.message().clone();
        if let Incoming::Envelope(envelope) = &mut message
            && let Some(key) = envelope.key().map(|key| format!("{key} {}", envelope.kind()))
        {
            envelope.set_key(Some(key.into()));
        }
        (message, delivery.count())
    }
}

pub(super) struct SettlesAll;

impl Decorate for SettlesAll {
    fn give_back(&self, delivery: Delivery) {
        delivery.ack();
    }
}

debug!(Reads, Trusts, Spins, BuriesTwice, Numbers, KeysByType, SettlesAll);

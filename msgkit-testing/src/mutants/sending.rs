//! What a broken transport does to what is published, and what it says of itself.

use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use msgkit::transport::{
    Capabilities, Declaration, Deliveries, Operate, Outgoing, PublishError, Subscription, Transport,
    TransportError, TransportErrorKind,
};

use crate::decorate::Decorate;

/// Changes every batch that is published.
pub(super) struct Batches {
    turn: AtomicU32,
    change: fn(&AtomicU32, &mut Vec<Outgoing>),
}

impl Batches {
    pub(super) fn new(change: fn(&AtomicU32, &mut Vec<Outgoing>)) -> Self {
        Self { turn: AtomicU32::new(0), change }
    }
}

#[async_trait]
impl Decorate for Batches {
    async fn publish(&self, inner: &dyn Transport, mut batch: Vec<Outgoing>) -> Result<(), PublishError> {
        (self.change)(&self.turn, &mut batch);
        if batch.is_empty() { Ok(()) } else { inner.publish(batch).await }
    }
}

/// Changes every message that is published.
pub(super) struct Edits(pub(super) fn(&mut Outgoing));

#[async_trait]
impl Decorate for Edits {
    async fn publish(&self, inner: &dyn Transport, mut batch: Vec<Outgoing>) -> Result<(), PublishError> {
        batch.iter_mut().for_each(self.0);
        inner.publish(batch).await
    }
}

/// Takes errors of one kind for success.
pub(super) struct Swallows(pub(super) TransportErrorKind);

#[async_trait]
impl Decorate for Swallows {
    async fn publish(&self, inner: &dyn Transport, batch: Vec<Outgoing>) -> Result<(), PublishError> {
        match inner.publish(batch).await {
            Err(error) if error.kind() == self.0 => Ok(()),
            other => other,
        }
    }
}

/// Gives errors of one kind as another.
pub(super) struct Renames(pub(super) TransportErrorKind, pub(super) TransportErrorKind);

#[async_trait]
impl Decorate for Renames {
    async fn publish(&self, inner: &dyn Transport, batch: Vec<Outgoing>) -> Result<(), PublishError> {
        match inner.publish(batch).await {
            Err(error) if error.kind() == self.0 => {
                let mut rejected = error.into_rejected();
                for one in &mut rejected {
                    one.error = TransportError::new(self.1, one.error.to_string());
                }
                Err(PublishError::new(rejected))
            }
            other => other,
        }
    }
}

pub(super) struct WaitsForever;

#[async_trait]
impl Decorate for WaitsForever {
    async fn publish(&self, inner: &dyn Transport, mut batch: Vec<Outgoing>) -> Result<(), PublishError> {
        loop {
            match inner.publish(batch).await {
                Err(error) if error.kind() == TransportErrorKind::Full => {
                    batch = error.into_rejected().into_iter().map(|rejected| rejected.message).collect();
                    tokio::time::sleep(Duration::from_secs(60)).await;
                }
                other => return other,
            }
        }
    }
}

pub(super) struct DoesNotClose;

#[async_trait]
impl Decorate for DoesNotClose {
    async fn close(&self, _: &dyn Transport) -> Result<(), TransportError> {
        Ok(())
    }
}

/// Changes every subscription.
pub(super) struct Subscribes {
    turn: AtomicU32,
    change: fn(&mut Subscription, u32),
}

impl Subscribes {
    pub(super) fn new(change: fn(&mut Subscription, u32)) -> Self {
        Self { turn: AtomicU32::new(0), change }
    }
}

#[async_trait]
impl Decorate for Subscribes {
    async fn declare(
        &self,
        inner: &dyn Transport,
        declarations: &[Declaration],
    ) -> Result<(), TransportError> {
        let mut declarations = declarations.to_vec();
        for declaration in &mut declarations {
            if let Declaration::Group { subscription, .. } = declaration {
                (self.change)(subscription, 0);
            }
        }
        inner.declare(&declarations).await
    }

    async fn subscribe(
        &self,
        inner: &dyn Transport,
        subscription: &Subscription,
    ) -> Result<Box<dyn Deliveries>, TransportError> {
        let mut subscription = subscription.clone();
        (self.change)(&mut subscription, self.turn.fetch_add(1, Ordering::SeqCst));
        inner.subscribe(&subscription).await
    }
}

pub(super) struct DeclaresNothing;

#[async_trait]
impl Decorate for DeclaresNothing {
    async fn declare(&self, _: &dyn Transport, _: &[Declaration]) -> Result<(), TransportError> {
        Ok(())
    }
}

pub(super) struct Claims(pub(super) fn(&mut Capabilities));

impl Decorate for Claims {
    fn capabilities(&self, mut inner: Capabilities) -> Capabilities {
        (self.0)(&mut inner);
        inner
    }
}

pub(super) struct Hides;

impl Decorate for Hides {
    fn operate<'a>(&'a self, _: &'a dyn Transport) -> Option<&'a dyn Operate> {
        None
    }
}

debug!(
    Batches,
    Edits, Swallows, Renames, WaitsForever, DoesNotClose, Subscribes, DeclaresNothing, Claims, Hides
);

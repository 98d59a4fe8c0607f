//! A transport with faults that can be switched on and off.

use std::collections::VecDeque;
use std::sync::atomic::AtomicBool;

use super::*;
use crate::transport::{
    Capabilities, Declaration, Deliveries, Delivery, Health, Outgoing, PublishError, Publisher, Subscriber,
    Subscription, TransportError, TransportErrorKind,
};

/// A transport on which copies cannot be published for a while, and whose subscriptions end by themselves for a while.
#[derive(Debug, Clone)]
pub(super) struct Faulty {
    memory: Memory,
    pub(super) copies: Arc<AtomicU32>,
    pub(super) endings: Arc<AtomicU32>,
    pub(super) refusals: Arc<AtomicU32>,
    pub(super) down: Arc<Mutex<Option<Health>>>,
    /// What publishing from within a handler ends with, the last one first.
    pub(super) publishes: Arc<Mutex<Vec<TransportErrorKind>>>,
    /// Whether each flush of a subscription takes a second.
    pub(super) slow: Arc<AtomicBool>,
}

impl Faulty {
    pub(super) fn new(memory: &Memory) -> Self {
        Self {
            memory: memory.connection(),
            copies: Arc::default(),
            endings: Arc::default(),
            refusals: Arc::default(),
            down: Arc::default(),
            publishes: Arc::default(),
            slow: Arc::default(),
        }
    }
}

/// Takes a second for each flush.
#[derive(Debug)]
struct SlowToFlush(Box<dyn Deliveries>);

#[async_trait::async_trait]
impl Deliveries for SlowToFlush {
    async fn receive(&mut self, max: usize, into: &mut VecDeque<Delivery>) -> Result<(), TransportError> {
        self.0.receive(max, into).await
    }
    fn stop(&mut self) {
        self.0.stop();
    }
    async fn flush(&mut self) -> Result<(), TransportError> {
        tokio::time::sleep(Duration::from_secs(1)).await;
        self.0.flush().await
    }
    async fn close(&mut self) -> Result<(), TransportError> {
        self.0.close().await
    }
}

/// Takes one from a count of faults that are left.
fn take(faults: &AtomicU32) -> bool {
    faults.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |left| left.checked_sub(1)).is_ok()
}

#[async_trait::async_trait]
impl Publisher for Faulty {
    async fn publish(&self, batch: Vec<Outgoing>) -> Result<(), PublishError> {
        let copy = batch.iter().any(|message| !matches!(message.to, Destination::Topic { .. }));
        if copy && take(&self.copies) {
            return Err(PublishError::all(batch, || {
                TransportError::new(TransportErrorKind::Unavailable, "down")
            }));
        }
        let caused = batch.iter().any(|message| message.envelope.causation_id().is_some());
        if !copy
            && caused
            && let Some(kind) = self.publishes.lock().unwrap().pop()
        {
            return Err(PublishError::all(batch, || TransportError::new(kind, "not now")));
        }
        self.memory.publish(batch).await
    }
}

#[async_trait::async_trait]
impl Subscriber for Faulty {
    async fn subscribe(&self, subscription: &Subscription) -> Result<Box<dyn Deliveries>, TransportError> {
        if take(&self.refusals) {
            return Err(TransportError::new(TransportErrorKind::Refused, "the rights were taken away"));
        }
        let mut deliveries = self.memory.subscribe(subscription).await?;
        if take(&self.endings) {
            deliveries.stop();
        }
        if self.slow.load(Ordering::SeqCst) {
            deliveries = Box::new(SlowToFlush(deliveries));
        }
        Ok(deliveries)
    }
}

#[async_trait::async_trait]
impl Transport for Faulty {
    fn system(&self) -> &'static str {
        self.memory.system()
    }
    fn capabilities(&self) -> Capabilities {
        self.memory.capabilities()
    }
    async fn declare(&self, declarations: &[Declaration]) -> Result<(), TransportError> {
        self.memory.declare(declarations).await
    }
    async fn health(&self) -> Health {
        let down = self.down.lock().unwrap().clone();
        match down {
            Some(Health::Up) => std::future::pending().await,
            Some(down) => down,
            None => self.memory.health().await,
        }
    }
    async fn close(&self) -> Result<(), TransportError> {
        self.memory.close().await
    }
}

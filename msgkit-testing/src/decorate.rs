//! Transports around transports: faults, recorders, mutants.
//!
//! A [`Decorate`] changes what it wants to change and passes everything else on; [`Decorated`] makes a [`Transport`] of
//! it. With nothing changed ([`Transparent`]) the whole conformance suite passes through it.

use std::collections::{HashMap, VecDeque};
use std::fmt::Debug;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use async_trait::async_trait;
use msgkit::transport::{
    Capabilities, Declaration, Deliveries, Delivery, Health, Incoming, Operate, Outgoing, PublishError,
    Publisher, Settle, Subscriber, Subscription, Token, Transport, TransportError,
};

/// What a decorator changes; every method passes on what it is given.
#[async_trait]
pub trait Decorate: Send + Sync + Debug + 'static {
    /// What the transport claims it can do.
    fn capabilities(&self, inner: Capabilities) -> Capabilities {
        inner
    }

    /// Publishes `batch`.
    ///
    /// # Errors
    /// Those of `inner`, or those that the decorator makes.
    async fn publish(&self, inner: &dyn Transport, batch: Vec<Outgoing>) -> Result<(), PublishError> {
        inner.publish(batch).await
    }

    /// Declares.
    ///
    /// # Errors
    /// Those of `inner`, or those that the decorator makes.
    async fn declare(
        &self,
        inner: &dyn Transport,
        declarations: &[Declaration],
    ) -> Result<(), TransportError> {
        inner.declare(declarations).await
    }

    /// Subscribes.
    ///
    /// # Errors
    /// Those of `inner`, or those that the decorator makes.
    async fn subscribe(
        &self,
        inner: &dyn Transport,
        subscription: &Subscription,
    ) -> Result<Box<dyn Deliveries>, TransportError> {
        inner.subscribe(subscription).await
    }

    /// Receives from `inner`.
    ///
    /// # Errors
    /// Those of `inner`, or those that the decorator makes.
    async fn receive(
        &self,
        inner: &mut dyn Deliveries,
        max: usize,
        into: &mut VecDeque<Delivery>,
    ) -> Result<(), TransportError> {
        inner.receive(max, into).await
    }

    /// Fetches no more from `inner`.
    fn stop(&self, inner: &mut dyn Deliveries) {
        inner.stop();
    }

    /// A message as the reader is to see it, with the count of its starts; `delivery` is what it settles.
    fn show(&self, delivery: &Delivery) -> (Incoming, u32) {
        (delivery.message().clone(), delivery.count())
    }

    /// Settles what the reader has settled.
    fn settle(&self, delivery: Delivery) {
        delivery.ack();
    }

    /// Gives back what the reader has given back.
    fn give_back(&self, delivery: Delivery) {
        delivery.give_back();
    }

    /// Waits for the broker's word.
    ///
    /// # Errors
    /// Those of `inner`, or those that the decorator makes.
    async fn flush(&self, inner: &mut dyn Deliveries) -> Result<(), TransportError> {
        inner.flush().await
    }

    /// What operators ask; `None` hides it.
    fn operate<'a>(&'a self, inner: &'a dyn Transport) -> Option<&'a dyn Operate> {
        inner.operate()
    }

    /// Closes.
    ///
    /// # Errors
    /// Those of `inner`, or those that the decorator makes.
    async fn close(&self, inner: &dyn Transport) -> Result<(), TransportError> {
        inner.close().await
    }
}

/// Changes nothing.
#[derive(Debug, Clone, Copy, Default)]
pub struct Transparent;

impl Decorate for Transparent {}

/// A transport with a decorator around it.
#[derive(Debug)]
pub struct Decorated<D> {
    inner: Arc<dyn Transport>,
    with: Arc<D>,
}

impl<D: Decorate> Decorated<D> {
    /// `with` around `inner`.
    pub fn new(inner: Arc<dyn Transport>, with: D) -> Self {
        Self::sharing(inner, Arc::new(with))
    }

    /// As [`Decorated::new`] with a decorator that others have too.
    pub fn sharing(inner: Arc<dyn Transport>, with: Arc<D>) -> Self {
        Self { inner, with }
    }
}

#[async_trait]
impl<D: Decorate> Publisher for Decorated<D> {
    async fn publish(&self, batch: Vec<Outgoing>) -> Result<(), PublishError> {
        self.with.publish(&*self.inner, batch).await
    }
}

#[async_trait]
impl<D: Decorate> Subscriber for Decorated<D> {
    async fn subscribe(&self, subscription: &Subscription) -> Result<Box<dyn Deliveries>, TransportError> {
        let inner = self.with.subscribe(&*self.inner, subscription).await?;
        let held =
            Arc::new(Held { with: self.with.clone(), next: AtomicU64::new(0), deliveries: Mutex::default() });
        Ok(Box::new(DecoratedDeliveries { inner, held, fetched: VecDeque::new() }))
    }
}

#[async_trait]
impl<D: Decorate> Transport for Decorated<D> {
    fn system(&self) -> &'static str {
        self.inner.system()
    }

    fn capabilities(&self) -> Capabilities {
        self.with.capabilities(self.inner.capabilities())
    }

    async fn declare(&self, declarations: &[Declaration]) -> Result<(), TransportError> {
        self.with.declare(&*self.inner, declarations).await
    }

    async fn health(&self) -> Health {
        self.inner.health().await
    }

    fn operate(&self) -> Option<&dyn Operate> {
        self.with.operate(&*self.inner)
    }

    async fn close(&self) -> Result<(), TransportError> {
        self.with.close(&*self.inner).await
    }
}

/// The deliveries that are in the reader's hand, by the number that their stand-ins carry.
#[derive(Debug)]
struct Held<D> {
    with: Arc<D>,
    next: AtomicU64,
    deliveries: Mutex<HashMap<u64, Delivery>>,
}

impl<D: Decorate> Held<D> {
    fn take(&self, token: Token) -> Option<Delivery> {
        self.deliveries.lock().unwrap_or_else(PoisonError::into_inner).remove(&token.id)
    }

    fn stand_in(self: &Arc<Self>, delivery: Delivery) -> Delivery {
        let id = self.next.fetch_add(1, Ordering::Relaxed);
        let (message, count) = self.with.show(&delivery);
        let settler: Arc<dyn Settle> = self.clone();
        let mut stand_in = Delivery::new(message, Token { id, epoch: 0 }, settler).with_count(count);
        if let Some(position) = delivery.position() {
            stand_in = stand_in.with_position(position.clone());
        }
        self.deliveries.lock().unwrap_or_else(PoisonError::into_inner).insert(id, delivery);
        stand_in
    }
}

impl<D: Decorate> Settle for Held<D> {
    fn done(&self, tokens: &mut Vec<Token>) {
        for token in tokens.drain(..) {
            if let Some(delivery) = self.take(token) {
                self.with.settle(delivery);
            }
        }
    }

    fn returned(&self, token: Token, _: Incoming) {
        if let Some(delivery) = self.take(token) {
            self.with.give_back(delivery);
        }
    }
}

#[derive(Debug)]
struct DecoratedDeliveries<D> {
    inner: Box<dyn Deliveries>,
    held: Arc<Held<D>>,
    fetched: VecDeque<Delivery>,
}

#[async_trait]
impl<D: Decorate> Deliveries for DecoratedDeliveries<D> {
    async fn receive(&mut self, max: usize, into: &mut VecDeque<Delivery>) -> Result<(), TransportError> {
        // What a receive that was dropped had fetched is still there.
        if self.fetched.is_empty() {
            self.held.with.receive(&mut *self.inner, max, &mut self.fetched).await?;
        }
        let most = max.min(self.fetched.len());
        for delivery in self.fetched.drain(..most) {
            into.push_back(self.held.stand_in(delivery));
        }
        Ok(())
    }

    fn stop(&mut self) {
        self.held.with.stop(&mut *self.inner);
    }

    async fn flush(&mut self) -> Result<(), TransportError> {
        self.held.with.flush(&mut *self.inner).await
    }

    async fn close(&mut self) -> Result<(), TransportError> {
        self.fetched.clear();
        self.inner.close().await
    }
}

/// Settles nothing: for a delivery that stands beside the one that counts.
#[derive(Debug)]
pub(crate) struct Nobody;

impl Settle for Nobody {
    fn done(&self, tokens: &mut Vec<Token>) {
        tokens.clear();
    }

    fn returned(&self, _: Token, _: Incoming) {}
}

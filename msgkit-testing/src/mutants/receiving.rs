//! What a broken transport does to deliveries and their settlement.

use std::collections::{BTreeMap, HashSet, VecDeque};
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use async_trait::async_trait;
use msgkit::Envelope;
use msgkit::transport::{
    Deliveries, Delivery, Incoming, Settle, Subscription, Token, Transport, TransportError,
};

use crate::decorate::{Decorate, Nobody};

/// Shows what is read otherwise.
pub(super) struct Shows(pub(super) fn(&Incoming, u32) -> (Incoming, u32));

impl Decorate for Shows {
    fn show(&self, delivery: &Delivery) -> (Incoming, u32) {
        (self.0)(delivery.message(), delivery.count())
    }
}

pub(super) struct SkipsMalformed;

#[async_trait]
impl Decorate for SkipsMalformed {
    async fn receive(
        &self,
        inner: &mut dyn Deliveries,
        max: usize,
        into: &mut VecDeque<Delivery>,
    ) -> Result<(), TransportError> {
        loop {
            let mut fetched = VecDeque::new();
            inner.receive(max, &mut fetched).await?;
            let nothing = fetched.is_empty();
            for delivery in fetched {
                match delivery.message() {
                    Incoming::Malformed(_) => delivery.ack(),
                    Incoming::Envelope(_) => into.push_back(delivery),
                }
            }
            if nothing || !into.is_empty() {
                return Ok(());
            }
        }
    }
}

/// Settles a message, and whoever has it settles nothing.
pub(super) struct SettlesOnReceipt;

#[async_trait]
impl Decorate for SettlesOnReceipt {
    async fn receive(
        &self,
        inner: &mut dyn Deliveries,
        max: usize,
        into: &mut VecDeque<Delivery>,
    ) -> Result<(), TransportError> {
        let mut fetched = VecDeque::new();
        inner.receive(max, &mut fetched).await?;
        for delivery in fetched {
            let token = Token { id: 0, epoch: 0 };
            into.push_back(
                Delivery::new(delivery.message().clone(), token, Arc::new(Nobody))
                    .with_count(delivery.count()),
            );
            delivery.ack();
        }
        Ok(())
    }
}

pub(super) struct Settles(pub(super) fn(Delivery));

impl Decorate for Settles {
    fn settle(&self, delivery: Delivery) {
        (self.0)(delivery);
    }
}

pub(super) struct GivesBack(pub(super) fn(Delivery));

impl Decorate for GivesBack {
    fn give_back(&self, delivery: Delivery) {
        (self.0)(delivery);
    }
}

pub(super) struct SettlesAllBefore;

/// What one subscription has handed out, in order.
#[derive(Default)]
pub(super) struct Cursor {
    next: AtomicU64,
    out: Mutex<BTreeMap<u64, Delivery>>,
}

impl Settle for Cursor {
    fn done(&self, tokens: &mut Vec<Token>) {
        let mut out = self.out.lock().unwrap_or_else(PoisonError::into_inner);
        for token in tokens.drain(..) {
            let after = out.split_off(&(token.id + 1));
            std::mem::replace(&mut *out, after).into_values().for_each(Delivery::ack);
        }
    }

    fn returned(&self, token: Token, _: Incoming) {
        self.out.lock().unwrap_or_else(PoisonError::into_inner).remove(&token.id);
    }
}

#[async_trait]
impl Decorate for SettlesAllBefore {
    async fn subscribe(
        &self,
        inner: &dyn Transport,
        subscription: &Subscription,
    ) -> Result<Box<dyn Deliveries>, TransportError> {
        let inner = inner.subscribe(subscription).await?;
        Ok(Box::new(WithCursor { inner, cursor: Arc::default() }))
    }
}

#[derive(Debug)]
pub(super) struct WithCursor {
    inner: Box<dyn Deliveries>,
    cursor: Arc<Cursor>,
}

#[async_trait]
impl Deliveries for WithCursor {
    async fn receive(&mut self, max: usize, into: &mut VecDeque<Delivery>) -> Result<(), TransportError> {
        let mut fetched = VecDeque::new();
        self.inner.receive(max, &mut fetched).await?;
        for delivery in fetched {
            let id = self.cursor.next.fetch_add(1, Ordering::SeqCst);
            let settler: Arc<dyn Settle> = self.cursor.clone();
            into.push_back(
                Delivery::new(delivery.message().clone(), Token { id, epoch: 0 }, settler)
                    .with_count(delivery.count()),
            );
            self.cursor.out.lock().unwrap_or_else(PoisonError::into_inner).insert(id, delivery);
        }
        Ok(())
    }

    fn stop(&mut self) {
        self.inner.stop();
    }

    async fn flush(&mut self) -> Result<(), TransportError> {
        self.inner.flush().await
    }

    async fn close(&mut self) -> Result<(), TransportError> {
        self.inner.close().await
    }
}

pub(super) struct LosesOnCancel;

#[async_trait]
impl Decorate for LosesOnCancel {
    async fn receive(
        &self,
        inner: &mut dyn Deliveries,
        max: usize,
        into: &mut VecDeque<Delivery>,
    ) -> Result<(), TransportError> {
        /// What was fetched, and stays in hand when it is dropped.
        struct Fetched(VecDeque<Delivery>);
        impl Drop for Fetched {
            fn drop(&mut self) {
                self.0.drain(..).for_each(forget_delivery);
            }
        }
        let mut fetched = Fetched(VecDeque::new());
        inner.receive(max, &mut fetched.0).await?;
        tokio::task::yield_now().await;
        into.append(&mut fetched.0);
        Ok(())
    }
}

pub(super) struct WaitsForMore;

#[async_trait]
impl Decorate for WaitsForMore {
    async fn receive(
        &self,
        inner: &mut dyn Deliveries,
        max: usize,
        into: &mut VecDeque<Delivery>,
    ) -> Result<(), TransportError> {
        let least = into.len() + max.min(10);
        loop {
            let before = into.len();
            inner.receive(max, into).await?;
            if into.len() == before || into.len() >= least {
                return Ok(());
            }
        }
    }
}

pub(super) struct DoesNotStop;

impl Decorate for DoesNotStop {
    fn stop(&self, _: &mut dyn Deliveries) {}
}

/// Hands out some messages a second time, with nothing to settle.
#[derive(Default)]
pub(super) struct Doubles {
    turn: AtomicU32,
    doubled: Mutex<HashSet<String>>,
}

#[async_trait]
impl Decorate for Doubles {
    async fn receive(
        &self,
        inner: &mut dyn Deliveries,
        max: usize,
        into: &mut VecDeque<Delivery>,
    ) -> Result<(), TransportError> {
        let before = into.len();
        inner.receive(max, into).await?;
        if let Some(last) = into.back()
            && into.len() > before
            && self.turn.fetch_add(1, Ordering::SeqCst) % 5 == 4
        {
            let id = last
                .message()
                .envelope()
                .map(|envelope: &Envelope| envelope.id().to_string())
                .unwrap_or_default();
            if self.doubled.lock().unwrap_or_else(PoisonError::into_inner).insert(id) {
                let token = Token { id: 0, epoch: 0 };
                let again =
                    Delivery::new(last.message().clone(), token, Arc::new(Nobody)).with_count(last.count());
                into.push_back(again);
            }
        }
        Ok(())
    }
}

/// It stays in hand for good, unsettled.
#[allow(clippy::mem_forget, reason = "the mistake of this mutant")]
pub(super) fn forget_delivery(delivery: Delivery) {
    std::mem::forget(delivery);
}

debug!(
    Shows,
    SkipsMalformed,
    SettlesOnReceipt,
    Settles,
    GivesBack,
    SettlesAllBefore,
    Cursor,
    LosesOnCancel,
    WaitsForMore,
    DoesNotStop,
    Doubles
);

//! Handing out: what a service receives from.

use std::collections::VecDeque;
use std::sync::Arc;

use async_trait::async_trait;
use msgkit::transport::{
    Deliveries, Delivery, Settle, Subscriber, Subscription, Transport as _, TransportError,
};

use crate::core::EPHEMERAL;
use crate::error::SYSTEM;
use crate::lease::{LeaseStore, MemoryLeases};
use crate::member::Member;
use crate::names::Wanted;
use crate::transport::Kinesis;

#[async_trait]
impl Subscriber for Kinesis {
    async fn subscribe(&self, subscription: &Subscription) -> Result<Box<dyn Deliveries>, TransportError> {
        let core = self.core();
        core.open()?;
        self.capabilities().admit(SYSTEM, subscription)?;
        let member = match (&subscription.group, subscription.retry_step) {
            (Some(group), Some(step)) => {
                let stream = core.ensure_retry(group, step).await?;
                let wanted = Wanted { named: [stream].into(), others: false };
                Member::start(core, core.store.clone(), core.retry_space(group, step), wanted, subscription)
            }
            (Some(group), None) => {
                let space = core.group_space(group);
                let wanted = core.ensure_group(&*core.store, &space, subscription).await?;
                core.register(group, 0).await?;
                Member::start(core, core.store.clone(), space, wanted, subscription)
            }
            (None, _) => {
                let store: Arc<dyn LeaseStore> = Arc::new(MemoryLeases::new());
                let space = EPHEMERAL.to_owned();
                let wanted = core.ensure_group(&*store, &space, subscription).await?;
                Member::start(core, store, space, wanted, subscription)
            }
        };
        let reading = Reading { settler: member.clone(), member };
        reading.member.settle_in().await;
        core.open()?;
        Ok(Box::new(reading))
    }
}

/// A running subscription.
#[derive(Debug)]
struct Reading {
    member: Arc<Member>,
    settler: Arc<dyn Settle>,
}

#[async_trait]
impl Deliveries for Reading {
    async fn receive(&mut self, max: usize, into: &mut VecDeque<Delivery>) -> Result<(), TransportError> {
        if max == 0 {
            return Ok(());
        }
        self.member.receive(&self.settler, max, into).await
    }

    fn stop(&mut self) {
        self.member.stop();
    }

    async fn flush(&mut self) -> Result<(), TransportError> {
        self.member.flush().await
    }

    async fn close(&mut self) -> Result<(), TransportError> {
        self.member.quit();
        self.member.left().await
    }
}

impl Drop for Reading {
    fn drop(&mut self) {
        // The keeper gives everything back, in good order.
        self.member.quit();
    }
}

//! Handing out: a task per subscription reads from the subscriptions of Pub/Sub that it stands for and settles; the service
//! receives from what both share.

mod driver;
mod known;
mod member;
mod source;

use std::collections::{BTreeMap, VecDeque};
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use msgkit::Text;
use msgkit::transport::{
    Deliveries, Delivery, Settle, Subscriber, Subscription, Transport as _, TransportError,
    TransportErrorKind,
};

use self::driver::{Driver, guarded};
use self::member::{Found, Handed, Member, Phase};
use crate::error::SYSTEM;
use crate::names::Reader;
use crate::transport::Pubsub;

/// How long leaving may take; leases run out by themselves later.
const LEAVE: Duration = Duration::from_secs(20);

#[async_trait]
impl Subscriber for Pubsub {
    async fn subscribe(&self, subscription: &Subscription) -> Result<Box<dyn Deliveries>, TransportError> {
        let core = self.core();
        core.open()?;
        self.capabilities().admit(SYSTEM, subscription)?;
        let (reader, reads) = match (&subscription.group, subscription.retry_step) {
            (Some(group), Some(step)) => {
                let mut reads = BTreeMap::from([(
                    core.ensure_copies(group, step).await?,
                    core.names.retry(group, step)?,
                )]);
                if step == 1 {
                    reads.insert(core.ensure_suspects(group).await?, core.names.suspects(group)?);
                }
                (None, reads)
            }
            (Some(group), None) => {
                let reader = Reader::group(group);
                let reads = core.ensure_reader(&reader, subscription).await?;
                (Some(reader), reads)
            }
            (None, _) => {
                let reader = Reader::alone();
                let reads = core.ensure_reader(&reader, subscription).await?;
                (Some(reader), reads)
            }
        };
        core.open()?;
        let member = Arc::new(Member::new(core, subscription.prefetch));
        // Made first: where nobody waits for the answer any more, its drop takes the member out again.
        let deliveries =
            PubsubDeliveries { settler: member.clone(), member: member.clone(), handed: Vec::new() };
        let driver = Driver::new(core, member.clone(), reader, subscription.clone(), reads);
        core.adopt(tokio::spawn(guarded(driver.run(), member)));
        core.watch();
        Ok(Box::new(deliveries))
    }
}

/// A running subscription.
struct PubsubDeliveries {
    member: Arc<Member>,
    settler: Arc<dyn Settle>,
    handed: Vec<Handed>,
}

impl fmt::Debug for PubsubDeliveries {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PubsubDeliveries").finish_non_exhaustive()
    }
}

#[async_trait]
impl Deliveries for PubsubDeliveries {
    async fn receive(&mut self, max: usize, into: &mut VecDeque<Delivery>) -> Result<(), TransportError> {
        if max == 0 {
            return Ok(());
        }
        loop {
            match self.member.take(max, &mut self.handed)? {
                Found::Messages => break,
                Found::End => return Ok(()),
                Found::Nothing => self.member.arrived.notified().await,
            }
        }
        for Handed { token, message, count, position } in self.handed.drain(..) {
            let delivery = Delivery::new(message, token, self.settler.clone());
            into.push_back(delivery.with_count(count).with_position(Text::from(position)));
        }
        Ok(())
    }

    fn stop(&mut self) {
        self.member.enter(Phase::Stopped);
    }

    async fn flush(&mut self) -> Result<(), TransportError> {
        self.member.flush().await
    }

    async fn close(&mut self) -> Result<(), TransportError> {
        self.member.enter(Phase::Left);
        if tokio::time::timeout(LEAVE * 2, self.member.gone()).await.is_err() {
            return Err(TransportError::new(
                TransportErrorKind::Timeout,
                "a Pub/Sub subscription could not tell the service that it leaves; its leases run out by themselves",
            ));
        }
        Ok(())
    }
}

impl Drop for PubsubDeliveries {
    fn drop(&mut self) {
        self.member.enter(Phase::Left);
    }
}

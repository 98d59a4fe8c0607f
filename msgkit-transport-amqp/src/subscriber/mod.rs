//! Handing out: a task per subscription owns its channel, repairs it and settles; the service receives from what both
//! share.

mod driver;
mod member;
mod session;

use std::collections::VecDeque;
use std::fmt;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;

use async_trait::async_trait;
use futures_util::FutureExt as _;
use msgkit::transport::{
    Deliveries, Delivery, Settle, Subscriber, Subscription, TransportError, TransportErrorKind,
};

use self::driver::Driver;
use self::member::Found;
pub(crate) use self::member::Member;
use crate::error::{SYSTEM, closed};
use crate::transport::{Amqp, capabilities};

#[async_trait]
impl Subscriber for Amqp {
    async fn subscribe(&self, subscription: &Subscription) -> Result<Box<dyn Deliveries>, TransportError> {
        let broker = self.broker();
        if broker.is_closed() {
            return Err(closed());
        }
        capabilities(&broker.config).admit(SYSTEM, subscription)?;
        let member = Arc::new(Member::new(broker.clone(), subscription.group.clone()));
        // Made first: where nobody waits for the answer any more, its drop takes the member out again.
        let deliveries = AmqpDeliveries { settler: member.clone(), member: member.clone() };
        let driver = Driver::begin(broker.clone(), member, subscription.clone()).await?;
        broker.adopt(tokio::spawn(guarded(deliveries.member.clone(), driver.run())), &deliveries.member);
        Ok(Box::new(deliveries))
    }
}

/// Runs a subscription's task. A panic in it ends the subscription with an error: who receives would wait for ever.
async fn guarded(member: Arc<Member>, run: impl Future<Output = ()>) {
    if AssertUnwindSafe(run).catch_unwind().await.is_err() {
        member.end(Some(broken()));
    }
}

/// The error of a subscription whose task has panicked. Nothing is lost with it: what was not settled comes again.
fn broken() -> TransportError {
    TransportError::new(
        TransportErrorKind::Internal,
        "the task of a RabbitMQ subscription panicked, which is a mistake in msgkit; the subscription has ended",
    )
}

/// A subscription to a group's queue, or to one of its own.
struct AmqpDeliveries {
    member: Arc<Member>,
    settler: Arc<dyn Settle>,
}

impl fmt::Debug for AmqpDeliveries {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AmqpDeliveries").finish_non_exhaustive()
    }
}

#[async_trait]
impl Deliveries for AmqpDeliveries {
    async fn receive(&mut self, max: usize, into: &mut VecDeque<Delivery>) -> Result<(), TransportError> {
        if max == 0 {
            return Ok(());
        }
        loop {
            match self.member.take(&self.settler, max, into)? {
                Found::Messages | Found::End => return Ok(()),
                Found::Nothing => self.member.arrived.notified().await,
            }
        }
    }

    fn stop(&mut self) {
        self.member.stop();
    }

    async fn flush(&mut self) -> Result<(), TransportError> {
        self.member.flush().await
    }

    async fn close(&mut self) -> Result<(), TransportError> {
        self.member.leave();
        self.member.gone().await;
        Ok(())
    }
}

impl Drop for AmqpDeliveries {
    fn drop(&mut self) {
        self.member.leave();
    }
}

/// The error of settlements that went down with their channel.
fn lost_settlements() -> TransportError {
    TransportError::new(
        TransportErrorKind::Unavailable,
        "the channel was lost before the broker had confirmed all settlements; what it has not taken comes again",
    )
}

#[cfg(test)]
mod tests {
    use msgkit::envelope::Clock;
    use msgkit::transport::TransportUrl;

    use super::*;

    #[tokio::test]
    async fn a_panic_ends_a_subscription_with_an_error() {
        let url = TransportUrl::parse("amqp://127.0.0.1:1").unwrap();
        let amqp = Amqp::with(&url, crate::AmqpConfig::default(), Clock::system()).unwrap();
        let member = Arc::new(Member::new(amqp.broker().clone(), None));
        let task = tokio::spawn(guarded(member.clone(), async { panic!("on purpose") }));
        let mut deliveries = AmqpDeliveries { settler: member.clone(), member };
        let mut into = VecDeque::new();
        let error = deliveries.receive(1, &mut into).await.unwrap_err();
        assert_eq!(error.kind(), TransportErrorKind::Internal, "{error}");
        assert!(error.to_string().contains("panicked"), "{error}");
        // And nobody waits for what nobody brings.
        assert_eq!(deliveries.receive(1, &mut into).await.unwrap_err().kind(), TransportErrorKind::Closed);
        deliveries.flush().await.unwrap();
        deliveries.close().await.unwrap();
        task.await.unwrap();
    }
}

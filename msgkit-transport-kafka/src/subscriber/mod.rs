//! Handing out: a thread per subscription owns its client, and fills what the service receives from.

mod committer;
mod context;
mod driver;
mod member;
mod partition;
mod signal;

use std::collections::VecDeque;
use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use msgkit::transport::{
    Deliveries, Delivery, Settle, Subscriber, Subscription, TransportError, TransportErrorKind,
};
use tokio::sync::oneshot;

use self::driver::{Driver, Source, lost_settlements};
pub(crate) use self::member::Member;
use self::member::{Found, Handed};
use crate::cluster::Kind;
use crate::error::{SYSTEM, broke_off, closed};
use crate::transport::{Kafka, capabilities};

/// How long leaving may take; the broker finds out by itself later.
const LEAVE: Duration = Duration::from_secs(20);

#[async_trait]
impl Subscriber for Kafka {
    async fn subscribe(&self, subscription: &Subscription) -> Result<Box<dyn Deliveries>, TransportError> {
        let cluster = self.cluster();
        if cluster.is_closed() {
            return Err(closed());
        }
        capabilities(&cluster.config).admit(SYSTEM, subscription)?;
        let source = match (&subscription.group, subscription.retry_step) {
            (Some(group), Some(step)) => {
                let topic = cluster.names.retry(group, step);
                cluster.ensure(&[(&topic, Kind::Retry)]).await?;
                Source::Step(topic)
            }
            (Some(group), None) => {
                self.declare_group(subscription).await?;
                Source::Group(cluster.names.group(group))
            }
            (None, _) => {
                self.declare_places(subscription).await?;
                Source::Alone
            }
        };
        let group = subscription.group.clone().filter(|_| subscription.retry_step.is_none());
        let member = Arc::new(Member::new(cluster, group, subscription.prefetch));
        cluster.adopt(&member);
        // Whoever has closed it meanwhile has not seen this member.
        if cluster.is_closed() {
            // Or it has, and would wait for a thread that there is not.
            member.gone();
            return Err(closed());
        }
        let (ready, is_ready) = oneshot::channel();
        let (over, is_over) = oneshot::channel();
        // Made first: where nobody waits for the answer any more, its drop takes the member out again.
        let deliveries = KafkaDeliveries {
            settler: member.clone(),
            member: member.clone(),
            handed: Vec::new(),
            over: Some(is_over),
        };
        let (cluster, subscription) = (cluster.clone(), subscription.clone());
        let thread = std::thread::Builder::new().name("msgkit-kafka".to_owned());
        let begun = thread.spawn(move || {
            guarded(&member, || match Driver::new(cluster, member.clone(), subscription, source, ready) {
                Ok(driver) => driver.run(),
                Err(error) => {
                    member.fail(error);
                    member.gone();
                }
            });
            let _ = over.send(());
        });
        begun.map_err(|error| {
            TransportError::new(
                TransportErrorKind::Internal,
                "no thread can be started for a Kafka subscription",
            )
            .with_source(error)
        })?;
        match is_ready.await {
            Ok(Ok(())) => Ok(Box::new(deliveries)),
            Ok(Err(error)) => Err(error),
            Err(_) => match deliveries.member.take(0, &mut Vec::new()) {
                Err(error) => Err(error),
                Ok(_) => Err(broke_off("beginning a Kafka subscription")),
            },
        }
    }
}

/// Runs a subscription's thread. A panic in it ends the subscription with an error: who receives would wait for ever.
fn guarded(member: &Member, run: impl FnOnce()) {
    if catch_unwind(AssertUnwindSafe(run)).is_err() {
        member.fail(broken());
        member.gone();
    }
}

/// The error of a subscription whose thread has panicked. Nothing is lost with it: what was not settled comes again.
fn broken() -> TransportError {
    broke_off("the thread of a Kafka subscription panicked, which is a mistake in msgkit; the subscription")
}

/// A running subscription.
struct KafkaDeliveries {
    member: Arc<Member>,
    settler: Arc<dyn Settle>,
    handed: Vec<Handed>,
    over: Option<oneshot::Receiver<()>>,
}

impl fmt::Debug for KafkaDeliveries {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("KafkaDeliveries").finish_non_exhaustive()
    }
}

#[async_trait]
impl Deliveries for KafkaDeliveries {
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
            into.push_back(delivery.with_count(count).with_position(position));
        }
        Ok(())
    }

    fn stop(&mut self) {
        self.member.stop();
    }

    async fn flush(&mut self) -> Result<(), TransportError> {
        match self.member.flush().await {
            Ok(word) => word,
            // The thread is over.
            Err(_) if self.member.is_behind() => Err(lost_settlements()),
            Err(_) => Ok(()),
        }
    }

    async fn close(&mut self) -> Result<(), TransportError> {
        self.member.leave();
        let Some(over) = self.over.take() else { return Ok(()) };
        if tokio::time::timeout(LEAVE, over).await.is_err() {
            return Err(TransportError::new(
                TransportErrorKind::Timeout,
                format!(
                    "a Kafka subscription has not left within {LEAVE:?}; the brokers find out by themselves"
                ),
            ));
        }
        Ok(())
    }
}

impl Drop for KafkaDeliveries {
    fn drop(&mut self) {
        self.member.leave();
    }
}

#[cfg(test)]
mod tests;

//! Handing out.

use std::collections::VecDeque;
use std::sync::Arc;

use async_trait::async_trait;
use msgkit::transport::{
    Deliveries, Delivery, Subscriber, Subscription, Transport, TransportError, TransportErrorKind,
};
use tokio::sync::oneshot;

use crate::error::closed;
use crate::member::Member;
use crate::transport::Files;

#[async_trait]
impl Subscriber for Files {
    async fn subscribe(&self, subscription: &Subscription) -> Result<Box<dyn Deliveries>, TransportError> {
        self.capabilities().admit("files", subscription)?;
        let Some(group) = subscription.group.clone() else {
            unreachable!("a subscription without a group is not admitted")
        };
        let patterns = subscription.patterns.clone();
        let place = self.store().run(move |turn| {
            turn.declare(&group, &patterns)?;
            Ok(turn.place(&group))
        });
        let member = Arc::new(Member::new(self.store().clone(), place.await?, subscription.prefetch));
        self.store().join(&member);
        Ok(Box::new(FilesDeliveries { member, stopped: false }))
    }
}

/// A subscription to a directory.
#[derive(Debug)]
struct FilesDeliveries {
    member: Arc<Member>,
    stopped: bool,
}

/// What a claim sends to the receiver that asked for it.
type Claimed = Result<Vec<Delivery>, TransportError>;

#[async_trait]
impl Deliveries for FilesDeliveries {
    async fn receive(&mut self, max: usize, into: &mut VecDeque<Delivery>) -> Result<(), TransportError> {
        if max == 0 {
            return Ok(());
        }
        loop {
            if self.member.store.is_closed() {
                return Err(closed());
            }
            // Nothing is fetched ahead of a `receive`, so after `stop` there is nothing left to hand out.
            if self.stopped || self.member.has_left() {
                return Ok(());
            }
            let (reply, answer) = oneshot::channel();
            let member = self.member.clone();
            tokio::task::spawn_blocking(move || claim(&member, max, reply));
            let claimed = answer.await.map_err(|_| {
                TransportError::new(TransportErrorKind::Internal, "a look into the directory broke off")
            })??;
            if !claimed.is_empty() {
                // No await between the answer and here: what was claimed is the caller's, or goes back.
                into.extend(claimed);
                return Ok(());
            }
            tokio::time::sleep(self.member.store.config.poll_interval).await;
        }
    }

    fn stop(&mut self) {
        self.stopped = true;
    }

    async fn flush(&mut self) -> Result<(), TransportError> {
        self.member.flush()
    }

    async fn close(&mut self) -> Result<(), TransportError> {
        self.stop();
        let flushed = self.member.flush();
        self.member.leave();
        flushed
    }
}

impl Drop for FilesDeliveries {
    fn drop(&mut self) {
        self.member.leave();
    }
}

/// Looks for messages, for a `receive` that may be dropped meanwhile. Blocks.
fn claim(member: &Arc<Member>, max: usize, reply: oneshot::Sender<Claimed>) {
    let turn = match member.store.turn() {
        Ok(turn) => turn,
        Err(error) => return drop(reply.send(Err(error))),
    };
    if !reply.is_closed() {
        // Where nobody waits any more, `send` hands the deliveries back and dropping them gives them back: still in this
        // turn, so no other claim can come between and see the younger messages first.
        drop(reply.send(member.claim(&turn, max)));
    }
}

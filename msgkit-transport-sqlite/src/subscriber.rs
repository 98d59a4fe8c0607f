//! Handing out: what a service receives from.

use std::collections::VecDeque;
use std::fmt;
use std::sync::Arc;

use async_trait::async_trait;
use msgkit::envelope::{Clock, ingest::Ingest};
use msgkit::transport::{Deliveries, Delivery, Settle, Subscriber, Subscription, Transport, TransportError};
use tokio::sync::mpsc;

use crate::member::{Found, Member};
use crate::store::{Command, ask};
use crate::transport::Sqlite;

#[async_trait]
impl Subscriber for Sqlite {
    async fn subscribe(&self, subscription: &Subscription) -> Result<Box<dyn Deliveries>, TransportError> {
        self.capabilities().admit("sqlite", subscription)?;
        let commands = self.store().commands().await?;
        let member = self.store().member(subscription.prefetch);
        // Made first: where nobody waits for the answer any more, its drop takes the member out again.
        let deliveries = SqliteDeliveries {
            settler: member.clone(),
            member: member.clone(),
            commands,
            ingest: subscription.ingest.clone(),
            clock: self.store().clock(),
            claimed: VecDeque::new(),
        };
        let wanted = subscription.into();
        ask(&deliveries.commands, |reply| Command::Subscribe { wanted, member, reply }).await?;
        Ok(Box::new(deliveries))
    }
}

/// A subscription to a SQLite file.
struct SqliteDeliveries {
    member: Arc<Member>,
    settler: Arc<dyn Settle>,
    commands: mpsc::Sender<Command>,
    ingest: Ingest,
    clock: Clock,
    claimed: VecDeque<crate::member::Claimed>,
}

impl fmt::Debug for SqliteDeliveries {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SqliteDeliveries").finish_non_exhaustive()
    }
}

/// Takes the wish for messages back when nobody waits any more, so that others get them.
struct Wish<'a>(&'a Member);

impl Drop for Wish<'_> {
    fn drop(&mut self) {
        self.0.unwant();
    }
}

#[async_trait]
impl Deliveries for SqliteDeliveries {
    async fn receive(&mut self, max: usize, into: &mut VecDeque<Delivery>) -> Result<(), TransportError> {
        if max == 0 {
            return Ok(());
        }
        let wish = Wish(&self.member);
        loop {
            match self.member.take(max, &mut self.claimed)? {
                Found::Messages => break,
                Found::End => return Ok(()),
                Found::Nothing => self.member.arrived.notified().await,
            }
        }
        drop(wish);
        let now = self.clock.now();
        for claimed in self.claimed.drain(..) {
            let token = claimed.token();
            let (starts, position) = (claimed.starts, token.id);
            let message = claimed.stored.read(&self.ingest, now);
            into.push_back(
                Delivery::new(message, token, self.settler.clone())
                    .with_count(starts)
                    .with_position(position),
            );
        }
        Ok(())
    }

    fn stop(&mut self) {
        self.member.stop();
    }

    async fn flush(&mut self) -> Result<(), TransportError> {
        ask(&self.commands, |reply| Command::Flush { reply }).await
    }

    async fn close(&mut self) -> Result<(), TransportError> {
        self.member.leave();
        ask(&self.commands, |reply| Command::Flush { reply }).await
    }
}

impl Drop for SqliteDeliveries {
    fn drop(&mut self) {
        self.member.leave();
    }
}

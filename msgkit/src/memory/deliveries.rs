//! One member's subscription.

use std::collections::VecDeque;
use std::pin::pin;
use std::sync::Arc;

use async_trait::async_trait;

use super::Memory;
use super::queue::Queue;
use crate::envelope::Timestamp;
use crate::transport::{Deliveries, Delivery, Incoming, Settle, Token, TransportError};

#[derive(Debug)]
struct Settler {
    queue: Arc<Queue>,
    member: u64,
}

impl Settle for Settler {
    fn done(&self, tokens: &mut Vec<Token>) {
        self.queue.done(self.member, tokens);
    }

    fn returned(&self, token: Token, _: Incoming) {
        self.queue.returned(self.member, token);
    }
}

/// What one member of a queue receives.
#[derive(Debug)]
pub(super) struct MemoryDeliveries {
    memory: Memory,
    queue: Arc<Queue>,
    member: u64,
    settler: Arc<dyn Settle>,
    ephemeral: bool,
    stopped: bool,
}

impl MemoryDeliveries {
    pub(super) fn new(memory: &Memory, queue: Arc<Queue>, member: u64, ephemeral: bool) -> Self {
        let settler: Arc<dyn Settle> = Arc::new(Settler { queue: queue.clone(), member });
        Self { memory: memory.clone(), queue, member, settler, ephemeral, stopped: false }
    }

    /// Takes what is there; tells whether there was anything, and else when the next message is due.
    fn take(&self, max: usize, into: &mut VecDeque<Delivery>) -> Result<(), Option<Timestamp>> {
        let clock = self.memory.broker.clock;
        let before = into.len();
        let due = self.queue.receive(self.member, max, || clock.now(), &self.settler, into);
        if into.len() > before { Ok(()) } else { Err(due) }
    }
}

#[async_trait]
impl Deliveries for MemoryDeliveries {
    async fn receive(&mut self, max: usize, into: &mut VecDeque<Delivery>) -> Result<(), TransportError> {
        let max = max.max(1);
        loop {
            if self.stopped {
                return Ok(());
            }
            self.memory.connection.check()?;
            if self.take(max, into).is_ok() {
                return Ok(());
            }
            // From here on nothing that comes is missed, so one more look tells whether to wait.
            let mut arrived = pin!(self.queue.arrived.notified());
            arrived.as_mut().enable();
            self.memory.connection.check()?;
            match self.take(max, into) {
                Ok(()) => return Ok(()),
                Err(None) => arrived.await,
                Err(Some(due)) => {
                    let due = self.memory.broker.clock.instant_of(due);
                    let _ = tokio::time::timeout_at(due, arrived).await;
                }
            }
        }
    }

    fn stop(&mut self) {
        self.stopped = true;
    }

    async fn flush(&mut self) -> Result<(), TransportError> {
        Ok(())
    }

    async fn close(&mut self) -> Result<(), TransportError> {
        self.stopped = true;
        self.queue.leave(self.member);
        Ok(())
    }
}

impl Drop for MemoryDeliveries {
    fn drop(&mut self) {
        self.queue.leave(self.member);
        self.memory.connection.forget(self.member);
        if self.ephemeral {
            self.memory.broker.forget_ephemeral(self.member);
        }
    }
}

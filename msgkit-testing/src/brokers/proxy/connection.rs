//! Faults for one connection.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use super::Direction;
use super::link::{Ending, Link};

/// One connection through a [`FaultProxy`](super::FaultProxy), with the same commands.
#[derive(Clone)]
pub struct Connection(Arc<Link>);

impl Connection {
    pub(super) fn new(link: Arc<Link>) -> Self {
        Self(link)
    }

    /// How many bytes have come from that direction's sender, lost ones included.
    #[must_use]
    pub fn bytes(&self, direction: Direction) -> u64 {
        self.0.seen(direction)
    }

    /// As [`FaultProxy::cut`](super::FaultProxy::cut).
    pub fn cut(&self) {
        self.0.end(Ending::Cut);
    }

    /// As [`FaultProxy::reset`](super::FaultProxy::reset).
    pub fn reset(&self) {
        self.0.end(Ending::Reset);
    }

    /// As [`FaultProxy::half_open`](super::FaultProxy::half_open).
    pub fn half_open(&self) {
        self.0.change(|faults| faults.silent = true);
    }

    /// As [`FaultProxy::stall`](super::FaultProxy::stall).
    pub fn stall(&self) {
        self.0.change(|faults| faults.stalled = true);
    }

    /// As [`FaultProxy::latency`](super::FaultProxy::latency).
    pub fn latency(&self, latency: Duration) {
        self.0.change(|faults| faults.latency = latency);
    }

    /// As [`FaultProxy::bandwidth`](super::FaultProxy::bandwidth).
    pub fn bandwidth(&self, bytes_per_second: u64) {
        self.0.change(|faults| faults.bandwidth = Some(bytes_per_second.max(1)));
    }

    /// As [`FaultProxy::cut_after`](super::FaultProxy::cut_after).
    pub fn cut_after(&self, direction: Direction, bytes: u64) {
        self.0.cut_after(direction, bytes);
    }

    /// As [`FaultProxy::heal`](super::FaultProxy::heal).
    pub fn heal(&self) {
        self.0.heal();
    }
}

impl fmt::Debug for Connection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Connection")
            .field("to_broker", &self.bytes(Direction::ToBroker))
            .field("to_client", &self.bytes(Direction::ToClient))
            .finish()
    }
}

//! How a transport is presented to the suite.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use futures_util::future::BoxFuture;
use msgkit::envelope::{Clock, NativeHeaders};
use msgkit::transport::{Transport, TransportError};
use msgkit::{Registry, Topic};

/// A transport under test: gives each case an empty broker of its own.
#[async_trait]
pub trait Subject: Send + Sync + 'static {
    /// What the cases and the table of guarantees call it: `memory`, `sqlite`, `amqp`.
    fn name(&self) -> String;

    /// What it was proven on, for the table of guarantees: `RabbitMQ 3.10.8`.
    fn version(&self) -> String;

    /// Which time its cases run in.
    fn time(&self) -> Time {
        Time::Real
    }

    /// An empty broker, or an empty place in one that nobody else uses, as `setup` wishes.
    ///
    /// # Errors
    /// [`NotRun`] where there is no broker to test against.
    async fn broker(&self, setup: &Setup) -> Result<Box<dyn Broker>, NotRun>;

    /// A registry that knows the transport, and an address with the secrets in it that must never be printed.
    fn secrets(&self) -> Option<(Registry, String, Vec<String>)> {
        None
    }
}

/// Which time a subject's cases run in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Time {
    /// The runtime's timer is paused and jumps to what is due next: everything of the transport is in this process and
    /// waits on that timer alone.
    Virtual,
    /// The wall clock.
    Real,
    /// The wall clock, on a service that takes tenths of a second for what a broker next door does in milliseconds.
    Slow,
}

impl Time {
    /// How long nothing must arrive until a case believes that nothing will. No case trusts it alone where it can
    /// publish a later message that has to come first.
    #[must_use]
    pub fn silence(self) -> Duration {
        match self {
            Self::Virtual => Duration::from_secs(600),
            Self::Real => Duration::from_millis(300),
            Self::Slow => Duration::from_millis(800),
        }
    }

    /// How long a case waits for what must come.
    #[must_use]
    pub fn patience(self) -> Duration {
        match self {
            Self::Virtual => Duration::from_secs(2 * 3600),
            Self::Real => Duration::from_secs(60),
            Self::Slow => Duration::from_secs(180),
        }
    }

    /// The shortest delay that can be told from none.
    #[must_use]
    pub fn tick(self) -> Duration {
        match self {
            Self::Virtual => Duration::from_secs(10),
            Self::Real => Duration::from_millis(400),
            Self::Slow => Duration::from_millis(2500),
        }
    }
}

/// What a case wishes of its broker; a wish that the transport has no option for is ignored.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Setup {
    /// The clock that the transport is to use.
    pub clock: Clock,
    /// The most messages that one group may have waiting.
    pub capacity: Option<usize>,
    /// How long a publisher waits in front of a full group.
    pub publish_timeout: Option<Duration>,
    /// Whether messages are kept after they were handled, so that a new group can start with them.
    pub retains: bool,
    /// Whether a publish that nobody takes is refused.
    pub refuses_unrouted: bool,
}

impl Setup {
    /// No wishes.
    #[must_use]
    pub fn new(clock: Clock) -> Self {
        Self { clock, capacity: None, publish_timeout: None, retains: false, refuses_unrouted: false }
    }
}

/// Why a case was not run at all.
#[derive(Debug, Clone)]
pub struct NotRun(pub String);

impl fmt::Display for NotRun {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// What became of a fault that a case asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Fault {
    /// It happened.
    Done,
    /// It cannot be brought about here, because …
    Impossible(&'static str),
}

/// An empty broker for one case.
#[async_trait]
pub trait Broker: Send + Sync {
    /// One more connection, independent of all others, as another process makes it.
    ///
    /// # Errors
    /// [`TransportError`] where the broker cannot be reached.
    async fn connect(&self) -> Result<Arc<dyn Transport>, TransportError>;

    /// Breaks every connection, as a network does. What was in hand comes again with its starts counted.
    async fn disconnect(&self) -> Fault {
        Fault::Impossible("the subject has no way to break a connection")
    }

    /// Ends a process as SIGKILL does: its connections break, and whatever `dying` still does is heard by nobody. What was in
    /// hand comes again with its starts counted once.
    async fn kill(&self, dying: BoxFuture<'_, ()>) -> Fault {
        let fault = self.disconnect().await;
        if fault == Fault::Done {
            dying.await;
        }
        fault
    }

    /// Publishes bytes as a foreign producer does: no envelope, any headers.
    async fn publish_foreign(&self, _topic: &Topic, _payload: Bytes, _headers: &NativeHeaders) -> Fault {
        Fault::Impossible("the subject has no foreign producer")
    }
}

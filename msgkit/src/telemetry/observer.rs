//! The life-cycle events of messages.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use crate::envelope::{DeadLetter, Envelope};
use crate::handler::HandlerIdentity;
use crate::transport::{Destination, Malformed};

/// Gets every life-cycle event of every message of a service.
///
/// Called from within the lanes: it must return quickly and never block; hand over to a task what takes longer.
pub trait Observer: Send + Sync + 'static {
    /// Takes note of `event`.
    fn on(&self, event: &Event<'_>);
}

impl<F: Fn(&Event<'_>) + Send + Sync + 'static> Observer for F {
    fn on(&self, event: &Event<'_>) {
        self(event);
    }
}

/// Something that happened to one message.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Event<'a> {
    /// The message; none for bytes that are no envelope.
    pub envelope: Option<&'a Envelope>,
    /// Who handled it; none where it was published from outside a handler.
    pub handler: Option<&'a HandlerIdentity>,
    /// What happened.
    pub kind: EventKind<'a>,
}

/// What happened to a message.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub enum EventKind<'a> {
    /// The broker holds it at `to`.
    Published {
        /// Where it was published to.
        to: &'a Destination,
    },
    /// It came in.
    Received {
        /// How often the broker has handed it out.
        count: u32,
    },
    /// Bytes came in that are no envelope.
    Malformed(&'a Malformed),
    /// An attempt began.
    Started {
        /// Which one, from 1.
        attempt: u32,
    },
    /// The handler succeeded and what it published is with the broker; settled next.
    Succeeded {
        /// The attempt that succeeded.
        attempt: u32,
        /// How long that attempt took.
        took: Duration,
    },
    /// An attempt failed.
    Failed {
        /// Which one.
        attempt: u32,
        /// The error and its causes.
        error: &'a str,
        /// How long it took.
        took: Duration,
    },
    /// A copy that is due later is with the broker.
    RetryScheduled {
        /// The attempts so far.
        attempt: u32,
        /// The delayed retry's number, from 1.
        round: u32,
        /// When it is due, from now.
        delay: Duration,
    },
    /// It is with the broker as a dead letter.
    DeadLettered(&'a DeadLetter),
    /// The handler asked for it to be dropped.
    Discarded {
        /// Why.
        reason: &'a str,
    },
    /// It is of a type that the handler does not take.
    Skipped,
    /// The group's inbox says that it was handled before.
    Duplicate,
    /// A copy of it (delayed retry, dead letter) could not be confirmed; it is being tried again.
    CopyFailed {
        /// Where the copy should go.
        to: &'a Destination,
        /// Why it did not.
        error: &'a str,
    },
    /// It went back to the broker unhandled.
    GivenBack,
    /// It was settled.
    Settled,
}

impl EventKind<'_> {
    /// The event's name, as metrics and journals write it.
    #[must_use]
    pub const fn name(&self) -> &'static str {
        match self {
            Self::Published { .. } => "published",
            Self::Received { .. } => "received",
            Self::Malformed(_) => "malformed",
            Self::Started { .. } => "started",
            Self::Succeeded { .. } => "succeeded",
            Self::Failed { .. } => "failed",
            Self::RetryScheduled { .. } => "retry_scheduled",
            Self::DeadLettered(_) => "dead_lettered",
            Self::Discarded { .. } => "discarded",
            Self::Skipped => "skipped",
            Self::Duplicate => "duplicate",
            Self::CopyFailed { .. } => "copy_failed",
            Self::GivenBack => "given_back",
            Self::Settled => "settled",
        }
    }
}

/// All observers of a service.
#[derive(Clone, Default)]
pub struct Observers(Option<Arc<[Arc<dyn Observer>]>>);

impl Observers {
    pub(crate) fn new(observers: Vec<Arc<dyn Observer>>) -> Self {
        Self((!observers.is_empty()).then(|| observers.into()))
    }

    /// Whether there is any: what the loop asks before it makes an event.
    #[must_use]
    pub fn any(&self) -> bool {
        self.0.is_some()
    }

    /// Tells all of them.
    pub fn tell(&self, envelope: Option<&Envelope>, handler: Option<&HandlerIdentity>, kind: EventKind<'_>) {
        if let Some(observers) = &self.0 {
            let event = Event { envelope, handler, kind };
            for observer in observers.iter() {
                observer.on(&event);
            }
        }
    }
}

impl fmt::Debug for Observers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Observers({})", self.0.as_ref().map_or(0, |observers| observers.len()))
    }
}

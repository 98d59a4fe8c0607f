//! Which messages a group has handled: a slot of the pipeline.

use std::collections::{HashSet, VecDeque};
use std::fmt::Debug;
use std::sync::{Mutex, PoisonError};

use async_trait::async_trait;

use crate::envelope::{Envelope, MessageId};
use crate::error::BoxError;
use crate::text::Text;

/// Remembers which messages a group has handled, so that a message that comes again is settled and not handled again.
///
/// A message is remembered after its handler succeeded and what it published is with the broker, and before it is
/// settled: one that fails is not remembered. If the process dies between the handler's success and the note, the
/// message is handled again; only a [`UnitOfWork`](super::UnitOfWork) that keeps the note in the handler's own
/// transaction closes that gap.
#[async_trait]
pub trait Inbox: Send + Sync + Debug + 'static {
    /// Whether `group` has handled `envelope`: its `source` and `id` name it.
    ///
    /// # Errors
    /// Where it cannot be told now; the message waits and it is asked again.
    async fn contains(&self, group: &str, envelope: &Envelope) -> Result<bool, BoxError>;

    /// Notes that `group` has handled `envelope`.
    ///
    /// # Errors
    /// Where it cannot be noted now; the message is handled again later, which costs it no attempt.
    async fn remember(&self, group: &str, envelope: &Envelope) -> Result<(), BoxError>;
}

/// An inbox in memory: the last so many messages of this process. For tests, and against duplicates that come soon.
#[derive(Debug)]
pub struct MemoryInbox {
    capacity: usize,
    known: Mutex<Known>,
}

type Name = (Text, Text, MessageId);

#[derive(Debug, Default)]
struct Known {
    names: HashSet<Name>,
    order: VecDeque<Name>,
}

impl MemoryInbox {
    /// An inbox of the last `capacity` messages.
    #[must_use]
    pub fn new(capacity: usize) -> Self {
        Self { capacity, known: Mutex::default() }
    }
}

fn name(group: &str, envelope: &Envelope) -> Name {
    (group.into(), envelope.source().into(), envelope.id().clone())
}

#[async_trait]
impl Inbox for MemoryInbox {
    async fn contains(&self, group: &str, envelope: &Envelope) -> Result<bool, BoxError> {
        let known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        Ok(known.names.contains(&name(group, envelope)))
    }

    async fn remember(&self, group: &str, envelope: &Envelope) -> Result<(), BoxError> {
        let name = name(group, envelope);
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        if known.names.insert(name.clone()) {
            known.order.push_back(name);
            while known.order.len() > self.capacity
                && let Some(oldest) = known.order.pop_front()
            {
                known.names.remove(&oldest);
            }
        }
        Ok(())
    }
}

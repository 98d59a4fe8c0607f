//! What operators ask a transport: how much is left, and what lies there.

use async_trait::async_trait;

use super::delivery::Incoming;
use super::destination::Destination;
use super::error::TransportError;
use super::subscription::Group;
use crate::text::Text;

/// How one group stands.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct GroupStatus {
    /// The group.
    pub group: Group,
    /// Messages that wait for it, those in hand not counted.
    pub waiting: u64,
    /// Messages that are in hand unsettled, where that is known: all of the group, or those of this process where the broker does
    /// not tell of others.
    pub in_hand: Option<u64>,
    /// Messages that are kept back until they are due.
    pub delayed: u64,
    /// How old the oldest waiting message is, where the transport tells.
    pub oldest_seconds: Option<u64>,
    /// How often the broker has ended the consuming of this group here by itself, because what holds its messages was
    /// deleted or moved; what waited in it may be gone. Since the transport was made.
    pub broken_off: u64,
}

impl GroupStatus {
    /// A group with nothing to do.
    #[must_use]
    pub fn new(group: Group) -> Self {
        Self { group, waiting: 0, in_hand: None, delayed: 0, oldest_seconds: None, broken_off: 0 }
    }
}

/// A message that was looked at without being consumed.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Peeked {
    /// The message.
    pub message: Incoming,
    /// Where it lies.
    pub position: Text,
}

impl Peeked {
    /// `message`, which lies at `position`.
    pub fn new(message: Incoming, position: impl Into<Text>) -> Self {
        Self { message, position: position.into() }
    }
}

/// What operators ask. None of it consumes anything.
#[async_trait]
pub trait Operate: Send + Sync {
    /// How every declared group stands.
    ///
    /// # Errors
    /// [`TransportError`] where the broker does not answer.
    async fn groups(&self) -> Result<Vec<GroupStatus>, TransportError>;

    /// The oldest messages that wait for `group`, at most `limit`, after the position `after`.
    ///
    /// # Errors
    /// [`TransportError`] where the broker does not answer, or knows no such group.
    async fn peek(
        &self,
        group: &Group,
        after: Option<&str>,
        limit: usize,
    ) -> Result<Vec<Peeked>, TransportError>;

    /// The oldest dead letters of `group`, at most `limit`, after the position `after`.
    ///
    /// # Errors
    /// [`TransportError`] where the broker does not answer.
    async fn dead_letters(
        &self,
        group: &Group,
        after: Option<&str>,
        limit: usize,
    ) -> Result<Vec<Peeked>, TransportError>;

    /// Publishes the dead letter at `position` again, to the group that gave it up and to no other, then removes it.
    /// The copy is confirmed before the dead letter goes.
    ///
    /// Where this transport only keeps the dead letters of another one's group, the way back is
    /// [`Running::replay`](crate::service::Running::replay).
    ///
    /// # Errors
    /// [`TransportError`] where there is no such dead letter, its group is not declared at this transport, or the broker does not
    /// answer; the dead letter stays then.
    async fn replay(&self, group: &Group, position: &str) -> Result<(), TransportError>;

    /// Removes the dead letter at `position` for good.
    ///
    /// # Errors
    /// [`TransportError`] where there is no such dead letter, or the broker does not answer.
    async fn remove_dead_letter(&self, group: &Group, position: &str) -> Result<(), TransportError>;

    /// How many messages lie at a destination, where the transport tells.
    ///
    /// # Errors
    /// [`TransportError`] where the broker does not answer.
    async fn depth(&self, destination: &Destination) -> Result<Option<u64>, TransportError>;
}

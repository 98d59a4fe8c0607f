//! Who has which shard, and how far it is: a table of rows that are only changed by whoever has seen them last.
//!
//! Kinesis knows no groups. What makes members of one are the rows of its space: `group` (its patterns), `all` (it has begun in
//! every stream that was there), `stream/…` (a stream whose shards are in the table), `lease/<stream>/<shard>` ([`Lease`]:
//! owner, checkpoint, starts), `member/<id>` (a sign of life, by its version). A store has to do one thing well: to write a row
//! only where its version is the expected one. Nobody's clock is compared with another's: a member counts as dead when its row
//! has not changed for the time of a lease on the clock of whoever looks.

#[cfg(feature = "dynamodb")]
mod dynamodb;
mod memory;
#[cfg(feature = "sqlite")]
mod sqlite;

use std::fmt::Debug;

use async_trait::async_trait;
use msgkit::transport::TransportError;
use serde::{Deserialize, Serialize};

#[cfg(feature = "dynamodb")]
pub use self::dynamodb::DynamoDbLeases;
pub use self::memory::MemoryLeases;
#[cfg(feature = "sqlite")]
pub use self::sqlite::SqliteLeases;
use crate::position::{Position, Sequence};

/// One row of a space.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct LeaseRow {
    /// Its name in the space.
    pub key: String,
    /// How often it was written, from 1.
    pub version: u64,
    /// What it holds, JSON.
    pub value: String,
}

impl LeaseRow {
    /// The row `key` in its `version`.
    pub fn new(key: impl Into<String>, version: u64, value: impl Into<String>) -> Self {
        Self { key: key.into(), version, value: value.into() }
    }
}

/// One write, which is done only where the row is as the writer has seen it last.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct Change<'a> {
    /// The name of the row in its space.
    pub key: &'a str,
    /// The version that it must have; 0 where it must not be there.
    pub expected: u64,
    /// What it holds then, in the version one above; `None` removes it.
    pub value: Option<&'a str>,
}

impl<'a> Change<'a> {
    /// The row `key`, whose version is `expected`, shall hold `value`.
    #[must_use]
    pub fn write(key: &'a str, expected: u64, value: &'a str) -> Self {
        Self { key, expected, value: Some(value) }
    }

    /// The row `key`, whose version is `expected`, shall be gone.
    #[must_use]
    pub fn remove(key: &'a str, expected: u64) -> Self {
        Self { key, expected, value: None }
    }
}

/// Keeps rows for all members of all groups.
///
/// Reads see every write that was confirmed before they began.
#[async_trait]
pub trait LeaseStore: Send + Sync + Debug {
    /// Whether what is stored outlives this process.
    fn is_durable(&self) -> bool;

    /// Every row of `space`.
    ///
    /// # Errors
    /// [`TransportError`] where the store does not answer.
    async fn load(&self, space: &str) -> Result<Vec<LeaseRow>, TransportError>;

    /// Does `change` where the row has the expected version. Answers whether it had; whoever finds the row just as its own
    /// write would have left it may be told yes, since that write may have been its own whose answer was lost.
    ///
    /// # Errors
    /// [`TransportError`] where the store does not answer; whether the row is written is then unknown.
    async fn swap(&self, space: &str, change: Change<'_>) -> Result<bool, TransportError>;
}

/// The lease of one shard in one group.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Lease {
    pub(crate) stream: String,
    pub(crate) shard: String,
    /// The shards that it was made of; they come first.
    pub(crate) parents: Vec<String>,
    /// The member that reads it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) owner: Option<String>,
    /// Up to where everything is settled.
    pub(crate) at: Position,
    /// Up to where the owner may have handed messages out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) started: Option<Sequence>,
    /// How far owners were that died, each one entry: the starts of a message are those that lie behind it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) crashed: Vec<Sequence>,
    /// Whether it is closed and everything of it is settled.
    #[serde(default)]
    pub(crate) done: bool,
}

/// The most deaths that are remembered: every crash bound is far below.
const MOST_DEATHS: usize = 64;

impl Lease {
    pub(crate) fn new(stream: &str, shard: &str, parents: Vec<String>, at: Position) -> Self {
        Self {
            stream: stream.to_owned(),
            shard: shard.to_owned(),
            parents,
            owner: None,
            at,
            started: None,
            crashed: Vec::new(),
            done: false,
        }
    }

    pub(crate) fn key(&self) -> String {
        key_of(&self.stream, &self.shard)
    }

    /// How often the message `sequence` was started, the next time included.
    pub(crate) fn starts(&self, sequence: &Sequence) -> u32 {
        let deaths = self.crashed.iter().filter(|bound| *bound >= sequence).count();
        u32::try_from(deaths).unwrap_or(u32::MAX).saturating_add(1)
    }

    /// Everything up to `sequence` is settled.
    pub(crate) fn settled(&mut self, sequence: Sequence) {
        self.crashed.retain(|bound| *bound > sequence);
        self.at = Position::After(sequence);
    }

    /// `owner` takes it; where the last one did not leave in good order, its starts count.
    pub(crate) fn take(&mut self, owner: &str) {
        if self.owner.is_some()
            && let Some(started) = self.started.take()
            && !self.at.is_past(&started)
        {
            self.crashed.push(started);
            if self.crashed.len() > MOST_DEATHS {
                self.crashed.remove(0);
            }
        }
        self.started = None;
        self.owner = Some(owner.to_owned());
    }

    /// The owner leaves in good order: what it had in hand goes back without a start.
    pub(crate) fn release(&mut self) {
        (self.owner, self.started) = (None, None);
    }

    pub(crate) fn to_json(&self) -> String {
        json(self)
    }
}

pub(crate) fn key_of(stream: &str, shard: &str) -> String {
    format!("lease/{stream}/{shard}")
}

/// What a group takes.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct GroupRow {
    pub(crate) patterns: Vec<String>,
    /// How many delay steps it has.
    #[serde(default)]
    pub(crate) steps: u32,
}

/// What is ours always has a JSON form.
pub(crate) fn json(value: &impl Serialize) -> String {
    serde_json::to_string(value).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn number(n: u32) -> Sequence {
        Sequence::new(&n.to_string())
    }

    #[test]
    fn starts_are_those_of_owners_that_died() {
        let mut lease = Lease::new("s", "0", Vec::new(), Position::Oldest);
        lease.take("a");
        lease.started = Some(number(5));
        lease.take("b");
        assert_eq!((lease.starts(&number(5)), lease.starts(&number(6))), (2, 1), "6 was not handed out");
        lease.started = Some(number(7));
        lease.take("c");
        assert_eq!([5, 6, 7, 8].map(|n| lease.starts(&number(n))), [3, 2, 2, 1]);
        lease.settled(number(6));
        assert_eq!([7, 8].map(|n| lease.starts(&number(n))), [2, 1]);
        lease.started = Some(number(9));
        lease.release();
        lease.take("d");
        assert_eq!(lease.starts(&number(8)), 1, "leaving in good order is no start");
    }

    #[test]
    fn the_row_is_read_back() {
        let mut lease = Lease::new("s", "0", vec!["p".into()], Position::Time(5));
        lease.take("a");
        lease.started = Some(number(5));
        assert_eq!(serde_json::from_str::<Lease>(&lease.to_json()).unwrap(), lease);
        let old = r#"{"stream":"s","shard":"0","parents":[],"at":"oldest"}"#;
        assert_eq!(
            serde_json::from_str::<Lease>(old).unwrap(),
            Lease::new("s", "0", Vec::new(), Position::Oldest)
        );
    }
}

//! What a reader asks a transport for.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use crate::envelope::Timestamp;
use crate::error::Error;
use crate::text::Text;
use crate::topic::{Pattern, Topic};

/// The name of a group of competing consumers: 1 to 48 of `A-Z a-z 0-9 _ -`.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Group(Text);

impl Group {
    /// Reads a name.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidName`](crate::ErrorKind::InvalidName), naming the rule it breaks.
    pub fn new(name: impl Into<Text>) -> Result<Self, Error> {
        let name = name.into();
        let legal = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_' || byte == b'-';
        if name.is_empty() || name.len() > 48 || !name.bytes().all(legal) {
            return Err(Error::invalid_name(format!(
                "group {:?} is no name that every broker can carry; use 1 to 48 of A-Z a-z 0-9 _ -",
                name.chars().take(60).collect::<String>()
            )));
        }
        Ok(Self(name))
    }

    /// The name.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The name as a cheap clone.
    #[must_use]
    pub fn text(&self) -> &Text {
        &self.0
    }
}

impl FromStr for Group {
    type Err = Error;
    fn from_str(name: &str) -> Result<Self, Error> {
        Self::new(name)
    }
}

impl TryFrom<&str> for Group {
    type Error = Error;
    fn try_from(name: &str) -> Result<Self, Error> {
        Self::new(name)
    }
}

impl fmt::Display for Group {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl fmt::Debug for Group {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Group({})", self.0)
    }
}

/// Where a group that does not exist yet begins; one that exists goes on where it was.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum Start {
    /// With what is published after its declaration.
    #[default]
    Latest,
    /// With the oldest message that the transport keeps.
    Earliest,
    /// With the first message of that time or later.
    At(Timestamp),
}

/// What a reader asks for: a value, attached and detached at run time.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct Subscription {
    /// The topics; a message that several of them match comes once.
    pub patterns: Vec<Pattern>,
    /// The group; `None` = ephemeral, everything from now on for this instance alone.
    pub group: Option<Group>,
    /// Where a new group begins.
    pub start: Start,
    /// The most messages that may be in hand unsettled.
    pub prefetch: usize,
    /// The topics' destinations on log brokers (dynamic segments as `_`), where the messages' types are known.
    pub places: Vec<Topic>,
    /// The read of one delay step instead of the topics: set by the core on transports with
    /// [`Delay::RetryTopics`](super::Delay::RetryTopics).
    pub retry_step: Option<u32>,
    /// What becomes of messages that are no CloudEvents events.
    pub ingest: Ingest,
}

/// The most messages in hand of a subscription that says nothing.
const DEFAULT_PREFETCH: usize = 128;

impl Subscription {
    /// The subscription of `group` to `patterns`.
    pub fn group(group: Group, patterns: impl IntoIterator<Item = Pattern>) -> Self {
        Self {
            patterns: patterns.into_iter().collect(),
            group: Some(group),
            start: Start::Latest,
            prefetch: DEFAULT_PREFETCH,
            places: Vec::new(),
            retry_step: None,
            ingest: Ingest::default(),
        }
    }

    /// A subscription of this instance alone to `patterns`.
    pub fn ephemeral(patterns: impl IntoIterator<Item = Pattern>) -> Self {
        Self { group: None, ..Self::group(Group(Text::from_static("ephemeral")), patterns) }
    }

    /// The same with another start.
    #[must_use]
    pub fn with_start(mut self, start: Start) -> Self {
        self.start = start;
        self
    }

    /// The same with another bound of messages in hand; at least 1.
    #[must_use]
    pub fn with_prefetch(mut self, prefetch: usize) -> Self {
        self.prefetch = prefetch.max(1);
        self
    }

    /// Whether a message of `topic` belongs to it.
    #[must_use]
    pub fn matches(&self, topic: &Topic) -> bool {
        self.patterns.iter().any(|pattern| pattern.matches(topic))
    }
}

use crate::envelope::ingest::Ingest;

/// Something that must exist at the broker before the first publish.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub enum Declaration {
    /// A group's queue (cursor, consumer group, session), its retry destinations with the delay of each step, and its
    /// dead-letter destination with a durable reader where the broker needs one.
    Group {
        /// What the group consumes.
        subscription: Subscription,
        /// The delays of steps 1, 2, 3, …; empty where it never retries later.
        retry_steps: Vec<Duration>,
        /// Whether its dead letters live on this transport.
        dead_letters: bool,
    },
    /// A topic that is published to; dynamic segments as `_`.
    Topic(Topic),
    /// A group's dead letters, which failed on another transport.
    DeadLetters(Group),
}

//! What a transport can do, as data.

use std::time::Duration;

use super::error::{TransportError, TransportErrorKind};
use super::subscription::{Start, Subscription};
use crate::text::Text;

/// How far the order of one key's messages holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
#[non_exhaustive]
pub enum KeyOrder {
    /// Not at all.
    None,
    /// Among the messages that one member of a group receives; two members may hold messages of one key at once.
    Member,
    /// Across the group: while one member holds a message of a key, no other gets the next one.
    Group,
}

/// How a message is kept back until it is due.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Delay {
    /// The transport holds a message back until its `notbefore`, and gives retry copies back to the group's own
    /// subscription.
    Native,
    /// The core does, by retry topics: one per delay step, of which only the head is held.
    RetryTopics,
}

/// From where a group that is new can start.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct StartPositions {
    /// At the oldest message that is kept.
    pub earliest: bool,
    /// At a point in time.
    pub time: bool,
}

impl StartPositions {
    /// `earliest` and `time` as given.
    #[must_use]
    pub const fn new(earliest: bool, time: bool) -> Self {
        Self { earliest, time }
    }
}

/// What a transport can do.
///
/// The conformance suite proves each field both ways: what is claimed works, what is not claimed is refused at start.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Capabilities {
    /// Messages outlive the process and a restart of the broker.
    pub durable: bool,
    /// Members of one group share its messages.
    pub groups: bool,
    /// A subscription without a group gets everything from now on, each instance for itself.
    pub ephemeral: bool,
    /// A declared group that is away gets what was published meanwhile.
    pub backlog: bool,
    /// A destination keeps what nobody reads, so that dead letters can live here.
    pub keeps_unread: bool,
    /// How far the order of one key holds.
    pub key_order: KeyOrder,
    /// How delays are kept.
    pub delay: Delay,
    /// Deliveries tell how often they were started, on which the crash bound stands.
    pub delivery_count: bool,
    /// A delivery that is given back comes again without a reconnect.
    pub nack: bool,
    /// The longest that a message may be held unsettled; `None` = as long as the connection lives.
    pub max_hold: Option<Duration>,
    /// Where a new group may start besides "from now on".
    pub start: StartPositions,
    /// A publish that no group consumes is noticed.
    pub detects_unrouted: bool,
    /// How much a group has left can be asked.
    pub lag: bool,
    /// Messages can be looked at without consuming them.
    pub peek: bool,
    /// The largest payload in bytes; `None` = none that the transport knows of.
    pub max_payload: Option<usize>,
    /// Patterns with wildcards also match topics that come into being later.
    pub live_patterns: bool,
    /// Foreign headers that are not text survive.
    pub native_headers: bool,
    /// A publisher in front of a full queue waits, then gets a temporary error.
    pub back_pressure: bool,
    /// What its users should know of what it costs as it is configured, a sentence each; `check` prints them.
    pub costs: Vec<Text>,
}

impl Capabilities {
    /// A transport that can do nothing beyond publishing and subscribing: the start for an author's own list.
    #[must_use]
    pub const fn none() -> Self {
        Self {
            durable: false,
            groups: false,
            ephemeral: false,
            backlog: false,
            keeps_unread: false,
            key_order: KeyOrder::None,
            delay: Delay::RetryTopics,
            delivery_count: false,
            nack: false,
            max_hold: None,
            start: StartPositions::new(false, false),
            detects_unrouted: false,
            lag: false,
            peek: false,
            max_payload: None,
            live_patterns: false,
            native_headers: false,
            back_pressure: false,
            costs: Vec::new(),
        }
    }

    /// Refuses a subscription that asks for what is not claimed: a transport calls it when one is declared or begun.
    ///
    /// # Errors
    /// [`TransportErrorKind::Unsupported`], naming what is asked for and what to ask for instead.
    pub fn admit(&self, system: &str, subscription: &Subscription) -> Result<(), TransportError> {
        let missing = match subscription {
            Subscription { group: None, .. } if !self.ephemeral => {
                "has no subscriptions without a group; give the handler a group"
            }
            Subscription { group: Some(_), .. } if !self.groups => {
                "has no groups; make the handler's subscription ephemeral"
            }
            Subscription { retry_step: Some(_), .. } if self.delay == Delay::Native => {
                "keeps delays by itself and has no retry topics to subscribe to"
            }
            Subscription { start: Start::Earliest, .. } if !self.start.earliest => {
                "keeps no messages for a group that is new, so it cannot start at the earliest; start at the latest, or \
                 have the transport keep messages where it has an option for that (`retain`)"
            }
            Subscription { start: Start::At(_), .. } if !self.start.time => {
                "cannot start a group that is new at a point in time; start at the latest, or have the transport keep \
                 messages where it has an option for that (`retain`)"
            }
            _ => return Ok(()),
        };
        let text = format!("the {system} transport, as it is configured, {missing}");
        Err(TransportError::new(TransportErrorKind::Unsupported, text))
    }
}

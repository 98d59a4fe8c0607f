//! What came in, and the duty to settle it.

use std::fmt::{self, Debug};
use std::sync::Arc;

use bytes::Bytes;

use crate::envelope::{Envelope, NativeHeaders};
use crate::text::Text;
use crate::topic::Topic;

/// What a transport knows a delivery by; only the transport that made it reads it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Token {
    /// Which message: an offset, a tag, a slot.
    pub id: u64,
    /// Which connection, claim or generation it belongs to, so that a settlement that comes too late can be told.
    pub epoch: u64,
}

/// Where settlements go: implemented by a transport's subscription, called by [`Delivery`].
///
/// Both calls hand over and return at once; the transport tells the broker in batches of its own making.
pub trait Settle: Send + Sync + Debug {
    /// The broker can forget these messages: they were handled, or a copy of each is confirmed. Empties `tokens`.
    ///
    /// A token whose lease is lost is counted and otherwise ignored: its message comes again.
    fn done(&self, tokens: &mut Vec<Token>);

    /// The message goes back, to come again at its old place in the order; that is no failure and costs no attempt.
    fn returned(&self, token: Token, message: Incoming);
}

/// A message as it came in.
#[derive(Debug, Clone)]
pub enum Incoming {
    /// An envelope.
    Envelope(Envelope),
    /// Bytes that are none.
    Malformed(Box<Malformed>),
}

/// Bytes that could not be read as an envelope, with everything that came with them.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Malformed {
    /// The destination that they came from.
    pub topic: Topic,
    /// The bytes, untouched.
    pub payload: Option<Bytes>,
    /// The headers, untouched.
    pub native: NativeHeaders,
    /// The broker's own key, where there was one.
    pub key: Option<Text>,
    /// Why they could not be read.
    pub error: String,
}

impl Malformed {
    /// Bytes that came from `topic` and could not be read because of `error`.
    pub fn new(
        topic: Topic,
        payload: Option<Bytes>,
        native: NativeHeaders,
        error: impl Into<String>,
    ) -> Self {
        Self { topic, payload, native, key: None, error: error.into() }
    }
}

impl Incoming {
    /// The envelope, where it is one.
    #[must_use]
    pub fn envelope(&self) -> Option<&Envelope> {
        match self {
            Self::Envelope(envelope) => Some(envelope),
            Self::Malformed(_) => None,
        }
    }

    /// The ordering key.
    #[must_use]
    pub fn key(&self) -> Option<&str> {
        match self {
            Self::Envelope(envelope) => envelope.key(),
            Self::Malformed(malformed) => malformed.key.as_deref(),
        }
    }

    /// The topic that it was published to.
    #[must_use]
    pub fn topic(&self) -> &Topic {
        match self {
            Self::Envelope(envelope) => envelope.topic(),
            Self::Malformed(malformed) => &malformed.topic,
        }
    }
}

/// A message and the duty to settle it: [`Delivery::ack`] once it is handled, or dropped to give it back.
#[must_use = "a delivery that is dropped goes back to the broker; `ack` it when it is handled"]
pub struct Delivery {
    inner: Option<(Incoming, Token)>,
    settler: Arc<dyn Settle>,
    count: u32,
    position: Option<Position>,
}

/// Where a broker has a message.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Position {
    /// A number in one order.
    Number(u64),
    /// A number in one of several orders; `log/offset` in words.
    Offset {
        /// Which order: `topic/partition`, the name of a shard.
        log: Text,
        /// The place in it.
        offset: u64,
    },
    /// Anything else, as the broker writes it.
    Text(Text),
}

impl From<u64> for Position {
    fn from(number: u64) -> Self {
        Self::Number(number)
    }
}

impl From<String> for Position {
    fn from(text: String) -> Self {
        Self::Text(text.into())
    }
}

impl From<Text> for Position {
    fn from(text: Text) -> Self {
        Self::Text(text)
    }
}

impl fmt::Display for Position {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Number(number) => write!(f, "{number}"),
            Self::Offset { log, offset } => write!(f, "{log}/{offset}"),
            Self::Text(text) => f.pad(text),
        }
    }
}

impl Delivery {
    /// A delivery of `message`, known to `settler` as `token`.
    pub fn new(message: Incoming, token: Token, settler: Arc<dyn Settle>) -> Self {
        Self { inner: Some((message, token)), settler, count: 1, position: None }
    }

    /// The same, told how often the message has been started, this time included; 1 where the broker cannot tell.
    pub fn with_count(mut self, count: u32) -> Self {
        self.count = count;
        self
    }

    /// The same, told where the broker has it.
    pub fn with_position(mut self, position: impl Into<Position>) -> Self {
        self.position = Some(position.into());
        self
    }

    /// The message.
    ///
    /// # Panics
    /// Never: only the consuming methods empty a delivery.
    #[must_use]
    pub fn message(&self) -> &Incoming {
        match &self.inner {
            Some((message, _)) => message,
            None => unreachable!("only the consuming methods empty a delivery"),
        }
    }

    /// How often the broker has handed it out, this time included: the crash bound, never the policy's attempts.
    #[must_use]
    pub fn count(&self) -> u32 {
        self.count
    }

    /// Where the broker has it, where it tells.
    #[must_use]
    pub fn position(&self) -> Option<&Position> {
        self.position.as_ref()
    }

    /// Settles it: the broker may forget the message.
    pub fn ack(mut self) {
        if let Some((_, token)) = self.inner.take() {
            self.settler.done(&mut vec![token]);
        }
    }

    /// Settles it together with others: the hand-over to the transport happens once for all that `acks` holds.
    pub fn ack_into(mut self, acks: &mut Acks) {
        self.settle_into(acks);
    }

    /// As [`Delivery::ack_into`], of one that is dropped later; it must not be looked at any more.
    pub(crate) fn settle_into(&mut self, acks: &mut Acks) {
        if let Some((_, token)) = self.inner.take() {
            acks.push(&self.settler, token);
        }
    }

    /// Gives it back: it comes again, at its old place where the transport keeps one. The same as dropping it.
    pub fn give_back(self) {
        drop(self);
    }
}

impl Drop for Delivery {
    fn drop(&mut self) {
        if let Some((message, token)) = self.inner.take() {
            self.settler.returned(token, message);
        }
    }
}

impl Debug for Delivery {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Delivery")
            .field("message", &self.inner.as_ref().map(|(message, _)| message))
            .field("count", &self.count)
            .finish_non_exhaustive()
    }
}

/// Settlements on their way to the transport, handed over in one call; dropping it hands them over too.
#[derive(Debug, Default)]
pub struct Acks {
    settler: Option<Arc<dyn Settle>>,
    tokens: Vec<Token>,
}

impl Acks {
    /// No settlements.
    #[must_use]
    pub const fn new() -> Self {
        Self { settler: None, tokens: Vec::new() }
    }

    fn push(&mut self, settler: &Arc<dyn Settle>, token: Token) {
        match &self.settler {
            Some(known) if Arc::ptr_eq(known, settler) => {}
            _ => {
                self.hand_over();
                self.settler = Some(settler.clone());
            }
        }
        self.tokens.push(token);
    }

    /// How many wait.
    #[must_use]
    pub fn len(&self) -> usize {
        self.tokens.len()
    }

    /// Whether none waits.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.tokens.is_empty()
    }

    /// Hands them over to the transport.
    pub fn hand_over(&mut self) {
        if !self.tokens.is_empty()
            && let Some(settler) = &self.settler
        {
            settler.done(&mut self.tokens);
            self.tokens.clear();
        }
    }
}

impl Drop for Acks {
    fn drop(&mut self) {
        self.hand_over();
    }
}

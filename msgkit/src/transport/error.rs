//! What can go wrong with a broker.

use std::fmt;
use std::time::Duration;

use super::destination::Outgoing;
use crate::error::BoxError;

/// What kind of failure it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum TransportErrorKind {
    /// The broker cannot be reached now.
    Unavailable,
    /// The broker did not answer in time.
    Timeout,
    /// A queue is full; a consumer has to catch up first.
    Full,
    /// The transport, or this side of it, has been closed.
    Closed,
    /// The broker refuses it for good: credentials, permissions.
    Refused,
    /// The message or the request is not legal there: too large, a name that it cannot have, an unknown option.
    Invalid,
    /// The transport cannot do it, and says so in its capabilities.
    Unsupported,
    /// Nobody consumes the message, and the transport is configured to refuse that.
    Unrouted,
    /// The broker, or this crate, broke its own rules.
    Internal,
}

impl TransportErrorKind {
    /// Whether the same call may succeed later without a change.
    #[must_use]
    pub const fn is_temporary(self) -> bool {
        matches!(self, Self::Unavailable | Self::Timeout | Self::Full)
    }
}

/// Why a transport could not do something; the text names the thing and the fix, the source holds the broker's words.
///
/// Its `Debug` is readable, with its causes, because that is what `main` prints of an error.
pub struct TransportError {
    kind: TransportErrorKind,
    context: Box<str>,
    source: Option<BoxError>,
}

impl TransportError {
    /// An error of `kind` that says `context`.
    pub fn new(kind: TransportErrorKind, context: impl Into<String>) -> Self {
        Self { kind, context: context.into().into_boxed_str(), source: None }
    }

    /// The same error with what caused it.
    #[must_use]
    pub fn with_source(mut self, source: impl Into<BoxError>) -> Self {
        self.source = Some(source.into());
        self
    }

    /// The error of every call after `close`.
    #[must_use]
    pub fn closed(system: &str) -> Self {
        Self::new(TransportErrorKind::Closed, format!("the {system} transport has been closed"))
    }

    /// The error of a publisher that waited `waited` in front of the full queue of `group`.
    #[must_use]
    pub fn full(group: &str, capacity: usize, waited: Duration) -> Self {
        Self::new(
            TransportErrorKind::Full,
            format!(
                "the queue of group `{group}` has held its {capacity} messages for {waited:?}; its handler is slower than \
                 what is published: raise its concurrency, or the queue's capacity"
            ),
        )
    }

    /// What kind of failure it is.
    #[must_use]
    pub fn kind(&self) -> TransportErrorKind {
        self.kind
    }

    /// Whether the same call may succeed later without a change.
    #[must_use]
    pub fn is_temporary(&self) -> bool {
        self.kind.is_temporary()
    }
}

impl fmt::Display for TransportError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.context)
    }
}

impl fmt::Debug for TransportError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&crate::Chain(self), f)
    }
}

impl std::error::Error for TransportError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.source.as_deref().map(|source| source as _)
    }
}

impl From<TransportError> for crate::Error {
    fn from(error: TransportError) -> Self {
        let temporary = error.is_temporary();
        let outer = Self::new(crate::ErrorKind::Transport, error.context.clone());
        let outer = match error.source {
            Some(source) => outer.with_source(source),
            None => outer,
        };
        if temporary { outer.temporary() } else { outer }
    }
}

/// One message that a broker did not take, and why.
#[derive(Debug)]
pub struct Rejected {
    /// The message, to be published again.
    pub message: Outgoing,
    /// Why it was not taken, or why that is unknown.
    pub error: TransportError,
}

/// Names, and gives back, every message of a batch that a broker did not take; all others it has.
#[derive(Debug)]
pub struct PublishError {
    rejected: Vec<Rejected>,
}

impl PublishError {
    /// The error of `rejected` messages.
    #[must_use]
    pub fn new(rejected: Vec<Rejected>) -> Self {
        debug_assert!(!rejected.is_empty(), "an error names at least one message");
        Self { rejected }
    }

    /// The error of a whole batch that failed for one reason.
    pub fn all(batch: Vec<Outgoing>, error: impl Fn() -> TransportError) -> Self {
        Self::new(batch.into_iter().map(|message| Rejected { message, error: error() }).collect())
    }

    /// The messages that were not taken.
    #[must_use]
    pub fn rejected(&self) -> &[Rejected] {
        &self.rejected
    }

    /// The messages that were not taken, to publish again.
    #[must_use]
    pub fn into_rejected(self) -> Vec<Rejected> {
        self.rejected
    }

    /// The kind of the first message's error; a permanent one comes before the temporary ones.
    #[must_use]
    pub fn kind(&self) -> TransportErrorKind {
        self.first().map_or(TransportErrorKind::Internal, TransportError::kind)
    }

    /// Whether every message may be taken later without a change.
    #[must_use]
    pub fn is_temporary(&self) -> bool {
        self.rejected.iter().all(|rejected| rejected.error.is_temporary())
    }

    fn first(&self) -> Option<&TransportError> {
        let errors = || self.rejected.iter().map(|rejected| &rejected.error);
        errors().find(|error| !error.is_temporary()).or_else(|| errors().next())
    }
}

impl fmt::Display for PublishError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.rejected.as_slice() {
            [one] => write!(f, "message {} was not taken by `{}`", one.message.envelope.id(), one.message.to),
            many => {
                write!(f, "{} messages were not taken", many.len())?;
                if let Some(one) = many.first() {
                    write!(f, ", the first of them {} by `{}`", one.message.envelope.id(), one.message.to)?;
                }
                Ok(())
            }
        }
    }
}

impl std::error::Error for PublishError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.first().map(|error| error as _)
    }
}

//! What can go wrong with a broker of a test.

use std::fmt;
use std::io;
use std::path::Path;
use std::sync::Arc;

use crate::conformance::NotRun;

/// Why there is no broker, or why it did not do what the test asked for.
#[derive(Debug, Clone)]
pub struct BrokerError {
    broker: &'static str,
    kind: BrokerErrorKind,
    message: String,
    source: Option<Arc<io::Error>>,
}

/// What kind of [`BrokerError`] it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum BrokerErrorKind {
    /// It is not installed.
    Missing,
    /// It did not come up, or does not end.
    NotReady,
    /// It was running before the test, so the test may not stop it or change its settings.
    NotOurs,
    /// It, or the operating system, refused what was asked for.
    Refused,
}

impl BrokerError {
    pub(super) fn new(broker: &'static str, kind: BrokerErrorKind, message: impl Into<String>) -> Self {
        Self { broker, kind, message: message.into(), source: None }
    }

    pub(super) fn missing(broker: &'static str, program: &Path) -> Self {
        Self::new(
            broker,
            BrokerErrorKind::Missing,
            format!("`{}` is not installed; `make brokers` installs it (Debian)", program.display()),
        )
    }

    pub(super) fn io(broker: &'static str, doing: impl Into<String>, source: io::Error) -> Self {
        Self { source: Some(Arc::new(source)), ..Self::new(broker, BrokerErrorKind::Refused, doing) }
    }

    pub(super) fn not_ready(broker: &'static str, message: String, source: Option<io::Error>) -> Self {
        Self { source: source.map(Arc::new), ..Self::new(broker, BrokerErrorKind::NotReady, message) }
    }

    pub(super) fn not_ours(broker: &'static str, variable: &str) -> Self {
        Self::new(
            broker,
            BrokerErrorKind::NotOurs,
            format!("it is the one that {variable} names, so a test cannot stop it; unset the variable"),
        )
    }

    /// What kind of error it is.
    #[must_use]
    pub fn kind(&self) -> BrokerErrorKind {
        self.kind
    }
}

impl fmt::Display for BrokerError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.broker, self.message)
    }
}

impl std::error::Error for BrokerError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.source.as_ref().map(|source| &**source as &(dyn std::error::Error + 'static))
    }
}

impl From<BrokerError> for NotRun {
    fn from(error: BrokerError) -> Self {
        match &error.source {
            Some(source) => Self(format!("{error}: {source}")),
            None => Self(error.to_string()),
        }
    }
}

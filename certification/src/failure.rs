//! Why a run could not be brought to its end.

use std::fmt;

use msgkit::transport::TransportError;
use msgkit_testing::brokers::{BrokerError, BrokerErrorKind};

/// Why there is no ledger. A ledger that shows a loss is none of these.
#[derive(Debug, Clone)]
pub struct Failure {
    kind: FailureKind,
    message: String,
}

/// What kind of [`Failure`] it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum FailureKind {
    /// There is no broker to run on, or it may not be stopped.
    NotRun,
    /// The broker cannot have this fault.
    Impossible,
    /// Something did not do what it must: a member did not start, a publisher was refused for good.
    Broken,
}

impl Failure {
    /// Something did not do what it must.
    pub fn broken(message: impl Into<String>) -> Self {
        Self { kind: FailureKind::Broken, message: message.into() }
    }

    /// The broker cannot have this fault.
    pub fn impossible(why: impl Into<String>) -> Self {
        Self { kind: FailureKind::Impossible, message: why.into() }
    }

    /// The same, said to have been at `place`.
    #[must_use]
    pub fn at(self, place: &str) -> Self {
        Self { message: format!("{place}: {}", self.message), ..self }
    }

    /// What kind it is.
    #[must_use]
    pub fn kind(&self) -> FailureKind {
        self.kind
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for Failure {}

impl From<BrokerError> for Failure {
    fn from(error: BrokerError) -> Self {
        let kind = match error.kind() {
            BrokerErrorKind::Missing | BrokerErrorKind::NotOurs => FailureKind::NotRun,
            _ => FailureKind::Broken,
        };
        Self { kind, message: msgkit::Chain(&error).to_string() }
    }
}

impl From<msgkit::Error> for Failure {
    fn from(error: msgkit::Error) -> Self {
        Self::broken(msgkit::Chain(&error).to_string())
    }
}

impl From<TransportError> for Failure {
    fn from(error: TransportError) -> Self {
        Self::broken(msgkit::Chain(&error).to_string())
    }
}

impl From<std::io::Error> for Failure {
    fn from(error: std::io::Error) -> Self {
        Self::broken(error.to_string())
    }
}

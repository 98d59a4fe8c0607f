//! What MQTT's errors mean to a user, and what to do about each.

use std::fmt;
use std::sync::Arc;

use msgkit::transport::{TransportError, TransportErrorKind};

/// Why a connection ended, which everybody who waits for it is told.
#[derive(Debug, Clone)]
pub(crate) struct Failure {
    kind: TransportErrorKind,
    context: Arc<str>,
    source: Option<Cause>,
}

/// The client's words, shared.
#[derive(Debug, Clone)]
struct Cause(Arc<dyn std::error::Error + Send + Sync>);

impl fmt::Display for Cause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl std::error::Error for Cause {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.0.source()
    }
}

impl Failure {
    pub(crate) fn new(kind: TransportErrorKind, context: impl Into<Arc<str>>) -> Self {
        Self { kind, context: context.into(), source: None }
    }

    pub(crate) fn with_source(mut self, source: impl std::error::Error + Send + Sync + 'static) -> Self {
        self.source = Some(Cause(Arc::new(source)));
        self
    }

    pub(crate) fn is_temporary(&self) -> bool {
        self.kind.is_temporary()
    }

    /// As one caller gets it.
    pub(crate) fn to_error(&self) -> TransportError {
        let error = TransportError::new(self.kind, &*self.context);
        match &self.source {
            Some(cause) => error.with_source(cause.clone()),
            None => error,
        }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.context)
    }
}

impl std::error::Error for Failure {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.source.as_ref().map(|cause| cause as _)
    }
}

/// The broker does not answer in time.
pub(crate) fn no_answer(broker: &str, what: &str) -> TransportError {
    TransportError::new(
        TransportErrorKind::Timeout,
        format!(
            "the broker at {broker} did not answer {what} in time; is it an MQTT broker, and is it alive?"
        ),
    )
}

//! What a handler may answer when it did not succeed.

use std::fmt;
use std::time::Duration;

use crate::error::{BoxError, Chain};
use crate::text::Text;

/// What is to become of the message.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Disposition {
    /// The policy decides: immediate retries, delayed retries, dead letter.
    Retry,
    /// Not before this much time has passed, as a delayed retry, within the policy's attempts.
    RetryAfter(Duration),
    /// Trying again is useless: dead letter at once.
    Permanent,
    /// Nobody needs it: settled, counted, and the reason logged.
    Discard(Text),
}

/// An error of a handler: any error at all, and what it means for the message.
///
/// Every `std::error::Error`, boxed error, `anyhow::Error` and string converts by `?` and means "retry as the policy
/// says". It is no `std::error::Error` itself, as that would forbid the conversion; see [`HandlerError::into_boxed`].
pub struct HandlerError {
    disposition: Disposition,
    error: BoxError,
}

impl HandlerError {
    /// Retried as the policy says.
    pub fn retry(error: impl Into<BoxError>) -> Self {
        Self { disposition: Disposition::Retry, error: error.into() }
    }

    /// Retried, but not before `after` has passed.
    pub fn retry_after(error: impl Into<BoxError>, after: Duration) -> Self {
        Self { disposition: Disposition::RetryAfter(after), error: error.into() }
    }

    /// Dead-lettered at once: trying again is useless.
    pub fn permanent(error: impl Into<BoxError>) -> Self {
        Self { disposition: Disposition::Permanent, error: error.into() }
    }

    /// Settled without having been handled, because nobody needs it; counted and logged under `reason`.
    pub fn discard(reason: impl Into<Text>) -> Self {
        let reason = reason.into();
        Self { error: reason.as_str().to_owned().into(), disposition: Disposition::Discard(reason) }
    }

    pub(super) fn with(disposition: Disposition, error: String) -> Self {
        Self { disposition, error: error.into() }
    }

    /// What is to become of the message.
    #[must_use]
    pub fn disposition(&self) -> &Disposition {
        &self.disposition
    }

    /// The error as the standard library knows it; converting it back gives the same disposition.
    #[must_use]
    pub fn into_boxed(self) -> BoxError {
        match self.disposition {
            Disposition::Retry => self.error,
            _ => Box::new(Carried(self)),
        }
    }
}

/// A handler's error on its way through code that knows only boxed errors (`tower` layers).
struct Carried(HandlerError);

impl fmt::Debug for Carried {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl fmt::Display for Carried {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.error.fmt(f)
    }
}

impl std::error::Error for Carried {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.0.error.source()
    }
}

impl<E: Into<BoxError>> From<E> for HandlerError {
    fn from(error: E) -> Self {
        let error: BoxError = error.into();
        match error.downcast::<Carried>() {
            Ok(carried) => carried.0,
            Err(error) => Self { disposition: Disposition::Retry, error },
        }
    }
}

impl fmt::Display for HandlerError {
    /// The error and its causes on one line.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        Chain(&*self.error).fmt(f)
    }
}

impl fmt::Debug for HandlerError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "HandlerError({:?}, {})", self.disposition, Chain(&*self.error))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn any_error_converts_and_means_retry() {
        fn io() -> Result<(), HandlerError> {
            Err(std::io::Error::other("disk"))?;
            Ok(())
        }
        fn any() -> Result<(), HandlerError> {
            Err(anyhow::anyhow!("inner").context("outer"))?;
            Ok(())
        }
        fn text() -> Result<(), HandlerError> {
            Err("plain")?;
            Ok(())
        }
        assert_eq!(io().unwrap_err().disposition(), &Disposition::Retry);
        assert_eq!(any().unwrap_err().to_string(), "outer: inner");
        assert_eq!(text().unwrap_err().to_string(), "plain");
    }

    #[test]
    fn dispositions_survive_boxing() {
        for error in [
            HandlerError::permanent("p"),
            HandlerError::retry_after("r", Duration::from_secs(3)),
            HandlerError::discard("d"),
            HandlerError::retry("x"),
        ] {
            let before = (error.disposition().clone(), error.to_string());
            let after = HandlerError::from(error.into_boxed());
            assert_eq!((after.disposition().clone(), after.to_string()), before);
        }
    }
}

//! What the service says when it refuses, as errors of this framework.

use std::error::Error as StdError;

use aws_sdk_kinesis::error::{ProvideErrorMetadata, SdkError};
use msgkit::transport::{TransportError, TransportErrorKind};

pub(crate) const SYSTEM: &str = "kinesis";

pub(crate) fn closed() -> TransportError {
    TransportError::closed(SYSTEM)
}

pub(crate) fn invalid(text: impl Into<String>) -> TransportError {
    TransportError::new(TransportErrorKind::Invalid, text)
}

/// What a failed call means for the caller.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Cause {
    /// Too much at once: the same call later.
    Throttled,
    /// The stream or shard is not there.
    NotFound,
    /// It is being made, or changed, already.
    InUse,
    /// The iterator is older than five minutes.
    Expired,
    /// The call itself is wrong: a place that the stream does not have, a record that is more than it takes.
    Argument,
    /// Anything else.
    Other,
}

/// A call that failed.
#[derive(Debug)]
pub(crate) struct Failure {
    pub(crate) cause: Cause,
    pub(crate) error: TransportError,
}

impl From<Failure> for TransportError {
    fn from(failure: Failure) -> Self {
        failure.error
    }
}

/// What a code of the service, in an error or in one entry of `PutRecords`, means.
pub(crate) fn meaning(code: &str) -> (Cause, TransportErrorKind, &'static str) {
    use TransportErrorKind::{Invalid, Refused, Unavailable};
    match code {
        "ProvisionedThroughputExceededException"
        | "LimitExceededException"
        | "ThrottlingException"
        | "KMSThrottlingException"
        | "Throttling"
        | "TooManyRequestsException" => (
            Cause::Throttled,
            Unavailable,
            "; it is more than the shards take: add shards, or make the stream on-demand",
        ),
        "ResourceNotFoundException" => {
            (Cause::NotFound, Invalid, "; create the stream, or set `create = true`, and look at the region")
        }
        "ResourceInUseException" => (Cause::InUse, Unavailable, ""),
        "ExpiredIteratorException" => (Cause::Expired, Unavailable, ""),
        "InternalFailure"
        | "InternalServerError"
        | "InternalFailureException"
        | "ServiceUnavailable"
        | "ServiceUnavailableException"
        | "RequestTimeout"
        | "RequestTimeoutException" => (Cause::Other, Unavailable, ""),
        "AccessDeniedException" | "KMSAccessDeniedException" | "OptInRequired" => {
            (Cause::Other, Refused, "; look at what the role of these credentials may do with this stream")
        }
        "UnrecognizedClientException"
        | "InvalidSignatureException"
        | "IncompleteSignature"
        | "InvalidClientTokenId"
        | "MissingAuthenticationToken"
        | "MissingAuthenticationTokenException"
        | "SignatureDoesNotMatch"
        | "NotAuthorized"
        | "ExpiredTokenException" => {
            (Cause::Other, Refused, "; look at the credentials, and at the clock of this machine")
        }
        "InvalidArgumentException" | "ValidationException" | "SerializationException" => {
            (Cause::Argument, Invalid, "")
        }
        // An answer with a status of 5xx and no code of ours is the service's own trouble.
        _ => (Cause::Other, Unavailable, ""),
    }
}

/// What a failed call means, and what to look at.
pub(crate) fn classify<E: ProvideErrorMetadata, R>(
    error: &SdkError<E, R>,
) -> (Cause, TransportErrorKind, &'static str) {
    match error {
        SdkError::TimeoutError(_) => (Cause::Other, TransportErrorKind::Timeout, "; no answer in time"),
        SdkError::DispatchFailure(failure) if failure.is_timeout() => {
            (Cause::Other, TransportErrorKind::Timeout, "; no answer in time")
        }
        SdkError::DispatchFailure(failure) if failure.is_io() => (
            Cause::Other,
            TransportErrorKind::Unavailable,
            "; nobody answers there: look at the region, and at `endpoint`",
        ),
        SdkError::DispatchFailure(_) => (
            Cause::Other,
            TransportErrorKind::Unavailable,
            "; the request could not be made: look at the credentials, the region and `endpoint`",
        ),
        SdkError::ResponseError(_) => (Cause::Other, TransportErrorKind::Unavailable, ""),
        SdkError::ConstructionFailure(_) => (Cause::Other, TransportErrorKind::Internal, ""),
        _ => meaning(error.code().unwrap_or_default()),
    }
}

/// A failed call as an error; `doing` says what was tried.
pub(crate) fn of<E, R>(error: SdkError<E, R>, doing: &str) -> Failure
where
    E: ProvideErrorMetadata + StdError + Send + Sync + 'static,
    R: std::fmt::Debug + Send + Sync + 'static,
{
    let (cause, kind, hint) = classify(&error);
    Failure { cause, error: TransportError::new(kind, format!("{doing} failed{hint}")).with_source(error) }
}

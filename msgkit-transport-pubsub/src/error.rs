//! What the service's errors mean to a user, and what to do about each.

use std::error::Error as _;

use google_cloud_gax::error::CredentialsError;
use google_cloud_gax::error::rpc::Code;
use google_cloud_pubsub::Error;
use msgkit::transport::{TransportError, TransportErrorKind};

/// What the transport calls itself.
pub(crate) const SYSTEM: &str = "pubsub";

/// The error of every call after `close`.
pub(crate) fn closed() -> TransportError {
    TransportError::closed(SYSTEM)
}

pub(crate) fn invalid(text: impl Into<String>) -> TransportError {
    TransportError::new(TransportErrorKind::Invalid, text)
}

/// The code that the service answered with, by gRPC or HTTP.
pub(crate) fn code(error: &Error) -> Option<Code> {
    if let Some(status) = error.status() {
        return Some(status.code);
    }
    // What gives up after several tries holds the last error.
    if let Some(inner) = error.source().and_then(|source| source.downcast_ref::<Error>())
        && let Some(code) = code(inner)
    {
        return Some(code);
    }
    match error.http_status_code()? {
        401 => Some(Code::Unauthenticated),
        403 => Some(Code::PermissionDenied),
        404 => Some(Code::NotFound),
        409 => Some(Code::AlreadyExists),
        429 => Some(Code::ResourceExhausted),
        _ => None,
    }
}

/// What is wrong with the credentials, where that is among the causes.
fn credentials(error: &Error) -> Option<&CredentialsError> {
    let mut cause: Option<&(dyn std::error::Error + 'static)> = Some(error);
    while let Some(error) = cause {
        if let Some(found) = error.downcast_ref() {
            return Some(found);
        }
        cause = error.source();
    }
    None
}

/// The kind of an error, and what to do about it.
pub(crate) fn classify(error: &Error) -> (TransportErrorKind, &'static str) {
    use TransportErrorKind::{Invalid, Refused, Timeout, Unavailable};
    match code(error) {
        Some(Code::NotFound) => {
            (Unavailable, "; it is not there: look at the project in the url, or set `create = true`")
        }
        Some(Code::PermissionDenied) => {
            (Refused, "; look at what the account of these credentials may do in the project")
        }
        Some(Code::Unauthenticated) => (Refused, "; look at the credentials"),
        Some(Code::InvalidArgument | Code::OutOfRange | Code::Unimplemented) => (Invalid, ""),
        Some(Code::FailedPrecondition) => {
            (Invalid, "; it is there with other properties, or cannot be used so in its state")
        }
        Some(Code::ResourceExhausted) => {
            (Unavailable, "; a quota of the project is used up: slow down, or have it raised")
        }
        Some(Code::DeadlineExceeded) => (Timeout, "; no answer in time"),
        Some(_) => (Unavailable, ""),
        None if credentials(error).is_some() => (
            // Whoever gives them out may be away for now.
            if credentials(error).is_some_and(CredentialsError::is_transient) {
                Unavailable
            } else {
                Refused
            },
            "; look at the credentials: GOOGLE_APPLICATION_CREDENTIALS, `credentials_file`, or what \
             `gcloud auth application-default login` left",
        ),
        None if error.is_timeout() => (Timeout, "; no answer in time"),
        None if error.is_binding() || error.is_serialization() || error.is_deserialization() => {
            (TransportErrorKind::Internal, "")
        }
        None => (Unavailable, "; look at the network, at `endpoint`, and at PUBSUB_EMULATOR_HOST"),
    }
}

/// What went wrong while `doing` something (`creating topic t`).
pub(crate) fn of(error: Error, doing: &str) -> TransportError {
    let (kind, hint) = classify(&error);
    TransportError::new(kind, format!("{doing} failed{hint}")).with_source(error)
}

#[cfg(test)]
mod tests {
    use google_cloud_gax::error::rpc::Status;

    use super::*;

    fn service(code: Code) -> Error {
        Error::service(Status::default().set_code(code).set_message("said"))
    }

    #[test]
    fn what_a_retry_cannot_mend_is_permanent() {
        for (code, kind) in [
            (Code::PermissionDenied, TransportErrorKind::Refused),
            (Code::Unauthenticated, TransportErrorKind::Refused),
            (Code::InvalidArgument, TransportErrorKind::Invalid),
            (Code::ResourceExhausted, TransportErrorKind::Unavailable),
            (Code::Unavailable, TransportErrorKind::Unavailable),
        ] {
            assert_eq!(of(service(code), "trying").kind(), kind, "{code:?}");
        }
    }

    #[test]
    fn credentials_are_named_however_deep_they_lie() {
        for (transient, kind) in
            [(true, TransportErrorKind::Unavailable), (false, TransportErrorKind::Refused)]
        {
            let none = || Error::authentication(CredentialsError::from_msg(transient, "none"));
            for error in [none(), Error::exhausted(none())] {
                let told = of(error, "creating topic `t`");
                assert_eq!(told.kind(), kind);
                assert!(told.to_string().contains("GOOGLE_APPLICATION_CREDENTIALS"), "{told}");
            }
        }
    }

    #[test]
    fn the_last_of_several_tries_is_found() {
        let error = Error::exhausted(service(Code::PermissionDenied));
        assert_eq!(code(&error), Some(Code::PermissionDenied));
        assert!(of(error, "trying").to_string().contains("may do"));
    }
}

//! What the broker's errors mean to a user, and what to do about each.

use std::error::Error;
use std::fmt;
use std::sync::Arc;

use lapin::protocol::{AMQPErrorKind, AMQPHardError, AMQPSoftError};
use msgkit::transport::{TransportError, TransportErrorKind};

/// What the transport calls itself.
pub(crate) const SYSTEM: &str = "amqp";

/// The error of every call after `close`.
pub(crate) fn closed() -> TransportError {
    TransportError::closed(SYSTEM)
}

/// What went wrong while `doing` something (`declaring queue q`).
pub(crate) fn of(error: lapin::Error, doing: &str) -> TransportError {
    let (kind, hint) = classify(&error);
    let hint = if hint.is_empty() { String::new() } else { format!("; {hint}") };
    TransportError::new(kind, format!("{doing} failed{hint}")).with_source(error)
}

/// The same error again, for each who waited for one attempt.
pub(crate) fn same(error: &Arc<TransportError>) -> TransportError {
    let same = TransportError::new(error.kind(), error.to_string());
    if error.source().is_some() { same.with_source(Cause(error.clone())) } else { same }
}

/// The cause of an error that several have.
#[derive(Debug)]
struct Cause(Arc<TransportError>);

impl fmt::Display for Cause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.source().map_or(Ok(()), |cause| fmt::Display::fmt(cause, f))
    }
}

impl Error for Cause {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        self.0.source()?.source()
    }
}

/// Whether the broker has said that there is no such thing.
pub(crate) fn is_missing(error: &lapin::Error) -> bool {
    matches!(error.kind(), lapin::ErrorKind::ProtocolError(said)
        if *said.kind() == AMQPErrorKind::Soft(AMQPSoftError::NOTFOUND))
}

/// The same, of an error that was made of it.
pub(crate) fn says_missing(error: &TransportError) -> bool {
    error.source().and_then(|cause| cause.downcast_ref::<lapin::Error>()).is_some_and(is_missing)
}

/// The kind of an error, and what to do about it.
pub(crate) fn classify(error: &lapin::Error) -> (TransportErrorKind, &'static str) {
    use TransportErrorKind::{Internal, Invalid, Refused, Unavailable};
    let lapin::ErrorKind::ProtocolError(said) = error.kind() else {
        return match error.kind() {
            lapin::ErrorKind::InvalidProtocolVersion(_) => {
                (Refused, "the server speaks no AMQP 0-9-1; look at host and port")
            }
            lapin::ErrorKind::ChannelsLimitReached => {
                (Unavailable, "the connection has no free channel; raise the broker's `channel_max`")
            }
            lapin::ErrorKind::SerialisationError(_) | lapin::ErrorKind::NoDefaultRuntime => (Internal, ""),
            lapin::ErrorKind::IOError(io) => of_io(io),
            _ => (Unavailable, ""),
        };
    };
    match said.kind() {
        AMQPErrorKind::Soft(AMQPSoftError::ACCESSREFUSED) => {
            (Refused, "look at user and password in the url, and at the user's permissions in the vhost")
        }
        AMQPErrorKind::Soft(AMQPSoftError::PRECONDITIONFAILED) => (
            Refused,
            "it exists with other properties, made by another version or with other options: use the same options \
             everywhere, or delete it when it is empty",
        ),
        AMQPErrorKind::Soft(AMQPSoftError::NOTFOUND | AMQPSoftError::RESOURCELOCKED) => (Unavailable, ""),
        AMQPErrorKind::Soft(AMQPSoftError::CONTENTTOOLARGE) => {
            (Invalid, "the message is larger than the broker allows")
        }
        AMQPErrorKind::Soft(_) => (Unavailable, ""),
        AMQPErrorKind::Hard(AMQPHardError::NOTALLOWED) if !said.get_message().as_str().contains("down") => {
            (Refused, "look at the vhost in the url, and at the user's access to it")
        }
        AMQPErrorKind::Hard(AMQPHardError::NOTIMPLEMENTED) => (Refused, "the broker cannot do it"),
        AMQPErrorKind::Hard(_) => (Unavailable, ""),
    }
}

fn of_io(error: &std::io::Error) -> (TransportErrorKind, &'static str) {
    use TransportErrorKind::{Refused, Unavailable};
    let text = error.to_string();
    if text.contains("certificate") || text.contains("Certificate") {
        return (
            Refused,
            "look at the server's certificate, and at `ca_file` where it is signed by an authority of your own",
        );
    }
    // What rustls says of an answer that is none of TLS.
    if text.contains("InvalidContentType") {
        return (
            Refused,
            "that port speaks no TLS; `amqps:` is for a listener with TLS (5671 by default), `amqp:` for one without",
        );
    }
    match error.kind() {
        std::io::ErrorKind::ConnectionRefused => (Unavailable, "nobody listens there; look at host and port"),
        // Also what another kind of server does.
        std::io::ErrorKind::ConnectionAborted | std::io::ErrorKind::ConnectionReset => (
            Unavailable,
            "the server broke off; where it never does otherwise, look whether that port is RabbitMQ's",
        ),
        std::io::ErrorKind::InvalidInput => {
            (Refused, "look at the url and at the files of `ca_file`, `cert_file`, `key_file`")
        }
        _ => (Unavailable, ""),
    }
}

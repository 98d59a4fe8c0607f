//! What the file system's errors mean to a user, and what to do about each.

use std::io;
use std::path::Path;

use msgkit::transport::{TransportError, TransportErrorKind};

/// What went wrong at `path`. The kind decides whether the pipeline tries again, so be generous with temporary ones.
pub(crate) fn failed(path: &Path, error: io::Error) -> TransportError {
    let shown = path.display();
    let (kind, text) = match error.kind() {
        io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem => (
            TransportErrorKind::Refused,
            format!("`{shown}` cannot be written; let this user read and write the directory"),
        ),
        io::ErrorKind::NotADirectory | io::ErrorKind::AlreadyExists => {
            (TransportErrorKind::Refused, format!("`{shown}` is no directory; name another one"))
        }
        io::ErrorKind::InvalidData => (
            TransportErrorKind::Internal,
            format!("`{shown}` was not written by this transport; move it away"),
        ),
        io::ErrorKind::StorageFull => {
            (TransportErrorKind::Unavailable, format!("the disk of `{shown}` is full; make room"))
        }
        _ => (
            TransportErrorKind::Unavailable,
            format!("reading or writing `{shown}` failed; look at the disk"),
        ),
    };
    TransportError::new(kind, text).with_source(error)
}

/// The error of whatever needs something that is not there.
pub(crate) fn missing(text: String) -> TransportError {
    TransportError::new(TransportErrorKind::Invalid, text)
}

/// The error of every call after `close`.
pub(crate) fn closed() -> TransportError {
    TransportError::closed("files")
}

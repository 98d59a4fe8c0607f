//! What SQLite's errors mean to a user, and what to do about each.

use std::fmt;
use std::path::Path;
use std::sync::Arc;

use msgkit::transport::{TransportError, TransportErrorKind};

/// A failure of one commit, which everybody who had something in it is told of.
#[derive(Debug, Clone)]
pub(crate) struct Failure {
    kind: TransportErrorKind,
    context: Arc<str>,
    source: Option<Cause>,
}

/// The database's words, shared.
#[derive(Debug, Clone)]
struct Cause(Arc<sqlx::Error>);

impl fmt::Display for Cause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl std::error::Error for Cause {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        std::error::Error::source(&*self.0)
    }
}

impl Failure {
    pub(crate) fn new(kind: TransportErrorKind, context: impl Into<Arc<str>>) -> Self {
        Self { kind, context: context.into(), source: None }
    }

    /// What the database said about `file`, with the fix.
    pub(crate) fn of(file: &Path, error: sqlx::Error) -> Self {
        let shown = file.display();
        let (kind, text) = match primary_code(&error) {
            Some(BUSY | LOCKED) => (
                TransportErrorKind::Unavailable,
                format!(
                    "`{shown}` is locked by another process for longer than `busy_timeout`; look for one that holds a transaction open"
                ),
            ),
            Some(READ_ONLY) => (
                TransportErrorKind::Refused,
                format!("`{shown}` is read-only; let this user write to the file and its directory"),
            ),
            Some(FULL) => (
                TransportErrorKind::Unavailable,
                format!("the disk of `{shown}` is full, so nothing can be published or settled; make room"),
            ),
            Some(CANT_OPEN) => match file.parent().filter(|parent| !parent.as_os_str().is_empty()) {
                Some(parent) if !parent.exists() => (
                    TransportErrorKind::Refused,
                    format!("the directory of `{shown}` does not exist; create `{}`", parent.display()),
                ),
                _ if file.is_dir() => {
                    (TransportErrorKind::Refused, format!("`{shown}` is a directory; name a file in it"))
                }
                _ => (
                    TransportErrorKind::Refused,
                    format!(
                        "`{shown}` cannot be opened; let this user read and write the file and its directory"
                    ),
                ),
            },
            Some(NOT_A_DATABASE) => (
                TransportErrorKind::Refused,
                format!("`{shown}` is no SQLite database; name another file, or move this one away"),
            ),
            Some(CORRUPT) => (
                TransportErrorKind::Internal,
                format!(
                    "`{shown}` is damaged; stop all processes and recover it with `sqlite3 {shown} .recover`"
                ),
            ),
            Some(IO) => (
                TransportErrorKind::Unavailable,
                format!("reading or writing `{shown}` failed; look at the disk and the system's log"),
            ),
            _ => (TransportErrorKind::Internal, format!("SQLite refused an operation on `{shown}`")),
        };
        Self { kind, context: text.into(), source: Some(Cause(Arc::new(error))) }
    }

    /// A schema that this version does not know.
    pub(crate) fn newer_schema(file: &Path, found: i64, known: i64) -> Self {
        Self::new(
            TransportErrorKind::Refused,
            format!(
                "`{}` has schema version {found}, written by a newer msgkit; this one knows {known}: update it",
                file.display()
            ),
        )
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

// Primary result codes: https://sqlite.org/rescode.html
const BUSY: i32 = 5;
const LOCKED: i32 = 6;
const READ_ONLY: i32 = 8;
const IO: i32 = 10;
const CORRUPT: i32 = 11;
const FULL: i32 = 13;
const CANT_OPEN: i32 = 14;
const NOT_A_DATABASE: i32 = 26;

fn primary_code(error: &sqlx::Error) -> Option<i32> {
    let code = error.as_database_error()?.code()?;
    code.parse::<i32>().ok().map(|code| code & 0xff)
}

/// Whether another connection has the lock, so that trying again soon is all there is to do.
pub(crate) fn is_busy(error: &sqlx::Error) -> bool {
    matches!(primary_code(error), Some(BUSY | LOCKED))
}

/// Whether the connection is as good as before: the statement or its transaction failed, nothing else.
pub(crate) fn keeps_connection(error: &sqlx::Error) -> bool {
    matches!(primary_code(error), Some(BUSY | LOCKED | FULL | READ_ONLY))
}

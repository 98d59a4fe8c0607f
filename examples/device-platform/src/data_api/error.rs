//! What can go wrong in the store.

/// Something could not be stored or found.
#[derive(Debug, thiserror::Error)]
#[error("the store could not {doing}")]
pub struct StoreError {
    doing: &'static str,
    source: sqlx::Error,
}

impl StoreError {
    /// For `map_err`: `doing` completes "the store could not …".
    pub(super) fn to(doing: &'static str) -> impl Fn(sqlx::Error) -> Self + Copy {
        move |source| Self { doing, source }
    }

    /// Whether the same may succeed later: the file is busy, the disk is full, the connection is lost. Otherwise what is stored, or is
    /// to be stored, is not what this program expects.
    #[must_use]
    pub fn is_temporary(&self) -> bool {
        match &self.source {
            sqlx::Error::Io(_) | sqlx::Error::PoolTimedOut | sqlx::Error::WorkerCrashed => true,
            // SQLite's primary result codes are the low byte: BUSY, LOCKED, IOERR, FULL, CANTOPEN (sqlite.org/rescode.html).
            sqlx::Error::Database(e) => e
                .code()
                .and_then(|code| code.parse::<u32>().ok())
                .is_some_and(|code| matches!(code & 0xff, 5 | 6 | 10 | 13 | 14)),
            _ => false,
        }
    }
}

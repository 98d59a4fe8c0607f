//! Rows in a SQLite file: for the processes of one machine.

use std::fmt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use async_trait::async_trait;
use msgkit::transport::{TransportError, TransportErrorKind};
use sqlx::sqlite::{
    SqliteConnectOptions, SqliteJournalMode, SqlitePool, SqlitePoolOptions, SqliteSynchronous,
};
use tokio::sync::OnceCell;

use super::{Change, LeaseRow, LeaseStore};

const SCHEMA: &str = "CREATE TABLE IF NOT EXISTS msgkit_lease (space TEXT NOT NULL, key TEXT NOT NULL, \
                      version INTEGER NOT NULL, value TEXT NOT NULL, PRIMARY KEY (space, key)) STRICT, WITHOUT ROWID";

/// Leases in the table `msgkit_lease` of a SQLite file, which is made where it is not there.
pub struct SqliteLeases {
    file: PathBuf,
    pool: OnceCell<SqlitePool>,
}

impl SqliteLeases {
    /// The leases in `file`, which is opened at the first use.
    pub fn new(file: impl Into<PathBuf>) -> Self {
        Self { file: file.into(), pool: OnceCell::new() }
    }

    /// The file.
    #[must_use]
    pub fn file(&self) -> &Path {
        &self.file
    }

    async fn pool(&self) -> Result<&SqlitePool, TransportError> {
        self.pool
            .get_or_try_init(|| async {
                let options = SqliteConnectOptions::new()
                    .filename(&self.file)
                    .create_if_missing(true)
                    .journal_mode(SqliteJournalMode::Wal)
                    // A checkpoint that a power failure takes back is read again: a duplicate, no loss.
                    .synchronous(SqliteSynchronous::Normal)
                    .busy_timeout(Duration::from_secs(10));
                let pool = SqlitePoolOptions::new().max_connections(2).connect_with(options).await?;
                sqlx::raw_sql(SCHEMA).execute(&pool).await?;
                Ok(pool)
            })
            .await
            .map_err(|error| self.failed("opened", error))
    }

    fn failed(&self, doing: &str, error: sqlx::Error) -> TransportError {
        let text =
            format!("the leases in `{}` cannot be {doing}; look at the option `leases`", self.file.display());
        TransportError::new(TransportErrorKind::Unavailable, text).with_source(error)
    }
}

impl fmt::Debug for SqliteLeases {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("SqliteLeases").field(&self.file).finish()
    }
}

fn signed(version: u64) -> i64 {
    i64::try_from(version).unwrap_or(i64::MAX)
}

#[async_trait]
impl LeaseStore for SqliteLeases {
    fn is_durable(&self) -> bool {
        true
    }

    async fn load(&self, space: &str) -> Result<Vec<LeaseRow>, TransportError> {
        let rows: Vec<(String, i64, String)> =
            sqlx::query_as("SELECT key, version, value FROM msgkit_lease WHERE space = ? ORDER BY key")
                .bind(space)
                .fetch_all(self.pool().await?)
                .await
                .map_err(|error| self.failed("read", error))?;
        let row = |(key, version, value): (String, i64, String)| {
            LeaseRow::new(key, u64::try_from(version).unwrap_or_default(), value)
        };
        Ok(rows.into_iter().map(row).collect())
    }

    async fn swap(&self, space: &str, change: Change<'_>) -> Result<bool, TransportError> {
        let Change { key, expected, value } = change;
        let query = match (expected, value) {
            (0, Some(value)) => sqlx::query(
                "INSERT INTO msgkit_lease (space, key, version, value) VALUES (?, ?, 1, ?) ON CONFLICT DO NOTHING",
            )
            .bind(space)
            .bind(key)
            .bind(value),
            (0, None) => return Ok(true),
            (_, Some(value)) => sqlx::query(
                "UPDATE msgkit_lease SET version = version + 1, value = ? WHERE space = ? AND key = ? AND version = ?",
            )
            .bind(value)
            .bind(space)
            .bind(key)
            .bind(signed(expected)),
            (_, None) => sqlx::query("DELETE FROM msgkit_lease WHERE space = ? AND key = ? AND version = ?")
                .bind(space)
                .bind(key)
                .bind(signed(expected)),
        };
        let done = query.execute(self.pool().await?).await.map_err(|error| self.failed("written", error))?;
        Ok(done.rows_affected() == 1)
    }
}

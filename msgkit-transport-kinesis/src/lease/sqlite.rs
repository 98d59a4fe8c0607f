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
use crate::group::GROUP;

const SCHEMA: &str = "CREATE TABLE IF NOT EXISTS msgkit_lease (space TEXT NOT NULL, key TEXT NOT NULL, \
                      version INTEGER NOT NULL, value TEXT NOT NULL, PRIMARY KEY (space, key)) STRICT, WITHOUT ROWID";

/// Leases in the table `msgkit_lease` of a SQLite file, which is made where it is not there.
pub struct SqliteLeases {
    file: PathBuf,
    pools: OnceCell<Pools>,
}

/// Connections by how sure a write of theirs is.
struct Pools {
    /// A checkpoint that a power failure takes back is read again: a duplicate, no loss.
    fast: SqlitePool,
    /// A group or a place to begin that a power failure took back would be made anew, behind what came meanwhile.
    sure: SqlitePool,
}

impl SqliteLeases {
    /// The leases in `file`, which is opened at the first use.
    pub fn new(file: impl Into<PathBuf>) -> Self {
        Self { file: file.into(), pools: OnceCell::new() }
    }

    /// The file.
    #[must_use]
    pub fn file(&self) -> &Path {
        &self.file
    }

    async fn pools(&self) -> Result<&Pools, TransportError> {
        let open = async |connections: u32, synchronous: SqliteSynchronous| {
            let options = SqliteConnectOptions::new()
                .filename(&self.file)
                .create_if_missing(true)
                .journal_mode(SqliteJournalMode::Wal)
                .synchronous(synchronous)
                .busy_timeout(Duration::from_secs(10));
            SqlitePoolOptions::new().max_connections(connections).connect_with(options).await
        };
        self.pools
            .get_or_try_init(|| async {
                let sure = open(1, SqliteSynchronous::Full).await?;
                sqlx::raw_sql(SCHEMA).execute(&sure).await?;
                Ok(Pools { fast: open(2, SqliteSynchronous::Normal).await?, sure })
            })
            .await
            .map_err(|error| self.failed("opened", error))
    }

    /// The connections for `change`.
    async fn pool(&self, change: Change<'_>) -> Result<&SqlitePool, TransportError> {
        let pools = self.pools().await?;
        Ok(if change.expected == 0 || change.key == GROUP { &pools.sure } else { &pools.fast })
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
                .fetch_all(&self.pools().await?.fast)
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
        let done =
            query.execute(self.pool(change).await?).await.map_err(|error| self.failed("written", error))?;
        Ok(done.rows_affected() == 1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn what_must_not_be_forgotten_is_on_the_disk() {
        let directory = tempfile::tempdir().unwrap();
        let leases = SqliteLeases::new(directory.path().join("leases.db"));
        let mut told = Vec::new();
        for change in [
            Change::write("lease/s/0", 0, "{}"),
            Change::write(GROUP, 7, "{}"),
            Change::write("lease/s/0", 7, "{}"),
        ] {
            let pool = leases.pool(change).await.unwrap();
            let (synchronous,): (i64,) = sqlx::query_as("PRAGMA synchronous").fetch_one(pool).await.unwrap();
            told.push(synchronous);
        }
        assert_eq!(told, [2, 2, 1], "FULL for what is new and for a group's patterns");
    }
}

//! Opening the file: its settings, its tables, its version.

use std::path::Path;
use std::time::Duration;

use sqlx::sqlite::{SqliteConnectOptions, SqliteJournalMode, SqliteSynchronous};
use sqlx::{ConnectOptions, Row, SqliteConnection};
use tokio::time::{Instant, sleep};

use crate::error::{Failure, is_busy};

/// The schema that this crate writes.
const VERSION: i64 = 1;

/// How long SQLite itself waits for a lock before [`begin`] tries again: SQLite's own pauses grow up to 100 ms, in
/// which other processes take the lock many times.
const PATIENCE: Duration = Duration::from_millis(8);
/// The pause between two tries.
const PAUSE: Duration = Duration::from_millis(1);

/// Opens `file`, makes it and its tables where they are missing.
pub(crate) async fn open(file: &Path, patience: Duration) -> Result<SqliteConnection, Failure> {
    let deadline = Instant::now() + patience;
    loop {
        match try_open(file, deadline).await {
            Err(OpenError::Database(error)) if is_busy(&error) && Instant::now() < deadline => {
                sleep(PAUSE).await;
            }
            Err(OpenError::Database(error)) => return Err(Failure::of(file, error)),
            Err(OpenError::Newer(found)) => return Err(Failure::newer_schema(file, found, VERSION)),
            Ok(connection) => return Ok(connection),
        }
    }
}

enum OpenError {
    Database(sqlx::Error),
    Newer(i64),
}

impl From<sqlx::Error> for OpenError {
    fn from(error: sqlx::Error) -> Self {
        Self::Database(error)
    }
}

async fn try_open(file: &Path, deadline: Instant) -> Result<SqliteConnection, OpenError> {
    let mut connection = SqliteConnectOptions::new()
        .filename(file)
        .create_if_missing(true)
        .journal_mode(SqliteJournalMode::Wal)
        .synchronous(SqliteSynchronous::Full)
        .busy_timeout(PATIENCE)
        // Rows of the queues change many times between two checkpoints: a longer log writes each page once.
        .pragma("wal_autocheckpoint", "4000")
        .pragma("journal_size_limit", "67108864")
        .pragma("cache_size", "-16384")
        .pragma("temp_store", "memory")
        .row_buffer_size(1024)
        .disable_statement_logging()
        .connect()
        .await?;
    if let Some(found) = version(&mut connection).await? {
        check(found)?;
        return Ok(connection);
    }
    begin(&mut connection, deadline).await?;
    let made = make(&mut connection).await;
    let end = if made.is_ok() { "COMMIT" } else { "ROLLBACK" };
    sqlx::raw_sql(end).execute(&mut connection).await?;
    made.map(|()| connection)
}

async fn make(connection: &mut SqliteConnection) -> Result<(), OpenError> {
    // Another process may have been first.
    match version(connection).await? {
        Some(found) => check(found),
        None => {
            sqlx::raw_sql(include_str!("schema.sql")).execute(connection).await?;
            Ok(())
        }
    }
}

fn check(found: i64) -> Result<(), OpenError> {
    if found > VERSION { Err(OpenError::Newer(found)) } else { Ok(()) }
}

async fn version(connection: &mut SqliteConnection) -> Result<Option<i64>, sqlx::Error> {
    let there = sqlx::query("SELECT 1 FROM sqlite_master WHERE type = 'table' AND name = 'msgkit_state'")
        .persistent(false)
        .fetch_optional(&mut *connection)
        .await?;
    if there.is_none() {
        return Ok(None);
    }
    let row = sqlx::query("SELECT version FROM msgkit_state").persistent(false).fetch_one(connection).await?;
    row.try_get(0).map(Some)
}

/// Takes the file's write lock, waiting for other processes until `deadline`.
pub(crate) async fn begin(connection: &mut SqliteConnection, deadline: Instant) -> Result<(), sqlx::Error> {
    loop {
        match sqlx::query("BEGIN IMMEDIATE").execute(&mut *connection).await {
            Err(error) if is_busy(&error) && Instant::now() < deadline => sleep(PAUSE).await,
            result => return result.map(|_| ()),
        }
    }
}

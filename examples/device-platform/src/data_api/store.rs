//! The SQLite file.

use std::path::Path;
use std::time::Duration;

use jiff::Timestamp;
use sqlx::sqlite::{
    Sqlite, SqliteArguments, SqliteConnectOptions, SqliteJournalMode, SqlitePool, SqlitePoolOptions,
    SqliteSynchronous,
};
use sqlx::{Transaction, query::Query};

use super::error::StoreError;
use super::rows::FromRow;
use crate::messages::{
    AggregateUpdated, AggregatesAnswer, AggregatesQuery, AlertsAnswer, AlertsQuery, DeadLetter,
    DeadLettersAnswer, DeadLettersQuery, DevicesAnswer, DevicesQuery, HopRecorded, Quantity, ReadingsAnswer,
    ReadingsQuery, StoredAlert, StoredReading, TraceAnswer, TraceQuery, Window,
};
use crate::processing::aggregate::Tally;

/// An answer holds at most so many entries, whatever the query says.
const MOST: u32 = 10_000;

/// Readings that wait for a writer are answered from the file as it was: writers and readers do not wait for each other (WAL).
const READERS: u32 = 4;

/// What became of a reading.
#[derive(Debug, Clone, PartialEq)]
pub struct Recorded {
    /// Whether it was stored now; otherwise it had been there before.
    pub fresh: bool,
    /// The windows that it belongs to, as they are now. Also where it is not fresh: nobody knows whether they were told the first time.
    pub aggregates: Vec<AggregateUpdated>,
}

/// The store. Cheap to clone; all clones are one.
///
/// What a method has written when it returns survives a crash of the process and of the machine.
#[derive(Debug, Clone)]
pub struct Store {
    /// One connection: SQLite has one writer, and a queue here is fairer than a lock there.
    writer: SqlitePool,
    readers: SqlitePool,
}

impl Store {
    /// Opens the file, and makes it where it is not there yet. The directory must exist.
    ///
    /// # Errors
    /// When the file cannot be opened or is not such a store.
    pub async fn open(file: &Path) -> Result<Self, StoreError> {
        let failed = StoreError::to("open its file");
        let options = SqliteConnectOptions::new()
            .filename(file)
            .create_if_missing(true)
            .journal_mode(SqliteJournalMode::Wal)
            .synchronous(SqliteSynchronous::Full)
            .busy_timeout(Duration::from_secs(10));
        let writer = SqlitePoolOptions::new()
            .max_connections(1)
            .connect_with(options.clone())
            .await
            .map_err(failed)?;
        create_tables(&writer).await?;
        let readers = SqlitePoolOptions::new()
            .max_connections(READERS)
            .connect_with(options.create_if_missing(false).read_only(true))
            .await
            .map_err(failed)?;
        Ok(Self { writer, readers })
    }

    /// A store that ends with its process.
    ///
    /// # Errors
    /// When there is no memory for it.
    pub async fn in_memory() -> Result<Self, StoreError> {
        // The database lives as long as its only connection, so that must never be closed for being idle or old.
        let pool = SqlitePoolOptions::new()
            .max_connections(1)
            .min_connections(1)
            .idle_timeout(None)
            .max_lifetime(None)
            .connect_with(SqliteConnectOptions::new().in_memory(true))
            .await
            .map_err(StoreError::to("be made in memory"))?;
        create_tables(&pool).await?;
        Ok(Self { writer: pool.clone(), readers: pool })
    }

    /// Stores readings and counts each new one in its windows, all in one transaction. The results are in the order of the readings.
    ///
    /// # Errors
    /// When nothing was stored.
    pub async fn record_readings(&self, readings: &[StoredReading]) -> Result<Vec<Recorded>, StoreError> {
        let failed = StoreError::to("record readings");
        let mut transaction = self.begin().await.map_err(failed)?;
        let mut recorded = Vec::with_capacity(readings.len());
        for reading in readings {
            recorded.push(record(&mut transaction, reading).await.map_err(failed)?);
        }
        transaction.commit().await.map_err(failed)?;
        Ok(recorded)
    }

    /// Stores the beginning or the end of an alert; says whether it is new.
    ///
    /// # Errors
    /// When it was not stored.
    pub async fn record_alert(&self, alert: &StoredAlert) -> Result<bool, StoreError> {
        let insert = sqlx::query(
            "INSERT INTO alerts (id, trace_id, state, device_id, rule, quantity, value, threshold, at) \
             VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9) ON CONFLICT DO NOTHING",
        )
        .bind(&alert.id)
        .bind(&alert.trace_id)
        .bind(alert.state.as_str())
        .bind(&alert.device_id)
        .bind(&alert.rule)
        .bind(alert.quantity.as_str())
        .bind(alert.value)
        .bind(alert.threshold)
        .bind(alert.at.as_microsecond());
        let done = insert.execute(&self.writer).await.map_err(StoreError::to("record an alert"))?;
        Ok(done.rows_affected() == 1)
    }

    /// Stores entries of the trace journal in one transaction. Of several entries for one message at one component the one with the
    /// most attempts stays, so the order in which they come does not matter.
    ///
    /// # Errors
    /// When nothing was stored.
    pub async fn record_hops(&self, hops: &[HopRecorded]) -> Result<(), StoreError> {
        let failed = StoreError::to("record a trace");
        let mut transaction = self.begin().await.map_err(failed)?;
        for hop in hops {
            sqlx::query(
                "INSERT INTO hops (trace_id, id, causation_id, hop, topic, type, component, time, outcome, attempts) \
                 VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10) \
                 ON CONFLICT (trace_id, id, component) DO UPDATE SET \
                     time = excluded.time, outcome = excluded.outcome, attempts = excluded.attempts \
                 WHERE (excluded.attempts, excluded.time) > (attempts, time)",
            )
            .bind(&hop.trace_id)
            .bind(&hop.id)
            .bind(&hop.causation_id)
            .bind(i64::from(hop.hop))
            .bind(&hop.topic)
            .bind(&hop.r#type)
            .bind(&hop.component)
            .bind(hop.time.as_microsecond())
            .bind(&hop.outcome)
            .bind(i64::from(hop.attempts))
            .execute(&mut *transaction)
            .await
            .map_err(failed)?;
        }
        transaction.commit().await.map_err(failed)
    }

    /// Whether the dead letter is stored.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub async fn knows_dead_letter(&self, letter: &DeadLetter) -> Result<bool, StoreError> {
        sqlx::query_scalar("SELECT EXISTS (SELECT 1 FROM dead_letters WHERE id = ?1 AND \"group\" = ?2)")
            .bind(&letter.id)
            .bind(&letter.group)
            .fetch_one(&self.readers)
            .await
            .map_err(StoreError::to("look for a dead letter"))
    }

    /// Stores what is shown of a dead letter; says whether it is new.
    ///
    /// # Errors
    /// When it was not stored.
    pub async fn record_dead_letter(&self, letter: &DeadLetter) -> Result<bool, StoreError> {
        let insert = sqlx::query(
            "INSERT INTO dead_letters (id, \"group\", trace_id, topic, type, kind, error, attempts, time, payload) \
             VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10) ON CONFLICT DO NOTHING",
        )
        .bind(&letter.id)
        .bind(&letter.group)
        .bind(&letter.trace_id)
        .bind(&letter.topic)
        .bind(&letter.r#type)
        .bind(&letter.kind)
        .bind(&letter.error)
        .bind(i64::from(letter.attempts))
        .bind(letter.time.as_microsecond())
        .bind(&letter.payload);
        let done = insert.execute(&self.writer).await.map_err(StoreError::to("record a dead letter"))?;
        Ok(done.rows_affected() == 1)
    }

    /// The newest readings, newest first: by event time those of one device, by arrival those of all (their clocks may differ by years).
    ///
    /// # Errors
    /// When the store cannot be read.
    pub async fn readings(&self, query: &ReadingsQuery) -> Result<ReadingsAnswer, StoreError> {
        let sql = match &query.device_id {
            Some(device) => {
                sqlx::query("SELECT * FROM readings WHERE device_id = ?2 ORDER BY at DESC, id DESC LIMIT ?1")
                    .bind(limit(query.limit))
                    .bind(device)
            }
            None => {
                sqlx::query("SELECT * FROM readings ORDER BY arrival DESC LIMIT ?1").bind(limit(query.limit))
            }
        };
        Ok(ReadingsAnswer { readings: self.find(sql, "find readings").await? })
    }

    /// Every device with its newest reading by event time, ordered by its id.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub async fn devices(&self, query: &DevicesQuery) -> Result<DevicesAnswer, StoreError> {
        let sql = sqlx::query(
            "SELECT readings.*, devices.readings AS count FROM devices JOIN readings USING (id) \
             ORDER BY devices.device_id LIMIT ?1",
        )
        .bind(limit(query.limit));
        Ok(DevicesAnswer { devices: self.find(sql, "find devices").await? })
    }

    /// Readings of a device before a point of its event time (`at`, `id`), oldest first; the newest `most` of them.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub async fn readings_before(
        &self,
        device_id: &str,
        (at, id): (Timestamp, &str),
        most: u32,
    ) -> Result<Vec<StoredReading>, StoreError> {
        let sql = sqlx::query(
            "SELECT * FROM readings WHERE device_id = ?1 AND (at, id) < (?2, ?3) \
             ORDER BY at DESC, id DESC LIMIT ?4",
        )
        .bind(device_id)
        .bind(at.as_microsecond())
        .bind(id)
        .bind(i64::from(most));
        let mut readings: Vec<StoredReading> = self.find(sql, "find readings").await?;
        readings.reverse();
        Ok(readings)
    }

    /// The newest windows of one length, newest first.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub async fn aggregates(&self, query: &AggregatesQuery) -> Result<AggregatesAnswer, StoreError> {
        let window = query.window.as_str();
        let sql = match &query.device_id {
            Some(device) => sqlx::query(
                "SELECT * FROM aggregates WHERE \"window\" = ?2 AND device_id = ?3 \
                 ORDER BY start DESC LIMIT ?1",
            )
            .bind(limit(query.limit))
            .bind(window)
            .bind(device),
            None => sqlx::query(
                "SELECT * FROM aggregates WHERE \"window\" = ?2 ORDER BY start DESC, device_id LIMIT ?1",
            )
            .bind(limit(query.limit))
            .bind(window),
        };
        Ok(AggregatesAnswer { aggregates: self.find(sql, "find aggregates").await? })
    }

    /// The newest beginnings and ends of alerts, newest first: by event time those of one device, by arrival those of all.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub async fn alerts(&self, query: &AlertsQuery) -> Result<AlertsAnswer, StoreError> {
        let sql = match &query.device_id {
            Some(device) => {
                sqlx::query("SELECT * FROM alerts WHERE device_id = ?2 ORDER BY at DESC, id DESC LIMIT ?1")
                    .bind(limit(query.limit))
                    .bind(device)
            }
            None => {
                sqlx::query("SELECT * FROM alerts ORDER BY arrival DESC LIMIT ?1").bind(limit(query.limit))
            }
        };
        Ok(AlertsAnswer { alerts: self.find(sql, "find alerts").await? })
    }

    /// The dead letters that came last, last first.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub async fn dead_letters(&self, query: &DeadLettersQuery) -> Result<DeadLettersAnswer, StoreError> {
        let sql =
            sqlx::query("SELECT * FROM dead_letters ORDER BY arrival DESC LIMIT ?1").bind(limit(query.limit));
        Ok(DeadLettersAnswer { dead_letters: self.find(sql, "find dead letters").await? })
    }

    /// The entries of a trace, a cause always before its effects: a message's `hop` is one more than that of its cause, and the entry of
    /// the publisher comes before those of the handlers. No clock is needed for that; the time orders what has no causal order.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub async fn trace(&self, query: &TraceQuery) -> Result<TraceAnswer, StoreError> {
        let sql = sqlx::query(
            "SELECT * FROM hops WHERE trace_id = ?2 \
             ORDER BY hop, attempts > 0, time, id, component LIMIT ?1",
        )
        .bind(limit(MOST))
        .bind(&query.trace_id);
        Ok(TraceAnswer { hops: self.find(sql, "find a trace").await? })
    }

    /// Whether the store can be read.
    ///
    /// # Errors
    /// When it cannot.
    pub async fn ping(&self) -> Result<(), StoreError> {
        let sql = sqlx::query("SELECT 1 FROM readings LIMIT 1");
        sql.fetch_optional(&self.readers).await.map_err(StoreError::to("be read"))?;
        Ok(())
    }

    /// Closes the file once what is under way is done.
    pub async fn close(&self) {
        self.readers.close().await;
        self.writer.close().await;
    }

    /// Takes the write lock at once: a transaction that begins by reading could find it taken when it comes to write.
    async fn begin(&self) -> sqlx::Result<Transaction<'static, Sqlite>> {
        self.writer.begin_with("BEGIN IMMEDIATE").await
    }

    async fn find<T: FromRow>(
        &self,
        sql: Query<'_, Sqlite, SqliteArguments>,
        doing: &'static str,
    ) -> Result<Vec<T>, StoreError> {
        let failed = StoreError::to(doing);
        let rows = sql.fetch_all(&self.readers).await.map_err(failed)?;
        rows.iter().map(T::from_row).collect::<Result<_, _>>().map_err(failed)
    }
}

async fn create_tables(pool: &SqlitePool) -> Result<(), StoreError> {
    let tables = sqlx::raw_sql(include_str!("schema.sql"));
    tables.execute(pool).await.map_err(StoreError::to("create its tables"))?;
    Ok(())
}

async fn record(
    transaction: &mut Transaction<'_, Sqlite>,
    reading: &StoredReading,
) -> sqlx::Result<Recorded> {
    let insert = sqlx::query(
        "INSERT INTO readings (id, trace_id, device_id, at, temperature, humidity, light, co2, humidity_ratio) \
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9) ON CONFLICT DO NOTHING",
    )
    .bind(&reading.id)
    .bind(&reading.trace_id)
    .bind(&reading.device_id)
    .bind(reading.at.as_microsecond())
    .bind(reading.temperature)
    .bind(reading.humidity)
    .bind(reading.light)
    .bind(reading.co2)
    .bind(reading.humidity_ratio);
    let fresh = insert.execute(&mut **transaction).await?.rows_affected() == 1;
    if fresh {
        sqlx::query(
            "INSERT INTO devices (device_id, readings, at, id) VALUES (?1, 1, ?2, ?3) \
             ON CONFLICT DO UPDATE SET readings = readings + 1, \
                 id = iif((excluded.at, excluded.id) > (at, id), excluded.id, id), \
                 at = max(at, excluded.at)",
        )
        .bind(&reading.device_id)
        .bind(reading.at.as_microsecond())
        .bind(&reading.id)
        .execute(&mut **transaction)
        .await?;
    }
    let mut aggregates = Vec::with_capacity(Window::ALL.len());
    for window in Window::ALL {
        let query = if fresh { add_to_window(reading, window) } else { find_window(reading, window) };
        aggregates.push(AggregateUpdated::from_row(&query.fetch_one(&mut **transaction).await?)?);
    }
    Ok(Recorded { fresh, aggregates })
}

fn add_to_window(reading: &StoredReading, window: Window) -> Query<'_, Sqlite, SqliteArguments> {
    let one = Tally::of(reading);
    let add = sqlx::query(include_str!("add_to_aggregate.sql"))
        .bind(&reading.device_id)
        .bind(window.as_str())
        .bind(window.start(reading.at).as_microsecond())
        .bind(1_i64);
    one.extents.iter().fold(add, |add, extent| add.bind(extent.min).bind(extent.max).bind(extent.sum))
}

fn find_window(reading: &StoredReading, window: Window) -> Query<'_, Sqlite, SqliteArguments> {
    sqlx::query("SELECT * FROM aggregates WHERE device_id = ?1 AND \"window\" = ?2 AND start = ?3")
        .bind(&reading.device_id)
        .bind(window.as_str())
        .bind(window.start(reading.at).as_microsecond())
}

fn limit(asked: u32) -> i64 {
    asked.min(MOST).into()
}

const _: () = assert!(Quantity::ALL.len() == 5, "schema.sql has three columns for each quantity");

#[cfg(test)]
mod tests;

//! Rows of the store, as values.

use jiff::Timestamp;
use sqlx::Row as _;
use sqlx::sqlite::SqliteRow;

use crate::messages::{
    AggregateUpdated, AlertState, DeadLetter, DeviceSeen, HopRecorded, Quantity, StoredAlert, StoredReading,
};
use crate::processing::aggregate::{Extent, Tally};

/// Made from a row of its table.
pub(super) trait FromRow: Sized {
    fn from_row(row: &SqliteRow) -> sqlx::Result<Self>;
}

impl FromRow for StoredReading {
    fn from_row(row: &SqliteRow) -> sqlx::Result<Self> {
        Ok(Self {
            id: row.try_get("id")?,
            trace_id: row.try_get("trace_id")?,
            device_id: row.try_get("device_id")?,
            at: time(row, "at")?,
            temperature: row.try_get("temperature")?,
            humidity: row.try_get("humidity")?,
            light: row.try_get("light")?,
            co2: row.try_get("co2")?,
            humidity_ratio: row.try_get("humidity_ratio")?,
        })
    }
}

impl FromRow for DeviceSeen {
    fn from_row(row: &SqliteRow) -> sqlx::Result<Self> {
        let newest = StoredReading::from_row(row)?;
        Ok(Self { device_id: newest.device_id.clone(), readings: unsigned(row, "count")?, newest })
    }
}

impl FromRow for AggregateUpdated {
    fn from_row(row: &SqliteRow) -> sqlx::Result<Self> {
        let mut extents = [Extent { min: 0.0, max: 0.0, sum: 0 }; 5];
        for (extent, quantity) in extents.iter_mut().zip(Quantity::ALL) {
            *extent = Extent {
                min: row.try_get(format!("{quantity}_min").as_str())?,
                max: row.try_get(format!("{quantity}_max").as_str())?,
                sum: row.try_get(format!("{quantity}_sum").as_str())?,
            };
        }
        let tally = Tally { count: unsigned(row, "count")?, extents };
        let device_id: String = row.try_get("device_id")?;
        let window: String = row.try_get("window")?;
        let window = window.parse().map_err(decoding("window"))?;
        Ok(tally.report(device_id, window, time(row, "start")?))
    }
}

impl FromRow for StoredAlert {
    fn from_row(row: &SqliteRow) -> sqlx::Result<Self> {
        let state = [AlertState::Raised, AlertState::Cleared];
        Ok(Self {
            id: row.try_get("id")?,
            trace_id: row.try_get("trace_id")?,
            state: named(row, "state", state, AlertState::as_str)?,
            device_id: row.try_get("device_id")?,
            rule: row.try_get("rule")?,
            quantity: named(row, "quantity", Quantity::ALL, Quantity::as_str)?,
            value: row.try_get("value")?,
            threshold: row.try_get("threshold")?,
            at: time(row, "at")?,
        })
    }
}

impl FromRow for HopRecorded {
    fn from_row(row: &SqliteRow) -> sqlx::Result<Self> {
        Ok(Self {
            trace_id: row.try_get("trace_id")?,
            id: row.try_get("id")?,
            causation_id: row.try_get("causation_id")?,
            hop: unsigned(row, "hop")?,
            topic: row.try_get("topic")?,
            r#type: row.try_get("type")?,
            component: row.try_get("component")?,
            time: time(row, "time")?,
            outcome: row.try_get("outcome")?,
            attempts: unsigned(row, "attempts")?,
        })
    }
}

impl FromRow for DeadLetter {
    fn from_row(row: &SqliteRow) -> sqlx::Result<Self> {
        Ok(Self {
            id: row.try_get("id")?,
            trace_id: row.try_get("trace_id")?,
            topic: row.try_get("topic")?,
            r#type: row.try_get("type")?,
            group: row.try_get("group")?,
            kind: row.try_get("kind")?,
            error: row.try_get("error")?,
            attempts: unsigned(row, "attempts")?,
            time: time(row, "time")?,
            payload: row.try_get("payload")?,
        })
    }
}

fn time(row: &SqliteRow, column: &str) -> sqlx::Result<Timestamp> {
    Timestamp::from_microsecond(row.try_get(column)?).map_err(decoding(column))
}

fn unsigned<T: TryFrom<i64, Error: Into<BoxError>>>(row: &SqliteRow, column: &str) -> sqlx::Result<T> {
    T::try_from(row.try_get::<i64, _>(column)?).map_err(decoding(column))
}

fn named<T: Copy>(
    row: &SqliteRow,
    column: &str,
    values: impl IntoIterator<Item = T>,
    name: impl Fn(T) -> &'static str,
) -> sqlx::Result<T> {
    let text: String = row.try_get(column)?;
    let found = values.into_iter().find(|value| name(*value) == text);
    found.ok_or_else(|| decoding(column)(format!("`{text}` is not known")))
}

type BoxError = Box<dyn std::error::Error + Send + Sync>;

fn decoding<E: Into<BoxError>>(column: &str) -> impl Fn(E) -> sqlx::Error {
    move |source| sqlx::Error::ColumnDecode { index: column.to_owned(), source: source.into() }
}

//! One transaction: what it has read, and what it leaves behind at its end.

use std::collections::{HashMap, HashSet};

use sqlx::sqlite::SqliteArguments;
use sqlx::{Row, Sqlite, SqliteConnection};
use tokio::time::Instant;

use crate::schema;
use crate::wire::{Json, json_list};

const STATE: &str = "
    SELECT generation, next,
        (SELECT min(due) FROM msgkit_delayed),
        (SELECT json_group_object(id, depth) FROM msgkit_group),
        (SELECT data_version FROM pragma_data_version),
        ?1 IS NOT NULL AND NOT EXISTS (SELECT 1 FROM msgkit_process WHERE id = ?1)
    FROM msgkit_state";

/// Messages that no group needs any more, and that are kept for no new one.
const FORGET: &str = "
    DELETE FROM msgkit_message WHERE id IN (SELECT value FROM json_each(?1)) AND retained <= ?2
        AND NOT EXISTS (SELECT 1 FROM msgkit_group g CROSS JOIN msgkit_queue q
            WHERE q.grp = g.id AND q.message = msgkit_message.id)
        AND NOT EXISTS (SELECT 1 FROM msgkit_delayed d WHERE d.message = msgkit_message.id)";

const DEPTHS: &str = "
    UPDATE msgkit_group SET depth = depth + moved.value FROM json_each(?1) AS moved
    WHERE msgkit_group.id = CAST(moved.key AS INTEGER)";

const DUE: &str = "
    SELECT DISTINCT message FROM msgkit_delayed WHERE due <= ?1 ORDER BY due, message";
const RENUMBER: &str = "
    UPDATE msgkit_message SET id = place.value FROM json_each(?1) AS place
    WHERE msgkit_message.id = CAST(place.key AS INTEGER)";
const WAKE: &str = "
    INSERT INTO msgkit_queue (grp, message, key)
    SELECT d.grp, place.value, d.key FROM json_each(?1) AS place
    CROSS JOIN msgkit_delayed d ON d.message = CAST(place.key AS INTEGER)
    RETURNING grp";

/// A transaction that holds the file's write lock; dropped without [`Commit::end`] it must be rolled back.
pub(super) struct Commit<'c> {
    pub(super) connection: &'c mut SqliteConnection,
    /// Microseconds since 1970.
    pub(super) now: i64,
    pub(super) generation: i64,
    pub(super) version: i64,
    pub(super) next_due: Option<i64>,
    /// Whether this process was taken for dead.
    pub(super) is_forgotten: bool,
    /// Groups that may have something to claim.
    pub(super) touched: HashSet<i64>,
    /// Messages that a group needs no more.
    pub(super) spent: Vec<i64>,
    pub(super) unrouted: i64,
    next: i64,
    depths: HashMap<i64, i64>,
    moved: HashMap<i64, i64>,
    began_with: (i64, i64),
}

impl<'c> Commit<'c> {
    pub(super) async fn begin(
        connection: &'c mut SqliteConnection,
        deadline: Instant,
        now: i64,
        process: Option<i64>,
    ) -> Result<Self, sqlx::Error> {
        schema::begin(connection, deadline).await?;
        let row = sqlx::query(STATE).bind(process).fetch_one(&mut *connection).await?;
        let (generation, next) = (row.try_get(0)?, row.try_get(1)?);
        let depths: String = row.try_get(3)?;
        let depths: HashMap<String, i64> =
            serde_json::from_str(&depths).map_err(|error| sqlx::Error::Decode(error.into()))?;
        Ok(Self {
            now,
            generation,
            next_due: row.try_get(2)?,
            version: row.try_get(4)?,
            is_forgotten: row.try_get(5)?,
            connection,
            touched: HashSet::new(),
            spent: Vec::new(),
            unrouted: 0,
            next,
            depths: depths.into_iter().filter_map(|(id, depth)| Some((id.parse().ok()?, depth))).collect(),
            moved: HashMap::new(),
            began_with: (generation, next),
        })
    }

    /// The place of one more message in the order.
    pub(super) fn place(&mut self) -> i64 {
        let place = self.next;
        self.next += 1;
        place
    }

    /// How many rows a group has.
    pub(super) fn depth(&self, group: i64) -> i64 {
        self.depths.get(&group).copied().unwrap_or(0)
    }

    /// Takes note that a group has `by` rows more.
    pub(super) fn move_depth(&mut self, group: i64, by: i64) {
        *self.depths.entry(group).or_default() += by;
        *self.moved.entry(group).or_default() += by;
    }

    /// Runs a statement for its number of rows.
    pub(super) async fn run(
        &mut self,
        query: sqlx::query::Query<'_, Sqlite, SqliteArguments>,
    ) -> Result<u64, sqlx::Error> {
        query.execute(&mut *self.connection).await.map(|done| done.rows_affected())
    }

    /// Moves what is due to the end of the order: a message that was kept back has its place from then on.
    pub(super) async fn wake_due(&mut self) -> Result<(), sqlx::Error> {
        let due = sqlx::query(DUE).bind(self.now).fetch_all(&mut *self.connection).await?;
        let mut places = Json::default();
        for row in &due {
            let place = self.place();
            places.entry(row.try_get(0)?, Some(place));
        }
        let places = places.finish();
        self.run(sqlx::query(RENUMBER).bind(&places)).await?;
        for row in sqlx::query(WAKE).bind(places).fetch_all(&mut *self.connection).await? {
            self.touched.insert(row.try_get(0)?);
        }
        self.run(sqlx::query("DELETE FROM msgkit_delayed WHERE due <= ?1").bind(self.now)).await?;
        let left =
            sqlx::query("SELECT min(due) FROM msgkit_delayed").fetch_one(&mut *self.connection).await?;
        self.next_due = left.try_get(0)?;
        Ok(())
    }

    /// Tidies up after what was settled, writes down what moved, and commits.
    pub(super) async fn end(mut self) -> Result<(), sqlx::Error> {
        if !self.spent.is_empty() {
            let spent = json_list(std::mem::take(&mut self.spent));
            let now = self.now;
            self.run(sqlx::query(FORGET).bind(spent).bind(now)).await?;
        }
        let mut moved = Json::default();
        for (group, by) in self.moved.drain().filter(|(_, by)| *by != 0) {
            moved.entry(group, Some(by));
        }
        if !moved.is_empty() {
            self.run(sqlx::query(DEPTHS).bind(moved.finish())).await?;
        }
        if self.began_with != (self.generation, self.next) || self.unrouted > 0 {
            let state =
                sqlx::query("UPDATE msgkit_state SET generation = ?1, next = ?2, unrouted = unrouted + ?3");
            let (generation, next, unrouted) = (self.generation, self.next, self.unrouted);
            self.run(state.bind(generation).bind(next).bind(unrouted)).await?;
        }
        self.run(sqlx::query("COMMIT")).await.map(|_| ())
    }
}

//! What operators ask of the file, read on a connection of its own.

use async_trait::async_trait;
use msgkit::envelope::{Timestamp, ingest::Ingest};
use msgkit::transport::{
    Destination, Group, GroupStatus, Operate, Peeked, TransportError, TransportErrorKind,
};
use sqlx::Row;
use sqlx::sqlite::SqliteRow;

use crate::error::Failure;
use crate::store::{Command, ask};
use crate::transport::Sqlite;
use crate::wire::Stored;

const GROUPS: &str = "
    SELECT name,
        (SELECT count(*) FROM msgkit_queue q WHERE q.grp = g.id AND q.member IS NULL),
        (SELECT count(*) FROM msgkit_queue q WHERE q.grp = g.id AND q.member IS NOT NULL),
        (SELECT count(*) FROM msgkit_delayed d WHERE d.grp = g.id),
        (SELECT m.at FROM msgkit_queue q JOIN msgkit_message m ON m.id = q.message
            WHERE q.grp = g.id AND q.member IS NULL ORDER BY q.message LIMIT 1)
    FROM msgkit_group g WHERE name IS NOT NULL ORDER BY name";

const PEEK: &str = "
    SELECT m.id, m.body
    FROM msgkit_group g JOIN msgkit_queue q ON q.grp = g.id JOIN msgkit_message m ON m.id = q.message
    WHERE g.name = ?1 AND q.member IS NULL AND q.message > ?2 ORDER BY q.message LIMIT ?3";

const DEAD_LETTERS: &str = "
    SELECT id, body FROM msgkit_dead_letter WHERE grp = ?1 AND id > ?2 ORDER BY id LIMIT ?3";

impl Sqlite {
    /// Whether the file can be read.
    pub(crate) async fn probe(&self) -> Result<(), TransportError> {
        let mut reader = self.store().reader().await?;
        sqlx::query("SELECT one FROM msgkit_state")
            .fetch_one(&mut *reader)
            .await
            .map_err(|e| self.failed(e))?;
        Ok(())
    }

    /// How many messages no group took, since the file was made.
    ///
    /// # Errors
    /// [`TransportError`] where the file cannot be read.
    pub async fn unrouted(&self) -> Result<u64, TransportError> {
        self.number("SELECT unrouted FROM msgkit_state", "", 0).await
    }

    fn failed(&self, error: sqlx::Error) -> TransportError {
        Failure::of(self.store().file(), error).to_error()
    }

    async fn number(&self, sql: &'static str, group: &str, step: u32) -> Result<u64, TransportError> {
        let mut reader = self.store().reader().await?;
        let row = sqlx::query(sql)
            .bind(group)
            .bind(step)
            .fetch_one(&mut *reader)
            .await
            .map_err(|error| self.failed(error))?;
        Ok(count(&row, 0))
    }

    async fn page(
        &self,
        sql: &'static str,
        group: &Group,
        after: Option<&str>,
        limit: usize,
    ) -> Result<Vec<Peeked>, TransportError> {
        let after = after.map(position).transpose()?.unwrap_or(0);
        let mut reader = self.store().reader().await?;
        let rows = sqlx::query(sql)
            .bind(group.as_str())
            .bind(after)
            .bind(i64::try_from(limit).unwrap_or(i64::MAX))
            .fetch_all(&mut *reader)
            .await
            .map_err(|error| self.failed(error))?;
        drop(reader);
        let now = self.store().clock().now();
        rows.iter()
            .map(|row| {
                let stored = stored(row).map_err(|error| self.failed(error))?;
                let position = stored.id.to_string();
                Ok(Peeked::new(stored.read(&Ingest::default(), now), position))
            })
            .collect()
    }
}

/// A message from the columns id, body.
pub(crate) fn stored(row: &SqliteRow) -> Result<Stored, sqlx::Error> {
    Ok(Stored { id: row.try_get(0)?, body: row.try_get(1)? })
}

fn count(row: &SqliteRow, column: usize) -> u64 {
    row.try_get::<i64, _>(column).ok().and_then(|count| u64::try_from(count).ok()).unwrap_or(0)
}

fn position(text: &str) -> Result<i64, TransportError> {
    text.parse().map_err(|_| {
        TransportError::new(
            TransportErrorKind::Invalid,
            format!("`{text:.40}` is no position of a sqlite transport; take one from a listing"),
        )
    })
}

#[async_trait]
impl Operate for Sqlite {
    async fn groups(&self) -> Result<Vec<GroupStatus>, TransportError> {
        let mut reader = self.store().reader().await?;
        let rows = sqlx::query(GROUPS).fetch_all(&mut *reader).await.map_err(|error| self.failed(error))?;
        drop(reader);
        let now = self.store().clock().now();
        rows.iter()
            .map(|row| {
                let name: String = row.try_get(0).map_err(|error| self.failed(error))?;
                let group = Group::new(name).map_err(|error| {
                    TransportError::new(TransportErrorKind::Internal, "a group's row holds no legal name")
                        .with_source(error)
                })?;
                let mut status = GroupStatus::new(group);
                status.waiting = count(row, 1);
                status.in_hand = Some(count(row, 2));
                status.delayed = count(row, 3);
                let oldest: Option<i64> = row.try_get(4).map_err(|error| self.failed(error))?;
                status.oldest_seconds = oldest.map(|at| now.since(Timestamp::from_micros(at)).as_secs());
                Ok(status)
            })
            .collect()
    }

    async fn peek(
        &self,
        group: &Group,
        after: Option<&str>,
        limit: usize,
    ) -> Result<Vec<Peeked>, TransportError> {
        if self.number("SELECT count(*) FROM msgkit_group WHERE name = ?1", group.as_str(), 0).await? == 0 {
            return Err(undeclared(group.as_str()));
        }
        self.page(PEEK, group, after, limit).await
    }

    async fn dead_letters(
        &self,
        group: &Group,
        after: Option<&str>,
        limit: usize,
    ) -> Result<Vec<Peeked>, TransportError> {
        self.page(DEAD_LETTERS, group, after, limit).await
    }

    async fn replay(&self, group: &Group, at: &str) -> Result<(), TransportError> {
        let (group, position) = (group.text().clone(), position(at)?);
        let commands = self.store().commands().await?;
        ask(&commands, |reply| Command::Replay { group, position, reply }).await
    }

    async fn remove_dead_letter(&self, group: &Group, at: &str) -> Result<(), TransportError> {
        let (group, position) = (group.text().clone(), position(at)?);
        let commands = self.store().commands().await?;
        ask(&commands, |reply| Command::Remove { group, position, reply }).await
    }

    async fn depth(&self, destination: &Destination) -> Result<Option<u64>, TransportError> {
        match destination {
            Destination::Retry { group, step, .. } => {
                let sql = "SELECT count(*) FROM msgkit_delayed d JOIN msgkit_group g ON g.id = d.grp
                    WHERE g.name = ?1 AND d.step = ?2";
                self.number(sql, group.as_str(), *step).await.map(Some)
            }
            Destination::DeadLetter(group) => {
                let sql = "SELECT count(*) FROM msgkit_dead_letter WHERE grp = ?1";
                self.number(sql, group.as_str(), 0).await.map(Some)
            }
            // A topic is no place here: its messages lie in the queues of the groups that take it.
            _ => Ok(None),
        }
    }
}

/// The error of whatever needs a group that is not there.
pub(crate) fn undeclared(group: &str) -> TransportError {
    TransportError::new(
        TransportErrorKind::Invalid,
        format!("group `{group}` is not declared in this file; declare it first"),
    )
}

//! Which groups there are, and which of them take a topic.

use std::collections::HashMap;
use std::sync::Arc;

use msgkit::envelope::ingest::Ingest;
use msgkit::transport::Start;
use msgkit::{Pattern, Text, Topic};
use sqlx::Row;

use super::commit::Commit;
use crate::operate::stored;
use crate::store::Wanted;
use crate::wire::{Json, key_hash, micros_up};

/// How many topics are remembered with their groups; dynamic topics are without number.
const REMEMBERED_TOPICS: usize = 4096;
/// How many retained messages are looked at in one piece.
const PAGE: usize = 512;

const RETAINED: &str = "
    SELECT id, body FROM msgkit_message
    WHERE retained > ?1 AND at >= ?2 AND id > ?3 ORDER BY id LIMIT ?4";

/// The groups of the file as of one generation.
#[derive(Default)]
pub(super) struct Groups {
    generation: Option<i64>,
    all: Vec<Entry>,
    by_topic: HashMap<Topic, Arc<[i64]>>,
}

struct Entry {
    id: i64,
    name: Option<Text>,
    patterns: Vec<Pattern>,
}

impl Groups {
    /// Reads the groups again where another process has changed them.
    pub(super) async fn refresh(&mut self, commit: &mut Commit<'_>) -> Result<(), sqlx::Error> {
        if self.generation == Some(commit.generation) {
            return Ok(());
        }
        self.forget();
        let rows = sqlx::query("SELECT id, name, patterns FROM msgkit_group")
            .fetch_all(&mut *commit.connection)
            .await?;
        self.all = rows
            .iter()
            .map(|row| {
                let name: Option<String> = row.try_get(1)?;
                let patterns: String = row.try_get(2)?;
                Ok(Entry {
                    id: row.try_get(0)?,
                    name: name.map(Text::from),
                    patterns: read_patterns(&patterns)?,
                })
            })
            .collect::<Result<_, sqlx::Error>>()?;
        self.generation = Some(commit.generation);
        Ok(())
    }

    /// What is known may be wrong: a transaction was rolled back.
    pub(super) fn forget(&mut self) {
        self.generation = None;
        self.all.clear();
        self.by_topic.clear();
    }

    pub(super) fn id_of(&self, name: &str) -> Option<i64> {
        self.all.iter().find(|entry| entry.name.as_deref() == Some(name)).map(|entry| entry.id)
    }

    /// The name as errors tell it.
    pub(super) fn name_of(&self, id: i64) -> Text {
        let name = self.all.iter().find(|entry| entry.id == id).and_then(|entry| entry.name.clone());
        name.unwrap_or(Text::from_static("(ephemeral)"))
    }

    /// The groups that take `topic`.
    pub(super) fn taking(&mut self, topic: &Topic) -> Arc<[i64]> {
        if let Some(known) = self.by_topic.get(topic) {
            return known.clone();
        }
        let taking =
            self.all.iter().filter(|entry| entry.patterns.iter().any(|pattern| pattern.matches(topic)));
        let taking: Arc<[i64]> = taking.map(|entry| entry.id).collect();
        if self.by_topic.len() >= REMEMBERED_TOPICS {
            self.by_topic.clear();
        }
        self.by_topic.insert(topic.clone(), taking.clone());
        taking
    }

    /// The group that is wanted, made where it is not there.
    ///
    /// While members of the group are alive its patterns only grow: the old version of a service and the new one may run
    /// side by side, and what only one of them wants must not be lost to the group. With nobody there, the last one counts.
    pub(super) async fn ensure(
        &mut self,
        commit: &mut Commit<'_>,
        wanted: &Wanted,
        process: Option<i64>,
    ) -> Result<i64, sqlx::Error> {
        let known = wanted
            .name
            .as_deref()
            .and_then(|name| self.all.iter_mut().find(|entry| entry.name.as_deref() == Some(name)));
        let Some(entry) = known else { return self.make(commit, wanted, process).await };
        if entry.patterns == wanted.patterns {
            return Ok(entry.id);
        }
        let alive = sqlx::query("SELECT EXISTS (SELECT 1 FROM msgkit_member WHERE grp = ?1)").bind(entry.id);
        let mut patterns = wanted.patterns.clone();
        if alive.fetch_one(&mut *commit.connection).await?.try_get(0)? {
            patterns = entry.patterns.clone();
            patterns.extend(wanted.patterns.iter().filter(|new| !entry.patterns.contains(new)).cloned());
        }
        if patterns == entry.patterns {
            return Ok(entry.id);
        }
        let change = sqlx::query("UPDATE msgkit_group SET patterns = ?2 WHERE id = ?1");
        commit.run(change.bind(entry.id).bind(write_patterns(&patterns))).await?;
        entry.patterns = patterns;
        let id = entry.id;
        self.changed(commit);
        Ok(id)
    }

    async fn make(
        &mut self,
        commit: &mut Commit<'_>,
        wanted: &Wanted,
        process: Option<i64>,
    ) -> Result<i64, sqlx::Error> {
        let ephemeral = wanted.name.is_none();
        let id: i64 = sqlx::query(
            "INSERT INTO msgkit_group (name, process, patterns) VALUES (?1, ?2, ?3) RETURNING id",
        )
        .bind(wanted.name.as_deref())
        .bind(process.filter(|_| ephemeral))
        .bind(write_patterns(&wanted.patterns))
        .fetch_one(&mut *commit.connection)
        .await?
        .try_get(0)?;
        self.all.push(Entry { id, name: wanted.name.clone(), patterns: wanted.patterns.clone() });
        self.changed(commit);
        match wanted.start {
            Start::Earliest if !ephemeral => fill(commit, id, &wanted.patterns, i64::MIN).await?,
            Start::At(from) if !ephemeral => fill(commit, id, &wanted.patterns, from.as_micros()).await?,
            _ => {}
        }
        Ok(id)
    }

    fn changed(&mut self, commit: &mut Commit<'_>) {
        commit.generation += 1;
        self.generation = Some(commit.generation);
        self.by_topic.clear();
    }

    /// Takes an ephemeral group away, with everything in its queue.
    pub(super) async fn remove(&mut self, commit: &mut Commit<'_>, id: i64) -> Result<(), sqlx::Error> {
        for sql in [
            "DELETE FROM msgkit_queue WHERE grp = ?1 RETURNING message",
            "DELETE FROM msgkit_delayed WHERE grp = ?1 RETURNING message",
        ] {
            for row in sqlx::query(sql).bind(id).fetch_all(&mut *commit.connection).await? {
                commit.spent.push(row.try_get(0)?);
            }
        }
        commit.run(sqlx::query("DELETE FROM msgkit_group WHERE id = ?1").bind(id)).await?;
        self.all.retain(|entry| entry.id != id);
        self.changed(commit);
        Ok(())
    }
}

/// Fills the queue of a new group with what is retained since `from`.
async fn fill(
    commit: &mut Commit<'_>,
    group: i64,
    patterns: &[Pattern],
    from: i64,
) -> Result<(), sqlx::Error> {
    let mut last = 0;
    let at = msgkit::Timestamp::from_micros(commit.now);
    loop {
        let rows = sqlx::query(RETAINED)
            .bind(commit.now)
            .bind(from)
            .bind(last)
            .bind(i64::try_from(PAGE).unwrap_or(i64::MAX))
            .fetch_all(&mut *commit.connection)
            .await?;
        let (mut queue, mut count) = (Json::default(), 0);
        for row in &rows {
            let stored = stored(row)?;
            last = stored.id;
            let message = stored.read(&Ingest::default(), at);
            if !patterns.iter().any(|pattern| pattern.matches(message.topic())) {
                continue;
            }
            let key = message.key().map(key_hash);
            match message.envelope().and_then(msgkit::Envelope::not_before).filter(|due| *due > at) {
                Some(due) => commit.delay(group, last, key, micros_up(due)).await?,
                None => {
                    queue.entry(last, key);
                    count += 1;
                }
            }
        }
        if count > 0 {
            commit.enqueue(group, queue, count).await?;
        }
        if rows.len() < PAGE {
            return Ok(());
        }
    }
}

fn write_patterns(patterns: &[Pattern]) -> String {
    let texts: Vec<&str> = patterns.iter().map(Pattern::as_str).collect();
    serde_json::to_string(&texts).unwrap_or_default()
}

fn read_patterns(json: &str) -> Result<Vec<Pattern>, sqlx::Error> {
    let texts: Vec<String> = serde_json::from_str(json).map_err(|error| sqlx::Error::Decode(error.into()))?;
    texts
        .into_iter()
        .map(|text| Pattern::new(text).map_err(|error| sqlx::Error::Decode(error.into())))
        .collect()
}

//! Publishing: which groups a message goes to, whether they have room, and the rows.

use std::collections::HashMap;
use std::fmt::Write as _;

use msgkit::Text;
use msgkit::transport::{OnUnrouted, TransportError, TransportErrorKind};

use super::commit::Commit;
use super::groups::Groups;
use super::{MOST_BYTES, MOST_PUBLISHED, Turn, Writer};
use crate::config::SqliteConfig;
use crate::operate::undeclared;
use crate::wire::{Bodies, Json, Parcel, Place};

const MESSAGES: &str = "
    INSERT INTO msgkit_message (id, at, retained, body)
    SELECT CAST(key AS INTEGER), ?2, ?3, substr(?1, (value >> 30) + 1, value & 1073741823) FROM json_each(?4)";
const QUEUE: &str = "
    INSERT INTO msgkit_queue (grp, message, key) SELECT ?1, CAST(key AS INTEGER), value FROM json_each(?2)";
const DELAYED: &str = "
    INSERT INTO msgkit_delayed (due, grp, message, key, step)
    SELECT value ->> 0, value ->> 1, value ->> 2, value ->> 3, value ->> 4 FROM json_each(?1)";
const DEAD_LETTER: &str = "INSERT INTO msgkit_dead_letter (grp, at, body) VALUES (?1, ?2, ?3)";

/// How far one publication came in a turn.
pub(super) struct Progress {
    taken: usize,
    full: Option<Text>,
    refused: Option<TransportError>,
}

/// Why a message is not taken now.
enum Stop {
    Full(Text),
    Refused(TransportError),
}

/// The rows of one turn.
#[derive(Default)]
struct Rows {
    /// Messages to topics: retained where that is configured.
    messages: Bodies,
    /// Copies: they are one group's alone.
    copies: Bodies,
    queues: HashMap<i64, (Json, i64)>,
    delayed: String,
    dead: Vec<(Text, Vec<u8>)>,
    count: usize,
    bytes: usize,
}

impl Writer {
    pub(super) async fn publish(
        &mut self,
        commit: &mut Commit<'_>,
        turn: &mut Turn,
    ) -> Result<(), sqlx::Error> {
        let mut rows = Rows::default();
        for publication in &mut self.publications {
            let mut progress = Progress { taken: publication.taken, full: None, refused: None };
            while let Some(parcel) = publication.parcels.get(progress.taken) {
                if rows.count >= MOST_PUBLISHED || rows.bytes >= MOST_BYTES {
                    break;
                }
                match rows.take(parcel, &mut self.groups, commit, &self.config) {
                    Ok(()) => progress.taken += 1,
                    Err(Stop::Full(group)) => {
                        progress.full = Some(group);
                        break;
                    }
                    Err(Stop::Refused(error)) => {
                        progress.refused = Some(error);
                        break;
                    }
                }
            }
            turn.progress.push(progress);
        }
        rows.write(commit, &self.config).await
    }

    /// Tells each publication how far it came; what is left waits for room, or for the next turn.
    pub(super) fn confirm(&mut self, progress: Vec<Progress>) {
        for progress in progress {
            let Some(mut publication) = self.publications.pop_front() else { return };
            publication.taken = progress.taken;
            publication.full = progress.full;
            if let Some(error) = progress.refused {
                publication.refuse(error);
            } else if publication.taken == publication.parcels.len() {
                publication.confirm();
            } else {
                self.publications.push_back(publication);
            }
        }
    }
}

impl Rows {
    fn take(
        &mut self,
        parcel: &Parcel,
        groups: &mut Groups,
        commit: &mut Commit<'_>,
        config: &SqliteConfig,
    ) -> Result<(), Stop> {
        match &parcel.place {
            Place::Topic(topic) => {
                let taking = groups.taking(topic);
                if taking.is_empty() && config.on_unrouted == OnUnrouted::Error {
                    return Err(Stop::Refused(TransportError::new(
                        TransportErrorKind::Unrouted,
                        format!(
                            "no group takes topic `{topic}`; declare one, or set `on_unrouted = \"accept\"`"
                        ),
                    )));
                }
                // What is published because of a message in hand may use as much again, so that a cycle does not
                // block itself.
                let reserve = if parcel.caused { 2 } else { 1 };
                let bound = i64::try_from(config.capacity.saturating_mul(reserve)).unwrap_or(i64::MAX);
                if let Some(full) = taking.iter().find(|group| commit.depth(**group) >= bound) {
                    return Err(Stop::Full(groups.name_of(*full)));
                }
                if taking.is_empty() {
                    commit.unrouted += 1;
                    if config.retain.is_zero() {
                        self.count += 1;
                        return Ok(());
                    }
                }
                let id = commit.place();
                self.messages.push(id, &parcel.body);
                for group in taking.iter() {
                    self.enqueue(commit, *group, id, parcel, 0);
                }
            }
            Place::Retry { group, step } => {
                let Some(id) = groups.id_of(group) else { return Err(Stop::Refused(undeclared(group))) };
                let place = commit.place();
                self.copies.push(place, &parcel.body);
                self.enqueue(commit, id, place, parcel, *step);
            }
            Place::DeadLetter(group) => self.dead.push((group.clone(), parcel.body.clone())),
        }
        self.count += 1;
        self.bytes += parcel.body.len();
        Ok(())
    }

    fn enqueue(&mut self, commit: &mut Commit<'_>, group: i64, id: i64, parcel: &Parcel, step: u32) {
        // Counted now, so that the next message of this turn sees it.
        commit.move_depth(group, 1);
        match parcel.due.filter(|due| *due > commit.now) {
            Some(due) => {
                commit.next_due = Some(commit.next_due.map_or(due, |next| next.min(due)));
                let comma = if self.delayed.is_empty() { '[' } else { ',' };
                let key = parcel.key.map_or_else(|| "null".to_owned(), |key| key.to_string());
                // Writing to a string does not fail.
                let _ = write!(self.delayed, "{comma}[{due},{group},{id},{key},{step}]");
            }
            None => {
                let queue = self.queues.entry(group).or_default();
                queue.0.entry(id, parcel.key);
                queue.1 += 1;
            }
        }
    }

    async fn write(self, commit: &mut Commit<'_>, config: &SqliteConfig) -> Result<(), sqlx::Error> {
        let now = commit.now;
        let kept = i64::try_from(config.retain.as_micros()).unwrap_or(i64::MAX);
        let retained = if kept == 0 { 0 } else { now.saturating_add(kept) };
        for (bodies, retained) in [(self.messages, retained), (self.copies, 0)] {
            if !bodies.places.is_empty() {
                let insert = sqlx::query(MESSAGES).bind(bodies.blob).bind(now).bind(retained);
                commit.run(insert.bind(bodies.places.finish())).await?;
            }
        }
        for (group, (queue, count)) in self.queues {
            // Their depth was counted when they were taken.
            commit.move_depth(group, -count);
            commit.enqueue(group, queue, count).await?;
        }
        if !self.delayed.is_empty() {
            commit.run(sqlx::query(DELAYED).bind(self.delayed + "]")).await?;
        }
        for (group, body) in self.dead {
            commit.run(sqlx::query(DEAD_LETTER).bind(group.as_str()).bind(now).bind(body)).await?;
        }
        Ok(())
    }
}

impl Commit<'_> {
    /// Puts `count` messages into the queue of `group`, given as message → key.
    pub(super) async fn enqueue(&mut self, group: i64, queue: Json, count: i64) -> Result<(), sqlx::Error> {
        self.run(sqlx::query(QUEUE).bind(group).bind(queue.finish())).await?;
        self.move_depth(group, count);
        self.touched.insert(group);
        Ok(())
    }

    /// Keeps one message back for `group` until `due`.
    pub(super) async fn delay(
        &mut self,
        group: i64,
        message: i64,
        key: Option<i64>,
        due: i64,
    ) -> Result<(), sqlx::Error> {
        let delay = sqlx::query(
            "INSERT INTO msgkit_delayed (due, grp, message, key, step) VALUES (?1, ?2, ?3, ?4, 0)",
        );
        self.run(delay.bind(due).bind(group).bind(message).bind(key)).await?;
        self.move_depth(group, 1);
        self.next_due = Some(self.next_due.map_or(due, |next| next.min(due)));
        Ok(())
    }

    /// Writes one message; gives its place.
    pub(super) async fn insert(&mut self, body: &[u8]) -> Result<i64, sqlx::Error> {
        let (place, now) = (self.place(), self.now);
        let insert = "INSERT INTO msgkit_message (id, at, retained, body) VALUES (?1, ?2, 0, ?3)";
        self.run(sqlx::query(insert).bind(place).bind(now).bind(body)).await?;
        Ok(place)
    }
}

//! What operators ask. Streams are read for it, which takes nothing from anybody but reading throughput.

use std::collections::HashSet;

use async_trait::async_trait;
use aws_sdk_kinesis::types::Record;
use bytes::Bytes;
use msgkit::envelope::ingest::Ingest;
use msgkit::transport::{
    Destination, Group, GroupStatus, Incoming, Operate, Outgoing, Peeked, Publisher as _, TransportError,
};

use crate::core::Core;
use crate::error::{Cause, Failure, invalid};
use crate::group::patterns_of;
use crate::lease::{Change, GroupRow, Lease, LeaseRow};
use crate::position::{Position, Sequence};
use crate::transport::Kinesis;
use crate::wire::{Arrived, read};

/// How far a group is behind in one shard.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct ShardLag {
    /// The stream.
    pub stream: String,
    /// The shard.
    pub shard: String,
    /// How many messages of the group wait there; not more than the option `lag_limit` are counted.
    pub records: u64,
    /// How old the oldest of them is, in milliseconds; 0 where none waits.
    pub millis: u64,
}

impl Kinesis {
    /// How far `group` is behind, shard by shard.
    ///
    /// # Errors
    /// [`TransportError`] where the service does not answer.
    pub async fn lag(&self, group: &Group) -> Result<Vec<ShardLag>, TransportError> {
        self.core().lag_of(&self.core().group_space(group), waiting_from).await
    }
}

impl Core {
    fn incoming(&self, stream: &str, shard: &str, record: Record) -> (Incoming, bool, String) {
        let place = format!("{stream}/{shard}");
        let number = Sequence::new(&record.sequence_number);
        let data = Bytes::from(record.data.into_inner());
        let partition_key = record.partition_key.as_deref().unwrap_or_default();
        let arrived = Arrived { stream, place: &place, number: number.as_str(), partition_key, data };
        let (message, told) = read(&arrived, &self.names, &Ingest::default(), self.clock.now());
        (message, told, format!("{place}/{}", number.as_str()))
    }

    /// The leases of a space that are not done, in the order of their names, and what tells a message of the group.
    async fn leases_of(
        &self,
        space: &str,
    ) -> Result<(Vec<Lease>, impl Fn(&Incoming, bool) -> bool + use<>), TransportError> {
        let rows = self.store.load(space).await?;
        let patterns = patterns_of(&rows);
        let leases = rows
            .iter()
            .filter(|row| row.key.starts_with("lease/"))
            .filter_map(|row| serde_json::from_str::<Lease>(&row.value).ok())
            .filter(|lease| !lease.done)
            .collect();
        let takes = move |message: &Incoming, told: bool| {
            patterns.is_empty() || !told || patterns.iter().any(|pattern| pattern.matches(message.topic()))
        };
        Ok((leases, takes))
    }

    /// How much waits in each shard, from the place that `from` says of its lease.
    async fn lag_of(
        &self,
        space: &str,
        from: impl Fn(&Lease) -> Position,
    ) -> Result<Vec<ShardLag>, TransportError> {
        let (leases, takes) = self.leases_of(space).await?;
        let now = self.clock.now().as_millis();
        let mut all = Vec::new();
        for lease in leases {
            let (mut records, mut oldest) = (0, None);
            let Lease { stream, shard, .. } = &lease;
            let from = from(&lease);
            let walked = self.walk(stream, shard, &from, |record| {
                let arrived = record.approximate_arrival_timestamp.and_then(|at| at.to_millis().ok());
                let (message, told, _) = self.incoming(stream, shard, record);
                if takes(&message, told) {
                    records += 1;
                    oldest = oldest.or(arrived);
                }
                records < self.config.lag_limit
            });
            forgiving(walked.await)?;
            let millis = oldest.map_or(0, |at| u64::try_from(now - at).unwrap_or_default());
            all.push(ShardLag { stream: lease.stream, shard: lease.shard, records, millis });
        }
        Ok(all)
    }

    /// The dead letters of a group that are still there: each with its place.
    async fn letters(
        &self,
        group: &Group,
        after: Option<&str>,
        limit: usize,
    ) -> Result<Vec<(Incoming, String)>, TransportError> {
        let stream = self.names.dead_letter(group);
        let gone: HashSet<String> =
            self.store.load(&self.letter_space(group)).await?.into_iter().map(|row| row.key).collect();
        let mut shards = match self.shards(&stream).await {
            Ok(shards) => shards,
            Err(failure) if failure.cause == Cause::NotFound => return Ok(Vec::new()),
            Err(failure) => return Err(failure.error),
        };
        shards.sort_by(|a, b| a.id.cmp(&b.id));
        let from = after.map(letter_place).transpose()?;
        let mut letters = Vec::new();
        for shard in shards {
            let at = match &from {
                Some((at, _)) if shard.id < *at => continue,
                Some((at, sequence)) if shard.id == *at => Position::After(sequence.clone()),
                _ => Position::Oldest,
            };
            if letters.len() >= limit {
                break;
            }
            let walked = self.walk(&stream, &shard.id, &at, |record| {
                let place = format!("{}/{}", shard.id, Sequence::new(&record.sequence_number).as_str());
                if !gone.contains(&place) {
                    letters.push((self.incoming(&stream, &shard.id, record).0, place));
                }
                letters.len() < limit
            });
            forgiving(walked.await)?;
        }
        Ok(letters)
    }

    async fn letter(&self, group: &Group, position: &str) -> Result<Incoming, TransportError> {
        let none = || {
            invalid(format!(
                "group `{group}` has no dead letter at `{position:.90}`; take a position from a listing"
            ))
        };
        let (shard, sequence) = letter_place(position).map_err(|_| none())?;
        let gone = self.store.load(&self.letter_space(group)).await?;
        if gone.iter().any(|row| row.key == position) {
            return Err(none());
        }
        // There is no looking at a number alone but by reading from it, and it may be none.
        let stream = self.names.dead_letter(group);
        let (mut found, mut oldest) = (None, None);
        let walked = self.walk(&stream, &shard, &Position::Oldest, |record| {
            let at = Sequence::new(&record.sequence_number);
            oldest.get_or_insert_with(|| at.clone());
            if at == sequence {
                found = Some(self.incoming(&stream, &shard, record).0);
            }
            at < sequence
        });
        let walked = walked.await;
        if let Some(oldest) = oldest {
            self.tidy(group, &shard, &oldest, &gone).await?;
        }
        match walked {
            Ok(_) => found.ok_or_else(none),
            Err(failure) if failure.cause == Cause::NotFound || !failure.error.is_temporary() => {
                Err(none().with_source(failure.error))
            }
            Err(failure) => Err(failure.error),
        }
    }

    /// Of what the stream keeps no longer it need not be noted that it is gone.
    async fn tidy(
        &self,
        group: &Group,
        shard: &str,
        oldest: &Sequence,
        gone: &[LeaseRow],
    ) -> Result<(), TransportError> {
        for row in gone {
            if letter_place(&row.key).is_ok_and(|(of, at)| of == shard && at < *oldest) {
                self.store.swap(&self.letter_space(group), Change::remove(&row.key, row.version)).await?;
            }
        }
        Ok(())
    }

    /// A record cannot be removed, so it is noted that it is none any more.
    async fn forget_letter(&self, group: &Group, position: &str) -> Result<(), TransportError> {
        self.store.swap(&self.letter_space(group), Change::write(position, 0, "{}")).await.map(drop)
    }

    /// How many copies a delay step holds, those in hand too: nobody may live who has them, and they are held there until due.
    async fn depth_of(&self, space: &str) -> Result<u64, TransportError> {
        Ok(self.lag_of(space, |lease| lease.at.clone()).await?.iter().map(|lag| lag.records).sum())
    }
}

/// Behind what is settled, and what its owner may have in hand.
fn waiting_from(lease: &Lease) -> Position {
    match &lease.started {
        Some(started) if !lease.at.is_past(started) => Position::After(started.clone()),
        _ => lease.at.clone(),
    }
}

/// A shard that is kept no longer has nothing that waits.
fn forgiving(walked: Result<i64, Failure>) -> Result<(), TransportError> {
    match walked {
        Err(failure) if failure.cause != Cause::NotFound => Err(failure.error),
        _ => Ok(()),
    }
}

/// `shard/number`.
fn letter_place(position: &str) -> Result<(String, Sequence), TransportError> {
    position
        .split_once('/')
        .filter(|(_, number)| !number.is_empty() && number.bytes().all(|byte| byte.is_ascii_digit()))
        .map(|(shard, number)| (shard.to_owned(), Sequence::new(number)))
        .ok_or_else(|| invalid(format!("`{position:.90}` is no position; take one from a listing")))
}

#[async_trait]
impl Operate for Kinesis {
    async fn groups(&self) -> Result<Vec<GroupStatus>, TransportError> {
        let core = self.core();
        core.open()?;
        let mut all = Vec::new();
        for row in core.store.load(&core.groups_space()).await? {
            let Ok(group) = Group::new(row.key) else { continue };
            let known: GroupRow = serde_json::from_str(&row.value).unwrap_or_default();
            let lags = core.lag_of(&core.group_space(&group), waiting_from).await?;
            let mut delayed = 0;
            for step in 1..=known.steps.max(1) {
                delayed += core.depth_of(&core.retry_space(&group, step)).await?;
            }
            let mut status = GroupStatus::new(group);
            status.waiting = lags.iter().map(|lag| lag.records).sum();
            status.delayed = delayed;
            let oldest = lags.iter().filter(|lag| lag.records > 0).map(|lag| lag.millis / 1000).max();
            status.oldest_seconds = oldest;
            all.push(status);
        }
        Ok(all)
    }

    async fn peek(
        &self,
        group: &Group,
        after: Option<&str>,
        limit: usize,
    ) -> Result<Vec<Peeked>, TransportError> {
        let core = self.core();
        core.open()?;
        let (leases, takes) = core.leases_of(&core.group_space(group)).await?;
        if leases.is_empty() {
            return Err(invalid(format!("group `{group}` reads no stream here; declare it first")));
        }
        let from = match after {
            None => None,
            Some(after) => {
                let place =
                    after.split_once('/').and_then(|(stream, rest)| Some((stream, letter_place(rest).ok()?)));
                let place = place.ok_or_else(|| {
                    invalid(format!("`{after:.90}` is no position; take one from a listing"))
                })?;
                Some((place.0.to_owned(), place.1.0, place.1.1))
            }
        };
        let mut seen = Vec::new();
        for lease in leases {
            let Lease { stream, shard, .. } = &lease;
            let at = match &from {
                Some((at, of, _)) if (stream, shard) < (at, of) => continue,
                Some((at, of, sequence)) if (stream, shard) == (at, of) => Position::After(sequence.clone()),
                _ => waiting_from(&lease),
            };
            if seen.len() >= limit {
                break;
            }
            let walked = core.walk(stream, shard, &at, |record| {
                let (message, told, position) = core.incoming(stream, shard, record);
                if takes(&message, told) {
                    seen.push(Peeked::new(message, position));
                }
                seen.len() < limit
            });
            forgiving(walked.await)?;
        }
        Ok(seen)
    }

    async fn dead_letters(
        &self,
        group: &Group,
        after: Option<&str>,
        limit: usize,
    ) -> Result<Vec<Peeked>, TransportError> {
        self.core().open()?;
        let letters = self.core().letters(group, after, limit).await?;
        Ok(letters.into_iter().map(|(message, place)| Peeked::new(message, place)).collect())
    }

    async fn replay(&self, group: &Group, position: &str) -> Result<(), TransportError> {
        self.core().open()?;
        let groups = self.core().store.load(&self.core().groups_space()).await?;
        if !groups.iter().any(|row| row.key == group.as_str()) {
            return Err(invalid(format!(
                "group `{group}` is not declared here, so nobody would handle what is published again; its dead letter goes back \
                 by `Running::replay`"
            )));
        }
        let message = self.core().letter(group, position).await?;
        let Some(envelope) = message.envelope() else {
            return Err(invalid(format!(
                "the dead letter at `{position:.90}` is no envelope and cannot be replayed"
            )));
        };
        let to = Destination::Retry { group: group.clone(), step: 1, delay: std::time::Duration::ZERO };
        self.core().ensure_retry(group, 1).await?;
        self.publish(vec![Outgoing::new(to, envelope.replayed())]).await.map_err(|error| {
            TransportError::new(
                error.kind(),
                "the dead letter could not be published again; it stays where it is",
            )
            .with_source(error)
        })?;
        // Dying here leaves both, and the next replay makes a duplicate; the other way round it could be lost.
        self.core().forget_letter(group, position).await
    }

    async fn remove_dead_letter(&self, group: &Group, position: &str) -> Result<(), TransportError> {
        self.core().open()?;
        self.core().letter(group, position).await?;
        self.core().forget_letter(group, position).await
    }

    async fn depth(&self, destination: &Destination) -> Result<Option<u64>, TransportError> {
        let core = self.core();
        core.open()?;
        match destination {
            Destination::Retry { group, step, .. } => {
                core.depth_of(&core.retry_space(group, *step)).await.map(Some)
            }
            Destination::DeadLetter(group) => {
                let limit = usize::try_from(core.config.lag_limit).unwrap_or(usize::MAX);
                Ok(Some(core.letters(group, None, limit).await?.len() as u64))
            }
            // How much lies in a stream is not told; how much waits for a group is.
            _ => Ok(None),
        }
    }
}

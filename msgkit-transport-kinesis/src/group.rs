//! Groups in the table of leases: which patterns they have, which shards they read, where they begin.

use std::collections::{BTreeMap, BTreeSet, HashSet};

use futures_util::future::try_join_all;
use msgkit::Pattern;
use msgkit::transport::{Group, Start, Subscription, TransportError};

use crate::core::Core;
use crate::error::{Cause, Failure};
use crate::lease::{Change, GroupRow, Lease, LeaseRow, LeaseStore, json, key_of};
use crate::making::Made;
use crate::marker::{Known, is_dated, is_marked};
use crate::names::Wanted;
use crate::position::Position;
use crate::streams::Shard;

/// The row of a group's patterns.
pub(crate) const GROUP: &str = "group";

/// The row that says that the group of a leading wildcard has begun in every stream that was there: one that has no marker came
/// later.
const ALL: &str = "all";

impl Core {
    /// Sees to it that the group of `subscription` is there, with its streams, and begins where it is to begin.
    pub(crate) async fn ensure_group(
        &self,
        store: &dyn LeaseStore,
        space: &str,
        subscription: &Subscription,
    ) -> Result<Wanted, TransportError> {
        let wanted = self.names.wanted(subscription);
        let topic = Made::topic(&self.config);
        let ensured = wanted.named.iter().map(|stream| async move {
            let made = self.ensure(stream, topic).await?;
            Ok::<_, TransportError>(made.then(|| stream.clone()))
        });
        let made: BTreeSet<String> = try_join_all(ensured).await?.into_iter().flatten().collect();
        add_patterns(store, space, &subscription.patterns).await?;
        let others = if wanted.others { self.our_streams().await? } else { BTreeSet::new() };
        // After the streams were listed: one that came when the group was there already is seen to be one.
        let rows = store.load(space).await?;
        let began = rows.iter().any(|row| row.key == ALL);
        try_join_all(wanted.named.union(&others).map(|stream| {
            // All that is in a stream that is younger than the group is its own.
            let younger = made.contains(stream) || (began && others.contains(stream));
            let start = if younger { Start::Earliest } else { subscription.start };
            self.ensure_leases(store, space, stream, start)
        }))
        .await?;
        if wanted.others && !began {
            store.swap(space, Change::write(ALL, 0, "{}")).await?;
        }
        Ok(wanted)
    }

    /// The streams that are there and hold topics of this system.
    pub(crate) async fn our_streams(&self) -> Result<BTreeSet<String>, TransportError> {
        let there = self.list_streams().await?;
        Ok(there.into_iter().filter(|stream| self.names.is_ours(stream)).collect())
    }

    /// Sees to it that the delay step is there. Nothing is lost of it, so it begins at the beginning.
    pub(crate) async fn ensure_retry(&self, group: &Group, step: u32) -> Result<String, TransportError> {
        let stream = self.names.retry(group, step);
        self.ensure(&stream, Made::retry(&self.config)).await?;
        self.ensure_leases(&*self.store, &self.retry_space(group, step), &stream, Start::Earliest).await?;
        Ok(stream)
    }

    pub(crate) async fn ensure_letters(&self, group: &Group) -> Result<(), TransportError> {
        self.ensure(&self.names.dead_letter(group), Made::letters(&self.config)).await.map(drop)
    }

    /// Notes the group, so that operators see it, and how many delay steps it has.
    pub(crate) async fn register(&self, group: &Group, steps: u32) -> Result<(), TransportError> {
        let space = self.groups_space();
        loop {
            let rows = self.store.load(&space).await?;
            let known = rows.iter().find(|row| row.key == group.as_str());
            let before: GroupRow =
                known.and_then(|row| serde_json::from_str(&row.value).ok()).unwrap_or_default();
            if known.is_some() && before.steps >= steps {
                return Ok(());
            }
            let row = GroupRow { steps: steps.max(before.steps), ..before };
            let version = known.map_or(0, |row| row.version);
            if self.store.swap(&space, Change::write(group.as_str(), version, &json(&row))).await? {
                return Ok(());
            }
        }
    }

    /// Puts a stream's shards into the table, each where a group with `start` begins; nothing where that was done, and it is
    /// still the same stream.
    async fn ensure_leases(
        &self,
        store: &dyn LeaseStore,
        space: &str,
        stream: &str,
        start: Start,
    ) -> Result<(), TransportError> {
        let gone = |failure: Failure| {
            // One of others, which is gone since it was listed.
            if failure.cause == Cause::NotFound {
                self.forget(stream);
            }
            failure.error
        };
        self.same_place(space, stream).await.map_err(gone)?;
        let rows = store.load(space).await?;
        // Whether it was made again is seen by whoever reads it: the service is asked what a stream is 20 times a second at most,
        // by all of the account.
        if is_dated(&rows, stream) {
            return Ok(());
        }
        let told = self.described_if_allowed(stream).await.map_err(gone)?;
        let known = match &told {
            Some(told) => self.known(store, space, told, &rows).await? != Known::Not,
            None => is_marked(&rows, stream),
        };
        if known {
            return Ok(());
        }
        let shards = self.shards(stream).await.map_err(gone)?;
        let first = |shard: Shard| async move {
            let at = match start {
                Start::Earliest => Position::Oldest,
                Start::At(time) => Position::Time(time.as_millis()),
                _ => self.tip(stream, &shard.id).await?,
            };
            Ok::<_, Failure>(Lease::new(stream, &shard.id, shard.parents, at))
        };
        // What is closed lies before everything that comes from now on.
        let shards = shards.into_iter().filter(|shard| start != Start::Latest || !shard.closed);
        for lease in try_join_all(shards.map(first)).await? {
            store.swap(space, Change::write(&lease.key(), 0, &lease.to_json())).await?;
        }
        // Last: whoever dies before it does all of it again, and finds his rows.
        self.mark(store, space, stream, told.as_ref()).await?;
        Ok(())
    }

    /// Puts the shards into the table that have come since: those of a resharding, those of a stream that is new. All of them
    /// are younger than the group, so it reads them from their beginning. Looks whether it is still the same stream where `ask`
    /// says so.
    pub(crate) async fn add_shards(
        &self,
        store: &dyn LeaseStore,
        space: &str,
        stream: &str,
        rows: &[LeaseRow],
        ask: bool,
    ) -> Result<bool, Failure> {
        self.same_place(space, stream).await?;
        // Before its shards are listed, which may be those of a younger one, so that it is asked again.
        let (told, marked) = match is_marked(rows, stream) {
            true if !ask => (None, Known::Yes),
            // What cannot be told now is asked again later.
            true => (self.described(stream).await.ok(), Known::Yes),
            false => (self.described_if_allowed(stream).await?, Known::Not),
        };
        let marked = match &told {
            Some(told) => self.known(store, space, told, rows).await?,
            None => marked,
        };
        if marked == Known::Anew {
            return Ok(true);
        }
        let known: BTreeMap<String, Lease> = rows
            .iter()
            .filter_map(|row| serde_json::from_str::<Lease>(&row.value).ok())
            .filter(|lease| lease.stream == stream)
            .map(|lease| (lease.shard.clone(), lease))
            .collect();
        let shards = self.shards(stream).await?;
        let mut changed = false;
        for shard in missing(&shards, &known) {
            let lease = Lease::new(stream, &shard.id, shard.parents.clone(), Position::Oldest);
            changed |= store.swap(space, Change::write(&lease.key(), 0, &lease.to_json())).await?;
        }
        if marked == Known::Not {
            changed |= self.mark(store, space, stream, told.as_ref()).await?;
        }
        // What is read to its end, and kept no longer, need not be known any more.
        let kept: HashSet<&str> = shards.iter().map(|shard| shard.id.as_str()).collect();
        for lease in known.values().filter(|lease| lease.done && !kept.contains(lease.shard.as_str())) {
            let key = key_of(stream, &lease.shard);
            if let Some(row) = rows.iter().find(|row| row.key == key) {
                store.swap(space, Change::remove(&key, row.version)).await?;
            }
        }
        Ok(changed)
    }
}

/// The shards that a group has still to read though the table does not have them: all but the ancestors of those it has,
/// which were read, or lie before the group's beginning.
fn missing<'a>(shards: &'a [Shard], known: &BTreeMap<String, Lease>) -> Vec<&'a Shard> {
    let parents: BTreeMap<&str, &[String]> =
        shards.iter().map(|shard| (shard.id.as_str(), shard.parents.as_slice())).collect();
    let mut ancestors: BTreeSet<&str> = BTreeSet::new();
    let mut open: Vec<&str> =
        known.values().flat_map(|lease| lease.parents.iter().map(String::as_str)).collect();
    while let Some(shard) = open.pop() {
        if ancestors.insert(shard) {
            open.extend(parents.get(shard).into_iter().flat_map(|all| all.iter().map(String::as_str)));
        }
    }
    shards
        .iter()
        .filter(|shard| !known.contains_key(&shard.id) && !ancestors.contains(shard.id.as_str()))
        .collect()
}

/// A group takes all patterns that any of its members has asked for.
async fn add_patterns(
    store: &dyn LeaseStore,
    space: &str,
    patterns: &[Pattern],
) -> Result<(), TransportError> {
    loop {
        let rows = store.load(space).await?;
        let known = rows.iter().find(|row| row.key == GROUP);
        let mut group: GroupRow =
            known.and_then(|row| serde_json::from_str(&row.value).ok()).unwrap_or_default();
        let before = group.patterns.len();
        for pattern in patterns {
            if !group.patterns.iter().any(|known| known == pattern.as_str()) {
                group.patterns.push(pattern.as_str().to_owned());
            }
        }
        if known.is_some() && group.patterns.len() == before {
            return Ok(());
        }
        let version = known.map_or(0, |row| row.version);
        if store.swap(space, Change::write(GROUP, version, &json(&group))).await? {
            return Ok(());
        }
    }
}

/// The patterns of a group, by its rows.
pub(crate) fn patterns_of(rows: &[LeaseRow]) -> Vec<Pattern> {
    let group = rows.iter().find(|row| row.key == GROUP);
    let group = group.and_then(|row| serde_json::from_str::<GroupRow>(&row.value).ok());
    group.into_iter().flat_map(|group| group.patterns).filter_map(|pattern| pattern.parse().ok()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shard(id: &str, parents: &[&str], closed: bool) -> Shard {
        Shard { id: id.to_owned(), parents: parents.iter().map(|id| (*id).to_owned()).collect(), closed }
    }

    fn found(shards: &[Shard], known: &[(&str, &[&str])]) -> Vec<String> {
        let lease = |(id, parents): &(&str, &[&str])| {
            let parents = parents.iter().map(|id| (*id).to_owned()).collect();
            ((*id).to_owned(), Lease::new("s", id, parents, Position::Oldest))
        };
        let known = known.iter().map(lease).collect();
        missing(shards, &known).into_iter().map(|shard| shard.id.clone()).collect()
    }

    #[test]
    fn descendants_are_missing_and_ancestors_are_not() {
        // 0 was split into 1 and 2 before the group began with those; then 1 and 2 were merged into 3, and 3 split.
        let shards = [
            shard("0", &[], true),
            shard("1", &["0"], true),
            shard("2", &["0"], true),
            shard("3", &["1", "2"], true),
            shard("4", &["3"], false),
            shard("5", &["3"], false),
        ];
        assert_eq!(found(&shards, &[("1", &["0"]), ("2", &["0"])]), ["3", "4", "5"]);
        assert_eq!(found(&shards, &[("4", &["3"])]), ["5"]);
        // Away for longer than 1 and 2 are kept: what came of them is new all the same.
        assert_eq!(found(&shards[3..], &[("1", &["0"]), ("2", &["0"])]), ["3", "4", "5"]);
        assert_eq!(found(&shards[..1], &[]), ["0"], "a stream that is new");
    }
}

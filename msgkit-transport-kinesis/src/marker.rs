//! Which stream it was that a group has begun in. One that is deleted and made again has its name and its shards' names again,
//! and none of its records: where a group was in the old one says nothing of the new one.

use std::collections::HashSet;
use std::sync::atomic::Ordering;

use aws_sdk_kinesis::types::StreamDescriptionSummary;
use msgkit::transport::{TransportError, TransportErrorKind};
use serde::{Deserialize, Serialize};

use crate::core::{Core, EPHEMERAL};
use crate::error::{Failure, invalid};
use crate::lease::{Change, Lease, LeaseRow, LeaseStore, json};
use crate::position::Position;

/// What the key of a stream's row begins with, which says that its shards are in the table.
const STREAM: &str = "stream/";
/// The row that says where the streams are.
const PLACE: &str = "place";

#[derive(Debug, Default, Serialize, Deserialize)]
struct Marker {
    /// When the stream was made, in milliseconds since 1970; `None` = written by a version that did not ask.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    created: Option<i64>,
}

/// What the table knows of a stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Known {
    /// Nothing.
    Not,
    /// Its shards.
    Yes,
    /// Its shards, which begin anew: it was another stream.
    Anew,
}

fn key_of(stream: &str) -> String {
    format!("{STREAM}{stream}")
}

/// The streams whose shards are in the table.
pub(crate) fn marked(rows: &[LeaseRow]) -> impl Iterator<Item = &str> {
    rows.iter().filter_map(|row| row.key.strip_prefix(STREAM))
}

fn marker<'a>(rows: &'a [LeaseRow], stream: &str) -> Option<&'a LeaseRow> {
    let key = key_of(stream);
    rows.iter().find(|row| row.key == key)
}

/// Whether the shards of a stream are in the table.
pub(crate) fn is_marked(rows: &[LeaseRow], stream: &str) -> bool {
    marker(rows, stream).is_some()
}

/// Whether the table says when the stream was made.
pub(crate) fn is_dated(rows: &[LeaseRow], stream: &str) -> bool {
    marker(rows, stream).is_some_and(|row| created_of(row).is_some())
}

fn created_of(row: &LeaseRow) -> Option<i64> {
    serde_json::from_str::<Marker>(&row.value).unwrap_or_default().created
}

fn created(told: &StreamDescriptionSummary) -> Option<i64> {
    told.stream_creation_timestamp.to_millis().ok()
}

impl Core {
    /// Notes that the shards of a stream are in the table. Answers whether that was new.
    pub(crate) async fn mark(
        &self,
        store: &dyn LeaseStore,
        space: &str,
        stream: &str,
        told: Option<&StreamDescriptionSummary>,
    ) -> Result<bool, Failure> {
        let marker = json(&Marker { created: told.and_then(created) });
        Ok(store.swap(space, Change::write(&key_of(stream), 0, &marker)).await?)
    }

    /// What the service says of a stream that a wildcard has found; `None` where these credentials may not ask, which is no
    /// reason not to read it.
    pub(crate) async fn described_if_allowed(
        &self,
        stream: &str,
    ) -> Result<Option<StreamDescriptionSummary>, Failure> {
        match self.patiently(|| self.described(stream)).await {
            Ok(told) => Ok(Some(told)),
            Err(failure) if failure.error.kind() == TransportErrorKind::Refused => Ok(None),
            Err(failure) => Err(failure),
        }
    }

    /// Whether the shards of the stream that `told` describes are in the table. Where they are those of an older stream of its
    /// name, they are replaced, and begin at the beginning: all that is in a stream that was made since is younger than the
    /// group.
    pub(crate) async fn known(
        &self,
        store: &dyn LeaseStore,
        space: &str,
        told: &StreamDescriptionSummary,
        rows: &[LeaseRow],
    ) -> Result<Known, Failure> {
        let stream = &told.stream_name;
        let Some(row) = marker(rows, stream) else { return Ok(Known::Not) };
        let (Some(now), marker) = (created(told), json(&Marker { created: created(told) })) else {
            return Ok(Known::Yes);
        };
        match created_of(row) {
            None => {
                store.swap(space, Change::write(&row.key, row.version, &marker)).await?;
                return Ok(Known::Yes);
            }
            // Who asked before it was made again is not to be believed.
            Some(before) if now <= before => return Ok(Known::Yes),
            Some(_) => {}
        }
        self.begin_anew(store, space, stream, row).await?;
        // Last: whoever dies before it does all of it again.
        if store.swap(space, Change::write(&row.key, row.version, &marker)).await? {
            self.remade.fetch_add(1, Ordering::Relaxed);
            tracing::error!(
                stream,
                space,
                "the stream was deleted and made again: it is read from its beginning, what was left in the old one is gone"
            );
        }
        Ok(Known::Anew)
    }

    /// Streams of another region or account have the same names, and would share their leases: half of each would be read by
    /// nobody. It is asked once, of the first stream: all of them are of one account.
    pub(crate) async fn same_place(&self, space: &str, stream: &str) -> Result<(), Failure> {
        if space == EPHEMERAL {
            return Ok(());
        }
        let placed = self.placed.get_or_try_init(|| async {
            let told = self.patiently(|| self.described(stream)).await?;
            Ok::<_, Failure>(self.take_place(&told).await?)
        });
        match placed.await {
            // The next one may be one of which these credentials may ask.
            Err(failure) if failure.error.kind() == TransportErrorKind::Refused => Ok(()),
            placed => placed.map(drop),
        }
    }

    async fn take_place(&self, told: &StreamDescriptionSummary) -> Result<(), TransportError> {
        let store = &self.store;
        // `arn:aws:kinesis:eu-west-1:123456789012:stream/name`, by whatever address the service was reached.
        let Some((place, _)) = told.stream_arn.split_once(":stream/") else { return Ok(()) };
        let space = self.place_space();
        loop {
            let rows = store.load(&space).await?;
            return match rows.iter().find(|row| row.key == PLACE) {
                Some(row) if row.value == json(&place) => Ok(()),
                Some(row) => Err(invalid(format!(
                    "the table of leases is that of the streams `{}` in {}, and these are in {place}; give them a table of \
                     their own (the option `leases`), or another path in the url",
                    self.names.prefix(),
                    row.value
                ))),
                None if store.swap(&space, Change::write(PLACE, 0, &json(&place))).await? => Ok(()),
                None => continue,
            };
        }
    }

    /// Replaces the leases of a stream, whoever has them, until it is done or another member has done it.
    async fn begin_anew(
        &self,
        store: &dyn LeaseStore,
        space: &str,
        stream: &str,
        marker: &LeaseRow,
    ) -> Result<(), Failure> {
        let shards = self.shards(stream).await?;
        let mut replaced = HashSet::new();
        loop {
            let rows = store.load(space).await?;
            if rows.iter().any(|row| row.key == marker.key && row.version != marker.version) {
                return Ok(());
            }
            let mut again = false;
            for row in rows.iter().filter(|row| row.key.starts_with("lease/")) {
                let Ok(old) = serde_json::from_str::<Lease>(&row.value) else { continue };
                if old.stream != stream || replaced.contains(&row.key) {
                    continue;
                }
                let new = shards.iter().find(|shard| shard.id == old.shard).map(|shard| {
                    Lease::new(stream, &shard.id, shard.parents.clone(), Position::Oldest).to_json()
                });
                let change = Change { key: &row.key, expected: row.version, value: new.as_deref() };
                // Its owner may write at this moment; once it is replaced, it is lost to it.
                if store.swap(space, change).await? {
                    replaced.insert(row.key.clone());
                } else {
                    again = true;
                }
            }
            if !again {
                break;
            }
        }
        for shard in shards {
            let lease = Lease::new(stream, &shard.id, shard.parents, Position::Oldest);
            store.swap(space, Change::write(&lease.key(), 0, &lease.to_json())).await?;
        }
        Ok(())
    }
}

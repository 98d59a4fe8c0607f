//! Who else is there: signs of life of the other members, as whoever looks sees them.

use std::collections::{BTreeSet, HashMap};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::time::Instant;

use super::Member;
use super::keeper::{Keeper, MEMBER};
use crate::error::Failure;
use crate::lease::{Change, LeaseRow, json};

/// What a member's row says.
#[derive(Debug, Default, Serialize, Deserialize)]
struct MemberRow {
    /// For how long it may give no sign of life, in milliseconds; 0 = written by a version that did not say.
    #[serde(default)]
    lease_ms: u64,
}

/// The others, as they were seen last.
pub(super) struct Others {
    /// Each one's version, and for how long it has been the same.
    seen: HashMap<String, (u64, Duration)>,
    looked: Instant,
}

impl Others {
    pub(super) fn new() -> Self {
        Self { seen: HashMap::new(), looked: Instant::now() }
    }

    /// How much time has passed for the others since the last look. Of a long pause it is not known whether any of them could
    /// have written, so it counts as little as one look that found nothing new.
    fn passed(&mut self, heartbeat: Duration) -> Duration {
        let pause = self.looked.elapsed();
        self.looked = Instant::now();
        if pause > heartbeat * 2 { heartbeat } else { pause }
    }
}

impl Member {
    /// What this member's row says.
    pub(super) fn own_row(&self) -> String {
        let lease_ms = u64::try_from(self.core.config.lease.as_millis()).unwrap_or(u64::MAX);
        json(&MemberRow { lease_ms })
    }

    /// The members that give signs of life; buries those that do not.
    pub(super) async fn alive(
        &self,
        keeper: &mut Keeper,
        rows: &[LeaseRow],
    ) -> Result<BTreeSet<String>, Failure> {
        let config = &self.core.config;
        let passed = keeper.others.passed(config.heartbeat);
        let mut alive = BTreeSet::from([keeper.id.clone()]);
        let mut seen = HashMap::new();
        for row in rows {
            let Some(id) = row.key.strip_prefix(MEMBER).filter(|id| *id != keeper.id) else { continue };
            let mut silent = match keeper.others.seen.get(id) {
                Some((version, silent)) if *version == row.version => *silent + passed,
                _ => Duration::ZERO,
            };
            // Members of other settings, as while they are rolled out, are waited for as long as they say.
            let said = serde_json::from_str::<MemberRow>(&row.value).unwrap_or_default().lease_ms;
            if silent > config.lease.max(Duration::from_millis(said)) {
                if self.store.swap(&self.space, Change::remove(&row.key, row.version)).await? {
                    continue;
                }
                // It has given a sign at this moment.
                silent = Duration::ZERO;
            }
            seen.insert(id.to_owned(), (row.version, silent));
            alive.insert(id.to_owned());
        }
        keeper.others.seen = seen;
        Ok(alive)
    }
}

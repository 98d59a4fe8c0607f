//! Claims and settlements: what is in whose hand.

use std::collections::BTreeMap;
use std::sync::Arc;

use msgkit::transport::Token;
use sqlx::Row;

use super::commit::Commit;
use super::{Turn, Writer};
use crate::member::Claimed;
use crate::operate::stored;
use crate::wire::json_list;

/// The oldest messages that nobody has in hand, and of whose key no other member has one in hand: the order of a key
/// holds across the group. A member that was taken for dead claims nothing.
const CLAIM: &str = "
    UPDATE msgkit_queue SET member = ?2, starts = starts + 1
    WHERE grp = ?1 AND message IN (
        SELECT q.message FROM msgkit_queue q
        WHERE q.grp = ?1 AND q.member IS NULL AND EXISTS (SELECT 1 FROM msgkit_member WHERE id = ?2)
            AND (q.key IS NULL OR NOT EXISTS (
                SELECT 1 FROM msgkit_member other CROSS JOIN msgkit_queue held
                WHERE other.grp = ?1 AND other.id <> ?2 AND held.member = other.id AND held.key = q.key))
        ORDER BY q.message LIMIT ?3)
    RETURNING message, (SELECT body FROM msgkit_message m WHERE m.id = message), starts";

const DONE: &str = "
    DELETE FROM msgkit_queue WHERE grp = ?1 AND member = ?2 AND message IN (SELECT value FROM json_each(?3))";

const RETURNED: &str = "
    UPDATE msgkit_queue SET member = NULL, starts = max(starts - 1, 0)
    WHERE grp = ?1 AND member = ?2 AND message IN (SELECT value FROM json_each(?3))";

impl Writer {
    /// Takes what was handled out of the queues, and puts back what was given back.
    pub(super) async fn settle(
        &mut self,
        commit: &mut Commit<'_>,
        turn: &mut Turn,
    ) -> Result<(), sqlx::Error> {
        for (member, settled) in &turn.settled {
            let Some(seat) = self.seats.iter().find(|seat| Arc::ptr_eq(&seat.member, member)) else {
                continue;
            };
            for (id, messages) in by_member(&settled.done) {
                let asked = messages.len() as u64;
                // What another member has by now is still in the queue, and so does not go with these.
                commit.spent.extend_from_slice(&messages);
                let query = sqlx::query(DONE).bind(seat.group).bind(id).bind(json_list(messages));
                let gone = commit.run(query).await?;
                commit.move_depth(seat.group, -i64::try_from(gone).unwrap_or(i64::MAX));
                turn.lost_leases += asked.saturating_sub(gone);
            }
            for (id, messages) in by_member(&settled.returned) {
                let asked = messages.len() as u64;
                let query = sqlx::query(RETURNED).bind(seat.group).bind(id).bind(json_list(messages));
                turn.lost_leases += asked.saturating_sub(commit.run(query).await?);
            }
            commit.touched.insert(seat.group);
        }
        Ok(())
    }

    /// Gives back what members had who have left. What was never received goes back as if never claimed; what a handler
    /// still has keeps its start.
    pub(super) async fn leave(
        &mut self,
        commit: &mut Commit<'_>,
        turn: &mut Turn,
    ) -> Result<(), sqlx::Error> {
        for at in 0..self.seats.len() {
            let seat = &self.seats[at];
            if !seat.member.has_left() {
                continue;
            }
            let (id, group, ephemeral) = (seat.id, seat.group, seat.wanted.name.is_none());
            for (id, messages) in by_member(&seat.member.unreceived()) {
                commit.run(sqlx::query(RETURNED).bind(group).bind(id).bind(json_list(messages))).await?;
            }
            commit.dismiss(id, group).await?;
            if ephemeral {
                self.groups.remove(commit, group).await?;
            }
            turn.left.push(id);
        }
        Ok(())
    }

    /// Claims for everybody who waits and may find something.
    pub(super) async fn claim(
        &mut self,
        commit: &mut Commit<'_>,
        turn: &mut Turn,
    ) -> Result<(), sqlx::Error> {
        // Who came first in this turn comes last in the next.
        if !self.seats.is_empty() {
            self.seats.rotate_left(1);
        }
        for seat in &mut self.seats {
            let wanted = seat.member.wanted();
            if commit.touched.contains(&seat.group) {
                seat.dry = false;
            }
            if wanted == 0 || seat.dry || turn.left.contains(&seat.id) {
                continue;
            }
            let query = sqlx::query(CLAIM)
                .bind(seat.group)
                .bind(seat.id)
                .bind(i64::try_from(wanted).unwrap_or(i64::MAX));
            let rows = query.fetch_all(&mut *commit.connection).await?;
            seat.dry = rows.len() < wanted;
            let mut claimed = rows
                .iter()
                .map(|row| Ok(Claimed { stored: stored(row)?, starts: row.try_get(2)?, member: seat.id }))
                .collect::<Result<Vec<_>, sqlx::Error>>()?;
            if !claimed.is_empty() {
                // The rows of an update come in no particular order.
                claimed.sort_unstable_by_key(|claimed| claimed.stored.id);
                turn.claimed.push((seat.member.clone(), claimed));
            }
        }
        Ok(())
    }
}

impl Commit<'_> {
    /// A member's row.
    pub(super) async fn join(&mut self, process: Option<i64>, group: i64) -> Result<i64, sqlx::Error> {
        let row = sqlx::query("INSERT INTO msgkit_member (process, grp) VALUES (?1, ?2) RETURNING id")
            .bind(process)
            .bind(group)
            .fetch_one(&mut *self.connection)
            .await?;
        row.try_get(0)
    }

    /// Takes a member's row away; what it has in hand goes back with its starts counted.
    pub(super) async fn dismiss(&mut self, member: i64, group: i64) -> Result<(), sqlx::Error> {
        self.run(sqlx::query("UPDATE msgkit_queue SET member = NULL WHERE member = ?1").bind(member)).await?;
        self.run(sqlx::query("DELETE FROM msgkit_member WHERE id = ?1").bind(member)).await?;
        self.touched.insert(group);
        Ok(())
    }
}

/// Messages by the member under which they were claimed: one, unless this process was taken for dead in between.
fn by_member(tokens: &[Token]) -> BTreeMap<i64, Vec<i64>> {
    let mut members: BTreeMap<i64, Vec<i64>> = BTreeMap::new();
    for token in tokens {
        members.entry(token.epoch.cast_signed()).or_default().push(token.id.cast_signed());
    }
    members
}

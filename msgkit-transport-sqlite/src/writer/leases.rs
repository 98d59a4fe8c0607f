//! Signs of life: this process' own, and what becomes of those who give none.

use std::time::Duration;

use msgkit::Timestamp;
use sqlx::Row;

use super::commit::Commit;
use super::{Turn, Writer};

const KEPT_TOO_LONG: &str = "
    DELETE FROM msgkit_message WHERE retained > 0 AND retained <= ?1
        AND NOT EXISTS (SELECT 1 FROM msgkit_group g CROSS JOIN msgkit_queue q
            WHERE q.grp = g.id AND q.message = msgkit_message.id)
        AND NOT EXISTS (SELECT 1 FROM msgkit_delayed d WHERE d.message = msgkit_message.id)";
const STILL_NEEDED: &str = "
    UPDATE msgkit_message SET retained = 0 WHERE retained > 0 AND retained <= ?1";

impl Writer {
    /// Renews the lease of this process, or takes its place again where it was taken for dead; then looks for the dead,
    /// and for messages that were kept for long enough.
    pub(super) async fn beat(&mut self, commit: &mut Commit<'_>, turn: &mut Turn) -> Result<(), sqlx::Error> {
        if commit.is_forgotten {
            tracing::warn!(
                file = %self.file.display(),
                "this process gave no sign of life for its `lease`, so others handle what it had in hand"
            );
            self.remember(turn);
            let process = commit.enter(self.config.lease).await?;
            for at in 0..self.seats.len() {
                let seat = &self.seats[at];
                let group = self.groups.ensure(commit, &seat.wanted, Some(process)).await?;
                let id = commit.join(Some(process), group).await?;
                let seat = &mut self.seats[at];
                (seat.id, seat.group, seat.dry) = (id, group, false);
            }
            self.process = Some(process);
        } else if let Some(process) = self.process {
            let renew = sqlx::query("UPDATE msgkit_process SET lease = ?2 WHERE id = ?1");
            commit.run(renew.bind(process).bind(lease_end(self.config.lease))).await?;
        }
        turn.spared = self.stood_still();
        if !turn.spared {
            self.bury(commit).await?;
        }
        let now = commit.now;
        commit.run(sqlx::query(KEPT_TOO_LONG).bind(now)).await?;
        commit.run(sqlx::query(STILL_NEEDED).bind(now)).await?;
        Ok(())
    }

    /// Whether this process is late with its sign of life, as all are on a machine that stood still, or slept: they get the third of
    /// a lease to give theirs. Once: one that is always late finds the dead all the same.
    fn stood_still(&self) -> bool {
        let late = self.config.lease * 2 / 3;
        !self.spared && self.last_beat.is_some_and(|at| Timestamp::now().since(at) > late)
    }

    /// Gives back what processes had whose lease has ended.
    async fn bury(&mut self, commit: &mut Commit<'_>) -> Result<(), sqlx::Error> {
        let dead = sqlx::query("SELECT id FROM msgkit_process WHERE lease < ?1")
            .bind(Timestamp::now().as_millis())
            .fetch_all(&mut *commit.connection)
            .await?;
        for row in &dead {
            let process: i64 = row.try_get(0)?;
            tracing::warn!(process, "a process has died; what it had in hand goes to others");
            let members = sqlx::query("SELECT id, grp FROM msgkit_member WHERE process = ?1")
                .bind(process)
                .fetch_all(&mut *commit.connection)
                .await?;
            for row in &members {
                commit.dismiss(row.try_get(0)?, row.try_get(1)?).await?;
            }
            let ephemeral = sqlx::query("SELECT id FROM msgkit_group WHERE process = ?1")
                .bind(process)
                .fetch_all(&mut *commit.connection)
                .await?;
            for row in &ephemeral {
                self.groups.remove(commit, row.try_get(0)?).await?;
            }
            commit.run(sqlx::query("DELETE FROM msgkit_process WHERE id = ?1").bind(process)).await?;
        }
        Ok(())
    }
}

impl Commit<'_> {
    /// This process' row.
    pub(super) async fn enter(&mut self, lease: Duration) -> Result<i64, sqlx::Error> {
        let row = sqlx::query("INSERT INTO msgkit_process (lease) VALUES (?1) RETURNING id")
            .bind(lease_end(lease))
            .fetch_one(&mut *self.connection)
            .await?;
        row.try_get(0)
    }
}

/// Leases run on the system's clock, which processes share, whatever clock the messages go by.
fn lease_end(lease: Duration) -> i64 {
    Timestamp::now().after(lease).as_millis()
}

//! What operators do with dead letters.

use msgkit::envelope::structured;
use msgkit::transport::{TransportError, TransportErrorKind};
use sqlx::Row;

use super::commit::Commit;
use crate::operate::undeclared;
use crate::wire::{Json, key_hash, replayed};

impl Commit<'_> {
    /// Puts a dead letter into the queue of its group again, then removes it: both in this commit, or neither.
    pub(super) async fn replay(
        &mut self,
        id: Option<i64>,
        group: &str,
        position: i64,
    ) -> Result<Result<(), TransportError>, sqlx::Error> {
        let row = sqlx::query("SELECT body FROM msgkit_dead_letter WHERE id = ?1 AND grp = ?2")
            .bind(position)
            .bind(group)
            .fetch_optional(&mut *self.connection)
            .await?;
        let Some(row) = row else { return Ok(Err(no_such(group, position))) };
        let Some(id) = id else { return Ok(Err(undeclared(group))) };
        let body: Vec<u8> = row.try_get(0)?;
        let Some(envelope) = replayed(&body) else {
            return Ok(Err(TransportError::new(
                TransportErrorKind::Internal,
                format!(
                    "dead letter {position} of group `{group}` is no envelope; look at it, then remove it"
                ),
            )));
        };
        let place = self.insert(&structured::to_vec(&envelope)).await?;
        let mut queue = Json::default();
        queue.entry(place, envelope.key().map(key_hash));
        self.enqueue(id, queue, 1).await?;
        self.remove_dead_letter(group, position).await
    }

    pub(super) async fn remove_dead_letter(
        &mut self,
        group: &str,
        position: i64,
    ) -> Result<Result<(), TransportError>, sqlx::Error> {
        let remove = sqlx::query("DELETE FROM msgkit_dead_letter WHERE id = ?1 AND grp = ?2");
        let removed = self.run(remove.bind(position).bind(group.to_owned())).await?;
        Ok(if removed == 1 { Ok(()) } else { Err(no_such(group, position)) })
    }
}

fn no_such(group: &str, position: i64) -> TransportError {
    TransportError::new(
        TransportErrorKind::Invalid,
        format!(
            "group `{group}` has no dead letter {position}; it may have been replayed or removed by somebody else"
        ),
    )
}

//! What the broker is told of settlements, and those who wait for its word.

use std::time::{Duration, Instant};

use msgkit::transport::{TransportError, TransportErrorKind};
use rdkafka::error::KafkaError;

use super::{AGAIN, Driver, OnItsWay};
use crate::error;
use crate::subscriber::committer::commit;
use crate::subscriber::partition::Counting;

/// How long a flush waits for the broker's word.
const FLUSH: Duration = Duration::from_secs(30);

/// After how many failures in a row it is said: of commits, and of looks whose a message is.
pub(super) const WORTH_A_WORD: u32 = 20;

impl Driver {
    /// Tells the broker, in place, how far these partitions are. Nothing of them is in hand any more, as far as the next
    /// member is concerned: giving back is no start.
    pub(super) fn last_commit(&mut self, only: Option<&[u64]>) {
        let commits = self.member.commits(only, Counting::None);
        if commits.is_empty() {
            return;
        }
        match commit(&self.client, &commits) {
            Ok(()) => self.member.told(commits),
            Err(error) => {
                tracing::warn!(%error, "what was settled last could not be committed; it will come again");
            }
        }
    }

    /// Tells the broker how far everything is; one commit is on its way at a time.
    pub(super) fn commit(&mut self) {
        let now = Instant::now();
        self.flushes.extend(self.member.take_flushes().into_iter().map(|flush| (flush, now + FLUSH)));
        self.flushes.retain(|(flush, _)| !flush.is_closed());
        if self.on_its_way.is_some() {
            return;
        }
        let (urgent, behind) = self.member.wants_commit();
        let waited = !self.flushes.is_empty();
        if now < self.commit_after
            && !((waited || urgent) && self.commit_after <= now + self.cluster.config.commit_interval)
        {
            self.give_up_flushes(now);
            return;
        }
        if !(urgent || behind || waited) {
            return;
        }
        let counting = if waited { Counting::InHand } else { Counting::Ahead };
        let commits = self.member.commits(None, counting);
        let flushes = std::mem::take(&mut self.flushes);
        if commits.is_empty() {
            for (flush, _) in flushes {
                let _ = flush.send(Ok(()));
            }
            if urgent && !waited {
                self.member.arrived.notify_one();
            }
            return;
        }
        tracing::trace!(?commits, "a commit is sent");
        self.commit_after = now + self.cluster.config.commit_interval;
        self.committer.send(commits.clone());
        self.on_its_way = Some(OnItsWay { commits, flushes });
    }

    pub(super) fn committed(&mut self, result: Result<(), KafkaError>) {
        tracing::trace!(?result, "a commit is answered");
        let Some(OnItsWay { commits, flushes, .. }) = self.on_its_way.take() else { return };
        match result {
            Ok(()) => {
                self.not_taken = 0;
                self.member.told(commits);
                for (flush, _) in flushes {
                    let _ = flush.send(Ok(()));
                }
            }
            Err(error) => {
                self.not_taken += 1;
                if self.not_taken.is_multiple_of(WORTH_A_WORD) {
                    tracing::warn!(
                        %error,
                        times = self.not_taken,
                        "commits are not taken; what was settled since the last comes again if this member ends now, and soon no message is \
                         handed out any more, because its start cannot be written down"
                    );
                } else {
                    tracing::debug!(%error, "a commit was not taken; it is sent again");
                }
                let error = error::of(error, "committing what was settled");
                if matches!(error.kind(), TransportErrorKind::Refused | TransportErrorKind::Invalid) {
                    // Nothing would be handed out any more without its starts written down.
                    self.member.fail(error);
                }
                self.member.not_told(&commits);
                self.flushes.extend(flushes);
                self.commit_after = Instant::now() + self.cluster.config.commit_interval + AGAIN;
            }
        }
    }

    pub(super) fn give_up_flushes(&mut self, now: Instant) {
        for (flush, _) in self.flushes.extract_if(.., |(_, until)| *until <= now) {
            let _ = flush.send(Err(TransportError::new(
                TransportErrorKind::Timeout,
                format!(
                    "the Kafka brokers have not taken the settlements within {FLUSH:?}; they are sent again"
                ),
            )));
        }
    }
}

/// The error of settlements that went with their partitions.
pub(in crate::subscriber) fn lost_settlements() -> TransportError {
    TransportError::new(
        TransportErrorKind::Unavailable,
        "partitions went to another member, or the subscription ended, before the brokers had taken all settlements; \
         their messages come again",
    )
}

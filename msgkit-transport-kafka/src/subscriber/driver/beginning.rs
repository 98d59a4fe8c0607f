//! When `subscribe` returns: with the first partitions, or without, where others have them all.

use std::time::{Duration, Instant};

use msgkit::transport::{TransportError, TransportErrorKind};
use rdkafka::consumer::Consumer as _;

use super::{AGAIN, BEGIN, Driver, Source};
use crate::cluster::ASK;

/// How long a member that begins without partitions waits for others to hand some over.
pub(super) const HANDED_OVER: Duration = Duration::from_millis(1500);

impl Driver {
    /// Tells `subscribe` that the subscription runs, or goes on without having partitions yet.
    pub(super) fn answer_ready(&mut self) {
        if self.ready.is_none() {
            return;
        }
        if !self.begun {
            self.give_up_beginning();
            return;
        }
        if self.looked.is_none() || self.ready_by > Instant::now() {
            return;
        }
        if self.held.is_empty() && self.begun_by > Instant::now() && self.is_owed_some() {
            self.ready_by = (Instant::now() + AGAIN).min(self.begun_by);
            return;
        }
        if let Some(ready) = self.ready.take() {
            let _ = ready.send(Ok(()));
        }
    }

    /// Without a group nothing says where it begins but the ends that topics have now: where nobody tells them, a beginning with
    /// nothing would take all that is there for new.
    fn give_up_beginning(&mut self) {
        if self.begun_by <= Instant::now()
            && let Some(ready) = self.ready.take()
        {
            let error = TransportError::new(
                TransportErrorKind::Timeout,
                format!(
                    "the Kafka brokers have not told within {BEGIN:?} where the topics of a subscription end"
                ),
            );
            let why = self.why_not.take();
            let _ = ready.send(Err(match why {
                Some(why) => error.with_source(why),
                None => error,
            }));
        }
    }

    /// Whether there are partitions enough for every member of the group.
    pub(super) fn is_owed_some(&self) -> bool {
        let Source::Group(group) = &self.source else { return false };
        let Ok(all) = self.cluster.topics_within(Duration::from_secs(3600)) else { return false };
        let partitions: usize = self.topics.iter().filter_map(|topic| all.get(topic)).sum();
        let listed = self.client.fetch_group_list(Some(group), ASK);
        listed.is_ok_and(|list| list.groups().iter().all(|one| one.members().len() <= partitions))
    }
}

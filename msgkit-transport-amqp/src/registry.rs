//! Which groups there are. AMQP cannot list queues, so the groups are written down: in one message that lies in a queue
//! of its own. Whoever has it in hand may change it; everybody else waits for it, so it is a lock too.

use std::collections::BTreeMap;
use std::time::Duration;

use bytes::Bytes;
use lapin::options::{BasicAckOptions, BasicGetOptions, QueueDeclareOptions};
use lapin::types::FieldTable;
use lapin::{BasicProperties, Channel};
use msgkit::transport::{Destination, Group, TransportError, TransportErrorKind};
use serde::{Deserialize, Serialize};
use tokio::time::Instant;

use crate::broker::{Broker, KnownGroup};
use crate::error::is_missing;
use crate::publisher::{Outcome, Parcel, Place};
use crate::topology::short;
use crate::wire::{PERSISTENT, Written};

/// How long to wait for whoever has the registry in hand. A holder that dies gives it back at once.
const PATIENCE: Duration = Duration::from_secs(5);
/// How long to wait before it is asked for again.
const AGAIN: Duration = Duration::from_millis(15);

/// How many messages of a group are remembered as looked at; of more, the oldest count a start too many.
const LOOKED_AT: usize = 1000;

/// What is written down.
#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(default)]
struct Record {
    groups: BTreeMap<String, KnownGroup>,
    /// By group: what an operator has looked at, and how often.
    looked_at: BTreeMap<String, Vec<(String, u32)>>,
}

impl Record {
    fn learn(&mut self, other: Self) {
        for (name, known) in other.groups {
            self.groups.entry(name).or_default().learn(known);
        }
        for (name, looked_at) in other.looked_at {
            let all = self.looked_at.entry(name).or_default();
            for (print, times) in looked_at {
                match all.iter_mut().find(|(known, _)| *known == print) {
                    // One of the lists is an older state of the other: a list may come late, when an alarm ends.
                    Some((_, known)) => *known = times.max(*known),
                    None => all.push((print, times)),
                }
            }
        }
    }
}

/// The registry in hand: nobody else has it until this is dropped.
pub(crate) struct Held {
    channel: Channel,
    tags: Vec<u64>,
    record: Record,
}

impl Broker {
    /// Writes down every group that this transport knows, where one is not there yet.
    pub(crate) async fn register(&self) -> Result<(), TransportError> {
        let known = self.known_groups();
        if known.is_empty() || (self.is_registered(&known) && self.has_list().await?) {
            return Ok(());
        }
        let mut held = self.hold().await?;
        let mut new = held.tags.is_empty();
        for (group, known) in &known {
            match held.record.groups.get_mut(group.as_str()) {
                Some(entry) => new |= entry.learn(known.clone()),
                None => {
                    held.record.groups.insert(group.as_str().to_owned(), known.clone());
                    new = true;
                }
            }
        }
        if new || held.tags.len() > 1 {
            held.write(self).await?;
        } else {
            held.release(self).await;
        }
        self.registered(known);
        Ok(())
    }

    /// Whether the list has its queue still, which is asked without taking it into the hand.
    async fn has_list(&self) -> Result<bool, TransportError> {
        let queue = &self.names.registry;
        if !self.has_queue(queue) {
            if self.depth_of(queue).await?.is_none() {
                return Ok(false);
            }
            self.know_queue(queue.clone());
        }
        Ok(true)
    }

    /// As [`Broker::register`], for those who do not stop for it: the list is for operators. While an alarm is on it cannot be
    /// written, so nobody takes it into the hand.
    pub(crate) async fn write_down(&self) {
        if self.publishing.blocked() {
            return;
        }
        if let Err(error) = self.register().await
            && error.kind() != TransportErrorKind::Closed
        {
            tracing::warn!(error = %msgkit::Chain(&error), "a group cannot be written down now, so operators may not see it");
        }
    }

    /// Learns of all groups that are written down.
    pub(crate) async fn look_up(&self) -> Result<(), TransportError> {
        let held = self.hold().await?;
        self.learn(&held);
        held.release(self).await;
        Ok(())
    }

    /// What an operator has looked at of `group`, and how often.
    pub(crate) async fn looks(&self, group: &Group) -> Result<Vec<(String, u32)>, TransportError> {
        let mut held = self.hold().await?;
        let looks = held.record.looked_at.remove(group.as_str()).unwrap_or_default();
        held.release(self).await;
        Ok(looks)
    }

    /// Takes note of what is written down.
    pub(crate) fn learn(&self, held: &Held) {
        for (name, known) in &held.record.groups {
            if let Ok(group) = Group::new(name.clone()) {
                self.know_group(&group, known.clone());
            }
        }
    }

    /// Takes the registry into this hand.
    pub(crate) async fn hold(&self) -> Result<Held, TransportError> {
        self.hold_within(PATIENCE).await
    }

    /// The same, waiting for whoever has it as long as `patience`.
    pub(crate) async fn hold_within(&self, mut patience: Duration) -> Result<Held, TransportError> {
        let queue = &self.names.registry;
        if !self.has_queue(queue) {
            if self.depth_of(queue).await?.is_none() {
                self.unregister();
                // Nobody has written anything, so nobody has it in hand.
                patience = Duration::ZERO;
            }
            let channel = self.asking().await?;
            self.declarer(&channel).plain(queue).await?;
            self.know_queue(queue.clone());
        }
        let channel = self.asking().await?;
        let deadline = Instant::now() + patience;
        let mut held = Held { channel, tags: Vec::new(), record: Record::default() };
        loop {
            // More than one lie there where two have begun at once: they are put together.
            loop {
                let getting = held.channel.basic_get(short(queue), BasicGetOptions::default());
                let got = self.answer(getting, &format!("reading queue `{queue}`")).await?;
                let Some(message) = got else { break };
                held.tags.push(message.delivery.delivery_tag);
                match serde_json::from_slice(&message.delivery.data) {
                    Ok(record) => held.record.learn(record),
                    Err(error) => {
                        held.release(self).await;
                        return Err(unreadable(queue).with_source(error));
                    }
                }
            }
            if !held.tags.is_empty() || Instant::now() >= deadline {
                return Ok(held);
            }
            tokio::time::sleep(AGAIN).await;
        }
    }

    /// How many messages wait in `queue`; `None` where there is none.
    pub(crate) async fn depth_of(&self, queue: &str) -> Result<Option<u64>, TransportError> {
        Ok(self.state_of(queue).await?.map(|(depth, _)| depth))
    }

    /// How many messages wait in `queue`, and how many consume it; `None` where there is none.
    pub(crate) async fn state_of(&self, queue: &str) -> Result<Option<(u64, u32)>, TransportError> {
        let channel = self.asking().await?;
        let options = QueueDeclareOptions { passive: true, ..QueueDeclareOptions::default() };
        let asking = async {
            match channel.queue_declare(short(queue), options, FieldTable::default()).await {
                Ok(declared) => Ok(Some((declared.message_count().into(), declared.consumer_count()))),
                Err(error) if is_missing(&error) => Ok(None),
                Err(error) => Err(error),
            }
        };
        self.answer(asking, &format!("asking for queue `{queue}`")).await
    }

    /// Those of the known groups that take one of `parcels` and are full.
    pub(crate) async fn full_groups(&self, parcels: &[Parcel]) -> Vec<String> {
        let mut full = Vec::new();
        for (group, known) in self.known_groups() {
            let concerned = parcels.iter().any(|parcel| match &parcel.message.to {
                Destination::Topic { topic, .. } => known.takes(topic),
                Destination::Retry { group: to, .. } => *to == group,
                _ => false,
            });
            if concerned
                && let Ok(Some(depth)) = self.depth_of(&self.names.group(group.as_str())).await
                && depth >= u64::from(self.config.capacity)
            {
                full.push(group.as_str().to_owned());
            }
        }
        full
    }
}

impl Held {
    /// Writes the list anew in the place of what was there, and gives it to the next.
    async fn write(self, broker: &Broker) -> Result<(), TransportError> {
        let written = self.replace(broker).await;
        self.release(broker).await;
        written
    }

    /// The new list is confirmed before the old one goes. It goes by the connection that publishes: an alarm of the broker stops
    /// all of a connection on which anything was published, and this one settles.
    async fn replace(&self, broker: &Broker) -> Result<(), TransportError> {
        let queue = &broker.names.registry;
        let text = serde_json::to_vec(&self.record).map_err(|error| {
            TransportError::new(TransportErrorKind::Internal, "the registry cannot be written")
                .with_source(error)
        })?;
        let properties = BasicProperties::default()
            .with_delivery_mode(PERSISTENT)
            .with_content_type("application/json".into());
        let written = Written { head: 0, properties, payload: Bytes::from(text) };
        match broker.confirm(vec![(&Place::Registry, written)]).await.pop() {
            Some(Outcome::Taken) => {}
            Some(Outcome::Failed(error)) => {
                let text = format!("writing queue `{queue}` failed");
                return Err(TransportError::new(error.kind(), text).with_source(error));
            }
            Some(Outcome::Refused | Outcome::Unrouted) | None => {
                let text = format!("queue `{queue}` does not take the list of groups; was it deleted?");
                return Err(TransportError::new(TransportErrorKind::Unavailable, text));
            }
        }
        for tag in &self.tags {
            let acknowledging = self.channel.basic_ack(*tag, BasicAckOptions::default());
            broker.answer(acknowledging, &format!("writing queue `{queue}`")).await?;
        }
        Ok(())
    }

    /// Writes down that messages of `group` were looked at, before they go back: the queue counts that as a start.
    pub(crate) async fn looked_at(
        mut self,
        broker: &Broker,
        group: &Group,
        prints: impl Iterator<Item = String>,
    ) -> Result<(), TransportError> {
        let all = self.record.looked_at.entry(group.as_str().to_owned()).or_default();
        for print in prints {
            match all.iter_mut().find(|(known, _)| *known == print) {
                Some((_, times)) => *times += 1,
                None => all.push((print, 1)),
            }
        }
        let surplus = all.len().saturating_sub(LOOKED_AT);
        all.drain(..surplus);
        self.write(broker).await
    }

    /// Gives it to the next.
    pub(crate) async fn release(self, broker: &Broker) {
        // The broker has it back in any case once the channel is gone.
        let _ = broker.answer(self.channel.close(200, "done".into()), "giving the registry back").await;
    }
}

/// Written anew, the list would be without what this version cannot read.
fn unreadable(queue: &str) -> TransportError {
    let text = format!(
        "queue `{queue}` holds a list of groups that this version cannot read: use the version that has written it, or, where it \
         is none of msgkit's, take it out of the queue"
    );
    TransportError::new(TransportErrorKind::Refused, text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list_that_comes_late_counts_no_look_twice() {
        let record = |looks: &[(&str, u32)]| Record {
            looked_at: [("g".to_owned(), looks.iter().map(|(print, n)| ((*print).to_owned(), *n)).collect())]
                .into(),
            ..Record::default()
        };
        let (older, newer) = ([("a", 1), ("b", 1)], [("a", 2), ("c", 1)]);
        for (first, second) in [(&older, &newer), (&newer, &older)] {
            let mut all = record(first);
            all.learn(record(second));
            let mut looks = all.looked_at.remove("g").unwrap_or_default();
            looks.sort();
            assert_eq!(looks, [("a".to_owned(), 2), ("b".to_owned(), 1), ("c".to_owned(), 1)]);
        }
    }
}

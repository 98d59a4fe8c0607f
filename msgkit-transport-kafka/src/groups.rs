//! Which groups there are, and where each began. Kafka forgets a group that was away for long, and knows no patterns; so
//! each pattern of a group is written down, once, in a compacted topic, with the offsets at which the group begins in the
//! Kafka topics that were there.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, PoisonError};

use msgkit::Pattern;
use msgkit::transport::{Group, Start, Subscription, TransportError, TransportErrorKind};
use rdkafka::message::{Message as _, OwnedHeaders};
use serde::{Deserialize, Serialize};

use crate::cluster::{Cluster, Kind};
use crate::error::invalid;
use crate::look::{Look, Span};

/// What is written down, as of the offset up to which it was read.
#[derive(Debug, Default)]
pub(crate) struct Groups(Mutex<Known>);

#[derive(Debug, Default)]
struct Known {
    read_to: i64,
    patterns: BTreeMap<String, BTreeMap<String, Record>>,
    /// The keys of what was known before the topic was deleted, or made again, and has not been seen in it since.
    gone: BTreeSet<String>,
}

impl Known {
    /// The topic is not there any more, or another one: what is known counts, until it is written again.
    fn is_gone(&mut self) {
        let keys = self
            .patterns
            .iter()
            .flat_map(|(group, patterns)| patterns.keys().map(move |pattern| format!("{group} {pattern}")));
        self.gone = keys.collect();
        self.read_to = 0;
    }
}

/// What is known of one pattern of a group: where it begins in each Kafka topic that was there when it was declared, by
/// partition. In a topic that came later it begins with the first message.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Record {
    starts: BTreeMap<String, BTreeMap<i32, i64>>,
}

/// The record of one pattern has this key.
fn key(group: &Group, pattern: &str) -> String {
    format!("{group} {pattern}")
}

impl Groups {
    /// The patterns of `group`, and where each begins.
    pub(crate) fn of(&self, group: &Group) -> Vec<(Pattern, Record)> {
        let known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(patterns) = known.patterns.get(group.as_str()) else { return Vec::new() };
        patterns.iter().filter_map(|(text, record)| Some((text.parse().ok()?, record.clone()))).collect()
    }

    /// All groups.
    pub(crate) fn all(&self) -> Vec<Group> {
        let known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        known.patterns.keys().filter_map(|name| Group::new(name.clone()).ok()).collect()
    }

    fn is_empty(&self) -> bool {
        let known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        known.read_to == 0 && known.patterns.is_empty()
    }

    /// Whether it is known, and written down.
    fn holds(&self, group: &Group, pattern: &str) -> bool {
        self.knows(group, pattern) && {
            let known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            !known.gone.contains(&key(group, pattern))
        }
    }

    fn record(&self, group: &Group, pattern: &str) -> Option<Record> {
        let known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        known.patterns.get(group.as_str())?.get(pattern).cloned()
    }

    fn knows(&self, group: &Group, pattern: &str) -> bool {
        let known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        known.patterns.get(group.as_str()).is_some_and(|patterns| patterns.contains_key(pattern))
    }
}

impl Cluster {
    /// Reads what was written down since the last time. That nothing was is true only where the topic is not there and never
    /// was: where it cannot be read, nobody may take what others have declared for nobody's. Blocks.
    pub(crate) fn read_groups(&self) -> Result<(), TransportError> {
        let topic = self.names.groups();
        if !self.topics_within(std::time::Duration::from_secs(3600))?.contains_key(&topic)
            && !self.list_topics()?.contains_key(&topic)
        {
            if self.groups.is_empty() {
                return Ok(());
            }
            self.groups.0.lock().unwrap_or_else(PoisonError::into_inner).is_gone();
            return Err(TransportError::new(
                TransportErrorKind::Unavailable,
                format!(
                    "the Kafka topic `{topic}`, which says what each group takes, is not there any more; start every service \
                     again, which declares what it takes anew"
                ),
            ));
        }
        let (_, end) = self.watermarks(&topic, 0)?;
        let read_to = self.groups.0.lock().unwrap_or_else(PoisonError::into_inner).read_to;
        if read_to == end {
            return Ok(());
        }
        // One that ends before that was made again.
        let (from, read_to) = if read_to > end {
            self.groups.0.lock().unwrap_or_else(PoisonError::into_inner).is_gone();
            (0, 0)
        } else {
            (read_to, read_to)
        };
        let mut look = Look::begin(self, &[Span { topic, partition: 0, from, to: end }])?;
        let (mut read, mut behind) = (Vec::new(), from);
        while let Some(message) = look.next()? {
            behind = message.offset() + 1;
            let key = message.key().and_then(|key| std::str::from_utf8(key).ok());
            let Some((group, pattern)) = key.and_then(|key| key.split_once(' ')) else { continue };
            // What a later version may have written is a declaration all the same, of which the beginning is not known.
            let record =
                message.payload().map(|value| serde_json::from_slice::<Record>(value).unwrap_or_default());
            read.push((group.to_owned(), pattern.to_owned(), record));
        }
        // Two may have read the same; what is written down is the same for both.
        let mut known = self.groups.0.lock().unwrap_or_else(PoisonError::into_inner);
        for (group, pattern, record) in read {
            known.gone.remove(&format!("{group} {pattern}"));
            let patterns = known.patterns.entry(group).or_default();
            match record {
                Some(record) => patterns.insert(pattern, record),
                None => patterns.remove(&pattern),
            };
        }
        if known.read_to == read_to {
            // Not the end: a new leader may have shown less than the one that was asked for it.
            known.read_to = behind;
        }
        Ok(())
    }

    /// Writes down the patterns of `subscription` that its group does not have yet.
    pub(crate) async fn register(
        self: &Arc<Self>,
        subscription: &Subscription,
    ) -> Result<(), TransportError> {
        let Some(group) = subscription.group.clone() else { return Ok(()) };
        if subscription.patterns.iter().all(|pattern| self.groups.holds(&group, pattern.as_str())) {
            return Ok(());
        }
        let topic = self.names.groups();
        self.ensure(&[(&topic, Kind::Kept)]).await?;
        let (patterns, start) = (subscription.patterns.clone(), subscription.start);
        let asked = group.clone();
        let records = self
            .ask("declaring a group", move |cluster| {
                // First the offsets, then whether somebody else has declared it: what is published after that other
                // declaration lies behind the offsets that were read before it.
                let mut records = Vec::new();
                let topics = cluster.list_topics()?;
                for pattern in &patterns {
                    if !cluster.groups.holds(&asked, pattern.as_str()) {
                        // What was written down in a topic that is gone began where it began.
                        let record = match cluster.groups.record(&asked, pattern.as_str()) {
                            Some(record) => record,
                            None => cluster.starts(&topics, pattern, start)?,
                        };
                        records.push((pattern.clone(), record));
                    }
                }
                cluster.read_groups()?;
                Ok(records)
            })
            .await?;
        for (pattern, record) in records {
            if self.groups.holds(&group, pattern.as_str()) {
                continue;
            }
            let value = serde_json::to_vec(&record).map_err(|error| {
                invalid(format!("the declaration of group `{group}` cannot be written: {error}"))
            })?;
            let key = key(&group, pattern.as_str()).into_bytes();
            self.send_raw(topic.clone(), Some(key), Some(value.into()), OwnedHeaders::new()).await?;
            let mut known = self.groups.0.lock().unwrap_or_else(PoisonError::into_inner);
            known.gone.remove(&format!("{group} {pattern}"));
            known
                .patterns
                .entry(group.as_str().to_owned())
                .or_default()
                .insert(pattern.as_str().to_owned(), record);
        }
        Ok(())
    }

    /// Where `pattern` begins in each Kafka topic that is there. Blocks.
    fn starts(
        &self,
        topics: &BTreeMap<String, usize>,
        pattern: &Pattern,
        start: Start,
    ) -> Result<Record, TransportError> {
        let mut record = Record::default();
        if start == Start::Earliest {
            return Ok(record);
        }
        let patterns = std::slice::from_ref(pattern);
        for (name, partitions) in topics.iter().filter(|(name, _)| self.names.may_hold(name, patterns)) {
            let mut starts = BTreeMap::new();
            for partition in 0..i32::try_from(*partitions).unwrap_or(i32::MAX) {
                starts.insert(partition, self.start_of(name, partition, start)?);
            }
            record.starts.insert(name.clone(), starts);
        }
        Ok(record)
    }

    /// Where a group that has committed nothing begins in a partition: at the earliest that one of its patterns says;
    /// `None` = with the first message.
    pub(crate) fn declared_start(&self, group: &Group, topic: &str, partition: i32) -> Option<i64> {
        let mut least: Option<i64> = None;
        for (pattern, record) in self.groups.of(group) {
            if self.names.may_hold(topic, std::slice::from_ref(&pattern)) {
                let start = *record.starts.get(topic)?.get(&partition)?;
                least = Some(least.map_or(start, |least| least.min(start)));
            }
        }
        least
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use rdkafka::mocking::MockCluster;

    use super::*;
    use crate::KafkaConfig;
    use crate::testing::kafka;

    fn cluster(mock: &MockCluster<'_, impl rdkafka::client::ClientContext>) -> Arc<Cluster> {
        let config = KafkaConfig { connect_timeout: Duration::from_secs(20), ..KafkaConfig::default() };
        kafka(mock, config).cluster().clone()
    }

    fn subscription() -> Subscription {
        Subscription::group(Group::new("g").unwrap(), ["a.b".parse().unwrap()])
    }

    async fn read(cluster: &Arc<Cluster>) -> Result<(), TransportError> {
        cluster
            .ask("reading", |cluster| {
                cluster.list_topics()?;
                cluster.read_groups()
            })
            .await
    }

    async fn write(cluster: &Cluster, key: &str, value: &'static str) {
        let (key, value) = (key.as_bytes().to_vec(), bytes::Bytes::from_static(value.as_bytes()));
        let topic = cluster.names.groups();
        cluster.send_raw(topic, Some(key), Some(value), OwnedHeaders::new()).await.unwrap();
    }

    /// A broker that dies leads nothing for seconds. That nobody can read the declarations does not say that there are none.
    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn what_cannot_be_read_is_not_taken_for_nothing() {
        let mock = MockCluster::new(1).unwrap();
        mock.create_topic("msgkit.groups", 1, 1).unwrap();
        let (old, new) = (cluster(&mock), cluster(&mock));
        old.register(&subscription()).await.unwrap();
        mock.partition_leader("msgkit.groups", 0, None).unwrap();
        for cluster in [old, new] {
            let error = read(&cluster).await.unwrap_err();
            assert!(error.is_temporary(), "{error}");
        }
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn declarations_that_are_gone_are_no_sign_that_there_were_none() {
        let mock = MockCluster::new(1).unwrap();
        let cluster = cluster(&mock);
        read(&cluster).await.unwrap();
        let patterns = BTreeMap::from([("a.b".to_owned(), Record::default())]);
        cluster.groups.0.lock().unwrap().patterns.insert("g".to_owned(), patterns);
        let error = read(&cluster).await.unwrap_err();
        assert!(error.is_temporary() && error.to_string().contains("`msgkit.groups`"), "{error}");
    }

    /// The topic was made again, and is shorter than what was read of the old one.
    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn a_topic_that_was_made_again_is_read_from_its_beginning() {
        let mock = MockCluster::new(1).unwrap();
        mock.create_topic("msgkit.groups", 1, 1).unwrap();
        let cluster = cluster(&mock);
        cluster.groups.0.lock().unwrap().read_to = 20;
        write(&cluster, "g a.b", "{\"starts\":{}}").await;
        read(&cluster).await.unwrap();
        assert!(cluster.groups.knows(&Group::new("g").unwrap(), "a.b"));
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn a_declaration_of_a_later_version_is_not_taken_for_its_removal() {
        let mock = MockCluster::new(1).unwrap();
        mock.create_topic("msgkit.groups", 1, 1).unwrap();
        let cluster = cluster(&mock);
        write(&cluster, "g a.b", "{\"starts\":[\"otherwise\"]}").await;
        read(&cluster).await.unwrap();
        let group = Group::new("g").unwrap();
        assert!(cluster.groups.knows(&group, "a.b"));
        assert_eq!(
            cluster.declared_start(&group, "a.b", 0),
            None,
            "from the first message: nothing is passed"
        );
    }

    /// Somebody has deleted the topic: who declares again writes down what it knows, for others to read.
    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn declarations_that_are_gone_are_written_again() {
        let mock = MockCluster::new(1).unwrap();
        let (old, new) = (cluster(&mock), cluster(&mock));
        let (group, starts) = (Group::new("g").unwrap(), BTreeMap::from([(0, 5)]));
        let record = Record { starts: BTreeMap::from([("a.b".to_owned(), starts)]) };
        let patterns = BTreeMap::from([("a.b".to_owned(), record)]);
        old.groups.0.lock().unwrap().patterns.insert("g".to_owned(), patterns);
        read(&old).await.unwrap_err();
        mock.create_topic("msgkit.groups", 1, 1).unwrap();
        old.register(&subscription()).await.unwrap();
        read(&new).await.unwrap();
        assert!(new.groups.knows(&group, "a.b"));
        assert_eq!(
            new.declared_start(&group, "a.b", 0),
            Some(5),
            "where it began, not where it would begin now"
        );
    }
}

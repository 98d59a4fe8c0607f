//! What operators ask of the cluster. Everything is read beside the groups, so nothing is consumed.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use async_trait::async_trait;
use msgkit::envelope::ingest::Ingest;
use msgkit::transport::{
    Destination, Group, GroupStatus, Operate, Outgoing, Peeked, Publisher as _, TransportError,
    TransportErrorKind,
};
use rdkafka::consumer::{BaseConsumer, Consumer as _};
use rdkafka::message::{Message as _, OwnedHeaders, OwnedMessage};
use rdkafka::{Offset, TopicPartitionList};

use crate::client::{self, Listening};
use crate::cluster::{ASK, Cluster, Kind};
use crate::error::{self, invalid};
use crate::look::{self, Look, Span};
use crate::transport::Kafka;
use crate::wire::Position;

/// What of a partition a group has not settled: the offset to go on with, and the end.
type Rest = (String, i32, i64, i64);

impl Cluster {
    /// What is left for the consumer group `name` in `topics`; `declared` is where it begins what it has not begun. Blocks.
    fn rest(
        &self,
        name: &str,
        topics: &BTreeMap<String, usize>,
        declared: impl Fn(&str, i32) -> Option<i64>,
    ) -> Result<Vec<Rest>, TransportError> {
        let mut wanted = TopicPartitionList::new();
        for (topic, partitions) in topics {
            for number in 0..i32::try_from(*partitions).unwrap_or(i32::MAX) {
                wanted.add_partition(topic, number);
            }
        }
        if wanted.count() == 0 {
            return Ok(Vec::new());
        }
        let native = client::consumer(&self.address, &self.config, name);
        let made = native.create_with_context(Listening(self.said.clone()));
        let asker: BaseConsumer<Listening> =
            made.map_err(|error| error::of(error, "making a Kafka client"))?;
        let doing = || format!("asking how far group `{name}` is");
        let committed = look::patiently(|| asker.committed_offsets(wanted.clone(), ASK))
            .map_err(|error| self.said.explain(error, &doing()))?;
        let mut rest = Vec::new();
        for one in committed.elements() {
            one.error().map_err(|error| error::of(error, &doing()))?;
            let (topic, number) = (one.topic(), one.partition());
            let (first, end) = self.watermarks(topic, number)?;
            let from = match one.offset() {
                Offset::Offset(offset) => offset,
                _ => declared(topic, number).unwrap_or(first),
            };
            // What ends before that is another log than the one it was written down for, and is read from its beginning.
            let from = if from > end { first } else { from.max(first) };
            rest.push((topic.to_owned(), number, from, end));
        }
        Ok(rest)
    }

    /// The Kafka topics that `group` reads. Blocks.
    fn topics_of(&self, group: &Group) -> Result<BTreeMap<String, usize>, TransportError> {
        let patterns: Vec<_> = self.groups.of(group).into_iter().map(|(pattern, _)| pattern).collect();
        let all = self.list_topics()?;
        let own = all.iter().filter(|(name, _)| self.names.may_hold(name, &patterns));
        Ok(own.map(|(name, partitions)| (name.clone(), *partitions)).collect())
    }

    fn rest_of(&self, group: &Group) -> Result<Vec<Rest>, TransportError> {
        let topics = self.topics_of(group)?;
        self.rest(&self.names.group(group), &topics, |topic, number| {
            self.declared_start(group, topic, number)
        })
    }

    fn status(&self, group: Group) -> Result<GroupStatus, TransportError> {
        let count = |rest: &[Rest]| {
            rest.iter().map(|(_, _, from, end)| u64::try_from(end - from).unwrap_or(0)).sum::<u64>()
        };
        let left = count(&self.rest_of(&group)?);
        // What other processes have in hand is known to them alone, and counts as waiting.
        let members = self.members();
        let in_hand = members
            .iter()
            .filter(|member| member.group.as_ref() == Some(&group))
            .filter_map(|member| member.in_hand())
            .reduce(|all, one| all + one);
        let all = self.list_topics()?;
        let mut delayed = 0;
        for (name, partitions) in all.iter().filter(|(name, _)| self.names.retry_step(&group, name).is_some())
        {
            let one = BTreeMap::from([(name.clone(), *partitions)]);
            delayed += count(&self.rest(name, &one, |_, _| None)?);
        }
        let mut status = GroupStatus::new(group);
        status.waiting = left.saturating_sub(in_hand.unwrap_or(0));
        status.in_hand = in_hand;
        status.delayed = delayed;
        Ok(status)
    }

    /// The oldest records of `group`'s rest, by the time of their partition's clock, at most `limit` after `after`. Blocks.
    fn oldest(
        &self,
        group: &Group,
        after: Option<&str>,
        limit: usize,
    ) -> Result<Vec<Peeked>, TransportError> {
        let after = match after {
            None => None,
            Some(text) => Some(Place::read(text).ok_or_else(|| no_position(group, text))?),
        };
        let spans: Vec<Span> = self
            .rest_of(group)?
            .into_iter()
            .map(|(topic, partition, from, to)| Span { topic, partition, from, to })
            .collect();
        let mut found: Vec<(Place, OwnedMessage)> = Vec::new();
        let mut clocks: HashMap<(String, i32), i64> = HashMap::new();
        let mut taken: HashMap<(String, i32), usize> = HashMap::new();
        let patterns: Vec<_> = self.groups.of(group).into_iter().map(|(pattern, _)| pattern).collect();
        // Each partition is read on its own, and only as far as the page may need.
        for span in spans {
            let mut look = Look::begin(self, std::slice::from_ref(&span))?;
            let key = (span.topic.clone(), span.partition);
            let implied = self.names.implied(&span.topic);
            while let Some(message) = look.next()? {
                let record = look::read(&message, &implied, &Ingest::default(), self.clock.now());
                if !record.is_for(&patterns) {
                    continue;
                }
                // A producer's clock may jump; within a partition the order is that of the offsets.
                let clock = clocks.entry(key.clone()).or_insert(i64::MIN);
                *clock = (*clock).max(message.timestamp().to_millis().unwrap_or(0));
                let place = Place {
                    millis: *clock,
                    topic: span.topic.clone(),
                    partition: span.partition,
                    offset: message.offset(),
                };
                if after.as_ref().is_some_and(|after| place <= *after) {
                    continue;
                }
                found.push((place, message));
                let count = taken.entry(key.clone()).or_default();
                *count += 1;
                if *count >= limit {
                    break;
                }
            }
        }
        found.sort_by(|(a, _), (b, _)| a.cmp(b));
        let now = self.clock.now();
        let page = found.into_iter().take(limit).map(|(place, message)| {
            let implied = self.names.implied(message.topic());
            Peeked::new(look::read(&message, &implied, &Ingest::default(), now).message, place.to_string())
        });
        Ok(page.collect())
    }

    /// The offsets of `group`'s dead letters that were not removed. All of them are read to know that, and none is kept:
    /// together they may be larger than memory. Blocks.
    fn letters(&self, group: &Group) -> Result<BTreeSet<i64>, TransportError> {
        let topic = self.names.dead_letter(group);
        if !self.list_topics()?.contains_key(&topic) {
            return Ok(BTreeSet::new());
        }
        let (from, to) = self.watermarks(&topic, 0)?;
        let mut look = Look::begin(self, &[Span { topic, partition: 0, from, to }])?;
        let mut letters = BTreeSet::new();
        let mut by_key: HashMap<Vec<u8>, i64> = HashMap::new();
        while let Some(message) = look.next()? {
            let key = message.key().unwrap_or_default().to_vec();
            if let Some(before) = by_key.remove(&key) {
                letters.remove(&before);
            }
            if message.payload().is_some() {
                by_key.insert(key, message.offset());
                letters.insert(message.offset());
            }
        }
        Ok(letters)
    }

    /// The dead letters at `offsets`; without those that were removed meanwhile. Blocks.
    fn letters_at(
        &self,
        group: &Group,
        offsets: &BTreeSet<i64>,
    ) -> Result<Vec<OwnedMessage>, TransportError> {
        let (Some(first), Some(last)) = (offsets.first(), offsets.last()) else { return Ok(Vec::new()) };
        let span = Span { topic: self.names.dead_letter(group), partition: 0, from: *first, to: last + 1 };
        let mut look = Look::begin(self, &[span])?;
        let mut letters = Vec::new();
        while let Some(message) = look.next()? {
            if offsets.contains(&message.offset()) && message.payload().is_some() {
                letters.push(message);
            }
        }
        Ok(letters)
    }

    fn letter(&self, group: &Group, position: &str) -> Result<OwnedMessage, TransportError> {
        let offset: i64 = position.parse().map_err(|_| no_position(group, position))?;
        let known = self.letters(group)?.contains(&offset);
        let letter = if known { self.letters_at(group, &BTreeSet::from([offset]))?.pop() } else { None };
        letter.ok_or_else(|| no_position(group, position))
    }
}

fn no_position(group: &Group, position: &str) -> TransportError {
    invalid(format!("group `{group}` has nothing at `{position:.60}`; take a position from a listing"))
}

/// Where a record lies, in the order of a listing over several partitions.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Place {
    millis: i64,
    topic: String,
    partition: i32,
    offset: i64,
}

impl std::fmt::Display for Place {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { topic, partition, offset, millis } = self;
        write!(f, "{}@{millis}", Position { topic, partition: *partition, offset: *offset })
    }
}

impl Place {
    fn read(text: &str) -> Option<Self> {
        let (rest, millis) = text.rsplit_once('@')?;
        let (rest, offset) = rest.rsplit_once('/')?;
        let (topic, partition) = rest.rsplit_once('/')?;
        Some(Self {
            millis: millis.parse().ok()?,
            topic: topic.to_owned(),
            partition: partition.parse().ok()?,
            offset: offset.parse().ok()?,
        })
    }
}

#[async_trait]
impl Operate for Kafka {
    async fn groups(&self) -> Result<Vec<GroupStatus>, TransportError> {
        self.cluster()
            .ask("asking for groups", |cluster| {
                cluster.read_groups()?;
                cluster.groups.all().into_iter().map(|group| cluster.status(group)).collect()
            })
            .await
    }

    async fn peek(
        &self,
        group: &Group,
        after: Option<&str>,
        limit: usize,
    ) -> Result<Vec<Peeked>, TransportError> {
        let (group, after) = (group.clone(), after.map(str::to_owned));
        self.cluster()
            .ask("looking at a group", move |cluster| {
                cluster.read_groups()?;
                if cluster.groups.of(&group).is_empty() {
                    return Err(invalid(format!(
                        "group `{group}` is not declared at this cluster; declare it first"
                    )));
                }
                cluster.oldest(&group, after.as_deref(), limit)
            })
            .await
    }

    async fn dead_letters(
        &self,
        group: &Group,
        after: Option<&str>,
        limit: usize,
    ) -> Result<Vec<Peeked>, TransportError> {
        let (group, after) = (group.clone(), after.map(str::to_owned));
        self.cluster()
            .ask("listing dead letters", move |cluster| {
                let after: i64 = match after {
                    None => -1,
                    Some(text) => text.parse().map_err(|_| no_position(&group, &text))?,
                };
                let now = cluster.clock.now();
                let page = cluster.letters(&group)?.into_iter().filter(|offset| *offset > after).take(limit);
                let letters = cluster.letters_at(&group, &page.collect())?;
                let shown = letters.iter().map(|letter| {
                    let read = look::read_letter(letter, &cluster.names, now);
                    Peeked::new(read, letter.offset().to_string())
                });
                Ok(shown.collect())
            })
            .await
    }

    async fn replay(&self, group: &Group, position: &str) -> Result<(), TransportError> {
        let cluster = self.cluster();
        let (asked, at) = (group.clone(), position.to_owned());
        let (message, letter) = cluster
            .ask("looking for a dead letter", move |cluster| {
                let letter = cluster.letter(&asked, &at)?;
                let read = look::read_letter(&letter, &cluster.names, cluster.clock.now());
                Ok((read, letter))
            })
            .await?;
        let Some(envelope) = message.envelope() else {
            return Err(invalid(format!(
                "the dead letter at `{position:.60}` is no envelope and cannot be replayed"
            )));
        };
        let retry = cluster.names.retry(group, 1);
        let known = cluster.ask("asking for topics", Cluster::list_topics).await?;
        if !known.contains_key(&retry) {
            return Err(invalid(format!(
                "group `{group}` has no retry topic `{retry}` to replay to; start its handler once, or declare the group with a \
                 delayed retry"
            )));
        }
        let to = Destination::Retry { group: group.clone(), step: 1, delay: std::time::Duration::ZERO };
        // The copy first: dying before the removal leaves both, and never none.
        self.publish(vec![Outgoing::new(to, envelope.replayed())]).await.map_err(|error| {
            let (kind, text) = (error.kind(), msgkit::Chain(&error).to_string());
            TransportError::new(kind, text)
        })?;
        self.remove(group, &letter).await
    }

    async fn remove_dead_letter(&self, group: &Group, position: &str) -> Result<(), TransportError> {
        let (asked, at) = (group.clone(), position.to_owned());
        let letter = self
            .cluster()
            .ask("looking for a dead letter", move |cluster| cluster.letter(&asked, &at))
            .await?;
        self.remove(group, &letter).await
    }

    async fn depth(&self, destination: &Destination) -> Result<Option<u64>, TransportError> {
        let destination = destination.clone();
        self.cluster()
            .ask("asking how much lies at a destination", move |cluster| {
                if let Destination::DeadLetter(group) = &destination {
                    return Ok(u64::try_from(cluster.letters(group)?.len()).ok());
                }
                let topic = cluster.names.of(&destination)?;
                let all = cluster.list_topics()?;
                let Some(partitions) = all.get(&topic) else { return Ok(Some(0)) };
                if Kind::of(&destination) == Kind::Retry {
                    let one = BTreeMap::from([(topic.clone(), *partitions)]);
                    let rest = cluster.rest(&topic, &one, |_, _| None)?;
                    return Ok(Some(
                        rest.iter().map(|(_, _, from, end)| u64::try_from(end - from).unwrap_or(0)).sum(),
                    ));
                }
                let mut depth = 0;
                for number in 0..i32::try_from(*partitions).unwrap_or(i32::MAX) {
                    let (first, end) = cluster.watermarks(&topic, number)?;
                    depth += u64::try_from(end - first).unwrap_or(0);
                }
                Ok(Some(depth))
            })
            .await
    }
}

impl Kafka {
    /// Deletes a dead letter: by a tombstone for its key.
    async fn remove(&self, group: &Group, letter: &OwnedMessage) -> Result<(), TransportError> {
        let topic = self.cluster().names.dead_letter(group);
        let Some(key) = letter.key() else {
            return Err(TransportError::new(
                TransportErrorKind::Unsupported,
                format!(
                    "the dead letter at `{}` has no key, so Kafka cannot remove it; another client wrote it",
                    letter.offset()
                ),
            ));
        };
        self.cluster().send_raw(topic, Some(key.to_vec()), None, OwnedHeaders::new()).await
    }
}

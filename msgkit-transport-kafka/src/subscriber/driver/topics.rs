//! Which topics there are for a subscription; new ones are found while it runs.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use msgkit::transport::{Start, TransportError};
use rdkafka::consumer::Consumer as _;
use rdkafka::{Offset, TopicPartitionList};

use super::watching::Quiet;
use super::{Driver, Held, Source};
use crate::error;
use crate::starts::Starts;
use crate::subscriber::member::Begin;

impl Driver {
    pub(super) fn next_look(&self) -> Option<Instant> {
        match self.source {
            Source::Step(_) if !self.topics.is_empty() => None,
            _ => self.looked.map(|looked| looked + self.cluster.config.topic_refresh),
        }
    }

    /// Looks which topics there are.
    pub(super) fn find_topics(&mut self) {
        let made = self.cluster.made();
        let due = self.next_look().is_none_or(|at| at <= Instant::now());
        let known = matches!(self.source, Source::Step(_)) && !self.topics.is_empty();
        if known || (!due && made == self.made) {
            return;
        }
        let age = if made == self.made { self.cluster.config.topic_refresh / 2 } else { Duration::ZERO };
        let all = match self.cluster.topics_within(age) {
            Ok(all) => all,
            Err(error) => {
                if self.begun {
                    self.looked = Some(Instant::now());
                }
                if error.is_temporary() {
                    self.why_not = Some(error);
                } else if let Some(ready) = self.ready.take() {
                    let _ = ready.send(Err(error));
                }
                return;
            }
        };
        self.made = made;
        self.looked = Some(Instant::now());
        let found: BTreeSet<String> = match &self.source {
            Source::Step(topic) => all.keys().filter(|name| *name == topic).cloned().collect(),
            _ => all
                .keys()
                .filter(|name| {
                    self.places.contains(*name)
                        || self.cluster.names.may_hold(name, &self.subscription.patterns)
                })
                .cloned()
                .collect(),
        };
        let result = match self.source {
            Source::Alone => self.take_all(&all, &found),
            _ if found == self.topics => Ok(()),
            _ if found.is_empty() => {
                self.client.unsubscribe();
                Ok(())
            }
            _ => {
                tracing::debug!(?found, "the topics of a subscription");
                let names: Vec<&str> = found.iter().map(String::as_str).collect();
                self.client.subscribe(&names).map_err(|error| error::of(error, "subscribing to Kafka topics"))
            }
        };
        match result {
            Ok(()) => {
                if found.is_empty() {
                    self.ready_by = Instant::now();
                }
                self.topics = found;
                self.begun = true;
            }
            Err(error) if !self.begun && !error.is_temporary() => {
                if let Some(ready) = self.ready.take() {
                    let _ = ready.send(Err(error));
                }
            }
            Err(error) => {
                if !self.begun {
                    // Without a pause, as long as `subscribe` waits.
                    self.looked = None;
                }
                tracing::warn!(error = %msgkit::Chain(&error), "new topics cannot be read yet");
                self.why_not = Some(error);
            }
        }
    }

    /// Without a group: takes every partition that is not held, those of topics that came later from their first message.
    pub(super) fn take_all(
        &mut self,
        all: &BTreeMap<String, usize>,
        found: &BTreeSet<String>,
    ) -> Result<(), TransportError> {
        let mut taken = TopicPartitionList::new();
        let mut held = Vec::new();
        for topic in found {
            for number in 0..i32::try_from(all.get(topic).copied().unwrap_or(0)).unwrap_or(i32::MAX) {
                if self.held.contains_key(&(topic.clone(), number)) {
                    continue;
                }
                let begin = if self.begun || self.subscription.start == Start::Earliest {
                    // The client goes on with the first record by itself where that is behind the offset.
                    0
                } else {
                    self.cluster.start_of(topic, number, self.subscription.start)?
                };
                taken
                    .add_partition_offset(topic, number, Offset::Offset(begin))
                    .map_err(|error| error::of(error, "taking partitions"))?;
                let Some(mut queue) = self.client.split_partition_queue(topic, number) else {
                    return Err(error::broke_off("setting a partition's queue apart"));
                };
                let signal = self.member.signal.clone();
                queue.set_nonempty_callback(move || signal.ring());
                held.push((topic.clone(), number, u64::try_from(begin).unwrap_or(0), queue));
            }
        }
        if !held.is_empty() {
            self.client.incremental_assign(&taken).map_err(|error| error::of(error, "taking partitions"))?;
        }
        for (topic, number, begin, queue) in held {
            let epoch = self.member.assigned(
                &topic,
                number,
                Begin { offset: begin, again: false },
                Starts::default(),
                true,
            );
            let implied = self.cluster.names.implied(&topic);
            let (quiet, newest) = (Quiet::new(), Default::default());
            self.held.insert((topic, number), Held { epoch, implied, queue, quiet, newest });
        }
        self.ready_by = Instant::now();
        Ok(())
    }
}

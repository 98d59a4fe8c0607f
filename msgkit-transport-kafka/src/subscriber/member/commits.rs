//! What of a member the broker is told, and who waits for its word.

use std::collections::{BTreeMap, BTreeSet};

use msgkit::transport::TransportError;
use tokio::sync::oneshot;

use super::{Member, State};
use crate::subscriber::partition::{Commit, Counting, Partition};

/// How far partitions may be committed that have taken the place of others.
pub(super) struct Bounds(Vec<(String, i32, u64)>);

impl Bounds {
    pub(super) fn of(&self, partition: &Partition) -> u64 {
        let here = self.0.iter().filter(|(topic, number, _)| partition.is(topic, *number));
        here.map(|(_, _, bound)| *bound).min().unwrap_or(u64::MAX)
    }
}

impl State {
    pub(super) fn bounds(&self) -> Bounds {
        let bound = |one: &Partition| Some((one.topic.clone(), one.number, one.bound()?));
        Bounds(self.partitions.values().filter_map(bound).collect())
    }
}

impl Member {
    /// Resolves with the broker's word on everything that was settled before the call.
    pub(in crate::subscriber) fn flush(&self) -> oneshot::Receiver<Result<(), TransportError>> {
        let (told, word) = oneshot::channel();
        let mut state = self.state();
        if !state.ended {
            state.flushes.push(told);
        }
        drop(state);
        self.signal.ring();
        word
    }

    /// Whether the thread has ended before the brokers had taken all that was settled.
    pub(in crate::subscriber) fn is_behind(&self) -> bool {
        self.state().behind
    }

    /// The flushes that were asked for since the last call.
    pub(in crate::subscriber) fn take_flushes(&self) -> Vec<oneshot::Sender<Result<(), TransportError>>> {
        std::mem::take(&mut self.state().flushes)
    }

    /// What there is to tell the broker: of `only`, where given.
    pub(in crate::subscriber) fn commits(&self, only: Option<&[u64]>, counting: Counting) -> Vec<Commit> {
        let mut guard = self.state();
        let state = &mut *guard;
        let demand =
            if counting == Counting::Ahead { std::mem::take(&mut state.demand) } else { BTreeSet::new() };
        let mut wanted: BTreeMap<u64, u64> = BTreeMap::new();
        for waiting in state.waiting.iter().filter(|waiting| demand.contains(&waiting.epoch)) {
            let highest = wanted.entry(waiting.epoch).or_default();
            *highest = (*highest).max(waiting.offset);
        }
        let bounds = state.bounds();
        let chosen =
            state.partitions.iter_mut().filter(|(epoch, _)| only.is_none_or(|only| only.contains(epoch)));
        chosen
            .filter_map(|(epoch, partition)| {
                // Where nothing was counted since a flush, nobody has asked yet.
                let counting = match counting {
                    Counting::Ahead if partition.counted_to == 0 && !demand.contains(epoch) => {
                        Counting::InHand
                    }
                    other => other,
                };
                partition.commit(*epoch, counting, wanted.get(epoch).copied(), bounds.of(partition))
            })
            .collect()
    }

    /// Whether anything is to be told: starts that somebody waits for (at once), progress (soon).
    pub(in crate::subscriber) fn wants_commit(&self) -> (bool, bool) {
        let state = self.state();
        let bounds = state.bounds();
        let behind = state.partitions.values().any(|partition| partition.is_behind(bounds.of(partition)));
        (!state.demand.is_empty(), behind)
    }

    /// The starts that were to be written down are not: whoever waits for them asks again.
    pub(in crate::subscriber) fn not_told(&self, commits: &[Commit]) {
        let mut state = self.state();
        state.demand.extend(commits.iter().filter(|commit| commit.counted_to > 0).map(|commit| commit.epoch));
    }

    /// The broker has taken `commits`.
    pub(in crate::subscriber) fn told(&self, commits: Vec<Commit>) {
        let mut state = self.state();
        for commit in commits {
            if let Some(partition) = state.partitions.get_mut(&commit.epoch) {
                partition.told(commit);
            }
        }
        drop(state);
        self.arrived.notify_one();
    }
}

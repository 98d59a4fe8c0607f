//! Between fetchers and lanes: used where a handler has several lanes, or receives from several subscriptions.

use std::collections::VecDeque;
use std::sync::{Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;

use super::control::{Control, Mode};
use super::quarantine::Quarantine;
use super::source::Fetched;
use crate::transport::Delivery;

/// Distributes deliveries over lanes: by key, so that one key is always on one lane, or to whoever is free.
///
/// What lies on it is unsettled and so bounded by the subscriptions' prefetch.
#[derive(Debug)]
pub(crate) struct Belt {
    by_key: Option<Spread>,
    lanes: usize,
    quarantine: std::sync::Arc<Quarantine>,
    state: Mutex<State>,
    /// One for each lane where lanes are chosen by key, else one for all.
    arrived: Vec<Notify>,
}

/// Spreads keys over lanes, each process in its own way: nobody outside can make all keys fall onto one lane, and a test
/// that seeds the thread's generator gets the same lanes again. (FNV-1a from a random start.)
#[derive(Debug)]
struct Spread(u64);

impl Spread {
    fn new() -> Self {
        Self(fastrand::u64(..))
    }

    fn of(&self, key: &str) -> u64 {
        let hash = key
            .bytes()
            .fold(self.0, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3));
        hash ^ (hash >> 32)
    }
}

#[derive(Debug)]
struct State {
    /// As many as [`Belt::arrived`]; each entry with its origin.
    queues: Vec<VecDeque<(usize, Delivery)>>,
    round_robin: usize,
}

impl Belt {
    pub(crate) fn new(lanes: usize, by_key: bool, quarantine: std::sync::Arc<Quarantine>) -> Self {
        let queues = if by_key { lanes } else { 1 };
        Self {
            by_key: by_key.then(Spread::new),
            lanes,
            quarantine,
            state: Mutex::new(State {
                queues: (0..queues).map(|_| VecDeque::new()).collect(),
                round_robin: 0,
            }),
            arrived: (0..queues).map(|_| Notify::new()).collect(),
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Puts deliveries of `origin` on the belt, in order.
    pub(crate) fn put(&self, origin: usize, batch: &mut VecDeque<Delivery>) {
        let mut state = self.lock();
        let Some(hasher) = &self.by_key else {
            let woken = batch.len().min(self.lanes);
            state.queues[0].extend(batch.drain(..).map(|delivery| (origin, delivery)));
            drop(state);
            for _ in 0..woken {
                self.arrived[0].notify_one();
            }
            return;
        };
        for delivery in batch.drain(..) {
            let lane = match delivery.message().key() {
                Some(key) => usize::try_from(hasher.of(key) % self.lanes as u64).unwrap_or(0),
                None => {
                    state.round_robin = (state.round_robin + 1) % self.lanes;
                    state.round_robin
                }
            };
            state.queues[lane].push_back((origin, delivery));
        }
        let filled: Vec<usize> = (0..self.lanes).filter(|lane| !state.queues[*lane].is_empty()).collect();
        drop(state);
        for lane in filled {
            self.arrived[lane].notify_one();
        }
    }

    /// Takes at most `most` deliveries of one origin for `lane`; where it has some already, only of theirs.
    pub(crate) async fn take(
        &self,
        lane: usize,
        most: usize,
        into: &mut VecDeque<Delivery>,
        origin: &mut usize,
        control: &mut Control,
    ) -> Fetched {
        let queue = if self.by_key.is_some() { lane } else { 0 };
        loop {
            if control.mode() == Mode::Draining {
                return Fetched::Stop;
            }
            if self.quarantine.is_active() {
                return Fetched::StandStill;
            }
            {
                let mut state = self.lock();
                let waiting = &mut state.queues[queue];
                // A fair share, so that what is slow does not wait behind one lane while others are idle.
                let share =
                    if self.by_key.is_some() { waiting.len() } else { waiting.len().div_ceil(self.lanes) };
                let share = share.min(most);
                if let Some((first, _)) = waiting.front() {
                    if !into.is_empty() && *first != *origin {
                        drop(state);
                        // It was this lane that was woken for it.
                        self.arrived[queue].notify_one();
                        return Fetched::Some;
                    }
                    *origin = *first;
                    let mut taken = 0;
                    while taken < share
                        && let Some((from, _)) = waiting.front()
                        && *from == *origin
                        && let Some((_, delivery)) = waiting.pop_front()
                    {
                        into.push_back(delivery);
                        taken += 1;
                    }
                    let more = !waiting.is_empty();
                    drop(state);
                    if more {
                        self.arrived[queue].notify_one();
                    }
                    return Fetched::Some;
                }
            }
            let mut signal = self.quarantine.signal();
            tokio::select! {
                biased;
                () = control.changed() => {}
                () = self.arrived[queue].notified() => {}
                _ = signal.wait_for(|active| *active) => {}
            }
        }
    }

    /// Gives back everything on the belt, in order.
    pub(crate) fn give_back(&self) {
        let queues: Vec<_> = self.lock().queues.iter_mut().map(std::mem::take).collect();
        for (_, delivery) in queues.into_iter().flatten() {
            delivery.give_back();
        }
    }
}

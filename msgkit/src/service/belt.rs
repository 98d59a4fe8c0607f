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

/// Spreads keys over lanes, each process in its own way: who does not know its start cannot choose keys that all fall onto
/// one lane, and a test that seeds the thread's generator gets the same lanes again.
#[derive(Debug)]
struct Spread(u64);

impl Spread {
    fn new() -> Self {
        Self(fastrand::u64(..))
    }

    /// FNV-1a from its start. Its low bits say little of the start, so the high ones are mixed in.
    fn of(&self, key: &str) -> u64 {
        let hash = key
            .bytes()
            .fold(self.0, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3));
        let mixed = (hash ^ (hash >> 32)).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        mixed ^ (mixed >> 32)
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

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::envelope::{ContentType, Envelope, Timestamp};
    use crate::transport::{Incoming, Settle, Token};

    /// Two starts that differ in their high bits alone.
    const STARTS: [u64; 2] = [0x243f_6a88_85a3_08d3, 0x1319_8a2e_0370_73d3];

    #[test]
    fn keys_are_spread_evenly_and_in_another_way_from_another_start() {
        for lanes in [2, 3, 4, 8] {
            let [one, other] = STARTS.map(|start| -> Vec<u64> {
                (0..10_000).map(|n| Spread(start).of(&format!("device-{n}")) % lanes).collect()
            });
            for lane in 0..lanes {
                let share = one.iter().filter(|place| **place == lane).count() as u64 * lanes;
                assert!((9_000..11_000).contains(&share), "lane {lane} of {lanes} has {share} of its 10,000");
            }
            let moved = one.iter().zip(&other).filter(|(one, other)| one != other).count() as u64 * lanes;
            assert!((9_000..11_000).contains(&(moved / (lanes - 1))), "{lanes} lanes: {moved}");
        }
    }

    #[derive(Debug)]
    struct Nowhere;

    impl Settle for Nowhere {
        fn done(&self, _: &mut Vec<Token>) {}
        fn returned(&self, _: Token, _: Incoming) {}
    }

    fn delivery(id: u64, key: Option<&str>) -> Delivery {
        let topic = "a".parse().unwrap();
        let mut envelope =
            Envelope::new("s", "t", topic, ContentType::Json, "1".into(), Timestamp::from_millis(1));
        envelope.set_key(key.map(Into::into));
        Delivery::new(Incoming::Envelope(envelope), Token { id, epoch: 0 }, Arc::new(Nowhere))
    }

    #[test]
    fn what_has_no_key_goes_to_each_lane_in_turn_and_a_key_to_one() {
        let belt = Belt::new(3, true, Arc::new(Quarantine::new()));
        belt.put(0, &mut (0..7).map(|id| delivery(id, None)).collect());
        let lengths = || belt.lock().queues.iter().map(VecDeque::len).collect::<Vec<_>>();
        assert_eq!(lengths(), [2, 3, 2]);
        belt.put(0, &mut (0..6).map(|id| delivery(id, Some("k"))).collect());
        let mut grown: Vec<_> =
            lengths().into_iter().zip([2, 3, 2]).map(|(now, before)| now - before).collect();
        grown.sort_unstable();
        assert_eq!(grown, [0, 0, 6]);
    }

    /// What one lane takes at once into `into`, whose deliveries are of `origin`: how many, and of which origin.
    async fn take(belt: &Belt, most: usize, into: &mut VecDeque<Delivery>, origin: usize) -> (usize, usize) {
        let running = tokio::sync::watch::Sender::new(Mode::Running);
        let (mut control, mut origin, before) = (Control::new(running.subscribe()), origin, into.len());
        let fetched = belt.take(0, most, into, &mut origin, &mut control).await;
        assert!(matches!(fetched, Fetched::Some));
        (into.len() - before, origin)
    }

    #[tokio::test]
    async fn a_lane_takes_a_fair_share_of_one_origin() {
        let belt = Belt::new(3, false, Arc::new(Quarantine::new()));
        belt.put(1, &mut (0..7).map(|id| delivery(id, None)).collect());
        belt.put(2, &mut (7..8).map(|id| delivery(id, None)).collect());
        let mut into = VecDeque::new();
        assert_eq!(take(&belt, 100, &mut into, 0).await, (3, 1), "a third of eight");
        assert_eq!(take(&belt, 1, &mut into, 1).await, (1, 1), "no more than it asks for");
        assert_eq!(take(&belt, 100, &mut into, 1).await, (2, 1));
        assert_eq!(take(&belt, 100, &mut into, 1).await, (1, 1));
        assert_eq!(take(&belt, 100, &mut into, 1).await, (0, 1), "what is next is of another origin");
        assert_eq!(take(&belt, 100, &mut VecDeque::new(), 1).await, (1, 2));
        assert_eq!(into.len(), 7);
    }

    #[tokio::test]
    async fn a_lane_with_keys_of_its_own_takes_all_of_them() {
        let belt = Belt::new(1, true, Arc::new(Quarantine::new()));
        belt.put(0, &mut (0..9).map(|id| delivery(id, Some("k"))).collect());
        let mut into = VecDeque::new();
        assert_eq!(take(&belt, 5, &mut into, 0).await, (5, 0));
        assert_eq!(take(&belt, 100, &mut into, 0).await, (4, 0));
    }
}

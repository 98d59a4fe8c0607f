//! What a member has in hand: the buffers of its shards, what was handed out, how far each is settled.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

use msgkit::Pattern;
use msgkit::transport::{Delivery, Incoming, Settle, Token, TransportError, TransportErrorKind, Watermark};
use tokio::time::Instant;

use crate::lease::Lease;
use crate::position::Sequence;

/// How many messages of a shard may be settled behind one that is not: memory is bounded though a handler never ends.
const MOST_AHEAD: usize = 10_000;

/// A message that waits to be handed out.
#[derive(Debug)]
pub(super) struct Ready {
    pub(super) message: Incoming,
    pub(super) size: usize,
}

/// A shard that this member reads.
#[derive(Debug)]
pub(super) struct Held {
    /// As it is to be stored.
    pub(super) lease: Lease,
    /// The version of the row that is stored.
    pub(super) version: u64,
    /// Whether `lease` differs from what is stored.
    pub(super) dirty: bool,
    ready: BTreeMap<u64, Ready>,
    pub(super) bytes: usize,
    pub(super) in_hand: BTreeSet<u64>,
    /// The records of all numbers that the watermark has open.
    numbers: VecDeque<(u64, Sequence)>,
    watermark: Watermark,
    next: u64,
    /// Up to which number it is stored that messages may be handed out.
    started: u64,
    /// Up to which number that shall be stored.
    want: u64,
    /// Whether the shard is closed, and all of it was fetched.
    pub(super) ended: bool,
    /// Whether it goes to another member as soon as nothing of it is in hand.
    pub(super) leaving: bool,
    /// Whether this process has published to its stream since it was read.
    pub(super) nudged: bool,
    /// How far behind the end of the shard the last read was, in milliseconds.
    pub(super) behind: i64,
}

impl Held {
    pub(super) fn new(lease: Lease, version: u64) -> Self {
        Self {
            lease,
            version,
            dirty: false,
            ready: BTreeMap::new(),
            bytes: 0,
            in_hand: BTreeSet::new(),
            numbers: VecDeque::new(),
            watermark: Watermark::new(),
            next: 1,
            started: 0,
            want: 0,
            ended: false,
            leaving: false,
            nudged: false,
            behind: 0,
        }
    }

    pub(super) fn buffered(&self) -> usize {
        self.ready.len()
    }

    fn settled(&mut self, number: u64) {
        let Ok(Some(mark)) = self.watermark.settled(number) else { return };
        let mut last = None;
        while self.numbers.front().is_some_and(|(at, _)| *at <= mark) {
            last = self.numbers.pop_front();
        }
        if let Some((_, sequence)) = last {
            self.lease.settled(sequence);
            self.dirty = true;
        }
    }

    fn sequence(&self, number: u64) -> Option<&Sequence> {
        let at = self.numbers.binary_search_by_key(&number, |(at, _)| *at).ok()?;
        self.numbers.get(at).map(|(_, sequence)| sequence)
    }

    /// The record up to which the row has to say that messages may be handed out, where that is more than it says.
    pub(super) fn to_start(&self) -> Option<(u64, Sequence)> {
        if self.want <= self.started {
            return None;
        }
        self.sequence(self.want).map(|sequence| (self.want, sequence.clone()))
    }

    pub(super) fn stored_start(&mut self, number: u64) {
        self.started = self.started.max(number);
    }

    /// Whether nothing of it is left to do.
    pub(super) fn is_finished(&self) -> bool {
        self.ended && self.ready.is_empty() && self.in_hand.is_empty() && self.watermark.open() == 0
    }

    /// Whether it is ready to be no longer this member's.
    pub(super) fn goes(&self) -> bool {
        self.is_finished() || (self.leaving && self.in_hand.is_empty())
    }

    /// The next record; `None` is one that is not for this group.
    pub(super) fn push(&mut self, sequence: Sequence, message: Option<Ready>) {
        // Read again, after an iterator was lost.
        if self.numbers.back().is_some_and(|(_, last)| sequence <= *last) || self.lease.at.is_past(&sequence)
        {
            return;
        }
        let number = self.next;
        self.next += 1;
        if self.watermark.received(number).is_err() {
            return;
        }
        self.numbers.push_back((number, sequence));
        match message {
            Some(ready) => {
                self.bytes += ready.size;
                self.ready.insert(number, ready);
            }
            None => self.settled(number),
        }
    }
}

/// What a look at the buffers gave.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Found {
    /// Messages.
    Some,
    /// Nothing yet.
    Nothing,
    /// Nothing yet; the keeper has to write something first.
    Unwritten,
    /// Nothing any more.
    End,
}

#[derive(Debug)]
pub(super) struct State {
    /// By the generation of the lease, which is every token's epoch.
    pub(super) held: BTreeMap<u64, Held>,
    next_generation: u64,
    /// The shard that was served last.
    last: u64,
    pub(super) in_hand: usize,
    pub(super) prefetch: usize,
    /// What the group takes; empty = everything, as of a delay step.
    pub(super) patterns: Vec<Pattern>,
    /// Until when the others take this member for alive.
    pub(super) alive_until: Instant,
    pub(super) stopped: bool,
    pub(super) closed: bool,
    pub(super) quitting: bool,
    /// Whether the keeper shall look at the table at once.
    pub(super) round_asked: bool,
    /// Whether the keeper has left.
    pub(super) gone: bool,
    /// Why nothing comes, where that does not pass by itself.
    pub(super) failure: Option<(TransportErrorKind, String)>,
    /// Whether it has its share of the shards.
    pub(super) has_share: bool,
    pub(super) flush_asked: u64,
    pub(super) flush_done: u64,
    /// What the last flush could not write.
    pub(super) flush_error: Option<String>,
}

impl State {
    pub(super) fn new(prefetch: usize, patterns: Vec<Pattern>) -> Self {
        Self {
            held: BTreeMap::new(),
            next_generation: 1,
            last: 0,
            in_hand: 0,
            prefetch,
            patterns,
            alive_until: Instant::now(),
            stopped: false,
            closed: false,
            quitting: false,
            round_asked: false,
            gone: false,
            failure: None,
            has_share: false,
            flush_asked: 0,
            flush_done: 0,
            flush_error: None,
        }
    }

    /// A lease that was taken; answers its generation.
    pub(super) fn hold(&mut self, lease: Lease, version: u64) -> u64 {
        let generation = self.next_generation;
        self.next_generation += 1;
        self.held.insert(generation, Held::new(lease, version));
        generation
    }

    /// A lease is somebody else's now: what is in hand of it comes again there.
    pub(super) fn lose(&mut self, generation: u64) -> Option<Held> {
        let held = self.held.remove(&generation)?;
        self.in_hand -= held.in_hand.len();
        Some(held)
    }

    pub(super) fn lose_all(&mut self) {
        self.held.clear();
        self.in_hand = 0;
    }

    /// Hands out what is there, as far as `max` and the prefetch go, each shard in its turn.
    pub(super) fn take(
        &mut self,
        settler: &Arc<dyn Settle>,
        max: usize,
        into: &mut VecDeque<Delivery>,
    ) -> Result<Found, TransportError> {
        if self.closed {
            return Err(crate::error::closed());
        }
        if self.stopped {
            return Ok(Found::End);
        }
        if let Some((kind, text)) = &self.failure {
            return Err(TransportError::new(*kind, text.clone()));
        }
        // Whoever is taken for dead hands nothing out: somebody else does.
        if Instant::now() >= self.alive_until {
            return Ok(Found::Nothing);
        }
        let (mut taken, mut unwritten) = (0, false);
        let order: Vec<u64> = self
            .held
            .range(self.last + 1..)
            .chain(self.held.range(..=self.last))
            .map(|(at, _)| *at)
            .collect();
        for generation in order {
            let room = self.prefetch.saturating_sub(self.in_hand);
            if taken == max || room == 0 {
                break;
            }
            let Some(held) = self.held.get_mut(&generation) else { continue };
            if held.leaving || held.watermark.open() - held.ready.len() > MOST_AHEAD {
                continue;
            }
            // As much as could be in hand before anything of it is settled, so that not every message costs a write.
            if let Some(last) = held.ready.keys().take(room).next_back().copied()
                && last > held.started
            {
                held.want = held.want.max(last);
            }
            while taken < max && self.in_hand < self.prefetch {
                let Some(entry) = held.ready.first_entry() else { break };
                let number = *entry.key();
                if number > held.started {
                    unwritten = true;
                    break;
                }
                let Ready { message, size } = entry.remove();
                held.bytes -= size;
                held.in_hand.insert(number);
                self.in_hand += 1;
                taken += 1;
                self.last = generation;
                let mut delivery =
                    Delivery::new(message, Token { id: number, epoch: generation }, settler.clone());
                if let Some(sequence) = held.sequence(number) {
                    let (stream, shard) = (&held.lease.stream, &held.lease.shard);
                    delivery = delivery
                        .with_count(held.lease.starts(sequence))
                        .with_position(format!("{stream}/{shard}/{}", sequence.as_str()));
                }
                into.push_back(delivery);
            }
        }
        Ok(match (taken, unwritten) {
            (0, true) => Found::Unwritten,
            (0, false) => Found::Nothing,
            _ => Found::Some,
        })
    }

    /// A message is settled. Answers whether its lease is still held.
    pub(super) fn done(&mut self, token: Token) -> bool {
        let Some(held) = self.held.get_mut(&token.epoch) else { return false };
        if !held.in_hand.remove(&token.id) {
            return false;
        }
        held.settled(token.id);
        self.in_hand -= 1;
        true
    }

    /// A message goes back to its old place.
    pub(super) fn returned(&mut self, token: Token, message: Incoming) {
        let Some(held) = self.held.get_mut(&token.epoch) else { return };
        if held.in_hand.remove(&token.id) {
            self.in_hand -= 1;
            // Small: it is bounded by the prefetch, not by the bytes.
            held.ready.insert(token.id, Ready { message, size: 0 });
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use msgkit::Envelope;
    use msgkit::envelope::{Clock, ContentType};

    use super::*;
    use crate::position::Position;

    /// Settles nothing; the test does.
    #[derive(Debug)]
    struct Nobody;

    impl Settle for Nobody {
        fn done(&self, _: &mut Vec<Token>) {}
        fn returned(&self, _: Token, _: Incoming) {}
    }

    fn sequence(n: usize) -> Sequence {
        Sequence::new(&n.to_string())
    }

    #[test]
    fn what_is_settled_behind_a_message_that_is_not_has_a_bound() {
        const PREFETCH: usize = 300;
        const ALL: usize = MOST_AHEAD + 2 * PREFETCH;
        let settler: Arc<dyn Settle> = Arc::new(Nobody);
        let mut state = State::new(PREFETCH, Vec::new());
        state.alive_until = Instant::now() + Duration::from_secs(3600);
        let generation = state.hold(Lease::new("s", "0", Vec::new(), Position::Oldest), 1);
        let held = state.held.get_mut(&generation).unwrap();
        held.stored_start(ALL as u64);
        let now = Clock::system().now();
        for n in 1..=ALL {
            let topic = "a.b".parse().unwrap();
            let envelope = Envelope::new("test", "test.text", topic, ContentType::Json, "1".into(), now);
            held.push(sequence(n), Some(Ready { message: Incoming::Envelope(envelope), size: 1 }));
        }
        // The first is never settled, the others at once.
        let mut settled = 0;
        loop {
            let mut came = VecDeque::new();
            if state.take(&settler, PREFETCH, &mut came).unwrap() != Found::Some {
                break;
            }
            let others: Vec<u64> =
                state.held[&generation].in_hand.iter().copied().filter(|id| *id != 1).collect();
            for id in others {
                assert!(state.done(Token { id, epoch: generation }));
                settled += 1;
            }
        }
        assert!((MOST_AHEAD..=MOST_AHEAD + PREFETCH).contains(&settled), "{settled}");
        assert_eq!(state.held[&generation].lease.at, Position::Oldest, "the checkpoint is before it");
        assert!(state.done(Token { id: 1, epoch: generation }));
        assert_eq!(state.held[&generation].lease.at, Position::After(sequence(settled + 1)));
        let mut came = VecDeque::new();
        assert_eq!(state.take(&settler, PREFETCH, &mut came).unwrap(), Found::Some, "now the rest goes on");
    }
}

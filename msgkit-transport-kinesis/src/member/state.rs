//! What a member has in hand: the buffers of its shards, what was handed out, how far each is settled.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use msgkit::Pattern;
use msgkit::transport::{Delivery, Incoming, Settle, Token, TransportError, TransportErrorKind, Watermark};
use tokio::time::Instant;

use crate::lease::Lease;
use crate::position::Sequence;

/// How many records of a shard may be open, whosever they are, and how many of them settled behind one that is not: memory is
/// bounded though a handler never ends.
const MOST_AHEAD: usize = 10_000;

/// The least time between two looks whether the table is silent.
const LEAST: Duration = Duration::from_millis(100);

/// A message that waits to be handed out.
#[derive(Debug)]
pub(super) struct Ready {
    pub(super) message: Incoming,
    pub(super) size: usize,
}

/// A message that the patterns known here do not match: the group may have been declared with more of them since they were read.
#[derive(Debug)]
struct Undecided {
    ready: Ready,
    /// The last look at the group's patterns that began before it came; only a later one tells.
    look: u64,
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
    /// What may be the group's, or not: each keeps its place, and holds the watermark.
    undecided: BTreeMap<u64, Undecided>,
    /// Of what is ready and what is undecided.
    pub(super) bytes: usize,
    pub(super) in_hand: BTreeSet<u64>,
    /// The records of all numbers that the watermark has open.
    numbers: VecDeque<(u64, Sequence)>,
    watermark: Watermark,
    /// The highest number that a handler has settled, and the mark that the row says.
    handled: u64,
    written: u64,
    next: u64,
    /// Up to which number it is stored that messages may be handed out.
    started: u64,
    /// Up to which number that shall be stored.
    want: u64,
    /// Whether the shard is closed, and all of it was fetched.
    pub(super) ended: bool,
    /// Since when it goes to another member as soon as nothing of it is in hand.
    pub(super) leaving: Option<Instant>,
    /// Until when it stays though there are too many, because it could not go.
    pub(super) stays: Option<Instant>,
    /// Whether this process has published to its stream since it was read.
    pub(super) nudged: bool,
    /// How far behind the end of the shard the last read was, in milliseconds.
    pub(super) behind: i64,
    /// Why it has not been read for longer than failures mostly last.
    pub(super) unread: Option<String>,
}

impl Held {
    pub(super) fn new(lease: Lease, version: u64) -> Self {
        Self {
            lease,
            version,
            dirty: false,
            ready: BTreeMap::new(),
            undecided: BTreeMap::new(),
            bytes: 0,
            in_hand: BTreeSet::new(),
            numbers: VecDeque::new(),
            watermark: Watermark::new(),
            handled: 0,
            written: 0,
            next: 1,
            started: 0,
            want: 0,
            ended: false,
            leaving: None,
            stays: None,
            nudged: false,
            behind: 0,
            unread: None,
        }
    }

    pub(super) fn buffered(&self) -> usize {
        self.ready.len()
    }

    /// Up to which number all is settled.
    pub(super) fn mark(&self) -> u64 {
        self.watermark.mark().unwrap_or_default()
    }

    /// It is stored that all up to number `mark` is settled.
    pub(super) fn stored_mark(&mut self, mark: u64) {
        self.written = mark;
    }

    /// Whether something that a handler has settled is not in the row, so that it comes again where the lease is lost.
    pub(super) fn owes(&self) -> bool {
        self.handled > self.written
    }

    /// How many more records may be read of it before something is settled.
    pub(super) fn places(&self) -> usize {
        MOST_AHEAD.saturating_sub(self.watermark.open())
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

    /// Whether it is ready to be no longer this member's. What is undecided is decided first: it holds the checkpoint, and what
    /// is settled behind it would come again.
    pub(super) fn goes(&self) -> bool {
        self.is_finished() || (self.leaving.is_some() && self.is_idle())
    }

    /// Whether nothing of it is in hand, or undecided.
    pub(super) fn is_idle(&self) -> bool {
        self.in_hand.is_empty() && self.undecided.is_empty()
    }

    /// The next record; `None` is one that is not for this group.
    pub(super) fn push(&mut self, sequence: Sequence, message: Option<Ready>) {
        let Some(number) = self.number(sequence) else { return };
        match message {
            Some(ready) => {
                self.bytes += ready.size;
                self.ready.insert(number, ready);
            }
            None => self.settled(number),
        }
    }

    /// The next record, of which a look at the group's patterns after `look` tells whether it is for this group.
    fn push_undecided(&mut self, sequence: Sequence, ready: Ready, look: u64) {
        let Some(number) = self.number(sequence) else { return };
        self.bytes += ready.size;
        self.undecided.insert(number, Undecided { ready, look });
    }

    /// The place of a record that comes now; `None` = it was here before.
    fn number(&mut self, sequence: Sequence) -> Option<u64> {
        // Read again, after an iterator was lost.
        if self.numbers.back().is_some_and(|(_, last)| sequence <= *last) || self.lease.at.is_past(&sequence)
        {
            return None;
        }
        let number = self.next;
        self.next += 1;
        self.watermark.received(number).ok()?;
        self.numbers.push_back((number, sequence));
        Some(number)
    }

    /// The group takes `patterns`, by a look that began as number `look`.
    fn decide(&mut self, look: u64, patterns: &[Pattern]) {
        for (number, undecided) in std::mem::take(&mut self.undecided) {
            if takes(patterns, &undecided.ready.message) {
                self.ready.insert(number, undecided.ready);
            } else if undecided.look < look {
                self.bytes -= undecided.ready.size;
                self.settled(number);
            } else {
                self.undecided.insert(number, undecided);
            }
        }
    }
}

/// Whether a group of `patterns` takes `message`; without any it takes everything.
fn takes(patterns: &[Pattern], message: &Incoming) -> bool {
    patterns.is_empty() || patterns.iter().any(|pattern| pattern.matches(message.topic()))
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

/// What a flush says of settlements that went with `lease`.
pub(super) fn lost(lease: &Lease) -> String {
    format!("the lease of `{}/{}` was lost before", lease.stream, lease.shard)
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
    patterns: Vec<Pattern>,
    /// Whether nobody else can add patterns: what does not match is not ours, and no look can tell otherwise.
    alone: bool,
    /// How many looks at the group's patterns have begun.
    looks: u64,
    /// Until when the others take this member for alive.
    pub(super) alive_until: Instant,
    /// When the table was looked at last, with all that follows from it; when that it was not was told last; why it was not.
    pub(super) kept: Instant,
    told: Instant,
    pub(super) trouble: Option<String>,
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
    /// What was settled went with a lease, and no flush has told it yet.
    pub(super) unflushed: Option<String>,
    /// What the last flush could not write.
    pub(super) flush_error: Option<String>,
}

impl State {
    pub(super) fn new(prefetch: usize, patterns: Vec<Pattern>, alone: bool) -> Self {
        Self {
            held: BTreeMap::new(),
            next_generation: 1,
            last: 0,
            in_hand: 0,
            prefetch,
            patterns,
            alone,
            looks: 0,
            alive_until: Instant::now(),
            kept: Instant::now(),
            told: Instant::now(),
            trouble: None,
            stopped: false,
            closed: false,
            quitting: false,
            round_asked: false,
            gone: false,
            failure: None,
            has_share: false,
            flush_asked: 0,
            flush_done: 0,
            unflushed: None,
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

    /// A lease is not held any more: what is in hand of it comes again elsewhere.
    pub(super) fn give_up(&mut self, generation: u64) {
        if let Some(held) = self.held.remove(&generation) {
            self.in_hand -= held.in_hand.len();
        }
    }

    pub(super) fn give_up_all(&mut self) {
        self.held.clear();
        self.in_hand = 0;
    }

    /// A lease is somebody else's now: the next flush tells what was settled and not written.
    pub(super) fn lose(&mut self, generation: u64) {
        if let Some(held) = self.held.get(&generation).filter(|held| held.owes()) {
            let lost = lost(&held.lease);
            self.unflushed = Some(lost);
        }
        self.give_up(generation);
    }

    pub(super) fn lose_all(&mut self) {
        for generation in self.held.keys().copied().collect::<Vec<_>>() {
            self.lose(generation);
        }
    }

    /// A record of a shard that is held; `told` says whether its topic is known.
    pub(super) fn take_in(&mut self, generation: u64, sequence: Sequence, ready: Ready, told: bool) {
        let Some(held) = self.held.get_mut(&generation) else { return };
        // What tells no topic is for every group that reads the stream: better seen than lost.
        if !told || takes(&self.patterns, &ready.message) {
            held.push(sequence, Some(ready));
        } else if self.alone {
            held.push(sequence, None);
        } else {
            held.push_undecided(sequence, ready, self.looks);
        }
    }

    /// Whether a look at the group's patterns would decide something.
    pub(super) fn is_in_doubt(&self) -> bool {
        self.held.values().any(|held| !held.undecided.is_empty())
    }

    /// A look at the group's patterns begins; answers its number.
    pub(super) fn begin_look(&mut self) -> u64 {
        self.looks += 1;
        self.looks
    }

    /// What the look found. Whoever declared the group before it published is in what a look found that began later.
    pub(super) fn looked(&mut self, look: u64, patterns: Vec<Pattern>) {
        if !patterns.is_empty() {
            self.patterns = patterns;
        }
        for held in self.held.values_mut() {
            held.decide(look, &self.patterns);
        }
    }

    /// Why nothing may come, where the table was not looked at for as long as a `lease`.
    pub(super) fn silence(&self, lease: Duration) -> Option<String> {
        let silent = self.kept.elapsed() >= lease && !self.quitting && !self.gone;
        silent.then(|| self.trouble.clone().unwrap_or_else(|| "the table has not answered".to_owned()))
    }

    /// The same, once for each `lease`; otherwise when to ask again.
    pub(super) fn tell_silence(&mut self, lease: Duration) -> Result<Instant, String> {
        let due = self.kept.max(self.told) + lease;
        match self.silence(lease).filter(|_| Instant::now() >= due) {
            Some(why) => {
                self.told = Instant::now();
                Err(why)
            }
            None => Ok(due.max(Instant::now() + LEAST)),
        }
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
            let waiting = held.ready.len() + held.undecided.len();
            if held.leaving.is_some() || held.watermark.open() - waiting > MOST_AHEAD {
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
        held.handled = held.handled.max(token.id);
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
mod tests;

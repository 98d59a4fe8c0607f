//! One partition in this member's hands: what came of it, what is settled, how far it may be committed, how often its
//! messages were started.

use std::collections::BTreeMap;

use msgkit::Text;
use msgkit::transport::{Position, Watermark};

use crate::starts::Starts;

/// The most messages above an unsettled one that are read on: a message that is stuck bounds its partition, not memory.
pub(super) const MOST_OPEN: usize = 16_384;
/// The most offsets for which a start is written down at once.
const MOST_AHEAD: u64 = 16_384;

/// A partition from its assignment to its revocation.
#[derive(Debug)]
pub(super) struct Partition {
    pub(super) topic: String,
    pub(super) number: i32,
    /// `topic/number`, for people.
    name: Text,
    watermark: Watermark,
    /// Where it was begun.
    begin: u64,
    /// The offset behind the last that came.
    next: u64,
    /// In hand, with their place in the order of arrival.
    pub(super) in_hand: BTreeMap<u64, u64>,
    /// The starts of the members before this one.
    before: Starts,
    /// Messages below this may be handed out: their starts are written down at the broker.
    pub(super) counted_to: u64,
    /// How many starts are written down ahead.
    ahead: u64,
    /// What the broker has: the offset and its metadata.
    told: Option<(u64, String)>,
    /// Being given away: nothing more is handed out.
    pub(super) leaving: bool,
    /// Whether nothing is committed: without a group there is no offset to commit.
    free: bool,
    /// Begun below what the broker has, which has to learn that.
    again: bool,
    /// Another one has taken its place.
    succeeded: bool,
}

/// How the starts are written into a commit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Counting {
    /// For all that may be handed out, and some ahead.
    Ahead,
    /// For what is in hand, and nothing else.
    InHand,
    /// For nothing: what is left is given back.
    None,
}

/// What is to be told to the broker of one partition.
#[derive(Debug, Clone)]
pub(super) struct Commit {
    pub(super) epoch: u64,
    pub(super) topic: String,
    pub(super) number: i32,
    pub(super) offset: u64,
    pub(super) metadata: String,
    pub(super) counted_to: u64,
}

impl Partition {
    /// A partition that begins at `begin`, of which `before` was started already.
    pub(super) fn new(
        topic: String,
        number: i32,
        begin: u64,
        before: Starts,
        ahead: usize,
        free: bool,
    ) -> Self {
        Self {
            name: format!("{topic}/{number}").into(),
            topic,
            number,
            watermark: Watermark::new(),
            begin,
            next: begin,
            in_hand: BTreeMap::new(),
            before,
            counted_to: if free { u64::MAX } else { 0 },
            ahead: u64::try_from(ahead).unwrap_or(u64::MAX).clamp(1, MOST_AHEAD),
            told: None,
            leaving: false,
            free,
            again: false,
            succeeded: false,
        }
    }

    /// The same, begun elsewhere than the broker has it: that is told even before something is settled.
    pub(super) fn begun_again(mut self) -> Self {
        self.again = true;
        self
    }

    /// What follows a log that was made again or cut off: another partition, which begins at `begin`. What came of this one
    /// is handled to its end, and has no offset of its own to commit any more: it only bounds that of its successor.
    pub(super) fn renewed(&mut self, begin: u64) -> Self {
        let ahead = usize::try_from(self.ahead).unwrap_or(usize::MAX);
        let next = Self::new(self.topic.clone(), self.number, begin, Starts::default(), ahead, self.free);
        self.free = true;
        self.succeeded = true;
        self.counted_to = u64::MAX;
        next.begun_again()
    }

    /// How far its successor may be committed: not beyond what is open here, which may still be in the log where that was
    /// only cut off.
    pub(super) fn bound(&self) -> Option<u64> {
        (self.succeeded && self.watermark.open() > 0).then(|| self.position())
    }

    /// The offset behind the last that came.
    pub(super) fn next(&self) -> u64 {
        self.next
    }

    /// Whether it is this partition of this topic.
    pub(super) fn is(&self, topic: &str, number: i32) -> bool {
        self.number == number && self.topic == topic
    }

    /// Takes note of the next message; `false` where its offset is below what came, or below where it was begun.
    pub(super) fn received(&mut self, offset: u64) -> bool {
        let follows = offset >= self.next && self.watermark.received(offset).is_ok();
        if follows {
            self.next = offset + 1;
        }
        follows
    }

    pub(super) fn settled(&mut self, offset: u64) {
        // An offset that is not open was settled before: that changes nothing.
        let _ = self.watermark.settled(offset);
    }

    /// Whether enough lies above an unsettled message.
    pub(super) fn is_full(&self) -> bool {
        self.watermark.open() >= MOST_OPEN
    }

    /// Where the message at `offset` lies, for people.
    pub(super) fn position_of(&self, offset: u64) -> Position {
        Position::Offset { log: self.name.clone(), offset }
    }

    /// How often the message at `offset` was started, this time included.
    pub(super) fn count(&self, offset: u64) -> u32 {
        self.before.of(offset).saturating_add(1)
    }

    /// Where it would be gone on with by somebody else: behind everything that is settled.
    fn position(&self) -> u64 {
        self.watermark.mark().map_or(self.begin, |mark| mark + 1)
    }

    /// Whether there is something settled, up to `bound`, that the broker does not know.
    pub(super) fn is_behind(&self, bound: u64) -> bool {
        let told = self.told.as_ref().map_or(self.begin, |(offset, _)| *offset);
        !self.free && (self.position().min(bound) > told || (self.again && self.told.is_none()))
    }

    /// What is to be told, up to `bound`, where that is something new. `wanted` is the highest offset that waits to be
    /// handed out.
    pub(super) fn commit(
        &mut self,
        epoch: u64,
        counting: Counting,
        wanted: Option<u64>,
        bound: u64,
    ) -> Option<Commit> {
        if self.free {
            return None;
        }
        let offset = self.position().min(bound);
        let (starts, counted_to) = match counting {
            Counting::None => (self.before.clone(), 0),
            Counting::InHand => (self.before.raised_each(&self.in_hand.keys().copied().collect()), 0),
            Counting::Ahead => {
                let mut to = self.counted_to;
                if let Some(wanted) = wanted
                    && wanted >= to
                {
                    // It ran out, so there is much to do: fewer and larger steps.
                    if to > 0 {
                        self.ahead = (self.ahead * 2).min(MOST_AHEAD);
                    }
                    to = wanted + 1 + self.ahead;
                }
                (if to > offset { self.before.raised(offset, to) } else { self.before.clone() }, to)
            }
        };
        let metadata = starts.write(offset);
        if counting != Counting::Ahead {
            // From now on nothing is handed out before its start is written down again.
            self.counted_to = 0;
        }
        let told = self.told.as_ref().is_some_and(|(at, text)| *at == offset && *text == metadata);
        let untouched = self.told.is_none()
            && !self.again
            && offset == self.begin
            && counting != Counting::Ahead
            && starts == self.before;
        if told || untouched {
            if counting == Counting::Ahead {
                self.counted_to = counted_to;
            }
            return None;
        }
        Some(Commit { epoch, topic: self.topic.clone(), number: self.number, offset, metadata, counted_to })
    }

    /// The broker has taken `commit`.
    pub(super) fn told(&mut self, commit: Commit) {
        if self.free {
            // Another one took its place meanwhile: nothing waits for its starts any more.
            return;
        }
        self.counted_to = commit.counted_to;
        self.told = Some((commit.offset, commit.metadata));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn partition() -> Partition {
        Partition::new("t".to_owned(), 0, 10, Starts::default(), 4, false)
    }

    fn receive(partition: &mut Partition, offsets: std::ops::Range<u64>) {
        for offset in offsets {
            assert!(partition.received(offset));
            partition.in_hand.insert(offset, offset);
        }
    }

    fn settle(partition: &mut Partition, offset: u64) {
        partition.in_hand.remove(&offset);
        partition.settled(offset);
    }

    #[test]
    fn nothing_may_be_handed_out_before_its_start_is_written_down() {
        let mut partition = partition();
        assert!(partition.received(10));
        assert_eq!(partition.counted_to, 0);
        let commit = partition.commit(1, Counting::Ahead, Some(10), u64::MAX).unwrap();
        assert_eq!((commit.offset, commit.metadata.as_str(), commit.counted_to), (10, "msgkit1 0-5:1", 15));
        assert_eq!(partition.counted_to, 0, "the broker has not answered");
        partition.told(commit);
        assert_eq!(partition.counted_to, 15);
        assert!(partition.commit(1, Counting::Ahead, None, u64::MAX).is_none(), "nothing is new");
    }

    #[test]
    fn the_mark_never_passes_what_is_in_hand() {
        let mut partition = partition();
        receive(&mut partition, 10..14);
        for offset in [11, 13] {
            settle(&mut partition, offset);
        }
        assert!(!partition.is_behind(u64::MAX));
        settle(&mut partition, 10);
        let commit = partition.commit(1, Counting::InHand, None, u64::MAX).unwrap();
        // 12 is in hand, and 13 was settled behind it.
        assert_eq!((commit.offset, commit.metadata.as_str()), (12, "msgkit1 0-1:1"));
        partition.told(commit);
        assert!(!partition.is_behind(u64::MAX));
    }

    #[test]
    fn giving_back_is_no_start_and_dying_is_one() {
        let before = Starts::read("msgkit1 0-2:3", 10);
        let mut partition = Partition::new("t".to_owned(), 0, 10, before, 4, false);
        receive(&mut partition, 10..13);
        assert_eq!([10, 11, 12].map(|offset| partition.count(offset)), [4, 4, 1]);
        let commit = partition.commit(1, Counting::Ahead, Some(12), u64::MAX).unwrap();
        assert_eq!(commit.metadata, "msgkit1 0-2:4 2-7:1", "what a successor finds when this one dies");
        partition.told(commit);
        settle(&mut partition, 10);
        let commit = partition.commit(1, Counting::None, None, u64::MAX).unwrap();
        assert_eq!((commit.offset, commit.metadata.as_str()), (11, "msgkit1 0-1:3"), "and when it leaves");
    }

    #[test]
    fn a_log_that_goes_back_is_another_one() {
        let mut partition = partition();
        receive(&mut partition, 10..13);
        assert!(!partition.received(3));
        let mut next = partition.renewed(3);
        assert!(next.received(3), "what is there now was never seen");
        settle(&mut partition, 10);
        assert!(!partition.is_behind(u64::MAX), "the offsets of the old one mean nothing in the new one");
        assert!(partition.commit(1, Counting::InHand, None, u64::MAX).is_none());
        // Else a successor would begin where the old one was.
        assert!(next.is_behind(u64::MAX));
        let commit = next.commit(2, Counting::InHand, None, u64::MAX).unwrap();
        assert_eq!(commit.offset, 3);
        next.told(commit);
        assert!(!next.is_behind(u64::MAX));
    }

    #[test]
    fn much_to_do_takes_larger_steps() {
        let mut partition = partition();
        let mut steps = Vec::new();
        let mut wanted = 10;
        for _ in 0..16 {
            let commit = partition.commit(1, Counting::Ahead, Some(wanted), u64::MAX).unwrap();
            steps.push(commit.counted_to - wanted - 1);
            wanted = commit.counted_to;
            partition.told(commit);
        }
        assert_eq!(steps[..4], [4, 8, 16, 32]);
        assert_eq!(steps.last(), Some(&MOST_AHEAD));
    }
}

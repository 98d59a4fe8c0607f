//! How often messages have been started, for the crash bound. Kafka counts no deliveries; the count is kept in the
//! metadata of the committed offset, before anybody sees the messages that it counts, and so survives a dead process.
//!
//! It is a list of ranges: `msgkit1 0-128:2 128-256:1` says that of the 128 messages from the committed offset on each
//! may have been started twice, and the 128 behind them once.

use std::collections::BTreeSet;
use std::fmt::Write as _;

/// The most ranges that are written; the broker takes 4 KiB of metadata.
const MOST: usize = 96;
/// What the metadata begins with.
const MARK: &str = "msgkit1";

/// Starts per range of offsets; what no range names was never started.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Starts(Vec<Range>);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Range {
    from: u64,
    to: u64,
    count: u32,
}

impl Starts {
    /// Reads the metadata of the committed offset `base`; what is none of ours says nothing.
    pub(crate) fn read(metadata: &str, base: u64) -> Self {
        let mut words = metadata.split(' ');
        if words.next() != Some(MARK) {
            return Self::default();
        }
        let mut ranges: Vec<Range> = Vec::new();
        for word in words.take(MOST) {
            let read = || -> Option<Range> {
                let (range, count) = word.split_once(':')?;
                let (from, to) = range.split_once('-')?;
                let from = base.checked_add(from.parse().ok()?)?;
                let to = base.checked_add(to.parse().ok()?)?;
                Some(Range { from, to, count: count.parse().ok()? })
            };
            match read() {
                Some(range)
                    if range.from < range.to && ranges.last().is_none_or(|last| last.to <= range.from) =>
                {
                    ranges.push(range);
                }
                // Half a list would forget starts; none of it is a list that somebody else wrote.
                _ => return Self::default(),
            }
        }
        Self(ranges)
    }

    /// The metadata of the committed offset `base`.
    pub(crate) fn write(&self, base: u64) -> String {
        let mut text = MARK.to_owned();
        for range in self.0.iter().filter(|range| range.to > base && range.count > 0).take(MOST) {
            let from = range.from.max(base) - base;
            let _ = write!(text, " {from}-{}:{}", range.to - base, range.count);
        }
        if text == MARK { String::new() } else { text }
    }

    /// How often the message at `offset` had been started.
    pub(crate) fn of(&self, offset: u64) -> u32 {
        let at = self.0.partition_point(|range| range.to <= offset);
        self.0.get(at).filter(|range| range.from <= offset).map_or(0, |range| range.count)
    }

    /// One start more for all of `from..to`.
    pub(crate) fn raised(&self, from: u64, to: u64) -> Self {
        let mut raised = self.clone();
        raised.raise(from, to);
        raised.coarsen();
        raised
    }

    /// One start more for each of `offsets`.
    pub(crate) fn raised_each(&self, offsets: &BTreeSet<u64>) -> Self {
        let mut raised = self.clone();
        let mut run: Option<(u64, u64)> = None;
        for offset in offsets {
            run = match run {
                Some((from, to)) if to == *offset => Some((from, offset + 1)),
                Some((from, to)) => {
                    raised.raise(from, to);
                    Some((*offset, offset + 1))
                }
                None => Some((*offset, offset + 1)),
            };
        }
        if let Some((from, to)) = run {
            raised.raise(from, to);
        }
        raised.coarsen();
        raised
    }

    fn raise(&mut self, from: u64, to: u64) {
        if from >= to {
            return;
        }
        let mut ranges = Vec::with_capacity(self.0.len() + 2);
        let mut at = from;
        for range in &self.0 {
            let mut push = |from: u64, to: u64, count: u32| {
                if from < to {
                    ranges.push(Range { from, to, count });
                }
            };
            // What lies before this range and was never started.
            let gap = range.from.min(to);
            if at < gap {
                push(at, gap, 1);
                at = gap;
            }
            push(range.from, range.to.min(from.max(range.from)), range.count);
            let (inner_from, inner_to) = (range.from.max(from), range.to.min(to));
            if inner_from < inner_to {
                push(inner_from, inner_to, range.count.saturating_add(1));
                at = inner_to;
            }
            push(range.from.max(to), range.to, range.count);
        }
        if at < to {
            ranges.push(Range { from: at, to, count: 1 });
        }
        ranges.sort_by_key(|range| range.from);
        self.0 = ranges;
        self.join();
    }

    fn join(&mut self) {
        self.0.dedup_by(|next, last| {
            let joins = last.to == next.from && last.count == next.count;
            if joins {
                last.to = next.to;
            }
            joins
        });
    }

    /// Fewer ranges, none of which counts less than before: a start too many costs an innocent a start alone, a start
    /// too few lets a message kill for ever.
    fn coarsen(&mut self) {
        while self.0.len() > MOST {
            let mut coarse: Vec<Range> = Vec::with_capacity(self.0.len() / 2 + 1);
            for pair in self.0.chunks(2) {
                let (Some(first), Some(last)) = (pair.first(), pair.last()) else { continue };
                coarse.push(Range { from: first.from, to: last.to, count: first.count.max(last.count) });
            }
            self.0 = coarse;
            self.join();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn counts(starts: &Starts, offsets: std::ops::Range<u64>) -> Vec<u32> {
        offsets.map(|offset| starts.of(offset)).collect()
    }

    #[test]
    fn starts_add_up_per_range() {
        let first = Starts::default().raised(10, 14);
        assert_eq!(counts(&first, 9..15), [0, 1, 1, 1, 1, 0]);
        let second = first.raised(12, 16);
        assert_eq!(counts(&second, 9..17), [0, 1, 1, 2, 2, 1, 1, 0]);
        let third = second.raised(9, 17);
        assert_eq!(counts(&third, 8..18), [0, 1, 2, 2, 3, 3, 2, 2, 1, 0]);
        assert_eq!(third.raised(5, 5), third);
    }

    #[test]
    fn each_raises_only_what_is_named() {
        let starts = Starts::default().raised(0, 4).raised_each(&BTreeSet::from([1, 2, 9]));
        assert_eq!(counts(&starts, 0..11), [1, 2, 2, 1, 0, 0, 0, 0, 0, 1, 0]);
    }

    #[test]
    fn the_metadata_comes_back_from_the_offset_on() {
        let starts = Starts::default().raised(10, 20).raised(10, 13);
        let text = starts.write(12);
        assert_eq!(text, "msgkit1 0-1:2 1-8:1");
        let read = Starts::read(&text, 12);
        assert_eq!(counts(&read, 11..21), [0, 2, 1, 1, 1, 1, 1, 1, 1, 0]);
        assert_eq!(Starts::default().write(5), "");
    }

    #[test]
    fn what_others_wrote_says_nothing() {
        for text in [
            "",
            "msgkit1 x",
            "msgkit1 3-1:2",
            "msgkit1 0-5:1 2-6:1",
            "msgkit10 0-1:1",
            "msgkit1 0-18446744073709551615:1",
        ] {
            assert_eq!(Starts::read(text, 7), Starts::default(), "{text}");
        }
    }

    #[test]
    fn many_ranges_fit_and_count_no_less() {
        let offsets: BTreeSet<u64> = (0..2000).map(|n| n * 3).collect();
        let starts = Starts::default().raised_each(&offsets);
        let text = starts.write(0);
        assert!(text.len() < 4000, "{}", text.len());
        let read = Starts::read(&text, 0);
        assert!(offsets.iter().all(|offset| read.of(*offset) >= 1));
    }

    #[test]
    fn what_runs_ahead_of_many_ranges_cuts_none_of_them_off() {
        let offsets: BTreeSet<u64> = (0..60).map(|n| n * 3).collect();
        let starts = Starts::default().raised_each(&offsets).raised(0, 200);
        let read = Starts::read(&starts.write(0), 0);
        assert_eq!(offsets.iter().find(|offset| read.of(**offset) < 2), None);
        assert_eq!((0..200).find(|offset| read.of(*offset) < 1), None);
    }
}

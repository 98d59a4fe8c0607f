//! The judgement: what was published against what was handled.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use msgkit::transport::KeyOrder;

use crate::faults::Faults;
use crate::journal::Entry;
use crate::message::{Fate, key_of};

/// What a run has left behind.
#[derive(Debug)]
pub struct Evidence {
    /// The messages below this number were published, each until it was confirmed.
    pub total: u64,
    /// How often a message had to be published again.
    pub again: u64,
    /// What each member has handled, in its order; one that was started again is another.
    pub journals: Vec<Vec<Entry>>,
    /// The dead letters' numbers, and why each became one.
    pub dead: Vec<(u64, String)>,
    /// What came to rest only after all members had been replaced by a new one.
    pub late: BTreeSet<u64>,
    /// What the broker says it still has when nothing should be left, where it tells.
    pub left: u64,
    /// What the broker had confirmed last when it was killed, where it confirms before it writes.
    pub unwritten: BTreeSet<u64>,
    /// How far the transport says that the order of a key holds.
    pub order: KeyOrder,
    /// Whether there was only one member at any time, so that the order of a member is that of the group.
    pub alone: bool,
    /// What was broken.
    pub faults: Faults,
}

/// What became of the messages of a run.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Ledger {
    /// Which run it is, for its first line.
    pub title: String,
    /// How long it took.
    pub took: Duration,
    /// Published and confirmed.
    pub confirmed: u64,
    /// Published again, because the broker had not confirmed it.
    pub again: u64,
    /// Different messages that were handled.
    pub handled: u64,
    /// Different messages that were condemned, and lie with the dead letters.
    pub dead: u64,
    /// Confirmed, and neither handled nor a dead letter.
    pub lost: BTreeSet<u64>,
    /// The same, where the broker had confirmed them last before it was killed, and had not yet written them.
    pub unwritten: BTreeSet<u64>,
    /// Came only after all members had been replaced, or lies at the broker still.
    pub stuck: u64,
    /// Dead letters that should have been handled, and why they were not.
    pub condemned: Vec<(u64, String)>,
    /// Handled, or a dead letter, more than once; each time counts.
    pub duplicated: u64,
    /// Handled after a younger message of its key.
    pub disorder: u64,
    /// Whether the transport promises that there is no such.
    pub ordered: bool,
    /// What was broken, and how many duplicates that explains.
    pub faults: Faults,
    /// Where journals and logs of the members are, of a run that went wrong.
    pub kept: Option<PathBuf>,
}

impl Ledger {
    /// Draws it up.
    #[must_use]
    pub fn of(evidence: &Evidence) -> Self {
        let handled: BTreeSet<u64> = evidence.journals.iter().flatten().map(|entry| entry.n).collect();
        let dead: BTreeSet<u64> = evidence.dead.iter().map(|(n, _)| *n).collect();
        let is_condemned = |n: u64| Fate::of(n) == Fate::Condemned;
        let missing = (0..evidence.total).filter(|n| !handled.contains(n) && !dead.contains(n));
        let (unwritten, lost) = missing.partition(|n| evidence.unwritten.contains(n));
        let entries: usize = evidence.journals.iter().map(Vec::len).sum();
        let duplicated = (entries - handled.len()) + (evidence.dead.len() - dead.len());
        Self {
            confirmed: evidence.total,
            again: evidence.again,
            handled: handled.len() as u64,
            dead: dead.iter().filter(|n| is_condemned(**n)).count() as u64,
            lost,
            unwritten,
            stuck: evidence.late.len() as u64 + evidence.left,
            condemned: evidence.dead.iter().filter(|(n, _)| !is_condemned(*n)).cloned().collect(),
            duplicated: duplicated as u64,
            disorder: disorder(evidence),
            ordered: evidence.order == KeyOrder::Group
                || (evidence.order == KeyOrder::Member && evidence.alone),
            faults: evidence.faults.clone(),
            ..Self::default()
        }
    }

    /// What must not be; empty where the broker is certified.
    #[must_use]
    pub fn problems(&self) -> Vec<String> {
        let mut problems = Vec::new();
        if !self.lost.is_empty() {
            problems.push(format!("{} lost: {}", self.lost.len(), numbers(&self.lost)));
        }
        if self.stuck > 0 {
            problems.push(format!("{} stuck", self.stuck));
        }
        if let Some((n, why)) = self.condemned.first() {
            problems.push(format!("{} condemned without cause, as {n}: {why}", self.condemned.len()));
        }
        if self.duplicated > self.faults.bound() {
            problems.push(format!(
                "{} duplicates, and what was in flight explains {}",
                self.duplicated,
                self.faults.bound()
            ));
        }
        if self.ordered && self.disorder > 0 {
            problems.push(format!("{} out of order", self.disorder));
        }
        problems
    }
}

/// How many messages were handled, for the first time, after a younger one of their key: by the same member, or across
/// the group where the transport keeps order there. A delayed copy is not counted, because it may be overtaken.
fn disorder(evidence: &Evidence) -> u64 {
    let mut across: Vec<Entry> = evidence.journals.concat();
    across.sort_by_key(|entry| entry.at);
    let views = if evidence.order == KeyOrder::Group { &vec![across] } else { &evidence.journals };
    let mut count = 0;
    for view in views {
        let mut seen = BTreeSet::new();
        let mut youngest: BTreeMap<u64, u64> = BTreeMap::new();
        for entry in view.iter().filter(|entry| Fate::of(entry.n) == Fate::Handled) {
            let youngest = youngest.entry(key_of(entry.n)).or_default();
            count += u64::from(seen.insert(entry.n) && entry.n < *youngest);
            *youngest = (*youngest).max(entry.n);
        }
    }
    count
}

/// The first numbers of many.
fn numbers(all: &BTreeSet<u64>) -> String {
    let some: Vec<String> = all.iter().take(20).map(u64::to_string).collect();
    let more = if all.len() > some.len() { ", …" } else { "" };
    format!("{}{more}", some.join(", "))
}

impl fmt::Display for Ledger {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut line = |name: &str, count: u64, more: String| {
            let more = if more.is_empty() { more } else { format!("  {more}") };
            writeln!(f, "  {name:<13}{count:>8}{more}")
        };
        line("confirmed", self.confirmed, format!("{} published again", self.again))?;
        line("handled", self.handled, String::new())?;
        line("dead letters", self.dead, String::new())?;
        line("lost", self.lost.len() as u64, numbers(&self.lost))?;
        if !self.unwritten.is_empty() {
            let why = format!(
                "confirmed last, and not written, when the broker was killed: {}",
                numbers(&self.unwritten)
            );
            line("unwritten", self.unwritten.len() as u64, why)?;
        }
        line("stuck", self.stuck, String::new())?;
        if !self.condemned.is_empty() {
            line("condemned", self.condemned.len() as u64, "without cause".to_owned())?;
        }
        line("duplicated", self.duplicated, format!("in flight were at most {}", self.faults.bound()))?;
        let order = if self.ordered { "" } else { "several members: the transport promises no order" };
        line("out of order", self.disorder, order.to_owned())?;
        if let Some(kept) = &self.kept {
            writeln!(f, "  journals and logs: {}", kept.display())?;
        }
        write!(f, "  broken: {}; {:.0} s", self.faults, self.took.as_secs_f64())
    }
}

#[cfg(test)]
mod tests;

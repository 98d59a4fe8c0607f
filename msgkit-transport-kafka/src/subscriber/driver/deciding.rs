//! Whose a record is that no known pattern matches. Kafka spreads partitions over all members of a group, whatever each of
//! them knows: during a roll-out the messages of a pattern that only new members have declared come to old ones too.
//! So a record is none of the group's only after the declarations were read again, which costs one question where nothing
//! was declared since. Until then it stays unsettled, in its place.

use std::time::{Duration, Instant};

use msgkit::Pattern;

use super::settling::WORTH_A_WORD;
use super::{AGAIN, Driver, Source};

/// How often the declarations are read again while such records come.
const EVERY: Duration = Duration::from_secs(1);
/// With so many of them waiting, or bytes of them, that is not waited for.
pub(super) const MOST: usize = 1024;
pub(super) const MOST_BYTES: usize = 8 << 20;

/// When to read the declarations again.
pub(super) struct Deciding {
    next: Instant,
    /// How often in a row it did not work: then nobody asks sooner because many wait.
    failed: u32,
}

impl Deciding {
    pub(super) fn new() -> Self {
        Self { next: Instant::now(), failed: 0 }
    }
}

impl Driver {
    /// The patterns that the group has declared, as far as they were read, and this member's.
    pub(super) fn known_patterns(&self) -> Vec<Pattern> {
        let mut patterns = self.subscription.patterns.clone();
        if let (Source::Group(_), Some(group)) = (&self.source, &self.subscription.group) {
            let declared = self.cluster.groups.of(group).into_iter().map(|(pattern, _)| pattern);
            patterns.extend(declared.filter(|one| !self.subscription.patterns.contains(one)));
        }
        patterns
    }

    /// Decides on what no known pattern matched, once the declarations were read after it came.
    pub(super) fn decide(&mut self) {
        let Some(next) = self.next_decision() else { return };
        let now = Instant::now();
        if next > now {
            return;
        }
        match self.cluster.read_groups() {
            Ok(()) => {
                self.patterns = self.known_patterns();
                self.deciding = Deciding { next: now + EVERY, failed: 0 };
                self.member.decide(&self.patterns);
            }
            Err(error) => {
                let failed = self.deciding.failed.saturating_add(1);
                if failed.is_multiple_of(WORTH_A_WORD) {
                    tracing::warn!(
                        error = %msgkit::Chain(&error),
                        times = failed,
                        undecided = self.member.undecided().0,
                        "messages wait because the declarations of groups cannot be read"
                    );
                } else {
                    tracing::debug!(error = %msgkit::Chain(&error), "the declarations of groups cannot be read yet");
                }
                self.deciding = Deciding { next: Instant::now() + AGAIN, failed };
            }
        }
    }

    /// When there is something to decide on.
    pub(super) fn next_decision(&self) -> Option<Instant> {
        let (count, _) = self.member.undecided();
        let at_once = self.has_many_undecided() && self.deciding.failed == 0;
        (count > 0).then(|| if at_once { Instant::now() } else { self.deciding.next })
    }

    /// Whether so many wait for a decision that no more may come before it.
    pub(super) fn has_many_undecided(&self) -> bool {
        let (count, bytes) = self.member.undecided();
        count >= MOST || bytes >= MOST_BYTES
    }
}

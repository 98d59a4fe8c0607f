//! Dead letters, wherever a case's handlers have them: on their transport, or beside it where that keeps nothing unread.

use std::sync::Arc;

use msgkit::Envelope;
use msgkit::envelope::DeadLetterKind;
use msgkit::transport::Transport;

use super::support::Refuses;
use crate::conformance::Proof;
use crate::conformance::bench::{Bench, group_of};
use crate::conformance::pipeline::Job;

/// Where the dead letters are.
pub(super) struct Letters {
    at: Arc<dyn Transport>,
    beside: bool,
}

impl Letters {
    /// Of handlers on `transport`.
    ///
    /// # Errors
    /// What a case has shown where dead letters are kept and cannot be listed.
    pub(super) fn of(bench: &Bench<'_>, transport: &Arc<dyn Transport>) -> Result<Self, Proof> {
        let beside = !transport.capabilities().keeps_unread;
        let at = if beside { bench.beside() } else { transport.clone() };
        if at.operate().is_none() {
            return Err(Proof::absent("dead letters cannot be listed"));
        }
        Ok(Self { at, beside })
    }

    /// Puts something between `job` and its dead letters that refuses them until it is told to take them.
    pub(super) fn refused(&self, job: &mut Job) -> Arc<Refuses> {
        let (at, refuses) = Refuses::around(self.at.clone(), super::support::Which::DeadLetters, u32::MAX);
        if self.beside {
            job.letters = Some(at);
        } else {
            job.transport = at;
        }
        refuses
    }

    /// Those of `group`.
    pub(super) async fn all(&self, group: &str) -> Vec<Envelope> {
        let Some(operate) = self.at.operate() else { panic!("dead letters cannot be listed any more") };
        match operate.dead_letters(&group_of(group), None, 1000).await {
            Ok(letters) => letters.iter().filter_map(|letter| letter.message.envelope().cloned()).collect(),
            Err(error) => panic!("the dead letters cannot be listed: {}", msgkit::Chain(&error)),
        }
    }

    /// Waits until `group` has `count` of them.
    pub(super) async fn until(&self, bench: &Bench<'_>, group: &str, count: usize) -> Vec<Envelope> {
        let step = bench.time().tick() / 20;
        bench
            .soon(&format!("{count} dead letters of `{group}`"), async {
                loop {
                    let letters = self.all(group).await;
                    if letters.len() >= count {
                        return letters;
                    }
                    tokio::time::sleep(step).await;
                }
            })
            .await
    }

    /// What a case has proven that held with them.
    pub(super) fn proof(&self) -> Proof {
        if self.beside {
            Proof::Emulated("with dead letters on another transport".to_owned())
        } else {
            Proof::Proven
        }
    }
}

/// Asserts that `group` has no dead letters, where they can be listed.
pub(super) async fn nobody_is_dead(bench: &Bench<'_>, transport: &Arc<dyn Transport>, group: &str) {
    if let Ok(letters) = Letters::of(bench, transport) {
        let letters = letters.all(group).await;
        assert!(letters.is_empty(), "dead letters where there should be none: {letters:?}");
    }
}

/// The kinds of dead letters, in order.
pub(super) fn kinds(letters: &[Envelope]) -> Vec<DeadLetterKind> {
    letters.iter().filter_map(|letter| letter.dead_letter().map(|facts| facts.kind)).collect()
}

//! Which faults hit where.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::fmt;

use fastrand::Rng;

/// What a service, or the source that feeds it, is just doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[non_exhaustive]
pub enum Stage {
    /// The source publishes.
    Source,
    /// A handler's lane receives.
    Receive,
    /// A handler runs.
    Handle,
    /// What a handler published goes to its topic.
    Publish,
    /// A retry copy is published.
    Retry,
    /// A dead letter is published.
    DeadLetter,
    /// A message is settled.
    Settle,
}

/// What goes wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[non_exhaustive]
pub enum Fault {
    /// A publish is refused.
    Refused,
    /// A publish is taken, and its confirmation is lost.
    Unconfirmed,
    /// It takes a while.
    Delayed,
    /// It happens twice.
    Doubled,
    /// Messages of different keys change places.
    Reordered,
    /// The broker does not hear of a settlement.
    Lost,
    /// The destination refuses everything for a minute.
    Down,
    /// All connections break.
    Disconnected,
    /// The process is killed before it happens.
    CrashedBefore,
    /// The process is killed after it happened.
    CrashedAfter,
    /// The service is drained and started again.
    Restarted,
    /// The handler returns an error.
    Failed,
    /// The handler panics.
    Panicked,
    /// The handler never ends.
    Hung,
}

impl Stage {
    /// All stages.
    pub const ALL: [Self; 7] = [
        Self::Source,
        Self::Receive,
        Self::Handle,
        Self::Publish,
        Self::Retry,
        Self::DeadLetter,
        Self::Settle,
    ];

    /// How many operations of the stage the faults are spread over: about as many as a run has.
    fn span(self) -> u32 {
        match self {
            Self::Source => 180,
            Self::Receive => 60,
            Self::Handle => 600,
            Self::Publish => 300,
            Self::Retry => 25,
            Self::DeadLetter => 5,
            Self::Settle => 300,
        }
    }
}

impl Fault {
    /// All faults.
    pub const ALL: [Self; 14] = [
        Self::Refused,
        Self::Unconfirmed,
        Self::Delayed,
        Self::Doubled,
        Self::Reordered,
        Self::Lost,
        Self::Down,
        Self::Disconnected,
        Self::CrashedBefore,
        Self::CrashedAfter,
        Self::Restarted,
        Self::Failed,
        Self::Panicked,
        Self::Hung,
    ];

    /// Whether it can happen at `stage`.
    #[must_use]
    pub fn fits(self, stage: Stage) -> bool {
        let publishes = matches!(stage, Stage::Source | Stage::Publish | Stage::Retry | Stage::DeadLetter);
        match self {
            Self::Refused | Self::Unconfirmed | Self::Down => publishes,
            Self::Doubled => publishes || stage == Stage::Receive,
            Self::Delayed => stage != Stage::Settle,
            Self::Reordered => stage == Stage::Receive,
            Self::Lost => stage == Stage::Settle,
            Self::Disconnected | Self::Restarted => true,
            // The source is no part of the service: it is not killed with it.
            Self::CrashedBefore | Self::CrashedAfter => stage != Stage::Source,
            Self::Failed | Self::Panicked | Self::Hung => stage == Stage::Handle,
        }
    }

    /// Whether it takes connections away from what is in hand, which a message's starts are counted by.
    fn interrupts(self) -> bool {
        matches!(self, Self::Disconnected | Self::CrashedBefore | Self::CrashedAfter | Self::Restarted)
    }
}

impl fmt::Display for Stage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&format!("{self:?}").to_lowercase())
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&format!("{self:?}").to_lowercase())
    }
}

/// The faults of one run: at which operation of which stage.
#[derive(Debug, Default)]
pub(super) struct Plan(HashMap<(Stage, u32), Fault>);

/// How many faults are planned: some of them are at operations that a run never comes to.
const PLANNED: usize = 18;
/// The most interruptions: a message that is in hand at more than five of them is a suspect. Its last start alone is a copy,
/// which loses its place among its key's, and which two more interruptions would condemn.
const INTERRUPTIONS: usize = 4;

impl Plan {
    pub(super) fn new(rng: &mut Rng) -> Self {
        let mut plan = HashMap::new();
        let mut interruptions = 0;
        while plan.len() < PLANNED {
            let (Some(stage), Some(fault)) = (rng.choice(Stage::ALL), rng.choice(Fault::ALL)) else {
                continue;
            };
            if !fault.fits(stage) || (fault.interrupts() && interruptions == INTERRUPTIONS) {
                continue;
            }
            let Entry::Vacant(place) = plan.entry((stage, rng.u32(0..stage.span()))) else { continue };
            place.insert(fault);
            interruptions += usize::from(fault.interrupts());
        }
        Self(plan)
    }

    /// The fault of the stage's operation number `nth`.
    pub(super) fn take(&mut self, stage: Stage, nth: u32) -> Option<Fault> {
        self.0.remove(&(stage, nth))
    }
}

//! The guarantees, one function each; the tables of the rooms below put a name and words to them.
//!
//! The first rooms look at the transport alone; the last ones run handlers on it, by the pipeline under test.

mod copies;
mod delay;
mod delivery;
mod envelope;
mod failure;
mod flow;
mod groups;
mod letters;
mod lifecycle;
mod operate;
mod order;
mod publishing;
mod settlement;
mod support;
mod topics;

use super::case::Case;

/// One line of a room's table.
macro_rules! case {
    ($chapter:expr, $name:ident, $guarantee:literal) => {
        $crate::conformance::Case {
            name: stringify!($name),
            guarantee: $guarantee,
            chapter: $chapter,
            prove: |bench| Box::pin($name(bench)),
        }
    };
}
use case;

/// Every case, in the order of the table.
#[must_use]
pub fn all() -> Vec<Case> {
    [of_transports(), of_pipelines()].concat()
}

/// The cases that look at the transport alone.
#[must_use]
pub fn of_transports() -> Vec<Case> {
    [
        delivery::CASES,
        groups::CASES,
        settlement::CASES,
        order::CASES,
        delay::CASES,
        envelope::CASES,
        topics::CASES,
        publishing::CASES,
        operate::CASES,
    ]
    .concat()
}

/// The cases that run handlers.
#[must_use]
pub fn of_pipelines() -> Vec<Case> {
    [failure::CASES, copies::CASES, flow::CASES, lifecycle::CASES].concat()
}

//! The conformance suite: what every transport must do, and every pipeline above it, as free async functions.
//!
//! A [`Case`] states one guarantee and proves it on a [`Bench`], which holds an empty broker of the [`Subject`] under
//! test. What a transport cannot do it says in its `Capabilities`; then the case proves that instead, and the answer is
//! [`Proof::Absent`]. What can be neither proven nor disproven here is [`Proof::NotProven`] with the reason: it is
//! never counted as a success.
//!
//! A transport crate has one test binary for it, `tests/conformance.rs` with `harness = false`:
//!
//! ```no_run
//! # struct MyTransport;
//! use msgkit_testing::conformance::{self, MemorySubject};
//!
//! fn main() -> std::process::ExitCode {
//!     conformance::main(vec![Box::new(MemorySubject::native())])
//! }
//! ```
//!
//! Each case is a visible test of its own, `memory::a_delivery_that_is_dropped_comes_back`, and can be run alone by its
//! name. The suite itself is tested by [`mutants`](crate::mutants).

mod bench;
mod case;
pub mod cases;
mod harness;
mod memory;
mod panics;
mod pipeline;
mod probe;
mod report;
mod subject;
mod wrapped;

pub use self::bench::{Bench, Reader};
pub use self::case::{Case, Proof, Running, Verdict, run};
pub use self::harness::main;
pub use self::memory::MemorySubject;
pub use self::pipeline::{
    Answer, Call, Function, Job, JobHandler, MsgkitPipeline, Pipeline, RunningPipeline, Takes,
};
pub use self::probe::{Other, Probe, Said};
pub use self::report::{Cell, Row, guarantees};
pub use self::subject::{Broker, Fault, NotRun, Setup, Subject, Time};
pub use self::wrapped::{Wrapped, Wrapping};

/// Whether `case` runs handlers.
fn proves_pipelines(case: &Case) -> bool {
    cases::of_pipelines().iter().any(|other| other.name == case.name)
}

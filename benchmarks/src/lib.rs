//! msgkit measured against its peers: the same payloads, the same handler, the same loop, in one binary.
//!
//! A [`Subject`](subject::Subject) is one framework, set up through its public service API for one [`Scenario`].
//! [`drive`] publishes, waits, and runs exactly the part that counts inside [`region::measured_region`], the one frame
//! that callgrind collects in. The binaries:
//!
//! - `bench-msgkit <scenario> <messages>` and `bench-ruststream …`: one subject, one scenario, nothing else; callgrind
//!   counts these.
//! - `bench-allocations --subject <subject> <scenario> <messages>`: the same under a counting allocator.
//! - `bench-report`: runs both for every subject and scenario, writes the report, prints the table, holds the gate.

pub mod drive;
pub mod one_run;
pub mod payload;
pub mod region;
pub mod report;
pub mod scenario;
pub mod subject;
pub mod subjects;
pub mod work;

pub use scenario::Scenario;

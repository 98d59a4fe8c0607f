//! Test kit, faults, simulation and conformance suite for msgkit.
//!
//! - [`TestKit`]: a service under test, in memory and on virtual time, or on a broker by its URL.
//! - [`conformance`]: what every transport must do, as a suite that a transport crate runs as its test.
//! - [`mutants`]: transports and pipelines broken in one way each, which test the suite.
//! - [`simulation`]: a system under seeded faults, crashes and restarts, with a ledger of what they cost.
//! - [`decorate`]: transports around transports, for faults and for mutants.
//! - [`options`]: the table of a transport's options, from its config type.
//! - `brokers` (feature `brokers`): real brokers as child processes, and a proxy that breaks connections.

#[cfg(all(feature = "brokers", unix))]
pub mod brokers;
pub mod conformance;
pub mod decorate;
mod kit;
pub mod mutants;
pub mod options;
pub mod simulation;

pub use self::kit::TestKit;

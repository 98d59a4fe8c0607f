#![doc = include_str!("../README.md")]
//!
//! ## Modules
//!
//! - [`conformance`]: what every transport must do.
//! - [`mutants`]: transports and pipelines broken in one way each, which test the suite.
//! - [`simulation`]: a system under seeded faults, crashes and restarts, with a ledger of what they cost.
//! - [`decorate`]: transports around transports, for faults and for mutants.
//! - [`options`]: the table of a transport's options, from its config type.
//! - `brokers`: real brokers as child processes.

#[cfg(all(feature = "brokers", unix))]
pub mod brokers;
pub mod conformance;
pub mod decorate;
mod kit;
pub mod mutants;
pub mod options;
pub mod simulation;

pub use self::kit::TestKit;

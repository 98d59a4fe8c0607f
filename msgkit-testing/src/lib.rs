//! Test kit, faults, simulation and conformance suite for msgkit.
//!
//! - [`conformance`]: what every transport must do, as a suite that a transport crate runs as its test.
//! - [`mutants`]: transports and pipelines broken in one way each, which test the suite.
//! - [`decorate`]: transports around transports, for faults and for mutants.
//!
//! Until the test kit is here, a service is tested as msgkit's own tests do it: on a
//! [`Memory`](msgkit::memory::Memory) transport with a virtual [`Clock`](msgkit::Clock) under tokio's paused time.

pub mod conformance;
pub mod decorate;
pub mod mutants;

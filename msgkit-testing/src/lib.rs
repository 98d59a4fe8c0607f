//! Test kit, faults, simulation and conformance suite for msgkit.
//!
//! Nothing of it is in this version yet. Until it is, a service is tested as msgkit's own tests do it: on a
//! [`Memory`](msgkit::memory::Memory) transport with a virtual [`Clock`](msgkit::Clock) under tokio's paused time.

//! `service_platform.core.event_rule`: raises an alert when a quantity has been out of bounds for a while, and clears it when it is
//! safely back.
//!
//! A [`Rule`] is configuration. [`Watch`] is the state machine of one rule on one device. [`Engine`] holds the machines of all devices
//! and feeds each reading to all of them, in the order of event time. [`evaluate`] does the same offline: over the same readings it
//! gives the same alerts.

pub mod component;
mod engine;
mod rule;

pub use engine::{Engine, Observed, evaluate};
pub use rule::{Bound, Rule, RuleError, Rules, Transition, Watch};

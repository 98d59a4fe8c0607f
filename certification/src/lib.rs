//! Certification: what transports promise, on real brokers that are killed, cut off and restarted while messages flow.
//!
//! A run publishes numbered messages through one broker, breaks something over and over ([`scenarios`]), lets everything
//! come to rest, and draws up a [`Ledger`]: what was confirmed, handled, lost, stuck, duplicated, out of order, and how many
//! duplicates what was in flight can explain. Nothing of it is in the broker's or msgkit's word alone:
//!
//! ```text
//! this process                       broker                        members: processes of their own, killed at will
//! publisher ──── proxy ──────────▶ ┌────────┐ ─────── proxy ───▶  Service ── handler ──▶ journal (a file), then the ack
//!  what was confirmed              └────────┘                        │ dead letters
//!        └───────────────▶ ledger ◀── journals ──────────────────────┴──▶ dead-letter target ──▶ ledger
//! ```
//!
//! A member writes down what it has handled before it acknowledges it, so the ledger holds whatever is killed. Read
//! [`scenarios`] for the faults, [`ledger`] for the judgement, [`run`] for what holds them together. A broker is a
//! [`Broker`] with a few methods; a new one is added to [`brokers`].

pub mod brokers;
mod config;
mod failure;
mod faults;
mod group;
mod journal;
pub mod ledger;
pub mod member;
mod message;
mod publisher;
pub mod run;
pub mod scenarios;

pub use self::brokers::{Broker, Place};
pub use self::failure::{Failure, FailureKind};
pub use self::ledger::Ledger;
pub use self::run::{Plan, Run, certify};
pub use self::scenarios::Scenario;

/// The registry of every transport that can be certified, or keep the dead letters of one that is.
#[must_use]
pub fn registry() -> msgkit::Registry {
    msgkit::Registry::new()
        .with(msgkit_transport_amqp::scheme())
        .with(msgkit_transport_kafka::scheme())
        .with(msgkit_transport_kinesis::scheme())
        .with(msgkit_transport_mqtt::scheme())
        .with(msgkit_transport_pubsub::scheme())
        .with(msgkit_transport_sqlite::scheme())
}

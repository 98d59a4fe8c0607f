//! The faults, each a scenario of its own.
//!
//! A scenario waits until so many messages are confirmed, breaks something, and goes on. It neither publishes nor judges.
//! When it returns, everything works again, and the run comes to rest.

mod broker_killed;
mod broker_restarted;
mod dead_letters_down;
mod members_change;
mod members_killed_after_ack;
mod members_killed_before_ack;
mod members_stand_still;
mod network_cut;
mod network_half_open;
mod shards_change;

use async_trait::async_trait;

use crate::{Failure, Run};

/// The scenario that not every stand-in can have.
pub(crate) const BROKER_KILLED: &str = "broker_killed";
/// The same, in good order.
pub(crate) const BROKER_RESTARTED: &str = "broker_restarted";
/// The scenario that is for brokers with shards.
pub(crate) const SHARDS_CHANGE: &str = "shards_change";

/// A fault.
#[async_trait]
pub trait Scenario: Send + Sync {
    /// What the ledger calls it.
    fn name(&self) -> &'static str;

    /// How many members there are to begin with. With one alone, the order of keys is judged as well.
    fn members(&self) -> usize {
        3
    }

    /// Whether dead letters are kept at another broker, behind a network of its own.
    fn keeps_letters_apart(&self) -> bool {
        false
    }

    /// Breaks things.
    ///
    /// # Errors
    /// [`Failure`] where the run cannot go on.
    async fn run(&self, run: &mut Run) -> Result<(), Failure>;
}

/// All of them.
#[must_use]
pub fn all() -> Vec<Box<dyn Scenario>> {
    vec![
        Box::new(broker_restarted::BrokerRestarted),
        Box::new(broker_killed::BrokerKilled),
        Box::new(network_cut::NetworkCut),
        Box::new(network_half_open::NetworkHalfOpen),
        Box::new(members_killed_before_ack::MembersKilledBeforeAck),
        Box::new(members_killed_after_ack::MembersKilledAfterAck),
        Box::new(members_stand_still::MembersStandStill),
        Box::new(members_change::MembersChange),
        Box::new(shards_change::ShardsChange),
        Box::new(dead_letters_down::DeadLettersDown),
    ]
}

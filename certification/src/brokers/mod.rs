//! The brokers that can be certified. A new one implements [`Broker`], and gets a line in [`named`].

mod kafka;
mod kinesis;
mod mosquitto;
mod pubsub;
mod rabbitmq;

use std::any::Any;
use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use async_trait::async_trait;
use msgkit_testing::brokers::FaultProxy;

pub use self::kafka::KafkaBroker;
pub use self::kinesis::KinesisBroker;
pub use self::mosquitto::MosquittoBroker;
pub use self::pubsub::PubsubBroker;
pub use self::rabbitmq::RabbitMqBroker;
use crate::{Failure, scenarios};

/// A real broker of the run's own, which can be ended in any way.
#[async_trait]
pub trait Broker: fmt::Debug + Send + Sync {
    /// What the ledger calls it.
    fn name(&self) -> &'static str;

    /// What exactly it is: `RabbitMQ 3.10.8`.
    fn version(&self) -> String;

    /// An empty place that nobody else uses, behind a network of its own.
    ///
    /// # Errors
    /// [`Failure`] where it cannot be made.
    async fn place(&self, label: &str) -> Result<Place, Failure>;

    /// Waits until it may be killed: what it confirms before it is on disk, and would lose for good, is there. Blocks.
    ///
    /// # Errors
    /// [`Failure`] where it does not answer.
    fn settle(&self) -> Result<(), Failure> {
        Ok(())
    }

    /// Ends it by SIGKILL or in good order, and starts it again on the same data. Blocks until it can be used.
    ///
    /// # Errors
    /// [`Failure`] where it does not come back, or keeps nothing over a restart and so cannot have this fault.
    fn restart(&self, killed: bool) -> Result<(), Failure>;

    /// Whether it ends in good order only once nobody calls it any more, so that its callers are cut off before.
    fn waits_for_callers(&self) -> bool {
        false
    }

    /// Whether it may confirm a message just before it writes it, so that what it confirmed last may die with it. The
    /// ledger then lists such messages apart, by their number, instead of calling them lost.
    fn confirms_before_it_writes(&self) -> bool {
        false
    }

    /// Whether, beside the members of a group of several, a session of the transport's own is sent what they are sent, so that
    /// what is on its way there when the broker ends may come twice.
    fn copies_what_a_group_is_sent(&self) -> bool {
        false
    }

    /// Whether it hears of what is done only in intervals, so that all that waits may be in hand; and as one mark, so that what
    /// was done behind a message that a leaving member gives back comes again.
    fn settles_in_intervals(&self) -> bool {
        false
    }

    /// Whether what is published while members come or go may come twice.
    fn doubles_while_members_change(&self) -> bool {
        false
    }

    /// Why it cannot have the fault of `scenario`, where it cannot.
    fn cannot(&self, scenario: &str) -> Option<&'static str> {
        (scenario == scenarios::SHARDS_CHANGE).then_some("it has no shards that are split and merged")
    }

    /// Splits a shard of what the messages of the last place go through, and merges two others.
    ///
    /// # Errors
    /// [`Failure`] where it has none.
    fn reshard(&self) -> Result<(), Failure> {
        Err(Failure::broken(format!("{} has no shards", self.name())))
    }
}

/// A part of a broker that one run has for itself. It ends when it is dropped.
pub struct Place {
    /// What every connection goes through.
    pub network: FaultProxy,
    /// The address, by the network.
    pub url: String,
    /// The transport's options, as lines of its own table in the configuration.
    pub options: String,
    /// Whatever else has to live as long.
    pub keeps: Box<dyn Any + Send>,
}

impl fmt::Debug for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Place").field("network", &self.network).finish_non_exhaustive()
    }
}

/// The names that [`named`] knows.
pub const NAMES: [&str; 5] = ["mosquitto", "rabbitmq", "kafka", "kinesis", "pubsub"];

/// The broker that keeps the dead letters of scenarios that want them apart.
pub const LETTERS: &str = "rabbitmq";

/// Starts the broker called `name`.
///
/// # Errors
/// [`Failure`] where it is not installed or does not come up; an unknown name is told the known ones.
pub fn named(name: &str) -> Result<Arc<dyn Broker>, Failure> {
    match name {
        "mosquitto" => Ok(Arc::new(MosquittoBroker::start()?)),
        "rabbitmq" => Ok(Arc::new(RabbitMqBroker::start()?)),
        "kafka" => Ok(Arc::new(KafkaBroker::start()?)),
        "kinesis" => Ok(Arc::new(KinesisBroker::start()?)),
        "pubsub" => Ok(Arc::new(PubsubBroker::start()?)),
        _ => Err(Failure::broken(format!("no broker is called `{name}`; there are {}", NAMES.join(", ")))),
    }
}

/// The brokers that run, each started when it is first asked for.
#[derive(Debug, Default)]
pub struct Started(BTreeMap<String, Arc<dyn Broker>>);

impl Started {
    /// The broker called `name`.
    ///
    /// # Errors
    /// As [`named`].
    pub fn broker(&mut self, name: &str) -> Result<Arc<dyn Broker>, Failure> {
        if let Some(broker) = self.0.get(name) {
            return Ok(broker.clone());
        }
        let broker = named(name)?;
        self.0.insert(name.to_owned(), broker.clone());
        Ok(broker)
    }

    /// Lets go of it; the next who asks gets a new one.
    pub fn end(&mut self, name: &str) {
        self.0.remove(name);
    }
}

/// What runs, for calls that come from several tasks.
fn lock<T>(running: &Mutex<T>) -> MutexGuard<'_, T> {
    running.lock().unwrap_or_else(PoisonError::into_inner)
}

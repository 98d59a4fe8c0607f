//! A seeded simulation: a system of four handlers, 200 messages, and faults wherever a service can be hit.
//!
//! Time is virtual and everything random comes from the seed, so a run that goes wrong can be run again. Each run counts
//! what was lost, stuck, doubled and out of order: the first two and the last must be nothing, a double is allowed where
//! a fault explains it, and it must be the same message.
//!
//! ```
//! let outcome = msgkit_testing::simulation::run(7);
//! assert!(outcome.problems.is_empty(), "{outcome:?}");
//! ```

mod chaos;
mod plan;
mod world;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use fastrand::Rng;
use msgkit::envelope::{Clock, DeadLetterKind};
use msgkit::memory::{Memory, MemoryConfig, MemoryDelay};
use msgkit::service::Running;
use msgkit::transport::{Operate, Outgoing, Transport};
use msgkit::{Envelope, Error, Group, Message, Text, Timestamp};

use self::chaos::Chaos;
use self::plan::Plan;
pub use self::plan::{Fault, Stage};
use self::world::{KEYS, MOST_ATTEMPTS, Started, World, is_poison};
use crate::decorate::Decorated;

/// How many messages the source publishes.
pub const MESSAGES: u32 = 200;
/// When virtual time begins.
const BEGIN: i64 = 1_767_225_600_000;
/// How long a system without faults may take to come to rest.
const REST: Duration = Duration::from_secs(24 * 3600);
const GROUPS: [&str; 4] = ["ordered", "worked", "audited", "stored"];

/// What came out of a run.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Outcome {
    /// The seed.
    pub seed: u64,
    /// Which faults happened, at which stage, and how often.
    pub faults: BTreeMap<(Fault, Stage), u32>,
    /// Stored more than once, each time as the same message.
    pub doubled: usize,
    /// Dead letters.
    pub dead: usize,
    /// What must not be.
    pub problems: Vec<String>,
}

impl Outcome {
    /// How many faults happened.
    #[must_use]
    pub fn count(&self) -> u32 {
        self.faults.values().sum()
    }
}

/// Runs the simulation of `seed`.
#[must_use]
pub fn run(seed: u64) -> Outcome {
    // The core takes ids and jitter from the thread's generator.
    fastrand::seed(seed);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build();
    match runtime {
        Ok(runtime) => runtime.block_on(simulate(seed)),
        Err(error) => Outcome { seed, problems: vec![format!("no runtime: {error}")], ..Outcome::default() },
    }
}

async fn simulate(seed: u64) -> Outcome {
    let mut rng = Rng::with_seed(seed);
    let clock = Clock::virtual_from(Timestamp::from_millis(BEGIN));
    let mut config = MemoryConfig::default();
    if rng.bool() {
        config.delay = MemoryDelay::RetryTopics;
    }
    config.capacity = rng.usize(20..400);
    let broker = Memory::with(config, clock);
    let chaos = Arc::new(Chaos::new(Plan::new(&mut rng), rng.fork(), broker.clone()));
    let world = World::new(chaos.clone());
    let mut outcome = Outcome { seed, ..Outcome::default() };
    let sent = match drive(&world, &broker, clock).await {
        Ok(sent) => sent,
        Err(error) => {
            outcome.problems.push(format!("the simulation broke off: {error}"));
            return outcome;
        }
    };
    outcome.faults = chaos.happened();
    judge(&world, &broker, &sent, &mut outcome).await;
    outcome
}

/// Runs source and service until all is published and done; gives the ids that were confirmed.
async fn drive(world: &Arc<World>, broker: &Memory, clock: Clock) -> Result<Vec<Envelope>, Error> {
    let mut process = Some(Process::start(world, broker, clock).await?);
    let mut source = tokio::spawn(publish(world.clone(), broker.connection(), clock));
    let mut published = None;
    let begun = tokio::time::Instant::now();
    loop {
        tokio::select! {
            biased;
            () = world.chaos.crash.notified() => {
                if let Some(process) = process.take() {
                    process.kill().await?;
                }
                process = Some(Process::start(world, broker, clock).await?);
            }
            () = world.chaos.restart.notified() => {
                if let Some(process) = process.take() {
                    // What does not end within its deadline is broken off; that is no failure of the drain.
                    process.running.drain().await?;
                }
                process = Some(Process::start(world, broker, clock).await?);
            }
            sent = &mut source, if published.is_none() => {
                published = Some(sent.map_err(|error| Error::new(msgkit::ErrorKind::Refused, error.to_string()))?);
            }
            () = tokio::time::sleep(Duration::from_secs(1)) => {}
        }
        if published.is_some() && is_at_rest(broker).await {
            break;
        }
        // What was planned for operations that never come does not keep the run from its end.
        if begun.elapsed() > REST {
            world.chaos.calm();
        }
        if begun.elapsed() > REST * 2 {
            break;
        }
    }
    if let Some(process) = process {
        process.running.drain().await?;
    }
    Ok(published.unwrap_or_default())
}

/// The service, and its connection to the broker.
struct Process {
    running: Running,
    connection: Memory,
}

impl Process {
    async fn start(world: &Arc<World>, broker: &Memory, clock: Clock) -> Result<Self, Error> {
        let connection = broker.connection();
        let transport = Decorated::sharing(Arc::new(connection.clone()), world.chaos.clone());
        let running = world::service(world, Arc::new(transport), clock)?.start().await?;
        Ok(Self { running, connection })
    }

    /// Its connection breaks first: a killed process gives nothing back in good order, and fetches nothing more.
    async fn kill(self) -> Result<(), Error> {
        self.connection.close().await?;
        self.running.crash().await;
        Ok(())
    }
}

async fn is_at_rest(broker: &Memory) -> bool {
    broker.groups().await.is_ok_and(|groups| {
        groups.iter().all(|status| status.waiting + status.delayed + status.in_hand.unwrap_or_default() == 0)
    })
}

/// The source: publishes each message until it is confirmed, in order, under one id.
async fn publish(world: Arc<World>, broker: Memory, clock: Clock) -> Vec<Envelope> {
    let mut sent = Vec::new();
    for n in 0..MESSAGES {
        let Ok(envelope) = msgkit::envelope_of(&Started { n }, &Text::from_static("source"), clock.now())
        else {
            continue;
        };
        loop {
            let batch = vec![Outgoing::to_topic(envelope.clone())];
            match world.chaos.publish(Stage::Source, &broker, batch).await {
                Ok(()) => break,
                Err(_) => tokio::time::sleep(Duration::from_secs(1)).await,
            }
        }
        sent.push(envelope);
    }
    sent
}

/// Compares what should be with what is.
async fn judge(world: &World, broker: &Memory, sent: &[Envelope], outcome: &mut Outcome) {
    let mut dead: BTreeMap<&str, BTreeSet<u32>> = BTreeMap::new();
    for group in GROUPS {
        let letters = match Group::new(group) {
            Ok(group) => broker.dead_letters(&group, None, usize::MAX).await.unwrap_or_default(),
            Err(_) => Vec::new(),
        };
        outcome.dead += letters.len();
        for letter in letters {
            let Some(envelope) = letter.message.envelope() else {
                outcome.problems.push(format!("group `{group}` has a dead letter that is no envelope"));
                continue;
            };
            let n =
                serde_json::from_slice::<Started>(envelope.payload()).map_or(u32::MAX, |message| message.n);
            let Some(facts) = envelope.dead_letter() else {
                outcome.problems.push(format!("the dead letter of {n} in `{group}` has no reasons"));
                continue;
            };
            // Only a message that never succeeds uses up its attempts; none here kills the process by itself.
            if !(group == "worked" && is_poison(n) && facts.kind != DeadLetterKind::Crash) {
                outcome
                    .problems
                    .push(format!("{n} was condemned in `{group}`: {} {}", facts.kind, facts.error));
            }
            dead.entry(group).or_default().insert(n);
        }
    }
    let at_rest = is_at_rest(broker).await;
    let ledger = world.ledger();
    for n in 0..MESSAGES {
        let is_dead = |group: &str| dead.get(group).is_some_and(|dead| dead.contains(&n));
        if !ledger.ordered.values().any(|seen| seen.contains(&n)) {
            outcome.problems.push(format!("lost: {n} was never ordered"));
        }
        if !ledger.audited.contains(&n) {
            outcome.problems.push(format!("lost: {n} was never audited"));
        }
        match ledger.stored.get(&n) {
            None if is_dead("worked") => {}
            None => outcome.problems.push(format!("lost: {n} was never stored and is no dead letter")),
            Some(_) if is_poison(n) => outcome.problems.push(format!("{n} cannot have been stored")),
            Some(ids) if ids.len() > 1 => {
                outcome.problems.push(format!("{n} was stored as {} different messages", ids.len()));
            }
            Some(_) => {}
        }
    }
    if sent.len() != MESSAGES as usize {
        outcome.problems.push(format!("stuck: the source has published {} messages", sent.len()));
    }
    if !at_rest {
        outcome.problems.push("stuck: something is left that nothing handles".to_owned());
    }
    for key in 0..KEYS {
        let seen = ledger.ordered.get(&key).cloned().unwrap_or_default();
        if !seen.is_sorted() {
            outcome.problems.push(format!("out of order: key {key}: {seen:?}"));
        }
    }
    if ledger.most_attempts > MOST_ATTEMPTS {
        outcome.problems.push(format!("a message had {} attempts", ledger.most_attempts));
    }
    outcome.doubled = ledger.stores - ledger.stored.len();
    let _ = Started::NAME;
}

//! One run: one subject, one scenario, in a process of its own.

use std::fmt;
use std::process::Command;
use std::str::FromStr;
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail, ensure};
use clap::Args;
use rustix::time::{ClockId, clock_gettime};
use serde::{Deserialize, Serialize};

use crate::SYSTEMS;
use crate::system::{Measured, Subject, System, Work, failed};
use crate::transport::Msgkit;

/// Messages that are published at once, and then waited for.
pub(crate) const BATCH: usize = 100;
/// Messages that one member has in hand at most.
pub(crate) const PREFETCH: usize = 256;
/// How many messages are published at once until every member has had something, and how often at most.
const PROBES: usize = 1_000;
const MOST_PROBES: usize = 200;

/// What the run does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Flow {
    /// Publishing to a group whose members are away.
    Publish,
    /// Consuming what waits.
    Consume,
    /// Both at once.
    Pass,
    /// Consuming a little of what waits, slowly.
    Waiting,
}

impl Flow {
    /// What the slow handler takes of what waits, and how long it takes for each.
    pub(crate) const SLOW_MESSAGES: usize = 2_000;
    const SLOW: Duration = Duration::from_millis(1);
}

/// A flow, and how many members the group has: `consume/4`.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Scenario {
    pub(crate) flow: Flow,
    pub(crate) members: usize,
}

impl fmt::Display for Scenario {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let flow = match self.flow {
            Flow::Publish => "publish",
            Flow::Consume => "consume",
            Flow::Pass => "pass",
            Flow::Waiting => "waiting",
        };
        write!(f, "{flow}/{}", self.members)
    }
}

impl FromStr for Scenario {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> anyhow::Result<Self> {
        let (flow, members) = text.split_once('/').context("a scenario is `flow/members`")?;
        let flow = match flow {
            "publish" => Flow::Publish,
            "consume" => Flow::Consume,
            "pass" => Flow::Pass,
            "waiting" => Flow::Waiting,
            other => bail!("no flow `{other}`; there are publish, consume, pass and waiting"),
        };
        Ok(Self { flow, members: members.parse()? })
    }
}

/// What to run.
#[derive(Debug, Clone, Args)]
pub(crate) struct Run {
    /// The broker's kind, as in the scenarios' names.
    system: String,
    /// `msgkit`, `raw`, or a peer.
    subject: String,
    /// As in the report.
    scenario: Scenario,
    /// How many messages.
    messages: usize,
    /// Where the broker is.
    #[arg(default_value = "")]
    pub(crate) url: String,
}

/// What it took, for `messages` messages.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Taken {
    messages: usize,
    wall_ns: u64,
    /// User and system time of the whole process.
    cpu_ns: u64,
    pub(crate) peak_resident_kib: Option<u64>,
}

impl Taken {
    /// Nanoseconds of CPU time per message.
    pub(crate) fn cpu(&self) -> f64 {
        self.cpu_ns as f64 / self.messages as f64
    }

    /// Messages per second.
    pub(crate) fn rate(&self) -> f64 {
        self.messages as f64 * 1e9 / self.wall_ns as f64
    }
}

impl Run {
    pub(crate) const MSGKIT: &'static str = "msgkit";
    pub(crate) const RAW: &'static str = "raw";

    pub(crate) fn new(system: &System, subject: &str, scenario: Scenario, messages: usize) -> Self {
        let (system, subject) = (system.name.to_owned(), subject.to_owned());
        Self { system, subject, scenario, messages, url: String::new() }
    }

    /// In a process of its own, at a place of its own.
    pub(crate) fn in_new_place(&self, system: &System) -> anyhow::Result<Taken> {
        let place = (system.place)()?;
        self.child(&place.url)
    }

    /// In a process of its own, with the broker at `url`.
    pub(crate) fn child(&self, url: &str) -> anyhow::Result<Taken> {
        let Self { system, subject, scenario, messages, .. } = self;
        let mut command = Command::new(std::env::current_exe()?);
        command.args(["run", system, subject, &scenario.to_string(), &messages.to_string(), url]);
        let output = command.output()?;
        if !output.status.success() {
            bail!("{system}/{scenario} of {subject} failed: {}", String::from_utf8_lossy(&output.stderr));
        }
        serde_json::from_slice(&output.stdout).context("a run has no figures")
    }

    /// In this process; at a new place where none is named, as when it is profiled.
    pub(crate) async fn measure(mut self) -> anyhow::Result<Taken> {
        let measured = self.measured()?;
        let system = measured.system;
        let _place = if self.url.is_empty() {
            let place = (system.place)()?;
            self.url.clone_from(&place.url);
            Some(place)
        } else {
            None
        };
        match self.subject.as_str() {
            Self::MSGKIT => self.drive::<Msgkit>().await,
            Self::RAW => (system.raw)(self).await,
            other => match measured.peers.iter().find(|peer| peer.name == other) {
                Some(peer) => (peer.run)(self).await,
                None => bail!("no subject `{other}` on {}; there are msgkit, raw and peers", system.name),
            },
        }
    }

    pub(crate) fn system(&self) -> anyhow::Result<&'static System> {
        self.measured().map(|measured| measured.system)
    }

    fn measured(&self) -> anyhow::Result<&'static Measured> {
        let found = SYSTEMS.iter().find(|measured| measured.system.name == self.system);
        found.with_context(|| format!("no broker `{}`", self.system))
    }

    /// How many members the group has.
    pub(crate) fn members(&self) -> usize {
        self.scenario.members
    }

    /// The flow on one subject, until it is over or a part of it fails.
    pub(crate) async fn drive<S: Subject>(self) -> anyhow::Result<Taken> {
        let mut subject = S::open(&self).await?;
        let taken = tokio::select! {
            taken = self.flow(&mut subject) => taken?,
            error = failed() => return Err(error),
        };
        subject.close().await?;
        Ok(taken)
    }

    async fn flow<S: Subject>(&self, subject: &mut S) -> anyhow::Result<Taken> {
        let warm = self.measured()?.warm;
        let all = warm + self.messages;
        match self.scenario.flow {
            Flow::Publish => {
                subject.publish(0..warm).await?;
                let clocks = Clocks::start(warm);
                subject.publish(warm..all).await?;
                Ok(clocks.stop(all))
            }
            Flow::Consume => {
                subject.publish(0..all).await?;
                // From the first one: a client that reads ahead has most of them by the time that some are handled.
                let work = if warm == 0 { Work::later() } else { Work::between(0, all) };
                if warm == 0 {
                    work.begin(all);
                }
                join(subject, self.members(), &work).await?;
                work.taken().await
            }
            Flow::Pass => {
                let work = Work::later();
                join(subject, self.members(), &work).await?;
                // Both at once is measured, so every member is at work before.
                let mut sent = 0;
                while sent < warm || !work.all_busy() {
                    ensure!(sent < PROBES * MOST_PROBES, "{sent} messages, and not every member has had one");
                    subject.publish(sent..sent + PROBES).await?;
                    sent += PROBES;
                    work.reached(sent).await?;
                }
                work.begin(self.messages);
                subject.publish(sent..sent + self.messages).await?;
                work.taken().await
            }
            Flow::Waiting => {
                let work = Work::slow(0, Flow::SLOW_MESSAGES, Flow::SLOW);
                join(subject, self.members(), &work).await?;
                work.taken().await
            }
        }
    }
}

async fn join<S: Subject>(subject: &mut S, members: usize, work: &Work) -> anyhow::Result<()> {
    for _ in 0..members {
        subject.join(work.clone()).await?;
    }
    Ok(())
}

/// The clocks of a run, when it began.
#[derive(Debug)]
pub(crate) struct Clocks {
    /// Messages that were done with before.
    before: usize,
    began: Instant,
    cpu: Duration,
}

impl Clocks {
    pub(crate) fn start(before: usize) -> Self {
        Self { before, began: Instant::now(), cpu: cpu_time() }
    }

    /// What it took until `messages` were done with.
    pub(crate) fn stop(&self, messages: usize) -> Taken {
        let nanoseconds = |time: Duration| u64::try_from(time.as_nanos()).unwrap_or(u64::MAX);
        Taken {
            messages: messages - self.before,
            wall_ns: nanoseconds(self.began.elapsed()),
            cpu_ns: nanoseconds(cpu_time() - self.cpu),
            peak_resident_kib: peak_resident_kib(),
        }
    }
}

/// User and system time of this process, all of its threads.
fn cpu_time() -> Duration {
    let time = clock_gettime(ClockId::ProcessCPUTime);
    Duration::new(time.tv_sec.unsigned_abs(), u32::try_from(time.tv_nsec).unwrap_or(0))
}

fn peak_resident_kib() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    line.trim().trim_end_matches("kB").trim_end().parse().ok()
}

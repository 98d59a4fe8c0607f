//! The figures: instructions, allocations, wall time and peak resident size, each from processes of their own.
//!
//! Counts are differences: a run of 2N messages minus a run of N, divided by N. What happens once (start-up, the first
//! allocation of a buffer) is in both runs and cancels.

use std::{
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, bail, ensure};

use super::entry::Entry;
use crate::{Scenario, one_run::Taken, subjects};

/// The metric of callgrind's count.
pub const INSTRUCTIONS: &str = "instructions/message";
/// The metric of the counting allocator's count.
pub const ALLOCATIONS: &str = "allocations/message";
/// The metric of the clock.
pub const WALL: &str = "wall_ns/message";
/// The metric of the largest resident size.
pub const PEAK_RESIDENT: &str = "peak_resident_kib";

/// How much to run.
#[derive(Clone, Copy, Debug)]
pub struct Effort {
    /// N of the counts. A multiple of 960 has whole bursts, whole turns of keys and of types, and a tenth.
    pub counted: u64,
    /// Messages of one run against the clock.
    pub timed: u64,
    /// Rounds against the clock; in each, every subject runs once. None leaves the clock out.
    pub rounds: usize,
}

/// The other binaries of this package.
#[derive(Debug)]
pub struct Binaries {
    folder: PathBuf,
}

impl Binaries {
    /// Those beside the running one.
    ///
    /// # Errors
    /// When they have not been built.
    pub fn beside_this() -> anyhow::Result<Self> {
        let this = std::env::current_exe()?;
        let folder = this.parent().context("the running binary has no folder")?.to_owned();
        let own = subjects::ALL.iter().map(|subject| format!("bench-{}", subject.name));
        for name in own.chain(["bench-allocations".to_owned()]) {
            let path = folder.join(name).with_extension(std::env::consts::EXE_EXTENSION);
            ensure!(path.is_file(), "{} is missing: build all binaries first", path.display());
        }
        Ok(Self { folder })
    }

    /// Instructions, allocations and wall time of one scenario.
    ///
    /// # Errors
    /// When a run fails, or valgrind is not installed.
    pub fn measure(&self, scenario: Scenario, effort: Effort) -> anyhow::Result<Vec<Entry>> {
        let mut entries = Vec::new();
        if !scenario.flow.takes_threads() {
            entries.extend(self.instructions(scenario, effort)?);
        }
        let count = |subject: &str, n| {
            let taken = taken(self.run("bench-allocations", scenario, n).args(["--subject", subject]))?;
            taken.allocations.context("bench-allocations counted nothing")
        };
        entries.extend(per_subject(scenario, ALLOCATIONS, |subject| {
            per_message(effort, |n| count(subject, n))
        })?);
        if effort.rounds > 0 {
            entries.extend(self.wall(scenario, effort)?);
        }
        Ok(entries)
    }

    /// Instructions alone of one scenario, which has one order of execution.
    ///
    /// # Errors
    /// When a run fails, or valgrind is not installed.
    pub fn instructions(&self, scenario: Scenario, effort: Effort) -> anyhow::Result<Vec<Entry>> {
        per_subject(scenario, INSTRUCTIONS, |subject| {
            per_message(effort, |n| self.collected(subject, scenario, n))
        })
    }

    /// Peak resident size of one scenario over `messages`.
    ///
    /// # Errors
    /// When a run fails, or the system does not tell.
    pub fn peak_resident(&self, scenario: Scenario, messages: u64) -> anyhow::Result<Vec<Entry>> {
        per_subject(scenario, PEAK_RESIDENT, |subject| {
            let taken = taken(&mut self.run(&format!("bench-{subject}"), scenario, messages))?;
            Ok(taken.peak_resident_kib.context("this system does not tell the peak resident size")? as f64)
        })
    }

    fn run(&self, binary: &str, scenario: Scenario, messages: u64) -> Command {
        let mut command = Command::new(self.folder.join(binary));
        command.args([scenario.to_string(), messages.to_string()]);
        command
    }

    fn collected(&self, subject: &str, scenario: Scenario, messages: u64) -> anyhow::Result<u64> {
        let folder = tempfile::tempdir()?;
        let run = self.run(&format!("bench-{subject}"), scenario, messages);
        let mut valgrind = Command::new("valgrind");
        valgrind
            .args(["--tool=callgrind", "--collect-atstart=no", "--toggle-collect=*measured_region*"])
            .arg(format!("--callgrind-out-file={}", folder.path().join("callgrind.out").display()))
            .arg(run.get_program())
            .args(run.get_args());
        let (_, log) = output(&mut valgrind)?;
        collected(&log).with_context(|| format!("callgrind printed no count:\n{log}"))
    }

    /// In every round each subject runs once, so that a busy spell of the machine hits all of them; the ratio is the
    /// median over the rounds, and so is each time.
    fn wall(&self, scenario: Scenario, effort: Effort) -> anyhow::Result<Vec<Entry>> {
        let mut rounds: Vec<Vec<f64>> = vec![Vec::new(); subjects::ALL.len()];
        for _ in 0..effort.rounds {
            for (times, entry) in rounds.iter_mut().zip(subjects::ALL) {
                let taken = taken(&mut self.run(&format!("bench-{}", entry.name), scenario, effort.timed))?;
                times.push(taken.wall_ns as f64 / effort.timed as f64);
            }
        }
        let peer = subjects::ALL.iter().position(|entry| entry.name == subjects::PEER.name);
        let peer = peer.context("the peer is not among the subjects")?;
        let mut entries = compare(scenario, WALL, &rounds.iter().cloned().map(median).collect::<Vec<_>>());
        for entry in entries.iter_mut().filter(|entry| entry.ratio.is_some()) {
            if let Some(subject) = subjects::ALL.iter().position(|known| known.name == entry.subject) {
                let ratios = rounds[subject].iter().zip(&rounds[peer]).map(|(own, peer)| own / peer);
                entry.ratio = Some(median(ratios.collect()));
            }
        }
        Ok(entries)
    }
}

/// (a run of 2N messages − a run of N) / N.
fn per_message(effort: Effort, run: impl Fn(u64) -> anyhow::Result<u64>) -> anyhow::Result<f64> {
    let once = run(effort.counted)?;
    let twice = run(effort.counted * 2)?;
    Ok((twice as f64 - once as f64) / effort.counted as f64)
}

fn per_subject(
    scenario: Scenario,
    metric: &str,
    figure: impl Fn(&str) -> anyhow::Result<f64>,
) -> anyhow::Result<Vec<Entry>> {
    let values: Vec<f64> = subjects::ALL
        .iter()
        .map(|entry| figure(entry.name).with_context(|| format!("{} {scenario}: {metric}", entry.name)))
        .collect::<anyhow::Result<_>>()?;
    Ok(compare(scenario, metric, &values))
}

/// One entry for each subject but the peer; the peer's own figure only while there is nothing else.
fn compare(scenario: Scenario, metric: &str, values: &[f64]) -> Vec<Entry> {
    let scenario = scenario.to_string();
    let (peers, others): (Vec<_>, Vec<_>) = subjects::ALL
        .iter()
        .map(|entry| entry.name)
        .zip(values.iter().copied())
        .partition(|(name, _)| *name == subjects::PEER.name);
    match peers.first() {
        Some(peer) if !others.is_empty() => {
            others.into_iter().map(|subject| Entry::compared(&scenario, metric, subject, *peer)).collect()
        }
        _ => peers.into_iter().map(|peer| Entry::alone(&scenario, metric, peer)).collect(),
    }
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
}

fn taken(command: &mut Command) -> anyhow::Result<Taken> {
    let (out, _) = output(command)?;
    serde_json::from_str(&out).with_context(|| format!("a run answered `{out}`"))
}

/// Standard output and standard error of a command that has to succeed.
fn output(command: &mut Command) -> anyhow::Result<(String, String)> {
    let program = Path::new(command.get_program()).display().to_string();
    let output = command.output().with_context(|| format!("cannot run `{program}`: is it installed?"))?;
    let errors = String::from_utf8_lossy(&output.stderr).into_owned();
    if !output.status.success() {
        bail!("`{program}` failed ({}): {errors}", output.status);
    }
    Ok((String::from_utf8_lossy(&output.stdout).into_owned(), errors))
}

/// The number in callgrind's closing line `==1== Collected : 123`.
fn collected(log: &str) -> Option<u64> {
    let line = log.lines().find(|line| line.contains("Collected :"))?;
    line.rsplit(' ').next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::{collected, median};

    #[test]
    fn callgrinds_count_is_its_collected_line() {
        let log = "==7== Events    : Ir\n==7== Collected : 3186480\n==7== \n==7== I   refs:      3,186,480\n";
        assert_eq!(collected(log), Some(3_186_480));
        assert_eq!(collected("==7== no count"), None);
    }

    #[test]
    fn one_outlier_does_not_move_the_median() {
        assert!((median(vec![1.0, 100.0, 2.0]) - 2.0).abs() < f64::EPSILON);
    }
}

//! The command line of the binaries that measure one subject in one scenario, and the line of JSON they answer with.

use std::{
    io::Write as _,
    time::{Duration, Instant},
};

use anyhow::Context as _;
use clap::Parser;
use serde::{Deserialize, Serialize};

use crate::{Scenario, region::measured_region, subjects::Entry};

/// What to run.
#[derive(Debug, Parser)]
#[command(about = "Runs one scenario on one subject and prints what it took as JSON")]
pub struct Arguments {
    /// The framework, where the binary has several.
    #[arg(long, default_value = "")]
    subject: String,
    /// `flow/variant/lanes`, as in `consume/json/1`.
    scenario: Scenario,
    /// How many messages.
    messages: u64,
}

/// What a run took, in the region alone unless said otherwise.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Taken {
    /// Wall time in nanoseconds.
    pub wall_ns: u64,
    /// Allocations and reallocations; counted by `bench-allocations` only.
    pub allocations: Option<u64>,
    /// The largest resident size of the whole process in KiB, where the system tells.
    pub peak_resident_kib: Option<u64>,
}

/// Parses the command line, runs one of `subjects`, and prints. `allocations` reads the counter of the binary's allocator,
/// if it has one.
///
/// # Errors
/// When the subject is unknown, or [`drive`](crate::drive::drive) fails.
pub fn main(subjects: &[Entry], allocations: Option<fn() -> u64>) -> anyhow::Result<()> {
    let Arguments { subject, scenario, messages } = Arguments::parse();
    let known = || subjects.iter().map(|entry| entry.name).collect::<Vec<_>>().join(", ");
    let entry = match subjects {
        [only] if subject.is_empty() => only,
        several => several
            .iter()
            .find(|entry| entry.name == subject)
            .with_context(|| format!("no subject `{subject}`; `--subject` is one of {}", known()))?,
    };
    let mut taken = Taken::default();
    (entry.run)(scenario, messages, &mut |body| {
        let before = allocations.map(|count| count());
        let start = Instant::now();
        measured_region(body);
        // A run may have several regions.
        taken.wall_ns += nanoseconds(start.elapsed());
        if let (Some(count), Some(before)) = (allocations, before) {
            *taken.allocations.get_or_insert(0) += count() - before;
        }
    })?;
    taken.peak_resident_kib = peak_resident_kib();
    let mut out = std::io::stdout().lock();
    serde_json::to_writer(&mut out, &taken)?;
    Ok(writeln!(out)?)
}

fn nanoseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

/// `VmHWM` of `/proc/self/status` (Linux): the high-water mark of resident pages.
fn peak_resident_kib() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    line.trim().trim_end_matches("kB").trim_end().parse().ok()
}

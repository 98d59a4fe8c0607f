//! One run: one subject, one flow, in a process of its own.

use std::process::Command;
use std::time::Instant;

use anyhow::{Context as _, bail, ensure};
use clap::Args;
use serde::{Deserialize, Serialize};

use crate::{amqp, mqtt, transport};

/// Messages that are published at once, and then waited for.
pub(crate) const BATCH: usize = 100;
/// Messages that one member has in hand at most.
pub(crate) const PREFETCH: usize = 256;
/// How many messages of a run are published before the clock starts.
pub(crate) const WARM: usize = 1_000;

/// What to run.
#[derive(Debug, Args)]
pub(crate) struct Run {
    /// Where the broker is.
    pub(crate) url: String,
    /// `msgkit` or `raw`.
    pub(crate) subject: String,
    /// `publish`, `pass`, `pass_kept` or `waiting`.
    pub(crate) flow: String,
    /// How many members the group has.
    pub(crate) members: usize,
    /// How many messages.
    pub(crate) messages: usize,
}

/// What it took.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Taken {
    pub(crate) wall_ns: u64,
    /// User and system time of the process.
    pub(crate) cpu_ns: u64,
    pub(crate) peak_resident_kib: Option<u64>,
}

impl Run {
    /// In a process of its own.
    pub(crate) fn child(
        url: &str,
        subject: &str,
        flow: &str,
        members: usize,
        messages: usize,
    ) -> anyhow::Result<Taken> {
        let mut command = Command::new(std::env::current_exe()?);
        command.args(["run", url, subject, flow, &members.to_string(), &messages.to_string()]);
        let output = command.output()?;
        if !output.status.success() {
            bail!("{subject} {flow}/{members} failed: {}", String::from_utf8_lossy(&output.stderr));
        }
        serde_json::from_slice(&output.stdout).context("a run has no figures")
    }

    pub(crate) async fn measure(&self) -> anyhow::Result<Taken> {
        match (self.subject.as_str(), self.url.starts_with("mqtt")) {
            ("msgkit", _) => transport::run(self).await,
            ("raw", true) => mqtt::run(self).await,
            ("raw", false) => amqp::run(self).await,
            (other, _) => bail!("no subject `{other}`; there are msgkit and raw"),
        }
    }

    /// Whether somebody consumes.
    pub(crate) fn passes(&self) -> bool {
        self.flow.starts_with("pass")
    }

    /// Names that no other run uses.
    pub(crate) fn unique(&self) -> String {
        format!("bench-{}", std::process::id())
    }
}

/// The payload of every message.
pub(crate) fn payload(n: usize) -> Vec<u8> {
    format!(
        "{{\"id\":{n:07},\"device\":\"d-{:04}\",\"temperature\":21.5,\"humidity\":40,\"light\":300}}",
        n % 1000
    )
    .into_bytes()
}

/// The CloudEvents attributes of message `n`, as a program without msgkit writes them.
pub(crate) fn attributes(n: usize) -> [(String, String); 10] {
    let id = format!("01931d2e-0000-7000-8000-{n:012x}");
    [
        ("specversion".to_owned(), "1.0".to_owned()),
        ("id".to_owned(), id.clone()),
        ("source".to_owned(), "bench".to_owned()),
        ("type".to_owned(), "bench.reading".to_owned()),
        ("topic".to_owned(), "bench.reading".to_owned()),
        ("time".to_owned(), "2026-01-01T00:00:00.000Z".to_owned()),
        ("datacontenttype".to_owned(), "application/json".to_owned()),
        ("correlationid".to_owned(), id),
        ("hop".to_owned(), "0".to_owned()),
        ("traceparent".to_owned(), format!("00-{n:032x}-{:016x}-01", n + 1)),
    ]
}

/// The clocks of a run.
pub(crate) struct Clocks {
    began: Instant,
    cpu: u64,
}

impl Clocks {
    pub(crate) fn start() -> anyhow::Result<Self> {
        Ok(Self { began: Instant::now(), cpu: cpu_ns()? })
    }

    pub(crate) fn stop(self) -> anyhow::Result<Taken> {
        let wall_ns = u64::try_from(self.began.elapsed().as_nanos())?;
        Ok(Taken { wall_ns, cpu_ns: cpu_ns()? - self.cpu, peak_resident_kib: peak_resident_kib() })
    }
}

/// User and system time of this process, every thread of it: each thread's `schedstat` counts nanoseconds.
fn cpu_ns() -> anyhow::Result<u64> {
    let mut total = 0;
    for task in std::fs::read_dir("/proc/self/task")? {
        let Ok(text) = std::fs::read_to_string(task?.path().join("schedstat")) else { continue };
        total += text.split(' ').next().unwrap_or_default().parse::<u64>()?;
    }
    ensure!(total > 0, "this system does not tell the time that a process has used");
    Ok(total)
}

fn peak_resident_kib() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    line.trim().trim_end_matches("kB").trim_end().parse().ok()
}

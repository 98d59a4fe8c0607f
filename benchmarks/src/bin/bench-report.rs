//! Measures every subject in every scenario, adds the figures to the report, prints them, and holds the gate.

use std::path::{Path, PathBuf};

use anyhow::ensure;
use benchmarks::{
    Scenario,
    report::{
        cold_build::cold_build,
        entry::{Entry, merge_into, table},
        gate::Gate,
        measure::{Binaries, Effort},
        sqlite::sqlite,
    },
};
use clap::{Parser, Subcommand};

#[derive(Debug, Parser)]
#[command(about = "Measures msgkit against its peers")]
struct Arguments {
    /// The report to add to.
    #[arg(long, global = true, default_value = "../target/bench/report.json")]
    report: PathBuf,
    #[command(subcommand)]
    what: What,
}

#[derive(Debug, Subcommand)]
enum What {
    /// Instructions, allocations and wall time per message.
    Messages {
        /// Only the scenarios that begin with this, as in `consume/json`.
        #[arg(long, default_value = "")]
        only: String,
        /// Messages of the shorter run of each count.
        #[arg(long, default_value_t = 1_920)]
        counted: u64,
        /// Messages of each run against the clock.
        #[arg(long, default_value_t = 96_000)]
        timed: u64,
        /// Runs against the clock, of each subject; 0 for none.
        #[arg(long, default_value_t = 9)]
        rounds: usize,
    },
    /// Fails where the ratio of instructions to the peer's exceeds a limit.
    Gate {
        /// The limits.
        #[arg(default_value = "gate.toml")]
        limits: PathBuf,
        /// Messages of the shorter run of each count.
        #[arg(long, default_value_t = 960)]
        counted: u64,
    },
    /// Peak resident size with many messages behind a slow handler.
    Backlog {
        /// How many.
        #[arg(long, default_value_t = 1_000_000)]
        messages: u64,
    },
    /// Messages per second through the SQLite transport, by 1 and by 4 processes.
    Sqlite {
        /// The transport's example.
        #[arg(long, default_value = "../target/release/examples/throughput")]
        example: PathBuf,
        /// How many.
        #[arg(long, default_value_t = 100_000)]
        messages: u64,
    },
    /// Crates and wall time of a first build of a hello world.
    ColdBuild {
        /// The folder of msgkit's.
        #[arg(long, default_value = "../examples/quickstart")]
        quickstart: PathBuf,
    },
}

fn main() -> anyhow::Result<()> {
    let Arguments { report, what } = Arguments::parse();
    match what {
        What::Messages { only, counted, timed, rounds } => {
            keep(&report, &messages(&only, Effort { counted, timed, rounds })?)
        }
        What::Gate { limits, counted } => {
            let gate = Gate::read(&limits)?;
            let binaries = Binaries::beside_this()?;
            let effort = Effort { counted, timed: 0, rounds: 0 };
            let mut entries = Vec::new();
            for scenario in gate.scenarios()? {
                entries.extend(binaries.instructions(scenario, effort)?);
            }
            keep(&report, &entries)?;
            gate.hold("msgkit", &entries)
        }
        What::Backlog { messages } => {
            let scenario: Scenario = "backlog/json/1".parse()?;
            keep(&report, &Binaries::beside_this()?.peak_resident(scenario, messages)?)
        }
        What::Sqlite { example, messages } => keep(&report, &sqlite(&example, messages)?),
        What::ColdBuild { quickstart } => keep(&report, &cold_build(&quickstart.canonicalize()?)?),
    }
}

fn messages(only: &str, effort: Effort) -> anyhow::Result<Vec<Entry>> {
    let binaries = Binaries::beside_this()?;
    let mut entries = Vec::new();
    let chosen: Vec<_> =
        Scenario::all().into_iter().filter(|known| known.to_string().starts_with(only)).collect();
    ensure!(!chosen.is_empty(), "no scenario begins with `{only}`");
    for scenario in chosen {
        eprintln!("{scenario}");
        entries.extend(binaries.measure(scenario, effort)?);
    }
    Ok(entries)
}

fn keep(report: &Path, entries: &[Entry]) -> anyhow::Result<()> {
    merge_into(report, entries)?;
    print!("{}", table(entries));
    Ok(())
}

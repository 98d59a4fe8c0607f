//! msgkit's broker transports beside the same work written by hand on the clients that they use, on real brokers.
//!
//! It starts each broker, runs every scenario by turns, each run in a process of its own, and adds the figures to the report.
//! A broker is one file beside this one, and a line in [`SYSTEMS`]. What is the same about the work: see
//! `benchmarks/README.md`.

mod amqp;
mod event;
mod kafka;
mod kinesis;
mod mqtt;
mod pubsub;
mod run;
mod ruststream;
mod system;
mod transport;

use std::path::PathBuf;

use anyhow::{Context as _, ensure};
use benchmarks::report::entry::{Entry, merge_into, table};
use clap::{Parser, Subcommand};

use self::run::{Flow, Run, Scenario, Taken};
use self::system::{Measured, System};

/// The brokers.
static SYSTEMS: [Measured; 5] = [
    Measured::broker(&amqp::SYSTEM),
    Measured { peers: &[ruststream::PEER], ..Measured::broker(&kafka::SYSTEM) },
    Measured::broker(&mqtt::SYSTEM),
    // Stand-ins, which take a hundred calls a second.
    Measured { warm: 0, messages: 20_000, ..Measured::broker(&kinesis::SYSTEM) },
    Measured { warm: 0, messages: 5_000, ..Measured::broker(&pubsub::SYSTEM) },
];

#[derive(Debug, Parser)]
#[command(about = "Measures msgkit's transports against their raw clients")]
struct Arguments {
    /// The report to add to.
    #[arg(long, default_value = "../target/bench/report.json")]
    report: PathBuf,
    /// Messages of each run; less on stand-ins where it is not said.
    #[arg(long)]
    messages: Option<usize>,
    /// Rounds of each scenario; in each, every subject runs once.
    #[arg(long, default_value_t = 7)]
    rounds: usize,
    /// Only the scenarios that begin with this, as in `amqp/consume`.
    #[arg(long, default_value = "")]
    only: String,
    /// Messages that wait behind the slow handler; 0 = not measured.
    #[arg(long, default_value_t = 200_000)]
    waiting: usize,
    #[command(subcommand)]
    one: Option<One>,
}

#[derive(Debug, Subcommand)]
enum One {
    /// One run, for the report.
    Run(Run),
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let arguments = Arguments::parse();
    if let Some(One::Run(run)) = arguments.one {
        println!("{}", serde_json::to_string(&run.measure().await?)?);
        return Ok(());
    }
    let mut entries = Vec::new();
    for measured in &SYSTEMS {
        let system = measured.system;
        for &scenario in system.scenarios {
            let name = format!("{}/{scenario}", system.name);
            let wanted = scenario.flow != Flow::Waiting || arguments.waiting > 0;
            if !wanted || !name.starts_with(&arguments.only) {
                continue;
            }
            eprintln!("{name}");
            let figures = match scenario.flow {
                Flow::Waiting => waiting(system, arguments.waiting)?,
                _ => compare(measured, scenario, &arguments)?,
            };
            merge_into(&arguments.report, &figures)?;
            entries.extend(figures);
        }
    }
    ensure!(!entries.is_empty(), "no scenario begins with `{}`", arguments.only);
    print!("{}", table(&entries));
    Ok(())
}

/// CPU time and throughput of all subjects, by turns; a ratio is the median of the rounds' ratios.
fn compare(measured: &Measured, scenario: Scenario, arguments: &Arguments) -> anyhow::Result<Vec<Entry>> {
    let system = measured.system;
    let peers = measured.peers.iter().filter(|peer| peer.flows.contains(&scenario.flow));
    // Each with its name in the runs and in the report.
    let mut others = vec![(Run::RAW, system.client)];
    others.extend(peers.map(|peer| (peer.name, peer.name)));
    let subjects: Vec<&str> = [Run::MSGKIT].into_iter().chain(others.iter().map(|(run, _)| *run)).collect();
    let messages = arguments.messages.unwrap_or(measured.messages);
    // What each took, in each round.
    let mut rounds: Vec<Vec<Taken>> = Vec::new();
    for round in 0..arguments.rounds.max(1) {
        let mut taken: Vec<Option<Taken>> = vec![None; subjects.len()];
        // Who goes first changes, because a broker has its moods.
        for at in (0..subjects.len()).map(|at| (at + round) % subjects.len()) {
            let run = Run::new(system, subjects[at], scenario, messages);
            taken[at] = Some(run.in_new_place(system)?);
        }
        let taken: Vec<Taken> = taken.into_iter().flatten().collect();
        for ((_, name), other) in others.iter().zip(&taken[1..]) {
            let ours = &taken[0];
            let (cpu, rate) = (ours.cpu() / other.cpu(), ours.rate() / other.rate());
            eprintln!(
                "  cpu {:.0} : {:.0} ns = {cpu:.3}, throughput {rate:.3} ({name})",
                ours.cpu(),
                other.cpu()
            );
        }
        rounds.push(taken);
    }
    let metric = |at: usize, metric: &str, figure: fn(&Taken) -> f64| {
        let of = |at: usize| median(rounds.iter().map(|round| figure(&round[at])).collect());
        let scenario = format!("{}/{scenario}", system.name);
        let mut entry = Entry::compared(&scenario, metric, ("msgkit", of(0)), (others[at - 1].1, of(at)));
        entry.ratio =
            Some(median(rounds.iter().map(|round| figure(&round[0]) / figure(&round[at])).collect()));
        entry
    };
    let both = |at| [metric(at, "cpu_ns/message", Taken::cpu), metric(at, "messages/s", Taken::rate)];
    Ok((1..subjects.len()).flat_map(both).collect())
}

/// How much larger the process of a slow handler gets while `many` messages wait at the broker than while few do.
fn waiting(system: &System, many: usize) -> anyhow::Result<Vec<Entry>> {
    let grown = |messages: usize| -> anyhow::Result<f64> {
        let place = (system.place)()?;
        // Published by another process, so that only consuming counts.
        let fill = Scenario { flow: Flow::Publish, members: 1 };
        Run::new(system, Run::MSGKIT, fill, messages).child(&place.url)?;
        let slow = Scenario { flow: Flow::Waiting, members: 1 };
        let taken = Run::new(system, Run::MSGKIT, slow, messages).child(&place.url)?;
        Ok(taken.peak_resident_kib.context("this system does not tell the resident size")? as f64)
    };
    let few = grown(Flow::SLOW_MESSAGES)?;
    let scenario = format!("{}/waiting/{many}", system.name);
    let peer = format!("{} waiting", Flow::SLOW_MESSAGES);
    Ok(vec![Entry::compared(&scenario, "peak_resident_kib", ("msgkit", grown(many)?), (&peer, few))])
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    let middle = values.len() / 2;
    if values.len() % 2 == 0 && middle > 0 {
        return f64::midpoint(values[middle - 1], values[middle]);
    }
    values.get(middle).copied().unwrap_or(f64::NAN)
}

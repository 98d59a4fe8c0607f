//! msgkit's broker transports beside the same work written by hand on the clients that they use, on real brokers.
//!
//! It starts each broker, runs every scenario by turns, each run in a process of its own, and adds the figures to the report.
//! A broker is one file beside this one, and a line in [`SYSTEMS`]. What is the same about the work: see
//! `benchmarks/README.md`.

mod amqp;
mod event;
mod kafka;
mod mqtt;
mod run;
mod system;
mod transport;

use std::path::PathBuf;

use anyhow::{Context as _, ensure};
use benchmarks::report::entry::{Entry, merge_into, table};
use clap::{Parser, Subcommand};

use self::run::{Flow, Run, Scenario, Taken};
use self::system::System;

/// The brokers.
const SYSTEMS: [&System; 3] = [&amqp::SYSTEM, &kafka::SYSTEM, &mqtt::SYSTEM];

#[derive(Debug, Parser)]
#[command(about = "Measures msgkit's transports against their raw clients")]
struct Arguments {
    /// The report to add to.
    #[arg(long, default_value = "../target/bench/report.json")]
    report: PathBuf,
    /// Messages of each run.
    #[arg(long, default_value_t = 40_000)]
    messages: usize,
    /// Rounds of each scenario; in each, both subjects run once.
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
    for system in SYSTEMS {
        for &scenario in system.scenarios {
            let name = format!("{}/{scenario}", system.name);
            let wanted = scenario.flow != Flow::Waiting || arguments.waiting > 0;
            if !wanted || !name.starts_with(&arguments.only) {
                continue;
            }
            eprintln!("{name}");
            let figures = match scenario.flow {
                Flow::Waiting => waiting(system, arguments.waiting)?,
                _ => compare(system, scenario, &arguments)?,
            };
            merge_into(&arguments.report, &figures)?;
            entries.extend(figures);
        }
    }
    ensure!(!entries.is_empty(), "no scenario begins with `{}`", arguments.only);
    print!("{}", table(&entries));
    Ok(())
}

/// CPU time and throughput of both subjects, by turns; the ratio is the median of the rounds' ratios.
fn compare(system: &System, scenario: Scenario, arguments: &Arguments) -> anyhow::Result<Vec<Entry>> {
    let mut rounds: Vec<(Taken, Taken)> = Vec::new();
    for round in 0..arguments.rounds.max(1) {
        let one =
            |subject: &str| Run::new(system, subject, scenario, arguments.messages).in_new_place(system);
        // Who goes first changes, because a broker has its moods.
        let (ours, raw) = if round % 2 == 0 {
            let ours = one(Run::MSGKIT)?;
            (ours, one(Run::RAW)?)
        } else {
            let raw = one(Run::RAW)?;
            (one(Run::MSGKIT)?, raw)
        };
        let (cpu, rate) = (ours.cpu() / raw.cpu(), ours.rate() / raw.rate());
        eprintln!("  cpu {:.0} : {:.0} ns = {cpu:.3}, throughput {rate:.3}", ours.cpu(), raw.cpu());
        rounds.push((ours, raw));
    }
    let metric = |name: &str, figure: fn(&Taken) -> f64| {
        let ours = median(rounds.iter().map(|(ours, _)| figure(ours)).collect());
        let raw = median(rounds.iter().map(|(_, raw)| figure(raw)).collect());
        let scenario = format!("{}/{scenario}", system.name);
        let mut entry = Entry::compared(&scenario, name, ("msgkit", ours), (system.client, raw));
        entry.ratio = Some(median(rounds.iter().map(|(ours, raw)| figure(ours) / figure(raw)).collect()));
        entry
    };
    Ok(vec![metric("cpu_ns/message", Taken::cpu), metric("messages/s", Taken::rate)])
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

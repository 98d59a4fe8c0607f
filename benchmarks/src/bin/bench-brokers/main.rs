//! msgkit's queue transports beside the same work written by hand on the clients that they use, on real brokers.
//!
//! Without arguments it starts the brokers, runs every scenario, each run in a process of its own, subjects by turns, and adds
//! the figures to the report. The same work: the same CloudEvents attributes on the wire, quality of service or confirms, window,
//! prefetch and batch; who consumes looks at the payload and acknowledges.

mod amqp;
mod mqtt;
mod run;
mod transport;

use std::path::PathBuf;

use anyhow::{Context as _, ensure};
use benchmarks::report::entry::{Entry, merge_into, table};
use clap::{Parser, Subcommand};
use msgkit_testing::brokers::{Mosquitto, RabbitMq};
use run::{Run, Taken};

#[derive(Debug, Parser)]
#[command(about = "Measures msgkit's transports against their raw clients")]
struct Arguments {
    /// The report to add to.
    #[arg(long, default_value = "../target/bench/report.json")]
    report: PathBuf,
    /// Messages of each run.
    #[arg(long, default_value_t = 40_000)]
    messages: usize,
    /// Runs of each subject in each scenario.
    #[arg(long, default_value_t = 5)]
    rounds: usize,
    /// Only the scenarios that begin with this, as in `mqtt/pass`.
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

/// What is measured: a broker, a flow, and how many members its group has.
const SCENARIOS: [(&str, &str, usize); 10] = [
    ("mqtt", "publish", 1),
    ("mqtt", "pass", 1),
    ("mqtt", "pass", 4),
    ("mqtt", "pass", 16),
    // With the session that survives a broker which forgets shared subscriptions: each message is delivered twice.
    ("mqtt", "pass_kept", 4),
    ("mqtt", "pass_kept", 16),
    ("amqp", "publish", 1),
    ("amqp", "pass", 1),
    ("amqp", "pass", 4),
    ("amqp", "pass", 16),
];

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let arguments = Arguments::parse();
    if let Some(One::Run(run)) = &arguments.one {
        println!("{}", serde_json::to_string(&run.measure().await?)?);
        return Ok(());
    }
    let mosquitto = Mosquitto::options()
        .setting("autosave_on_changes false")
        .setting("autosave_interval 0")
        .setting("max_queued_messages 0")
        .setting("max_queued_bytes 0")
        .start()?;
    let rabbit = RabbitMq::launch()?;
    let mut entries = Vec::new();
    for (broker, flow, members) in SCENARIOS {
        let scenario = format!("{broker}/{flow}/{members}");
        if !scenario.starts_with(&arguments.only) {
            continue;
        }
        eprintln!("{scenario}");
        let url = if broker == "mqtt" { mosquitto.url() } else { rabbit.url() };
        entries.extend(compare(&arguments, &scenario, url, (flow, members))?);
    }
    if arguments.waiting > 0 && arguments.only.is_empty() {
        for (broker, url) in [("mqtt", mosquitto.url()), ("amqp", rabbit.url())] {
            eprintln!("{broker}/waiting");
            entries.extend(waiting(broker, url, arguments.waiting)?);
        }
    }
    ensure!(!entries.is_empty(), "no scenario begins with `{}`", arguments.only);
    merge_into(&arguments.report, &entries)?;
    print!("{}", table(&entries));
    Ok(())
}

/// CPU and wall time of both subjects, by turns; ratios are medians over the rounds.
fn compare(
    arguments: &Arguments,
    scenario: &str,
    url: &str,
    (flow, members): (&str, usize),
) -> anyhow::Result<Vec<Entry>> {
    let mut rounds: Vec<(Taken, Taken)> = Vec::new();
    for round in 0..arguments.rounds.max(1) {
        let one = |subject: &str| Run::child(url, subject, flow, members, arguments.messages);
        // Who goes first changes, because a broker has its moods.
        rounds.push(if round % 2 == 0 {
            let ours = one("msgkit")?;
            (ours, one("raw")?)
        } else {
            let raw = one("raw")?;
            (one("msgkit")?, raw)
        });
    }
    let each = arguments.messages as f64;
    let metric = |name: &str, figure: fn(&Taken) -> u64| {
        let ours = median(rounds.iter().map(|(ours, _)| figure(ours) as f64 / each).collect());
        let raw = median(rounds.iter().map(|(_, raw)| figure(raw) as f64 / each).collect());
        let mut entry = Entry::compared(scenario, name, ("msgkit", ours), ("raw client", raw));
        entry.ratio = Some(median(
            rounds.iter().map(|(ours, raw)| figure(ours) as f64 / figure(raw).max(1) as f64).collect(),
        ));
        entry
    };
    Ok(vec![metric("cpu_ns/message", |taken| taken.cpu_ns), metric("wall_ns/message", |taken| taken.wall_ns)])
}

/// How much a slow handler's process grows while many messages wait at the broker, against few.
fn waiting(broker: &str, url: &str, many: usize) -> anyhow::Result<Vec<Entry>> {
    let few = Run::child(url, "msgkit", "waiting", 1, 2_000)?;
    let all = Run::child(url, "msgkit", "waiting", 1, many)?;
    let scenario = format!("{broker}/waiting/{many}");
    let kib = |taken: &Taken| taken.peak_resident_kib.context("this system does not tell the resident size");
    Ok(vec![Entry::compared(
        &scenario,
        "peak_resident_kib",
        ("msgkit", kib(&all)? as f64),
        ("2,000 waiting", kib(&few)? as f64),
    )])
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
}

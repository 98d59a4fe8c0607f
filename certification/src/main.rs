//! `certify`: runs scenarios on real brokers and prints a ledger for each.

use std::process::ExitCode;
use std::time::Duration;

use clap::{Args, Parser, Subcommand};
use msgkit_certification::brokers::{self, Started};
use msgkit_certification::member::Member;
use msgkit_certification::{Failure, FailureKind, Plan, certify, scenarios};

/// Certifies msgkit's transports on real brokers.
#[derive(Debug, Parser)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Runs scenarios, and ends with 1 where a ledger shows what must not be.
    Run(Run),
    /// A member of the group, started by `run`.
    #[command(hide = true)]
    Member(Member),
}

#[derive(Debug, Args)]
struct Run {
    /// Only this broker.
    #[arg(long, value_parser = clap::builder::PossibleValuesParser::new(brokers::NAMES))]
    broker: Option<String>,
    /// Only this scenario.
    #[arg(long)]
    fault: Option<String>,
    /// How many messages each run publishes.
    #[arg(long, default_value_t = 20_000)]
    messages: u64,
    /// How often the fault happens in a run.
    #[arg(long, default_value_t = 5)]
    times: u32,
    /// How many seconds something stays away.
    #[arg(long, default_value_t = 30)]
    outage: u64,
    /// What the moments of the faults come from; every ledger names its own.
    #[arg(long)]
    seed: Option<u64>,
}

const LOG: &str = "warn,lapin=off";

fn main() -> ExitCode {
    // The transports say in their own words what the client library says of a broken connection.
    tracing_subscriber::fmt().with_writer(std::io::stderr).with_env_filter(LOG).with_ansi(false).init();
    let runtime = match tokio::runtime::Runtime::new() {
        Ok(runtime) => runtime,
        Err(error) => return refuse(&error.into()),
    };
    match Arguments::parse().command {
        Command::Member(member) => match runtime.block_on(member.run()) {
            Ok(()) => ExitCode::SUCCESS,
            Err(failure) => refuse(&failure),
        },
        Command::Run(run) => match runtime.block_on(run.all()) {
            Ok(0) => ExitCode::SUCCESS,
            Ok(failed) => {
                println!("{failed} of the runs above are not certified");
                ExitCode::FAILURE
            }
            Err(failure) => refuse(&failure),
        },
    }
}

fn refuse(failure: &Failure) -> ExitCode {
    eprintln!("certify: {failure}");
    ExitCode::FAILURE
}

impl Run {
    /// Answers how many runs are not certified.
    async fn all(self) -> Result<usize, Failure> {
        let scenarios = scenarios::all();
        let known: Vec<&str> = scenarios.iter().map(|scenario| scenario.name()).collect();
        if let Some(fault) = self.fault.as_deref().filter(|fault| !known.contains(fault)) {
            return Err(Failure::broken(format!(
                "no scenario is called `{fault}`; there are {}",
                known.join(", ")
            )));
        }
        let mut started = Started::default();
        let names: Vec<&str> = match &self.broker {
            Some(name) => vec![name],
            None => brokers::NAMES.to_vec(),
        };
        let mut failed = 0;
        for name in names {
            for scenario in &scenarios {
                if self.fault.as_deref().is_some_and(|fault| fault != scenario.name()) {
                    continue;
                }
                let broker = started.broker(name)?;
                let letters =
                    scenario.keeps_letters_apart().then(|| started.broker(brokers::LETTERS)).transpose()?;
                let plan = Plan {
                    messages: self.messages,
                    times: self.times,
                    outage: Duration::from_secs(self.outage),
                    seed: self.seed.unwrap_or_else(|| fastrand::u64(0..1_000_000)),
                    program: std::env::current_exe()?,
                };
                match certify(&**scenario, broker, letters, &plan).await {
                    Ok(ledger) => {
                        println!("{}\n{ledger}", ledger.title);
                        for problem in ledger.problems() {
                            println!("  NOT CERTIFIED: {problem}");
                        }
                        println!();
                        failed += usize::from(!ledger.problems().is_empty());
                    }
                    Err(failure) if failure.kind() == FailureKind::Impossible => {
                        println!("{} · {name}\n  not possible: {failure}\n", scenario.name());
                    }
                    Err(failure) => {
                        println!(
                            "{} · {name} · seed {}\n  BROKE OFF: {failure}\n",
                            scenario.name(),
                            plan.seed
                        );
                        failed += 1;
                        // It may be what broke, and the next run is to have one that works.
                        started.end(name);
                    }
                }
            }
        }
        Ok(failed)
    }
}

//! Runs the simulation: `simulate SEEDS [FIRST]` runs so many seeds and prints what happened where; `simulate --seed N`
//! runs one and prints what it found.

use std::collections::BTreeMap;
use std::process::ExitCode;
use std::sync::Mutex;
use std::sync::PoisonError;
use std::sync::atomic::{AtomicU64, Ordering};

use msgkit_testing::simulation::{self, Fault, Outcome, Stage};

/// The fewest times that each fault is to have hit each stage in a long run.
const LEAST: u32 = 100;
/// From how many runs on it is a long one.
const LONG: u64 = 10_000;

fn main() -> ExitCode {
    // Handlers panic on purpose.
    std::panic::set_hook(Box::new(|_| {}));
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let number = |at: usize| arguments.get(at).and_then(|text| text.parse::<u64>().ok());
    if arguments.first().is_some_and(|first| first == "--seed") {
        let Some(seed) = number(1) else { return usage() };
        let outcome = simulation::run(seed);
        println!("{outcome:#?}");
        return if outcome.problems.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE };
    }
    let Some(seeds) = number(0) else { return usage() };
    let first = number(1).unwrap_or(0);
    let total = run_all(first, seeds);
    report(&total, seeds)
}

fn usage() -> ExitCode {
    eprintln!("usage: simulate SEEDS [FIRST] | simulate --seed SEED");
    ExitCode::FAILURE
}

/// What all runs together found.
#[derive(Default)]
struct Total {
    faults: BTreeMap<(Fault, Stage), u32>,
    doubled: usize,
    dead: usize,
    fewest: Option<u32>,
    failed: Vec<Outcome>,
}

fn run_all(first: u64, seeds: u64) -> Total {
    let total = Mutex::new(Total::default());
    let next = AtomicU64::new(first);
    let threads = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                loop {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if seed >= first + seeds {
                        return;
                    }
                    let outcome = simulation::run(seed);
                    let mut total = total.lock().unwrap_or_else(PoisonError::into_inner);
                    for (cell, count) in &outcome.faults {
                        *total.faults.entry(*cell).or_default() += count;
                    }
                    total.doubled += outcome.doubled;
                    total.dead += outcome.dead;
                    let count = outcome.count();
                    total.fewest = Some(total.fewest.map_or(count, |fewest| fewest.min(count)));
                    if !outcome.problems.is_empty() {
                        total.failed.push(outcome);
                    }
                }
            });
        }
    });
    total.into_inner().unwrap_or_else(PoisonError::into_inner)
}

fn report(total: &Total, seeds: u64) -> ExitCode {
    print!("{:<15}", "fault × stage");
    Stage::ALL.iter().for_each(|stage| print!("{stage:>12}"));
    println!();
    let mut rare = Vec::new();
    for fault in Fault::ALL {
        print!("{fault:<15}");
        for stage in Stage::ALL {
            if !fault.fits(stage) {
                print!("{:>12}", "–");
                continue;
            }
            let count = total.faults.get(&(fault, stage)).copied().unwrap_or_default();
            print!("{count:>12}");
            if count < LEAST {
                rare.push(format!("{fault} at {stage}: {count}"));
            }
        }
        println!();
    }
    let messages = seeds * u64::from(simulation::MESSAGES);
    println!(
        "{seeds} runs, {messages} messages over 3 hops, at least {} faults a run: {} dead letters, {} stored twice",
        total.fewest.unwrap_or_default(),
        total.dead,
        total.doubled
    );
    for outcome in &total.failed {
        println!("seed {}: {}", outcome.seed, outcome.problems.join("; "));
        println!("    again: make simulate SEED={}", outcome.seed);
    }
    println!("simulation: {} runs, {} went wrong", seeds, total.failed.len());
    if seeds >= LONG && !rare.is_empty() {
        println!("too rare, less than {LEAST} times: {}", rare.join(", "));
        return ExitCode::FAILURE;
    }
    if total.failed.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

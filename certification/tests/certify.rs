//! Every fault once on every broker, with few messages. `make certify` is the long form.
//!
//! Runs of one broker go one after the other, because they restart it. `MSGKIT_CERTIFY_SEED=n` repeats a run's moments.

use std::process::ExitCode;
use std::sync::{LazyLock, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use libtest_mimic::{Arguments, Completion, Failed, Trial};
use msgkit_certification::brokers::{self, Started};
use msgkit_certification::{Failure, FailureKind, Ledger, Plan, Scenario, certify, scenarios};

fn main() -> ExitCode {
    let mut arguments = Arguments::from_args();
    arguments.test_threads = Some(arguments.test_threads.unwrap_or(brokers::NAMES.len()));
    let mut trials = Vec::new();
    for index in 0..scenarios::all().len() {
        for name in brokers::NAMES {
            let scenario = scenarios::all().swap_remove(index);
            let title = format!("{name}::{}", scenario.name());
            trials.push(Trial::ignorable_test(title, move || judge(run(name, &*scenario))));
        }
    }
    libtest_mimic::run(&arguments, trials).exit_code()
}

fn judge(outcome: Result<Ledger, Failure>) -> Result<Completion, Failed> {
    let required = std::env::var("MSGKIT_REQUIRE_BROKERS").is_ok_and(|value| value == "1");
    match outcome {
        Ok(ledger) if ledger.problems().is_empty() => {
            println!("{}\n{ledger}", ledger.title);
            Ok(Completion::Completed)
        }
        Ok(ledger) => Err(format!("{}\n{}\n{ledger}", ledger.problems().join("\n"), ledger.title).into()),
        Err(failure) if failure.kind() == FailureKind::Impossible => {
            Ok(Completion::ignored_with(format!("not possible: {failure}")))
        }
        Err(failure) if failure.kind() == FailureKind::NotRun && !required => {
            Ok(Completion::ignored_with(format!("not run: {failure}")))
        }
        Err(failure) => Err(failure.into()),
    }
}

fn run(name: &'static str, scenario: &dyn Scenario) -> Result<Ledger, Failure> {
    // Whoever needs both brokers takes this one first.
    let apart = scenario.keeps_letters_apart();
    let mut letters = (apart && name != brokers::LETTERS).then(|| alone(brokers::LETTERS));
    let mut own = alone(name);
    let broker = own.broker(name)?;
    let letters = match (apart, &mut letters) {
        (false, _) => None,
        (true, Some(letters)) => Some(letters.broker(brokers::LETTERS)?),
        (true, None) => Some(broker.clone()),
    };
    let seed = std::env::var("MSGKIT_CERTIFY_SEED").ok().and_then(|seed| seed.parse().ok());
    let plan = Plan {
        messages: 2_000,
        times: 1,
        outage: Duration::from_secs(5),
        seed: seed.unwrap_or_else(|| fastrand::u64(0..1_000_000)),
        program: env!("CARGO_BIN_EXE_certify").into(),
    };
    let runtime = tokio::runtime::Runtime::new()?;
    runtime.block_on(certify(scenario, broker, letters, &plan)).map_err(|failure| {
        if failure.kind() == FailureKind::Impossible {
            return failure;
        }
        // It may be the broker that broke, and the next run is to have one that works.
        own.end(name);
        failure.at(&format!("seed {}", plan.seed))
    })
}

/// The broker of that name, for nobody else until this is dropped. It ends with this process.
fn alone(name: &str) -> MutexGuard<'static, Started> {
    static TURNS: [LazyLock<Mutex<Started>>; brokers::NAMES.len()] =
        [const { LazyLock::new(Mutex::default) }; brokers::NAMES.len()];
    let index = brokers::NAMES.iter().position(|known| *known == name).unwrap_or_default();
    TURNS[index].lock().unwrap_or_else(PoisonError::into_inner)
}

//! What the program does on a broker that takes all of its topics: the same totals as in memory, whoever is killed.

use std::path::Path;
use std::process::{Command, ExitCode};
use std::sync::LazyLock;

use libtest_mimic::{Arguments, Completion, Failed, Trial};
use msgkit_testing::brokers::{BrokerError, BrokerErrorKind};

use crate::platform::Launch;
use crate::story::{self, Posts, REPLAYED, Totals, comes_to};

/// Runs `tests`. One without its broker is *not run*; with `MSGKIT_REQUIRE_BROKERS=1` that is a failure.
pub(crate) fn run(tests: Vec<(&str, fn() -> Result<(), BrokerError>)>) -> ExitCode {
    let tests = tests.into_iter().map(|(name, body)| test(name, body)).collect();
    libtest_mimic::run(&Arguments::from_args(), tests).exit_code()
}

fn test(name: &str, body: fn() -> Result<(), BrokerError>) -> Trial {
    Trial::ignorable_test(name, move || match body() {
        Ok(()) => Ok(Completion::Completed),
        Err(error) => {
            let required = std::env::var("MSGKIT_REQUIRE_BROKERS").is_ok_and(|value| value == "1");
            if error.kind() == BrokerErrorKind::Missing && !required {
                return Ok(Completion::ignored_with(format!("not run: {error}")));
            }
            Err(Failed::from(error.to_string()))
        }
    })
}

/// What every run must come to.
static WANTED: LazyLock<Totals> = LazyLock::new(story::in_memory);

/// How the program is started with `config` at `speed`, with its files in `folder`.
pub(crate) fn launch(config: &str, folder: &Path, speed: &str) -> Launch {
    Launch::default().with(&["--config", config, "--data", folder.to_str().unwrap()]).with(&[
        "--speed",
        speed,
        "--readings",
        &REPLAYED.to_string(),
    ])
}

/// `check` needs no broker, and says that everything runs on `system`.
pub(crate) fn check(config: &str, system: &str) {
    let output = Command::new(env!("CARGO_BIN_EXE_device-platform"))
        .args(["check", "--config", config])
        .output()
        .unwrap();
    let printed = String::from_utf8(output.stdout).unwrap();
    assert!(printed.contains(&format!("from    backbone ({system})")), "{printed}");
    assert!(printed.ends_with("6 components, no warnings\n"), "{printed}");
}

/// One process, killed in between.
pub(crate) fn one_process(folder: &Path, launch: &Launch) {
    let store = story::store(folder);
    let mut posts = Posts::new();
    let first = launch.start();
    posts.some(20, &first);
    first.kill();
    let second = launch.start();
    posts.rest(&second);
    comes_to(&store, &WANTED);
}

/// One process for each component, each of them killed in turn.
pub(crate) fn each_component(folder: &Path, launch: &Launch) {
    story::killed_in_turn(folder, launch, &WANTED);
}

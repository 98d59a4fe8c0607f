//! The real program on a real Kafka by `--config config/kafka.toml` alone. A test without its broker is *not run*; with
//! `MSGKIT_REQUIRE_BROKERS=1` that is a failure.
#![allow(clippy::unwrap_used, clippy::expect_used)]

#[path = "../system/platform.rs"]
mod platform;
#[path = "../system/story.rs"]
mod story;

use std::process::{Command, ExitCode};
use std::sync::LazyLock;

use libtest_mimic::{Arguments, Completion, Failed, Trial};
use msgkit_testing::brokers::{BrokerError, BrokerErrorKind, Kafka};
use platform::Launch;
use story::{Posts, REPLAYED, Totals, comes_to};

const CONFIG: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/config/kafka.toml");

fn main() -> ExitCode {
    let tests = vec![
        test("check_says_how_it_would_run_without_a_broker", check),
        test("one_process_killed_comes_to_the_totals_of_memory", one_process),
        test("each_component_killed_in_turn_comes_to_the_totals_of_memory", each_component),
    ];
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

/// What both runs must come to.
static WANTED: LazyLock<Totals> = LazyLock::new(story::in_memory);

/// A name space of its own at the broker, and how the program is started there.
struct Place {
    launch: Launch,
    folder: tempfile::TempDir,
}

impl Place {
    fn new(test: &str, speed: &str) -> Result<Self, BrokerError> {
        let broker = Kafka::shared()?;
        let folder = tempfile::tempdir().unwrap();
        let launch = Launch::default()
            .with(&["--config", CONFIG, "--data", folder.path().to_str().unwrap()])
            .with(&["--speed", speed, "--readings", &REPLAYED.to_string()])
            .configured("TRANSPORTS__BACKBONE__URL", broker.url())
            .configured("TRANSPORTS__BACKBONE__KAFKA__PREFIX", &broker.prefix(test))
            // Whoever is killed is missed sooner than by default, and nobody waits so long for it.
            .configured("TRANSPORTS__BACKBONE__KAFKA__SESSION_TIMEOUT", "6s");
        Ok(Self { launch, folder })
    }
}

fn check() -> Result<(), BrokerError> {
    let output = Command::new(env!("CARGO_BIN_EXE_device-platform"))
        .args(["check", "--config", CONFIG])
        .output()
        .unwrap();
    let printed = String::from_utf8(output.stdout).unwrap();
    assert!(printed.contains("from    backbone (kafka)"), "{printed}");
    assert!(printed.ends_with("6 components, no warnings\n"), "{printed}");
    Ok(())
}

fn one_process() -> Result<(), BrokerError> {
    let place = Place::new("one", "2000")?;
    let store = story::store(place.folder.path());
    let mut posts = Posts::new();
    let first = place.launch.start();
    posts.some(20, &first);
    first.kill();
    let second = place.launch.start();
    posts.rest(&second);
    comes_to(&store, &WANTED);
    Ok(())
}

fn each_component() -> Result<(), BrokerError> {
    let place = Place::new("each", "600")?;
    story::killed_in_turn(place.folder.path(), &place.launch, &WANTED);
    Ok(())
}

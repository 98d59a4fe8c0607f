//! The real program on a real Kafka by `--config config/kafka.toml` alone.
#![allow(clippy::unwrap_used, clippy::expect_used)]

#[path = "../system/on_broker.rs"]
mod on_broker;
#[path = "../system/platform.rs"]
mod platform;
#[path = "../system/story.rs"]
mod story;

use std::process::ExitCode;

use msgkit_testing::brokers::{BrokerError, Kafka};
use on_broker::launch;
use platform::Launch;

const CONFIG: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/config/kafka.toml");

fn main() -> ExitCode {
    on_broker::run(vec![
        ("check_says_how_it_would_run_without_a_broker", check),
        ("one_process_killed_comes_to_the_totals_of_memory", one_process),
        ("each_component_killed_in_turn_comes_to_the_totals_of_memory", each_component),
    ])
}

/// A name space of its own at the broker, and how the program is started there.
fn place(test: &str, speed: &str) -> Result<(Launch, tempfile::TempDir), BrokerError> {
    let broker = Kafka::shared()?;
    let folder = tempfile::tempdir().unwrap();
    let launch = launch(CONFIG, folder.path(), speed)
        .configured("TRANSPORTS__BACKBONE__URL", broker.url())
        .configured("TRANSPORTS__BACKBONE__KAFKA__PREFIX", &broker.prefix(test))
        // Whoever is killed is missed sooner than by default, and nobody waits so long for it.
        .configured("TRANSPORTS__BACKBONE__KAFKA__SESSION_TIMEOUT", "6s");
    Ok((launch, folder))
}

fn check() -> Result<(), BrokerError> {
    on_broker::check(CONFIG, "kafka");
    Ok(())
}

fn one_process() -> Result<(), BrokerError> {
    let (launch, folder) = place("one", "2000")?;
    on_broker::one_process(folder.path(), &launch);
    Ok(())
}

fn each_component() -> Result<(), BrokerError> {
    let (launch, folder) = place("each", "600")?;
    on_broker::each_component(folder.path(), &launch);
    Ok(())
}

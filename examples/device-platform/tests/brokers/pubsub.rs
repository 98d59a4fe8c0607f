//! `config/pubsub.toml`: everything on Google Cloud Pub/Sub, by its stand-in.

use libtest_mimic::Trial;
use msgkit_testing::brokers::{BrokerError, Pubsub};

use crate::platform::Launch;
use crate::setup::{Apart, Setup};
use crate::story::REPLAYED;

pub(crate) fn tests() -> Vec<Trial> {
    Setup { config: "pubsub", backbone: "pubsub", replayed: REPLAYED / 3, apart }.tests()
}

fn apart(test: &str, launch: Launch) -> Result<Apart, BrokerError> {
    let stand_in = Pubsub::shared()?;
    let project = stand_in.project(test);
    let launch = launch
        .configured("TRANSPORTS__BACKBONE__URL", &format!("pubsub://{project}/platform"))
        .configured("TRANSPORTS__BACKBONE__PUBSUB__ENDPOINT", &format!("http://{}", stand_in.address()));
    Ok(Apart::new(launch, project))
}

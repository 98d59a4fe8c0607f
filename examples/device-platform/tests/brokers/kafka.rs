//! `config/kafka.toml`: everything on Kafka.

use libtest_mimic::Trial;
use msgkit_testing::brokers::{BrokerError, Kafka};

use crate::platform::Launch;
use crate::setup::{Apart, Setup};
use crate::story::REPLAYED;

pub(crate) fn tests() -> Vec<Trial> {
    Setup { config: "kafka", backbone: "kafka", replayed: REPLAYED, apart }.tests()
}

fn apart(test: &str, launch: Launch) -> Result<Apart, BrokerError> {
    let broker = Kafka::shared()?;
    let prefix = broker.prefix(test);
    let launch = launch
        .configured("TRANSPORTS__BACKBONE__URL", broker.url())
        .configured("TRANSPORTS__BACKBONE__KAFKA__PREFIX", &prefix)
        // Whoever is killed is missed sooner than by default, and nobody waits so long for it.
        .configured("TRANSPORTS__BACKBONE__KAFKA__SESSION_TIMEOUT", "6s");
    Ok(Apart::new(launch, prefix))
}

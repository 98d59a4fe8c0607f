//! `config/mqtt-kinesis.toml`: MQTT for `device.>`, Kinesis for the rest, its leases in DynamoDB; both by their stand-ins.

use libtest_mimic::Trial;
use msgkit_testing::brokers::{BrokerError, Dynalite, KinesisLocal};

use crate::edge;
use crate::platform::Launch;
use crate::setup::{Apart, Setup};
use crate::story::REPLAYED;

pub(crate) fn tests() -> Vec<Trial> {
    edge::tests(Setup { config: "mqtt-kinesis", backbone: "kinesis", replayed: REPLAYED / 9, apart })
}

fn apart(test: &str, launch: Launch) -> Result<Apart, BrokerError> {
    let (mut apart, kinesis, tables) =
        (edge::apart(test, launch)?, KinesisLocal::shared()?, Dynalite::shared()?);
    let url = format!("kinesis://{}:none@eu-west-1/device-platform", kinesis.account());
    let leases = format!("dynamodb:{}", tables.table());
    let options = [
        ("ENDPOINT", kinesis.endpoint()),
        ("LEASES", &leases),
        ("LEASES_ENDPOINT", tables.endpoint()),
        // Whoever is killed is missed sooner than by default, and nobody waits so long for it.
        ("LEASE", "6s"),
        ("HEARTBEAT", "1s"),
        // Every shard that is polled costs the stand-in.
        ("SHARDS", "1"),
        // Nobody is charged for a read, but each one costs the stand-in as well.
        ("READ_INTERVAL", "100ms"),
    ];
    apart.launch = apart.launch.configured("TRANSPORTS__BACKBONE__URL", &url);
    for (option, value) in options {
        apart.launch = apart.launch.configured(&format!("TRANSPORTS__BACKBONE__KINESIS__{option}"), value);
    }
    Ok(apart)
}

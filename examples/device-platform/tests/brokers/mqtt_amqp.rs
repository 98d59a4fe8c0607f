//! `config/mqtt-amqp.toml`: MQTT for `device.>`, RabbitMQ for the rest.

use libtest_mimic::Trial;
use msgkit_testing::brokers::{BrokerError, RabbitMq};

use crate::edge;
use crate::platform::Launch;
use crate::setup::{Apart, Setup};
use crate::story::REPLAYED;

pub(crate) fn tests() -> Vec<Trial> {
    edge::tests(Setup { config: "mqtt-amqp", backbone: "amqp", replayed: REPLAYED, apart })
}

fn apart(test: &str, launch: Launch) -> Result<Apart, BrokerError> {
    let (mut apart, rabbit) = (edge::apart(test, launch)?, RabbitMq::shared()?.vhost(test)?);
    apart.launch = apart.launch.configured("TRANSPORTS__BACKBONE__URL", rabbit.url());
    Ok(apart.holding(rabbit))
}

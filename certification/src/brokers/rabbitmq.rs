//! RabbitMQ, by the AMQP transport.

use std::sync::Mutex;

use async_trait::async_trait;
use msgkit::transport::TransportUrl;
use msgkit_testing::brokers::{FaultProxy, RabbitMq};

use super::{Broker, Place, lock};
use crate::Failure;

/// One node; a virtual host for each run.
#[derive(Debug)]
pub struct RabbitMqBroker(Mutex<RabbitMq>);

impl RabbitMqBroker {
    /// Starts a node of our own, or takes the one that `MSGKIT_RABBITMQ_URL` names, which cannot be restarted.
    ///
    /// # Errors
    /// [`Failure`] where it is not installed or does not come up.
    pub fn start() -> Result<Self, Failure> {
        Ok(Self(Mutex::new(RabbitMq::start()?)))
    }
}

#[async_trait]
impl Broker for RabbitMqBroker {
    fn name(&self) -> &'static str {
        "rabbitmq"
    }

    fn version(&self) -> String {
        lock(&self.0).version()
    }

    async fn place(&self, label: &str) -> Result<Place, Failure> {
        let host = lock(&self.0).vhost(label)?;
        let address = TransportUrl::parse(host.url())?.address().to_owned();
        let target = address.split('/').next().unwrap_or_default().to_owned();
        let network = FaultProxy::start(target.clone()).await?;
        let url = host.url().replace(&target, &network.address().to_string());
        // A connection that has become silent is noticed within ten seconds instead of twenty.
        let options = "heartbeat = \"5s\"\n".to_owned();
        Ok(Place { network, url, options, keeps: Box::new(host) })
    }

    /// It confirms a queue half a second before it writes its name; one that it has not written never has a leader again.
    fn settle(&self) -> Result<(), Failure> {
        Ok(lock(&self.0).names_written()?)
    }

    fn restart(&self, killed: bool) -> Result<(), Failure> {
        let mut broker = lock(&self.0);
        if killed {
            broker.kill()?;
        }
        Ok(broker.restart()?)
    }
}

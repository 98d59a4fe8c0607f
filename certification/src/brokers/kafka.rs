//! Kafka, by its own transport.

use std::net::TcpListener;
use std::sync::Mutex;

use async_trait::async_trait;
use msgkit::transport::TransportUrl;
use msgkit_testing::brokers::{FaultProxy, Kafka};

use super::{Broker, Place, lock};
use crate::Failure;

/// One broker; a prefix of topics and groups for each run, one run at a time.
#[derive(Debug)]
pub struct KafkaBroker {
    broker: Mutex<Kafka>,
    /// Where each run's network listens: a Kafka tells its clients where to connect, and is told so when it starts.
    network: TcpListener,
}

impl KafkaBroker {
    /// Starts a broker of our own. One that runs already tells clients its own address, and so cannot be used.
    ///
    /// # Errors
    /// [`Failure`] where it is not installed or does not come up.
    pub fn start() -> Result<Self, Failure> {
        let network = TcpListener::bind(("127.0.0.1", 0))?;
        let broker = Kafka::options().advertised(network.local_addr()?.port()).start()?;
        Ok(Self { broker: Mutex::new(broker), network })
    }
}

#[async_trait]
impl Broker for KafkaBroker {
    fn name(&self) -> &'static str {
        "kafka"
    }

    fn version(&self) -> String {
        lock(&self.broker).version()
    }

    async fn place(&self, label: &str) -> Result<Place, Failure> {
        let (prefix, url) = {
            let broker = lock(&self.broker);
            (broker.prefix(label), broker.url().to_owned())
        };
        let target = TransportUrl::parse(&url)?.address().to_owned();
        let network = FaultProxy::start_on(self.network.try_clone()?, target.clone()).await?;
        let url = url.replace(&target, &network.address().to_string());
        // A member of which nothing is heard is missed within ten seconds instead of thirty, and the broker hears often of
        // what is done.
        let options = format!(
            "prefix = \"{prefix}\"\npartitions = 4\nsession_timeout = \"10s\"\ncommit_interval = \"10ms\"\n"
        );
        Ok(Place { network, url, options, keeps: Box::new(()) })
    }

    fn restart(&self, killed: bool) -> Result<(), Failure> {
        let mut broker = lock(&self.broker);
        if killed {
            broker.kill()?;
        }
        Ok(broker.restart()?)
    }

    /// It hears of settlements in intervals, and members go on with what they have fetched while it does not hear.
    fn settles_in_intervals(&self) -> bool {
        true
    }
}

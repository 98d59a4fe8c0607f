//! Mosquitto, by the MQTT transport.

use std::sync::Mutex;

use async_trait::async_trait;
use msgkit::transport::TransportUrl;
use msgkit_testing::brokers::{FaultProxy, Mosquitto};

use super::{Broker, Place, lock};
use crate::Failure;

/// One broker; a topic prefix for each run.
#[derive(Debug)]
pub struct MosquittoBroker(Mutex<Mosquitto>);

impl MosquittoBroker {
    /// Starts a broker of our own, or takes the one that `MSGKIT_MOSQUITTO_URL` names, which cannot be restarted.
    ///
    /// # Errors
    /// [`Failure`] where it is not installed or does not come up.
    pub fn start() -> Result<Self, Failure> {
        Ok(Self(Mutex::new(Mosquitto::start()?)))
    }
}

#[async_trait]
impl Broker for MosquittoBroker {
    fn name(&self) -> &'static str {
        "mosquitto"
    }

    fn version(&self) -> String {
        lock(&self.0).version()
    }

    async fn place(&self, label: &str) -> Result<Place, Failure> {
        let (prefix, url) = {
            let broker = lock(&self.0);
            (broker.prefix(label), broker.url().to_owned())
        };
        let target = TransportUrl::parse(&url)?.address().to_owned();
        let network = FaultProxy::start(target.clone()).await?;
        let url = url.replace(&target, &network.address().to_string());
        // All else is what users get by default. A connection that has become silent is noticed within ten seconds.
        let options = format!("prefix = \"{prefix}\"\nclient_id = \"{prefix}\"\nkeep_alive = \"5s\"\n");
        Ok(Place { network, url, options, keeps: Box::new(()) })
    }

    fn restart(&self, killed: bool) -> Result<(), Failure> {
        let mut broker = lock(&self.0);
        if killed {
            broker.kill()?;
        }
        Ok(broker.restart()?)
    }

    fn confirms_before_it_writes(&self) -> bool {
        true
    }

    /// The transport's keeper, because Mosquitto 2.0 forgets shared subscriptions when it ends.
    fn copies_what_a_group_is_sent(&self) -> bool {
        true
    }

    fn doubles_while_members_change(&self) -> bool {
        true
    }
}

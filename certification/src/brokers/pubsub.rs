//! Google Pub/Sub by its stand-in.

use async_trait::async_trait;
use msgkit_testing::brokers::{FaultProxy, Pubsub};

use super::{Broker, Place};
use crate::{Failure, scenarios};

/// One stand-in; a project of its own for each run.
#[derive(Debug)]
pub struct PubsubBroker(Pubsub);

impl PubsubBroker {
    /// Starts a stand-in of our own, or takes the one that the environment names.
    ///
    /// # Errors
    /// [`Failure`] where it is not installed or does not come up.
    pub fn start() -> Result<Self, Failure> {
        Ok(Self(Pubsub::start()?))
    }
}

#[async_trait]
impl Broker for PubsubBroker {
    fn name(&self) -> &'static str {
        "pubsub"
    }

    fn version(&self) -> String {
        self.0.version()
    }

    async fn place(&self, label: &str) -> Result<Place, Failure> {
        let network = FaultProxy::start(self.0.address()).await?;
        let url = format!("pubsub://{}/certify", self.0.project(label));
        // A member of which nothing is heard is missed within ten seconds instead of sixty, and has no more in hand than it asks
        // for but one more batch.
        let options = format!(
            "endpoint = \"http://{}\"\nlease = \"10s\"\nfetch_ahead = {FETCH_AHEAD}\nconnect_timeout = \"5s\"\n\
             publish_timeout = \"10s\"\n",
            network.address()
        );
        Ok(Place { network, url, options, keeps: Box::new(()) })
    }

    fn restart(&self, _: bool) -> Result<(), Failure> {
        Err(Failure::broken("the stand-in for Pub/Sub keeps nothing over a restart"))
    }

    /// What is fetched ahead is in hand as well, and is the publisher's lead here.
    fn settles_in_intervals(&self) -> bool {
        true
    }

    fn cannot(&self, scenario: &str) -> Option<&'static str> {
        match scenario {
            scenarios::BROKER_KILLED | scenarios::BROKER_RESTARTED => Some(
                "the stand-in keeps nothing over a restart, which the service never forgets; what the transport does then is tested by \
                 its own tests",
            ),
            scenarios::SHARDS_CHANGE => Some("it has no shards that are split and merged"),
            _ => None,
        }
    }
}

/// Of each stream.
const FETCH_AHEAD: u32 = 16;

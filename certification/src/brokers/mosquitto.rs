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
        // Mosquitto forgets the shared subscriptions of a group when it ends. With `on_unrouted = "error"` what is
        // published before the first member is back is refused, and so published again, instead of lost. The transport's
        // keeper, the default against that, hands out again whatever is in doubt, which no count of what was in flight
        // bounds; it has tests of its own.
        let options = format!(
            "prefix = \"{prefix}\"\nclient_id = \"{prefix}\"\nkeep_alive = \"5s\"\non_unrouted = \"error\"\nkeeper = false\n"
        );
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

    /// Mosquitto 2.0 counts the messages under way only up to the one that is acknowledged, and so sends a whole window
    /// more for each acknowledgement (eclipse-mosquitto/mosquitto#2301).
    fn sends_more_than_is_asked_for(&self) -> bool {
        true
    }

    fn doubles_while_members_change(&self) -> bool {
        true
    }
}

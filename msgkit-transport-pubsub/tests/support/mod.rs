//! The stand-in for Pub/Sub as the suite's subject: a project for each case, behind a network that can be cut.
#![allow(dead_code)]

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use futures_util::future::BoxFuture;
use msgkit::envelope::NativeHeaders;
use msgkit::transport::{Transport, TransportError, TransportErrorKind, TransportUrl};
use msgkit::{Registry, Topic};
use msgkit_testing::brokers::{FaultProxy, Pubsub as StandIn};
use msgkit_testing::conformance::{Broker, Fault, NotRun, Setup, Subject};
use msgkit_transport_pubsub::{Pubsub, PubsubConfig};

/// Options for a stand-in at `address`.
pub(crate) fn config(address: impl std::fmt::Display) -> PubsubConfig {
    let mut config = PubsubConfig::default();
    config.endpoint = Some(format!("http://{address}"));
    // A machine may stand still for seconds, and no test waits for a lease to run out that does not say so.
    config.lease = Duration::from_secs(30);
    config.connect_timeout = Duration::from_secs(30);
    config.topic_refresh = Duration::from_millis(200);
    config
}

pub(crate) fn url(project: &str) -> TransportUrl {
    match TransportUrl::parse(&format!("pubsub://{project}/app")) {
        Ok(url) => url,
        Err(error) => panic!("{error}"),
    }
}

#[derive(Default)]
pub(crate) struct PubsubSubject {
    /// They live as long as the suite: a case may drop its broker and keep its connections.
    kept: Mutex<Vec<Arc<FaultProxy>>>,
}

#[async_trait]
impl Subject for PubsubSubject {
    fn name(&self) -> String {
        "pubsub".to_owned()
    }

    fn version(&self) -> String {
        StandIn::shared().map_or_else(|error| error.to_string(), StandIn::version)
    }

    async fn broker(&self, setup: &Setup) -> Result<Box<dyn Broker>, NotRun> {
        let stand_in = StandIn::shared()?;
        let proxy = FaultProxy::start(stand_in.address()).await.map_err(|error| NotRun(error.to_string()))?;
        let proxy = Arc::new(proxy);
        self.kept.lock().unwrap_or_else(PoisonError::into_inner).push(proxy.clone());
        let mut config = config(proxy.address());
        // One that is there first would fetch everything before the stream of the next one is open.
        config.fetch_ahead = 16;
        config.publish_timeout = setup.publish_timeout.unwrap_or(config.publish_timeout);
        Ok(Box::new(Place { proxy, project: stand_in.project("conformance"), config, setup: setup.clone() }))
    }

    fn secrets(&self) -> Option<(Registry, String, Vec<String>)> {
        let registry = Registry::new().with(msgkit_transport_pubsub::scheme());
        // Such a url is refused, and the refusal must not print it; nobody listens at the endpoint.
        let url = "pubsub://keeper:5ecr3t-w0rd@my-project/app?publish_timeout=200ms&endpoint=http:%2F%2F127.0.0.1:9".to_owned();
        Some((registry, url, vec!["5ecr3t-w0rd".to_owned()]))
    }
}

fn bury(project: &str) {
    if let Err(error) = StandIn::shared().and_then(|stand_in| stand_in.bury(project)) {
        panic!("the leases cannot be ended: {error}");
    }
}

/// A project of its own.
struct Place {
    proxy: Arc<FaultProxy>,
    project: String,
    config: PubsubConfig,
    setup: Setup,
}

impl Place {
    fn pubsub(&self) -> Result<Pubsub, TransportError> {
        Pubsub::with(&url(&self.project), self.config.clone(), self.setup.clock)
            .map_err(|error| TransportError::new(TransportErrorKind::Invalid, error.to_string()))
    }
}

#[async_trait]
impl Broker for Place {
    async fn connect(&self) -> Result<Arc<dyn Transport>, TransportError> {
        Ok(Arc::new(self.pubsub()?))
    }

    /// The service takes all who read for dead; their streams end in the midst of what they do.
    async fn disconnect(&self) -> Fault {
        self.proxy.cut();
        bury(&self.project);
        Fault::Done
    }

    /// Nothing that the dying say gets through, a message that they give back least of all: it would be a start too many.
    async fn kill(&self, dying: BoxFuture<'_, ()>) -> Fault {
        self.proxy.half_open();
        dying.await;
        bury(&self.project);
        self.proxy.heal();
        Fault::Done
    }

    async fn publish_foreign(&self, topic: &Topic, payload: Bytes, headers: &NativeHeaders) -> Fault {
        let published = async {
            let pubsub = self.pubsub()?;
            pubsub.publish_foreign(topic, payload, headers).await?;
            pubsub.close().await
        };
        if let Err(error) = published.await {
            panic!("the foreign publish failed: {}", msgkit::Chain(&error));
        }
        Fault::Done
    }
}

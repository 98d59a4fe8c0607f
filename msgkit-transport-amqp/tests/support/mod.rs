//! RabbitMQ as the suite's subject.

use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use async_trait::async_trait;
use bytes::Bytes;
use msgkit::envelope::NativeHeaders;
use msgkit::transport::{Transport, TransportError, TransportErrorKind, TransportUrl};
use msgkit::{Registry, Topic};
use msgkit_testing::brokers::{FaultProxy, RabbitMq, VirtualHost};
use msgkit_testing::conformance::{Broker, Fault, NotRun, Setup, Subject};
use msgkit_transport_amqp::{Amqp, AmqpConfig, OnUnrouted};

/// One broker, a virtual host per case behind a network that can be cut.
#[derive(Default)]
pub(crate) struct AmqpSubject {
    places: Mutex<Vec<Kept>>,
}

/// What a case works with, for as long as it has connections: it may drop its broker before them.
struct Kept {
    _vhost: VirtualHost,
    proxy: Arc<FaultProxy>,
    /// When the case dropped its broker.
    dropped: Arc<OnceLock<Instant>>,
}

/// How long after its broker a case may still connect.
const GRACE: Duration = Duration::from_secs(30);

impl AmqpSubject {
    /// Keeps the new place, and removes those that no case has any more: their queues cost the broker time.
    fn keep(&self, kept: Kept) {
        let mut places = self.places.lock().unwrap_or_else(PoisonError::into_inner);
        places.push(kept);
        let over = |place: &mut Kept| {
            place.dropped.get().is_some_and(|at| at.elapsed() > GRACE) && place.proxy.connections().is_empty()
        };
        let removed: Vec<Kept> = places.extract_if(.., over).collect();
        drop(places);
        drop(removed);
    }
}

#[async_trait]
impl Subject for AmqpSubject {
    fn name(&self) -> String {
        "amqp".to_owned()
    }

    fn version(&self) -> String {
        RabbitMq::shared().map_or_else(|error| error.to_string(), RabbitMq::version)
    }

    async fn broker(&self, setup: &Setup) -> Result<Box<dyn Broker>, NotRun> {
        let rabbit = RabbitMq::shared()?;
        let vhost = rabbit.vhost("conformance")?;
        let address = host_of(rabbit.url());
        let proxy = FaultProxy::start(address).await.map_err(|error| NotRun(error.to_string()))?;
        let proxy = Arc::new(proxy);
        let mut config = AmqpConfig::default();
        config.capacity = setup.capacity.and_then(|most| u32::try_from(most).ok()).unwrap_or(config.capacity);
        config.publish_timeout = setup.publish_timeout.unwrap_or(config.publish_timeout);
        if setup.refuses_unrouted {
            config.on_unrouted = OnUnrouted::Error;
        }
        // The same user and virtual host, by the proxy.
        let url = vhost.url().replace(host_of(vhost.url()), &proxy.address().to_string());
        let dropped = Arc::new(OnceLock::new());
        self.keep(Kept { _vhost: vhost, proxy: proxy.clone(), dropped: dropped.clone() });
        Ok(Box::new(Place { proxy, url, config, setup: setup.clone(), dropped }))
    }

    fn secrets(&self) -> Option<(Registry, String, Vec<String>)> {
        let registry = Registry::new().with(msgkit_transport_amqp::scheme());
        let url = "amqp://keeper:5ecr3t-w0rd@127.0.0.1:1/vhost?capacity=7".to_owned();
        Some((registry, url, vec!["5ecr3t-w0rd".to_owned()]))
    }
}

/// The `host:port` of a broker's url.
fn host_of(url: &str) -> &str {
    let rest = url.split_once("://").map_or(url, |(_, rest)| rest);
    let authority = rest.split('/').next().unwrap_or(rest);
    authority.rsplit('@').next().unwrap_or(authority)
}

/// A virtual host of its own.
struct Place {
    proxy: Arc<FaultProxy>,
    url: String,
    config: AmqpConfig,
    setup: Setup,
    dropped: Arc<OnceLock<Instant>>,
}

impl Drop for Place {
    fn drop(&mut self) {
        let _ = self.dropped.set(Instant::now());
    }
}

impl Place {
    fn amqp(&self) -> Result<Amqp, TransportError> {
        let invalid =
            |error: msgkit::Error| TransportError::new(TransportErrorKind::Invalid, error.to_string());
        let url = TransportUrl::parse(&self.url).map_err(invalid)?;
        Amqp::with(&url, self.config.clone(), self.setup.clock).map_err(invalid)
    }
}

#[async_trait]
impl Broker for Place {
    async fn connect(&self) -> Result<Arc<dyn Transport>, TransportError> {
        Ok(Arc::new(self.amqp()?))
    }

    async fn disconnect(&self) -> Fault {
        self.proxy.cut();
        Fault::Done
    }

    async fn publish_foreign(&self, topic: &Topic, payload: Bytes, headers: &NativeHeaders) -> Fault {
        let published = async {
            let amqp = self.amqp()?;
            amqp.publish_foreign(topic, payload, headers).await?;
            amqp.close().await
        };
        if let Err(error) = published.await {
            panic!("the foreign publish failed: {error}");
        }
        Fault::Done
    }
}

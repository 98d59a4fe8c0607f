//! RabbitMQ as the suite's subject.

mod management;
mod proxy;

use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use async_trait::async_trait;
use bytes::Bytes;
use msgkit::envelope::NativeHeaders;
use msgkit::transport::{Transport, TransportError, TransportErrorKind, TransportUrl};
use msgkit::{Registry, Topic};
use msgkit_testing::conformance::{Broker, Fault, NotRun, Setup, Subject};
use msgkit_transport_amqp::{Amqp, AmqpConfig, OnUnrouted};

use self::management::Management;
use self::proxy::Proxy;

/// One broker, a virtual host per case. They live as long as the suite: a case may drop its broker and keep its
/// connections.
#[derive(Debug, Default)]
pub(crate) struct AmqpSubject {
    vhosts: Mutex<Vec<(Management, String)>>,
}

impl AmqpSubject {
    fn remember(&self, management: &Management, vhost: &str) {
        let mut vhosts = self.vhosts.lock().unwrap_or_else(PoisonError::into_inner);
        vhosts.push((management.clone(), vhost.to_owned()));
    }
}

impl Drop for AmqpSubject {
    fn drop(&mut self) {
        for (management, vhost) in self.vhosts.get_mut().unwrap_or_else(PoisonError::into_inner) {
            let _ = management.remove_vhost(vhost);
        }
    }
}

#[async_trait]
impl Subject for AmqpSubject {
    fn name(&self) -> String {
        "amqp".to_owned()
    }

    fn version(&self) -> String {
        let asked = Management::from_environment().and_then(|management| management.version());
        asked.map_or_else(|why| why, |version| format!("RabbitMQ {version}"))
    }

    async fn broker(&self, setup: &Setup) -> Result<Box<dyn Broker>, NotRun> {
        let management = Management::from_environment().map_err(NotRun)?;
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let vhost = format!("msgkit-{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        management.make_vhost(&vhost).map_err(NotRun)?;
        self.remember(&management, &vhost);
        let proxy = Proxy::to(management.broker()).await.map_err(|error| NotRun(error.to_string()))?;
        let mut config = AmqpConfig::default();
        config.capacity = setup.capacity.and_then(|most| u32::try_from(most).ok()).unwrap_or(config.capacity);
        config.publish_timeout = setup.publish_timeout.unwrap_or(config.publish_timeout);
        if setup.refuses_unrouted {
            config.on_unrouted = OnUnrouted::Error;
        }
        Ok(Box::new(Vhost { proxy, vhost, config, setup: setup.clone() }))
    }

    fn secrets(&self) -> Option<(Registry, String, Vec<String>)> {
        let registry = Registry::new().with(msgkit_transport_amqp::scheme());
        let url = "amqp://keeper:5ecr3t-w0rd@127.0.0.1:1/vhost?capacity=7".to_owned();
        Some((registry, url, vec!["5ecr3t-w0rd".to_owned()]))
    }
}

/// A virtual host of its own.
struct Vhost {
    proxy: Proxy,
    vhost: String,
    config: AmqpConfig,
    setup: Setup,
}

impl Vhost {
    fn amqp(&self) -> Result<Amqp, TransportError> {
        let url = format!("amqp://guest:guest@{}/{}", self.proxy.address, self.vhost);
        let invalid =
            |error: msgkit::Error| TransportError::new(TransportErrorKind::Invalid, error.to_string());
        let url = TransportUrl::parse(&url).map_err(invalid)?;
        Amqp::with(&url, self.config.clone(), self.setup.clock).map_err(invalid)
    }
}

#[async_trait]
impl Broker for Vhost {
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

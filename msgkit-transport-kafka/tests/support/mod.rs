//! Kafka as the suite's subject, and what the other tests have in common.

#![allow(dead_code)]

#[cfg(any(feature = "tls", feature = "tls-system"))]
pub(crate) mod certificates;
pub(crate) mod eviction;

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use msgkit::envelope::{Clock, NativeHeaders};
use msgkit::transport::{Transport, TransportError, TransportErrorKind, TransportUrl};
use msgkit::{Registry, Topic};
use msgkit_testing::brokers;
use msgkit_testing::conformance::{Broker, Fault, NotRun, Setup, Subject};
use msgkit_transport_kafka::{Kafka, KafkaConfig};

/// Prints what the transport and the client log, where `RUST_LOG` asks for it.
pub(crate) fn show_logs() {
    if std::env::var_os("RUST_LOG").is_some() {
        let filter = tracing_subscriber::EnvFilter::from_default_env();
        let _ = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).try_init();
    }
}

/// What tests configure: as little waiting as there can be.
pub(crate) fn quick(prefix: &str) -> KafkaConfig {
    let mut config = KafkaConfig::default();
    config.prefix = prefix.to_owned();
    config.partitions = 3;
    config.topic_refresh = Duration::from_millis(250);
    // A machine may stand still for a while, and takes no member for dead that lives.
    config.session_timeout = Duration::from_secs(12);
    config
}

/// The transport of the broker at `url`.
pub(crate) fn kafka(url: &str, config: KafkaConfig) -> Result<Kafka, TransportError> {
    let invalid = |error: msgkit::Error| TransportError::new(TransportErrorKind::Invalid, error.to_string());
    Kafka::with(&TransportUrl::parse(url).map_err(invalid)?, config, Clock::system()).map_err(invalid)
}

/// One broker, a name space per case.
pub(crate) struct KafkaSubject;

#[async_trait]
impl Subject for KafkaSubject {
    fn name(&self) -> String {
        "kafka".to_owned()
    }

    fn version(&self) -> String {
        brokers::Kafka::shared().map_or_else(|error| error.to_string(), brokers::Kafka::version)
    }

    async fn broker(&self, _: &Setup) -> Result<Box<dyn Broker>, NotRun> {
        let broker = brokers::Kafka::shared()?;
        Ok(Box::new(Place { url: broker.url().to_owned(), prefix: broker.prefix("c") }))
    }

    fn secrets(&self) -> Option<(Registry, String, Vec<String>)> {
        let registry = Registry::new().with(msgkit_transport_kafka::scheme());
        let url = "kafka://keeper:5ecr3t-w0rd@127.0.0.1:1?partitions=7&connect_timeout=1s".to_owned();
        Some((registry, url, vec!["5ecr3t-w0rd".to_owned()]))
    }
}

/// A name space of its own.
struct Place {
    url: String,
    prefix: String,
}

#[async_trait]
impl Broker for Place {
    async fn connect(&self) -> Result<Arc<dyn Transport>, TransportError> {
        Ok(Arc::new(kafka(&self.url, quick(&self.prefix))?))
    }

    /// What the broker does with members of which it hears nothing any more: their sessions end, without a word to them.
    async fn disconnect(&self) -> Fault {
        let (url, prefix) = (self.url.clone(), self.prefix.clone());
        let evicted = tokio::task::spawn_blocking(move || eviction::evict(&url, &prefix)).await;
        match evicted {
            Ok(Ok(_)) => Fault::Done,
            Ok(Err(error)) => panic!("the members cannot be evicted: {error}"),
            Err(error) => panic!("the eviction broke off: {error}"),
        }
    }

    async fn publish_foreign(&self, topic: &Topic, payload: Bytes, headers: &NativeHeaders) -> Fault {
        let published = async {
            let kafka = kafka(&self.url, quick(&self.prefix))?;
            kafka.publish_foreign(topic, Some(payload), headers).await?;
            kafka.close().await
        };
        if let Err(error) = published.await {
            panic!("the foreign publish failed: {error}");
        }
        Fault::Done
    }
}

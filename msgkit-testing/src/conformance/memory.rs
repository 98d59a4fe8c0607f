//! The memory transport as a subject: the reference that every other is compared with.

use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use msgkit::envelope::NativeHeaders;
use msgkit::memory::{Memory, MemoryConfig, MemoryDelay};
use msgkit::transport::{OnUnrouted, Transport, TransportError};
use msgkit::{Registry, Topic};

use super::subject::{Broker, Fault, NotRun, Setup, Subject, Time};

/// The memory transport on virtual time.
#[derive(Debug, Clone)]
pub struct MemorySubject {
    delay: MemoryDelay,
}

impl MemorySubject {
    /// It keeps delays by itself.
    #[must_use]
    pub fn native() -> Self {
        Self { delay: MemoryDelay::Native }
    }

    /// The core keeps delays, with retry topics.
    #[must_use]
    pub fn retry_topics() -> Self {
        Self { delay: MemoryDelay::RetryTopics }
    }
}

#[async_trait]
impl Subject for MemorySubject {
    fn name(&self) -> String {
        match self.delay {
            MemoryDelay::RetryTopics => "memory_retry_topics".to_owned(),
            _ => "memory".to_owned(),
        }
    }

    fn version(&self) -> String {
        "in one process".to_owned()
    }

    fn time(&self) -> Time {
        Time::Virtual
    }

    async fn broker(&self, setup: &Setup) -> Result<Box<dyn Broker>, NotRun> {
        let mut config = MemoryConfig::default();
        config.delay = self.delay;
        config.capacity = setup.capacity.unwrap_or(config.capacity);
        config.publish_timeout = setup.publish_timeout.unwrap_or(config.publish_timeout);
        config.retain = if setup.retains { 10_000 } else { 0 };
        if setup.refuses_unrouted {
            config.on_unrouted = OnUnrouted::Error;
        }
        Ok(Box::new(MemoryBroker(Memory::with(config, setup.clock))))
    }

    fn secrets(&self) -> Option<(Registry, String, Vec<String>)> {
        let url = "memory://keeper:5ecr3t-w0rd@place?capacity=7".to_owned();
        Some((Registry::new(), url, vec!["5ecr3t-w0rd".to_owned()]))
    }
}

struct MemoryBroker(Memory);

#[async_trait]
impl Broker for MemoryBroker {
    async fn connect(&self) -> Result<Arc<dyn Transport>, TransportError> {
        Ok(Arc::new(self.0.connection()))
    }

    async fn disconnect(&self) -> Fault {
        self.0.disconnect();
        Fault::Done
    }

    async fn publish_foreign(&self, topic: &Topic, payload: Bytes, headers: &NativeHeaders) -> Fault {
        self.0.publish_foreign(topic, payload, headers);
        Fault::Done
    }
}

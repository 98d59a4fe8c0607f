//! A subject seen through a pointer or a decorator: the guarantees must be the same.

use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use futures_util::future::BoxFuture;
use msgkit::envelope::NativeHeaders;
use msgkit::transport::{Transport, TransportError};
use msgkit::{Registry, Topic};

use super::subject::{Broker, Fault, NotRun, Setup, Subject, Time};
use crate::decorate::{Decorated, Transparent};

/// What is put around every connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Wrapping {
    /// One more `Arc<dyn Transport>`.
    Arc,
    /// A `Box<dyn Transport>`.
    Box,
    /// A decorator that changes nothing, but has its own deliveries and settlements.
    Decorator,
}

impl Wrapping {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Arc, Self::Box, Self::Decorator];
}

/// A subject with something around every connection.
#[derive(Debug, Clone)]
pub struct Wrapped<S>(pub S, pub Wrapping);

#[async_trait]
impl<S: Subject> Subject for Wrapped<S> {
    fn name(&self) -> String {
        let around = match self.1 {
            Wrapping::Arc => "arc",
            Wrapping::Box => "box",
            Wrapping::Decorator => "decorator",
        };
        format!("{}_in_{around}", self.0.name())
    }

    fn version(&self) -> String {
        self.0.version()
    }

    fn time(&self) -> Time {
        self.0.time()
    }

    async fn broker(&self, setup: &Setup) -> Result<Box<dyn Broker>, NotRun> {
        Ok(Box::new(WrappedBroker(self.0.broker(setup).await?, self.1)))
    }

    fn secrets(&self) -> Option<(Registry, String, Vec<String>)> {
        self.0.secrets()
    }
}

struct WrappedBroker(Box<dyn Broker>, Wrapping);

#[async_trait]
impl Broker for WrappedBroker {
    async fn connect(&self) -> Result<Arc<dyn Transport>, TransportError> {
        let inner = self.0.connect().await?;
        Ok(match self.1 {
            Wrapping::Arc => Arc::new(inner),
            Wrapping::Box => {
                let boxed: Box<dyn Transport> = Box::new(inner);
                Arc::new(boxed)
            }
            Wrapping::Decorator => Arc::new(Decorated::new(inner, Transparent)),
        })
    }

    async fn disconnect(&self) -> Fault {
        self.0.disconnect().await
    }

    async fn kill(&self, dying: BoxFuture<'_, ()>) -> Fault {
        self.0.kill(dying).await
    }

    async fn publish_foreign(&self, topic: &Topic, payload: Bytes, headers: &NativeHeaders) -> Fault {
        self.0.publish_foreign(topic, payload, headers).await
    }
}

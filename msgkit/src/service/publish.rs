//! Publishing from a service: routes choose the transport, observers hear of it.

use std::fmt;
use std::future::Future;
use std::sync::Arc;

use tracing::Instrument as _;

use crate::envelope::{Clock, Envelope};
use crate::error::{Error, ErrorKind};
use crate::message::{self, Message};
use crate::telemetry::{EventKind, Observers, span};
use crate::text::Text;
use crate::topic::{Pattern, Topic};
use crate::transport::{Destination, Outgoing, PublishError, Transport};

/// Which transport carries which topics; the first match wins.
#[derive(Clone)]
pub(crate) struct Routes(pub(crate) Arc<[Route]>);

#[derive(Clone)]
pub(crate) struct Route {
    pub(crate) pattern: Pattern,
    pub(crate) transport: Arc<dyn Transport>,
    pub(crate) name: Text,
}

impl Routes {
    pub(crate) fn of(&self, topic: &Topic) -> Option<&Route> {
        self.0.iter().find(|route| route.pattern.as_str() == ">" || route.pattern.matches(topic))
    }
}

/// What one transport is to take.
pub(crate) type Batch = (Arc<dyn Transport>, Vec<Outgoing>);

/// Publishes messages for a service from anywhere: cheap to clone, usable from any task.
#[derive(Clone)]
pub struct PublishHandle(Arc<Inner>);

struct Inner {
    service: Text,
    routes: Routes,
    observers: Observers,
    clock: Clock,
    /// Topic of a message → the place that all its topics share on log brokers.
    places: Vec<(Pattern, Topic)>,
}

impl PublishHandle {
    pub(crate) fn new(
        service: Text,
        routes: Routes,
        observers: Observers,
        clock: Clock,
        places: Vec<(Pattern, Topic)>,
    ) -> Self {
        Self(Arc::new(Inner { service, routes, observers, clock, places }))
    }

    /// Whether topics of `pattern` are known to share `place`.
    pub(crate) fn has_place(&self, pattern: &Pattern, place: &Topic) -> bool {
        self.0.places.iter().any(|(known, at)| known == pattern && at == place)
    }

    /// A handle without a transport, for unit tests of handlers.
    pub(crate) fn detached(service: &'static str) -> Self {
        Self::new(
            Text::from_static(service),
            Routes(Arc::new([])),
            Observers::default(),
            Clock::system(),
            Vec::new(),
        )
    }

    /// Publishes `message` as the first of a new flow, and returns its envelope once the broker holds it.
    ///
    /// # Errors
    /// [`ErrorKind::Transport`] where the broker did not take it; [`ErrorKind::Encode`] and [`ErrorKind::InvalidName`]
    /// where it cannot be written.
    pub fn publish<M: Message>(&self, message: &M) -> impl Future<Output = Result<Envelope, Error>> {
        self.publish_with(message, |_| {})
    }

    /// As [`PublishHandle::publish`], with id, headers, key or expiry set on the envelope by `edit`.
    ///
    /// # Errors
    /// As [`PublishHandle::publish`].
    pub async fn publish_with<M: Message>(
        &self,
        message: &M,
        edit: impl FnOnce(&mut Envelope),
    ) -> Result<Envelope, Error> {
        let now = self.0.clock.now();
        let mut envelope = message::envelope(message, &self.0.service, now)?;
        edit(&mut envelope);
        let transport = &*self.route(envelope.topic())?.transport;
        let message = Outgoing::new(self.destination(envelope.topic()), envelope.clone());
        // Most of the publishes to a queue in memory need no more than this.
        let observed = self.0.observers.any() || tracing::enabled!(tracing::Level::INFO);
        let left = if observed { Err(message) } else { transport.try_publish(message, now) };
        if let Err(message) = left {
            self.publish_batch(transport, vec![message]).await.map_err(failed)?;
        }
        Ok(envelope)
    }

    /// Publishes several messages of one type, each as the first of a new flow, in order.
    ///
    /// # Errors
    /// As [`PublishHandle::publish`]; some of them may have been taken.
    pub async fn publish_all<M: Message>(&self, messages: &[M]) -> Result<(), Error> {
        let now = self.0.clock.now();
        let envelopes = messages
            .iter()
            .map(|message| message::envelope(message, &self.0.service, now))
            .collect::<Result<_, _>>()?;
        self.publish_envelopes(envelopes).await
    }

    /// Publishes envelopes to their own topics, in order.
    ///
    /// # Errors
    /// [`ErrorKind::Transport`] where a broker did not take one of them, or no route leads to one's topic.
    pub async fn publish_envelopes(&self, envelopes: Vec<Envelope>) -> Result<(), Error> {
        for (transport, batch) in self.split(envelopes)? {
            self.publish_batch(&*transport, batch).await.map_err(failed)?;
        }
        Ok(())
    }

    /// Publishes a batch in one go; gives back what the broker did not take.
    pub(crate) async fn publish_batch(
        &self,
        transport: &dyn Transport,
        batch: Vec<Outgoing>,
    ) -> Result<(), PublishError> {
        let publishing = async |batch: Vec<Outgoing>| match batch.first() {
            Some(first) if tracing::enabled!(tracing::Level::INFO) => {
                let span = span::send(transport.system(), &first.to, &first.envelope, batch.len());
                transport.publish(batch).instrument(span).await
            }
            _ => transport.publish(batch).await,
        };
        if !self.0.observers.any() {
            return publishing(batch).await;
        }
        let told = batch.clone();
        let result = publishing(batch).await;
        for Outgoing { to, envelope } in &told {
            let rejected = match &result {
                Ok(()) => false,
                Err(error) => {
                    error.rejected().iter().any(|rejected| rejected.message.envelope.id() == envelope.id())
                }
            };
            if !rejected {
                self.0.observers.tell(Some(envelope), None, EventKind::Published { to });
            }
        }
        result
    }

    /// Sorts envelopes by the transport that carries them, each in order.
    pub(crate) fn split(&self, envelopes: Vec<Envelope>) -> Result<Vec<Batch>, Error> {
        let mut batches: Vec<(Text, Arc<dyn Transport>, Vec<Outgoing>)> = Vec::with_capacity(1);
        for envelope in envelopes {
            let route = self.route(envelope.topic())?;
            let message = Outgoing::new(self.destination(envelope.topic()), envelope);
            match batches.iter_mut().find(|(name, _, _)| *name == route.name) {
                Some((_, _, batch)) => batch.push(message),
                None => batches.push((route.name.clone(), route.transport.clone(), vec![message])),
            }
        }
        Ok(batches.into_iter().map(|(_, transport, batch)| (transport, batch)).collect())
    }

    fn route(&self, topic: &Topic) -> Result<&Route, Error> {
        self.0.routes.of(topic).ok_or_else(|| {
            Error::new(
                ErrorKind::Transport,
                format!("no route leads to topic `{topic}`; add `[[routes]] match = \">\" to = \"…\"`"),
            )
        })
    }

    fn destination(&self, topic: &Topic) -> Destination {
        let place =
            self.0.places.iter().find(|(pattern, _)| pattern.matches(topic)).map(|(_, place)| place.clone());
        Destination::Topic { topic: topic.clone(), place }
    }
}

fn failed(error: PublishError) -> Error {
    let temporary = error.is_temporary();
    let outer = Error::new(ErrorKind::Transport, "publishing failed").with_source(error);
    if temporary { outer.temporary() } else { outer }
}

impl fmt::Debug for PublishHandle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PublishHandle").field("service", &self.0.service).finish_non_exhaustive()
    }
}

//! Tests of a service, in memory and on virtual time; the same test on a running broker by its URL.

mod broker;
mod journal;
mod rest;

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use msgkit::envelope::Clock;
use msgkit::memory::{Memory, MemoryConfig};
use msgkit::service::{CheckReport, PublishHandle, Running};
use msgkit::transport::{Operate, Transport as _};
use msgkit::{Envelope, Error, Group, Message, MessageId, Registry, Service, Timestamp};

use self::broker::Broker;
use self::journal::Journal;

/// When virtual time begins: 2026-01-01T00:00:00Z.
const BEGIN: i64 = 1_767_225_600_000;

/// A service under test: it runs in memory, on virtual time, and everything that happens to a message can be asked.
///
/// Every transport of the service is replaced by a memory transport of the same name, and the runtime's timer is paused:
/// a delayed retry of an hour takes no time, and comes exactly when it is due. [`TestKit::settle`] waits until nothing
/// is left to do, so that "nothing was published" can be asserted without a guess at how long to wait. While a handler
/// waits for something real (a file, a server) time goes on only as the kit lets it, never past the handler's timeout.
///
/// ```
/// # use msgkit::{Context, Error, Message, Service, Topic, codec::Json};
/// # use serde::{Deserialize, Serialize};
/// # macro_rules! message { ($type:ident, $name:literal) => {
/// #     #[derive(Debug, PartialEq, Serialize, Deserialize)] struct $type { id: u32 }
/// #     impl Message for $type {
/// #         type Codec = Json;
/// #         const NAME: &'static str = $name;
/// #         const TOPIC: &'static str = $name;
/// #         fn topic(&self) -> Result<Topic, Error> { Self::template()?.render(&[]) }
/// #     }
/// # } }
/// # message!(Placed, "orders.placed");
/// # message!(Shipped, "orders.shipped");
/// use msgkit_testing::TestKit;
///
/// fn service() -> Service {
///     Service::new("shop").on("shipping", |order: Placed, cx: Context| async move {
///         if cx.attempt() < 5 {
///             return Err("the carrier does not answer".into());
///         }
///         Ok(Shipped { id: order.id })
///     })
/// }
///
/// # tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(async {
/// let mut kit = TestKit::start(service).await?;
/// kit.publish(&Placed { id: 1 }).await?;
/// kit.settle().await;
/// assert_eq!(kit.published::<Shipped>(), [Shipped { id: 1 }]);
/// assert!(kit.dead_letters("shipping").await.is_empty());
/// kit.finish().await
/// # }).unwrap();
/// ```
///
/// # Panics
/// A test that cannot go on panics with the reason: a service that does not come to rest, a payload that is not of the
/// type that was asked for.
pub struct TestKit {
    make: Box<dyn Fn() -> Service + Send + Sync>,
    place: Place,
    journal: Arc<Journal>,
    clock: Clock,
    running: Option<Running>,
    report: CheckReport,
    patience: Duration,
}

/// What the service's transports are replaced by.
enum Place {
    /// Virtual time; a broker for each name, and the service's connection to it.
    Memory(BTreeMap<String, Memory>, Vec<Memory>),
    /// Real time.
    Broker(Broker),
}

impl TestKit {
    /// Starts the service that `make` gives, in memory and on virtual time. `make` is called again for each restart.
    ///
    /// # Errors
    /// As [`Service::start`]; [`msgkit::ErrorKind::Refused`] in a runtime with several threads, whose time cannot be paused.
    pub async fn start(make: impl Fn() -> Service + Send + Sync + 'static) -> Result<Self, Error> {
        rest::pause_time()?;
        let clock = Clock::virtual_from(Timestamp::from_millis(BEGIN));
        Self::begin(Box::new(make), Place::Memory(BTreeMap::new(), Vec::new()), clock).await
    }

    /// Starts the service that `make` gives on the transport at `url`, in real time: the same test, on a broker.
    ///
    /// Use a place that nobody else uses (a file, a virtual host, a prefix of the transport's options): what others left
    /// in the groups is handled too. Where the transport does not keep what nobody reads, as MQTT, the dead letters of the
    /// service go to memory, whatever it says of them itself, and [`TestKit::dead_letters`] looks there.
    ///
    /// # Errors
    /// As [`Registry::open`] and [`Service::start`]; [`msgkit::ErrorKind::Transport`] with the transport's last error where
    /// it cannot be reached for 30 s.
    pub async fn at(
        url: &str,
        registry: &Registry,
        make: impl Fn() -> Service + Send + Sync + 'static,
    ) -> Result<Self, Error> {
        let place = Place::Broker(Broker::new(registry.open(url)?));
        Self::begin(Box::new(make), place, Clock::system()).await
    }

    /// As [`TestKit::at`] where the environment variable `variable` holds a URL, else as [`TestKit::start`].
    ///
    /// # Errors
    /// As the one that is chosen.
    pub async fn from_env(
        variable: &str,
        registry: &Registry,
        make: impl Fn() -> Service + Send + Sync + 'static,
    ) -> Result<Self, Error> {
        match std::env::var(variable) {
            Ok(url) => Self::at(&url, registry, make).await,
            Err(_) => Self::start(make).await,
        }
    }

    async fn begin(
        make: Box<dyn Fn() -> Service + Send + Sync>,
        place: Place,
        clock: Clock,
    ) -> Result<Self, Error> {
        let report = CheckReport::default();
        let mut kit = Self {
            make,
            place,
            journal: Arc::default(),
            clock,
            running: None,
            report,
            patience: Duration::from_secs(30),
        };
        kit.run().await?;
        Ok(kit)
    }

    /// The same with another bound, in real time, of how long [`TestKit::settle`] waits for a service to come to rest
    /// and for a handler to get an answer from outside; 30 s where nothing is said.
    #[must_use]
    pub fn with_patience(mut self, patience: Duration) -> Self {
        self.patience = patience;
        self
    }

    async fn run(&mut self) -> Result<(), Error> {
        let (place, clock) = (&mut self.place, self.clock);
        let mut names = Vec::new();
        let mut service = (self.make)()
            .clock(clock)
            .observe(journal::Observing(self.journal.clone()))
            .replace_transports(|name, _| {
                names.push(name.to_owned());
                match place {
                    Place::Memory(brokers, connections) => {
                        let new = || Memory::with(MemoryConfig::default(), clock);
                        let connection = brokers.entry(name.to_owned()).or_insert_with(new).connection();
                        connections.push(connection.clone());
                        Arc::new(connection)
                    }
                    Place::Broker(broker) => broker.transport.clone(),
                }
            });
        if let Place::Broker(broker) = &self.place {
            service = broker.keep_letters(service, &names);
        }
        self.report = service.check()?;
        self.running = Some(match &mut self.place {
            Place::Memory(..) => service.start().await?,
            Place::Broker(broker) => {
                broker.know(&self.report);
                broker.start(service).await?
            }
        });
        Ok(())
    }

    fn running(&self) -> &Running {
        match &self.running {
            Some(running) => running,
            None => panic!("the service of this kit did not start again"),
        }
    }

    /// The time of the service.
    #[must_use]
    pub fn now(&self) -> Timestamp {
        self.clock.now()
    }

    /// Publishes as the service does from outside of its handlers.
    #[must_use]
    pub fn publisher(&self) -> PublishHandle {
        self.running().publisher()
    }

    /// The running service: to pause, attach, ask its readiness.
    #[must_use]
    pub fn service(&self) -> &Running {
        self.running()
    }

    /// Publishes `message` as the first of a new flow, and returns its envelope.
    ///
    /// # Errors
    /// As [`PublishHandle::publish`].
    pub async fn publish<M: Message>(&self, message: &M) -> Result<Envelope, Error> {
        self.publish_with(message, |_| {}).await
    }

    /// As [`TestKit::publish`], with the envelope changed by `edit`: headers, an expiry, a cause.
    ///
    /// # Errors
    /// As [`PublishHandle::publish_with`].
    pub async fn publish_with<M: Message>(
        &self,
        message: &M,
        edit: impl FnOnce(&mut Envelope),
    ) -> Result<Envelope, Error> {
        let source = self.report.service.clone();
        let mut envelope = msgkit::envelope_of(message, &source.into(), self.clock.now())?;
        edit(&mut envelope);
        // Known before it is published: what the test publishes is not what the service has published.
        self.journal.mine(envelope.id());
        self.publisher().publish_envelopes(vec![envelope.clone()]).await?;
        Ok(envelope)
    }

    /// Publishes an envelope as it is: what cannot be decoded, what is of another type.
    ///
    /// # Errors
    /// As [`PublishHandle::publish_envelopes`].
    pub async fn publish_envelope(&self, envelope: Envelope) -> Result<(), Error> {
        self.journal.mine(envelope.id());
        self.publisher().publish_envelopes(vec![envelope]).await
    }

    /// Waits until nothing is left to do: no message waits, is being handled or is due later.
    ///
    /// # Panics
    /// Where the service does not come to rest, naming who still works on what.
    pub async fn settle(&mut self) {
        match &self.place {
            Place::Memory(brokers, _) => rest::in_memory(self, brokers.values()).await,
            Place::Broker(broker) => rest::at_broker(self, &*broker.transport, &broker.takes).await,
        }
    }

    /// Lets `time` pass, and everything happen that falls due in it; in real time it waits.
    pub async fn advance(&mut self, time: Duration) {
        match &self.place {
            Place::Memory(..) => rest::pass(&self.journal, time).await,
            Place::Broker(_) => tokio::time::sleep(time).await,
        }
    }

    /// What the service has published of type `M`, in order; what the test itself has published is not among it.
    ///
    /// # Panics
    /// Where a payload of that name is not one of `M`.
    #[must_use]
    pub fn published<M: Message>(&self) -> Vec<M> {
        let decode = |envelope: &Envelope| match M::decode(envelope) {
            Ok(message) => message,
            Err(error) => panic!("a published {} is none: {}", M::NAME, msgkit::Chain(&error)),
        };
        self.published_envelopes().iter().filter(|envelope| envelope.kind() == M::NAME).map(decode).collect()
    }

    /// All that the service has published to topics, in order; retry copies and dead letters are not among it.
    #[must_use]
    pub fn published_envelopes(&self) -> Vec<Envelope> {
        self.journal.published()
    }

    /// How often `handler` was handed the message `id`.
    #[must_use]
    pub fn attempts(&self, handler: &str, id: &MessageId) -> u32 {
        self.journal.attempts(handler, id)
    }

    /// What happened to the message `id`, in order: `published`, `received`, `started`, `failed`, …
    #[must_use]
    pub fn history(&self, id: &MessageId) -> Vec<&'static str> {
        self.journal.history(id)
    }

    /// The dead letters of `group`, oldest first, the untouched message with its `dl…` attributes.
    ///
    /// # Panics
    /// Where the group is none, or the transport cannot list them.
    pub async fn dead_letters(&self, group: &str) -> Vec<Envelope> {
        let group = named(group);
        let mut all = Vec::new();
        for transport in self.operable() {
            match transport.dead_letters(&group, None, 10_000).await {
                Ok(letters) => {
                    all.extend(letters.iter().filter_map(|letter| letter.message.envelope().cloned()));
                }
                Err(error) => {
                    panic!("the dead letters of `{group}` cannot be listed: {}", msgkit::Chain(&error))
                }
            }
        }
        all
    }

    /// Replays every dead letter of `group`, oldest first; tells how many.
    ///
    /// # Errors
    /// As [`Operate::replay`] or, where the dead letters are kept elsewhere, [`Running::replay`].
    pub async fn replay(&self, group: &str) -> Result<usize, Error> {
        let group = named(group);
        let mut count = 0;
        for transport in self.operable() {
            for letter in transport.dead_letters(&group, None, 10_000).await? {
                match &self.place {
                    Place::Memory(..) => transport.replay(&group, &letter.position).await?,
                    Place::Broker(broker) => {
                        broker.replay(self.running(), transport, &group, &letter.position).await?;
                    }
                }
                self.journal.replayed();
                count += 1;
            }
        }
        Ok(count)
    }

    fn operable(&self) -> Vec<&dyn Operate> {
        match &self.place {
            Place::Memory(brokers, _) => brokers.values().map(|memory| memory as &dyn Operate).collect(),
            Place::Broker(broker) => broker.operate().into_iter().collect(),
        }
    }

    /// Drains the service and starts it again, as a deployment does; what is at the broker stays there.
    ///
    /// # Errors
    /// As [`Running::drain`] and [`Service::start`].
    pub async fn restart(&mut self) -> Result<(), Error> {
        if let Some(running) = self.running.take() {
            rest::drain(self, running).await?;
        }
        self.journal.forget_running();
        self.run().await
    }

    /// Kills the service as SIGKILL does, and starts it again: what was in hand comes again, its start counted. On a
    /// running broker the service is broken off, and what it had in hand goes back in good order.
    ///
    /// # Errors
    /// As [`Service::start`].
    pub async fn crash(&mut self) -> Result<(), Error> {
        if let Place::Memory(_, connections) = &mut self.place {
            // They break first, so that nothing is given back in good order.
            for connection in connections.drain(..) {
                connection.close().await?;
            }
        }
        if let Some(running) = self.running.take() {
            running.crash().await;
        }
        self.journal.forget_running();
        self.run().await
    }

    /// Drains the service and closes its transports.
    ///
    /// # Errors
    /// As [`Running::drain`], and what the transport reports when it is closed.
    pub async fn finish(mut self) -> Result<(), Error> {
        if let Some(running) = self.running.take() {
            rest::drain(&self, running).await?;
        }
        if let Place::Broker(broker) = &self.place {
            broker.transport.close().await?;
        }
        Ok(())
    }
}

impl Drop for TestKit {
    fn drop(&mut self) {
        // The runtime would wait for the thread that holds the time still.
        self.journal.release();
    }
}

impl fmt::Debug for TestKit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TestKit").field("service", &self.report.service).finish_non_exhaustive()
    }
}

fn named(group: &str) -> Group {
    match Group::new(group.to_owned()) {
        Ok(group) => group,
        Err(error) => panic!("{error}"),
    }
}

//! What a case works with: an empty broker, readers that wait with patience, envelopes.

use std::collections::VecDeque;
use std::fmt::Debug;
use std::future::Future;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::{Either, join, select};
use msgkit::envelope::{Clock, ContentType};
use msgkit::memory::{Memory, MemoryConfig};
use msgkit::transport::{
    Capabilities, Declaration, Deliveries, Delivery, Destination, Outgoing, Subscription, Transport,
};
use msgkit::{Envelope, Group, Pattern, Topic};
use tokio::sync::Mutex;

use super::pipeline::Pipeline;
use super::subject::{Broker, Setup, Subject, Time};

/// What a case works with. Everything that goes wrong panics with what was expected, which fails the case.
pub struct Bench<'a> {
    subject: &'a dyn Subject,
    pipeline: Arc<dyn Pipeline>,
    clock: Clock,
    broker: Mutex<Option<Arc<dyn Broker>>>,
    beside: OnceLock<Arc<dyn Transport>>,
}

impl<'a> Bench<'a> {
    pub(crate) fn new(subject: &'a dyn Subject, pipeline: Arc<dyn Pipeline>, clock: Clock) -> Self {
        Self { subject, pipeline, clock, broker: Mutex::default(), beside: OnceLock::new() }
    }

    /// What runs handlers in this run of the suite.
    #[must_use]
    pub fn pipeline(&self) -> &Arc<dyn Pipeline> {
        &self.pipeline
    }

    /// The subject under test.
    #[must_use]
    pub fn subject(&self) -> &dyn Subject {
        self.subject
    }

    /// The clock of the case and its transports.
    #[must_use]
    pub fn clock(&self) -> Clock {
        self.clock
    }

    /// Which time the case runs in.
    #[must_use]
    pub fn time(&self) -> Time {
        self.subject.time()
    }

    /// The wishes that a case without wishes has, to add to.
    #[must_use]
    pub fn setup(&self) -> Setup {
        Setup::new(self.clock)
    }

    /// A broker with special wishes, empty and apart from [`Bench::broker`].
    pub async fn broker_with(&self, setup: &Setup) -> Arc<dyn Broker> {
        match self.subject.broker(setup).await {
            Ok(broker) => Arc::from(broker),
            Err(error) => panic!("the subject gave no broker: {error}"),
        }
    }

    /// The case's broker.
    pub async fn broker(&self) -> Arc<dyn Broker> {
        let mut broker = self.broker.lock().await;
        match &*broker {
            Some(broker) => broker.clone(),
            None => {
                let new = self.broker_with(&self.setup()).await;
                broker.insert(new).clone()
            }
        }
    }

    /// A new connection to the case's broker.
    pub async fn connect(&self) -> Arc<dyn Transport> {
        connect(&*self.broker().await).await
    }

    /// A transport in memory beside the broker, the same for the whole case: it keeps the dead letters of handlers on a
    /// transport that cannot.
    pub fn beside(&self) -> Arc<dyn Transport> {
        self.beside.get_or_init(|| Arc::new(Memory::with(MemoryConfig::default(), self.clock))).clone()
    }

    /// What the subject claims, and a connection to it.
    pub async fn start(&self) -> (Arc<dyn Transport>, Capabilities) {
        let transport = self.connect().await;
        let can = transport.capabilities();
        (transport, can)
    }

    /// Waits for what must come, with patience.
    pub async fn soon<T>(&self, what: &str, future: impl Future<Output = T>) -> T {
        match tokio::time::timeout(self.time().patience(), future).await {
            Ok(value) => value,
            Err(_) => panic!("never: {what}"),
        }
    }

    /// Waits until `done` says so; looks again whenever a little time has passed.
    pub async fn until(&self, what: &str, mut done: impl FnMut() -> bool) {
        let step = match self.time() {
            Time::Virtual => Duration::from_millis(100),
            Time::Real | Time::Slow => Duration::from_millis(5),
        };
        self.soon(what, async {
            while !done() {
                tokio::time::sleep(step).await;
            }
        })
        .await;
    }

    /// Lets the time pass in which nothing must happen.
    pub async fn silence(&self) {
        tokio::time::sleep(self.time().silence()).await;
    }

    /// An envelope of the case with `text` as its payload.
    #[must_use]
    pub fn envelope(&self, topic: &str, text: &str) -> Envelope {
        let payload = Bytes::from(format!("\"{text}\""));
        Envelope::new(
            "conformance",
            "conformance.text",
            topic_of(topic),
            ContentType::Json,
            payload,
            self.clock.now(),
        )
    }

    /// The same with an ordering key.
    #[must_use]
    pub fn keyed(&self, topic: &str, key: &str, text: &str) -> Envelope {
        let mut envelope = self.envelope(topic, text);
        envelope.set_key(Some(key.into()));
        envelope
    }

    /// Publishes to their own topics, each text one message, in order: they have one key, since nothing else has an order.
    pub async fn publish(&self, transport: &dyn Transport, topic: &str, texts: &[&str]) {
        let batch = texts.iter().map(|text| Outgoing::to_topic(self.keyed(topic, "one", text))).collect();
        self.publish_all(transport, batch).await;
    }

    /// Publishes `batch`; anything but success fails the case.
    pub async fn publish_all(&self, transport: &dyn Transport, batch: Vec<Outgoing>) {
        if let Err(error) = self.soon("publish", transport.publish(batch)).await {
            panic!("publishing failed: {}", msgkit::Chain(&error));
        }
    }

    /// A retry copy of `envelope` for `group`, due after `delay`.
    #[must_use]
    pub fn retry(&self, group: &str, step: u32, delay: Duration, mut envelope: Envelope) -> Outgoing {
        envelope.set_not_before(Some(self.clock.now().after(delay)));
        Outgoing::new(Destination::Retry { group: group_of(group), step, delay }, envelope)
    }

    /// Declares `subscription`'s group, with dead letters and one delay step.
    pub async fn declare(&self, transport: &dyn Transport, subscription: &Subscription) {
        let declaration = Declaration::Group {
            subscription: subscription.clone(),
            retry_steps: vec![self.time().tick()],
            dead_letters: transport.capabilities().keeps_unread,
        };
        if let Err(error) = self.soon("declare", transport.declare(&[declaration])).await {
            panic!("declaring failed: {}", msgkit::Chain(&error));
        }
    }

    /// A reader of `subscription`, declared first where it has a group.
    pub async fn reader(&self, transport: &dyn Transport, subscription: &Subscription) -> Reader {
        if subscription.group.is_some() && subscription.retry_step.is_none() {
            self.declare(transport, subscription).await;
        }
        match self.soon("subscribe", transport.subscribe(subscription)).await {
            Ok(deliveries) => Reader { deliveries, arrived: VecDeque::new(), time: self.time() },
            Err(error) => panic!("subscribing failed: {}", msgkit::Chain(&error)),
        }
    }

    /// A reader of `group` on `pattern`.
    pub async fn group(&self, transport: &dyn Transport, group: &str, pattern: &str) -> Reader {
        self.reader(transport, &subscription(group, pattern)).await
    }
}

impl Debug for Bench<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Bench").field("subject", &self.subject.name()).finish_non_exhaustive()
    }
}

/// A connection of `broker`.
pub(crate) async fn connect(broker: &dyn Broker) -> Arc<dyn Transport> {
    match broker.connect().await {
        Ok(transport) => transport,
        Err(error) => panic!("the broker cannot be reached: {}", msgkit::Chain(&error)),
    }
}

/// The subscription of `group` to `pattern`.
pub(crate) fn subscription(group: &str, pattern: &str) -> Subscription {
    Subscription::group(group_of(group), [pattern_of(pattern)])
}

pub(crate) fn group_of(name: &str) -> Group {
    match Group::new(name.to_owned()) {
        Ok(group) => group,
        Err(error) => panic!("the case names a group that is none: {error}"),
    }
}

pub(crate) fn topic_of(name: &str) -> Topic {
    match name.parse() {
        Ok(topic) => topic,
        Err(error) => panic!("the case names a topic that is none: {error}"),
    }
}

pub(crate) fn pattern_of(name: &str) -> Pattern {
    match name.parse() {
        Ok(pattern) => pattern,
        Err(error) => panic!("the case names a pattern that is none: {error}"),
    }
}

/// A subscription that a case reads from.
#[derive(Debug)]
pub struct Reader {
    deliveries: Box<dyn Deliveries>,
    arrived: VecDeque<Delivery>,
    time: Time,
}

impl Reader {
    /// The next message; panics where it does not come.
    pub async fn next(&mut self) -> Delivery {
        self.take(1).await.remove(0)
    }

    /// The next `count` messages.
    pub async fn take(&mut self, count: usize) -> Vec<Delivery> {
        let time = self.time;
        let filling = async {
            while self.arrived.len() < count {
                let missing = count - self.arrived.len();
                if let Err(error) = self.deliveries.receive(missing, &mut self.arrived).await {
                    assert!(error.is_temporary(), "receiving failed: {}", msgkit::Chain(&error));
                }
            }
        };
        if tokio::time::timeout(time.patience(), filling).await.is_err() {
            panic!("{} of {count} messages came: {:?}", self.arrived.len(), self.arrived);
        }
        self.arrived.drain(..count).collect()
    }

    /// The texts of the next `count` messages, settled.
    pub async fn texts(&mut self, count: usize) -> Vec<String> {
        let mut texts = Vec::with_capacity(count);
        while texts.len() < count {
            let delivery = self.next().await;
            texts.push(text_of(&delivery));
            delivery.ack();
        }
        texts
    }

    /// Asserts that nothing comes.
    pub async fn nothing(&mut self, why: &str) {
        let receiving = self.deliveries.receive(1, &mut self.arrived);
        let silence = self.time.silence();
        if tokio::time::timeout(silence, receiving).await.is_ok()
            && let Some(delivery) = self.arrived.front()
        {
            panic!("{why}, yet `{}` came: {delivery:?}", text_of(delivery));
        }
    }

    /// Reads and settles what comes here and to `other` until it is `count` messages in all; then nothing more may come to
    /// either. The texts, sorted.
    pub async fn share(&mut self, other: &mut Self, count: usize) -> Vec<String> {
        let mut texts = Vec::with_capacity(count);
        let filling = async {
            while texts.len() < count {
                let one = self.deliveries.receive(64, &mut self.arrived);
                let two = other.deliveries.receive(64, &mut other.arrived);
                // Receiving is cancel-safe: what the other one has by then stays there.
                let (Either::Left((received, _)) | Either::Right((received, _))) = select(one, two).await;
                if let Err(error) = received {
                    assert!(error.is_temporary(), "receiving failed: {}", msgkit::Chain(&error));
                }
                for delivery in self.arrived.drain(..).chain(other.arrived.drain(..)) {
                    texts.push(text_of(&delivery));
                    delivery.ack();
                }
            }
        };
        if tokio::time::timeout(self.time.patience(), filling).await.is_err() {
            panic!("{} of {count} messages came: {texts:?}", texts.len());
        }
        join(self.nothing("all have come"), other.nothing("all have come")).await;
        texts.sort();
        texts
    }

    /// Waits for the broker's word on what was settled.
    pub async fn flush(&mut self) {
        if let Err(error) =
            tokio::time::timeout(self.time.patience(), self.deliveries.flush()).await.unwrap_or(Ok(()))
        {
            panic!("flushing failed: {}", msgkit::Chain(&error));
        }
    }

    /// Leaves in good order.
    pub async fn close(mut self) {
        self.arrived.clear();
        self.deliveries.stop();
        self.flush().await;
        if let Err(error) = self.deliveries.close().await {
            panic!("closing failed: {}", msgkit::Chain(&error));
        }
    }

    /// The subscription itself.
    pub fn inner(&mut self) -> &mut dyn Deliveries {
        &mut *self.deliveries
    }
}

/// The text that [`Bench::envelope`] put into a message.
pub(crate) fn text_of(delivery: &Delivery) -> String {
    delivery.message().envelope().map_or_else(
        || "(malformed)".to_owned(),
        |envelope| String::from_utf8_lossy(envelope.payload()).trim_matches('"').to_owned(),
    )
}

/// Runs `case` over everything that `all` numbers.
pub(crate) fn numbered(prefix: &str, count: usize) -> Vec<String> {
    (0..count).map(|n| format!("{prefix}{n:04}")).collect()
}

//! The transport itself: what it is made from, what it can do.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use async_trait::async_trait;
use msgkit::envelope::Clock;
use msgkit::transport::{
    Capabilities, Declaration, Delay, Factory, Group, Health, KeyOrder, Options, StartPositions,
    Subscription, Transport, TransportError, TransportErrorKind, TransportUrl,
};
use msgkit::{Error, Text};

use crate::config::{Address, MqttConfig, SCHEMES, Version};
use crate::connection::unique;
use crate::driver::{Broker, Dial, LastWill};
use crate::inbox::Counters;
use crate::names::Names;
use crate::sending::Sending;
use crate::subscriber::Membership;
use crate::wire::Writer;

/// The schemes `mqtt`, `mqtts`, `mqtt+ws` and `mqtt+wss`, for a [`Registry`](msgkit::Registry).
#[must_use]
pub fn scheme() -> impl Factory {
    Scheme
}

#[derive(Debug)]
struct Scheme;

impl Factory for Scheme {
    fn schemes(&self) -> &'static [&'static str] {
        SCHEMES
    }

    fn build(&self, url: &TransportUrl, options: Options) -> Result<Arc<dyn Transport>, Error> {
        url.broker()?;
        let clock = options.clock();
        Ok(Arc::new(Mqtt::with(url, options.read(url)?, clock)?))
    }
}

/// An MQTT broker; clones share their connections to it.
#[derive(Clone)]
pub struct Mqtt(Arc<Shared>);

struct Shared {
    config: Arc<MqttConfig>,
    names: Names,
    clock: Clock,
    broker: Arc<Broker>,
    sending: Arc<Sending>,
    counters: Arc<Counters>,
    closed: AtomicBool,
    memberships: Mutex<Vec<Weak<Membership>>>,
    /// Delay steps whose session is known to exist.
    steps: Mutex<HashSet<(Group, u32)>>,
    /// Which numbers of this instance are taken, by group and lane.
    numbers: Mutex<HashMap<(Group, u32), BTreeSet<u32>>>,
}

impl Mqtt {
    /// The transport of the broker at `url`. Nothing is connected before the first use.
    ///
    /// # Errors
    /// [`ErrorKind::Config`](msgkit::ErrorKind::Config), naming the option that cannot be and the fix.
    pub fn with(url: &TransportUrl, mut config: MqttConfig, clock: Clock) -> Result<Self, Error> {
        config.check()?;
        config.user = url.user().map(str::to_owned).or(config.user);
        config.password = url.password().map(str::to_owned).or(config.password);
        let broker = Arc::new(Broker::new(Address::of(url)?, &config)?);
        let names = Names::new(&config.prefix);
        let will = match &config.will {
            Some(will) => Some(LastWill {
                topic: names.topic(&will.topic.parse()?),
                payload: will.payload.clone(),
                retain: will.retain,
            }),
            None => None,
        };
        let dial = Dial {
            broker: broker.clone(),
            client_id: format!("{}-publisher-{}", config.client_id, unique()),
            clean: true,
            expiry: Duration::ZERO,
            receive: 1,
            will,
        };
        let writer = Writer { names: names.clone(), format: config.format(), confirmed: config.qos > 0 };
        // So that what waits can still go out on another connection before its publisher is told.
        let patience = config.publish_timeout / 2;
        Ok(Self(Arc::new(Shared {
            names,
            config: Arc::new(config),
            clock,
            broker,
            sending: Arc::new(Sending::new(dial, writer, patience)),
            counters: Arc::default(),
            closed: AtomicBool::new(false),
            memberships: Mutex::default(),
            steps: Mutex::default(),
            numbers: Mutex::default(),
        })))
    }

    /// How many messages were published that nobody was subscribed to, where the broker tells (MQTT 5).
    #[must_use]
    pub fn unrouted(&self) -> u64 {
        self.0.counters.unrouted.load(Ordering::Relaxed)
    }

    /// How many settlements came after their connection had ended: their messages come again.
    #[must_use]
    pub fn late_settlements(&self) -> u64 {
        self.0.counters.late.load(Ordering::Relaxed)
    }

    /// How many messages of quality of service 0 were dropped because they came faster than they were handled.
    #[must_use]
    pub fn overflowed(&self) -> u64 {
        self.0.counters.overflowed.load(Ordering::Relaxed)
    }

    /// How many messages were sent once more because a connection broke before they were confirmed.
    #[must_use]
    pub fn resent(&self) -> u64 {
        self.0.sending.resent()
    }

    pub(crate) fn config(&self) -> &Arc<MqttConfig> {
        &self.0.config
    }

    pub(crate) fn names(&self) -> &Names {
        &self.0.names
    }

    pub(crate) fn clock(&self) -> Clock {
        self.0.clock
    }

    pub(crate) fn broker(&self) -> &Arc<Broker> {
        &self.0.broker
    }

    pub(crate) fn sending(&self) -> &Arc<Sending> {
        &self.0.sending
    }

    pub(crate) fn counters(&self) -> &Arc<Counters> {
        &self.0.counters
    }

    /// Fails once it is closed.
    pub(crate) fn open(&self) -> Result<(), TransportError> {
        if self.0.closed.load(Ordering::Acquire) { Err(TransportError::closed("mqtt")) } else { Ok(()) }
    }

    /// Whether every subscription has its connection.
    fn receiving(&self) -> Health {
        let memberships = self.0.memberships.lock().unwrap_or_else(PoisonError::into_inner);
        let failing = memberships
            .iter()
            .filter_map(Weak::upgrade)
            .find_map(|membership| Some((membership.inbox.failure()?, membership.title.clone())));
        match failing {
            Some((why, title)) => Health::Down(format!("{title}: {}", msgkit::Chain(&why))),
            None => Health::Up,
        }
    }

    /// Takes note of a subscription, to end it with the transport.
    pub(crate) fn know(&self, membership: &Arc<Membership>) {
        let mut memberships = self.0.memberships.lock().unwrap_or_else(PoisonError::into_inner);
        memberships.retain(|known| known.strong_count() > 0);
        memberships.push(Arc::downgrade(membership));
    }

    /// Delay steps whose session is known to exist.
    pub(crate) fn steps(&self) -> MutexGuard<'_, HashSet<(Group, u32)>> {
        self.0.steps.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Who a new subscription is among the members of its group.
    pub(crate) fn owner(&self, subscription: &Subscription) -> String {
        let (Some(instance), Some(group)) = (&self.0.config.instance, &subscription.group) else {
            return unique();
        };
        let lane = (group.clone(), subscription.retry_step.unwrap_or(0));
        let mut numbers = self.0.numbers.lock().unwrap_or_else(PoisonError::into_inner);
        let taken = numbers.entry(lane).or_default();
        let number = (0..).find(|number| !taken.contains(number)).unwrap_or(u32::MAX);
        taken.insert(number);
        format!("{instance}/{number}")
    }

    /// A subscription with that name has ended.
    pub(crate) fn disown(&self, subscription: &Subscription, owner: &str) {
        let (Some(group), Some((_, number))) = (&subscription.group, owner.rsplit_once('/')) else { return };
        let lane = (group.clone(), subscription.retry_step.unwrap_or(0));
        let mut numbers = self.0.numbers.lock().unwrap_or_else(PoisonError::into_inner);
        if let (Some(taken), Ok(number)) = (numbers.get_mut(&lane), number.parse()) {
            taken.remove(&number);
        }
    }
}

impl fmt::Debug for Mqtt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Mqtt")
            .field("broker", &self.0.broker)
            .field("config", &self.0.config)
            .finish_non_exhaustive()
    }
}

#[async_trait]
impl Transport for Mqtt {
    fn system(&self) -> &'static str {
        "mqtt"
    }

    fn capabilities(&self) -> Capabilities {
        let mut can = Capabilities::none();
        // What is published with quality of service 0 may be lost on its way.
        can.durable = self.config().qos > 0;
        can.groups = true;
        can.ephemeral = true;
        can.backlog = self.config().qos > 0;
        can.keeps_unread = false;
        can.key_order = KeyOrder::Member;
        can.delay = Delay::RetryTopics;
        can.delivery_count = false;
        // Given back, a message is handed out again from here, where it lies until it is acknowledged.
        can.nack = true;
        can.max_hold = None;
        can.start = StartPositions::new(false, false);
        can.detects_unrouted = self.config().version == Version::V5;
        can.lag = false;
        can.peek = false;
        can.max_payload = Some(self.config().max_payload);
        can.live_patterns = true;
        // 3.1.1 has no headers: what an envelope holds of them travels, but none ever comes from elsewhere.
        can.native_headers = self.config().version == Version::V5;
        can.back_pressure = false;
        if self.config().keeper {
            can.costs.push(Text::from_static(
                "a group of several members is sent every message twice, the second time for its keeper, so that a restart of \
                 the broker loses nothing; `keeper = false` where the broker keeps shared subscriptions over its restart",
            ));
        }
        can
    }

    async fn declare(&self, declarations: &[Declaration]) -> Result<(), TransportError> {
        self.open()?;
        for declaration in declarations {
            self.declare_one(declaration).await?;
        }
        Ok(())
    }

    async fn health(&self) -> Health {
        match self.sending().health(self.config().connect_timeout).await {
            Health::Up => self.receiving(),
            down => down,
        }
    }

    async fn close(&self) -> Result<(), TransportError> {
        if self.0.closed.swap(true, Ordering::AcqRel) {
            return Ok(());
        }
        let memberships =
            std::mem::take(&mut *self.0.memberships.lock().unwrap_or_else(PoisonError::into_inner));
        let mut left = Ok(());
        let leaving: Vec<_> = memberships
            .iter()
            .filter_map(Weak::upgrade)
            .map(|membership| {
                membership.inbox.close();
                tokio::spawn(async move { membership.leave().await })
            })
            .collect();
        for membership in leaving {
            if let Ok(Err(error)) = membership.await {
                left = Err(error);
            }
        }
        match self.sending().close(self.config().publish_timeout).await {
            0 => left,
            many => Err(TransportError::new(
                TransportErrorKind::Unavailable,
                format!("{many} messages were not confirmed by the broker before the transport was closed"),
            )),
        }
    }
}

//! What a handler says of itself: name, group, types, and which parts of the policy it sets.

use std::sync::Arc;
use std::time::Duration;

use super::inbox::Inbox;
use super::registration::{Registration, register};
use super::unit::UnitOfWork;
use super::{Handle, HandlerError, IntoMessages};
use crate::error::Error;
use crate::message::Message;
use crate::policy::{Delayed, Order, Policy, Unhandled};
use crate::text::Text;
use crate::topic::Pattern;
use crate::transport::{Group, Start};

/// The parts of a policy that are set somewhere; what is not set falls through to the next level.
///
/// Precedence, weakest first: derive, `[policies]`, `[handlers.<name>]`, environment.
#[derive(Debug, Clone, Default, PartialEq)]
#[non_exhaustive]
pub struct PolicyOverrides {
    /// See [`Policy::immediate`].
    pub immediate: Option<u32>,
    /// See [`Policy::delayed`]; `Some(None)` switches delayed retries off.
    pub delayed: Option<Option<Delayed>>,
    /// How many delayed retries there are, the other numbers as they are.
    pub delayed_rounds: Option<u32>,
    /// See [`Policy::timeout`].
    pub timeout: Option<Duration>,
    /// See [`Policy::concurrency`].
    pub concurrency: Option<usize>,
    /// See [`Policy::order`].
    pub order: Option<Order>,
    /// See [`Policy::in_flight`].
    pub in_flight: Option<usize>,
    /// See [`Policy::max_starts`].
    pub max_starts: Option<u32>,
    /// See [`Policy::unhandled`].
    pub unhandled: Option<Unhandled>,
    /// See [`Policy::breaker`]; `Some(None)` switches it off.
    pub breaker: Option<Option<crate::policy::BreakerPolicy>>,
    /// See [`Policy::copy_deadline`].
    pub copy_deadline: Option<Duration>,
}

impl PolicyOverrides {
    /// Puts what is set in the place of what `policy` has.
    pub fn apply(&self, policy: &mut Policy) {
        let Self {
            immediate,
            delayed,
            delayed_rounds,
            timeout,
            concurrency,
            order,
            in_flight,
            max_starts,
            unhandled,
            breaker,
            copy_deadline,
        } = self.clone();
        let set = |slot: &mut Duration, value: Option<Duration>| *slot = value.unwrap_or(*slot);
        policy.immediate = immediate.unwrap_or(policy.immediate);
        if let Some(delayed) = delayed {
            policy.delayed = delayed;
        }
        match delayed_rounds {
            Some(0) => policy.delayed = None,
            Some(rounds) => policy.delayed.get_or_insert_default().rounds = rounds,
            None => {}
        }
        set(&mut policy.timeout, timeout);
        set(&mut policy.copy_deadline, copy_deadline);
        policy.concurrency = concurrency.unwrap_or(policy.concurrency);
        policy.order = order.unwrap_or(policy.order);
        policy.in_flight = in_flight.unwrap_or(policy.in_flight.max(policy.concurrency));
        policy.max_starts = max_starts.unwrap_or(policy.max_starts);
        policy.unhandled = unhandled.unwrap_or(policy.unhandled);
        if let Some(breaker) = breaker {
            policy.breaker = breaker;
        }
    }
}

/// A handler as the service holds it: built by the derive, or by hand.
///
/// ```
/// # use std::sync::Arc;
/// # use msgkit::handler::{Handler, HandlerSpec};
/// # use msgkit::{Context, Error, Handle, HandlerError, Message, Topic};
/// # use serde::{Deserialize, Serialize};
/// # #[derive(Serialize, Deserialize)] struct Placed { id: u32 }
/// # impl Message for Placed {
/// #     type Codec = msgkit::codec::Json;
/// #     const NAME: &'static str = "orders.placed";
/// #     const TOPIC: &'static str = "orders";
/// #     fn topic(&self) -> Result<Topic, Error> { Self::template()?.render(&[]) }
/// # }
/// struct Ship;
/// impl Handle<Placed> for Ship {
///     async fn handle(&self, order: Placed, _: &Context) -> Result<(), HandlerError> { Ok(()) }
/// }
/// impl Handler for Ship {
///     fn spec(self: Arc<Self>) -> Result<HandlerSpec, Error> {
///         Ok(HandlerSpec::new("ship", "shipping")?.handles::<Placed, _, _, _>(&self).concurrency(4))
///     }
/// }
/// ```
#[derive(Debug, Clone)]
#[must_use]
pub struct HandlerSpec {
    pub(crate) name: Text,
    pub(crate) group: Option<Group>,
    pub(crate) start: Start,
    pub(crate) policy: Option<Text>,
    pub(crate) overrides: PolicyOverrides,
    pub(crate) registrations: Vec<Registration>,
    pub(crate) patterns: Vec<Pattern>,
    pub(crate) publishes: Vec<(&'static str, &'static str)>,
    pub(crate) component: Option<Text>,
    pub(crate) ingest: crate::envelope::ingest::Ingest,
    pub(crate) inbox: Option<Arc<dyn Inbox>>,
    pub(crate) unit: Option<Arc<dyn UnitOfWork>>,
}

impl HandlerSpec {
    /// A handler `name` of `group`.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidName`](crate::ErrorKind::InvalidName) where the group's name, or the handler's, breaks its
    /// grammar (they share one).
    pub fn new(name: impl Into<Text>, group: impl Into<Text>) -> Result<Self, Error> {
        let group = Group::new(group)?;
        Ok(Self { group: Some(group), ..Self::ephemeral(name)? })
    }

    /// A handler `name` that each instance of the service runs for itself, on everything from now on.
    ///
    /// # Errors
    /// As [`HandlerSpec::new`].
    pub fn ephemeral(name: impl Into<Text>) -> Result<Self, Error> {
        let name = Group::new(name)?.text().clone();
        Ok(Self {
            name,
            group: None,
            start: Start::Latest,
            policy: None,
            overrides: PolicyOverrides::default(),
            registrations: Vec::new(),
            patterns: Vec::new(),
            publishes: Vec::new(),
            component: None,
            ingest: crate::envelope::ingest::Ingest::default(),
            inbox: None,
            unit: None,
        })
    }

    /// Takes messages of type `M` too.
    pub fn handles<M, R, E, H>(self, handler: &Arc<H>) -> Self
    where
        H: Handle<M, R, E>,
        M: Message,
        R: IntoMessages + 'static,
        E: Into<HandlerError> + Send + 'static,
    {
        self.with(register(handler))
    }

    /// Takes the messages of `registration` too.
    pub fn with(mut self, registration: Registration) -> Self {
        self.registrations.push(registration);
        self
    }

    /// Where the group begins when it is new.
    pub fn start(mut self, start: Start) -> Self {
        self.start = start;
        self
    }

    /// Uses the named policy instead of `default`.
    pub fn policy(mut self, name: impl Into<Text>) -> Self {
        self.policy = Some(name.into());
        self
    }

    /// Sets parts of the policy.
    pub fn overrides(mut self, set: impl FnOnce(&mut PolicyOverrides)) -> Self {
        set(&mut self.overrides);
        self
    }

    /// Handles `lanes` messages at once.
    pub fn concurrency(self, lanes: usize) -> Self {
        self.overrides(|policy| policy.concurrency = Some(lanes))
    }

    /// Keeps messages of one key in order, or not.
    pub fn order(self, order: Order) -> Self {
        self.overrides(|policy| policy.order = Some(order))
    }

    /// Retries `immediate` times at once and `delayed` times later.
    pub fn retry(self, immediate: u32, delayed: u32) -> Self {
        self.overrides(|policy| {
            policy.immediate = Some(immediate);
            policy.delayed_rounds = Some(delayed);
        })
    }

    /// How long one attempt may take.
    pub fn timeout(self, timeout: Duration) -> Self {
        self.overrides(|policy| policy.timeout = Some(timeout))
    }

    /// What becomes of a message of a type that it does not take.
    pub fn unhandled(self, unhandled: Unhandled) -> Self {
        self.overrides(|policy| policy.unhandled = Some(unhandled))
    }

    /// Subscribes to `pattern` instead of the topics of its messages.
    pub fn subscribes(mut self, pattern: Pattern) -> Self {
        self.patterns.push(pattern);
        self
    }

    /// Says that it publishes messages of type `M`: for the catalog, and for brokers on which all values of a dynamic
    /// segment share one destination. What it returns is known anyway.
    pub fn publishes<M: Message>(mut self) -> Self {
        self.publishes.push((M::NAME, M::TOPIC));
        self
    }

    /// Says, for the catalog, which component it is part of.
    pub fn component(mut self, name: impl Into<Text>) -> Self {
        self.component = Some(name.into());
        self
    }

    /// What becomes of messages that are no CloudEvents events.
    pub fn ingest(mut self, ingest: crate::envelope::ingest::Ingest) -> Self {
        self.ingest = ingest;
        self
    }

    /// Settles messages that `inbox` knows as handled, without handling them again.
    pub fn inbox(mut self, inbox: Arc<dyn Inbox>) -> Self {
        self.inbox = Some(inbox);
        self
    }

    /// Runs each attempt in a unit of work.
    pub fn unit_of_work(mut self, unit: Arc<dyn UnitOfWork>) -> Self {
        self.unit = Some(unit);
        self
    }

    /// Whether an inbox or a unit of work has a part in every message.
    pub(crate) fn has_slots(&self) -> bool {
        self.inbox.is_some() || self.unit.is_some()
    }

    /// Name and topic of what it returns, and of what it says that it publishes.
    pub(crate) fn published(&self) -> Vec<(&'static str, &'static str)> {
        let mut all = self.publishes.clone();
        for registration in &self.registrations {
            (registration.returns)(&mut all);
        }
        all
    }

    /// The handler's name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }
}

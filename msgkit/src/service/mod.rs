//! The runtime: a [`Service`] owns handlers, transports and policies, and runs them.
//!
//! A service is a plain value: built, checked, started, drained, tested; several may live in one process.
//!
//! How a message flows: a `source` fetches, a `lane` handles, `copies` go out where that fails. Where there are
//! several lanes or subscriptions a `belt` lies between.

mod belt;
mod catalog;
mod check;
mod control;
mod copies;
mod health;
mod lane;
mod leftovers;
mod parking;
mod plan;
mod publish;
mod quarantine;
mod replay;
mod resolve;
mod running;
#[cfg(feature = "runtime")]
mod shutdown;
mod source;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::fmt;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

pub use self::check::{CheckReport, CheckedHandler};
pub use self::health::{HealthBoard, Readiness};
pub(crate) use self::lane::Stretch;
use self::plan::{Named, Plan};
pub use self::publish::PublishHandle;
use self::publish::{Route, Routes};
use self::quarantine::Quarantine;
use self::resolve::{Configured, Resolver};
use self::running::Core;
pub use self::running::Running;
#[cfg(feature = "runtime")]
pub use self::shutdown::{Shutdown, shutdown_signal};
use crate::catalog::Level;
use crate::config::Settings;
use crate::envelope::Clock;
use crate::error::Error;
use crate::handler::{
    Context, Handler, HandlerError, HandlerSpec, Inbox, IntoMessages, State, UnitOfWork, closure,
};
use crate::memory::Memory;
use crate::message::Message;
use crate::policy::Policy;
use crate::telemetry::{Observer, Observers};
use crate::text::Text;
use crate::topic::{Pattern, Topic, TopicTemplate};
use crate::transport::{Group, Registry, Transport};

/// A service: handlers, the transports that feed them, and how they are run.
///
/// ```
/// # use msgkit::{Context, Error, Message, Service, Topic, codec::Json};
/// # use serde::{Deserialize, Serialize};
/// # #[derive(Serialize, Deserialize)] struct Placed { id: u32 }
/// # impl Message for Placed {
/// #     type Codec = Json;
/// #     const NAME: &'static str = "orders.placed";
/// #     const TOPIC: &'static str = "orders";
/// #     fn topic(&self) -> Result<Topic, Error> { Self::template()?.render(&[]) }
/// # }
/// # tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap().block_on(async {
/// let running = Service::new("shop")
///     .on("printing", |order: Placed, _cx: Context| async move {
///         println!("order {}", order.id);
///         Ok(())
///     })
///     .start()
///     .await?;
/// running.publisher().publish(&Placed { id: 1 }).await?;
/// running.drain().await
/// # }).unwrap();
/// ```
#[must_use = "a service does nothing until it is started or run"]
pub struct Service {
    name: Text,
    transports: Vec<Named>,
    routes: Vec<(Pattern, Text)>,
    dead_letters: BTreeMap<Text, Text>,
    policies: BTreeMap<Text, Policy>,
    configured: Configured,
    handlers: Vec<HandlerSpec>,
    publishes: Vec<(Pattern, Topic)>,
    governed: catalog::Governed,
    state: State,
    observers: Vec<Arc<dyn Observer>>,
    inbox: Option<Arc<dyn Inbox>>,
    unit: Option<Arc<dyn UnitOfWork>>,
    clock: Clock,
    drain_deadline: Duration,
    health: HealthBoard,
    problems: Vec<Error>,
}

impl Service {
    /// A service without handlers; without a transport either, it runs in memory.
    ///
    /// `name` is the source of what it publishes: 1 to 48 of `A-Z a-z 0-9 _ -`.
    pub fn new(name: impl Into<Text>) -> Self {
        Self {
            name: name.into(),
            transports: Vec::new(),
            routes: Vec::new(),
            dead_letters: BTreeMap::new(),
            policies: BTreeMap::new(),
            configured: Configured::default(),
            handlers: Vec::new(),
            publishes: Vec::new(),
            governed: catalog::Governed::default(),
            state: State::default(),
            observers: Vec::new(),
            inbox: None,
            unit: None,
            clock: Clock::system(),
            drain_deadline: Duration::from_secs(30),
            health: HealthBoard::default(),
            problems: Vec::new(),
        }
    }

    /// A service as a configuration file and the environment describe it; its transports are made by `registry`.
    ///
    /// # Errors
    /// [`ErrorKind::Config`](crate::ErrorKind::Config) naming file, table and key, and for an unknown key the nearest known one.
    pub fn from_config(path: impl AsRef<std::path::Path>, registry: &Registry) -> Result<Self, Error> {
        Self::from_settings(Settings::load(path)?, registry)
    }

    /// A service as `settings` describe it.
    ///
    /// # Errors
    /// [`ErrorKind::Config`](crate::ErrorKind::Config) where a transport refuses its options, naming file and table.
    pub fn from_settings(settings: Settings, registry: &Registry) -> Result<Self, Error> {
        let mut service = Self::new(settings.name);
        if let Some(deadline) = settings.drain_deadline {
            service.drain_deadline = deadline;
        }
        let mut configured = BTreeMap::new();
        for transport in settings.transports {
            configured.insert(transport.name.clone(), transport.variables.clone());
            let built = transport.build(registry)?;
            service.transports.push(Named { name: transport.name.clone(), transport: built, shared: false });
            if let Some(at) = transport.dead_letters {
                service.dead_letters.insert(transport.name, at);
            }
        }
        service.routes = settings.routes;
        service.publishes.clone_from(&settings.destinations);
        service.governed.configure(settings.catalog)?;
        service.configured = Configured {
            origin: Some(settings.origin),
            transports: configured,
            destinations: settings.destinations,
            policies: settings.policies,
            handlers: settings.handlers,
        };
        Ok(service)
    }

    /// Adds a transport. Where there are no routes everything goes to the first one; where there are, they have to cover every
    /// topic.
    pub fn transport(mut self, name: impl Into<Text>, transport: impl Transport + 'static) -> Self {
        self.transports.push(Named { name: name.into(), transport: Arc::new(transport), shared: false });
        self
    }

    /// As [`Service::transport`] for a transport that several services of one process use: a drain leaves it open, and
    /// whoever shares it closes it after the last of them.
    pub fn share(mut self, name: impl Into<Text>, transport: Arc<dyn Transport>) -> Self {
        self.transports.push(Named { name: name.into(), transport, shared: true });
        self
    }

    /// Puts what `with` makes in the place of every transport, under the same names; a service without one has one named
    /// `memory`. They are shared: a drain leaves them open. For tests, and for whatever is to lie between a service and
    /// its transports.
    pub fn replace_transports(
        mut self,
        mut with: impl FnMut(&str, Option<Arc<dyn Transport>>) -> Arc<dyn Transport>,
    ) -> Self {
        let before = std::mem::take(&mut self.transports);
        if before.is_empty() {
            let name = Text::from_static("memory");
            self.transports.push(Named { transport: with(&name, None), name, shared: true });
        }
        for Named { name, transport, .. } in before {
            self.transports.push(Named { transport: with(&name, Some(transport)), name, shared: true });
        }
        self
    }

    /// Sends topics that match `pattern` to the transport named `to`; the first route that matches wins.
    pub fn route(mut self, pattern: Pattern, to: impl Into<Text>) -> Self {
        self.routes.push((pattern, to.into()));
        self
    }

    /// Keeps the dead letters of what fails on transport `of` at transport `at`.
    pub fn dead_letters(mut self, of: impl Into<Text>, at: impl Into<Text>) -> Self {
        self.dead_letters.insert(of.into(), at.into());
        self
    }

    /// Names a policy; `default` is the one of handlers that name none.
    pub fn policy(mut self, name: impl Into<Text>, policy: Policy) -> Self {
        self.policies.insert(name.into(), policy);
        self
    }

    /// Adds a handler.
    pub fn handler<H: Handler>(mut self, handler: H) -> Self {
        match Arc::new(handler).spec() {
            Ok(spec) => self.handlers.push(spec),
            Err(error) => self.problems.push(error),
        }
        self
    }

    /// Adds a handler that was put together by hand.
    pub fn spec(mut self, spec: HandlerSpec) -> Self {
        self.handlers.push(spec);
        self
    }

    /// Handles messages of one type with a closure; the handler has the group's name.
    pub fn on<M, R, F, Fut>(mut self, group: &str, handler: F) -> Self
    where
        M: Message,
        R: IntoMessages + 'static,
        F: Fn(M, Context) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Result<R, HandlerError>> + Send + 'static,
    {
        match HandlerSpec::new(group, group) {
            Ok(spec) => self.handlers.push(spec.with(closure(handler))),
            Err(error) => self.problems.push(error),
        }
        self
    }

    /// Says that the service publishes messages of type `M` from outside of handlers.
    pub fn publishes<M: Message>(mut self) -> Self {
        self.governed.publishes.push((M::NAME, M::TOPIC));
        match M::template() {
            Ok(template) if template.is_dynamic() => {
                self.publishes.push((template.pattern(), Topic::trusted(template.destination())));
            }
            Ok(_) => {}
            Err(error) => self.problems.push(error),
        }
        self
    }

    /// Shares a value with all handlers, found again by its type: [`Context::state`].
    pub fn state<T: Send + Sync + 'static>(mut self, value: T) -> Self {
        self.state.insert(value);
        self
    }

    /// Tells `observer` every life-cycle event of every message.
    pub fn observe(mut self, observer: impl Observer) -> Self {
        self.observers.push(Arc::new(observer));
        self
    }

    /// The inbox of every handler that has none of its own: what a group has handled is not handled again.
    pub fn inbox(mut self, inbox: Arc<dyn Inbox>) -> Self {
        self.inbox = Some(inbox);
        self
    }

    /// The unit of work of every handler that has none of its own.
    pub fn unit_of_work(mut self, unit: Arc<dyn UnitOfWork>) -> Self {
        self.unit = Some(unit);
        self
    }

    /// Takes the time from `clock`; give the transports the same.
    pub fn clock(mut self, clock: Clock) -> Self {
        self.clock = clock;
        self
    }

    /// How long a shutdown waits for what is being handled; 30 s where nothing is said.
    pub fn drain_deadline(mut self, deadline: Duration) -> Self {
        self.drain_deadline = deadline;
        self
    }

    /// The board on which readiness is read, also while the service still starts.
    #[must_use]
    pub fn health(&self) -> HealthBoard {
        self.health.clone()
    }

    /// Checks everything without connecting, says how each handler would be run, and holds the service's own part of the
    /// catalog against the rules.
    ///
    /// # Errors
    /// [`ErrorKind::Refused`](crate::ErrorKind::Refused) and [`ErrorKind::Config`](crate::ErrorKind::Config), naming the
    /// handler and the key to change, or each rule that is broken and denied.
    pub fn check(&self) -> Result<CheckReport, Error> {
        let resolver = self.resolver()?;
        let plans = self.plans(&resolver)?;
        Ok(self.report(&plans, self.warnings()?))
    }

    /// Starts it: declares, subscribes, handles. Returns when every handler is subscribed.
    ///
    /// A transport that cannot be reached is tried again and shows in [`Service::health`]. What the rules of the catalog deny
    /// is logged, and keeps nobody from starting: a waiver that has run out must not keep a service down. Let CI ask
    /// [`Service::check`].
    ///
    /// # Errors
    /// As [`Service::check`], but for the catalog's rules, and what a transport refuses for good.
    pub async fn start(self) -> Result<Running, Error> {
        let (running, plans) = self.prepare()?;
        match running.begin(plans).await {
            Ok(()) => Ok(running),
            Err(error) => running.fail(error).await,
        }
    }

    /// What [`Service::start`] does before it waits for anything.
    fn prepare(self) -> Result<(Running, Vec<Arc<Plan>>), Error> {
        let resolver = self.resolver()?;
        let plans: Vec<Arc<Plan>> = self.plans(&resolver)?.into_iter().map(Arc::new).collect();
        let disabled = self.handlers.iter().filter(|spec| !self.configured.is_enabled(spec));
        let mut resting = Vec::new();
        for spec in disabled {
            match resolver.plan(spec.clone(), plans.iter().map(|plan| &**plan)) {
                Ok(plan) => resting.push(Arc::new(plan)),
                // It does not run, so that is no reason not to start: another handler may have its place now.
                Err(error) => tracing::warn!(
                    handler = %spec.name,
                    error = %crate::Chain(&error),
                    "a disabled handler could not run as it is configured; its dead letters cannot be replayed"
                ),
            }
        }
        for finding in self.findings()? {
            match finding.level {
                Level::Deny => {
                    tracing::error!(service = %self.name, %finding, "the catalog denies this, and `check` fails");
                }
                _ => tracing::warn!(service = %self.name, %finding, "a rule of the catalog is broken"),
            }
        }
        let Self { state, observers, clock, drain_deadline, health, mut publishes, handlers, .. } = self;
        for place in places(&handlers)? {
            if !publishes.contains(&place) {
                publishes.push(place);
            }
        }
        let observers = Observers::new(observers);
        let publisher = PublishHandle::new(
            resolver.service.text().clone(),
            resolver.routes.clone(),
            observers.clone(),
            clock,
            publishes,
        );
        let core = Core {
            transports: resolver.transports.clone(),
            publisher,
            state,
            observers,
            clock,
            health,
            quarantine: Arc::new(Quarantine::new()),
            drain_deadline,
            resolver,
        };
        Ok((Running::new(core, resting), plans))
    }

    /// Makes what its handlers need at the brokers, without receiving anything: where one process is to publish before
    /// another, which handles, has ever been started, so that the other's groups miss nothing.
    ///
    /// # Errors
    /// As [`Service::start`].
    pub async fn declare(self) -> Result<(), Error> {
        let resolver = self.resolver()?;
        let plans = self.plans(&resolver)?;
        for named in &resolver.transports {
            let declarations: Vec<_> = plans.iter().flat_map(|plan| plan.declarations(&named.name)).collect();
            named.transport.declare(&declarations).await?;
        }
        Ok(())
    }

    /// The name of the service.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Starts it and runs it until SIGINT or SIGTERM, then drains. A signal that comes while it starts breaks off the start, and
    /// the handlers that had been started are drained as well.
    ///
    /// # Errors
    /// As [`Service::start`] and [`Running::drain`].
    #[cfg(feature = "runtime")]
    pub async fn run(self) -> Result<(), Error> {
        let mut shutdown = Shutdown::listen();
        let (running, plans) = self.prepare()?;
        let started = tokio::select! {
            biased;
            started = running.begin(plans) => Some(started),
            () = shutdown.requested() => None,
        };
        match started {
            Some(Ok(())) => shutdown.requested().await,
            Some(Err(error)) => return running.fail(error).await,
            None => {}
        }
        tracing::info!("draining");
        running.drain().await
    }

    fn resolver(&self) -> Result<Resolver, Error> {
        if let Some(problem) = self.problems.first() {
            return Err(Error::new(problem.kind(), problem.to_string()));
        }
        let service = Group::new(self.name.clone()).map_err(|error| {
            Error::refused(format!("`{}` cannot be a service's name", self.name)).with_source(error)
        })?;
        let mut transports = self.transports.clone();
        if transports.is_empty() {
            let memory = Memory::with(crate::memory::MemoryConfig::default(), self.clock);
            transports.push(Named {
                name: Text::from_static("memory"),
                transport: Arc::new(memory),
                shared: false,
            });
        }
        let find = |name: &Text, place: &str| {
            transports.iter().find(|named| named.name == *name).cloned().ok_or_else(|| {
                let known: Vec<&str> = transports.iter().map(|named| named.name.as_str()).collect();
                Error::config(format!(
                    "{place} names the unknown transport `{name}`; there are {}",
                    known.join(", ")
                ))
            })
        };
        let mut routes = Vec::new();
        for (pattern, to) in &self.routes {
            let named = find(to, &format!("the route of `{pattern}`"))?;
            routes.push(Route { pattern: pattern.clone(), transport: named.transport, name: named.name });
        }
        if routes.is_empty() {
            let first = transports[0].clone();
            let everything = Pattern::trusted(Text::from_static(">"));
            routes.push(Route { pattern: everything, transport: first.transport, name: first.name });
        }
        let mut dead_letters = BTreeMap::new();
        for (of, at) in &self.dead_letters {
            find(of, "`dead_letters`")?;
            dead_letters.insert(of.clone(), find(at, &format!("`[transports.{of}] dead_letters`"))?);
        }
        self.configured.check_used(|name| {
            routes.iter().any(|route| route.name == *name)
                || dead_letters.values().any(|at: &Named| at.name == *name)
        })?;
        Ok(Resolver {
            service,
            transports,
            routes: Routes(routes.into()),
            dead_letters,
            policies: self.policies.clone(),
            configured: self.configured.clone(),
            inbox: self.inbox.clone(),
            unit: self.unit.clone(),
        })
    }

    fn plans(&self, resolver: &Resolver) -> Result<Vec<Plan>, Error> {
        let mut plans: Vec<Plan> = Vec::new();
        for name in self.configured.handlers.keys() {
            if !self.handlers.iter().any(|spec| spec.name == *name) {
                let known = self.handlers.iter().map(HandlerSpec::name);
                let hint = crate::config::nearest(name, known.clone()).map_or_else(
                    || format!("there are {}", known.collect::<Vec<_>>().join(", ")),
                    |near| format!("did you mean `{near}`?"),
                );
                return Err(self.configured.blame(Error::config(format!(
                    "`[handlers.{name}]` configures a handler that does not exist; {hint}"
                ))));
            }
        }
        for spec in &self.handlers {
            if self.configured.is_enabled(spec) {
                let plan = resolver.plan(spec.clone(), plans.iter())?;
                plans.push(plan);
            }
        }
        Ok(plans)
    }
}

/// The places on log brokers of the dynamic topics that handlers take and publish.
fn places(specs: &[HandlerSpec]) -> Result<Vec<(Pattern, Topic)>, Error> {
    let mut places = Vec::new();
    for spec in specs {
        for registration in &spec.registrations {
            places.extend(place(registration.template)?);
        }
        for (_, topic) in spec.published() {
            places.extend(place(topic)?);
        }
    }
    Ok(places)
}

/// The place of a topic with dynamic segments.
fn place(topic: &'static str) -> Result<Option<(Pattern, Topic)>, Error> {
    let template = TopicTemplate::new(Text::from_static(topic))?;
    Ok(template.is_dynamic().then(|| (template.pattern(), Topic::trusted(template.destination()))))
}

impl fmt::Debug for Service {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Service")
            .field("name", &self.name)
            .field("handlers", &self.handlers.iter().map(HandlerSpec::name).collect::<Vec<_>>())
            .finish_non_exhaustive()
    }
}

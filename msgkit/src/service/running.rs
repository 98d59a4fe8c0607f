//! A service that runs: its handlers, and the ways to stop, pause and change it.

use std::collections::{BTreeSet, VecDeque};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use tokio::sync::{Mutex, watch};
use tokio::task::JoinSet;

use super::belt::Belt;
use super::control::{Control, Mode};
use super::health::{HealthBoard, Readiness};
use super::lane::{Feed, Lane, Shared, panic_text};
use super::leftovers;
use super::plan::{Named, Plan};
use super::publish::{PublishHandle, Routes};
use super::quarantine::Quarantine;
use super::source::{Beginning, Fetched, Source};
use crate::envelope::Clock;
use crate::error::{Chain, Error, ErrorKind};
use crate::handler::{ContextParts, HandlerSpec, State};
use crate::policy::{Breaker, OnFailure, Order};
use crate::telemetry::Observers;
use crate::text::Text;
use crate::transport::{Group, Subscriber as _, Transport, TransportError};

/// The shortest and the longest pause between two tries to reach a transport at start.
const PAUSE: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(30));

/// What every handler of a service needs.
#[derive(Debug)]
pub(crate) struct Core {
    pub(crate) transports: Vec<Named>,
    pub(crate) publisher: PublishHandle,
    pub(crate) state: State,
    pub(crate) observers: Observers,
    pub(crate) clock: Clock,
    pub(crate) health: HealthBoard,
    pub(crate) quarantine: Arc<Quarantine>,
    pub(crate) drain_deadline: Duration,
    pub(crate) resolver: super::resolve::Resolver,
}

/// A running service.
///
/// Dropping it stops at once: what was not settled goes back to the brokers. [`Running::drain`] lets it finish.
#[derive(Debug)]
pub struct Running {
    core: Arc<Core>,
    handlers: Mutex<Vec<RunningHandler>>,
    /// Those that configuration keeps from running: what waits for them and their dead letters are there all the same.
    resting: Vec<Arc<Plan>>,
}

#[derive(Debug)]
struct RunningHandler {
    name: Text,
    plan: Arc<Plan>,
    mode: watch::Sender<Mode>,
    tasks: JoinSet<()>,
}

impl Running {
    /// A service that runs no handler yet.
    pub(crate) fn new(core: Core, resting: Vec<Arc<Plan>>) -> Self {
        core.health.watch(&core.transports);
        Self { core: Arc::new(core), handlers: Mutex::default(), resting }
    }

    /// Declares, subscribes, handles. Where it is dropped in the middle, the handlers that run already go on, and
    /// [`Running::drain`] ends them as it ends all.
    pub(crate) async fn begin(&self, plans: Vec<Arc<Plan>>) -> Result<(), Error> {
        let core = &self.core;
        for named in &core.transports {
            let declarations: Vec<_> = plans.iter().flat_map(|plan| plan.declarations(&named.name)).collect();
            insist(&core.health, named, "declaring", || named.transport.declare(&declarations)).await?;
        }
        for plan in plans {
            let handler = core.run(plan).await?;
            self.handlers.lock().await.push(handler);
        }
        core.health.started();
        let handlers = self.handlers().await.join(", ");
        tracing::info!(handlers, "ready");
        Ok(())
    }

    /// Ends what has been started before `error` kept the rest from it.
    pub(crate) async fn fail<T>(self, error: Error) -> Result<T, Error> {
        if let Err(closing) = self.drain().await {
            tracing::error!(error = %Chain(&closing), "a transport did not close cleanly after a failed start");
        }
        Err(error)
    }

    /// Publishes from outside of handlers: cheap to clone, usable from any task.
    #[must_use]
    pub fn publisher(&self) -> PublishHandle {
        self.core.publisher.clone()
    }

    /// Whether the service is ready, and what is missing if not: as [`HealthBoard::readiness`].
    pub async fn readiness(&self) -> Readiness {
        self.core.health.readiness().await
    }

    /// The transport named `name`, to operate it.
    #[must_use]
    pub fn transport(&self, name: &str) -> Option<Arc<dyn Transport>> {
        self.core.transports.iter().find(|named| named.name == name).map(|named| named.transport.clone())
    }

    /// All transports, by the names that configuration gives them.
    pub fn transports(&self) -> impl Iterator<Item = (&str, &Arc<dyn Transport>)> {
        self.core.transports.iter().map(|named| (named.name.as_str(), &named.transport))
    }

    /// How the handler of `group` is run, or would be if it were enabled.
    pub(super) async fn plan_of(&self, group: &Group) -> Result<Arc<Plan>, Error> {
        let handlers = self.handlers.lock().await;
        let all = || handlers.iter().map(|handler| &handler.plan).chain(&self.resting);
        all().find(|plan| plan.group == *group).cloned().ok_or_else(|| {
            let known: BTreeSet<&str> = all().map(|plan| plan.group.as_str()).collect();
            let known = if known.is_empty() { "none".to_owned() } else { Vec::from_iter(known).join(", ") };
            Error::refused(format!("no handler of this service has group `{group}`; there are {known}"))
        })
    }

    pub(super) fn routes(&self) -> &Routes {
        &self.core.resolver.routes
    }

    /// The handlers' names.
    pub async fn handlers(&self) -> Vec<String> {
        self.handlers.lock().await.iter().map(|handler| handler.name.as_str().to_owned()).collect()
    }

    /// Lets `handler` fetch nothing more; what is in hand is finished.
    ///
    /// # Errors
    /// [`ErrorKind::Refused`](crate::ErrorKind::Refused) where no handler has that name.
    pub async fn pause(&self, handler: &str) -> Result<(), Error> {
        self.switch(handler, Mode::Paused).await
    }

    /// Lets `handler` fetch again.
    ///
    /// # Errors
    /// As [`Running::pause`].
    pub async fn resume(&self, handler: &str) -> Result<(), Error> {
        self.switch(handler, Mode::Running).await
    }

    async fn switch(&self, handler: &str, mode: Mode) -> Result<(), Error> {
        let handlers = self.handlers.lock().await;
        let Some(found) = handlers.iter().find(|known| known.name == handler) else {
            return Err(unknown(handler, &handlers));
        };
        found.mode.send_replace(mode);
        Ok(())
    }

    /// Adds a handler; its group is declared before it begins to receive.
    ///
    /// # Errors
    /// What [`Service::check`](crate::Service::check) would say of it, or what its transports do.
    pub async fn attach(&self, spec: HandlerSpec) -> Result<(), Error> {
        let mut handlers = self.handlers.lock().await;
        if !self.core.resolver.configured.is_enabled(&spec) {
            return Err(Error::refused(format!(
                "`[handlers.{}] enabled = false` keeps the handler from running",
                spec.name
            )));
        }
        for (message, topic) in spec.published() {
            if let Some((pattern, place)) = super::place(topic)?
                && !self.core.publisher.has_place(&pattern, &place)
            {
                return Err(Error::refused(format!(
                    "handler `{}` publishes `{message}`, whose topic `{pattern}` the service did not know when it started; say so \
                     there: `Service::publishes`",
                    spec.name
                )));
            }
        }
        let plan = Arc::new(self.core.resolver.plan(spec, handlers.iter().map(|handler| &*handler.plan))?);
        for named in &self.core.transports {
            let declarations = plan.declarations(&named.name);
            if !declarations.is_empty() {
                named.transport.declare(&declarations).await?;
            }
        }
        handlers.push(self.core.run(plan).await?);
        Ok(())
    }

    /// Takes a handler away once what it has in hand is finished; its group stays declared and keeps its backlog.
    ///
    /// # Errors
    /// As [`Running::pause`].
    pub async fn detach(&self, handler: &str) -> Result<(), Error> {
        let found = {
            let mut handlers = self.handlers.lock().await;
            match handlers.iter().position(|known| known.name == handler) {
                Some(at) => handlers.swap_remove(at),
                None => return Err(unknown(handler, &handlers)),
            }
        };
        found.mode.send_replace(Mode::Draining);
        finish(vec![found], self.core.drain_deadline).await;
        Ok(())
    }

    /// Shuts down without losing anything: fetches no more, finishes what is being handled within the deadline, gives
    /// the rest back, waits for the brokers' word on what was settled, closes. None of it costs an attempt.
    ///
    /// # Errors
    /// [`ErrorKind::Transport`](crate::ErrorKind::Transport) where a transport could not be closed; the others are.
    pub async fn drain(self) -> Result<(), Error> {
        self.core.health.draining();
        let handlers = std::mem::take(&mut *self.handlers.lock().await);
        for handler in &handlers {
            handler.mode.send_replace(Mode::Draining);
        }
        finish(handlers, self.core.drain_deadline).await;
        let mut result = Ok(());
        for named in self.core.transports.iter().filter(|named| !named.shared) {
            if let Err(error) = named.transport.close().await {
                tracing::error!(transport = %named.name, error = %Chain(&error), "the transport did not close cleanly");
                result = Err(error.into());
            }
        }
        result
    }

    /// Runs until SIGINT or SIGTERM, then drains. A signal that came before ends the process at once, as the system has it;
    /// [`Service::run`](super::Service::run) and [`Shutdown`](super::Shutdown) listen from the start.
    ///
    /// # Errors
    /// As [`Running::drain`].
    #[cfg(feature = "runtime")]
    pub async fn until_shutdown(self) -> Result<(), Error> {
        super::shutdown_signal().await;
        tracing::info!("draining");
        self.drain().await
    }

    /// Breaks off as a killed process would, but keeps the transports: for simulations of crashes.
    pub async fn crash(self) {
        for mut handler in std::mem::take(&mut *self.handlers.lock().await) {
            handler.tasks.abort_all();
            while handler.tasks.join_next().await.is_some() {}
        }
    }
}

fn unknown(handler: &str, handlers: &[RunningHandler]) -> Error {
    let known: Vec<&str> = handlers.iter().map(|handler| handler.name.as_str()).collect();
    Error::refused(format!("no handler is named `{handler}`; there are {}", known.join(", ")))
}

/// Waits for the tasks of `handlers`; what is not done by the deadline is broken off and goes back.
async fn finish(mut handlers: Vec<RunningHandler>, deadline: Duration) {
    let deadline = tokio::time::Instant::now() + deadline;
    for handler in &mut handlers {
        while let Ok(Some(joined)) = tokio::time::timeout_at(deadline, handler.tasks.join_next()).await {
            if let Err(error) = joined {
                tracing::error!(handler = %handler.name, %error, "a lane ended badly");
            }
        }
        if !handler.tasks.is_empty() {
            tracing::warn!(
                handler = %handler.name, lanes = handler.tasks.len(),
                "the drain deadline has passed; what is being handled goes back to the broker"
            );
            handler.tasks.abort_all();
            while handler.tasks.join_next().await.is_some() {}
        }
    }
}

/// Tries `call` until it succeeds; a temporary error is tried again, anything else is final.
async fn insist<T, F>(
    health: &HealthBoard,
    named: &Named,
    what: &str,
    mut call: impl FnMut() -> F,
) -> Result<T, Error>
where
    F: Future<Output = Result<T, TransportError>>,
{
    let mut pause = PAUSE.0;
    loop {
        match call().await {
            Ok(value) => {
                health.up(&named.name);
                return Ok(value);
            }
            Err(error) if error.is_temporary() => {
                let text = Chain(&error).to_string();
                health.down(&named.name, &text);
                tracing::warn!(transport = %named.name, error = text, "{what} failed; trying again in {pause:?}");
                tokio::time::sleep(pause).await;
                pause = (pause * 2).min(PAUSE.1);
            }
            Err(error) => {
                let text = format!("{what} at transport `{}` failed", named.name);
                return Err(Error::new(ErrorKind::Transport, text).with_source(error));
            }
        }
    }
}

impl Core {
    /// Subscribes a handler and starts its lanes.
    async fn run(&self, plan: Arc<Plan>) -> Result<RunningHandler, Error> {
        let (mode, receiver) = watch::channel(Mode::Running);
        let control = Control::new(receiver);
        let beginning = Beginning {
            plan: plan.clone(),
            control: control.clone(),
            quarantine: self.quarantine.clone(),
            health: self.health.clone(),
            clock: self.clock,
        };
        let mut sources = Vec::new();
        for (at, origin) in plan.origins.iter().enumerate() {
            for subscription in plan.subscriptions(origin) {
                let subscribing = || origin.from.transport.subscribe(&subscription);
                let deliveries = insist(&self.health, &origin.from, "subscribing", subscribing).await?;
                sources.push(beginning.source(at, subscription, deliveries));
            }
        }
        let shared = Arc::new(Shared {
            parts: Arc::new(ContextParts {
                identity: plan.identity.clone(),
                publisher: self.publisher.clone(),
                state: self.state.clone(),
                clock: self.clock,
            }),
            observers: self.observers.clone(),
            health: self.health.clone(),
            breaker: plan.policy.breaker.clone().map(Breaker::new),
            quarantine: self.quarantine.clone(),
            plan: plan.clone(),
        });
        let mut tasks = JoinSet::new();
        let lanes = plan.policy.concurrency;
        match <[Source; 1]>::try_from(sources) {
            Ok([source]) if lanes == 1 => {
                let lane = Lane::new(shared, Feed::Source(Box::new(source)), control);
                tasks.spawn(guarded(lane.run(), plan.clone(), self.health.clone()));
            }
            sources => {
                let sources = sources.map_or_else(|sources| sources, Vec::from);
                let by_key = matches!(plan.policy.order, Order::Key(OnFailure::Overtake | OnFailure::Hold));
                let belt = Arc::new(Belt::new(lanes, by_key, self.quarantine.clone()));
                let (ended, lanes_left) = watch::channel(());
                for lane in 0..lanes {
                    let lane = Lane::new(shared.clone(), Feed::Belt(belt.clone(), lane), control.clone());
                    let ended = lanes_left.clone();
                    let running = async move {
                        lane.run().await;
                        drop(ended);
                    };
                    tasks.spawn(guarded(running, plan.clone(), self.health.clone()));
                }
                drop(lanes_left);
                let ended = Arc::new(ended);
                for source in sources {
                    let fetching = fetch(source, belt.clone(), ended.clone());
                    tasks.spawn(guarded(fetching, plan.clone(), self.health.clone()));
                }
                for (at, _) in plan.origins.iter().enumerate().filter(|(_, origin)| plan.keeps_delays(origin))
                {
                    let reading = leftovers::read(beginning.clone(), at, belt.clone(), ended.clone());
                    tasks.spawn(guarded(reading, plan.clone(), self.health.clone()));
                }
            }
        }
        Ok(RunningHandler { name: plan.identity.handler.clone(), plan, mode, tasks })
    }
}

/// Runs a lane or a fetcher. A handler's panic is a failure of its message; one that comes as far as here is a mistake of
/// msgkit, or of what was plugged into it (an inbox, an observer). What the task had in hand goes back, and the service is
/// not ready any more, so that it is started again rather than left with a lane less.
pub(super) async fn guarded(task: impl Future<Output = ()>, plan: Arc<Plan>, health: HealthBoard) {
    let mut task = std::pin::pin!(task);
    let ended = std::future::poll_fn(|cx| match catch_unwind(AssertUnwindSafe(|| task.as_mut().poll(cx))) {
        Ok(poll) => poll.map(Ok),
        Err(panic) => Poll::Ready(Err(panic_text(&*panic).to_owned())),
    });
    if let Err(panic) = ended.await {
        let handler = &plan.identity.handler;
        tracing::error!(%handler, panic, "a lane has ended by a panic outside of the handler; restart the service");
        health.down(&format!("handler {handler}").into(), &format!("a lane ended by a panic: {panic}"));
    }
}

/// Feeds the belt from one subscription; closes it when all lanes have settled what they had.
pub(super) async fn fetch(mut source: Source, belt: Arc<Belt>, lanes: Arc<watch::Sender<()>>) {
    let participant = source.quarantine.join();
    let mut batch = VecDeque::new();
    loop {
        match source.fetch_due(&mut batch).await {
            Fetched::Some => belt.put(source.origin, &mut batch),
            Fetched::StandStill => {
                belt.give_back();
                source.flush().await;
                source.quarantine.clone().stand_still().await;
            }
            Fetched::Stop => break,
        }
    }
    batch.clear();
    source.deliveries.stop();
    belt.give_back();
    // It fetches nothing more: a suspect of its own lanes need not wait for it.
    drop(participant);
    lanes.closed().await;
    source.close().await;
}

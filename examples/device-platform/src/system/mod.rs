//! The platform put together: which components run in this process, on which transport.
//!
//! Each component is a service of its own with its own name, group and journal; those of one process share the transports. With
//! `--only` the others run elsewhere: their groups are declared here all the same, so that they miss nothing that is published
//! before they were ever started.

mod asker;
mod catalog;
mod check;
mod dead_letters;
mod journal;
mod replay;
mod transports;

use std::net::SocketAddr;
use std::path::Path;
use std::sync::{Arc, OnceLock};

use anyhow::Context as _;
use async_trait::async_trait;
use msgkit::Service;
use msgkit::service::{HealthBoard, Running};
use tokio::sync::watch;
use tokio::task::JoinSet;

pub use asker::{Answers, Asker};
pub use catalog::{CALLS, DEVICES, catalog};
pub use check::{SystemCheck, check, check_with};
pub use journal::{Counts, Journal};

use self::transports::{Transports, make_folder};
use crate::api_gateway::component::ByMessages;
use crate::api_gateway::metrics::{Exposition, Kind};
use crate::api_gateway::{Access, Gateway, Status, router};
use crate::data_api::Store;
use crate::data_api::component::{Answer, StoreAlerts, StoreJournal, StoreReadings};
use crate::event_rule::Rules;
use crate::event_rule::component::EventRule;
use crate::messages::{
    AggregatesQuery, AlertsQuery, DeadLetter, DeadLettersQuery, DevicesQuery, HopsRecorded, ReadingReported,
    ReadingsQuery, TraceQuery,
};
use crate::notification::Hub;
use crate::notification::component::{FeedHub, Notification};
use crate::processing::component::Processing;
use crate::settings::{Component, Run};

/// How many events are kept for browsers that come back.
const EVENTS: usize = 1024;

/// The order in which components stop: those that bring something in first, the one that keeps everything last.
const STOPPING: [Component; 6] = [
    Component::DeviceHw,
    Component::ApiGateway,
    Component::Processing,
    Component::EventRule,
    Component::Notification,
    Component::DataApi,
];

/// What the components of one process share.
#[derive(Debug)]
struct Parts {
    transports: Transports,
    store: Option<Store>,
    rules: Rules,
    hub: Hub,
    counts: Counts,
    gateway: Arc<ByMessages>,
    rule_asker: Arc<Asker>,
}

impl Parts {
    async fn of(run: &Run, checking: bool) -> anyhow::Result<Self> {
        let transports = Transports::of(run)?;
        let rules = match &run.rules {
            None => Rules::default(),
            Some(file) => read_rules(file)?,
        };
        let store = match &run.data {
            Some(folder) if run.runs(Component::DataApi) && !checking => {
                make_folder(folder)?;
                Some(Store::open(&folder.join("measurements.db")).await?)
            }
            _ => Some(Store::in_memory().await?),
        };
        let gateway = Arc::new(ByMessages { publisher: OnceLock::new(), asker: Arc::default() });
        Ok(Self {
            transports,
            store,
            rules,
            hub: Hub::for_process(EVENTS),
            counts: Counts::default(),
            gateway,
            rule_asker: Arc::default(),
        })
    }

    /// The service of a component, with all its handlers.
    fn service(&self, component: Component) -> anyhow::Result<Service> {
        let store = || self.store.clone().context("the store belongs to data_core.data_api");
        let empty = self.transports.service(component)?;
        let configured =
            self.transports.configuration.as_ref().is_some_and(|own| own.catalog.namespaces.is_some());
        let namespaces = if configured { Vec::new() } else { catalog::namespaces()? };
        let service = match component {
            Component::DeviceHw => empty.publishes::<ReadingReported>(),
            Component::ApiGateway => empty
                .publishes::<ReadingReported>()
                .publishes::<DevicesQuery>()
                .publishes::<ReadingsQuery>()
                .publishes::<AggregatesQuery>()
                .publishes::<AlertsQuery>()
                .publishes::<DeadLettersQuery>()
                .publishes::<TraceQuery>()
                .handler(Answers(self.gateway.asker.clone()))
                .handler(FeedHub(self.hub.clone())),
            Component::Processing => empty.handler(Processing),
            Component::EventRule => empty
                .handler(EventRule::new(self.rules.clone(), self.rule_asker.clone()))
                .handler(Answers(self.rule_asker.clone())),
            Component::DataApi => empty
                .publishes::<DeadLetter>()
                .handler(StoreReadings(store()?))
                .handler(StoreAlerts(store()?))
                .handler(StoreJournal(store()?))
                .handler(Answer(store()?)),
            Component::Notification => empty.handler(Notification),
        };
        // The journal is everybody's.
        Ok(service.component(component.as_str()).namespaces(namespaces).publishes::<HopsRecorded>())
    }
}

fn read_rules(file: &Path) -> anyhow::Result<Rules> {
    let text = std::fs::read_to_string(file)
        .with_context(|| format!("--rules {} cannot be read", file.display()))?;
    Rules::from_toml(&text).with_context(|| format!("--rules {}", file.display()))
}

/// The running components of this process.
#[derive(Debug)]
pub struct System {
    services: Vec<(Component, Running)>,
    transports: Transports,
    hub: Hub,
    store: Option<Store>,
    address: Option<SocketAddr>,
    replayed: usize,
    bringing: JoinSet<()>,
    journals: JoinSet<()>,
    stop_journals: watch::Sender<bool>,
    server: Option<tokio::task::JoinHandle<std::io::Result<()>>>,
    stop_server: Option<tokio::sync::oneshot::Sender<()>>,
}

impl System {
    /// Starts what `run` asks for.
    ///
    /// # Errors
    /// Names the option or the component that cannot be started, and why.
    pub async fn start(run: &Run) -> anyhow::Result<Self> {
        Self::start_with(run, |_, service| service).await
    }

    /// As [`System::start`]; `adapt` gets each component's service before that is started, to put an observer into it.
    ///
    /// # Errors
    /// As [`System::start`].
    pub async fn start_with(
        run: &Run,
        adapt: impl Fn(Component, Service) -> Service,
    ) -> anyhow::Result<Self> {
        let parts = Parts::of(run, false).await?;
        // First everybody's groups, then the first message.
        for component in Component::ALL {
            parts.service(component)?.declare().await.with_context(|| component.to_string())?;
        }
        let mut services = Vec::new();
        let mut boards = Vec::new();
        let mut journals = JoinSet::new();
        let stop_journals = watch::Sender::new(false);
        for component in STOPPING.into_iter().rev().filter(|component| run.runs(*component)) {
            let (observer, entries) = Journal::new(component.as_str(), parts.counts.clone());
            let service = adapt(component, parts.service(component)?.observe(observer));
            boards.push((component, service.health()));
            let running = service.start().await.with_context(|| component.to_string())?;
            journals.spawn(journal::write(entries, running.publisher(), stop_journals.subscribe()));
            match component {
                Component::ApiGateway => {
                    parts.gateway.asker.connect(running.publisher());
                    let _ = parts.gateway.publisher.set(running.publisher());
                }
                Component::EventRule => parts.rule_asker.connect(running.publisher()),
                _ => {}
            }
            services.push((component, running));
        }
        let mut system = Self {
            services,
            transports: parts.transports.clone(),
            hub: parts.hub.clone(),
            store: parts.store.clone().filter(|_| run.runs(Component::DataApi)),
            address: None,
            replayed: 0,
            bringing: JoinSet::new(),
            journals,
            stop_journals,
            server: None,
            stop_server: None,
        };
        system.bring(run, &parts, boards).await?;
        Ok(system)
    }

    /// Starts what brings something in: HTTP, the replay, the look at the dead letters.
    async fn bring(
        &mut self,
        run: &Run,
        parts: &Parts,
        boards: Vec<(Component, HealthBoard)>,
    ) -> anyhow::Result<()> {
        let publisher = |wanted: Component| {
            self.services
                .iter()
                .find(|(component, _)| *component == wanted)
                .map(|(_, running)| running.publisher())
        };
        if let (Some(publisher), Some(store)) = (publisher(Component::DataApi), parts.store.clone()) {
            let transports = self.transports.all.iter().map(|(_, transport)| transport.clone()).collect();
            let everybody =
                Component::ALL.into_iter().map(|component| Ok(parts.service(component)?.check()?));
            let groups = dead_letters::groups(&everybody.collect::<anyhow::Result<Vec<_>>>()?)?;
            self.bringing.spawn(dead_letters::watch(transports, groups, store, publisher));
        }
        if let Some(publisher) = publisher(Component::DeviceHw) {
            let (replay, position, before) = replay::prepare(run)?;
            self.replayed = before;
            self.bringing.spawn(replay::run(replay, position, publisher));
        }
        if run.runs(Component::ApiGateway) {
            let listener = tokio::net::TcpListener::bind(run.listen.0).await.with_context(|| {
                format!("--listen {}: cannot listen there; choose another, or port 0", run.listen)
            })?;
            self.address = Some(listener.local_addr()?);
            let access = Access::new(run.listen, run.token.clone())
                .context("--listen beyond loopback needs a token")?;
            let gateway = Gateway {
                sink: parts.gateway.clone(),
                queries: parts.gateway.clone(),
                hub: parts.hub.clone(),
                status: Arc::new(ProcessStatus { boards, counts: parts.counts.clone() }),
                access: Arc::new(access),
                http: Arc::default(),
            };
            let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
            self.stop_server = Some(stop);
            self.server = Some(tokio::spawn(async move {
                let stopping = async {
                    let _ = stopped.await;
                };
                axum::serve(listener, router(gateway)).with_graceful_shutdown(stopping).await
            }));
        }
        Ok(())
    }

    /// Where HTTP is served, if it is.
    #[must_use]
    pub fn address(&self) -> Option<SocketAddr> {
        self.address
    }

    /// How many measurements `device.hw` had replayed before this start.
    #[must_use]
    pub fn replayed(&self) -> usize {
        self.replayed
    }

    /// Stops without losing anything: takes nothing more in, finishes what is in hand, closes.
    ///
    /// # Errors
    /// Where something could not be closed; the rest is.
    pub async fn drain(mut self) -> anyhow::Result<()> {
        self.hub.close();
        drop(self.stop_server.take());
        self.bringing.shutdown().await;
        let mut result = Ok(());
        if let Some(mut server) = self.server.take() {
            match tokio::time::timeout(std::time::Duration::from_secs(5), &mut server).await {
                Ok(Ok(ended)) => result = ended.context("the HTTP server did not stop cleanly"),
                Ok(Err(_)) => tracing::warn!("the HTTP server has ended before"),
                Err(_) => {
                    server.abort();
                    let _ = server.await;
                    tracing::warn!("requests were still open and have been cut off");
                }
            }
        }
        for wanted in STOPPING {
            if let Some(at) = self.services.iter().position(|(component, _)| *component == wanted) {
                let (_, running) = self.services.swap_remove(at);
                if let Err(error) = running.drain().await {
                    result = Err(anyhow::Error::from(error).context(wanted.to_string()));
                }
            }
        }
        // What the journals still publish is for the next start, where the transport keeps it.
        self.stop_journals.send_replace(true);
        let _ = tokio::time::timeout(std::time::Duration::from_secs(5), self.journals.join_all()).await;
        for (name, transport) in &self.transports.all {
            if let Err(error) = transport.close().await {
                result = Err(anyhow::Error::from(error).context(format!("transport {name}")));
            }
        }
        if let Some(store) = &self.store {
            store.close().await;
        }
        result
    }
}

/// What the gateway tells of its process.
struct ProcessStatus {
    boards: Vec<(Component, HealthBoard)>,
    counts: Counts,
}

#[async_trait]
impl Status for ProcessStatus {
    async fn not_ready(&self) -> Vec<String> {
        let mut problems = Vec::new();
        for (component, board) in &self.boards {
            let told = board.readiness().await.problems.into_iter();
            problems.extend(told.map(|(thing, why)| format!("{component}: {thing}: {why}")));
        }
        problems
    }

    fn metrics(&self, exposition: &mut Exposition) {
        let counts = self.counts.lock().unwrap_or_else(std::sync::PoisonError::into_inner).clone();
        exposition.metric(
            "msgkit_events_total",
            Kind::Counter,
            "Life-cycle events of messages, by event and handler.",
            counts.iter().map(|((event, handler), count)| {
                #[allow(clippy::cast_precision_loss)] // The format has nothing but floating point numbers.
                (vec![("event", *event), ("handler", handler.as_str())], *count as f64)
            }),
        );
    }
}

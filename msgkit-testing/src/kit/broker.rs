//! A service under test on a running broker: what the kit adds to it there.

use std::collections::BTreeSet;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use msgkit::memory::{Memory, MemoryConfig};
use msgkit::service::{CheckReport, CheckedHandler, Running};
use msgkit::transport::{Operate, Transport};
use msgkit::{Clock, Error, ErrorKind, Group, Pattern, Service};

/// How long a start may go on while the transport says that it is down: it would be tried again without end.
const REACHED_WITHIN: Duration = Duration::from_secs(30);
/// How long a start may take at all. Services in the cloud make streams for minutes, and nothing is wrong with that.
const STARTED_WITHIN: Duration = Duration::from_secs(5 * 60);
/// The transport that keeps the dead letters of one that cannot.
const LETTERS: &str = "msgkit-testing-dead-letters";

/// One transport for all names of the service.
pub(super) struct Broker {
    pub(super) transport: Arc<dyn Transport>,
    /// Where dead letters are, if the transport does not keep what nobody reads.
    letters: Option<Memory>,
    /// Who takes what, to know when nothing is left.
    pub(super) takes: Vec<Vec<Pattern>>,
}

impl Broker {
    pub(super) fn new(transport: Arc<dyn Transport>) -> Self {
        let keeps = transport.capabilities().keeps_unread;
        let letters = (!keeps).then(|| Memory::with(MemoryConfig::default(), Clock::system()));
        Self { transport, letters, takes: Vec::new() }
    }

    /// Gives the dead letters of the transports `names` a place, where this one cannot be it.
    pub(super) fn keep_letters(&self, mut service: Service, names: &[String]) -> Service {
        let Some(letters) = &self.letters else { return service };
        service = service.share(LETTERS, Arc::new(letters.clone()));
        for name in names {
            // What configuration had for dead letters alone is used by nothing now, and would be refused for that.
            let user = format!("{LETTERS}-{name}");
            service = service.share(user.clone(), Arc::new(letters.clone())).dead_letters(user, name.clone());
            service = service.dead_letters(name.clone(), LETTERS);
        }
        service
    }

    pub(super) fn know(&mut self, report: &CheckReport) {
        let patterns =
            |handler: &CheckedHandler| handler.topics.iter().filter_map(|topic| topic.parse().ok()).collect();
        self.takes = report.handlers.iter().map(patterns).collect();
    }

    /// Starts the service, but does not try for ever.
    pub(super) async fn start(&self, service: Service) -> Result<Running, Error> {
        let health = service.health();
        let mut starting = pin!(service.start());
        if let Ok(started) = tokio::time::timeout(REACHED_WITHIN, &mut starting).await {
            return started;
        }
        let problems = health.readiness().await.problems;
        let why: BTreeSet<String> =
            problems.into_iter().filter(|(thing, _)| thing != "service").map(|(_, why)| why).collect();
        let (time, why) = if why.is_empty() {
            let rest = STARTED_WITHIN - REACHED_WITHIN;
            if let Ok(started) = tokio::time::timeout(rest, &mut starting).await {
                return started;
            }
            (STARTED_WITHIN, "the transport does not say why".to_owned())
        } else {
            (REACHED_WITHIN, Vec::from_iter(why).join("; "))
        };
        let system = self.transport.system();
        let text = format!("the service has not started on the test's url ({system}) within {time:?}: {why}");
        Err(Error::new(ErrorKind::Transport, text))
    }

    /// Where dead letters can be looked at.
    pub(super) fn operate(&self) -> Option<&dyn Operate> {
        match &self.letters {
            Some(letters) => Some(letters),
            None => self.transport.operate(),
        }
    }

    /// Replays a dead letter by whoever knows the way back.
    pub(super) async fn replay(
        &self,
        running: &Running,
        operate: &dyn Operate,
        group: &Group,
        position: &str,
    ) -> Result<(), Error> {
        match &self.letters {
            Some(_) => running.replay(LETTERS, group, position).await,
            None => Ok(operate.replay(group, position).await?),
        }
    }
}

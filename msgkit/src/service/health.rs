//! Whether a service lives and is ready, and if not, why.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use super::plan::Named;
use crate::text::Text;
use crate::transport::{Health, Transport};

/// How long a transport may take to say how it is.
const PATIENCE: Duration = Duration::from_secs(2);

/// Whether a service can do its work.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Readiness {
    /// Whether all handlers are subscribed and work, and all transports are connected.
    pub ready: bool,
    /// What is missing, by thing.
    pub problems: Vec<(String, String)>,
}

/// The board that every part of a service writes its state on.
#[derive(Debug, Clone, Default)]
pub struct HealthBoard(Arc<Mutex<Board>>);

#[derive(Debug, Default)]
struct Board {
    started: bool,
    draining: bool,
    problems: BTreeMap<Text, String>,
    /// Asked each time. Weak, so that a board that somebody keeps does not keep the connections of a service that is gone.
    transports: Vec<(Text, Weak<dyn Transport>)>,
}

impl HealthBoard {
    fn lock(&self) -> MutexGuard<'_, Board> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// From now on these are asked, too.
    pub(crate) fn watch(&self, transports: &[Named]) {
        let watched = transports.iter().map(|named| (named.name.clone(), Arc::downgrade(&named.transport)));
        self.lock().transports = watched.collect();
    }

    pub(crate) fn started(&self) {
        self.lock().started = true;
    }

    pub(crate) fn draining(&self) {
        self.lock().draining = true;
    }

    pub(crate) fn down(&self, thing: &Text, why: &str) {
        self.lock().problems.insert(thing.clone(), why.to_owned());
    }

    pub(crate) fn up(&self, thing: &Text) {
        self.lock().problems.remove(thing);
    }

    /// Whether the service is ready, and what is missing if not. Asks the transports whether they are connected; one that
    /// does not answer within two seconds counts as down.
    ///
    /// # Cancel safety
    /// Dropping the future changes nothing.
    pub async fn readiness(&self) -> Readiness {
        let (mut problems, started, draining, transports) = {
            let board = self.lock();
            (board.problems.clone(), board.started, board.draining, board.transports.clone())
        };
        for (name, transport) in transports {
            let Some(transport) = transport.upgrade() else { continue };
            let down = match tokio::time::timeout(PATIENCE, transport.health()).await {
                Ok(Health::Up) => continue,
                Ok(Health::Down(why)) => why,
                Err(_) => format!("it does not say within {PATIENCE:?} how it is"),
            };
            problems.entry(name).or_insert(down);
        }
        let mut problems: Vec<_> =
            problems.into_iter().map(|(thing, why)| (thing.as_str().to_owned(), why)).collect();
        if !started {
            problems.push(("service".to_owned(), "starting".to_owned()));
        }
        if draining {
            problems.push(("service".to_owned(), "draining".to_owned()));
        }
        Readiness { ready: problems.is_empty(), problems }
    }
}

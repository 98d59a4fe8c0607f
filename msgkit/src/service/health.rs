//! Whether a service lives and is ready, and if not, why.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::text::Text;

/// Whether a service can do its work.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Readiness {
    /// Whether all handlers are subscribed and all transports connected.
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
}

impl HealthBoard {
    fn lock(&self) -> MutexGuard<'_, Board> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
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

    /// Whether the service is ready, and what is missing if not.
    #[must_use]
    pub fn readiness(&self) -> Readiness {
        let board = self.lock();
        let mut problems: Vec<_> =
            board.problems.iter().map(|(thing, why)| (thing.as_str().to_owned(), why.clone())).collect();
        if !board.started {
            problems.push(("service".to_owned(), "starting".to_owned()));
        }
        if board.draining {
            problems.push(("service".to_owned(), "draining".to_owned()));
        }
        Readiness { ready: problems.is_empty(), problems }
    }
}

//! Rows in this process: for tests, and for readers that leave nothing behind.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use async_trait::async_trait;
use msgkit::transport::TransportError;

use super::{Change, LeaseRow, LeaseStore};

type Rows = BTreeMap<(String, String), (u64, String)>;

/// Leases in the memory of this process; clones share them.
#[derive(Debug, Clone, Default)]
pub struct MemoryLeases(Arc<Mutex<Rows>>);

impl MemoryLeases {
    /// No leases.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Those that all transports of this process share under `name`.
    #[must_use]
    pub fn shared(name: &str) -> Self {
        static SHARED: OnceLock<Mutex<HashMap<String, MemoryLeases>>> = OnceLock::new();
        let mut shared = SHARED.get_or_init(Mutex::default).lock().unwrap_or_else(PoisonError::into_inner);
        shared.entry(name.to_owned()).or_default().clone()
    }
}

#[async_trait]
impl LeaseStore for MemoryLeases {
    fn is_durable(&self) -> bool {
        false
    }

    async fn load(&self, space: &str) -> Result<Vec<LeaseRow>, TransportError> {
        let rows = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let from = (space.to_owned(), String::new());
        let own = rows.range(from..).take_while(|((at, _), _)| at == space);
        Ok(own.map(|((_, key), (version, value))| LeaseRow::new(key, *version, value)).collect())
    }

    async fn swap(&self, space: &str, change: Change<'_>) -> Result<bool, TransportError> {
        let mut rows = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let at = (space.to_owned(), change.key.to_owned());
        if rows.get(&at).map_or(0, |(version, _)| *version) != change.expected {
            return Ok(false);
        }
        match change.value {
            Some(value) => rows.insert(at, (change.expected + 1, value.to_owned())),
            None => rows.remove(&at),
        };
        Ok(true)
    }
}

//! What wakes the thread of a subscription.

use std::sync::{Condvar, Mutex, PoisonError};
use std::time::Duration;

/// A bell: who rings it before somebody waits is heard all the same.
#[derive(Debug, Default)]
pub(crate) struct Signal {
    rung: Mutex<bool>,
    bell: Condvar,
}

impl Signal {
    pub(crate) fn ring(&self) {
        *self.rung.lock().unwrap_or_else(PoisonError::into_inner) = true;
        self.bell.notify_one();
    }

    /// Waits until it rings, at most for `patience`.
    pub(crate) fn wait(&self, patience: Duration) {
        let rung = self.rung.lock().unwrap_or_else(PoisonError::into_inner);
        let waiting = self.bell.wait_timeout_while(rung, patience, |rung| !*rung);
        let (mut rung, _) = waiting.unwrap_or_else(PoisonError::into_inner);
        *rung = false;
    }
}

//! One thing that all share, such as a connection: made when it is needed, and again when it is lost.
//!
//! Whoever needs it while it is being made joins the attempt that is under way and gets its outcome, an error too. So ten
//! who wait for a broker that does not answer wait as long as one. The attempt is driven by those who wait for it: it goes
//! on as long as one of them does, and ends with the last.

use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use futures_util::FutureExt as _;
use futures_util::future::{BoxFuture, Shared, WeakShared};
use msgkit::transport::TransportError;

use crate::error;

type Attempt<T> = BoxFuture<'static, Result<Arc<T>, Arc<TransportError>>>;

/// The thing, or the attempt to make it. Clones share it.
pub(crate) struct Kept<T>(Arc<Mutex<State<T>>>);

struct State<T> {
    thing: Option<Arc<T>>,
    attempt: Option<WeakShared<Attempt<T>>>,
}

impl<T: Send + Sync + 'static> Kept<T> {
    /// The thing where it `lives`, else what comes of `making` it.
    pub(crate) async fn get(
        &self,
        lives: impl Fn(&T) -> bool,
        making: impl Future<Output = Result<T, TransportError>> + Send + 'static,
    ) -> Result<Arc<T>, TransportError> {
        let attempt = {
            let mut state = self.lock();
            if let Some(thing) = state.thing.as_ref().filter(|thing| lives(thing)) {
                return Ok(thing.clone());
            }
            state.thing = None;
            match state.under_way() {
                Some(attempt) => attempt,
                None => {
                    let kept = self.clone();
                    let attempt = async move {
                        let thing = Arc::new(making.await.map_err(Arc::new)?);
                        kept.lock().thing = Some(thing.clone());
                        Ok(thing)
                    };
                    let attempt = attempt.boxed().shared();
                    state.attempt = attempt.downgrade();
                    attempt
                }
            }
        };
        attempt.await.map_err(|failed| error::same(&failed))
    }

    /// The thing as it is now.
    pub(crate) fn now(&self) -> Option<Arc<T>> {
        self.lock().thing.clone()
    }

    /// Takes the thing out, after the attempt that is under way.
    pub(crate) async fn take(&self) -> Option<Arc<T>> {
        let attempt = self.lock().under_way();
        if let Some(attempt) = attempt {
            let _ = attempt.await;
        }
        self.lock().thing.take()
    }

    fn lock(&self) -> MutexGuard<'_, State<T>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<T> State<T> {
    /// The attempt that somebody waits for. One that is over tells newcomers nothing.
    fn under_way(&self) -> Option<Shared<Attempt<T>>> {
        self.attempt.as_ref()?.upgrade().filter(|attempt| attempt.peek().is_none())
    }
}

impl<T> Clone for Kept<T> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

impl<T> Default for Kept<T> {
    fn default() -> Self {
        Self(Arc::new(Mutex::new(State { thing: None, attempt: None })))
    }
}

impl<T> fmt::Debug for Kept<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Kept").finish_non_exhaustive()
    }
}

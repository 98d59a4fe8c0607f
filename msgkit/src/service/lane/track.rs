//! One message type on one lane, and how an attempt of it went.

use std::sync::Arc;

use crate::envelope::DeadLetterKind;
use crate::handler::{BatchRegistration, BoxedCoroutine, Coroutine, Failure, HandlerError, Slot};

/// One message type of the handler, on this lane.
pub(super) struct Track {
    pub(super) name: &'static str,
    pub(super) slot: Arc<Slot>,
    pub(super) factory: Arc<dyn Coroutine>,
    pub(super) coroutine: BoxedCoroutine,
    pub(super) batch: Option<BatchRegistration>,
}

/// How an attempt ended.
pub(super) enum Ended {
    Outcome(Result<(), Failure>),
    /// Nothing is known of the context any more: the coroutine is gone.
    Broken(Failure),
}

/// How far an attempt has come.
pub(super) enum Begun {
    /// The coroutine waits.
    Waits,
    /// The attempt is over.
    Ended(Ended),
}

impl Track {
    /// A future that panicked or was given up cannot be polled again: a new one takes its place.
    pub(super) fn restart(&mut self) {
        self.slot.clear();
        self.coroutine = self.factory.start(self.slot.clone());
    }
}

/// A panic as the failure of a handler.
pub(super) fn panicked(panic: &(dyn std::any::Any + Send)) -> Failure {
    let error = format!("the handler panicked: {}", panic_text(panic));
    Failure::new(DeadLetterKind::Panic, HandlerError::retry(error))
}

/// What a panic said.
pub(crate) fn panic_text(panic: &(dyn std::any::Any + Send)) -> &str {
    panic
        .downcast_ref::<&str>()
        .copied()
        .or_else(|| panic.downcast_ref::<String>().map(String::as_str))
        .unwrap_or("no text")
}

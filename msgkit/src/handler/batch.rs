//! Handlers that take several messages of one type at once, with an outcome for each.

use std::fmt;
use std::future::Future;
use std::marker::PhantomData;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use super::context::Context;
use super::error::HandlerError;
use super::registration::{BoxedCoroutine, Coroutine, Registration};
use super::slot::{Failure, Slot};
use crate::message::Message;

/// One message of a batch, with its context.
#[derive(Debug)]
#[non_exhaustive]
pub struct Batch<M> {
    /// The message.
    pub message: M,
    /// Its own envelope, attempt and outbox.
    pub cx: Context,
}

/// What became of each message of a batch, in its order.
#[derive(Debug)]
pub struct BatchOutcome(Vec<Result<(), HandlerError>>);

impl BatchOutcome {
    /// One outcome for each message, in the batch's order.
    #[must_use]
    pub fn each(outcomes: Vec<Result<(), HandlerError>>) -> Self {
        Self(outcomes)
    }

    /// All `count` succeeded.
    #[must_use]
    pub fn all(count: usize) -> Self {
        Self((0..count).map(|_| Ok(())).collect())
    }
}

/// Handles several messages of one type at once: a bulk insert, one call for many.
pub trait HandleBatch<M>: Send + Sync + 'static {
    /// Handles `batch`, which is never empty, and says what became of each message; an error is one for all.
    ///
    /// # Cancel safety
    /// As [`Handle::handle`](super::Handle::handle).
    fn handle_batch(
        &self,
        batch: Vec<Batch<M>>,
    ) -> impl Future<Output = Result<BatchOutcome, HandlerError>> + Send;
}

/// The registration of `handler` for batches of up to `size` messages of type `M`; a batch that is not full is handled
/// when its first message has waited for `wait`.
///
/// Where a failing message holds its key (`order = "key_hold"`), a batch ends before the second message of one key.
#[must_use]
pub fn batch<H: HandleBatch<M>, M: Message>(handler: &Arc<H>, size: usize, wait: Duration) -> Registration {
    let typed = Arc::new(Typed { handler: handler.clone(), types: PhantomData });
    Registration {
        name: M::NAME,
        template: M::TOPIC,
        coroutine: typed.clone(),
        batch: Some(BatchRegistration { size: size.max(1), wait, run: typed }),
        returns: |_| {},
    }
}

/// How a lane runs batches.
#[derive(Clone)]
pub(crate) struct BatchRegistration {
    pub(crate) size: usize,
    pub(crate) wait: Duration,
    pub(crate) run: Arc<dyn RunBatch>,
}

impl fmt::Debug for BatchRegistration {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("BatchRegistration")
            .field("size", &self.size)
            .field("wait", &self.wait)
            .finish_non_exhaustive()
    }
}

/// What became of each context of a batch, in its order.
pub(crate) type BatchResults = Vec<Result<(), Failure>>;

/// Runs one batch; the message type is inside.
pub(crate) trait RunBatch: Send + Sync {
    fn run(&self, contexts: Vec<Context>) -> Pin<Box<dyn Future<Output = BatchResults> + Send>>;
}

struct Typed<H, M> {
    handler: Arc<H>,
    types: PhantomData<fn(M)>,
}

impl<H: HandleBatch<M>, M: Message> RunBatch for Typed<H, M> {
    fn run(&self, contexts: Vec<Context>) -> Pin<Box<dyn Future<Output = BatchResults> + Send>> {
        let handler = self.handler.clone();
        Box::pin(async move {
            let mut results: BatchResults = Vec::with_capacity(contexts.len());
            let mut messages = Vec::with_capacity(contexts.len());
            let mut places = Vec::with_capacity(contexts.len());
            for (place, cx) in contexts.into_iter().enumerate() {
                match M::decode(cx.envelope()) {
                    Ok(message) => {
                        messages.push(Batch { message, cx });
                        places.push(place);
                        results.push(Ok(()));
                    }
                    Err(error) => results.push(Err(Failure::decode(error))),
                }
            }
            if messages.is_empty() {
                return results;
            }
            match handler.handle_batch(messages).await {
                Ok(BatchOutcome(outcomes)) if outcomes.len() == places.len() => {
                    for (place, outcome) in places.into_iter().zip(outcomes) {
                        results[place] = outcome.map_err(Failure::handler);
                    }
                }
                Ok(BatchOutcome(outcomes)) => {
                    let error = format!(
                        "the batch handler gave {} outcomes for {} messages; give one for each, in their order",
                        outcomes.len(),
                        places.len()
                    );
                    for place in places {
                        results[place] = Err(Failure::handler(HandlerError::permanent(error.clone())));
                    }
                }
                Err(error) => {
                    let disposition = error.disposition().clone();
                    let text = error.to_string();
                    for place in places {
                        results[place] =
                            Err(Failure::handler(HandlerError::with(disposition.clone(), text.clone())));
                    }
                }
            }
            results
        })
    }
}

/// A batch of one: how a message of a batch handler is tried again.
impl<H: HandleBatch<M>, M: Message> Coroutine for Typed<H, M> {
    fn start(&self, slot: Arc<Slot>) -> BoxedCoroutine {
        let this = Self { handler: self.handler.clone(), types: PhantomData };
        Box::pin(async move {
            let mut cx = slot.next().await;
            loop {
                let outcome = this.run(vec![cx.clone()]).await.pop().unwrap_or(Ok(()));
                cx = slot.report(cx, outcome, M::NAME).await;
            }
        })
    }
}

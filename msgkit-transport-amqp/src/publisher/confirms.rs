//! Confirmations: messages go out one behind the other without waiting, and the broker's word on each is awaited after.

use std::collections::HashSet;
use std::future::poll_fn;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::Poll;

use lapin::options::{BasicPublishOptions, ConfirmSelectOptions};
use lapin::{Channel, Confirmation};
use msgkit::transport::{TransportError, TransportErrorKind};
use tokio::sync::Mutex;
use tokio::time::Instant;

use super::place::{Parcel, Place};
use crate::broker::{Broker, KnownGroup};
use crate::error::{self, closed};
use crate::later::{LOWEST, Later};
use crate::topology::short;
use crate::wire::Written;

/// The most messages of one batch that are under way unconfirmed.
const WINDOW: usize = 512;

/// What became of one message.
#[derive(Debug)]
pub(crate) enum Outcome {
    /// The broker has it.
    Taken,
    /// The broker has it no more: no queue takes it.
    Unrouted,
    /// A queue refuses it: it is full.
    Refused,
    /// It was not taken, or that is not known.
    Failed(TransportError),
}

/// The channel that publishes, made when it is needed and again when it is lost.
#[derive(Debug, Default)]
pub(crate) struct Confirms(Mutex<Option<Arc<Publishing>>>);

#[derive(Debug)]
struct Publishing {
    channel: Channel,
    /// Somebody stopped waiting for confirmations that are still to come.
    spoilt: AtomicBool,
}

/// Spoils the channel where nobody waits for what is under way any more: the client would keep it for ever.
struct Waiting<'a> {
    publishing: &'a Publishing,
    over: bool,
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        if !self.over {
            self.publishing.spoilt.store(true, Ordering::Release);
        }
    }
}

type Sending<'a> = Pin<Box<dyn Future<Output = lapin::Result<Confirmation>> + Send + 'a>>;

impl Broker {
    /// Makes what `parcels` need and publishes them once.
    pub(super) async fn attempt(&self, parcels: &mut [Parcel]) -> Result<Vec<Outcome>, TransportError> {
        let mut missing = HashSet::new();
        for parcel in parcels.iter_mut() {
            parcel.place = self.place(&parcel.message);
            if !self.has_place(&parcel.place) {
                missing.insert(parcel.place.clone());
            }
        }
        if !missing.is_empty() {
            // Each on a channel of its own, for a new queue takes its time.
            futures_util::future::try_join_all(missing.iter().map(|place| self.ensure(place))).await?;
            self.register().await?;
        }
        let out: Vec<_> = parcels.iter().map(|parcel| (&parcel.place, &parcel.written)).collect();
        self.confirm(&out).await
    }

    /// Whether this transport has made what `place` names, or need not.
    fn has_place(&self, place: &Place) -> bool {
        match place {
            Place::Topic { .. } => self.has_exchanges(),
            Place::Later { later, .. } => {
                let names = &self.names;
                self.has_queue(&names.later(later.top()))
                    && later.digits().all(|(place, digit)| self.has_queue(&names.later_queue(place, digit)))
            }
            Place::Group(_) => true,
            Place::Retry(..) | Place::Suspect(_) | Place::DeadLetter(_) => {
                self.has_queue(&place.address(&self.names).1)
            }
        }
    }

    /// Makes the queue or the exchange that `place` names.
    async fn ensure(&self, place: &Place) -> Result<(), TransportError> {
        match place {
            Place::Topic { .. } => {
                let channel = self.publishing.channel().await?;
                self.ensure_exchanges(&channel).await
            }
            Place::Retry(group, millis) => {
                let channel = self.publishing.channel().await?;
                self.declarer(&channel).retry(group.as_str(), *millis).await?;
                self.know_group(group, KnownGroup { delays: [*millis].into(), ..KnownGroup::default() });
                self.know_queue(self.names.retry(group.as_str(), *millis));
                Ok(())
            }
            Place::Later { later, .. } => self.ensure_later(*later).await,
            Place::DeadLetter(group) => self.ensure_plain(self.names.dead_letter(group.as_str())).await,
            Place::Suspect(group) => self.ensure_plain(self.names.suspects(group.as_str())).await,
            Place::Group(_) => Ok(()),
        }
    }

    async fn ensure_later(&self, later: Later) -> Result<(), TransportError> {
        let exchange = self.names.later(later.top());
        if !self.has_queue(&exchange) {
            let channel = self.publishing.channel().await?;
            self.ensure_exchanges(&channel).await?;
            self.declarer(&channel).later(later.top()).await?;
            for place in LOWEST..=later.top() {
                self.know_queue(self.names.later(place));
            }
        }
        let queues = later.digits().map(async |(place, digit)| {
            let queue = self.names.later_queue(place, digit);
            if !self.has_queue(&queue) {
                let channel = self.publishing.channel().await?;
                self.declarer(&channel).later_queue(place, digit).await?;
                self.know_queue(queue);
            }
            Ok(())
        });
        futures_util::future::try_join_all(queues).await.map(drop)
    }

    async fn ensure_plain(&self, queue: String) -> Result<(), TransportError> {
        let channel = self.publishing.channel().await?;
        self.declarer(&channel).plain(&queue).await?;
        self.know_queue(queue);
        Ok(())
    }

    /// Publishes each once; what became of each, in order.
    pub(crate) async fn confirm(&self, out: &[(&Place, &Written)]) -> Result<Vec<Outcome>, TransportError> {
        let mut outcomes = Vec::with_capacity(out.len());
        for window in out.chunks(WINDOW) {
            let publishing = self.publishing_channel().await?;
            self.window(&publishing, window, &mut outcomes).await;
        }
        Ok(outcomes)
    }

    async fn window(
        &self,
        publishing: &Publishing,
        window: &[(&Place, &Written)],
        outcomes: &mut Vec<Outcome>,
    ) {
        let mut waiting = Waiting { publishing, over: false };
        let mut sending: Vec<Sending<'_>> =
            window.iter().map(|(place, written)| self.one(&publishing.channel, place, written)).collect();
        let mut early: Vec<Option<lapin::Result<Confirmation>>> = Vec::with_capacity(sending.len());
        // The first poll of each writes it out, so they go in order.
        poll_fn(|cx| {
            early.extend(sending.iter_mut().map(|one| match one.as_mut().poll(cx) {
                Poll::Ready(result) => Some(result),
                Poll::Pending => None,
            }));
            Poll::Ready(())
        })
        .await;
        let deadline = Instant::now() + self.config.confirm_timeout;
        let mut closing = self.closing();
        let mut clean = true;
        for (one, early) in sending.iter_mut().zip(early) {
            let result = match early {
                Some(result) => Some(result),
                None => tokio::select! {
                    biased;
                    result = one => Some(result),
                    () = closing.begun() => None,
                    () = tokio::time::sleep_until(deadline) => None,
                },
            };
            let outcome = match result {
                Some(result) => self.outcome(result),
                None if self.is_closed() => Outcome::Failed(closed()),
                None => Outcome::Failed(TransportError::new(
                    TransportErrorKind::Timeout,
                    format!(
                        "the broker did not confirm within the {:?} of `confirm_timeout`; an alarm for memory or disk \
                         stops publishers",
                        self.config.confirm_timeout
                    ),
                )),
            };
            clean &= !matches!(outcome, Outcome::Failed(_));
            outcomes.push(outcome);
        }
        waiting.over = clean;
        if !clean {
            // Whatever went wrong may have taken queues and exchanges with it.
            self.forget();
        }
    }

    fn one<'a>(&'a self, channel: &'a Channel, place: &'a Place, written: &'a Written) -> Sending<'a> {
        let (exchange, key) = place.address(&self.names);
        let (exchange, key) = (short(&exchange), short(&key));
        let options = BasicPublishOptions { mandatory: true, ..BasicPublishOptions::default() };
        let properties = match place {
            Place::Later { later, .. } => later.mark(written.properties.clone()),
            _ => written.properties.clone(),
        };
        Box::pin(async move {
            channel.basic_publish(exchange, key, options, &written.payload, properties).await?.await
        })
    }

    fn outcome(&self, result: lapin::Result<Confirmation>) -> Outcome {
        match result {
            Ok(Confirmation::Ack(None)) => Outcome::Taken,
            Ok(Confirmation::Ack(Some(_))) => Outcome::Unrouted,
            Ok(Confirmation::Nack(_)) => Outcome::Refused,
            Ok(Confirmation::NotRequested) => Outcome::Failed(TransportError::new(
                TransportErrorKind::Internal,
                "the channel that publishes gives no confirmations",
            )),
            Err(_) if self.is_closed() => Outcome::Failed(closed()),
            Err(error) => Outcome::Failed(error::of(error, "publishing")),
        }
    }

    /// The channel that publishes, with confirmations.
    async fn publishing_channel(&self) -> Result<Arc<Publishing>, TransportError> {
        let mut state = self.confirms.0.lock().await;
        if let Some(publishing) = &*state
            && publishing.channel.status().connected()
            && !publishing.spoilt.load(Ordering::Acquire)
        {
            return Ok(publishing.clone());
        }
        *state = None;
        let channel = self.publishing.channel().await?;
        channel
            .confirm_select(ConfirmSelectOptions::default())
            .await
            .map_err(|error| error::of(error, "asking for confirmations"))?;
        let publishing = Arc::new(Publishing { channel, spoilt: AtomicBool::new(false) });
        *state = Some(publishing.clone());
        Ok(publishing)
    }
}

//! Confirmations: messages go out one behind the other without waiting, and the broker's word on each is awaited after.

use std::collections::HashSet;
use std::future::poll_fn;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::Poll;

use futures_util::FutureExt as _;
use lapin::options::{BasicPublishOptions, ConfirmSelectOptions};
use lapin::{Channel, Confirmation};
use msgkit::transport::{TransportError, TransportErrorKind};

use super::place::{Parcel, Place};
use crate::broker::{Broker, KnownGroup};
use crate::error::{self, closed};
use crate::kept::Kept;
use crate::later::{LOWEST, Later};
use crate::topology::short;
use crate::wire::{self, Written};

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
pub(crate) struct Confirms(Kept<Publishing>);

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
            if parcel.message.envelope.not_before().is_some() {
                // It may be due meanwhile.
                parcel.place = self.place(&parcel.message);
            }
            if !self.has_place(&parcel.place) {
                missing.insert(parcel.place.clone());
            }
        }
        if !missing.is_empty() {
            // Each on a channel of its own, for a new queue takes its time.
            futures_util::future::try_join_all(missing.iter().map(|place| self.ensure(place))).await?;
            self.write_down().await;
        }
        Ok(self.confirm(self.written(parcels)).await)
    }

    /// What goes out, given away.
    fn written<'a>(&self, parcels: &'a mut [Parcel]) -> Vec<(&'a Place, Written)> {
        let prefix = self.config.attribute_prefix;
        let mut out = Vec::with_capacity(parcels.len());
        for parcel in parcels {
            let again = || wire::write(&parcel.message.envelope, prefix, parcel.letter);
            out.push((&parcel.place, parcel.written.take().unwrap_or_else(again)));
        }
        out
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
            Place::Group(_) | Place::Registry => true,
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
            Place::Group(_) | Place::Registry => Ok(()),
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
    pub(crate) async fn confirm(&self, mut out: Vec<(&Place, Written)>) -> Vec<Outcome> {
        let mut outcomes = Vec::with_capacity(out.len());
        while !out.is_empty() {
            let publishing = match self.publishing_channel().await {
                Ok(publishing) => publishing,
                Err(error) => {
                    // Those before have their outcome already.
                    let error = Arc::new(error);
                    outcomes.extend(out.iter().map(|_| Outcome::Failed(error::same(&error))));
                    break;
                }
            };
            let mut sending = Vec::with_capacity(out.len().min(WINDOW));
            for (place, written) in out.drain(..out.len().min(WINDOW)) {
                sending.push(self.one(&publishing.channel, place, written));
            }
            self.window(&publishing, sending, &mut outcomes).await;
        }
        outcomes
    }

    async fn window(
        &self,
        publishing: &Publishing,
        mut sending: Vec<Sending<'_>>,
        outcomes: &mut Vec<Outcome>,
    ) {
        let mut waiting = Waiting { publishing, over: false };
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
        // One for all: a clock for each would cost more than publishing it.
        let mut stop = pin!(async {
            let mut closing = self.closing();
            tokio::select! {
                biased;
                () = closing.begun() => {}
                () = tokio::time::sleep(self.config.confirm_timeout) => {}
            }
        });
        let (mut stopped, mut clean) = (false, true);
        for (one, early) in sending.iter_mut().zip(early) {
            let result = match early {
                Some(result) => Some(result),
                None if stopped => one.now_or_never(),
                None => tokio::select! {
                    biased;
                    result = one => Some(result),
                    () = &mut stop => {
                        stopped = true;
                        None
                    }
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

    fn one<'a>(&self, channel: &'a Channel, place: &Place, written: Written) -> Sending<'a> {
        let (exchange, key) = place.address(&self.names);
        let (exchange, key) = (short(&exchange), short(&key));
        let options = BasicPublishOptions { mandatory: true, ..BasicPublishOptions::default() };
        let Written { properties, payload, .. } = written;
        let properties = match place {
            Place::Later { later, .. } => later.mark(properties),
            _ => properties,
        };
        Box::pin(
            async move { channel.basic_publish(exchange, key, options, &payload, properties).await?.await },
        )
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
        let lives = |publishing: &Publishing| {
            publishing.channel.status().connected() && !publishing.spoilt.load(Ordering::Acquire)
        };
        let link = self.publishing.clone();
        let making = async move {
            let deadline = link.deadline();
            let channel = link.channel_until(deadline).await?;
            let selecting = channel.confirm_select(ConfirmSelectOptions::default());
            link.until(deadline, selecting, "asking for confirmations").await?;
            Ok(Publishing { channel, spoilt: AtomicBool::new(false) })
        };
        self.confirms.0.get(lives, making).await
    }
}

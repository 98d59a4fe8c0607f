//! The task of one subscription: owns the channel, repairs it, hands over what comes, tells the broker what was settled.

use std::sync::Arc;
use std::time::Duration;

use futures_util::{FutureExt as _, StreamExt as _};
use lapin::message::Delivery;
use lapin::options::{
    BasicAckOptions, BasicCancelOptions, BasicConsumeOptions, BasicQosOptions, QueueDeclareOptions,
};
use lapin::types::FieldTable;
use lapin::{Channel, Consumer};
use msgkit::transport::{Subscription, TransportError, TransportErrorKind, Watermark};

use super::lost_settlements;
use super::member::{Content, Fetched, Member, Work};
use crate::broker::{Broker, KnownGroup};
use crate::error;
use crate::topology::short;
use crate::wire::Raw;

/// The shortest and the longest pause between two tries to get a channel.
const PAUSE: (Duration, Duration) = (Duration::from_millis(50), Duration::from_secs(5));

/// The task of one subscription.
pub(super) struct Driver {
    broker: Arc<Broker>,
    member: Arc<Member>,
    subscription: Subscription,
    session: Session,
}

/// A channel that consumes, and what of its messages is settled.
struct Session {
    channel: Channel,
    queue: String,
    consumer: Consumer,
    watermark: Watermark,
    cancelled: bool,
}

/// Why a session ended.
enum Ended {
    /// The channel is gone.
    Lost(Option<lapin::Error>),
    /// The receiver has left, or the transport is closed.
    Over,
}

impl Driver {
    /// Begins to consume.
    pub(super) async fn begin(
        broker: Arc<Broker>,
        member: Arc<Member>,
        subscription: Subscription,
    ) -> Result<Self, TransportError> {
        let session = Session::open(&broker, &subscription).await?;
        member.new_epoch();
        Ok(Self { broker, member, subscription, session })
    }

    /// Until the receiver leaves, the transport closes, or the broker refuses for good.
    pub(super) async fn run(mut self) {
        let failure = loop {
            match self.consume().await {
                Ended::Over => break None,
                Ended::Lost(error) => {
                    let error = error.map_or_else(|| "the broker cancelled it".to_owned(), |e| e.to_string());
                    tracing::warn!(queue = %self.session.queue, error, "a channel was lost; it is opened again");
                    self.member.new_epoch();
                    match self.open_again().await {
                        Ok(true) => {}
                        Ok(false) => break None,
                        Err(error) => break Some(error),
                    }
                }
            }
        };
        self.session.leave().await;
        self.member.end(failure);
    }

    /// Hands over and settles until the channel is gone or nobody is there any more.
    async fn consume(&mut self) -> Ended {
        let mut closing = self.broker.closing();
        loop {
            let consuming = !self.session.cancelled;
            tokio::select! {
                biased;
                () = closing.begun() => {
                    let work = Work { left: true, ..self.member.work() };
                    return match self.settle(work).await {
                        Ok(()) => Ended::Over,
                        Err(error) => Ended::Lost(Some(error)),
                    };
                }
                () = self.member.wake.notified() => {
                    let work = self.member.work();
                    let left = work.left;
                    match self.settle(work).await {
                        Ok(()) if left => return Ended::Over,
                        Ok(()) => {}
                        Err(error) => return Ended::Lost(Some(error)),
                    }
                }
                came = self.session.consumer.next(), if consuming => match came {
                    Some(Ok(first)) => {
                        if let Some(ended) = self.hand_over(first) {
                            return ended;
                        }
                    }
                    Some(Err(error)) => return Ended::Lost(Some(error)),
                    None => return Ended::Lost(None),
                },
            }
        }
    }

    /// Gives what came, and all that came with it, to the receiver; the end where that came with it.
    fn hand_over(&mut self, first: Delivery) -> Option<Ended> {
        let mut came = vec![first];
        let ended = loop {
            match self.session.consumer.next().now_or_never() {
                Some(Some(Ok(next))) => came.push(next),
                Some(Some(Err(error))) => break Some(Ended::Lost(Some(error))),
                Some(None) => break Some(Ended::Lost(None)),
                None => break None,
            }
        };
        let watermark = &mut self.session.watermark;
        self.member.give(came.into_iter().filter_map(|delivery| {
            // A tag comes once on a channel; were it not so, settling it would settle another.
            watermark.received(delivery.delivery_tag).ok()?;
            let raw = Raw {
                routing_key: delivery.routing_key.into(),
                properties: delivery.properties,
                payload: delivery.data.into(),
            };
            Some(Fetched { tag: delivery.delivery_tag, count: raw.count(), content: Content::Raw(raw) })
        }));
        ended
    }

    /// Does what the receiver asks for: first no more is fetched, then what was settled is told.
    async fn settle(&mut self, work: Work) -> lapin::Result<()> {
        let done = self.settle_inner(&work).await;
        let flushed = |result: &lapin::Result<()>| match result {
            Ok(()) => Ok(()),
            Err(_) => Err(lost_settlements()),
        };
        for flush in work.flushes {
            let _ = flush.send(flushed(&done));
        }
        done
    }

    async fn settle_inner(&mut self, work: &Work) -> lapin::Result<()> {
        if work.stopped && !self.session.cancelled {
            self.session.cancelled = true;
            let tag = self.session.consumer.tag();
            self.session.channel.basic_cancel(tag, BasicCancelOptions::default()).await?;
        }
        self.session.acknowledge(&work.settled).await?;
        if !work.flushes.is_empty() || (work.left && !work.settled.is_empty()) {
            self.session.barrier().await?;
        }
        Ok(())
    }

    /// A new session; false where nobody wants one any more.
    async fn open_again(&mut self) -> Result<bool, TransportError> {
        let mut closing = self.broker.closing();
        let mut pause = PAUSE.0;
        loop {
            let work = self.member.work();
            for flush in work.flushes {
                // Nothing of this channel can be unsettled: it has handed out nothing.
                let _ = flush.send(Ok(()));
            }
            if work.left || self.broker.is_closed() {
                return Ok(false);
            }
            match Session::open(&self.broker, &self.subscription).await {
                Ok(session) => {
                    self.session = session;
                    return Ok(true);
                }
                Err(error) if !error.is_temporary() => {
                    return if error.kind() == TransportErrorKind::Closed { Ok(false) } else { Err(error) };
                }
                Err(error) => {
                    tracing::warn!(error = %msgkit::Chain(&error), "no channel yet; trying again in {pause:?}");
                }
            }
            tokio::select! {
                biased;
                () = closing.begun() => return Ok(false),
                () = self.member.wake.notified() => {}
                () = tokio::time::sleep(pause) => pause = (pause * 2).min(PAUSE.1),
            }
        }
    }
}

impl Session {
    /// Makes what the subscription needs, and consumes.
    async fn open(broker: &Broker, subscription: &Subscription) -> Result<Self, TransportError> {
        let declaring = broker.asking().await?;
        broker.ensure_exchanges(&declaring).await?;
        let declarer = broker.declarer(&declaring);
        let queue = match &subscription.group {
            Some(group) => {
                declarer.group(group.as_str(), subscription).await?;
                let patterns =
                    subscription.patterns.iter().map(|pattern| pattern.as_str().to_owned()).collect();
                broker.know_group(group, KnownGroup { patterns, ..KnownGroup::default() });
                broker.names.group(group.as_str())
            }
            None => {
                let queue = broker.names.ephemeral();
                declarer.ephemeral(&queue, &subscription.patterns).await?;
                queue
            }
        };
        let channel = broker.consuming.channel().await?;
        let failed = |error| error::of(error, &format!("consuming queue `{queue}`"));
        let prefetch = u16::try_from(subscription.prefetch).unwrap_or(u16::MAX).max(1);
        channel.basic_qos(prefetch, BasicQosOptions::default()).await.map_err(failed)?;
        let options = BasicConsumeOptions::default();
        let consumer = channel
            .basic_consume(short(&queue), short(""), options, FieldTable::default())
            .await
            .map_err(failed)?;
        if subscription.group.is_some() {
            broker.register().await?;
        }
        Ok(Self { channel, queue, consumer, watermark: Watermark::new(), cancelled: false })
    }

    /// Tells the broker what was settled: all up to the watermark at once, what is above it one by one.
    async fn acknowledge(&mut self, tags: &[u64]) -> lapin::Result<()> {
        for tag in tags {
            // Each is in hand once, so it is settled once.
            let _ = self.watermark.settled(*tag);
        }
        let mark = self.watermark.mark().unwrap_or(0);
        // What is below the mark and not among these was told before; the broker refuses a tag that it does not know
        // any more, so the highest of these stands for the mark.
        if let Some(highest) = tags.iter().copied().filter(|tag| *tag <= mark).max() {
            self.channel.basic_ack(highest, BasicAckOptions { multiple: true }).await?;
        }
        let above = tags.iter().filter(|tag| **tag > mark);
        let acks = above.map(|tag| self.channel.basic_ack(*tag, BasicAckOptions { multiple: false }));
        futures_util::future::try_join_all(acks).await.map(drop)
    }

    /// Resolves when the broker has done all that was told on this channel before: it answers in order.
    async fn barrier(&self) -> lapin::Result<()> {
        let options = QueueDeclareOptions { passive: true, ..QueueDeclareOptions::default() };
        self.channel.queue_declare(short(&self.queue), options, FieldTable::default()).await.map(drop)
    }

    /// Ends the channel; what is unsettled is the broker's again, in its order.
    async fn leave(&self) {
        // Once the channel is gone the broker has everything back in any case.
        let closing = self.channel.close(200, "left".into());
        let _ = tokio::time::timeout(Duration::from_secs(2), closing).await;
    }
}

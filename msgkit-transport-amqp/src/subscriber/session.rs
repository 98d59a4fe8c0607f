//! One channel that consumes: what comes on it, what of that is settled, and whose turn it is.
//!
//! A suspect, whose start may kill the process, waits in a queue of its own until nothing else is in hand: the broker
//! counts a start of everything that is in hand when a process dies, and only one that dies alone is guilty.

use lapin::message::Delivery;
use lapin::options::{
    BasicAckOptions, BasicCancelOptions, BasicConsumeOptions, BasicGetOptions, BasicQosOptions,
    QueueDeclareOptions,
};
use lapin::types::FieldTable;
use lapin::{Channel, Consumer};
use msgkit::transport::{Subscription, TransportError, Watermark};

use super::member::Member;
use crate::broker::{Broker, KnownGroup};
use crate::topology::short;
use crate::wire::Raw;

/// A channel that consumes.
pub(super) struct Session {
    channel: Channel,
    pub(super) queue: String,
    /// The group's suspects, where it is a group's.
    pub(super) suspects: Option<String>,
    pub(super) consumer: Option<Consumer>,
    /// The consumer was told to end, and what it had before is still to be read.
    pub(super) cancelling: bool,
    /// Suspects wait for their turn.
    pub(super) turn: bool,
    pub(super) watermark: Watermark,
    stopped: bool,
}

/// What a subscription consumes.
pub(super) struct Queues {
    own: String,
    suspects: Option<String>,
}

/// A message as it came, with its tag, unless that came before: then settling it would settle another.
pub(super) fn taken(watermark: &mut Watermark, delivery: Delivery) -> Option<(u64, Raw)> {
    watermark.received(delivery.delivery_tag).ok()?;
    let raw = Raw {
        routing_key: delivery.routing_key.into(),
        properties: delivery.properties,
        payload: delivery.data.into(),
    };
    Some((delivery.delivery_tag, raw))
}

impl Session {
    /// Makes what the subscription needs.
    pub(super) async fn declare(
        broker: &Broker,
        subscription: &Subscription,
    ) -> Result<Queues, TransportError> {
        let declaring = broker.asking().await?;
        broker.ensure_exchanges(&declaring).await?;
        let declarer = broker.declarer(&declaring);
        match &subscription.group {
            Some(group) => {
                declarer.group(group.as_str(), subscription).await?;
                let patterns =
                    subscription.patterns.iter().map(|pattern| pattern.as_str().to_owned()).collect();
                broker.know_group(group, KnownGroup { patterns, ..KnownGroup::default() });
                let suspects = broker.names.suspects(group.as_str());
                if !broker.has_queue(&suspects) {
                    declarer.plain(&suspects).await?;
                    broker.know_queue(suspects.clone());
                }
                Ok(Queues { own: broker.names.group(group.as_str()), suspects: Some(suspects) })
            }
            None => {
                let queue = broker.names.ephemeral();
                declarer.ephemeral(&queue, &subscription.patterns).await?;
                Ok(Queues { own: queue, suspects: None })
            }
        }
    }

    /// A channel that consumes what was declared.
    pub(super) async fn open(
        broker: &Broker,
        subscription: &Subscription,
        Queues { own: queue, suspects }: Queues,
    ) -> Result<Self, TransportError> {
        let turn = match &suspects {
            Some(suspects) => broker.depth_of(suspects).await?.is_some_and(|depth| depth > 0),
            None => false,
        };
        let channel = broker.consuming.channel().await?;
        let prefetch = u16::try_from(subscription.prefetch).unwrap_or(u16::MAX).max(1);
        let consuming = format!("consuming queue `{queue}`");
        broker.answer(channel.basic_qos(prefetch, BasicQosOptions::default()), &consuming).await?;
        let watermark = Watermark::new();
        let mut session = Self {
            channel,
            queue,
            suspects,
            consumer: None,
            cancelling: false,
            turn,
            watermark,
            stopped: false,
        };
        if !turn {
            broker.answer(session.consume(), &consuming).await?;
        }
        Ok(session)
    }

    async fn consume(&mut self) -> lapin::Result<()> {
        let options = BasicConsumeOptions::default();
        let consuming =
            self.channel.basic_consume(short(&self.queue), short(""), options, FieldTable::default());
        self.consumer = Some(consuming.await?);
        self.cancelling = false;
        Ok(())
    }

    /// Whether messages come by themselves, or none are wanted: then [`Session::fetch`] does nothing.
    pub(super) fn is_fetching(&self) -> bool {
        self.stopped || (!self.turn && self.consumer.is_some() && !self.cancelling)
    }

    /// Consumes; but where suspects wait for their turn, lets everything in hand be settled first and gives one of them
    /// after the other.
    pub(super) async fn fetch(&mut self, member: &Member) -> lapin::Result<Option<Delivery>> {
        if self.consumer.is_some() {
            if !self.cancelling {
                self.cancel().await?;
            }
            // What it had before is still to be read.
            return Ok(None);
        }
        if !member.is_idle() {
            return Ok(None);
        }
        if let (true, Some(suspects)) = (self.turn, &self.suspects) {
            let options = BasicGetOptions::default();
            if let Some(suspect) = self.channel.basic_get(short(suspects), options).await? {
                return Ok(Some(suspect.delivery));
            }
            self.turn = false;
        }
        self.consume().await.map(|()| None)
    }

    async fn cancel(&mut self) -> lapin::Result<()> {
        self.cancelling = true;
        let Some(consumer) = &self.consumer else { return Ok(()) };
        self.channel.basic_cancel(consumer.tag(), BasicCancelOptions::default()).await
    }

    /// Fetches no more; what comes all the same stays the broker's.
    pub(super) async fn stop(&mut self) -> lapin::Result<()> {
        if !self.stopped {
            self.stopped = true;
            if !self.cancelling {
                self.cancel().await?;
            }
            self.consumer = None;
        }
        Ok(())
    }

    /// Tells the broker what was settled: all up to the watermark at once, what is above it one by one.
    pub(super) async fn acknowledge(&mut self, tags: &[u64]) -> lapin::Result<()> {
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
    pub(super) async fn barrier(&self) -> lapin::Result<()> {
        if self.suspects.is_none() {
            // The queue of an ephemeral subscription goes with its consumer and cannot be asked.
            return self.channel.basic_qos(1, BasicQosOptions::default()).await;
        }
        let options = QueueDeclareOptions { passive: true, ..QueueDeclareOptions::default() };
        self.channel.queue_declare(short(&self.queue), options, FieldTable::default()).await.map(drop)
    }

    /// Ends the channel; what is unsettled is the broker's again, in its order.
    pub(super) async fn leave(&self) {
        // Once the channel is gone the broker has everything back in any case.
        let closing = self.channel.close(200, "left".into());
        let _ = tokio::time::timeout(std::time::Duration::from_secs(2), closing).await;
    }
}

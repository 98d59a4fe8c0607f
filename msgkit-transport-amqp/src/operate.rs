//! What operators ask of the broker. What lies in a queue can only be looked at by taking it into the hand and giving it
//! back, so one looks at a time: whoever has the registry in hand.

use async_trait::async_trait;
use futures_util::StreamExt as _;
use lapin::Channel;
use lapin::message::Delivery;
use lapin::options::{BasicAckOptions, BasicConsumeOptions, BasicGetOptions, BasicQosOptions};
use lapin::types::FieldTable;
use msgkit::envelope::ingest::Ingest;
use msgkit::transport::{
    Destination, Group, GroupStatus, Incoming, Operate, Peeked, TransportError, TransportErrorKind,
};
use std::time::Duration;

use crate::broker::Broker;
use crate::error;
use crate::publisher::Place;
use crate::topology::{delay_millis, short};
use crate::transport::Amqp;
use crate::wire::{LETTER, Raw, Topics, read};

/// How long to wait for a message that the broker has said to be there.
const PATIENCE: Duration = Duration::from_secs(2);
/// The most messages that are looked at: what a channel can have in hand.
const MOST: u64 = u16::MAX as u64;

/// A message in hand: where it lies, its tag, what it is.
type Seen = (String, u64, Incoming);

/// The oldest messages of a queue, in hand until this is dropped.
struct Look {
    channel: Channel,
    messages: Vec<Seen>,
    /// What each is known by among those of its queue.
    prints: Vec<String>,
}

impl Broker {
    /// As [`Broker::look`], and takes none more into the hand: one after the other.
    async fn look_closely(
        &self,
        queue: &str,
        mut enough: impl FnMut(&[Seen]) -> bool,
    ) -> Result<Option<Look>, TransportError> {
        if self.depth_of(queue).await?.is_none() {
            return Ok(None);
        }
        let channel = self.consuming.channel().await?;
        let (mut messages, mut prints) = (Vec::new(), Vec::new());
        while !enough(&messages) {
            let got = channel.basic_get(short(queue), BasicGetOptions::default()).await;
            let got = got.map_err(|error| error::of(error, &format!("looking into queue `{queue}`")))?;
            let Some(got) = got else { break };
            let (seen, print) = self.looked_at(got.delivery, messages.len());
            messages.push(seen);
            prints.push(print);
        }
        Ok(Some(Look { channel, messages, prints }))
    }

    /// Takes messages of `queue` into the hand, the oldest first, until `enough` says so.
    async fn look(
        &self,
        queue: &str,
        mut enough: impl FnMut(&[Seen]) -> bool,
    ) -> Result<Option<Look>, TransportError> {
        let Some(depth) = self.depth_of(queue).await? else { return Ok(None) };
        let failed = |error| error::of(error, &format!("looking into queue `{queue}`"));
        let channel = self.consuming.channel().await?;
        let depth = usize::try_from(depth.min(MOST)).unwrap_or(usize::MAX);
        let (mut messages, mut prints) = (Vec::new(), Vec::new());
        if depth > 0 {
            let prefetch = u16::try_from(depth).unwrap_or(u16::MAX);
            channel.basic_qos(prefetch, BasicQosOptions::default()).await.map_err(failed)?;
            let mut consumer = channel
                .basic_consume(short(queue), short(""), BasicConsumeOptions::default(), FieldTable::default())
                .await
                .map_err(failed)?;
            while messages.len() < depth && !enough(&messages) {
                match tokio::time::timeout(PATIENCE, consumer.next()).await {
                    Ok(Some(Ok(delivery))) => {
                        let (seen, print) = self.looked_at(delivery, messages.len());
                        messages.push(seen);
                        prints.push(print);
                    }
                    Ok(Some(Err(error))) => return Err(failed(error)),
                    // Somebody else has taken it meanwhile.
                    Ok(None) | Err(_) => break,
                }
            }
        }
        Ok(Some(Look { channel, messages, prints }))
    }

    /// Where it lies, the tag it is held by, and the message.
    fn looked_at(&self, delivery: Delivery, at: usize) -> (Seen, String) {
        let raw = Raw {
            routing_key: delivery.routing_key.into(),
            properties: delivery.properties,
            payload: delivery.data.into(),
        };
        // What others have put there has no name; its place in the order must do.
        let position = raw.text(LETTER).unwrap_or_else(|| format!("at-{at}"));
        let print = raw.print();
        (
            (
                position,
                delivery.delivery_tag,
                read(raw, &mut Topics::default(), &Ingest::default(), self.clock.now()),
            ),
            print,
        )
    }

    /// Takes the dead letter at `position` into the hand.
    async fn letter(&self, group: &Group, position: &str) -> Result<(Look, u64, Incoming), TransportError> {
        let queue = self.names.dead_letter(group.as_str());
        let is_it = |(at, _, _): &Seen| at == position;
        if let Some(mut look) = self.look(&queue, |seen| seen.last().is_some_and(is_it)).await? {
            if let Some(at) = look.messages.iter().position(is_it) {
                let (_, tag, message) = look.messages.swap_remove(at);
                return Ok((look, tag, message));
            }
            look.end().await;
        }
        Err(TransportError::new(
            TransportErrorKind::Invalid,
            format!("group `{group}` has no dead letter at `{position:.60}`; take a position from a listing"),
        ))
    }
}

impl Look {
    /// Gives everything back.
    async fn end(self) {
        let _ = self.channel.close(200, "looked".into()).await;
    }

    /// Removes one message, and gives everything else back.
    async fn remove(self, tag: u64) -> Result<(), TransportError> {
        let removed = self.channel.basic_ack(tag, BasicAckOptions::default()).await;
        removed.map_err(|error| error::of(error, "removing a dead letter"))?;
        self.channel
            .close(200, "removed".into())
            .await
            .map_err(|error| error::of(error, "removing a dead letter"))
    }

    /// At most `limit` after the position `after`; gives everything back.
    async fn page(mut self, after: Option<&str>, limit: usize) -> Vec<Peeked> {
        let from = match after {
            None => 0,
            Some(after) => self
                .messages
                .iter()
                .position(|(at, _, _)| at == after)
                .map_or(self.messages.len(), |at| at + 1),
        };
        let messages = std::mem::take(&mut self.messages);
        self.end().await;
        messages.into_iter().skip(from).take(limit).map(|(at, _, message)| Peeked::new(message, at)).collect()
    }
}

/// Whether a page of `limit` after `after` is complete.
fn page_is_full(seen: &[Seen], after: Option<&str>, limit: usize) -> bool {
    match after {
        None => seen.len() >= limit,
        Some(after) => {
            seen.iter().position(|(at, _, _)| at == after).is_some_and(|at| seen.len() > at + limit)
        }
    }
}

#[async_trait]
impl Operate for Amqp {
    async fn groups(&self) -> Result<Vec<GroupStatus>, TransportError> {
        let broker = self.broker();
        broker.look_up().await?;
        let mut all = Vec::new();
        for (group, known) in broker.known_groups() {
            let Some(waiting) = broker.depth_of(&broker.names.group(group.as_str())).await? else { continue };
            let mut delayed = 0;
            for millis in known.delays {
                delayed += broker.depth_of(&broker.names.retry(group.as_str(), millis)).await?.unwrap_or(0);
            }
            let mut status = GroupStatus::new(group);
            let suspects = broker.depth_of(&broker.names.suspects(status.group.as_str())).await?;
            status.waiting = waiting + suspects.unwrap_or(0);
            status.delayed = delayed;
            status.broken_off = broker.cancelled(&status.group);
            all.push(status);
        }
        Ok(all)
    }

    async fn peek(
        &self,
        group: &Group,
        after: Option<&str>,
        limit: usize,
    ) -> Result<Vec<Peeked>, TransportError> {
        let broker = self.broker();
        let held = broker.hold().await?;
        let queue = broker.names.group(group.as_str());
        let look = broker.look_closely(&queue, |seen| page_is_full(seen, after, limit)).await;
        let text = format!("group `{group}` has no queue at this broker; declare it first");
        let look = match look {
            Ok(Some(look)) => look,
            missing => {
                held.release().await;
                return missing.and(Err(TransportError::new(TransportErrorKind::Invalid, text)));
            }
        };
        // Written down while they are in hand, so that nobody gets them before.
        let prints = look.prints.clone();
        held.looked_at(broker, group, prints.into_iter()).await?;
        Ok(look.page(after, limit).await)
    }

    async fn dead_letters(
        &self,
        group: &Group,
        after: Option<&str>,
        limit: usize,
    ) -> Result<Vec<Peeked>, TransportError> {
        let broker = self.broker();
        let held = broker.hold().await?;
        let queue = broker.names.dead_letter(group.as_str());
        let page = match broker.look(&queue, |seen| page_is_full(seen, after, limit)).await {
            Ok(Some(look)) => Ok(look.page(after, limit).await),
            Ok(None) => Ok(Vec::new()),
            Err(error) => Err(error),
        };
        held.release().await;
        page
    }

    async fn replay(&self, group: &Group, position: &str) -> Result<(), TransportError> {
        let broker = self.broker();
        let held = broker.hold().await?;
        let replayed = async {
            let (look, tag, message) = broker.letter(group, position).await?;
            let Some(envelope) = message.envelope() else {
                look.end().await;
                let text =
                    format!("the dead letter at `{position:.60}` is no envelope and cannot be replayed");
                return Err(TransportError::new(TransportErrorKind::Invalid, text));
            };
            broker.send_to(Place::Group(group.clone()), envelope.replayed()).await?;
            look.remove(tag).await
        };
        let replayed = replayed.await;
        held.release().await;
        replayed
    }

    async fn remove_dead_letter(&self, group: &Group, position: &str) -> Result<(), TransportError> {
        let broker = self.broker();
        let held = broker.hold().await?;
        let removed = match broker.letter(group, position).await {
            Ok((look, tag, _)) => look.remove(tag).await,
            Err(error) => Err(error),
        };
        held.release().await;
        removed
    }

    async fn depth(&self, destination: &Destination) -> Result<Option<u64>, TransportError> {
        let broker = self.broker();
        match destination {
            Destination::Retry { group, delay, .. } => {
                let queue = broker.names.retry(group.as_str(), delay_millis(*delay, *delay));
                Ok(Some(broker.depth_of(&queue).await?.unwrap_or(0)))
            }
            Destination::DeadLetter(group) => {
                Ok(Some(broker.depth_of(&broker.names.dead_letter(group.as_str())).await?.unwrap_or(0)))
            }
            // A topic is no place here: its messages lie in the queues of the groups that take it.
            _ => Ok(None),
        }
    }
}

//! What operators ask of the broker. What lies in a queue can only be looked at by taking it into the hand and giving it
//! back, so one looks at a time: whoever has the registry in hand.

use async_trait::async_trait;
use futures_util::{FutureExt as _, StreamExt as _};
use lapin::message::Delivery;
use lapin::options::{
    BasicAckOptions, BasicCancelOptions, BasicConsumeOptions, BasicGetOptions, BasicNackOptions,
    BasicQosOptions,
};
use lapin::types::FieldTable;
use lapin::{Channel, Consumer};
use msgkit::envelope::ingest::Ingest;
use msgkit::transport::{
    Destination, Group, GroupStatus, Incoming, Operate, Peeked, TransportError, TransportErrorKind,
};
use std::time::Duration;
use tokio::time::Instant;

use crate::broker::Broker;
use crate::error;
use crate::publisher::Place;
use crate::topology::{delay_millis, short};
use crate::transport::Amqp;
use crate::wire::{LETTER, Raw, Topics, read};

/// How long to wait for a message that the broker has said to be there, until it is asked whether it still is.
const PATIENCE: Duration = Duration::from_secs(2);
/// How often in a row it has to say that nothing is there: a busy one says so of any queue.
const EMPTY: u32 = 2;
/// How long to wait for somebody else who looks.
const LOOKING: Duration = Duration::from_secs(30);
/// How long to wait until a queue has what was given back.
const BACK: Duration = Duration::from_secs(10);
/// How long to wait until a queue has what was given back, where others take from it, so that its depth may never tell.
const BESIDE_OTHERS: Duration = Duration::from_millis(100);
/// The most messages that are under way to a look at once. What is under way is kept whole, so it is few.
const WINDOW: usize = 32;
/// How many bytes may be under way at once, by the largest message that came before; one message always may.
const ROOM: usize = 4 << 20;
/// How many windows are given back before the broker has to have them: told more at once, RabbitMQ gathers it by consumer
/// and mixes the windows.
const AT_ONCE: usize = 16;
/// How long to wait before the broker is asked again whether it has them.
const AGAIN: Duration = Duration::from_millis(5);

/// A message of a page: where it lies, its tag, what it is.
struct Seen {
    position: String,
    tag: u64,
    message: Incoming,
}

/// Where a page begins.
enum Begin<'a> {
    At(&'a str),
    After(&'a str),
}

/// What is wanted of a queue. Only that is kept; what lies before and behind it is held by its tag alone.
struct Page<'a> {
    begin: Option<Begin<'a>>,
    limit: usize,
    /// How many messages have been looked at.
    looked_at: usize,
    found: Vec<Seen>,
}

impl<'a> Page<'a> {
    fn new(after: Option<&'a str>, limit: usize) -> Self {
        Self { begin: after.map(Begin::After), limit, looked_at: 0, found: Vec::new() }
    }

    /// The one message at `position`.
    fn one(position: &'a str) -> Self {
        Self { begin: Some(Begin::At(position)), limit: 1, looked_at: 0, found: Vec::new() }
    }

    fn is_full(&self) -> bool {
        self.begin.is_none() && self.found.len() >= self.limit
    }

    /// How many it still wants, where that is known.
    fn wants(&self) -> Option<usize> {
        (self.begin.is_none() && !self.is_full()).then(|| self.limit - self.found.len())
    }

    /// Whether the message at `position`, the next of the queue, belongs to it.
    fn takes(&mut self, position: &str) -> bool {
        self.looked_at += 1;
        match self.begin {
            None => !self.is_full(),
            Some(Begin::At(at)) if at == position => {
                self.begin = None;
                true
            }
            // A counted place is the same place, whatever lies there by now.
            Some(Begin::After(after)) if after == position || counted(after) == Some(self.looked_at - 1) => {
                self.begin = None;
                false
            }
            Some(_) => false,
        }
    }

    /// What was found. Behind a counted place that the queue does not reach there is nothing; but a name that is gone has
    /// no place, and an empty page would say that the end was reached.
    fn shown(self, queue: &str) -> Result<Vec<Peeked>, TransportError> {
        if let Some(Begin::After(after)) = self.begin
            && counted(after).is_none()
        {
            return Err(TransportError::new(
                TransportErrorKind::Invalid,
                format!(
                    "queue `{queue}` has nothing at `{after:.60}`, or no more; take a position from a listing, or list from \
                     the start"
                ),
            ));
        }
        Ok(self.found.into_iter().map(|seen| Peeked::new(seen.message, seen.position)).collect())
    }
}

/// The position of what has no name: its place in the order must do.
fn place(at: usize) -> String {
    format!("at-{at}")
}

/// The place that such a position counts.
fn counted(position: &str) -> Option<usize> {
    position.strip_prefix("at-")?.parse().ok()
}

/// The oldest messages of a queue, in hand until this is given back.
struct Look {
    channel: Channel,
    queue: String,
    windows: Vec<Window>,
}

/// Messages that came one behind the other, with tags one behind the other.
struct Window {
    /// The last tag.
    last: u64,
    count: u64,
}

/// What a window says of those to come.
struct Came {
    window: Window,
    /// The largest payload.
    largest: usize,
    /// All of it was handed out and given back before.
    again: bool,
}

impl Broker {
    /// Takes messages of `queue` into the hand one after the other, and none more than `page` needs and their order; and what
    /// each is known by among those of its queue.
    async fn look_closely(
        &self,
        queue: &str,
        page: &mut Page<'_>,
    ) -> Result<Option<(Look, Vec<String>)>, TransportError> {
        if self.depth_of(queue).await?.is_none() {
            return Ok(None);
        }
        let channel = self.consuming.channel().await?;
        let mut look = Look { channel, queue: queue.to_owned(), windows: Vec::new() };
        let mut prints = Vec::new();
        // As in `look`: all that was given back before is in front, and would come behind what is given back now.
        let mut again = true;
        while again || !page.is_full() {
            let got = look.channel.basic_get(short(queue), BasicGetOptions::default()).await;
            let got = got.map_err(|error| error::of(error, &format!("looking into queue `{queue}`")))?;
            let Some(got) = got else { break };
            again &= got.delivery.redelivered;
            let (tag, raw) = (got.delivery.delivery_tag, raw(got.delivery));
            look.windows.push(Window { last: tag, count: 1 });
            prints.push(raw.print());
            self.show(page, tag, raw);
        }
        Ok(Some((look, prints)))
    }

    /// Takes messages of `queue` into the hand, the oldest first, until `page` is full.
    ///
    /// They come in windows, for the client keeps whole whatever is under way. A window is a consumer, ended when it has
    /// what it may have: the broker hands a consumer no more than its prefetch, and that cannot grow on a quorum queue.
    async fn look(&self, queue: &str, page: &mut Page<'_>) -> Result<Option<Look>, TransportError> {
        let Some(depth) = self.depth_of(queue).await? else { return Ok(None) };
        let channel = self.consuming.channel().await?;
        let mut look = Look { channel, queue: queue.to_owned(), windows: Vec::new() };
        // A quorum queue puts what is given back behind what was given back before, both in front of all else. So all that
        // was given back is taken, or this look would change the order.
        let mut again = true;
        let mut fit = WINDOW;
        let mut left = usize::try_from(depth).unwrap_or(usize::MAX);
        while left > 0 && (again || !page.is_full()) {
            let size = page.wants().unwrap_or(fit).min(fit).min(left);
            let (came, ended) = self.next_window(&look, size, page).await;
            let missing = came.window.count < size as u64;
            again &= came.again;
            fit = (ROOM / came.largest.max(1)).clamp(1, WINDOW);
            left -= size;
            look.windows.push(came.window);
            if let Err(error) = ended {
                look.end(self).await;
                return Err(error);
            }
            if missing {
                // Somebody else has taken it meanwhile.
                break;
            }
        }
        Ok(Some(look))
    }

    /// Takes the next `size` messages into the hand: those that came, and why not all of them where that is no end.
    async fn next_window(
        &self,
        look: &Look,
        size: usize,
        page: &mut Page<'_>,
    ) -> (Came, Result<(), TransportError>) {
        let failed = |error| error::of(error, &format!("looking into queue `{}`", look.queue));
        let mut came = Came { window: Window { last: 0, count: 0 }, largest: 0, again: true };
        let channel = &look.channel;
        let prefetch = u16::try_from(size).unwrap_or(u16::MAX);
        let consuming = async {
            channel.basic_qos(prefetch, BasicQosOptions::default()).await?;
            let options = BasicConsumeOptions::default();
            channel.basic_consume(short(&look.queue), short(""), options, FieldTable::default()).await
        };
        let mut consumer = match consuming.await {
            Ok(consumer) => consumer,
            Err(error) => return (came, Err(failed(error))),
        };
        let mut take = |came: &mut Came, delivery: Delivery| {
            let tag = delivery.delivery_tag;
            came.window = Window { last: tag, count: came.window.count + 1 };
            came.largest = came.largest.max(delivery.data.len());
            came.again &= delivery.redelivered;
            self.show(page, tag, raw(delivery));
        };
        let mut ended = Ok(());
        while came.window.count < u64::from(prefetch) {
            match self.next_of(&look.queue, &mut consumer).await {
                Ok(Some(delivery)) => take(&mut came, delivery),
                Ok(None) => break,
                Err(error) => {
                    ended = Err(error);
                    break;
                }
            }
        }
        let cancelled = channel.basic_cancel(consumer.tag(), BasicCancelOptions::default()).await;
        ended = ended.and(cancelled.map_err(failed));
        // What was on its way comes before the broker's word on that, and is in hand as well.
        while let Some(Some(Ok(delivery))) = consumer.next().now_or_never() {
            take(&mut came, delivery);
        }
        (came, ended)
    }

    /// The next message of `queue`; `None` where it has no more. A broker that is silent for too long is an error: a page that
    /// ends early would say that there is nothing more.
    async fn next_of(
        &self,
        queue: &str,
        consumer: &mut Consumer,
    ) -> Result<Option<Delivery>, TransportError> {
        let waits = self.config.connect_timeout.as_secs().div_ceil(PATIENCE.as_secs()).max(u64::from(EMPTY));
        let mut empty = 0;
        for _ in 0..waits {
            // Asked beside it: over a slow link the answer comes behind what is handed out.
            let depth = async {
                tokio::time::sleep(PATIENCE).await;
                self.depth_of(queue).await
            };
            let depth = tokio::select! {
                biased;
                next = consumer.next() => {
                    let failed = |error| error::of(error, &format!("looking into queue `{queue}`"));
                    let moved = || TransportError::new(
                        TransportErrorKind::Unavailable,
                        format!("the broker has ended a look into queue `{queue}`: somebody has deleted or moved it; try again"),
                    );
                    return next.ok_or_else(moved)?.map(Some).map_err(failed);
                }
                depth = depth => depth?,
            };
            empty = if depth.unwrap_or(0) == 0 { empty + 1 } else { 0 };
            if empty == EMPTY {
                return Ok(None);
            }
        }
        Err(TransportError::new(
            TransportErrorKind::Timeout,
            format!("the broker does not hand out what queue `{queue}` holds; try again"),
        ))
    }

    /// Shows the next message of the queue to `page`, which keeps it or not.
    fn show(&self, page: &mut Page<'_>, tag: u64, raw: Raw) {
        let position = raw.text(LETTER).unwrap_or_else(|| place(page.looked_at));
        if page.takes(&position) {
            let message = read(raw, &mut Topics::default(), &Ingest::default(), self.clock.now());
            page.found.push(Seen { position, tag, message });
        }
    }

    /// Takes the dead letter at `position` into the hand.
    async fn letter(&self, group: &Group, position: &str) -> Result<(Look, u64, Incoming), TransportError> {
        let queue = self.names.dead_letter(group.as_str());
        let mut page = Page::one(position);
        if let Some(look) = self.look(&queue, &mut page).await? {
            if let Some(Seen { tag, message, .. }) = page.found.pop() {
                return Ok((look, tag, message));
            }
            look.end(self).await;
        }
        Err(TransportError::new(
            TransportErrorKind::Invalid,
            format!("group `{group}` has no dead letter at `{position:.60}`; take a position from a listing"),
        ))
    }
}

/// A message as it came.
fn raw(delivery: Delivery) -> Raw {
    Raw {
        routing_key: delivery.routing_key.into(),
        properties: delivery.properties,
        payload: delivery.data.into(),
    }
}

impl Look {
    /// Gives everything back.
    async fn end(self, broker: &Broker) {
        self.end_within(broker, BACK).await;
    }

    /// Gives everything back to a queue that others take from, whose depth may never tell that it is there.
    async fn end_within(self, broker: &Broker, patience: Duration) {
        // What cannot be given back so goes back with the channel.
        let _ = self.give_back(broker, patience).await;
        let _ = self.channel.close(200, "looked".into()).await;
    }

    /// Removes one message, and gives everything else back.
    async fn remove(mut self, broker: &Broker, tag: u64) -> Result<(), TransportError> {
        let removed = self.channel.basic_ack(tag, BasicAckOptions::default()).await;
        removed.map_err(|error| error::of(error, "removing a dead letter"))?;
        for window in &mut self.windows {
            if tag <= window.last && tag + window.count > window.last {
                // The broker knows the tag no more.
                window.last -= u64::from(tag == window.last);
                window.count -= 1;
            }
        }
        let _ = self.give_back(broker, BACK).await;
        self.channel
            .close(200, "removed".into())
            .await
            .map_err(|error| error::of(error, "removing a dead letter"))
    }

    /// Gives everything back in its order, window by window, and waits until it is there: whoever looks next asks first
    /// how much that is. The end of a channel would give back the windows in any order.
    async fn give_back(&self, broker: &Broker, patience: Duration) -> Result<(), TransportError> {
        let failed = |error| error::of(error, &format!("giving back to queue `{}`", self.queue));
        let mut there = broker.depth_of(&self.queue).await?.unwrap_or(0);
        for windows in self.windows.chunks(AT_ONCE) {
            for window in windows.iter().filter(|window| window.count > 0) {
                let options = BasicNackOptions { multiple: true, requeue: true };
                self.channel.basic_nack(window.last, options).await.map_err(failed)?;
                there += window.count;
            }
            let deadline = Instant::now() + patience;
            while broker.depth_of(&self.queue).await?.is_some_and(|depth| depth < there)
                && Instant::now() < deadline
            {
                tokio::time::sleep(AGAIN).await;
            }
        }
        Ok(())
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
            // The broker tells nobody what its consumers hold.
            status.in_hand = broker.in_hand(&status.group);
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
        let held = broker.hold_within(LOOKING).await?;
        let queue = broker.names.group(group.as_str());
        let mut page = Page::new(after, limit);
        let look = broker.look_closely(&queue, &mut page).await;
        let text = format!("group `{group}` has no queue at this broker; declare it first");
        let (look, prints) = match look {
            Ok(Some(look)) => look,
            missing => {
                held.release(broker).await;
                return missing.and(Err(TransportError::new(TransportErrorKind::Invalid, text)));
            }
        };
        // Written down while they are in hand, so that nobody gets them before.
        let written = held.looked_at(broker, group, prints.into_iter()).await;
        // Whether anybody else is there: then the depth tells nothing.
        let alone = matches!(broker.state_of(&queue).await, Ok(Some((_, 0))));
        look.end_within(broker, if alone { BACK } else { BESIDE_OTHERS }).await;
        written?;
        page.shown(&queue)
    }

    async fn dead_letters(
        &self,
        group: &Group,
        after: Option<&str>,
        limit: usize,
    ) -> Result<Vec<Peeked>, TransportError> {
        let broker = self.broker();
        let held = broker.hold_within(LOOKING).await?;
        let queue = broker.names.dead_letter(group.as_str());
        let mut page = Page::new(after, limit);
        let look = broker.look(&queue, &mut page).await;
        let shown = match look {
            Ok(look) => {
                if let Some(look) = look {
                    look.end(broker).await;
                }
                page.shown(&queue)
            }
            Err(error) => Err(error),
        };
        held.release(broker).await;
        shown
    }

    async fn replay(&self, group: &Group, position: &str) -> Result<(), TransportError> {
        let broker = self.broker();
        let held = broker.hold_within(LOOKING).await?;
        let replayed = async {
            let (look, tag, message) = broker.letter(group, position).await?;
            let Some(envelope) = message.envelope() else {
                look.end(broker).await;
                let text =
                    format!("the dead letter at `{position:.60}` is no envelope and cannot be replayed");
                return Err(TransportError::new(TransportErrorKind::Invalid, text));
            };
            match broker.send_to(Place::Group(group.clone()), envelope.replayed()).await {
                Ok(()) => look.remove(broker, tag).await,
                Err(error) => {
                    look.end(broker).await;
                    Err(error)
                }
            }
        };
        let replayed = replayed.await;
        held.release(broker).await;
        replayed
    }

    async fn remove_dead_letter(&self, group: &Group, position: &str) -> Result<(), TransportError> {
        let broker = self.broker();
        let held = broker.hold_within(LOOKING).await?;
        let removed = match broker.letter(group, position).await {
            Ok((look, tag, _)) => look.remove(broker, tag).await,
            Err(error) => Err(error),
        };
        held.release(broker).await;
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

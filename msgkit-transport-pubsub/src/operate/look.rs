//! Looking through the dead letters of a group, which nobody reads otherwise.
//!
//! Letters have no ordering key: the service takes settlements of a key in its order alone, and any of them may be removed.
//! Whoever looks publishes a mark behind them and reads until that has come, and nothing more for a moment; then everything is
//! given back. Marks have a key, so the next one comes when the one before it is settled, which is last of all: one reader at a
//! time has the letters, and another one that began at the same time is told.

use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::join_all;
use google_cloud_gax::error::rpc::Code;
use google_cloud_pubsub::model::Message;
use google_cloud_pubsub::subscriber::handler::Handler;
use google_cloud_pubsub::subscriber::{MessageStream, ShutdownBehavior};
use msgkit::envelope::ingest::Ingest;
use msgkit::transport::{Group, Incoming, TransportError, TransportErrorKind};
use tokio::sync::MutexGuard;
use tokio::time::timeout;

use crate::connections::Seat;
use crate::error::{self, code};
use crate::transport::Pubsub;
use crate::wire::{self, Raw};

/// The attribute of a mark, and the ordering key of all.
const MARK: &str = "msgkit-mark";
const MARKS: &str = "msgkit.marks";
/// How much longer than a lease the next message may take while one looks: who looked before and died has it so long.
const PATIENCE: Duration = Duration::from_secs(15);
/// How long after the mark nothing may have come until all have: those before it have no order.
const GRACE: Duration = Duration::from_secs(1);
/// A wait is so many short ones, so that a pause of the process counts as one of them.
const WAITS: u32 = 10;
/// How long giving back may take.
const END: Duration = Duration::from_secs(10);
/// The most that are looked through, which bounds the memory of whoever looks.
const MOST: usize = 10_000;

/// When a message was published, by the clock of the service.
type Published = (i64, i32);

/// A dead letter in hand.
pub(super) struct Letter {
    pub(super) id: Arc<str>,
    pub(super) message: Incoming,
    pub(super) handler: Handler,
    published: Published,
}

/// The dead letters of a group, in hand until this is ended.
pub(super) struct Look {
    stream: MessageStream,
    seat: Seat,
    pub(super) letters: Vec<Letter>,
    bytes: usize,
    /// Of letters that have come again since: dropped, it would tell the service to hand them out again.
    stale: Vec<Handler>,
    /// Marks that are done with: that of this look, and what was left by those that broke off.
    done: Done,
    /// Those of others, and when they were published.
    others: Vec<(Published, Handler)>,
}

/// A mark that is left behind keeps other processes from looking for a while. So it is settled also where nobody waits for the look
/// any more.
#[derive(Default)]
struct Done(Vec<Handler>);

impl Drop for Done {
    fn drop(&mut self) {
        self.0.drain(..).for_each(Handler::ack);
    }
}

impl Look {
    /// Gives everything back.
    pub(super) async fn end(self, pubsub: &Pubsub) {
        let Self { stream, seat: _seat, letters, stale, mut done, others, .. } = self;
        let ended = stream.shutdown_token();
        drop(stream);
        pubsub.core().round_trip().await;
        drop(stale);
        let letters = letters.into_iter().map(|letter| letter.handler);
        let back: Vec<Handler> = letters.chain(others.into_iter().map(|(_, mark)| mark)).collect();
        let settling = async {
            // Before the marks: whoever gets the next one finds all letters there.
            join_all(back.into_iter().map(give_back)).await;
            join_all(std::mem::take(&mut done.0).into_iter().map(|mark| pubsub.confirm(mark))).await;
            ended.shutdown().await;
        };
        if timeout(END, settling).await.is_err() {
            tracing::warn!(
                "Pub/Sub could not be told that dead letters go back; their leases run out by themselves"
            );
        }
    }

    fn take(&mut self, letter: Letter, bytes: usize) {
        // One that comes again while one looks stands at the same place.
        if let Some(known) = self.letters.iter_mut().find(|known| known.id == letter.id) {
            self.stale.push(std::mem::replace(&mut known.handler, letter.handler));
        } else {
            self.bytes += bytes;
            self.letters.push(letter);
        }
    }
}

/// Gives one message back; returns when the service has it, where it says so.
async fn give_back(handler: Handler) {
    match handler {
        Handler::ExactlyOnce(handler) => drop(handler.confirmed_nack().await),
        other => other.nack(),
    }
}

impl Pubsub {
    /// Waits for others of this process that look.
    pub(super) async fn alone(&self) -> Result<MutexGuard<'_, ()>, TransportError> {
        let patience = self.core().config.lease * 2 + PATIENCE;
        timeout(patience, self.core().looking.lock()).await.map_err(|_| {
            let text =
                format!("another call has been looking through dead letters for {patience:?}; try again");
            TransportError::new(TransportErrorKind::Timeout, text)
        })
    }

    /// Takes the dead letters of `group` into the hand, the oldest first. All of them: what is fetched and not read could be seen
    /// by nobody until its lease runs out.
    pub(super) async fn look(&self, group: &Group) -> Result<Look, TransportError> {
        let core = self.core();
        core.open()?;
        let name = core.ensure_letters(group).await?;
        let topic = core.names.dead_letter(group)?;
        let ours = format!("{:016x}-", core.looker);
        let mark = format!("{ours}{:016x}", fastrand::u64(..));
        let message = Message::new().set_attributes([(MARK, mark.as_str())]).set_ordering_key(MARKS);
        self.send_one(topic.clone(), message).await?;
        let seat = core.clients.seat();
        let reads = core.clients.subscriber(&seat).await?.subscribe(&name);
        core.watch();
        let reads = reads
            .set_max_outstanding_messages(i64::try_from(MOST).unwrap_or(i64::MAX))
            .set_max_outstanding_bytes(i64::try_from(core.config.fetch_buffer).unwrap_or(i64::MAX))
            .set_max_lease_extension(core.config.lease)
            .set_shutdown_behavior(ShutdownBehavior::WaitForProcessing);
        let (letters, stale, done, others) = (Vec::new(), Vec::new(), Done::default(), Vec::new());
        let mut look = Look { stream: reads.build(), seat, letters, bytes: 0, stale, done, others };
        let mut marked: Option<Published> = None;
        let failed = loop {
            if look.letters.len() >= MOST {
                let text = format!(
                    "group `{group}` has more than {MOST} dead letters, more than can be looked through; read `{name}` with \
                     Google's tools"
                );
                break Some(TransportError::new(TransportErrorKind::Full, text));
            }
            let patience = if marked.is_some() { GRACE } else { core.config.lease + PATIENCE };
            match within(patience, look.stream.next()).await {
                Some(Some(Ok((message, handler)))) => {
                    look.seat.heard();
                    let published = message.publish_time.map_or((0, 0), |at| (at.seconds(), at.nanos()));
                    match message.attributes.get(MARK) {
                        Some(found) if *found == mark => {
                            marked = Some(published);
                            look.done.0.push(handler);
                        }
                        // Another call of this process broke off.
                        Some(found) if found.starts_with(&ours) => look.done.0.push(handler),
                        Some(_) => look.others.push((published, handler)),
                        None => {
                            let bytes = wire::bytes(&message);
                            let mut raw = Raw::new(message, core.names.implied(&topic));
                            raw.key.clear();
                            let id = raw.id.clone();
                            let (message, _) = wire::read(&raw, &Ingest::default(), core.clock.now());
                            look.take(Letter { id, message, handler, published }, bytes);
                        }
                    }
                }
                Some(Some(Err(error))) => {
                    if code(&error) == Some(Code::NotFound) {
                        // Somebody has deleted it; the next look makes it again.
                        core.forget();
                    }
                    break Some(error::of(error, &format!("looking into `{name}`")));
                }
                None if marked.is_some() && look.bytes < core.config.fetch_buffer => break None,
                Some(None) | None => {
                    let text = match look.letters.len() {
                        0 => format!("`{name}` is being read by somebody else; try again"),
                        some => format!(
                            "after {some} dead letters of group `{group}` no more came: they have more than the {} bytes of \
                             `fetch_buffer`, which may be raised, or somebody else is reading them",
                            core.config.fetch_buffer
                        ),
                    };
                    break Some(TransportError::new(TransportErrorKind::Unavailable, text));
                }
            }
        };
        // Who has published a mark of late is looking as well, and has some of the letters. An older one was left behind.
        let lease = i64::try_from(core.config.lease.as_secs()).unwrap_or(i64::MAX / 2);
        let (now, _) = marked.unwrap_or_default();
        let (left, looking): (Vec<_>, Vec<_>) =
            std::mem::take(&mut look.others).into_iter().partition(|((at, _), _)| now - at > 2 * lease);
        look.done.0.extend(left.into_iter().map(|(_, handler)| handler));
        look.others = looking;
        let failed = failed.or_else(|| {
            let text = format!("`{name}` is being read by somebody else; try again");
            (!look.others.is_empty()).then(|| TransportError::new(TransportErrorKind::Unavailable, text))
        });
        match failed {
            None => {
                look.letters.sort_by_key(|letter| letter.published);
                Ok(look)
            }
            Some(error) => {
                look.end(self).await;
                Err(error)
            }
        }
    }

    /// Settles one message; true where the service has taken it.
    pub(super) async fn confirm(&self, handler: Handler) -> bool {
        match handler {
            Handler::ExactlyOnce(handler) => {
                // No answer comes by a silent connection, and no lease holds for so long.
                let patience = self.core().config.lease * 2;
                matches!(timeout(patience, handler.confirmed_ack()).await, Ok(Ok(())))
            }
            other => {
                other.ack();
                true
            }
        }
    }
}

/// What `next` gives within `patience`; `None` = nothing.
async fn within<T>(patience: Duration, next: impl Future<Output = T>) -> Option<T> {
    let mut next = pin!(next);
    for _ in 0..WAITS {
        if let Ok(came) = timeout(patience / WAITS, next.as_mut()).await {
            return Some(came);
        }
    }
    None
}

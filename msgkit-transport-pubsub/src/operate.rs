//! What operators ask. How much waits for a group is told by Cloud Monitoring alone, and what waits cannot be looked at without
//! being handed out; dead letters can, because nobody else reads them.
//!
//! All dead letters of a group have one ordering key, so they come in their order. Whoever looks publishes a mark behind them,
//! reads up to it, and gives everything back.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use google_cloud_gax::error::rpc::Code;
use google_cloud_pubsub::model::Message;
use google_cloud_pubsub::subscriber::handler::Handler;
use google_cloud_pubsub::subscriber::{MessageStream, ShutdownBehavior};
use msgkit::Text;
use msgkit::envelope::ingest::Ingest;
use msgkit::transport::{
    Destination, Group, GroupStatus, Incoming, Operate, Outgoing, Peeked, Publisher as _, TransportError,
    TransportErrorKind,
};

use crate::connections::Seat;
use crate::core::Core;
use crate::error::{self, code};
use crate::publisher::LETTERS;
use crate::transport::Pubsub;
use crate::wire::{self, Raw};

/// The attribute of a mark.
const MARK: &str = "msgkit-mark";
/// How much longer than a lease the next message may take while one looks: who looked before and died has it so long.
const PATIENCE: Duration = Duration::from_secs(15);
/// The most that are looked through, which bounds the memory of whoever looks.
const MOST: usize = 10_000;

/// The dead letters of a group, in hand until this is ended.
struct Look {
    stream: MessageStream,
    _seat: Seat,
    letters: Vec<(Arc<str>, Incoming, Handler)>,
}

impl Look {
    /// Gives everything back.
    async fn end(self, core: &Core) {
        let ended = self.stream.shutdown_token();
        drop(self.stream);
        core.round_trip().await;
        drop(self.letters);
        ended.shutdown().await;
    }
}

impl Pubsub {
    /// Takes the dead letters of `group` into the hand, the oldest first. All of them: what is fetched and not read could be seen
    /// by nobody until its lease runs out.
    async fn look(&self, group: &Group) -> Result<Look, TransportError> {
        let core = self.core();
        core.open()?;
        let name = core.ensure_letters(group).await?;
        let topic = core.names.dead_letter(group)?;
        let mark = format!("{:032x}", fastrand::u128(..));
        let mut message = Message::new();
        message.attributes.insert(MARK.to_owned(), mark.clone());
        LETTERS.clone_into(&mut message.ordering_key);
        self.send_one(topic.clone(), message).await?;
        let seat = core.clients.seat();
        let reads = core.clients.subscriber(&seat).await?.subscribe(&name);
        let reads = reads
            .set_max_outstanding_messages(i64::try_from(MOST).unwrap_or(i64::MAX))
            .set_max_outstanding_bytes(i64::try_from(core.config.fetch_buffer).unwrap_or(i64::MAX))
            .set_max_lease_extension(core.config.lease)
            .set_shutdown_behavior(ShutdownBehavior::WaitForProcessing);
        let mut look = Look { stream: reads.build(), _seat: seat, letters: Vec::new() };
        // A mark is taken for good only when no letter before it is in hand unsettled, so it goes last.
        let mut marks = Vec::new();
        let failed = loop {
            if look.letters.len() >= MOST {
                let text = format!(
                    "group `{group}` has more than {MOST} dead letters, more than can be looked through; read `{name}` with \
                     Google's tools"
                );
                break Some(TransportError::new(TransportErrorKind::Full, text));
            }
            match tokio::time::timeout(core.config.lease + PATIENCE, look.stream.next()).await {
                Ok(Some(Ok((message, handler)))) => match message.attributes.get(MARK) {
                    Some(found) => {
                        let last = *found == mark;
                        marks.push(handler);
                        if last {
                            break None;
                        }
                    }
                    None => {
                        let mut raw = Raw::new(message, core.names.implied(&topic));
                        raw.key.clear();
                        let id = raw.id.clone();
                        // One that comes again while one looks stands at the same place.
                        if !look.letters.iter().any(|(known, _, _)| *known == id) {
                            let (message, _) = wire::read(&raw, &Ingest::default(), core.clock.now());
                            look.letters.push((id, message, handler));
                        }
                    }
                },
                Ok(Some(Err(error))) => {
                    if code(&error) == Some(Code::NotFound) {
                        // Somebody has deleted it; the next look makes it again.
                        core.forget();
                    }
                    break Some(error::of(error, &format!("looking into `{name}`")));
                }
                Ok(None) | Err(_) => {
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
        for mark in marks {
            self.confirm(mark).await;
        }
        match failed {
            None => Ok(look),
            Some(error) => {
                look.end(self.core()).await;
                Err(error)
            }
        }
    }

    /// Settles one message; true where the service has taken it.
    async fn confirm(&self, handler: Handler) -> bool {
        match handler {
            Handler::ExactlyOnce(handler) => {
                // No answer comes by a silent connection, and no lease holds for so long.
                let patience = self.core().config.lease * 2;
                matches!(tokio::time::timeout(patience, handler.confirmed_ack()).await, Ok(Ok(())))
            }
            other => {
                other.ack();
                true
            }
        }
    }

    /// Takes the dead letter at `position` into the hand.
    async fn letter(
        &self,
        group: &Group,
        position: &str,
    ) -> Result<(Look, Incoming, Handler), TransportError> {
        let mut look = self.look(group).await?;
        match look.letters.iter().position(|(at, _, _)| **at == *position) {
            Some(at) => {
                let (_, message, handler) = look.letters.remove(at);
                Ok((look, message, handler))
            }
            None => {
                look.end(self.core()).await;
                Err(error::invalid(format!(
                    "group `{group}` has no dead letter at `{position:.60}`; take a position from a listing"
                )))
            }
        }
    }
}

fn not_removed(position: &str) -> TransportError {
    TransportError::new(
        TransportErrorKind::Unavailable,
        format!("the dead letter at `{position:.60}` could not be removed; try again"),
    )
}

#[async_trait]
impl Operate for Pubsub {
    /// Every declared group. How much waits for it is not told: `waiting` is 0 for all of them.
    async fn groups(&self) -> Result<Vec<GroupStatus>, TransportError> {
        let core = self.core();
        core.open()?;
        let groups = core.entries().await?.into_keys().filter_map(|reader| reader.as_group());
        Ok(groups
            .map(|group| {
                let mut status = GroupStatus::new(group);
                status.broken_off = core.broken_off(&status.group);
                status
            })
            .collect())
    }

    async fn peek(&self, group: &Group, _: Option<&str>, _: usize) -> Result<Vec<Peeked>, TransportError> {
        Err(TransportError::new(
            TransportErrorKind::Unsupported,
            format!(
                "what waits for group `{group}` cannot be looked at: Pub/Sub would hand it out, and count that as a start"
            ),
        ))
    }

    async fn dead_letters(
        &self,
        group: &Group,
        after: Option<&str>,
        limit: usize,
    ) -> Result<Vec<Peeked>, TransportError> {
        let _alone = self.core().looking.lock().await;
        let from = |letters: &[(Arc<str>, Incoming, Handler)]| match after {
            None => Some(0),
            Some(after) => letters.iter().position(|(at, _, _)| **at == *after).map(|at| at + 1),
        };
        let look = self.look(group).await?;
        let from = from(&look.letters).unwrap_or(look.letters.len());
        let page = look.letters.iter().skip(from).take(limit);
        let page =
            page.map(|(at, message, _)| Peeked::new(message.clone(), Text::from(at.clone()))).collect();
        look.end(self.core()).await;
        Ok(page)
    }

    async fn replay(&self, group: &Group, position: &str) -> Result<(), TransportError> {
        // Where nothing is created there may be no entries; a retry topic that is missing is an error then.
        if self.core().config.create
            && !self.core().entries().await?.keys().any(|reader| reader.as_group().as_ref() == Some(group))
        {
            return Err(error::invalid(format!(
                "group `{group}` is not declared here, so nobody would handle what is published again; \
                 its dead letter goes back by `Running::replay`"
            )));
        }
        let _alone = self.core().looking.lock().await;
        let (look, message, handler) = self.letter(group, position).await?;
        let done = async {
            let Some(envelope) = message.envelope() else {
                return Err(error::invalid(format!(
                    "the dead letter at `{position:.60}` is no envelope and cannot be replayed"
                )));
            };
            let to = Destination::Retry { group: group.clone(), step: 1, delay: Duration::ZERO };
            let published = self.publish(vec![Outgoing::new(to, envelope.replayed())]).await;
            if let Some(rejected) = published.err().and_then(|error| error.into_rejected().pop()) {
                return Err(rejected.error);
            }
            if self.confirm(handler).await { Ok(()) } else { Err(not_removed(position)) }
        };
        let done = done.await;
        look.end(self.core()).await;
        done
    }

    async fn remove_dead_letter(&self, group: &Group, position: &str) -> Result<(), TransportError> {
        let _alone = self.core().looking.lock().await;
        let (look, _, handler) = self.letter(group, position).await?;
        let removed = self.confirm(handler).await;
        look.end(self.core()).await;
        if removed { Ok(()) } else { Err(not_removed(position)) }
    }

    /// Not told.
    async fn depth(&self, _: &Destination) -> Result<Option<u64>, TransportError> {
        Ok(None)
    }
}

//! What reads one subscription of Pub/Sub: a stream, made again when it is lost.

use std::convert::Infallible;
use std::future::poll_fn;
use std::pin::pin;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use futures_util::future::FutureExt as _;
use google_cloud_gax::error::rpc::Code;
use google_cloud_pubsub::model::Message;
use google_cloud_pubsub::subscriber::handler::Handler;
use google_cloud_pubsub::subscriber::{MessageStream, ShutdownBehavior};
use msgkit::Topic;
use msgkit::transport::{Subscription, TransportError, TransportErrorKind};

use super::known::{Known, Whose};
use super::member::{Came, Member, Phase};
use crate::connections::Seat;
use crate::core::{Core, Refusal};
use crate::error::{self, code};
use crate::names::Reader;
use crate::places::Readable;
use crate::wire::{self, Raw};

/// The shortest and the longest pause between two streams.
const PAUSE: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(5));

/// What reads one subscription of Pub/Sub.
pub(super) struct Source {
    pub(super) core: Arc<Core>,
    pub(super) member: Arc<Member>,
    pub(super) number: usize,
    /// How many of its connections have fallen silent.
    pub(super) connection: u64,
    pub(super) name: String,
    /// The topic of what names none.
    pub(super) implied: Topic,
    /// `None` where it reads copies, which all belong to the group.
    pub(super) reader: Option<Reader>,
    pub(super) subscription: Arc<Subscription>,
    pub(super) known: Arc<Known>,
    /// How many may be fetched beyond those in hand.
    pub(super) ahead: u32,
}

impl Source {
    /// Until the subscription is left, or there is nothing to read any more; answers which one is gone.
    pub(super) async fn run(mut self) -> Option<String> {
        let mut pause = PAUSE.0;
        let mut refused = None;
        while self.member.phase() == Phase::Reads {
            // Asked for first: of a client that is exchanged meanwhile the stream is silent at once.
            let seat = self.core.clients.seat();
            let generation = seat.client().generation();
            let error = match self.open(&seat).await {
                Ok(Some(stream)) => {
                    match self.read(stream, &seat, generation, &mut pause, &mut refused).await {
                        None => return None,
                        Some(error) => {
                            if seat.client().generation() != generation {
                                self.connection += 1;
                                self.member.exchanged(self.number);
                            }
                            error
                        }
                    }
                }
                Ok(None) => {
                    tracing::warn!(subscription = %self.name, "its topic is gone as well; it is read again when that is there again");
                    return Some(self.name);
                }
                Err(error) => error,
            };
            let waits = if error.is_temporary() {
                tracing::warn!(subscription = %self.name, error = %msgkit::Chain(&error), "a stream was lost; it is opened again in {pause:?}");
                let longer = (pause * 2).min(PAUSE.1);
                std::mem::replace(&mut pause, longer)
            } else {
                refused = Some(self.member.trouble(&error));
                self.core.config.topic_refresh
            };
            tokio::select! {
                () = self.member.reached(Phase::Stopped) => return None,
                () = tokio::time::sleep(waits) => {}
            }
        }
        None
    }

    /// `None` where it was gone, and was not made again because its topic is gone.
    async fn open(&self, seat: &Seat) -> Result<Option<MessageStream>, TransportError> {
        if !self.core.is_there(&self.name) && !self.make_again().await? {
            return Ok(None);
        }
        let config = &self.core.config;
        let most = u32::try_from(self.subscription.prefetch).unwrap_or(u32::MAX).saturating_add(self.ahead);
        let reads = self
            .core
            .clients
            .subscriber(seat)
            .await?
            .subscribe(&self.name)
            .set_max_outstanding_messages(i64::from(most))
            .set_max_outstanding_bytes(i64::try_from(config.fetch_buffer).unwrap_or(i64::MAX))
            .set_max_lease_extension(config.lease)
            .set_max_lease(config.max_hold)
            // What is in hand can be settled after the stream has ended.
            .set_shutdown_behavior(ShutdownBehavior::WaitForProcessing);
        Ok(Some(reads.build()))
    }

    /// Reads until the subscription stops, then until what came is settled or given back; or until the stream is lost.
    async fn read(
        &self,
        mut stream: MessageStream,
        seat: &Seat,
        generation: u64,
        pause: &mut Duration,
        refused: &mut Option<Refusal>,
    ) -> Option<TransportError> {
        let ended = stream.shutdown_token();
        let mut stopped = pin!(self.member.reached(Phase::Stopped));
        let mut renewed = pin!(seat.client().renewed(generation));
        // A stream that has nothing to tell is not told from one that is about to be refused, but by time.
        let mut lasts = pin!(tokio::time::sleep(self.core.config.connect_timeout));
        let error = loop {
            // Never dropped for anything but the end: the client opens another stream where it is.
            let next = tokio::select! {
                biased;
                () = &mut stopped => break None,
                next = stream.next() => next,
                // Asked where nothing more is there: one word for all that came at once.
                never = poll_fn(|context| {
                    if refused.is_some() && lasts.as_mut().poll(context).is_ready() {
                        *refused = None;
                    }
                    self.tell()
                }) => match never {},
                () = &mut renewed => {
                    // What it has read already is handed out; no lease is lost unless the silence was longer.
                    while let Some(Some(Ok((message, handler)))) = stream.next().now_or_never() {
                        self.give(message, handler);
                    }
                    self.member.tell();
                    let text = format!("the stream of subscription `{}` is silent", self.name);
                    return Some(TransportError::new(TransportErrorKind::Unavailable, text));
                }
            };
            match next {
                Some(Ok((message, handler))) => {
                    *pause = PAUSE.0;
                    *refused = None;
                    seat.heard();
                    self.give(message, handler);
                }
                Some(Err(error)) => {
                    let gone = code(&error) == Some(Code::NotFound);
                    if gone {
                        // With the subscription; of what only lost its stream the leases go on.
                        self.member.lose(self.number);
                    }
                    break Some(self.lost(error));
                }
                None => {
                    let text = format!("the stream of subscription `{}` has ended", self.name);
                    break Some(TransportError::new(TransportErrorKind::Unavailable, text));
                }
            }
        };
        self.member.tell();
        // First the stream, so that what goes back goes to others.
        drop(stream);
        if error.is_none() {
            self.member.reached(Phase::Left).await;
            ended.shutdown().await;
        }
        error
    }

    /// The receiver is told of what came.
    fn tell(&self) -> Poll<Infallible> {
        self.member.tell();
        Poll::Pending
    }

    fn give(&self, message: Message, handler: Handler) {
        let mut raw = Raw::new(message, self.implied.clone());
        // Among copies, one of a foreign producer that the service has moved here: it names no topic.
        if self.reader.is_none()
            && let Some(topic) = raw.moved_from().and_then(|from| self.core.names.read_of(from))
        {
            raw.implied = topic;
        }
        let (message, named) = wire::read(&raw, &self.subscription.ingest, self.core.clock.now());
        let whose = self.known.whose(&message, named);
        let Raw { id, key, .. } = raw;
        let (source, connection) = (self.number, self.connection);
        let came = Came { source, connection, id, key, message, handler };
        match whose {
            Whose::Ours => self.member.put(came),
            Whose::Undecided => self.member.withhold(came),
            Whose::Foreign => self.member.skip(came),
        }
    }

    fn lost(&self, error: google_cloud_pubsub::Error) -> TransportError {
        if code(&error) == Some(Code::NotFound) {
            self.core.note_gone(&self.name, self.subscription.group.as_ref());
            self.core.forget();
        }
        error::of(error, &format!("reading subscription `{}`", self.name))
    }

    /// Answers whether it is there now.
    async fn make_again(&self) -> Result<bool, TransportError> {
        match (&self.reader, &self.subscription.group, self.subscription.retry_step) {
            (None, Some(group), Some(step)) => self.core.ensure_copies(group, step).await.map(|_| true),
            (Some(reader), _, _) => match self.core.try_reader(reader, &self.subscription).await? {
                // By this answer alone: what is known others may forget meanwhile.
                Readable { reads, .. } if reads.contains_key(&self.name) => Ok(true),
                Readable { refused: Some(refused), .. } => Err(refused),
                Readable { .. } => Ok(false),
            },
            _ => Ok(true),
        }
    }
}

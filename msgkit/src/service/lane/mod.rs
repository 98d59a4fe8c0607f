//! The loop that handles messages: one lane, one message after the other.
//!
//! A lane knows no message type. It takes deliveries from its feed, runs each through the pipeline (decode and handle in
//! the coroutine, classify, retry in place, retry later, dead letter) and settles it. With one lane and one subscription
//! it fetches by itself; otherwise it is fed through a [`Belt`](super::belt::Belt).

mod admit;
mod attempt;
mod batch;
mod complete;
mod hot;
mod outcome;
mod stretch;
mod track;
mod work;

use std::collections::VecDeque;
use std::pin::Pin;
use std::sync::Arc;
use std::task::Poll;

use tokio::time::Sleep;

use self::hot::Hot;
pub(crate) use self::stretch::Stretch;
use self::track::Track;
pub(crate) use self::track::panic_text;
pub(crate) use self::work::{Work, later};
use super::belt::Belt;
use super::control::Control;
use super::health::HealthBoard;
use super::parking::Parking;
use super::plan::Plan;
use super::quarantine::{Participant, Quarantine};
use super::source::{Fetched, Source};
use crate::envelope::Envelope;
use crate::handler::{Context, ContextParts, Slot};
use crate::policy::Breaker;
use crate::telemetry::{EventKind, Observers};
use crate::text::Text;
use crate::transport::{Acks, Delivery};

/// The most deliveries that a lane takes at once.
const BATCH: usize = 128;
/// What all lanes of one handler share.
#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) plan: Arc<Plan>,
    pub(crate) parts: Arc<ContextParts>,
    pub(crate) observers: Observers,
    pub(crate) health: HealthBoard,
    pub(crate) breaker: Option<Breaker>,
    pub(crate) quarantine: Arc<Quarantine>,
}

/// Where a lane's deliveries come from.
pub(crate) enum Feed {
    /// From its own subscription: no channel, no other task.
    Source(Box<Source>),
    /// From the belt that fetchers fill, at this place.
    Belt(Arc<Belt>, usize),
}

/// One lane.
pub(crate) struct Lane {
    // First what is settled and what goes back, so that a lane that is broken off leaves its subscription last: whoever
    // leaves with messages in hand has their starts counted.
    acks: Acks,
    tracks: Vec<Track>,
    /// That of all tracks.
    slot: Arc<Slot>,
    batch: VecDeque<Delivery>,
    parking: Parking,
    feed: Feed,
    shared: Arc<Shared>,
    control: Control,
    context: Option<Context>,
    timer: Option<Pin<Box<Sleep>>>,
    origin: usize,
    /// Whether it runs a suspect, and everything else of the service stands still.
    alone: bool,
    /// Whether the last attempts never had to wait, so that taking many messages at once keeps nobody else from them.
    swift: bool,
    _participant: Participant,
}

impl Lane {
    pub(crate) fn new(shared: Arc<Shared>, feed: Feed, control: Control) -> Self {
        let slot = Arc::new(Slot::new(Stretch::new(shared.clone())));
        let tracks = shared
            .plan
            .spec
            .registrations
            .iter()
            .map(|registration| Track {
                name: registration.name,
                coroutine: registration.coroutine.start(slot.clone()),
                slot: slot.clone(),
                factory: registration.coroutine.clone(),
                batch: registration.batch.clone(),
            })
            .collect();
        let participant = shared.quarantine.join();
        Self {
            shared,
            feed,
            control,
            tracks,
            slot,
            context: None,
            acks: Acks::new(),
            timer: None,
            batch: VecDeque::new(),
            origin: 0,
            parking: Parking::default(),
            alone: false,
            swift: true,
            _participant: participant,
        }
    }

    /// Handles messages until the handler drains.
    pub(crate) async fn run(mut self) {
        loop {
            match self.fetch().await {
                Fetched::Some => {
                    self.gather().await;
                    self.work_off().await;
                }
                Fetched::StandStill => {
                    self.give_back();
                    if let Feed::Source(source) = &mut self.feed {
                        source.flush().await;
                    }
                    self.shared.quarantine.stand_still().await;
                }
                Fetched::Stop => break,
            }
        }
        self.give_back();
        if let Feed::Source(source) = self.feed {
            source.close().await;
        }
    }

    /// Fills the batch, or waits until a parked key is due.
    async fn fetch(&mut self) -> Fetched {
        self.acks.hand_over();
        let most = match &self.tracks[0].batch {
            Some(batch) => batch.size,
            None if self.swift => BATCH,
            None => 1,
        };
        let feed = &mut self.feed;
        let (batch, origin, control) = (&mut self.batch, &mut self.origin, &mut self.control);
        let fetching = async {
            match feed {
                Feed::Source(source) => source.fetch(BATCH, batch).await,
                Feed::Belt(belt, lane) => belt.take(*lane, most, batch, origin, control).await,
            }
        };
        match self.parking.due() {
            None => fetching.await,
            Some(due) => tokio::time::timeout_at(due, fetching).await.unwrap_or(Fetched::Some),
        }
    }

    /// For a batch handler: waits for a full batch, or until the first message has waited for as long as it may.
    async fn gather(&mut self) {
        let Some(batch) = self.tracks[0].batch.as_ref() else { return };
        let (size, until) = (batch.size, later(batch.wait));
        while !self.batch.is_empty() && self.batch.len() < size {
            let Self { feed, batch, origin, control, .. } = self;
            let before = batch.len();
            let most = size - before;
            let more = async {
                match feed {
                    Feed::Source(source) => source.fetch(most, batch).await,
                    Feed::Belt(belt, lane) => belt.take(*lane, most, batch, origin, control).await,
                }
            };
            match tokio::time::timeout_at(until, more).await {
                // What is next came from another transport.
                Ok(Fetched::Some) if self.batch.len() == before => return,
                Ok(Fetched::Some) => {}
                Ok(_) | Err(_) => return,
            }
        }
    }

    async fn work_off(&mut self) {
        let of_batch = self.origin;
        while !self.has_to_stop() {
            if let Some((origin, delivery)) = self.parking.next_freed() {
                self.origin = origin;
                self.process(delivery).await;
            } else if let Some(work) = self.parking.take_due() {
                let key = work.key().map(Text::from);
                self.attempts(work, None).await;
                if let Some(key) = key {
                    self.parking.open(&key);
                }
            } else {
                break;
            }
        }
        self.origin = of_batch;
        while !self.batch.is_empty() {
            if self.has_to_stop() {
                return;
            }
            if self.tracks[0].batch.is_some() && self.batch.len() > 1 {
                self.work_off_batch().await;
                continue;
            }
            match std::future::poll_fn(|task| Poll::Ready(self.hot(task))).await {
                Hot::Empty => {}
                Hot::Unusual(delivery) => self.process(delivery).await,
                Hot::Begun(mut work, begun) => {
                    work.attempts = work.attempts.saturating_add(1);
                    self.attempts(*work, Some(begun)).await;
                }
            }
        }
        self.acks.hand_over();
    }

    /// Whether nothing more may be started: a suspect is to run alone, or the handler drains.
    fn has_to_stop(&self) -> bool {
        self.shared.quarantine.is_active() || self.control.is_draining()
    }

    /// Gives back what was not started, first in, first out.
    fn give_back(&mut self) {
        self.acks.hand_over();
        let parked = self.parking.drain();
        let unstarted = std::mem::take(&mut self.batch);
        for delivery in parked.into_iter().chain(unstarted) {
            if self.shared.observers.any() {
                let envelope = delivery.message().envelope().cloned();
                self.tell(envelope.as_ref(), EventKind::GivenBack);
            }
            delivery.give_back();
        }
    }

    fn tell(&self, envelope: Option<&Envelope>, kind: EventKind<'_>) {
        self.shared.observers.tell(envelope, Some(&self.shared.plan.identity), kind);
    }
}

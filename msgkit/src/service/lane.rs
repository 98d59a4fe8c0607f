//! The loop that handles messages: one lane, one message after the other.
//!
//! A lane knows no message type. It takes deliveries from its feed, runs each through the pipeline (decode and handle in
//! the coroutine, classify, retry in place, retry later, dead letter) and settles it. With one lane and one subscription
//! it fetches by itself; otherwise it is fed through a [`Belt`](super::belt::Belt).

use std::collections::VecDeque;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use tokio::time::{Instant, Sleep};

use super::belt::Belt;
use super::control::Control;
use super::copies::{self, Failed};
use super::parking::Parking;
use super::plan::Plan;
use super::quarantine::{Participant, Quarantine};
use super::source::{Fetched, Source};
use crate::envelope::{DeadLetterKind, Envelope};
use crate::error::Chain;
use crate::handler::{
    BatchRegistration, BoxedCoroutine, Context, ContextParts, Coroutine, Disposition, Failure, HandlerError,
    Slot,
};
use crate::policy::{Breaker, OnFailure, Order, Unhandled};
use crate::telemetry::{EventKind, Observers};
use crate::text::Text;
use crate::transport::{Acks, Delivery, Incoming, Outgoing};

/// The most deliveries that a lane takes at once.
const BATCH: usize = 128;
/// How often a suspect is started alone before it is condemned.
const LAST_STARTS: u32 = 2;

/// What all lanes of one handler share.
#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) plan: Arc<Plan>,
    pub(crate) parts: Arc<ContextParts>,
    pub(crate) observers: Observers,
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

/// One message type of the handler, on this lane.
struct Track {
    name: &'static str,
    slot: Arc<Slot>,
    factory: Arc<dyn Coroutine>,
    coroutine: BoxedCoroutine,
    batch: Option<BatchRegistration>,
}

/// How an attempt ended.
enum Ended {
    Outcome(Result<(), Failure>),
    /// Nothing is known of the context any more: the coroutine is gone.
    Broken(Failure),
}

/// Where the good day ended.
enum Hot {
    /// The batch is worked off.
    Empty,
    /// This one is for the slow path, from its beginning.
    Unusual(Delivery),
    /// The first attempt of this one has begun.
    Begun(Box<Work>, Begun),
}

/// How far an attempt has come.
enum Begun {
    /// The coroutine waits.
    Waits,
    /// The attempt is over.
    Ended(Ended),
}

impl Track {
    /// A future that panicked or was given up cannot be polled again: a new one takes its place.
    fn restart(&mut self) {
        self.slot.clear();
        self.coroutine = self.factory.start(self.slot.clone());
    }
}

/// A message on its way through the attempts.
#[derive(Debug)]
pub(crate) struct Work {
    delivery: Delivery,
    envelope: Envelope,
    track: usize,
    origin: usize,
    attempts: u32,
    /// Attempts in place since the last delay.
    in_place: u32,
    /// Delayed retries so far.
    round: u32,
}

/// One lane.
pub(crate) struct Lane {
    shared: Arc<Shared>,
    feed: Feed,
    control: Control,
    tracks: Vec<Track>,
    context: Option<Context>,
    acks: Acks,
    timer: Option<Pin<Box<Sleep>>>,
    batch: VecDeque<Delivery>,
    origin: usize,
    parking: Parking,
    /// Whether the last attempts never had to wait, so that taking many messages at once keeps nobody else from them.
    swift: bool,
    _participant: Participant,
}

impl Lane {
    pub(crate) fn new(shared: Arc<Shared>, feed: Feed, control: Control) -> Self {
        let tracks = shared
            .plan
            .spec
            .registrations
            .iter()
            .map(|registration| {
                let slot = Arc::new(Slot::default());
                Track {
                    name: registration.name,
                    coroutine: registration.coroutine.start(slot.clone()),
                    slot,
                    factory: registration.coroutine.clone(),
                    batch: registration.batch.clone(),
                }
            })
            .collect();
        let participant = shared.quarantine.join();
        Self {
            shared,
            feed,
            control,
            tracks,
            context: None,
            acks: Acks::new(),
            timer: None,
            batch: VecDeque::new(),
            origin: 0,
            parking: Parking::default(),
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
        let most = if self.swift { BATCH } else { 1 };
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
        let (size, until) = (batch.size, Instant::now() + batch.wait);
        while !self.batch.is_empty() && self.batch.len() < size {
            let Self { feed: Feed::Source(source), batch, .. } = self else { return };
            let most = size - batch.len();
            match tokio::time::timeout_at(until, source.fetch(most, batch)).await {
                Ok(Fetched::Some) => {}
                Ok(_) | Err(_) => return,
            }
        }
    }

    async fn work_off(&mut self) {
        while let Some(work) = self.parking.take_due() {
            let key = work.key().map(Text::from);
            self.attempts(work, None).await;
            if let Some(key) = key {
                self.parking.open(&key);
            }
            while let Some((origin, delivery)) = self.parking.next_freed() {
                self.origin = origin;
                self.process(delivery).await;
            }
        }
        while !self.batch.is_empty() {
            if self.shared.quarantine.is_active() || self.control.is_draining() {
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

    /// The good day: as long as nothing is unusual, messages are handled in one poll, without a future of their own.
    ///
    /// Whatever is not plain (a message with a past or a schedule, an observer, a handler that waits, fails or publishes)
    /// leaves through the slow path, which starts where this stopped.
    fn hot(&mut self, task: &mut std::task::Context<'_>) -> Hot {
        let Self { shared, tracks, context, acks, batch, parking, origin, swift, .. } = self;
        let unusual = shared.observers.any()
            || !parking.is_empty()
            || shared.breaker.as_ref().is_some_and(|breaker| !breaker.is_closed());
        let max_starts = shared.plan.policy.max_starts;
        while let Some(delivery) = batch.pop_front() {
            let Incoming::Envelope(envelope) = delivery.message() else { return Hot::Unusual(delivery) };
            if unusual
                || !envelope.is_plain()
                || delivery.count() > max_starts
                || tracing::enabled!(tracing::Level::INFO)
            {
                return Hot::Unusual(delivery);
            }
            let Some(at) = tracks.iter().position(|track| track.name == envelope.kind()) else {
                return Hot::Unusual(delivery);
            };
            let track = &mut tracks[at];
            let cx = match context.take() {
                Some(mut cx) => {
                    cx.reset(envelope, 1);
                    cx
                }
                None => Context::new(shared.parts.clone(), envelope.clone(), 1),
            };
            track.slot.put(cx);
            let begun = match catch_unwind(AssertUnwindSafe(|| track.coroutine.as_mut().poll(task))) {
                Err(panic) => {
                    let failure =
                        Failure::new(DeadLetterKind::Panic, HandlerError::retry(panic_text(&*panic)));
                    track.restart();
                    Begun::Ended(Ended::Broken(failure))
                }
                Ok(_) => match track.slot.take() {
                    Some((mut cx, Ok(()))) => {
                        let published = cx.has_outbox();
                        *context = Some(cx);
                        if !published {
                            if let Some(breaker) = &shared.breaker {
                                breaker.succeeded();
                            }
                            delivery.ack_into(acks);
                            *swift = true;
                            if shared.quarantine.is_active() {
                                return Hot::Empty;
                            }
                            continue;
                        }
                        Begun::Ended(Ended::Outcome(Ok(())))
                    }
                    Some((cx, outcome)) => {
                        *context = Some(cx);
                        Begun::Ended(Ended::Outcome(outcome))
                    }
                    None => Begun::Waits,
                },
            };
            let envelope = envelope.clone();
            let work =
                Work { delivery, envelope, track: at, origin: *origin, attempts: 0, in_place: 0, round: 0 };
            return Hot::Begun(Box::new(work), begun);
        }
        Hot::Empty
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

    /// Takes one delivery through the pipeline.
    async fn process(&mut self, delivery: Delivery) {
        if let Some(work) = self.admit(delivery).await {
            self.attempts(work, None).await;
        }
    }

    /// Everything before the first attempt; `None` where there will be none.
    async fn admit(&mut self, delivery: Delivery) -> Option<Work> {
        let observed = self.shared.observers.any();
        let envelope = match delivery.message() {
            Incoming::Envelope(envelope) => envelope.clone(),
            Incoming::Malformed(malformed) => {
                if observed {
                    self.tell(None, EventKind::Malformed(malformed));
                }
                self.bury_malformed(delivery).await;
                return None;
            }
        };
        if observed {
            self.tell(Some(&envelope), EventKind::Received { count: delivery.count() });
        }
        if self.parking.is_parked(&envelope) {
            self.parking.behind(self.origin, delivery, &envelope);
            return None;
        }
        let Some(track) = self.tracks.iter().position(|track| track.name == envelope.kind()) else {
            self.unhandled(delivery, &envelope).await;
            return None;
        };
        let retry = envelope.retry().copied();
        let work = Work {
            attempts: envelope.attempt(),
            in_place: 0,
            round: retry.map_or(0, |retry| retry.round),
            track,
            origin: self.origin,
            delivery,
            envelope,
        };
        if let Some(expires) = work.envelope.expires()
            && expires <= self.shared.parts.clock.now()
        {
            let error = format!("the message expired at {expires}");
            self.bury(work, DeadLetterKind::Expired, &error).await;
            return None;
        }
        if let Some(due) = work.envelope.not_before() {
            let rest = due.since(self.shared.parts.clock.now());
            if !rest.is_zero() && self.shared.plan.spec.group.is_some() {
                // Published for later to a transport that does not keep it back: the core does.
                let copy = Outgoing::new(self.shared.plan.retry_destination(rest), work.envelope.clone());
                self.replace(work, copy, None).await;
                return None;
            }
        }
        if retry.is_some_and(|retry| retry.last_start) {
            self.last_start(work).await;
            return None;
        }
        if work.delivery.count() > self.shared.plan.policy.max_starts && self.shared.plan.spec.group.is_some()
        {
            let copy = copies::last_start(&self.shared.plan, &work.envelope, self.shared.parts.clock.now());
            tracing::warn!(
                handler = %self.shared.plan.identity.handler, message_id = %work.envelope.id(),
                starts = work.delivery.count(),
                "the message was started too often without being settled; its next start is its last, alone"
            );
            self.replace(work, copy, None).await;
            return None;
        }
        Some(work)
    }

    /// Starts a suspect with nothing beside it in hand, or condemns it.
    async fn last_start(&mut self, work: Work) {
        if work.delivery.count() > LAST_STARTS {
            let error =
                "the process died each time that the message was started, at last with nothing beside it";
            self.bury(work, DeadLetterKind::Crash, error).await;
            return;
        }
        self.give_back();
        if let Feed::Source(source) = &mut self.feed {
            source.flush().await;
        }
        let quarantine = self.shared.quarantine.clone();
        let alone = quarantine.alone().await;
        self.attempts(work, None).await;
        self.acks.hand_over();
        drop(alone);
    }

    /// Runs attempts until the message is settled, gone back, or parked.
    ///
    /// `begun` is what has happened of the first attempt, where it has begun.
    async fn attempts(&mut self, mut work: Work, mut begun: Option<Begun>) {
        loop {
            if begun.is_none()
                && let Some(breaker) = &self.shared.breaker
                && !breaker.is_closed()
            {
                self.acks.hand_over();
                let admitted = tokio::select! {
                    biased;
                    () = self.control.draining() => false,
                    () = breaker.admit() => true,
                };
                if !admitted {
                    return self.return_one(work);
                }
            }
            let first = begun.take();
            if first.is_none() {
                work.attempts = work.attempts.saturating_add(1);
            }
            let observed = self.shared.observers.any();
            let began = observed.then(Instant::now);
            if observed {
                self.tell(Some(&work.envelope), EventKind::Started { attempt: work.attempts });
            }
            let ended = match first {
                Some(Begun::Ended(ended)) => ended,
                Some(Begun::Waits) => self.attempt(&work, true).await,
                None => self.attempt(&work, false).await,
            };
            let took = began.map_or(Duration::ZERO, |began| began.elapsed());
            let result = match ended {
                Ended::Outcome(Ok(())) => self.publish_outbox(&work).await,
                Ended::Outcome(Err(failure)) | Ended::Broken(failure) => Err(failure),
            };
            match result {
                Ok(()) => {
                    if let Some(breaker) = &self.shared.breaker {
                        breaker.succeeded();
                    }
                    if observed {
                        self.tell(
                            Some(&work.envelope),
                            EventKind::Succeeded { attempt: work.attempts, took },
                        );
                    }
                    return self.settle(work);
                }
                Err(failure) => match self.failed(&mut work, failure, took).await {
                    Decision::Again => {}
                    Decision::Park(wait) => return self.parking.park(work, wait),
                    Decision::Do(action) => return self.act(work, action).await,
                },
            }
        }
    }

    fn settle(&mut self, work: Work) {
        if self.shared.observers.any() {
            self.tell(Some(&work.envelope), EventKind::Settled);
        }
        work.delivery.ack_into(&mut self.acks);
    }

    fn return_one(&mut self, work: Work) {
        if self.shared.observers.any() {
            self.tell(Some(&work.envelope), EventKind::GivenBack);
        }
        work.delivery.give_back();
    }

    /// One attempt: the coroutine is polled until it reports, panics, or takes too long.
    async fn attempt(&mut self, work: &Work, begun: bool) -> Ended {
        let Self { shared, tracks, context, acks, timer, swift, .. } = self;
        let track = &mut tracks[work.track];
        if !begun {
            let cx = match context.take() {
                Some(mut cx) => {
                    cx.reset(&work.envelope, work.attempts);
                    cx
                }
                None => Context::new(shared.parts.clone(), work.envelope.clone(), work.attempts),
            };
            track.slot.put(cx);
        }
        let identity = &shared.plan.identity;
        let span = tracing::info_span!(
            "process",
            otel.kind = "consumer",
            messaging.operation.type = "process",
            messaging.destination.name = tracing::field::Empty,
            messaging.consumer.group.name = tracing::field::Empty,
            handler = tracing::field::Empty,
            message_id = tracing::field::Empty,
            trace_id = tracing::field::Empty,
            attempt = work.attempts,
        );
        if !span.is_disabled() {
            span.record("messaging.destination.name", work.envelope.topic().as_str());
            span.record("messaging.consumer.group.name", identity.group.as_str());
            span.record("handler", identity.handler.as_str());
            span.record("message_id", tracing::field::display(work.envelope.id()));
            span.record("trace_id", tracing::field::display(work.envelope.trace().parent.trace_id()));
        }
        let timeout = shared.plan.policy.timeout;
        let mut armed = false;
        let ended = std::future::poll_fn(|task| {
            let _entered = (!span.is_disabled()).then(|| span.enter());
            match catch_unwind(AssertUnwindSafe(|| track.coroutine.as_mut().poll(task))) {
                Err(panic) => {
                    let failure =
                        Failure::new(DeadLetterKind::Panic, HandlerError::retry(panic_text(&*panic)));
                    return Poll::Ready(Ended::Broken(failure));
                }
                Ok(_) => {
                    if let Some((cx, outcome)) = track.slot.take() {
                        *context = Some(cx);
                        return Poll::Ready(Ended::Outcome(outcome));
                    }
                }
            }
            // It has to wait: what was settled before need not wait with it, and the clock begins to run.
            let timer = timer.get_or_insert_with(|| Box::pin(tokio::time::sleep(timeout)));
            if !armed {
                armed = true;
                *swift = false;
                acks.hand_over();
                timer.as_mut().reset(Instant::now() + timeout);
            }
            if timer.as_mut().poll(task).is_ready() {
                let error = format!("the handler took longer than {timeout:?}");
                return Poll::Ready(Ended::Broken(Failure::new(
                    DeadLetterKind::Timeout,
                    HandlerError::retry(error),
                )));
            }
            Poll::Pending
        })
        .await;
        if !armed {
            *swift = true;
        }
        if matches!(ended, Ended::Broken(_)) {
            self.tracks[work.track].restart();
        }
        ended
    }

    /// Publishes what the handler published, before its message is settled.
    async fn publish_outbox(&mut self, work: &Work) -> Result<(), Failure> {
        let Some(cx) = &mut self.context else { return Ok(()) };
        let outgoing = cx.take_outbox();
        if outgoing.is_empty() {
            return Ok(());
        }
        debug_assert_eq!(cx.envelope().id(), work.envelope.id());
        publish_before_ack(&self.shared, outgoing).await
    }

    /// Says what a failed attempt means for its message.
    async fn failed(&mut self, work: &mut Work, failure: Failure, took: Duration) -> Decision {
        let shared = self.shared.clone();
        let policy = &shared.plan.policy;
        let error = failure.error.to_string();
        if shared.observers.any() {
            self.tell(
                Some(&work.envelope),
                EventKind::Failed { attempt: work.attempts, error: &error, took },
            );
        }
        let kind = failure.kind;
        let retry_after = match failure.error.disposition() {
            Disposition::Permanent => {
                let kind = if kind == DeadLetterKind::Handler { DeadLetterKind::Rejected } else { kind };
                return Decision::Do(Action::Bury { kind, error });
            }
            Disposition::Discard(reason) => return Decision::Do(Action::Discard(reason.clone())),
            Disposition::Retry => None,
            Disposition::RetryAfter(after) => Some(*after),
        };
        tracing::warn!(
            handler = %shared.plan.identity.handler, message_id = %work.envelope.id(),
            trace_id = %work.envelope.trace().parent.trace_id(), attempt = work.attempts, error, "the attempt failed"
        );
        if let Some(breaker) = &shared.breaker
            && breaker.failed()
        {
            // Everything fails: that is an outage and not this message's fault, so the attempt does not count.
            work.attempts = work.attempts.saturating_sub(1);
            return Decision::Again;
        }
        if retry_after.is_none() && work.in_place < policy.immediate && !failure.outage {
            work.in_place += 1;
            return Decision::Again;
        }
        let Some(delayed) = &policy.delayed else {
            return Decision::Do(Action::Bury { kind, error });
        };
        if failure.outage {
            work.attempts = work.attempts.saturating_sub(1);
        } else {
            work.round += 1;
        }
        if work.round > delayed.rounds {
            return Decision::Do(Action::Bury { kind, error });
        }
        let delay = delayed.delay(work.round.max(1));
        let delay = retry_after.unwrap_or(delay) + delayed.jitter_of(delay);
        work.in_place = 0;
        if matches!(policy.order, Order::Key(OnFailure::Hold)) {
            return Decision::Park(delay);
        }
        if shared.plan.spec.group.is_none() {
            // Nobody else can be asked to keep a copy for this instance: its lane waits.
            return Decision::Park(delay);
        }
        Decision::Do(Action::Retry(delay))
    }

    async fn act(&mut self, work: Work, action: Action) {
        match action {
            Action::Retry(delay) => {
                let (plan, now) = (self.shared.plan.clone(), self.shared.parts.clock.now());
                let copy = copies::retry(&plan, &work.envelope, work.attempts, work.round, delay, now);
                let told = EventKind::RetryScheduled { attempt: work.attempts, round: work.round, delay };
                self.replace(work, copy, Some(told)).await;
            }
            Action::Bury { kind, error } => self.bury(work, kind, &error).await,
            Action::Discard(reason) => {
                tracing::info!(
                    handler = %self.shared.plan.identity.handler, message_id = %work.envelope.id(),
                    reason = reason.as_str(), "discarded"
                );
                if self.shared.observers.any() {
                    self.tell(Some(&work.envelope), EventKind::Discarded { reason: &reason });
                }
                self.settle(work);
            }
        }
    }

    /// Puts a confirmed copy in the place of a message, then settles it; without a confirmation it goes back.
    async fn replace(&mut self, work: Work, copy: Outgoing, told: Option<EventKind<'_>>) {
        self.acks.hand_over();
        let shared = self.shared.clone();
        let origin = &shared.plan.origins[work.origin];
        if copies::confirm(&shared.plan, origin, &copy, &shared.observers, &mut self.control).await {
            if let Some(told) = told
                && shared.observers.any()
            {
                self.tell(Some(&work.envelope), told);
            }
            self.settle(work);
        } else {
            self.return_one(work);
        }
    }

    async fn bury(&mut self, work: Work, kind: DeadLetterKind, error: &str) {
        let shared = self.shared.clone();
        let failed = Failed { kind, error, attempts: work.attempts, position: work.delivery.position() };
        let (copy, letter) =
            copies::dead_letter(&shared.plan, &work.envelope, &failed, shared.parts.clock.now());
        tracing::error!(
            handler = %shared.plan.identity.handler, message_id = %work.envelope.id(),
            trace_id = %work.envelope.trace().parent.trace_id(), kind = %kind, error, "dead letter"
        );
        self.replace(work, copy, Some(EventKind::DeadLettered(&letter))).await;
    }

    async fn bury_malformed(&mut self, delivery: Delivery) {
        let Incoming::Malformed(malformed) = delivery.message() else { return };
        let system = self.shared.plan.origins[self.origin].from.transport.system();
        let now = self.shared.parts.clock.now();
        let envelope = copies::envelope_of(malformed, system, delivery.position(), now);
        let error = malformed.error.clone();
        let work =
            Work { delivery, envelope, track: 0, origin: self.origin, attempts: 0, in_place: 0, round: 0 };
        self.bury(work, DeadLetterKind::Decode, &error).await;
    }

    async fn unhandled(&mut self, delivery: Delivery, envelope: &Envelope) {
        let work = Work {
            delivery,
            envelope: envelope.clone(),
            track: 0,
            origin: self.origin,
            attempts: envelope.attempt(),
            in_place: 0,
            round: 0,
        };
        match self.shared.plan.policy.unhandled {
            Unhandled::Skip => {
                if self.shared.observers.any() {
                    self.tell(Some(envelope), EventKind::Skipped);
                }
                self.settle(work);
            }
            Unhandled::DeadLetter => {
                let error = format!(
                    "handler `{}` does not take `{}`",
                    self.shared.plan.identity.handler,
                    envelope.kind()
                );
                self.bury(work, DeadLetterKind::Rejected, &error).await;
            }
        }
    }

    /// Runs the messages at the head of the batch through a batch handler, all at once.
    async fn work_off_batch(&mut self) {
        let Some(batch) = self.tracks[0].batch.clone() else { return };
        let mut works = Vec::with_capacity(batch.size.min(self.batch.len()));
        while works.len() < batch.size
            && let Some(delivery) = self.batch.pop_front()
        {
            if let Some(mut work) = self.admit(delivery).await {
                work.attempts = work.attempts.saturating_add(1);
                works.push(work);
            }
        }
        if works.is_empty() {
            return;
        }
        let shared = self.shared.clone();
        let mut contexts: Vec<Context> = works
            .iter()
            .map(|work| Context::new(shared.parts.clone(), work.envelope.clone(), work.attempts))
            .collect();
        if shared.observers.any() {
            for work in &works {
                self.tell(Some(&work.envelope), EventKind::Started { attempt: work.attempts });
            }
        }
        let began = Instant::now();
        let mut running = batch.run.run(contexts.clone());
        let guarded = std::future::poll_fn(|task| {
            catch_unwind(AssertUnwindSafe(|| running.as_mut().poll(task))).unwrap_or_else(|panic| {
                Poll::Ready(vec![Err(Failure::new(
                    DeadLetterKind::Panic,
                    HandlerError::retry(panic_text(&*panic)),
                ))])
            })
        });
        self.acks.hand_over();
        let timeout = shared.plan.policy.timeout;
        let mut results = tokio::time::timeout(timeout, guarded).await.unwrap_or_else(|_| {
            let error = format!("the handler took longer than {timeout:?}");
            vec![Err(Failure::new(DeadLetterKind::Timeout, HandlerError::retry(error)))]
        });
        let took = began.elapsed();
        if results.len() == 1 && works.len() > 1 {
            // A panic or a timeout is one outcome for all.
            let first = match &results[0] {
                Err(failure) => (failure.kind, failure.error.to_string()),
                Ok(()) => (DeadLetterKind::Handler, "the batch handler gave no outcome".to_owned()),
            };
            results = works
                .iter()
                .map(|_| Err(Failure::new(first.0, HandlerError::retry(first.1.clone()))))
                .collect();
        }
        for ((mut work, result), cx) in works.into_iter().zip(results).zip(&mut contexts) {
            let result = match result {
                Ok(()) => match cx.take_outbox() {
                    outgoing if outgoing.is_empty() => Ok(()),
                    outgoing => publish_before_ack(&shared, outgoing).await,
                },
                Err(failure) => Err(failure),
            };
            match result {
                Ok(()) => {
                    if let Some(breaker) = &shared.breaker {
                        breaker.succeeded();
                    }
                    if shared.observers.any() {
                        self.tell(
                            Some(&work.envelope),
                            EventKind::Succeeded { attempt: work.attempts, took },
                        );
                    }
                    self.settle(work);
                }
                Err(failure) => match self.failed(&mut work, failure, took).await {
                    // Tried again alone: what fails in a batch must not take the others with it.
                    Decision::Again => self.attempts(work, None).await,
                    Decision::Park(wait) => self.parking.park(work, wait),
                    Decision::Do(action) => self.act(work, action).await,
                },
            }
        }
    }
}

/// What a failed attempt means.
enum Decision {
    /// Try again here, at once.
    Again,
    /// Try again here, later; the key waits.
    Park(Duration),
    /// Settle it one way or the other.
    Do(Action),
}

/// How a failed message is settled.
enum Action {
    /// A copy that is due later.
    Retry(Duration),
    /// A dead letter.
    Bury { kind: DeadLetterKind, error: String },
    /// Dropped, because the handler said so.
    Discard(Text),
}

impl Work {
    /// The message's ordering key.
    pub(crate) fn key(&self) -> Option<&str> {
        self.envelope.key()
    }

    /// The delivery, to give it back.
    pub(crate) fn into_delivery(self) -> Delivery {
        self.delivery
    }
}

/// Publishes a handler's messages; what is temporary is tried again for as long as a copy may take.
async fn publish_before_ack(shared: &Shared, outgoing: Vec<Envelope>) -> Result<(), Failure> {
    let publisher = &shared.parts.publisher;
    let batches =
        publisher.split(outgoing).map_err(|error| Failure::handler(HandlerError::permanent(error)))?;
    let deadline = Instant::now() + shared.plan.policy.copy_deadline;
    for (transport, mut batch) in batches {
        let mut pause = Duration::from_millis(50);
        loop {
            let error = match tokio::time::timeout_at(deadline, publisher.publish_batch(&*transport, batch))
                .await
            {
                Ok(Ok(())) => break,
                Ok(Err(error)) => error,
                Err(_) => {
                    let error = format!("publishing took longer than {:?}", shared.plan.policy.copy_deadline);
                    return Err(Failure::outage(HandlerError::retry(error)));
                }
            };
            let text = Chain(&error).to_string();
            if !error.is_temporary() {
                return Err(Failure::handler(HandlerError::permanent(format!("publishing failed: {text}"))));
            }
            if Instant::now() + pause >= deadline {
                return Err(Failure::outage(HandlerError::retry(format!("publishing failed: {text}"))));
            }
            batch = error.into_rejected().into_iter().map(|rejected| rejected.message).collect();
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(Duration::from_secs(2));
        }
    }
    Ok(())
}

/// What a panic said.
fn panic_text(panic: &(dyn std::any::Any + Send)) -> String {
    let text = panic
        .downcast_ref::<&str>()
        .copied()
        .or_else(|| panic.downcast_ref::<String>().map(String::as_str))
        .unwrap_or("no text");
    format!("the handler panicked: {text}")
}

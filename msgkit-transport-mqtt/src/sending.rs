//! The connection that publishes: every parcel is sent until the broker has confirmed it, on however many connections.
//!
//! What waits lies here, in its order, and is handed to the client only as far as the broker's window goes. A connection
//! that breaks puts what it had unconfirmed back to the front; the next one sends it again. The client has no word on what
//! became of a publish, so it is followed through: it takes requests in their order ([`Event::Sent`] names the number of
//! the oldest that was not named yet), and the broker confirms by number.
//!
//! The client is given what it sends, not a copy of it: what has to go out once more is written once more.

use std::collections::{BTreeMap, VecDeque};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use msgkit::transport::{Health, Outgoing, TransportError, TransportErrorKind};
use tokio::sync::{Notify, watch};
use tokio::time::{Instant, Interval, MissedTickBehavior};

use crate::connection::Pauses;
use crate::driver::{self, Broken, Client, Confirmation, Connection, Dial, Event, Welcome};
use crate::error::Failure;
use crate::wire::{Parcel, Writer};

/// What became of one parcel.
#[derive(Debug)]
pub(crate) enum Outcome {
    Taken,
    Unrouted,
    Failed(TransportError),
}

/// The messages of one call, and what became of each.
#[derive(Debug)]
pub(crate) struct Batch {
    state: Mutex<BatchState>,
    done: Notify,
}

#[derive(Debug)]
struct BatchState {
    /// Empty once nobody waits any more: what was not sent then is not sent.
    messages: Vec<Outgoing>,
    outcomes: Vec<Option<Outcome>>,
    open: usize,
}

impl Batch {
    fn new(messages: Vec<Outgoing>) -> Self {
        let open = messages.len();
        let outcomes = std::iter::repeat_with(|| None).take(open).collect();
        Self { state: Mutex::new(BatchState { messages, outcomes, open }), done: Notify::new() }
    }

    fn lock(&self) -> MutexGuard<'_, BatchState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn resolve(&self, at: usize, outcome: Outcome) {
        let mut state = self.lock();
        if let Some(slot @ None) = state.outcomes.get_mut(at) {
            *slot = Some(outcome);
            state.open -= 1;
            if state.open == 0 {
                drop(state);
                self.done.notify_one();
            }
        }
    }

    /// The message at `at` as it goes to the broker; `None` where nobody waits for it any more.
    fn write(&self, at: usize, writer: &Writer) -> Option<Parcel> {
        self.lock().messages.get(at).map(|message| writer.parcel(message))
    }

    fn is_over(&self) -> bool {
        self.lock().messages.is_empty()
    }

    /// The messages, with what became of them; nobody waits any more.
    fn end(&self) -> (Vec<Outgoing>, Vec<Option<Outcome>>) {
        let mut state = self.lock();
        (std::mem::take(&mut state.messages), std::mem::take(&mut state.outcomes))
    }
}

/// Nobody waits for the batch any more once this is dropped, and what was not handed to the client is not kept.
struct Waiting<'a> {
    sending: &'a Sending,
    batch: Arc<Batch>,
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.batch.end();
        if self.batch.lock().open > 0 {
            let mut state = self.sending.lock();
            state.waiting.retain(|(job, _)| !Arc::ptr_eq(&job.batch, &self.batch));
        }
    }
}

/// One message of a batch.
#[derive(Debug)]
struct Job {
    order: u64,
    batch: Arc<Batch>,
    at: usize,
}

impl Job {
    fn resolve(self, outcome: Outcome) {
        self.batch.resolve(self.at, outcome);
    }
}

#[derive(Debug, Default)]
struct State {
    /// What was not handed to the client yet, in its order, written where it was never handed to one.
    waiting: VecDeque<(Job, Option<Parcel>)>,
    /// What the client has and has not named yet, in its order.
    handed: VecDeque<Job>,
    /// What the client holds back until a number is free.
    blocked: BTreeMap<u16, Job>,
    /// What went out, in its order, which is that in which the broker confirms.
    sent: VecDeque<(u16, Job)>,
    client: Option<(Client, Welcome)>,
    next_order: u64,
    /// How often the broker has confirmed something.
    progress: u64,
    failure: Option<Failure>,
    started: bool,
    closing: bool,
    /// Whether somebody has asked for the connection since it was tried last.
    asked: bool,
}

impl State {
    fn under_way(&self) -> usize {
        self.handed.len() + self.blocked.len() + self.sent.len()
    }

    fn is_idle(&self) -> bool {
        self.waiting.is_empty() && self.under_way() == 0
    }

    /// Whether it is to end, and nothing is left to do.
    fn is_over(&self) -> bool {
        self.closing && self.is_idle()
    }

    /// Whether nobody wants anything of it now.
    fn is_unused(&self) -> bool {
        !self.closing && !self.asked && self.waiting.is_empty()
    }

    /// Hands over as much as the broker's window lets.
    fn pump(&mut self, writer: &Writer) {
        let Some((client, welcome)) = &self.client else { return };
        let (window, largest) = (usize::from(welcome.window), welcome.largest);
        let largest = largest.map_or(usize::MAX, |largest| usize::try_from(largest).unwrap_or(usize::MAX));
        while self.handed.len() + self.blocked.len() + self.sent.len() < window {
            let Some((job, written)) = self.waiting.pop_front() else { return };
            let parcel = match written.filter(|_| !job.batch.is_over()) {
                Some(parcel) => parcel,
                None => match job.batch.write(job.at, writer) {
                    Some(parcel) => parcel,
                    None => continue,
                },
            };
            let size = client.size_of(&parcel);
            if parcel.confirmed && !welcome.confirms {
                let text = format!(
                    "the broker takes only quality of service 0, and the message to `{}` has to be confirmed; look at its `max_qos`",
                    parcel.topic
                );
                job.resolve(Outcome::Failed(TransportError::new(TransportErrorKind::Refused, text)));
            } else if size > largest {
                let text = format!(
                    "the message to `{}` needs {size} bytes, more than the {largest} that the broker takes",
                    parcel.topic
                );
                job.resolve(Outcome::Failed(TransportError::new(TransportErrorKind::Invalid, text)));
            } else if client.publish(parcel) {
                self.handed.push_back(job);
            } else {
                // The connection has just ended; the next one goes on.
                self.waiting.push_front((job, None));
                return;
            }
        }
    }

    /// Takes what went out under `number`.
    fn take_sent(&mut self, number: u16) -> Option<Job> {
        let at = self.sent.iter().position(|(sent, _)| *sent == number)?;
        self.sent.remove(at).map(|(_, job)| job)
    }

    /// Puts back what the broker has not confirmed.
    fn disconnected(&mut self, failure: Failure) {
        self.client = None;
        self.failure = Some(failure);
        let mut unconfirmed: Vec<Job> = self.handed.drain(..).collect();
        unconfirmed.extend(std::mem::take(&mut self.blocked).into_values());
        unconfirmed.extend(self.sent.drain(..).map(|(_, job)| job));
        unconfirmed.sort_by_key(|job| job.order);
        for job in unconfirmed.into_iter().rev() {
            self.waiting.push_front((job, None));
        }
    }

    fn fail_all(&mut self, error: impl Fn() -> TransportError) {
        for (job, _) in self.waiting.drain(..) {
            job.resolve(Outcome::Failed(error()));
        }
    }
}

/// The connection that publishes; started by its first use.
#[derive(Debug)]
pub(crate) struct Sending {
    state: Mutex<State>,
    dial: Dial,
    writer: Writer,
    /// How long the broker may owe a confirmation.
    patience: Duration,
    /// Something waits, or the end has come.
    changed: Notify,
    ended: watch::Sender<bool>,
    resent: AtomicU64,
}

impl Sending {
    pub(crate) fn new(dial: Dial, writer: Writer, patience: Duration) -> Self {
        Self {
            state: Mutex::default(),
            dial,
            writer,
            patience: patience.max(Duration::from_millis(100)),
            changed: Notify::new(),
            ended: watch::Sender::new(false),
            resent: AtomicU64::new(0),
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Sends `messages` in their order; gives them back with what became of each, once the broker has confirmed nothing for
    /// `patience` at the latest.
    ///
    /// Dropped, it leaves open what was taken.
    pub(crate) async fn send(
        self: &Arc<Self>,
        messages: Vec<Outgoing>,
        patience: Duration,
    ) -> Vec<(Outgoing, Outcome)> {
        let count = messages.len();
        // Not while everybody waits for the lock.
        let parcels: Vec<Parcel> = messages.iter().map(|message| self.writer.parcel(message)).collect();
        let batch = Arc::new(Batch::new(messages));
        let waiting = Waiting { sending: self, batch: batch.clone() };
        let begun;
        {
            let mut state = self.lock();
            begun = state.progress;
            if state.closing {
                let closed = |message| (message, Outcome::Failed(TransportError::closed("mqtt")));
                return batch.end().0.into_iter().map(closed).collect();
            }
            for (at, parcel) in parcels.into_iter().enumerate() {
                let order = state.next_order;
                state.next_order += 1;
                state.waiting.push_back((Job { order, batch: batch.clone(), at }, Some(parcel)));
            }
            self.start(&mut state);
            state.pump(&self.writer);
        }
        self.changed.notify_one();
        let mut progress = None;
        // As long as the broker confirms something, the turn of these comes.
        while count > 0 && tokio::time::timeout(patience, batch.done.notified()).await.is_err() {
            let now = Some(self.lock().progress);
            if now == progress.or(Some(begun)) {
                break;
            }
            progress = now;
        }
        let (messages, outcomes) = batch.end();
        drop(waiting);
        let why = self.lock().failure.clone();
        let unknown = || Outcome::Failed(unknown(why.as_ref(), patience));
        let outcomes = outcomes.into_iter().map(|outcome| outcome.unwrap_or_else(unknown));
        messages.into_iter().zip(outcomes).collect()
    }

    /// Whether it is connected; connects where nobody has asked for it yet.
    pub(crate) async fn health(self: &Arc<Self>, patience: Duration) -> Health {
        {
            let mut state = self.lock();
            if state.closing {
                return Health::Down("the mqtt transport has been closed".to_owned());
            }
            state.asked = true;
            self.start(&mut state);
        }
        self.changed.notify_one();
        let began = Instant::now();
        loop {
            {
                let state = self.lock();
                if state.client.is_some() {
                    return Health::Up;
                }
                if let Some(failure) = &state.failure {
                    return Health::Down(msgkit::Chain(failure).to_string());
                }
            }
            if began.elapsed() > patience {
                return Health::Down(format!("no connection to {} yet", self.dial.broker.address));
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    /// Waits until nothing is unconfirmed, or `patience` has passed; then ends. How many are left.
    pub(crate) async fn close(&self, patience: Duration) -> usize {
        let began = Instant::now();
        let started = {
            let mut state = self.lock();
            state.closing = true;
            state.started
        };
        while !self.lock().is_idle() && began.elapsed() < patience {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
        let left = {
            let mut state = self.lock();
            let left = state.waiting.len() + state.under_way();
            state.disconnecting();
            left
        };
        self.changed.notify_waiters();
        self.changed.notify_one();
        if started {
            let mut ended = self.ended.subscribe();
            let _ = tokio::time::timeout(Duration::from_secs(2), ended.wait_for(|ended| *ended)).await;
        }
        let mut state = self.lock();
        state.disconnected(Failure::new(TransportErrorKind::Closed, "the mqtt transport has been closed"));
        state.fail_all(|| TransportError::closed("mqtt"));
        left
    }

    /// How many parcels were sent once more because a connection broke.
    pub(crate) fn resent(&self) -> u64 {
        self.resent.load(Ordering::Relaxed)
    }

    fn start(self: &Arc<Self>, state: &mut State) {
        if !state.started {
            state.started = true;
            tokio::spawn(self.clone().run());
        }
    }

    /// Connects, and again whenever the connection breaks.
    async fn run(self: Arc<Self>) {
        let mut pauses = Pauses::new();
        loop {
            if self.lock().is_over() {
                break;
            }
            self.lock().asked = false;
            let (client, mut connection) = driver::open(&self.dial);
            let mut look = Look::every(self.patience / LOOKS);
            let broken = loop {
                match self.next(&mut connection, &mut look).await {
                    Ok(Event::Connected(welcome)) => {
                        pauses.reset();
                        let mut state = self.lock();
                        state.client = Some((client.clone(), welcome));
                        state.failure = None;
                        if state.is_over() {
                            client.leave();
                        }
                        state.pump(&self.writer);
                    }
                    Ok(Event::Left) => break None,
                    Ok(event) => self.on(&event),
                    Err(broken) => break Some(broken),
                }
            };
            drop(connection);
            let Some(Broken { failure, .. }) = broken else { break };
            let temporary = failure.is_temporary();
            {
                let mut state = self.lock();
                self.resent.fetch_add(state.under_way() as u64, Ordering::Relaxed);
                state.disconnected(failure.clone());
                if !temporary {
                    state.fail_all(|| failure.to_error());
                }
                if state.is_over() {
                    break;
                }
            }
            tracing::warn!(error = %msgkit::Chain(&failure), "the MQTT connection that publishes is down");
            // A refusal stays one until somebody tries again.
            let idle = async {
                tokio::time::sleep(pauses.next()).await;
                while !temporary && self.lock().is_unused() {
                    self.changed.notified().await;
                }
            };
            idle.await;
        }
        self.lock().client = None;
        let _ = self.ended.send(true);
    }

    /// The next event. A broker that owes a confirmation and says nothing for too long counts as gone, long before the
    /// keep-alive notices: what waits then goes out on another connection.
    async fn next(&self, connection: &mut Connection, look: &mut Look) -> Result<Event, Broken> {
        let mut next = std::pin::pin!(connection.next());
        loop {
            tokio::select! {
                biased;
                event = &mut next => {
                    look.quiet = 0;
                    return event;
                }
                _ = look.clock.tick() => look.quiet += 1,
            }
            // One more than it takes, because the first may have come at once.
            if look.quiet <= LOOKS {
                continue;
            }
            look.quiet = 0;
            let state = self.lock();
            if state.client.is_some() && state.under_way() > 0 {
                let text = format!(
                    "the MQTT broker at {}: it has confirmed nothing for {:?}",
                    self.dial.broker.address, self.patience
                );
                let failure = Failure::new(TransportErrorKind::Unavailable, text);
                return Err(Broken { failure, taken_over: false });
            }
        }
    }

    fn on(&self, event: &Event) {
        let mut state = self.lock();
        match *event {
            Event::Sent(number) => {
                let job = state.blocked.remove(&number).or_else(|| state.handed.pop_front());
                match job {
                    // Nobody will confirm it: it is out, which is all that is promised of it.
                    Some(job) if number == 0 => job.resolve(Outcome::Taken),
                    Some(job) => state.sent.push_back((number, job)),
                    None => {}
                }
            }
            Event::Waiting(number) => {
                if let Some(job) = state.handed.pop_front() {
                    state.blocked.insert(number, job);
                }
            }
            Event::Confirmed(number, confirmation) => {
                state.progress += 1;
                if let Some(job) = state.take_sent(number) {
                    let outcome = self.outcome(&job, confirmation);
                    job.resolve(outcome);
                }
            }
            _ => return,
        }
        state.pump(&self.writer);
    }

    fn outcome(&self, job: &Job, confirmation: Confirmation) -> Outcome {
        match confirmation {
            Confirmation::Taken => Outcome::Taken,
            Confirmation::Unrouted => Outcome::Unrouted,
            Confirmation::Refused(kind, why) => {
                let topic = job.batch.lock().messages.get(job.at).map(|message| self.writer.topic(message));
                let text = format!("the publisher to `{}` {why}", topic.unwrap_or_default());
                Outcome::Failed(TransportError::new(kind, text))
            }
        }
    }
}

/// How often it is looked, in the time that a broker may owe a confirmation, whether one has come: a clock for each event would
/// cost more than most of them.
const LOOKS: u32 = 8;

/// How long a connection has been quiet.
struct Look {
    clock: Interval,
    /// How many looks have seen nothing new.
    quiet: u32,
}

impl Look {
    fn every(period: Duration) -> Self {
        let mut clock = tokio::time::interval_at(Instant::now() + period, period);
        clock.set_missed_tick_behavior(MissedTickBehavior::Delay);
        Self { clock, quiet: 0 }
    }
}

impl State {
    fn disconnecting(&mut self) {
        if let Some((client, _)) = &self.client {
            client.leave();
        }
    }
}

/// The error of what was not confirmed in time: whether the broker has it is unknown.
fn unknown(why: Option<&Failure>, patience: Duration) -> TransportError {
    let text =
        format!("the broker has not confirmed the message within {patience:?}; whether it has it is unknown");
    match why {
        Some(failure) => {
            TransportError::new(TransportErrorKind::Unavailable, text).with_source(failure.clone())
        }
        None => TransportError::new(TransportErrorKind::Timeout, text),
    }
}

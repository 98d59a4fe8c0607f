//! One connection that receives for a subscription: connects, subscribes, and does both again whenever it breaks.

mod cuts;
mod dissolve;
pub(crate) mod keeper;
mod marks;
mod prepare;
mod roll;

use std::collections::{BTreeSet, HashMap, VecDeque};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use msgkit::transport::{TransportError, TransportErrorKind};
use msgkit::{Pattern, Topic};
use tokio::sync::oneshot;
use tokio::time::Instant;

use self::dissolve::{Draining, erase};
use self::keeper::Keeping;
use self::roll::Present;
use crate::connection::{Pauses, unique};
use crate::driver::{self, Broken, Client, Event};
use crate::error::Failure;
use crate::slots::{Mark, Slots};
use crate::subscriber::{Membership, Place};
use crate::wire::{Arrived, Parcel};

/// How long a connection must have lived for the next failure to count as the first.
const LIVED: Duration = Duration::from_secs(5);
/// How long the session of an ephemeral subscription outlives its connection.
const EPHEMERAL_EXPIRY: Duration = Duration::from_secs(300);

/// How many messages a keeper may have unacknowledged, at least.
const KEPT: u16 = 256;

/// What a link is there for.
#[derive(Debug, Clone)]
pub(crate) enum Role {
    /// Holds a slot of the group.
    Member,
    /// Hands out what the session of a slot holds that its owner has left, and dissolves it.
    Heir { slot: u32, mark: Mark },
    /// Keeps, beside sessions that share, what is published while the broker has forgotten their subscriptions.
    Keeper,
    /// Receives for this instance alone.
    Alone { client_id: String },
}

/// Numbers that no two connections of this process share.
static EPOCHS: AtomicU64 = AtomicU64::new(1);

fn number() -> u64 {
    EPOCHS.fetch_add(1, Ordering::Relaxed)
}

/// What one connection has met.
#[derive(Debug, Default)]
struct Course {
    draining: Option<Draining>,
    /// Whether the broker has answered what it was asked for first.
    answered: bool,
    /// Whether what was retained before is wanted: it was asked for on this connection, or the broker owes it from an earlier one.
    retained: bool,
    /// The last topic of a message that is wanted, as it is written there and here.
    last: Option<(String, Topic)>,
}

#[derive(Debug)]
pub(crate) struct Link {
    id: u64,
    role: Role,
    membership: Arc<Membership>,
    control: Mutex<Control>,
}

/// What the link's task and those who end it share.
#[derive(Debug, Default)]
struct Control {
    client: Option<Client>,
    /// Which connection it is.
    epoch: u64,
    /// What a member calls it, once the broker has confirmed what it is subscribed to; empty before.
    connection: String,
    slot: Option<u32>,
    /// What was published on this connection and not named yet, and what was named; and where.
    asked: VecDeque<(Said, String)>,
    named: HashMap<u16, (Said, String)>,
    leaving: bool,
    /// What the marks of the lane say, and that of its keeper; and what is written there of what the group takes.
    slots: Slots,
    kept: Option<Mark>,
    written: BTreeSet<Pattern>,
    /// What the broker has refused to end on this connection.
    kept_on: BTreeSet<String>,
    /// Owners of marks that have been heard of on this connection, and so are alive.
    heard: BTreeSet<String>,
    /// For a keeper: how it takes what comes.
    keeping: Keeping,
    /// Whether its session shares with others.
    sharing: bool,
    /// Since when nobody is left to share with.
    left_alone: Option<Instant>,
    /// Of each subscribe that the broker has not answered, in order, what the session is not to be subscribed to behind it.
    stale: VecDeque<Vec<String>>,
    /// Whether its own mark stands.
    stands: bool,
    ready: bool,
    started: Option<Started>,
    /// The slots that it is about to take over.
    inheriting: BTreeSet<u32>,
    /// Whether it is about to become the keeper, and if so whether that was asked for again since it looked last.
    to_keep: Option<bool>,
}

impl Control {
    /// Writes a mark, or ends it.
    fn say(&mut self, client: &Client, place: String, mark: &Mark, said: Said) {
        let text = if said == Said::Dissolved { String::new() } else { mark.write() };
        self.publish(client, Parcel::own(place, text, true), said);
    }

    fn publish(&mut self, client: &Client, parcel: Parcel, said: Said) {
        let place = parcel.topic.clone();
        if client.publish(parcel) {
            self.asked.push_back((said, place));
        }
    }
}

/// What a publish of the link says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Said {
    Held,
    Vacant,
    Dissolved,
    /// A keeper's question whether the broker knows shared subscriptions still.
    Known,
    /// What nobody waits for.
    Something,
}

/// Told how the first try went.
type Started = oneshot::Sender<Result<(), TransportError>>;

impl Link {
    pub(crate) fn new(role: Role, membership: Arc<Membership>) -> Arc<Self> {
        Arc::new(Self { id: number(), role, membership, control: Mutex::default() })
    }

    pub(crate) fn id(&self) -> u64 {
        self.id
    }

    fn lock(&self) -> MutexGuard<'_, Control> {
        self.control.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn is_keeper(&self) -> bool {
        matches!(self.role, Role::Keeper)
    }

    /// Whether it is a member whose subscription and mark the broker has confirmed on the connection that it has.
    /// Tells which connection.
    pub(crate) fn has_its_place(&self) -> Option<u64> {
        if !matches!(self.role, Role::Member) {
            return None;
        }
        let control = self.lock();
        control.stands.then_some(control.epoch)
    }

    /// Leaves in good order; the task ends when the broker has answered.
    pub(crate) fn leave(&self) {
        let mut control = self.lock();
        if control.leaving {
            return;
        }
        control.leaving = true;
        let Some(client) = control.client.clone() else { return };
        match (&self.role, control.slot) {
            // Behind it, so that its confirmation is the broker's word on all that was acknowledged.
            (Role::Member, Some(slot)) => {
                let mark = Mark { owner: String::new(), ..self.held(&control) };
                control.say(&client, self.membership.place(slot), &mark, Said::Vacant);
            }
            (Role::Heir { slot, .. }, _) => {
                let place = self.membership.place(*slot);
                control.say(&client, place, &self.membership.mark("", &[]), Said::Vacant);
            }
            (Role::Keeper, _) => {
                let mark = Mark::vacant(&self.membership.filters.plain);
                control.say(&client, self.membership.keeper_place(), &mark, Said::Vacant);
            }
            _ => {
                client.leave();
            }
        }
    }

    /// Receives until the subscription ends. `started` is told how the first try went; a failure is the end then.
    pub(crate) async fn run(self: Arc<Self>, started: Option<Started>) {
        self.lock().started = started;
        let mut pauses = Pauses::new();
        loop {
            let began = Instant::now();
            let ended = self.connect().await;
            {
                let mut control = self.lock();
                (control.client, control.stands) = (None, false);
            }
            let failure = match ended {
                Ok(()) => break,
                Err(failure) => failure,
            };
            self.membership.inbox.disconnected(self.id);
            let started = self.lock().started.take();
            if let Some(started) = started {
                let _ = started.send(Err(failure.to_error()));
                break;
            }
            if self.lock().leaving {
                break;
            }
            let heir = matches!(self.role, Role::Heir { .. });
            if heir && self.lock().slot.is_none() {
                // Its owner is back.
                break;
            }
            tracing::warn!(
                error = %msgkit::Chain(&failure), subscription = %self.membership.title,
                "an MQTT connection that receives is down"
            );
            if heir {
                break;
            }
            let temporary = failure.is_temporary();
            self.membership.inbox.fail(self.id, failure);
            if !temporary {
                // The receiver is told, and decides whether to try again.
                break;
            }
            if began.elapsed() > LIVED {
                pauses.reset();
            }
            tokio::select! {
                biased;
                () = self.membership.ended() => break,
                () = tokio::time::sleep(pauses.next()) => {}
            }
        }
        self.membership.inbox.ended(self.id);
    }

    /// One connection, from its dial to its end; `Ok` where it ended as it was asked to.
    async fn connect(self: &Arc<Self>) -> Result<(), Failure> {
        let membership = &self.membership;
        let prepared = tokio::select! {
            biased;
            () = membership.ended() => return Ok(()),
            prepared = self.prepare() => prepared?,
        };
        let Some((dial, stale)) = prepared else { return Ok(()) };
        let (client, mut connection) = driver::open(&dial);
        let epoch = number();
        // Until it stands it may be dropped at any point.
        let welcome = loop {
            let event = tokio::select! {
                biased;
                () = membership.ended() => return Ok(()),
                event = connection.next() => event,
            };
            match event.map_err(|broken| broken.failure)? {
                Event::Connected(welcome) => break welcome,
                _ => continue,
            }
        };
        membership.inbox.connected(self.id, epoch, welcome.session, dial.receive, client.clone());
        {
            let mut control = self.lock();
            if control.leaving {
                client.leave();
            }
            (control.client, control.epoch) = (Some(client.clone()), epoch);
            control.asked.clear();
            control.named.clear();
            control.connection.clear();
            control.heard.clear();
            (control.stands, control.ready) = (false, false);
            control.left_alone = None;
            control.kept_on.clear();
            control.stale.clear();
            control.stale.extend(self.subscribes().then(|| stale.clone()));
        }
        let first = self.lock().started.is_some();
        if self.subscribes() {
            client.subscribe(&self.wanted(first));
        }
        let keeping = matches!(self.role, Role::Keeper)
            .then(|| keeper::Watch::begin(self.clone(), client.clone(), welcome.session));
        if let Role::Heir { slot, .. } = &self.role {
            for filter in &stale {
                drop(membership.inbox.ask(self.id, filter));
            }
            let held = membership.mark(&membership.owner, &[]);
            let said = if welcome.session { Said::Held } else { Said::Dissolved };
            let mut control = self.lock();
            // Before the mark goes: it may be the only one that tells of them.
            self.write_patterns(&mut control, &client);
            control.say(&client, membership.place(*slot), &held, said);
        }
        let retained = matches!(self.role, Role::Alone { .. })
            && membership.config.retained
            && (first || welcome.session);
        let mut course = Course { retained, ..Course::default() };
        let result = loop {
            let next = match course.answered {
                true => connection.next().await,
                false => self.answer(&mut connection).await,
            };
            match next {
                Ok(Event::Left) => break Ok(()),
                Ok(event) => {
                    if let Err(failure) = self.on(event, &client, &mut course) {
                        break Err(failure);
                    }
                    // One word for all that came at once.
                    if !connection.has_message() {
                        membership.inbox.tell();
                    }
                }
                Err(_) if self.lock().leaving => break Ok(()),
                Err(Broken { failure, taken_over }) => {
                    if taken_over {
                        self.lock().slot = None;
                        membership.inbox.gone(self.id);
                        if self.is_keeper() {
                            // Somebody else has it.
                            break Ok(());
                        }
                    }
                    break Err(failure);
                }
            }
        };
        drop((course, keeping));
        drop(connection);
        let over = match &self.role {
            Role::Alone { .. } => true,
            Role::Keeper => self.lock().keeping.is_over(),
            _ => false,
        };
        if result.is_ok() && over {
            erase(&dial, self.is_keeper().then(|| membership.keeper_place())).await;
        }
        result
    }

    /// The next event of a connection on which the broker owes an answer: it may send what the session holds before that, but
    /// not be silent.
    async fn answer(&self, connection: &mut driver::Connection) -> Result<Event, Broken> {
        let Membership { config, title, .. } = &*self.membership;
        let next = tokio::time::timeout(config.connect_timeout, connection.next()).await;
        next.unwrap_or_else(|_| {
            let text = format!("the broker did not answer the subscription of {title} in time");
            let failure = Failure::new(TransportErrorKind::Timeout, text);
            Err(Broken { failure, taken_over: false })
        })
    }

    fn on(self: &Arc<Self>, event: Event, client: &Client, course: &mut Course) -> Result<(), Failure> {
        let membership = &self.membership;
        match event {
            Event::Subscribed(granted) => {
                granted?;
                course.answered |= !matches!(self.role, Role::Member);
                self.take_back();
                let mut control = self.lock();
                match (&self.role, control.slot) {
                    (Role::Member, Some(slot)) if !control.leaving => {
                        if control.connection.is_empty() {
                            control.connection = unique();
                        }
                        self.present(&mut control, client, None);
                        self.write_patterns(&mut control, client);
                        let held = self.held(&control);
                        control.say(client, membership.place(slot), &held, Said::Held);
                    }
                    (Role::Member, _) => {}
                    (Role::Keeper, _) => control.keeping.seen(keeper::Seen::Subscribed),
                    _ => {
                        drop(control);
                        self.ready();
                    }
                }
            }
            Event::Unsubscribed(filter, refused) => {
                membership.inbox.answered(self.id);
                if let Some(why) = refused
                    // A question, to which any answer will do.
                    && filter != membership.names.nowhere()
                {
                    let failure = driver::not_ended(&filter, &why);
                    if matches!(self.role, Role::Heir { .. }) {
                        // Its session would go on getting a share, and nobody would know of it.
                        return Err(failure);
                    }
                    // It gets more than it has to, and its mark says so to whoever takes it over.
                    tracing::warn!(
                        error = %failure, subscription = %membership.title,
                        "what is not wanted any more may come still"
                    );
                    self.keeps_on(filter, client);
                }
            }
            Event::Arrived(arrived) => self.arrived(arrived, client, course),
            Event::Sent(named) => {
                let mut control = self.lock();
                if let Some(said) = control.asked.pop_front()
                    && named != 0
                {
                    control.named.insert(named, said);
                }
            }
            Event::Confirmed(named, confirmation) => {
                let word = self.lock().named.remove(&named);
                let Some((said, place)) = word else { return Ok(()) };
                confirmation.taken(&place)?;
                course.answered |= said == Said::Held;
                match said {
                    Said::Held if self.is_keeper() => {}
                    Said::Known => self.lock().keeping.seen(keeper::Seen::Routed),
                    Said::Held if matches!(self.role, Role::Heir { .. }) => {
                        course.draining = Some(Draining::begin(self.clone(), client.clone()));
                    }
                    Said::Held => self.stands(client),
                    Said::Vacant | Said::Dissolved => {
                        client.leave();
                    }
                    Said::Something => {}
                }
            }
            Event::Connected(_) | Event::Waiting(_) | Event::Left => {}
        }
        Ok(())
    }

    fn arrived(self: &Arc<Self>, mut arrived: Arrived, client: &Client, course: &mut Course) {
        let membership = &self.membership;
        if self.is_keeper() {
            return self.kept(arrived);
        }
        if let Some(place) = membership.read_mark(&arrived.topic) {
            if arrived.number != 0 {
                // It came by a filter of the subscription, which matches marks as well.
                membership.inbox.skip(self.id, arrived.number);
            }
            let mark = || {
                let mark = Mark::read(&arrived.payload);
                self.wrote(mark.as_ref(), arrived.retained);
                mark
            };
            return match place {
                Place::Slot(slot) => {
                    let mark = mark();
                    if let Some(mark) = &mark {
                        membership.learn(&mark.patterns);
                    }
                    self.marked(slot, mark, client);
                }
                Place::Keeper => self.keeper_marked(mark(), client),
                Place::Patterns => {
                    let mark = Mark::read(&arrived.payload);
                    self.patterns_written(mark.map(|mark| mark.patterns).unwrap_or_default(), client);
                }
                Place::Call => self.present(&mut self.lock(), client, Some(&arrived.payload)),
                Place::Here => {
                    if let Some(present) = Present::read(&arrived.payload) {
                        self.heard(&present.owner);
                    }
                }
                Place::Survey => {}
            };
        }
        let unwanted = arrived.retained && !course.retained;
        let number = arrived.number;
        // Messages of one topic often come one behind the other.
        let (topic, wanted) = match &course.last {
            Some((name, topic)) if *name == arrived.topic => (Some(topic.clone()), true),
            _ => {
                let topic = membership.names.read(&arrived.topic);
                let wanted = membership.wants(topic.as_ref());
                // What is not may be, once another version has said so.
                if let Some(topic) = topic.as_ref().filter(|_| wanted) {
                    course.last = Some((std::mem::take(&mut arrived.topic), topic.clone()));
                }
                (topic, wanted)
            }
        };
        if unwanted || !wanted {
            return membership.inbox.skip(self.id, number);
        }
        let message = arrived.read(topic, &membership.subscription.ingest, membership.clock);
        membership.inbox.put(self.id, number, message);
    }
}

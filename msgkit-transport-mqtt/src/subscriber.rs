//! Handing out: what a service receives from.

use std::collections::{BTreeSet, HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use msgkit::envelope::Clock;
use msgkit::transport::{
    Deliveries, Delivery, Group, Settle, Subscriber, Subscription, Transport, TransportError,
    TransportErrorKind,
};
use msgkit::{Pattern, Topic};
use tokio::sync::{oneshot, watch};

use crate::config::MqttConfig;
use crate::connection::unique;
use crate::driver::{Broker, Dial};
use crate::error::Failure;
use crate::inbox::{Found, Inbox};
use crate::link::{Link, Role};
use crate::names::{CALL, HERE, KEEPER, Names, PATTERNS, disjoint};
use crate::slots::{self, Lane, Mark};
use crate::transport::Mqtt;

/// How long leaving may take before it is broken off, at least.
const GOODBYE: Duration = Duration::from_secs(3);

/// What all connections of one subscription share.
#[derive(Debug)]
pub(crate) struct Membership {
    pub(crate) config: Arc<MqttConfig>,
    pub(crate) names: Names,
    pub(crate) clock: Clock,
    pub(crate) subscription: Subscription,
    /// What its sessions are subscribed to.
    pub(crate) filters: Filters,
    /// Who it is among the members of its group.
    pub(crate) owner: String,
    /// What it is called in logs.
    pub(crate) title: String,
    pub(crate) inbox: Arc<Inbox>,
    broker: Arc<Broker>,
    ending: watch::Sender<bool>,
    links: Mutex<Vec<(Arc<Link>, tokio::task::JoinHandle<()>)>>,
    /// Which link has which slot.
    held: Mutex<HashMap<u64, u32>>,
    sharing: watch::Sender<Sharing>,
    /// Owners of marks that are dead, though no broker was there to note it.
    silent: Mutex<BTreeSet<String>>,
    /// What its group takes: its own patterns, and those that other versions have written beside their marks.
    patterns: Mutex<BTreeSet<Pattern>>,
}

/// Whether a keeper is needed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Sharing {
    Yes,
    No,
    /// The keeper ends its session: who wants to share has to wait for another one.
    Ending,
}

/// The MQTT filters of a subscription, for a session that has everything to itself and for one that shares with others.
///
/// A session alone is subscribed plainly: a plain subscription survives a restart of every broker, a shared one does not
/// survive that of some (Mosquitto 2.0), and what is published before its member is back would be lost. Where members share,
/// their keeper is subscribed plainly.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Filters {
    pub(crate) plain: Vec<String>,
    pub(crate) shared: Vec<String>,
    /// What they are for, where they may match more.
    pub(crate) patterns: BTreeSet<Pattern>,
}

impl Filters {
    pub(crate) fn of(names: &Names, subscription: &Subscription) -> Self {
        let group = subscription.group.as_ref();
        if let (Some(group), Some(step)) = (group, subscription.retry_step) {
            return Self::shared_by(Some(group), vec![names.retry(group, step)]);
        }
        let plain = disjoint(&subscription.patterns).iter().map(|pattern| names.filter(pattern)).collect();
        let patterns = subscription.patterns.iter().cloned().collect();
        Self { patterns, ..Self::shared_by(group, plain) }
    }

    /// `plain`, and what members of `group` write for it.
    pub(crate) fn shared_by(group: Option<&Group>, plain: Vec<String>) -> Self {
        let share = |group: &Group| plain.iter().map(|filter| format!("{SHARE}{group}/{filter}")).collect();
        Self { shared: group.map(share).unwrap_or_default(), plain, patterns: BTreeSet::new() }
    }

    /// Those of a session that shares, or of one that has everything to itself.
    pub(crate) fn those(&self, sharing: bool) -> &[String] {
        if sharing { &self.shared } else { &self.plain }
    }

    /// What a session must not be subscribed to beside [`Filters::those`]; `known` is what is written of it.
    pub(crate) fn stale(&self, sharing: bool, known: &[String]) -> Vec<String> {
        let wanted = self.those(sharing);
        let other = self.those(!sharing);
        let mut stale: Vec<String> =
            known.iter().chain(other).filter(|f| !wanted.contains(f)).cloned().collect();
        stale.sort();
        stale.dedup();
        stale
    }
}

/// What a shared subscription begins with.
pub(crate) const SHARE: &str = "$share/";

/// Whose mark it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Place {
    Slot(u32),
    Keeper,
    /// The group's: what it takes.
    Patterns,
    /// Somebody asks who is there.
    Call,
    /// Somebody says so.
    Here,
    /// Nobody's: somebody looks at the marks.
    Survey,
}

impl Membership {
    pub(crate) fn new(mqtt: &Mqtt, subscription: &Subscription) -> Arc<Self> {
        let title = match (&subscription.group, subscription.retry_step) {
            (Some(group), Some(step)) => format!("delay step {step} of group `{group}`"),
            (Some(group), None) => format!("group `{group}`"),
            (None, _) => "an ephemeral subscription".to_owned(),
        };
        let filters = Filters::of(mqtt.names(), subscription);
        Arc::new(Self {
            patterns: Mutex::new(filters.patterns.clone()),
            filters,
            config: mqtt.config().clone(),
            names: mqtt.names().clone(),
            clock: mqtt.clock(),
            subscription: subscription.clone(),
            owner: mqtt.owner(subscription),
            title,
            inbox: Arc::new(Inbox::new(
                subscription.prefetch,
                mqtt.names().nowhere(),
                mqtt.counters().clone(),
            )),
            broker: mqtt.broker().clone(),
            ending: watch::Sender::new(false),
            links: Mutex::default(),
            held: Mutex::default(),
            sharing: watch::Sender::new(Sharing::Yes),
            silent: Mutex::default(),
        })
    }

    fn lane(&self) -> u32 {
        self.subscription.retry_step.unwrap_or(0)
    }

    /// A connection for it, without client id and will.
    pub(crate) fn dial(&self) -> Dial {
        Dial {
            broker: self.broker.clone(),
            client_id: self.config.client_id.clone(),
            clean: false,
            expiry: self.config.session_expiry,
            receive: u16::try_from(self.subscription.prefetch).unwrap_or(u16::MAX),
            will: None,
        }
    }

    pub(crate) fn client_id(&self, slot: u32) -> String {
        match &self.subscription.group {
            Some(group) => slots::client_id(&self.config.client_id, group, self.lane(), slot),
            None => self.config.client_id.clone(),
        }
    }

    /// The place of a slot's mark.
    pub(crate) fn place(&self, slot: u32) -> String {
        match &self.subscription.group {
            Some(group) => self.names.slot(group, self.lane(), slot),
            None => self.names.nowhere(),
        }
    }

    /// The client id of its lane's keeper.
    pub(crate) fn keeper_id(&self) -> String {
        match &self.subscription.group {
            Some(group) => slots::client_id(&self.config.client_id, group, self.lane(), KEEPER),
            None => self.config.client_id.clone(),
        }
    }

    /// The place of its lane's keeper's mark.
    pub(crate) fn keeper_place(&self) -> String {
        match &self.subscription.group {
            Some(group) => self.names.keeper(group, self.lane()),
            None => self.names.nowhere(),
        }
    }

    /// Where it is written what its group takes; nowhere for a delay step, whose copies are all for it.
    pub(crate) fn patterns_place(&self) -> Option<String> {
        let group = self.subscription.group.as_ref().filter(|_| self.subscription.retry_step.is_none())?;
        Some(self.names.patterns(group))
    }

    /// The topic on which its lane's keeper asks itself something.
    pub(crate) fn keeper_asks(&self, question: &str) -> String {
        match &self.subscription.group {
            Some(group) => self.names.keeper_asks(group, self.lane(), question),
            None => self.names.nowhere(),
        }
    }

    /// Where the members of its lane are asked whether they are there.
    pub(crate) fn call(&self) -> String {
        self.roll(CALL)
    }

    /// Where they say so.
    pub(crate) fn here(&self) -> String {
        self.roll(HERE)
    }

    fn roll(&self, what: &str) -> String {
        match &self.subscription.group {
            Some(group) => self.names.roll(group, self.lane(), what),
            None => self.names.nowhere(),
        }
    }

    /// For the member: its session shares, and so needs a keeper, or does not. False where the keeper is ending.
    pub(crate) fn set_sharing(&self, shares: bool) -> bool {
        let mut set = true;
        self.sharing.send_if_modified(|sharing| {
            set = *sharing != Sharing::Ending;
            let wanted = if shares { Sharing::Yes } else { Sharing::No };
            set && std::mem::replace(sharing, wanted) != wanted
        });
        set
    }

    /// For a keeper that begins.
    pub(crate) fn begin_keeping(&self) {
        self.sharing.send_if_modified(|sharing| {
            let ended = *sharing == Sharing::Ending;
            if ended {
                *sharing = Sharing::No;
            }
            ended
        });
    }

    /// For the keeper: returns once nobody shares any more, and from then on nobody can.
    pub(crate) async fn end_sharing(&self) {
        let mut watched = self.sharing.subscribe();
        loop {
            let _ = watched.wait_for(|sharing| *sharing != Sharing::Yes).await;
            let mut ending = false;
            self.sharing.send_if_modified(|sharing| {
                ending = *sharing != Sharing::Yes;
                ending && std::mem::replace(sharing, Sharing::Ending) != Sharing::Ending
            });
            if ending {
                return;
            }
        }
    }

    /// Whether a connection of this subscription is the keeper, or tries to be.
    pub(crate) fn keeps(&self) -> bool {
        let links = self.links.lock().unwrap_or_else(PoisonError::into_inner);
        links.iter().any(|(link, task)| link.is_keeper() && !task.is_finished())
    }

    /// The link and the connection of its member, where the broker has confirmed its subscription and mark on it.
    pub(crate) fn member_that_stands(&self) -> Option<(u64, u64)> {
        let links = self.links.lock().unwrap_or_else(PoisonError::into_inner);
        links.iter().find_map(|(link, _)| Some((link.id(), link.has_its_place()?)))
    }

    /// Whether its member is subscribed at the broker as it is now: asked and answered on the member's connection.
    pub(crate) async fn stands(&self) -> bool {
        let Some((member, _)) = self.member_that_stands() else { return false };
        match self.inbox.ask(member, &self.names.nowhere()) {
            Some(asked) => asked.await.is_ok(),
            None => false,
        }
    }

    /// The filter of the marks of its lane.
    pub(crate) fn marks(&self) -> Option<String> {
        let group = self.subscription.group.as_ref()?;
        let place = self.names.slot(group, self.lane(), 0);
        Some(format!("{}+", place.strip_suffix('0').unwrap_or(&place)))
    }

    /// Whose mark lies at `name`.
    pub(crate) fn read_mark(&self, name: &str) -> Option<Place> {
        let group = self.subscription.group.as_ref()?;
        let (lane, slot) = self.names.read_slot(group, name)?;
        (lane == self.lane()).then_some(())?;
        Some(match slot.parse() {
            Ok(slot) => Place::Slot(slot),
            Err(_) if slot == KEEPER => Place::Keeper,
            Err(_) if slot == PATTERNS => Place::Patterns,
            Err(_) if slot == CALL => Place::Call,
            Err(_) if slot == HERE => Place::Here,
            Err(_) => Place::Survey,
        })
    }

    /// What the marks of its lane say.
    pub(crate) async fn survey(&self) -> Result<Lane, Failure> {
        let Some(group) = &self.subscription.group else { return Ok(Lane::default()) };
        let mut lanes = slots::survey(&self.dial(), &self.names, group)
            .await
            .map_err(|error| Failure::new(error.kind(), error.to_string()).with_source(error))?;
        let lane = lanes.remove(&self.lane()).unwrap_or_default();
        lane.slots.values().for_each(|mark| self.learn(&mark.patterns));
        self.learn(&lane.patterns);
        Ok(lane)
    }

    /// What its group takes, as far as it knows.
    pub(crate) fn patterns(&self) -> MutexGuard<'_, BTreeSet<Pattern>> {
        self.patterns.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What versions of its group have declared is for it as well.
    pub(crate) fn learn(&self, patterns: &BTreeSet<Pattern>) {
        self.patterns().extend(patterns.iter().cloned());
    }

    /// The mark of a session of its group.
    pub(crate) fn mark(&self, owner: &str, filters: &[String]) -> Mark {
        Mark::held(owner, filters).taking(self.patterns().clone())
    }

    /// Whether a message of `topic` is for its group, whichever version of it: a filter may match more, and a session may hold
    /// what another version's filters have matched.
    pub(crate) fn wants(&self, topic: Option<&Topic>) -> bool {
        match topic {
            _ if self.subscription.retry_step.is_some() => true,
            Some(topic) => self.patterns().iter().any(|pattern| pattern.matches(topic)),
            // No topic of msgkit: some filter matched, and the operator is to see it.
            None => true,
        }
    }

    /// Whether the slot of another session may be taken over: nobody has it, or this member had begun to take it over, or its
    /// owner died, when the broker was down, which then told nobody.
    pub(crate) fn is_free(&self, mark: &Mark) -> bool {
        mark.is_vacant() || mark.owner == self.owner || self.is_silent(mark)
    }

    fn is_silent(&self, mark: &Mark) -> bool {
        self.silent().contains(&mark.owner)
    }

    /// Whether nobody is the keeper that `mark` tells of. Not to be asked while a link's state is locked.
    pub(crate) fn keeps_no_more(&self, mark: &Mark) -> bool {
        mark.is_vacant() || self.is_silent(mark) || (mark.owner == self.owner && !self.keeps())
    }

    fn silent(&self) -> MutexGuard<'_, BTreeSet<String>> {
        self.silent.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// These owners of marks must be dead.
    pub(crate) fn are_gone(&self, owners: Vec<String>) {
        self.silent().extend(owners);
    }

    /// This one is not.
    pub(crate) fn is_there(&self, owner: &str) {
        self.silent().remove(owner);
    }

    pub(crate) fn hold(&self, link: u64, slot: u32) {
        self.held.lock().unwrap_or_else(PoisonError::into_inner).insert(link, slot);
    }

    pub(crate) fn holds(&self, slot: u32) -> bool {
        self.held.lock().unwrap_or_else(PoisonError::into_inner).values().any(|held| *held == slot)
    }

    /// Returns once the subscription ends.
    pub(crate) async fn ended(&self) {
        let mut ending = self.ending.subscribe();
        let _ = ending.wait_for(|ended| *ended).await;
    }

    /// Begins to receive on one more connection.
    pub(crate) fn begin(
        self: Arc<Self>,
        role: Role,
        started: Option<oneshot::Sender<Result<(), TransportError>>>,
    ) {
        let mut links = self.links.lock().unwrap_or_else(PoisonError::into_inner);
        if *self.ending.borrow() {
            return;
        }
        let link = Link::new(role, self.clone());
        links.retain(|(_, task)| !task.is_finished());
        let task = {
            let (link, membership) = (link.clone(), self.clone());
            tokio::spawn(async move {
                let id = link.id();
                let _watched = membership.inbox.watch(id);
                link.run(started).await;
                membership.held.lock().unwrap_or_else(PoisonError::into_inner).remove(&id);
            })
        };
        links.push((link, task));
    }

    /// Leaves with every connection; returns when the broker has been told.
    pub(crate) async fn leave(&self) -> Result<(), TransportError> {
        self.inbox.stop();
        let _ = self.ending.send(true);
        let links = std::mem::take(&mut *self.links.lock().unwrap_or_else(PoisonError::into_inner));
        for (link, _) in &links {
            link.leave();
        }
        let mut told = true;
        let end = tokio::time::Instant::now() + GOODBYE.max(self.config.connect_timeout);
        for (_, mut task) in links {
            if tokio::time::timeout_at(end, &mut task).await.is_err() {
                task.abort();
                told = false;
            }
        }
        match told {
            true => Ok(()),
            false => Err(TransportError::new(
                TransportErrorKind::Unavailable,
                format!(
                    "the broker did not answer when {} was left; what is unsettled comes again",
                    self.title
                ),
            )),
        }
    }
}

#[async_trait]
impl Subscriber for Mqtt {
    async fn subscribe(&self, subscription: &Subscription) -> Result<Box<dyn Deliveries>, TransportError> {
        self.capabilities().admit("mqtt", subscription)?;
        self.open()?;
        let membership = Membership::new(self, subscription);
        let deliveries = MqttDeliveries {
            settler: membership.inbox.clone(),
            membership: membership.clone(),
            mqtt: self.clone(),
            left: false,
        };
        let role = match &subscription.group {
            Some(_) => Role::Member,
            None => Role::Alone { client_id: format!("{}-alone-{}", self.config().client_id, unique()) },
        };
        self.know(&membership);
        let (started, result) = oneshot::channel();
        membership.begin(role, Some(started));
        match result.await {
            Ok(Ok(())) => Ok(Box::new(deliveries)),
            Ok(Err(error)) => Err(error),
            Err(_) => Err(TransportError::closed("mqtt")),
        }
    }
}

/// A subscription at an MQTT broker.
#[derive(Debug)]
struct MqttDeliveries {
    membership: Arc<Membership>,
    settler: Arc<dyn Settle>,
    mqtt: Mqtt,
    left: bool,
}

/// Leaves, and lets its name be taken again.
async fn leave(mqtt: &Mqtt, membership: &Membership) -> Result<(), TransportError> {
    let left = membership.leave().await;
    mqtt.disown(&membership.subscription, &membership.owner);
    left
}

#[async_trait]
impl Deliveries for MqttDeliveries {
    async fn receive(&mut self, max: usize, into: &mut VecDeque<Delivery>) -> Result<(), TransportError> {
        if max == 0 {
            return Ok(());
        }
        loop {
            match self.membership.inbox.take(&self.settler, max, into)? {
                Found::Messages | Found::End => return Ok(()),
                Found::Nothing => self.membership.inbox.arrived.notified().await,
            }
        }
    }

    fn stop(&mut self) {
        self.membership.inbox.stop();
    }

    async fn flush(&mut self) -> Result<(), TransportError> {
        let nowhere = self.membership.names.nowhere();
        self.membership.inbox.flush(&nowhere).await.map_err(|_| {
            TransportError::new(
                TransportErrorKind::Unavailable,
                "the connection broke before the broker had answered; what was settled last may come again",
            )
        })
    }

    async fn close(&mut self) -> Result<(), TransportError> {
        self.left = true;
        leave(&self.mqtt, &self.membership).await
    }
}

impl Drop for MqttDeliveries {
    fn drop(&mut self) {
        if !self.left
            && let Ok(runtime) = tokio::runtime::Handle::try_current()
        {
            let (mqtt, membership) = (self.mqtt.clone(), self.membership.clone());
            runtime.spawn(async move {
                let _ = leave(&mqtt, &membership).await;
            });
        }
    }
}

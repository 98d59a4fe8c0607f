//! The thread of a subscription, which owns its client. It never waits for handlers: messages lie in a queue per
//! partition and are fetched while there is room, and everything else that the client has to say is heard meanwhile.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use msgkit::transport::{Subscription, TransportError, TransportErrorKind};
use rdkafka::consumer::base_consumer::PartitionQueue;
use rdkafka::consumer::{BaseConsumer, Consumer as _};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::{Message as _, Offset, TopicPartitionList};
use tokio::sync::oneshot;

use super::committer::{Committer, commit};
use super::context::{Context, Event};
use super::member::{Arrived, Member};
use super::partition::{Commit, Counting};
use crate::client::{self, Listening};
use crate::cluster::{ASK, Cluster};
use crate::error;
use crate::look;
use crate::starts::Starts;

/// How long the thread waits at most, whatever happens.
const TICK: Duration = Duration::from_millis(250);
/// How long to wait before something that failed is tried again.
const AGAIN: Duration = Duration::from_millis(250);
/// How long a flush waits for the broker's word.
const FLUSH: Duration = Duration::from_secs(30);
/// How many messages of one partition are taken before the next one has its turn.
const TURN: usize = 64;
/// How long the first partitions may take until `subscribe` returns without them.
const BEGIN: Duration = Duration::from_secs(10);
/// How long a member that begins without partitions waits for others to hand some over.
const HANDED_OVER: Duration = Duration::from_millis(1500);

type Client = BaseConsumer<Context>;
type Flush = oneshot::Sender<Result<(), TransportError>>;

/// What a subscription reads.
pub(super) enum Source {
    /// The topics of its patterns, as a member of a group.
    Group(String),
    /// One delay step of a group: its retry topic.
    Step(String),
    /// The topics of its patterns, all partitions, without a trace.
    Alone,
}

pub(super) struct Driver {
    cluster: Arc<Cluster>,
    member: Arc<Member>,
    subscription: Subscription,
    source: Source,
    context: Context,
    committer: Committer,
    client: Arc<Client>,
    /// By the Kafka topic and partition.
    held: BTreeMap<(String, i32), Held>,
    topics: BTreeSet<String>,
    /// Where its messages are known to lie.
    places: BTreeSet<String>,
    looked: Option<Instant>,
    made: u64,
    /// Assigned, and not begun yet.
    coming: Vec<TopicPartitionList>,
    coming_again: Option<Instant>,
    going: Option<Going>,
    on_its_way: Option<OnItsWay>,
    commit_after: Instant,
    flushes: Vec<(Flush, Instant)>,
    ready: Option<oneshot::Sender<Result<(), TransportError>>>,
    ready_by: Instant,
    begun_by: Instant,
}

struct Held {
    epoch: u64,
    queue: PartitionQueue<Context>,
}

/// Partitions that are being given away.
struct Going {
    partitions: TopicPartitionList,
    epochs: Vec<u64>,
    until: Instant,
}

/// A commit that the broker has not answered.
struct OnItsWay {
    commits: Vec<Commit>,
    flushes: Vec<(Flush, Instant)>,
}

impl Driver {
    pub(super) fn new(
        cluster: Arc<Cluster>,
        member: Arc<Member>,
        subscription: Subscription,
        source: Source,
        ready: oneshot::Sender<Result<(), TransportError>>,
    ) -> Result<Self, TransportError> {
        let mut places = BTreeSet::new();
        for place in &subscription.places {
            places.extend(cluster.names.all_of_place(place)?);
        }
        let context = Context::new(Listening(cluster.said.clone()));
        let native = match &source {
            Source::Group(group) | Source::Step(group) => {
                client::member(&cluster.address, &cluster.config, group)
            }
            Source::Alone => client::consumer(&cluster.address, &cluster.config, "msgkit.ephemeral"),
        };
        let mut client: Client = native
            .create_with_context(context.clone())
            .map_err(|error| error::of(error, "making the Kafka consumer"))?;
        let signal = member.signal.clone();
        client.set_nonempty_callback(move || signal.ring());
        let client = Arc::new(client);
        let committer =
            Committer::begin(client.clone(), context.clone(), member.signal.clone()).map_err(|error| {
                TransportError::new(
                    TransportErrorKind::Internal,
                    "no thread can be started for a Kafka subscription",
                )
                .with_source(error)
            })?;
        Ok(Self {
            made: cluster.made(),
            places,
            cluster,
            member,
            subscription,
            context,
            committer,
            client,
            held: BTreeMap::new(),
            topics: BTreeSet::new(),
            looked: None,
            coming: Vec::new(),
            coming_again: None,
            going: None,
            on_its_way: None,
            commit_after: Instant::now(),
            flushes: Vec::new(),
            ready: Some(ready),
            ready_by: Instant::now() + if matches!(source, Source::Step(_)) { Duration::ZERO } else { BEGIN },
            begun_by: Instant::now() + BEGIN,
            source,
        })
    }

    /// Runs until the subscription leaves or the transport closes.
    pub(super) fn run(mut self) {
        while !self.member.must_go() {
            self.listen();
            self.begin_coming();
            self.give_going();
            self.find_topics();
            let fetched = self.fetch();
            self.commit();
            self.answer_ready();
            if fetched == 0 {
                self.member.signal.wait(self.pause());
            }
        }
        self.leave();
    }

    /// How long there is nothing to do unless the bell rings.
    fn pause(&self) -> Duration {
        let now = Instant::now();
        let mut next = now + TICK;
        let (urgent, behind) = self.member.wants_commit();
        if (urgent || behind) && self.on_its_way.is_none() {
            next = next.min(self.commit_after);
        }
        let others = [self.coming_again, self.going.as_ref().map(|going| going.until), self.next_look()];
        for at in others.into_iter().flatten() {
            next = next.min(at);
        }
        next.saturating_duration_since(now).max(Duration::from_millis(1))
    }

    fn next_look(&self) -> Option<Instant> {
        match self.source {
            Source::Step(_) if !self.topics.is_empty() => None,
            _ => self.looked.map(|looked| looked + self.cluster.config.topic_refresh),
        }
    }

    /// Hears what the client has to say.
    fn listen(&mut self) {
        loop {
            let before = self.context.waiting();
            match self.client.poll(Duration::ZERO) {
                Some(Ok(message)) => {
                    // Of a partition whose queue was not apart yet; there is room for the few that this can be.
                    let key = (message.topic().to_owned(), message.partition());
                    if let Some(held) = self.held.get(&key) {
                        let arrived = self.arrived(held.epoch, &message);
                        self.member.arrived(std::iter::once(arrived));
                    }
                }
                Some(Err(error)) => self.hear(error),
                None if self.context.waiting() == before => break,
                None => {}
            }
        }
        for event in self.context.take() {
            match event {
                Event::Assigned(partitions) => {
                    self.coming.push(partitions);
                    self.coming_again = None;
                }
                Event::Revoked { partitions, lost } => self.revoked(partitions, lost),
                Event::Committed(result) => self.committed(result),
                Event::Other => {}
            }
        }
    }

    /// An error of the client: what mends itself is left to it.
    fn hear(&mut self, error: KafkaError) {
        let Some(code) = error.rdkafka_error_code() else { return };
        let fatal = matches!(error, KafkaError::MessageConsumptionFatal(_));
        let (kind, _) = error::kind_of(code);
        let missing =
            matches!(code, RDKafkaErrorCode::UnknownTopicOrPartition | RDKafkaErrorCode::UnknownTopic);
        if missing {
            // Deleted, or not there yet: the next look tells.
            return;
        }
        if fatal || kind == TransportErrorKind::Refused {
            let error = error::of(error, "consuming from Kafka");
            tracing::warn!(error = %msgkit::Chain(&error), "a Kafka subscription is refused");
            if let Some(ready) = self.ready.take() {
                let _ = ready.send(Err(error));
            } else {
                self.member.fail(error);
            }
        }
    }

    /// Begins with the partitions that were assigned, where each of them was left.
    fn begin_coming(&mut self) {
        if self.coming.is_empty() || self.coming_again.is_some_and(|at| at > Instant::now()) {
            return;
        }
        while let Some(partitions) = self.coming.first() {
            match self.begin(&partitions.clone()) {
                Ok(()) => {
                    self.coming.remove(0);
                    self.coming_again = None;
                    let none = self.held.is_empty();
                    self.ready_by =
                        if none { self.ready_by.min(Instant::now() + HANDED_OVER) } else { Instant::now() };
                }
                Err(error) => {
                    tracing::debug!(error = %msgkit::Chain(&error), "partitions cannot be begun yet");
                    self.coming_again = Some(Instant::now() + AGAIN);
                    return;
                }
            }
        }
    }

    fn begin(&mut self, partitions: &TopicPartitionList) -> Result<(), TransportError> {
        tracing::debug!(?partitions, "partitions are assigned");
        let mut places = Vec::new();
        if partitions.count() > 0 {
            let committed = look::patiently(|| self.client.committed_offsets(partitions.clone(), ASK))
                .map_err(|error| error::of(error, "asking for committed offsets"))?;
            for one in committed.elements() {
                one.error().map_err(|error| error::of(error, "asking for committed offsets"))?;
                let (topic, number) = (one.topic().to_owned(), one.partition());
                let place = match one.offset() {
                    Offset::Offset(offset) => {
                        // Somebody else's metadata may be anything, which makes the client panic.
                        let text = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
                            one.metadata().to_owned()
                        }));
                        let begin = u64::try_from(offset).unwrap_or(0);
                        (begin, Starts::read(&text.unwrap_or_default(), begin))
                    }
                    _ => (self.first_of(&topic, number)?, Starts::default()),
                };
                places.push((topic, number, place));
            }
        }
        let mut begun = TopicPartitionList::new();
        let mut held = Vec::new();
        for (topic, number, (begin, before)) in places {
            let offset = Offset::Offset(i64::try_from(begin).unwrap_or(i64::MAX));
            begun
                .add_partition_offset(&topic, number, offset)
                .map_err(|error| error::of(error, "beginning a partition"))?;
            // Set apart before it begins, so that nothing of it comes by the common queue.
            let Some(mut queue) = self.client.split_partition_queue(&topic, number) else {
                return Err(error::broke_off("setting a partition's queue apart"));
            };
            let signal = self.member.signal.clone();
            queue.set_nonempty_callback(move || signal.ring());
            held.push((topic, number, begin, before, queue));
        }
        self.client.incremental_assign(&begun).map_err(|error| error::of(error, "taking partitions"))?;
        let free = matches!(self.source, Source::Alone);
        for (topic, number, begin, before, queue) in held {
            let epoch = self.member.assigned(&topic, number, begin, before, free);
            self.held.insert((topic, number), Held { epoch, queue });
        }
        Ok(())
    }

    /// Where a partition begins of which the group has committed nothing.
    fn first_of(&self, topic: &str, number: i32) -> Result<u64, TransportError> {
        let declared = match (&self.source, &self.subscription.group) {
            (Source::Group(_), Some(group)) => self.cluster.declared_start(group, topic, number),
            _ => None,
        };
        let first = match declared {
            Some(offset) => offset,
            None => {
                let (first, _) = look::patiently(|| self.client.fetch_watermarks(topic, number, ASK))
                    .map_err(|error| error::of(error, "asking for the first offset"))?;
                first
            }
        };
        Ok(u64::try_from(first).unwrap_or(0))
    }

    fn revoked(&mut self, partitions: TopicPartitionList, lost: bool) {
        tracing::debug!(?partitions, lost, "partitions are revoked");
        // What has not been begun needs no goodbye.
        let keys: Vec<(String, i32)> =
            partitions.elements().iter().map(|one| (one.topic().to_owned(), one.partition())).collect();
        let epochs: Vec<u64> =
            keys.iter().filter_map(|key| self.held.get(key)).map(|held| held.epoch).collect();
        self.coming.clear();
        if let Some(going) = self.going.take() {
            // One at a time; the client asks for the next when it has this.
            self.give(&going.partitions, &going.epochs, lost);
        }
        if lost {
            self.give(&partitions, &epochs, true);
            return;
        }
        self.member.begin_to_leave(&epochs);
        let until = Instant::now() + self.cluster.config.revoke_grace;
        self.going = Some(Going { partitions, epochs, until });
    }

    /// Gives partitions away once their handlers have finished, or had their time.
    fn give_going(&mut self) {
        let Some(going) = &self.going else { return };
        let lost = self.client.assignment_lost();
        let working = Instant::now() < going.until && !self.member.are_settled(&going.epochs);
        // A commit that is on its way must not come behind the last one.
        if !lost && (working || self.on_its_way.is_some()) {
            return;
        }
        if let Some(Going { partitions, epochs, .. }) = self.going.take() {
            self.give(&partitions, &epochs, lost);
        }
    }

    fn give(&mut self, partitions: &TopicPartitionList, epochs: &[u64], lost: bool) {
        if !lost {
            self.last_commit(Some(epochs));
        }
        let behind = self.member.lost(epochs);
        self.held.retain(|_, held| !epochs.contains(&held.epoch));
        if let Err(error) = self.client.incremental_unassign(partitions) {
            tracing::debug!(%error, "the Kafka client refused to give partitions away");
        }
        if behind {
            let flushes = self.flushes.drain(..);
            let flushes = flushes.chain(self.on_its_way.iter_mut().flat_map(|one| one.flushes.drain(..)));
            for (flush, _) in flushes {
                let _ = flush.send(Err(lost_settlements()));
            }
        }
    }

    /// Tells the broker, in place, how far these partitions are. Nothing of them is in hand any more, as far as the next
    /// member is concerned: giving back is no start.
    fn last_commit(&mut self, only: Option<&[u64]>) {
        let commits = self.member.commits(only, Counting::None);
        if commits.is_empty() {
            return;
        }
        match commit(&self.client, &commits) {
            Ok(()) => self.member.told(commits),
            Err(error) => {
                tracing::warn!(%error, "what was settled last could not be committed; it will come again");
            }
        }
    }

    /// Looks which topics there are.
    fn find_topics(&mut self) {
        let made = self.cluster.made();
        let due = self.next_look().is_none_or(|at| at <= Instant::now());
        let known = matches!(self.source, Source::Step(_)) && !self.topics.is_empty();
        if known || (!due && made == self.made) {
            return;
        }
        let age = if made == self.made { self.cluster.config.topic_refresh / 2 } else { Duration::ZERO };
        let all = match self.cluster.topics_within(age) {
            Ok(all) => all,
            Err(error) => {
                self.looked = Some(Instant::now());
                if let (false, Some(ready)) = (error.is_temporary(), self.ready.take()) {
                    let _ = ready.send(Err(error));
                }
                return;
            }
        };
        self.made = made;
        self.looked = Some(Instant::now());
        let found: BTreeSet<String> = match &self.source {
            Source::Step(topic) => all.keys().filter(|name| *name == topic).cloned().collect(),
            _ => all
                .keys()
                .filter(|name| {
                    self.places.contains(*name)
                        || self.cluster.names.may_hold(name, &self.subscription.patterns)
                })
                .cloned()
                .collect(),
        };
        let result = match self.source {
            Source::Alone => self.take_all(&all, &found),
            _ if found == self.topics => Ok(()),
            _ if found.is_empty() => {
                self.client.unsubscribe();
                Ok(())
            }
            _ => {
                tracing::debug!(?found, "the topics of a subscription");
                let names: Vec<&str> = found.iter().map(String::as_str).collect();
                self.client.subscribe(&names).map_err(|error| error::of(error, "subscribing to Kafka topics"))
            }
        };
        match result {
            Ok(()) => {
                if found.is_empty() {
                    self.ready_by = Instant::now();
                }
                self.topics = found;
            }
            Err(error) => tracing::warn!(error = %msgkit::Chain(&error), "new topics cannot be read yet"),
        }
    }

    /// Without a group: takes every partition that is not held, those of topics that came later from their first message.
    fn take_all(
        &mut self,
        all: &BTreeMap<String, usize>,
        found: &BTreeSet<String>,
    ) -> Result<(), TransportError> {
        let first_time = self.ready.is_some();
        let mut taken = TopicPartitionList::new();
        let mut held = Vec::new();
        for topic in found {
            let later = !first_time;
            for number in 0..i32::try_from(all.get(topic).copied().unwrap_or(0)).unwrap_or(i32::MAX) {
                if self.held.contains_key(&(topic.clone(), number)) {
                    continue;
                }
                let start = if later { msgkit::transport::Start::Earliest } else { self.subscription.start };
                let begin = self.cluster.start_of(topic, number, start)?;
                taken
                    .add_partition_offset(topic, number, Offset::Offset(begin))
                    .map_err(|error| error::of(error, "taking partitions"))?;
                let Some(mut queue) = self.client.split_partition_queue(topic, number) else {
                    return Err(error::broke_off("setting a partition's queue apart"));
                };
                let signal = self.member.signal.clone();
                queue.set_nonempty_callback(move || signal.ring());
                held.push((topic.clone(), number, u64::try_from(begin).unwrap_or(0), queue));
            }
        }
        if !held.is_empty() {
            self.client.incremental_assign(&taken).map_err(|error| error::of(error, "taking partitions"))?;
        }
        for (topic, number, begin, queue) in held {
            let epoch = self.member.assigned(&topic, number, begin, Starts::default(), true);
            self.held.insert((topic, number), Held { epoch, queue });
        }
        self.ready_by = Instant::now();
        Ok(())
    }

    /// Takes messages from the queues while there is room; how many.
    fn fetch(&mut self) -> usize {
        let mut room = self.member.room();
        if room == 0 || self.held.is_empty() {
            return 0;
        }
        let full = self.member.full();
        let mut arrived = Vec::new();
        let mut more = true;
        while more && room > 0 {
            more = false;
            for held in self.held.values().filter(|held| !full.contains(&held.epoch)) {
                for _ in 0..TURN.min(room) {
                    match held.queue.poll(Duration::ZERO) {
                        Some(Ok(message)) => {
                            let one = self.arrived(held.epoch, &message);
                            room -= usize::from(one.message.is_some());
                            arrived.push(one);
                            more = true;
                        }
                        Some(Err(error)) => tracing::debug!(%error, "a Kafka partition tells"),
                        None => break,
                    }
                }
            }
            // What is none of ours takes no room, and must not keep the thread here.
            more &= arrived.len() < TURN * 64;
        }
        let count = arrived.len();
        tracing::trace!(count, room, "messages came");
        self.member.arrived(arrived.into_iter());
        count
    }

    fn arrived<M: rdkafka::Message>(&self, epoch: u64, message: &M) -> Arrived {
        let (ingest, now) = (&self.subscription.ingest, self.cluster.clock.now());
        let incoming = look::read(message, &self.cluster.names, ingest, now);
        let ours = match self.source {
            Source::Step(_) => true,
            _ => self.subscription.matches(incoming.topic()),
        };
        Arrived {
            epoch,
            offset: u64::try_from(message.offset()).unwrap_or(0),
            message: ours.then_some(incoming),
        }
    }

    /// Tells the broker how far everything is; one commit is on its way at a time.
    fn commit(&mut self) {
        let now = Instant::now();
        self.flushes.extend(self.member.take_flushes().into_iter().map(|flush| (flush, now + FLUSH)));
        self.flushes.retain(|(flush, _)| !flush.is_closed());
        if self.on_its_way.is_some() {
            return;
        }
        let (urgent, behind) = self.member.wants_commit();
        let waited = !self.flushes.is_empty();
        if now < self.commit_after
            && !((waited || urgent) && self.commit_after <= now + self.cluster.config.commit_interval)
        {
            self.give_up_flushes(now);
            return;
        }
        if !(urgent || behind || waited) {
            return;
        }
        let counting = if waited { Counting::InHand } else { Counting::Ahead };
        let commits = self.member.commits(None, counting);
        let flushes = std::mem::take(&mut self.flushes);
        if commits.is_empty() {
            for (flush, _) in flushes {
                let _ = flush.send(Ok(()));
            }
            if urgent && !waited {
                self.member.arrived.notify_one();
            }
            return;
        }
        tracing::trace!(?commits, "a commit is sent");
        self.commit_after = now + self.cluster.config.commit_interval;
        self.committer.send(commits.clone());
        self.on_its_way = Some(OnItsWay { commits, flushes });
    }

    fn committed(&mut self, result: Result<(), KafkaError>) {
        tracing::trace!(?result, "a commit is answered");
        let Some(OnItsWay { commits, flushes, .. }) = self.on_its_way.take() else { return };
        match result {
            Ok(()) => {
                self.member.told(commits);
                for (flush, _) in flushes {
                    let _ = flush.send(Ok(()));
                }
            }
            Err(error) => {
                tracing::debug!(%error, "a commit was not taken; it is sent again");
                self.member.not_told(&commits);
                self.flushes.extend(flushes);
                self.commit_after = Instant::now() + self.cluster.config.commit_interval + AGAIN;
            }
        }
    }

    fn give_up_flushes(&mut self, now: Instant) {
        for (flush, _) in self.flushes.extract_if(.., |(_, until)| *until <= now) {
            let _ = flush.send(Err(TransportError::new(
                TransportErrorKind::Timeout,
                format!(
                    "the Kafka brokers have not taken the settlements within {FLUSH:?}; they are sent again"
                ),
            )));
        }
    }

    /// Tells `subscribe` that the subscription runs, or goes on without having partitions yet.
    fn answer_ready(&mut self) {
        if self.ready.is_none() || self.looked.is_none() || self.ready_by > Instant::now() {
            return;
        }
        if self.held.is_empty() && self.begun_by > Instant::now() && self.is_owed_some() {
            self.ready_by = (Instant::now() + AGAIN).min(self.begun_by);
            return;
        }
        if let Some(ready) = self.ready.take() {
            let _ = ready.send(Ok(()));
        }
    }

    /// Whether there are partitions enough for every member of the group.
    fn is_owed_some(&self) -> bool {
        let Source::Group(group) = &self.source else { return false };
        let Ok(all) = self.cluster.topics_within(Duration::from_secs(3600)) else { return false };
        let partitions: usize = self.topics.iter().filter_map(|topic| all.get(topic)).sum();
        let listed = self.client.fetch_group_list(Some(group), ASK);
        listed.is_ok_and(|list| list.groups().iter().all(|one| one.members().len() <= partitions))
    }

    /// Commits, gives everything back and leaves.
    fn leave(mut self) {
        self.committer.end();
        self.listen();
        let flushes: Vec<Flush> = self.member.take_flushes();
        if !matches!(self.source, Source::Alone) && !self.client.assignment_lost() {
            self.last_commit(None);
        }
        let behind = self.member.wants_commit().1;
        let waiting = self.flushes.drain(..).map(|(flush, _)| flush).chain(flushes);
        let waiting = waiting.chain(
            self.on_its_way
                .take()
                .into_iter()
                .flat_map(|one| one.flushes.into_iter().map(|(flush, _)| flush)),
        );
        for flush in waiting {
            let _ = flush.send(if behind { Err(lost_settlements()) } else { Ok(()) });
        }
        self.context.leave();
        // What came meanwhile and was noted has to be answered, or the client waits for it for ever.
        if !self.coming.is_empty() {
            let _ = self.client.incremental_assign(&TopicPartitionList::new());
        }
        if let Some(going) = self.going.take() {
            let _ = self.client.incremental_unassign(&going.partitions);
        }
        for event in self.context.take() {
            let answered = match event {
                Event::Assigned(_) => self.client.incremental_assign(&TopicPartitionList::new()),
                Event::Revoked { partitions, .. } => self.client.incremental_unassign(&partitions),
                _ => Ok(()),
            };
            if let Err(error) = answered {
                tracing::debug!(%error, "the Kafka client refused a change of its partitions while it left");
            }
        }
        self.held.clear();
        let member = self.member.clone();
        drop(self);
        member.gone();
    }
}

/// The error of settlements that went with their partitions.
fn lost_settlements() -> TransportError {
    TransportError::new(
        TransportErrorKind::Unavailable,
        "partitions went to another member before the brokers had taken all settlements; their messages come again",
    )
}

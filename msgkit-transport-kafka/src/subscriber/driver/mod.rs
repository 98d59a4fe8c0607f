//! The thread of a subscription, which owns its client. It never waits for handlers: messages lie in a queue per
//! partition and are fetched while there is room, and everything else that the client has to say is heard meanwhile.
//!
//! Here is what it has and its round; [`assignment`] is how partitions come and go, [`topics`] where its messages lie,
//! [`fetching`] how they get to the member, [`deciding`] which of them are the group's, [`settling`] what the broker is told of them,
//! [`beginning`] when `subscribe` returns, [`watching`] what is done where the client says nothing any more.

mod assignment;
mod beginning;
mod deciding;
mod fetching;
mod settling;
mod topics;
mod watching;

use std::cell::Cell;
use std::collections::{BTreeMap, BTreeSet};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::{Duration, Instant};

use msgkit::Pattern;
use msgkit::transport::{Subscription, TransportError, TransportErrorKind};
use rdkafka::consumer::base_consumer::PartitionQueue;
use rdkafka::consumer::{BaseConsumer, Consumer as _};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::{Message as _, TopicPartitionList};
use tokio::sync::oneshot;

use self::deciding::Deciding;
pub(super) use self::settling::lost_settlements;
use self::watching::{Looking, Quiet};
use super::broken;
use super::committer::Committer;
use super::context::{Context, Event};
use super::member::Member;
use super::partition::Commit;
use crate::client::{self, Listening};
use crate::cluster::Cluster;
use crate::error;
use crate::names::Implied;

/// How long the thread waits at most, whatever happens.
const TICK: Duration = Duration::from_millis(250);
/// How long to wait before something that failed is tried again.
const AGAIN: Duration = Duration::from_millis(250);
/// How long the first partitions may take until `subscribe` returns without them.
const BEGIN: Duration = Duration::from_secs(10);

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
    /// Behind which of them the next round begins.
    turn: (String, i32),
    /// What is handed out, as far as is known.
    patterns: Vec<Pattern>,
    deciding: Deciding,
    topics: BTreeSet<String>,
    /// Where its messages are known to lie.
    places: BTreeSet<String>,
    looked: Option<Instant>,
    /// Without a group: whether it is known where it begins.
    begun: bool,
    made: u64,
    /// Assigned, and not begun yet.
    coming: Vec<TopicPartitionList>,
    coming_again: Option<Instant>,
    going: Option<Going>,
    on_its_way: Option<OnItsWay>,
    commit_after: Instant,
    /// How many commits in a row were not taken.
    not_taken: u32,
    flushes: Vec<(Flush, Instant)>,
    ready: Option<oneshot::Sender<Result<(), TransportError>>>,
    ready_by: Instant,
    begun_by: Instant,
    /// When quiet partitions were looked at.
    watched: Instant,
    looking: Option<Looking>,
    /// Topics that were found by a wildcard and may not be read.
    unreadable: BTreeSet<String>,
    /// Why it is not known yet where it begins.
    why_not: Option<TransportError>,
}

struct Held {
    epoch: u64,
    implied: Implied,
    queue: PartitionQueue<Context>,
    quiet: Quiet,
    /// The time of the youngest record that came, in milliseconds.
    newest: Cell<Option<i64>>,
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
        let mut driver = Self {
            made: cluster.made(),
            places,
            cluster,
            member,
            subscription,
            context,
            committer,
            client,
            held: BTreeMap::new(),
            turn: Default::default(),
            patterns: Vec::new(),
            deciding: Deciding::new(),
            topics: BTreeSet::new(),
            looked: None,
            begun: !matches!(source, Source::Alone),
            coming: Vec::new(),
            coming_again: None,
            going: None,
            on_its_way: None,
            commit_after: Instant::now(),
            not_taken: 0,
            flushes: Vec::new(),
            ready: Some(ready),
            ready_by: Instant::now() + if matches!(source, Source::Step(_)) { Duration::ZERO } else { BEGIN },
            begun_by: Instant::now() + BEGIN,
            watched: Instant::now(),
            looking: None,
            unreadable: BTreeSet::new(),
            why_not: None,
            source,
        };
        driver.patterns = driver.known_patterns();
        Ok(driver)
    }

    /// Runs until the subscription leaves or the transport closes.
    pub(super) fn run(mut self) {
        if catch_unwind(AssertUnwindSafe(|| self.serve())).is_err() {
            self.member.fail(broken());
            // What the client asks from now on is answered at once; else it waits for an answer that nobody gives.
            self.context.leave();
        }
        self.leave();
    }

    fn serve(&mut self) {
        while !self.member.must_go() {
            self.listen();
            self.begin_coming();
            self.give_going();
            self.find_topics();
            let fetched = self.fetch();
            self.decide();
            self.watch();
            self.commit();
            self.answer_ready();
            if fetched == 0 {
                self.member.signal.wait(self.pause());
            }
        }
    }

    /// How long there is nothing to do unless the bell rings.
    fn pause(&self) -> Duration {
        let now = Instant::now();
        let mut next = now + TICK;
        let (urgent, behind) = self.member.wants_commit();
        if (urgent || behind) && self.on_its_way.is_none() {
            next = next.min(self.commit_after);
        }
        let others = [
            self.coming_again,
            self.going.as_ref().map(|going| going.until),
            self.next_look(),
            self.next_decision(),
        ];
        for at in others.into_iter().flatten() {
            next = next.min(at);
        }
        next.saturating_duration_since(now).max(Duration::from_millis(1))
    }

    /// Hears what the client has to say.
    fn listen(&mut self) {
        let mut arrivals = Vec::new();
        loop {
            let before = self.context.waiting();
            match self.client.poll(Duration::ZERO) {
                Some(Ok(message)) => {
                    // Of a partition whose queue was not apart yet; there is room for the few that this can be.
                    let key = (message.topic().to_owned(), message.partition());
                    if let Some(held) = self.held.get(&key) {
                        let arrived = self.arrived(held, &message, self.cluster.clock.now());
                        arrivals.push(arrived);
                    }
                }
                Some(Err(error)) => self.hear(error, &self.consuming()),
                None if self.context.waiting() == before => break,
                None => {}
            }
        }
        self.take_in(arrivals.into_iter());
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

    /// An error of the client, met while reading `topic`. One that a wildcard has found, and that may not be read, stops no other:
    /// nobody asked for it by its name.
    fn hear_of(&mut self, error: KafkaError, topic: String) {
        let refused = error.rdkafka_error_code() == Some(RDKafkaErrorCode::TopicAuthorizationFailed);
        if refused && !self.is_named(&topic) {
            if !self.unreadable.contains(&topic) {
                tracing::warn!(
                    topic,
                    "the user may not read a Kafka topic that a pattern matches; nothing of it is handed out: allow it, or leave \
                     it out of the pattern"
                );
                self.unreadable.insert(topic);
            }
            return;
        }
        self.hear(error, &format!("reading `{topic}`"));
    }

    fn consuming(&self) -> String {
        match &self.source {
            Source::Group(name) | Source::Step(name) => format!("consuming from Kafka as group `{name}`"),
            Source::Alone => "consuming from Kafka".to_owned(),
        }
    }

    /// Whether the subscription asks for this Kafka topic itself, not by a wildcard.
    fn is_named(&self, topic: &String) -> bool {
        if matches!(self.source, Source::Step(_)) || self.places.contains(topic) {
            return true;
        }
        let exact = self.subscription.patterns.iter().filter_map(Pattern::as_topic);
        let mut names = exact.filter_map(|place| self.cluster.names.all_of_place(&place).ok());
        names.any(|names| names.contains(topic))
    }

    /// An error of the client, met while `doing` something: what mends itself is left to it.
    fn hear(&mut self, error: KafkaError, doing: &str) {
        tracing::debug!(%error, "the Kafka client tells while {doing}");
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
            let error = error::of(error, doing);
            tracing::warn!(error = %msgkit::Chain(&error), "a Kafka subscription is refused");
            if let Some(ready) = self.ready.take() {
                let _ = ready.send(Err(error));
            } else {
                self.member.fail(error);
            }
        }
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

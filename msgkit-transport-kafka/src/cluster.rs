//! What everything of one transport shares: where the brokers are, which topics there are, which groups are declared.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fmt;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::{Duration, Instant};

use msgkit::envelope::Clock;
use msgkit::transport::{Destination, TransportError, TransportErrorKind};
use rdkafka::admin::{AdminClient, AdminOptions, NewTopic, TopicReplication};
use rdkafka::consumer::{BaseConsumer, Consumer as _};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::metadata::Metadata;
use tokio::sync::Notify;

use crate::client::{self, Address, Listening, Said};
use crate::config::KafkaConfig;
use crate::error::{self, broke_off, closed, invalid};
use crate::groups::Groups;
use crate::names::{Names, alike};
use crate::publisher::Sender;
use crate::subscriber::Member;
use crate::threads::{Ending, Threads, nobody_waits};

/// How long a topic that was created may take until every broker knows it.
const KNOWN_AFTER: Duration = Duration::from_secs(15);
/// How long one question to the brokers may take.
pub(crate) const ASK: Duration = Duration::from_secs(10);
/// How long the brokers may take to answer until it is looked at whether they have refused the client, or nobody waits any more.
const LISTEN: Duration = Duration::from_millis(250);
/// The longest that one question may take then, whatever `connect_timeout` is.
const PATIENT: Duration = Duration::from_secs(3600);

type Admin = AdminClient<Listening>;

/// A transport's side of a cluster.
pub(crate) struct Cluster {
    pub(crate) address: Address,
    pub(crate) config: KafkaConfig,
    pub(crate) clock: Clock,
    pub(crate) names: Names,
    pub(crate) said: Said,
    pub(crate) sender: Sender,
    pub(crate) groups: Groups,
    pub(crate) late: AtomicU64,
    pub(crate) threads: Threads,
    topics: Mutex<Topics>,
    fit: Mutex<BTreeSet<String>>,
    /// Counts the topics that were made here, for subscriptions to look again.
    made: AtomicU64,
    asker: Mutex<Option<Arc<BaseConsumer<Listening>>>>,
    members: Mutex<Vec<Weak<Member>>>,
    closed: AtomicBool,
    pub(crate) closing: Notify,
}

#[derive(Default, Clone)]
struct Topics {
    /// Partitions by name.
    all: Arc<BTreeMap<String, usize>>,
    /// Those of them of which a partition has no leader: they are there, and cannot be read or written in whole at the moment.
    leaderless: Arc<BTreeSet<String>>,
    asked: Option<Instant>,
}

/// What a topic is for, which decides how it is created.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// User data.
    Topic,
    /// Copies that wait until they are due: one partition, so that the first in is the first out, kept for ever.
    Retry,
    /// Kept until each is removed: by compaction, where removing is a tombstone for its key.
    Kept,
}

impl Kind {
    pub(crate) fn of(destination: &Destination) -> Self {
        match destination {
            Destination::Retry { .. } => Self::Retry,
            Destination::DeadLetter(_) => Self::Kept,
            _ => Self::Topic,
        }
    }
}

impl Cluster {
    pub(crate) fn new(address: Address, config: KafkaConfig, clock: Clock) -> Self {
        Self {
            names: Names::new(&config),
            address,
            config,
            clock,
            said: Said::default(),
            sender: Sender::default(),
            groups: Groups::default(),
            late: AtomicU64::new(0),
            threads: Threads::new(),
            topics: Mutex::default(),
            fit: Mutex::default(),
            made: AtomicU64::new(0),
            asker: Mutex::default(),
            members: Mutex::default(),
            closed: AtomicBool::new(false),
            closing: Notify::new(),
        }
    }

    pub(crate) fn is_closed(&self) -> bool {
        self.closed.load(Ordering::Acquire)
    }

    /// Marks it closed; tells whether it was open.
    pub(crate) fn shut(&self) -> bool {
        let was_open = !self.closed.swap(true, Ordering::AcqRel);
        self.closing.notify_waiters();
        was_open
    }

    pub(crate) fn adopt(&self, member: &Arc<Member>) {
        let mut members = self.members.lock().unwrap_or_else(PoisonError::into_inner);
        members.retain(|member| member.strong_count() > 0);
        members.push(Arc::downgrade(member));
    }

    pub(crate) fn members(&self) -> Vec<Arc<Member>> {
        self.members.lock().unwrap_or_else(PoisonError::into_inner).iter().filter_map(Weak::upgrade).collect()
    }

    /// Runs a question to the brokers, which blocks, on a thread for that. One that waits for brokers ends soon after its future
    /// was dropped.
    pub(crate) async fn ask<T: Send + 'static>(
        self: &Arc<Self>,
        doing: &'static str,
        question: impl FnOnce(&Self) -> Result<T, TransportError> + Send + 'static,
    ) -> Result<T, TransportError> {
        let cluster = self.clone();
        self.threads.ask(move || question(&cluster)).await.map_err(|_| broke_off(doing))?
    }

    /// A client for questions that take no part in a group.
    pub(crate) fn asker(&self) -> Result<Arc<BaseConsumer<Listening>>, TransportError> {
        let mut slot = self.asker.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(asker) = &*slot {
            return Ok(asker.clone());
        }
        Ok(slot.insert(Arc::new(self.looker()?)).clone())
    }

    /// A consumer of its own, for reading what nobody consumes.
    pub(crate) fn looker(&self) -> Result<BaseConsumer<Listening>, TransportError> {
        let native = client::looker(&self.address, &self.config);
        let made = native.create_with_context(Listening(self.said.clone()));
        made.map_err(|error| error::of(error, "making a Kafka client"))
    }

    /// A client for what only administrators ask, and its end.
    pub(crate) fn admin(&self) -> Result<(Ending<'_, Admin>, Arc<Admin>), TransportError> {
        let native = client::looker(&self.address, &self.config);
        let made = native.create_with_context(Listening(self.said.clone()));
        let admin = made.map_err(|error| error::of(error, "making the Kafka admin client"))?;
        Ok(self.threads.share(admin))
    }

    /// The topics of the framework's own whose settings were seen to be right.
    pub(crate) fn fit(&self) -> MutexGuard<'_, BTreeSet<String>> {
        self.fit.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Lets go of the client for questions.
    pub(crate) fn drop_asker(&self) -> Option<Arc<BaseConsumer<Listening>>> {
        self.asker.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    /// All topics with their partitions, as of now. Blocks.
    pub(crate) fn list_topics(&self) -> Result<Arc<BTreeMap<String, usize>>, TransportError> {
        Ok(self.ask_topics()?.all)
    }

    fn ask_topics(&self) -> Result<Topics, TransportError> {
        let asker = self.asker()?;
        let doing = || format!("asking the Kafka brokers at {} for their topics", self.address.servers());
        let answer = self.metadata(&asker).map_err(|error| {
            if self.is_closed() {
                return closed();
            }
            let error = self.said.explain(error, &doing());
            if error.kind() == TransportErrorKind::Refused {
                // For half a minute this client would keep a second refusal to itself.
                self.drop_asker();
            }
            error
        })?;
        self.said.forget();
        let (mut all, mut leaderless) = (BTreeMap::new(), BTreeSet::new());
        for topic in answer.topics().iter().filter(|topic| topic.error().is_none()) {
            let partitions = topic.partitions();
            if partitions.iter().any(|one| one.leader() < 0) {
                leaderless.insert(topic.name().to_owned());
            }
            if !partitions.is_empty() {
                all.insert(topic.name().to_owned(), partitions.len());
            }
        }
        let asked =
            Topics { all: Arc::new(all), leaderless: Arc::new(leaderless), asked: Some(Instant::now()) };
        let mut topics = self.topics.lock().unwrap_or_else(PoisonError::into_inner);
        topics.clone_from(&asked);
        Ok(asked)
    }

    /// The brokers' answer, or why there is none; soon after one of them has refused us, which the client takes for a connection that
    /// may come yet, or after nobody wants it any more. Blocks.
    fn metadata(&self, asker: &BaseConsumer<Listening>) -> Result<Metadata, KafkaError> {
        let refusals = self.said.refusals();
        let began = Instant::now();
        let mut patience = LISTEN;
        loop {
            let left =
                self.config.connect_timeout.saturating_sub(began.elapsed()).max(Duration::from_millis(1));
            let answer = asker.fetch_metadata(None, patience.min(left));
            // The client tells why a connection failed only while it is polled.
            while asker.poll(Duration::from_millis(10)).is_some() {}
            let code = answer.as_ref().err().and_then(KafkaError::rdkafka_error_code);
            let is_slow = code == Some(RDKafkaErrorCode::OperationTimedOut);
            let nobody = is_slow
                || matches!(
                    code,
                    Some(RDKafkaErrorCode::BrokerTransportFailure | RDKafkaErrorCode::AllBrokersDown)
                );
            let unwanted = || self.said.refusals() != refusals || self.is_closed() || nobody_waits();
            if !nobody || unwanted() || began.elapsed() >= self.config.connect_timeout {
                return answer;
            }
            // A broker that is connected and slow has more time with each question. While none is connected the client says so,
            // and goes on with its connections between the questions: a longer one would gain nothing.
            if is_slow {
                patience = (patience * 2).min(PATIENT);
            }
        }
    }

    /// All topics, as they were known at most `age` ago. Blocks.
    pub(crate) fn topics_within(
        &self,
        age: Duration,
    ) -> Result<Arc<BTreeMap<String, usize>>, TransportError> {
        {
            let topics = self.topics.lock().unwrap_or_else(PoisonError::into_inner);
            if topics.asked.is_some_and(|asked| asked.elapsed() < age) {
                return Ok(topics.all.clone());
            }
        }
        self.list_topics()
    }

    /// How many topics have been made here: when it changes there is something new to see.
    pub(crate) fn made(&self) -> u64 {
        self.made.load(Ordering::Acquire)
    }

    fn known(&self, wanted: &[(&str, Kind)]) -> Option<HashMap<String, usize>> {
        let topics = self.topics.lock().unwrap_or_else(PoisonError::into_inner);
        wanted.iter().map(|(name, _)| Some(((*name).to_owned(), *topics.all.get(*name)?))).collect()
    }

    /// Lets the next who wants the topic `name` ask whether it is there.
    pub(crate) fn forget(&self, name: &str) {
        let mut topics = self.topics.lock().unwrap_or_else(PoisonError::into_inner);
        Arc::make_mut(&mut topics.all).remove(name);
        topics.asked = None;
    }

    #[cfg(test)]
    pub(crate) fn knows(&self, topic: &str) -> bool {
        self.known(&[(topic, Kind::Topic)]).is_some()
    }

    /// The partitions of the topics `wanted`, which are created where they are not there.
    pub(crate) async fn ensure(
        self: &Arc<Self>,
        wanted: &[(&str, Kind)],
    ) -> Result<HashMap<String, usize>, TransportError> {
        if let Some(known) = self.known(wanted) {
            Self::refuse_split(wanted, &known)?;
            return Ok(known);
        }
        let wanted: BTreeMap<String, Kind> =
            wanted.iter().map(|(name, kind)| ((*name).to_owned(), *kind)).collect();
        let all = self.ask("asking for topics", Self::list_topics).await?;
        let missing: Vec<(String, Kind)> = wanted
            .iter()
            .filter(|(name, _)| !all.contains_key(*name))
            .map(|(name, kind)| (name.clone(), *kind))
            .collect();
        if !missing.is_empty() {
            self.refuse_alike(&all, &missing)?;
            self.create(&missing).await?;
            self.wait_for(missing.into_iter().map(|(name, _)| name).collect()).await?;
            self.made.fetch_add(1, Ordering::AcqRel);
            for member in self.members() {
                member.wake();
            }
        }
        let wanted: Vec<(&str, Kind)> = wanted.iter().map(|(name, kind)| (name.as_str(), *kind)).collect();
        let known = self.known(&wanted).ok_or_else(|| invalid("a topic was deleted while it was used"))?;
        Self::refuse_split(&wanted, &known)?;
        Ok(known)
    }

    /// Two topics that differ by `.` and `_` alone cannot both be there.
    fn refuse_alike(
        &self,
        all: &BTreeMap<String, usize>,
        missing: &[(String, Kind)],
    ) -> Result<(), TransportError> {
        let mut taken: HashMap<String, &str> = all.keys().map(|name| (alike(name), name.as_str())).collect();
        for (name, _) in missing {
            if let Some(other) = taken.insert(alike(name), name) {
                return Err(invalid(format!(
                    "the topics `{name}` and `{other}` differ by `.` and `_` alone, which Kafka takes for one name; rename one, \
                     or send it elsewhere with `destinations`"
                )));
            }
        }
        Ok(())
    }

    async fn create(&self, missing: &[(String, Kind)]) -> Result<(), TransportError> {
        let names = || missing.iter().map(|(name, _)| format!("`{name}`")).collect::<Vec<_>>().join(", ");
        if !self.config.create_topics {
            return Err(invalid(format!(
                "there is no Kafka topic {}, and `create_topics` is off; create it by hand, or turn that on",
                names()
            )));
        }
        let (_end, admin) = self.admin()?;
        let default = |number: u16| if number == 0 { -1 } else { i32::from(number) };
        let limit = self.config.topic_limit().map(|limit| limit.to_string());
        let copies = self.config.max_copy().to_string();
        let topics: Vec<NewTopic<'_>> = missing
            .iter()
            .map(|(name, kind)| {
                let partitions = if *kind == Kind::Topic { default(self.config.partitions) } else { 1 };
                let topic = NewTopic::new(
                    name,
                    partitions,
                    TopicReplication::Fixed(default(self.config.replication)),
                );
                match (kind, &limit) {
                    (Kind::Topic, None) => topic,
                    (Kind::Topic, Some(limit)) => topic.set("max.message.bytes", limit),
                    // Whatever came has room there, with what is added to it.
                    (Kind::Retry, _) => topic
                        .set("cleanup.policy", "delete")
                        .set("retention.ms", "-1")
                        .set("retention.bytes", "-1")
                        .set("max.message.bytes", &copies),
                    (Kind::Kept, _) => {
                        topic.set("cleanup.policy", "compact").set("max.message.bytes", &copies)
                    }
                }
            })
            .collect();
        let options = AdminOptions::new().request_timeout(Some(ASK)).operation_timeout(Some(ASK));
        let doing = || format!("creating the Kafka topics {}", names());
        let answers = admin
            .create_topics(&topics, &options)
            .await
            .map_err(|error| self.said.explain(error, &doing()))?;
        for answer in answers {
            match answer {
                Ok(name) => {
                    // Made as it has to be. A broker that has not heard of it yet would say that it is not there.
                    self.fit().insert(name);
                }
                Err((_, RDKafkaErrorCode::TopicAlreadyExists)) => {}
                Err((name, code)) => {
                    let error = rdkafka::error::KafkaError::AdminOp(code);
                    return Err(error::of(error, &format!("creating the Kafka topic `{name}`")));
                }
            }
        }
        Ok(())
    }

    /// Waits until the brokers know each topic and who leads it.
    async fn wait_for(self: &Arc<Self>, names: BTreeSet<String>) -> Result<(), TransportError> {
        self.ask("waiting for new topics", move |cluster| {
            let until = Instant::now() + KNOWN_AFTER;
            loop {
                let Topics { all, leaderless, .. } = cluster.ask_topics()?;
                let missing =
                    names.iter().find(|name| !all.contains_key(*name) || leaderless.contains(*name));
                let Some(missing) = missing else { return Ok(()) };
                if cluster.is_closed() || nobody_waits() {
                    return Err(closed());
                }
                if Instant::now() >= until {
                    return Err(TransportError::new(
                        TransportErrorKind::Timeout,
                        format!(
                            "the Kafka topic `{missing}` was created and has no leader after {KNOWN_AFTER:?}"
                        ),
                    ));
                }
                std::thread::sleep(Duration::from_millis(10));
            }
        })
        .await
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        self.threads.end(self.drop_asker());
        self.threads.end(self.sender.drop_client());
    }
}

impl fmt::Debug for Cluster {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Cluster")
            .field("address", &self.address)
            .field("prefix", &self.config.prefix)
            .finish_non_exhaustive()
    }
}

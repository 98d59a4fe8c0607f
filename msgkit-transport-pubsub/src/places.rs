//! Topics and subscriptions: made where they are missing, or only checked, and the entries that say which group takes what.
//!
//! A subscription gets what is published after it was made. So whoever publishes to a topic first makes the subscriptions of
//! all groups that take it, which stand as entries at a topic of their own; and a group makes its entries before it looks for
//! the topics that are there. Whichever comes first, one of them sees the other.

mod subscriptions;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::{BoxFuture, FutureExt};
use futures_util::stream::{StreamExt as _, TryStreamExt as _};
use google_cloud_gax::error::rpc::Code;
use google_cloud_gax::paginator::ItemPaginator as _;
use msgkit::Pattern;
use msgkit::transport::{Destination, Group, Subscription, TransportError};
use tokio::time::{Instant, sleep_until};

use self::subscriptions::Kind;
use crate::core::Core;
use crate::error::{self, code, invalid};
use crate::names::Reader;

/// How many questions are on their way at once.
const AT_ONCE: usize = 8;
/// The longest page of a listing.
const PAGE: i32 = 1000;
/// The shortest time from one question for the entries to the next, where messages come that nobody here knows.
const BETWEEN: Duration = Duration::from_secs(1);

/// What each reader takes.
pub(crate) type Entries = BTreeMap<Reader, Vec<Pattern>>;

/// The subscriptions that a reader reads, with the topic of each.
pub(crate) type Reads = BTreeMap<String, String>;

/// What a reader can read.
#[derive(Debug, Default)]
pub(crate) struct Readable {
    pub(crate) reads: Reads,
    /// Those of them that were not there, and have been made here.
    pub(crate) made: BTreeSet<String>,
    /// Why another one cannot be read.
    pub(crate) refused: Option<TransportError>,
}

impl Readable {
    /// Something cannot be done. Before what ends by itself, what does not is told.
    pub(crate) fn refuse(&mut self, error: TransportError) {
        if self.refused.as_ref().is_none_or(|first| first.is_temporary() && !error.is_temporary()) {
            self.refused = Some(error);
        }
    }
}

impl Core {
    /// The topic `name`, of which `subscriptions` may be; answers whether it was made here.
    async fn ensure_topic(&self, name: &str, subscriptions: &[String]) -> Result<bool, TransportError> {
        let client = self.clients.topics().await?;
        match client.get_topic().set_topic(name).send().await {
            Ok(_) => return Ok(false),
            Err(error) if code(&error) != Some(Code::NotFound) => {
                return Err(error::of(error, &format!("looking for topic `{name}`")));
            }
            Err(_) if !self.config.create => return Err(missing("topic", name)),
            Err(_) => {}
        }
        // Before it is there: who knows it from before would publish to it, and nobody would get that.
        let looks = subscriptions.iter().map(|subscription| self.check_topic(subscription, name).boxed());
        together(looks.collect()).await?;
        match client.create_topic().set_name(name).send().await {
            Ok(_) => Ok(true),
            Err(error) if code(&error) == Some(Code::AlreadyExists) => Ok(false),
            Err(error) => Err(error::of(error, &format!("creating topic `{name}`"))),
        }
    }

    /// Refuses what a reader reads and does not belong to its topic any more, and its entries: nothing else would tell it that
    /// nothing comes.
    pub(crate) async fn check_reads(
        &self,
        reader: &Reader,
        patterns: &[Pattern],
        reads: &BTreeMap<String, String>,
    ) -> Result<(), TransportError> {
        let groups = self.names.groups()?;
        let mut all = reads.clone();
        if self.config.create {
            for pattern in patterns {
                all.insert(self.names.entry(reader, pattern)?, groups.clone());
            }
        }
        let checks = all.iter().map(|(name, topic)| self.check_topic(name, topic).boxed());
        together(checks.collect()).await.map(drop)
    }

    /// The topic and the subscription of a group's dead letters.
    pub(crate) async fn ensure_letters(&self, group: &Group) -> Result<String, TransportError> {
        self.ensure_only(&self.names.dead_letter(group)?, &Kind::Letters).await
    }

    /// The same of one of its delay steps, and of its suspects.
    pub(crate) async fn ensure_copies(&self, group: &Group, step: u32) -> Result<String, TransportError> {
        self.ensure_letters(group).await?;
        self.ensure_suspects(group).await?;
        self.ensure_only(&self.names.retry(group, step)?, &Kind::Copies(group.clone())).await
    }

    /// The same of its suspects.
    pub(crate) async fn ensure_suspects(&self, group: &Group) -> Result<String, TransportError> {
        self.ensure_only(&self.names.suspects(group)?, &Kind::Copies(group.clone())).await
    }

    /// A topic and its only subscription.
    async fn ensure_only(&self, topic: &str, kind: &Kind) -> Result<String, TransportError> {
        let subscription = self.names.only_subscription(topic)?;
        if !self.is_there(&subscription) {
            self.ensure_topic(topic, std::slice::from_ref(&subscription)).await?;
            self.ensure_subscription(&subscription, topic, kind).await?;
        }
        Ok(subscription)
    }

    /// Everything that `batch` needs, before it is published. Topics take what nobody keeps: a copy is confirmed only where a
    /// subscription is there for it, which nobody may be reading who would notice.
    pub(crate) async fn ensure_all(
        &self,
        batch: impl IntoIterator<Item = (&Destination, String)>,
    ) -> Result<(), TransportError> {
        let mut topics = BTreeSet::new();
        let mut copies = BTreeMap::new();
        for (destination, name) in batch {
            match destination {
                Destination::Retry { group, step, .. } => drop(copies.insert(name, (group, Some(*step)))),
                Destination::DeadLetter(group) => drop(copies.insert(name, (group, None))),
                _ => drop(topics.insert(name)),
            }
        }
        for (name, (group, step)) in copies {
            let subscription = self.names.only_subscription(&name)?;
            // By what a reader has made sure of as well: that may be days ago.
            if self.is_there(&subscription) && self.is_kept(&subscription, &name).await? {
                continue;
            }
            match step {
                Some(step) => self.ensure_copies(group, step).await?,
                None => self.ensure_letters(group).await?,
            };
        }
        self.ensure_topics(topics, None).await
    }

    /// Topics of user data, with the subscriptions of everybody who takes them; `own` = the reader for whom it is done, and what
    /// that takes.
    pub(crate) async fn ensure_topics(
        &self,
        topics: BTreeSet<String>,
        own: Option<(&Reader, &[Pattern])>,
    ) -> Result<(), TransportError> {
        let missing: Vec<String> = topics.into_iter().filter(|topic| !self.is_there(topic)).collect();
        if missing.is_empty() {
            return Ok(());
        }
        let entries = async || if self.config.create { self.entries().await } else { Ok(Entries::new()) };
        let before = &entries().await?;
        let making = missing.iter().map(|topic| async move {
            let takes = before.iter().filter(|(_, patterns)| self.names.may_hold(topic, patterns));
            let left =
                takes.map(|(reader, _)| self.names.reads(reader, topic)).collect::<Result<Vec<_>, _>>()?;
            self.ensure_topic(topic, &left).await
        });
        let made = together(making.map(FutureExt::boxed).collect()).await?;
        // Once more: who has come meanwhile may not have seen the topics.
        let entries = entries().await?;
        let mut wanted = Vec::new();
        for topic in &missing {
            for (reader, patterns) in &entries {
                if self.names.may_hold(topic, patterns) {
                    let own = own.filter(|(own, _)| *own == reader);
                    let kind = Kind::Reads {
                        reader: reader.clone(),
                        patterns: own.map_or_else(Vec::new, |(_, patterns)| patterns.to_vec()),
                        beside: patterns.clone(),
                        own: own.is_some(),
                    };
                    wanted.push((self.names.reads(reader, topic)?, topic.as_str(), kind));
                }
            }
        }
        let making =
            wanted.iter().map(|(name, topic, kind)| self.ensure_subscription(name, topic, kind).boxed());
        together(making.collect()).await?;
        for topic in &missing {
            self.know(topic);
        }
        if made.contains(&true) {
            self.made.send_modify(|made| *made += 1);
        }
        Ok(())
    }

    /// What each reader takes.
    pub(crate) async fn entries(&self) -> Result<Entries, TransportError> {
        let topic = self.names.groups()?;
        let client = self.clients.topics().await?;
        let mut all = Entries::new();
        let mut page = String::new();
        loop {
            let listing =
                client.list_topic_subscriptions().set_topic(&topic).set_page_size(PAGE).set_page_token(page);
            let listed = match listing.send().await {
                Ok(listed) => listed,
                Err(error) if code(&error) == Some(Code::NotFound) => return Ok(all),
                Err(error) => return Err(error::of(error, "asking for the groups")),
            };
            for (reader, pattern) in
                listed.subscriptions.iter().filter_map(|name| self.names.read_entry(name))
            {
                all.entry(reader).or_default().push(pattern);
            }
            page = listed.next_page_token;
            if page.is_empty() {
                return Ok(all);
            }
        }
    }

    /// The same, asked for after `since`; once a second at most, by all who read.
    pub(crate) async fn entries_since(&self, since: Instant) -> Result<Arc<Entries>, TransportError> {
        let mut asked = self.asked.lock().await;
        if let Some((at, told)) = &*asked {
            match told {
                Some(entries) if *at > since => return Ok(entries.clone()),
                _ => sleep_until(*at + BETWEEN).await,
            }
        }
        let at = Instant::now();
        // Also where there is no answer.
        *asked = Some((at, None));
        let entries = Arc::new(self.entries().await?);
        *asked = Some((at, Some(entries.clone())));
        Ok(entries)
    }

    /// The topics that are there and may hold messages of `patterns`.
    pub(crate) async fn topics_of(&self, patterns: &[Pattern]) -> Result<BTreeSet<String>, TransportError> {
        let listing = self.clients.topics().await?.list_topics().set_project(self.names.project());
        let mut items = listing.set_page_size(PAGE).by_item();
        let mut all = BTreeSet::new();
        while let Some(topic) = items.next().await {
            let topic = topic.map_err(|error| error::of(error, "asking for the topics"))?;
            if self.names.may_hold(&topic.name, patterns) {
                all.insert(topic.name);
            }
        }
        Ok(all)
    }

    /// Makes `reader` one that takes `subscription`; answers the subscriptions that it reads, and their topics.
    pub(crate) async fn ensure_reader(
        &self,
        reader: &Reader,
        subscription: &Subscription,
    ) -> Result<Reads, TransportError> {
        match self.try_reader(reader, subscription).await? {
            Readable { refused: Some(refused), .. } => Err(refused),
            Readable { reads, .. } => Ok(reads),
        }
    }

    /// The same; where some of what it reads is refused, the rest and that.
    pub(crate) async fn try_reader(
        &self,
        reader: &Reader,
        subscription: &Subscription,
    ) -> Result<Readable, TransportError> {
        self.ensure_entries(reader, &subscription.patterns).await?;
        let mut topics = BTreeSet::new();
        for place in &subscription.places {
            topics.insert(self.names.topic_of(place.as_str())?);
        }
        for topic in subscription.patterns.iter().filter_map(Pattern::as_topic) {
            // One value of a dynamic segment is a place of its own only where nobody has told its place.
            if !subscription
                .places
                .iter()
                .any(|place| Pattern::exact(&topic).may_match_destination(place.as_str()))
            {
                topics.insert(self.names.topic_of(topic.as_str())?);
            }
        }
        self.ensure_topics(topics.clone(), Some((reader, &subscription.patterns))).await?;
        self.ensure_reads(reader, &subscription.patterns, topics).await
    }

    /// Says that `reader` takes `patterns`. Before it is what those need who find that.
    pub(crate) async fn ensure_entries(
        &self,
        reader: &Reader,
        patterns: &[Pattern],
    ) -> Result<(), TransportError> {
        // They make subscriptions that name the first retry topic.
        if let Some(group) = reader.as_group() {
            self.ensure_copies(&group, 1).await?;
        }
        if !self.config.create {
            return Ok(());
        }
        let entries = self.names.groups()?;
        let names: Vec<String> =
            patterns.iter().map(|pattern| self.names.entry(reader, pattern)).collect::<Result<_, _>>()?;
        if !self.is_there(&entries) {
            self.ensure_topic(&entries, &names).await?;
            self.know(&entries);
        }
        let kind = Kind::Entry(reader.clone());
        let making = names.iter().map(|name| self.ensure_subscription(name, &entries, &kind).boxed());
        together(making.collect()).await.map(drop)
    }

    /// The same once more for one that expires: an entry that nobody asks for is removed by the service.
    pub(crate) async fn renew_entries(
        &self,
        reader: &Reader,
        patterns: &[Pattern],
    ) -> Result<(), TransportError> {
        for pattern in patterns {
            self.forget_one(&self.names.entry(reader, pattern)?);
        }
        self.ensure_entries(reader, patterns).await
    }

    /// The subscriptions of `reader` to `topics`, and to all others that are there and may hold what it takes. One that is
    /// refused keeps nobody from the others.
    pub(crate) async fn ensure_reads(
        &self,
        reader: &Reader,
        patterns: &[Pattern],
        topics: BTreeSet<String>,
    ) -> Result<Readable, TransportError> {
        let mut all = Reads::new();
        for topic in topics.into_iter().chain(self.topics_of(patterns).await?) {
            all.insert(self.names.reads(reader, &topic)?, topic);
        }
        let mut beside = Vec::new();
        if self.config.filters && self.config.create {
            // Of an older version perhaps; what they take must pass as well.
            beside = self.entries().await?.remove(reader).unwrap_or_default();
        }
        let kind = &Kind::Reads { reader: reader.clone(), patterns: patterns.to_vec(), beside, own: true };
        let making = all.into_iter().map(|(name, topic)| {
            async move { (self.ensure_subscription(&name, &topic, kind).await, name, topic) }.boxed()
        });
        let making: Vec<BoxFuture<'_, _>> = making.collect();
        let mut making = futures_util::stream::iter(making).buffer_unordered(AT_ONCE);
        let mut readable = Readable::default();
        while let Some((made, name, topic)) = making.next().await {
            match made {
                Ok(made) => {
                    if made {
                        readable.made.insert(name.clone());
                    }
                    readable.reads.insert(name, topic);
                }
                Err(error) => readable.refuse(error),
            }
        }
        Ok(readable)
    }

    /// Removes what a reader without a group has left.
    pub(crate) async fn remove(&self, names: impl IntoIterator<Item = String>) {
        let Ok(client) = self.clients.subscriptions().await else { return };
        for name in names {
            // What cannot be removed now expires.
            let _ = client.delete_subscription().set_subscription(name).send().await;
        }
    }
}

/// Asks several things, a few at once.
async fn together<T>(
    asking: Vec<BoxFuture<'_, Result<T, TransportError>>>,
) -> Result<Vec<T>, TransportError> {
    futures_util::stream::iter(asking).buffer_unordered(AT_ONCE).try_collect().await
}

fn missing(what: &str, name: &str) -> TransportError {
    invalid(format!("there is no {what} `{name}`, and `create` is off; create it by hand, or turn that on"))
}

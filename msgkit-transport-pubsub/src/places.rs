//! Topics and subscriptions: made where they are missing, or only checked, and the entries that say which group takes what.
//!
//! A subscription gets what is published after it was made. So whoever publishes to a topic first makes the subscriptions of
//! all groups that take it, which stand as entries at a topic of their own; and a group makes its entries before it looks for
//! the topics that are there. Whichever comes first, one of them sees the other.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::{BoxFuture, FutureExt as _};
use futures_util::stream::{StreamExt as _, TryStreamExt as _};
use google_cloud_gax::error::rpc::Code;
use google_cloud_gax::paginator::ItemPaginator as _;
use google_cloud_pubsub::model::{DeadLetterPolicy, ExpirationPolicy, Subscription as Wanted};
use msgkit::Pattern;
use msgkit::transport::{Destination, Group, Subscription, TransportError, TransportErrorKind};
use tokio::time::{Instant, sleep_until};

use crate::core::Core;
use crate::error::{self, code, invalid};
use crate::filter;
use crate::names::Reader;

/// How many questions are on their way at once.
const AT_ONCE: usize = 8;
/// How long a subscription keeps messages that does not say so, in seconds.
const DEFAULT_RETENTION: u64 = 7 * 24 * 3600;
/// The longest page of a listing.
const PAGE: i32 = 1000;
/// The shortest time from one question for the entries to the next, where messages come that nobody here knows.
const BETWEEN: Duration = Duration::from_secs(1);

/// What each reader takes.
pub(crate) type Entries = BTreeMap<Reader, Vec<Pattern>>;

/// What a subscription is for, which decides how it is made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Kind {
    /// What a reader takes of a topic, and beside it other members of its group. Another's is made for it where it is missing,
    /// without a filter, and one that it has is not looked at.
    Reads { reader: Reader, patterns: Vec<Pattern>, beside: Vec<Pattern>, own: bool },
    /// Copies of a group that wait until they are due.
    Copies(Group),
    /// A group's dead letters.
    Letters,
    /// The name is all there is to it.
    Entry(Reader),
}

impl Core {
    /// The topic `name`, of which `subscriptions` may be.
    async fn ensure_topic(&self, name: &str, subscriptions: &[String]) -> Result<(), TransportError> {
        let client = self.clients.topics().await?;
        match client.get_topic().set_topic(name).send().await {
            Ok(_) => return Ok(()),
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
            Ok(_) => Ok(()),
            Err(error) if code(&error) == Some(Code::AlreadyExists) => Ok(()),
            Err(error) => Err(error::of(error, &format!("creating topic `{name}`"))),
        }
    }

    /// Refuses a subscription that is there and does not belong to `topic`: a topic that is deleted and made again is another one,
    /// from which its old subscriptions get nothing.
    async fn check_topic(&self, name: &str, topic: &str) -> Result<(), TransportError> {
        let client = self.clients.subscriptions().await?;
        match client.get_subscription().set_subscription(name).send().await {
            Ok(there) => belongs(name, &there.topic, topic),
            Err(error) if code(&error) == Some(Code::NotFound) => Ok(()),
            Err(error) => Err(error::of(error, &format!("looking for subscription `{name}`"))),
        }
    }

    /// The same of what a reader reads, and of its entries: nothing else would tell it that nothing comes any more.
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
        together(checks.collect()).await
    }

    fn wanted(&self, name: &str, topic: &str, kind: &Kind) -> Result<Wanted, TransportError> {
        let duration = |duration| google_cloud_wkt::Duration::try_from(duration).unwrap_or_default();
        let config = &self.config;
        let mut wanted = Wanted::new()
            .set_name(name)
            .set_topic(topic)
            .set_ack_deadline_seconds(i32::try_from(config.lease.as_secs()).unwrap_or(600))
            .set_enable_message_ordering(true)
            .set_enable_exactly_once_delivery(config.exactly_once)
            .set_message_retention_duration(duration(config.retention))
            // Never by itself: a group that is away is owed its messages.
            .set_expiration_policy(ExpirationPolicy::new());
        let bound = |topic: String| {
            DeadLetterPolicy::new()
                .set_dead_letter_topic(topic)
                .set_max_delivery_attempts(i32::from(config.delivery_attempts))
        };
        match kind {
            Kind::Reads { reader, patterns, beside, own } => {
                match reader.as_group() {
                    Some(group) => {
                        wanted = wanted.set_dead_letter_policy(bound(self.names.retry(&group, 1)?));
                    }
                    None => {
                        let expiry = ExpirationPolicy::new().set_ttl(duration(config.ephemeral_expiry));
                        wanted = wanted.set_expiration_policy(expiry);
                    }
                }
                // Who publishes may have seen a part of what the reader takes.
                if config.filters && *own {
                    let filter = filter::of(&[patterns.as_slice(), beside].concat(), self.names.place(topic));
                    wanted = wanted.set_filter(filter.unwrap_or_default());
                }
            }
            Kind::Copies(group) => {
                wanted = wanted
                    .set_dead_letter_policy(bound(self.names.dead_letter(group)?))
                    .set_message_retention_duration(duration(config.copy_retention()));
            }
            // One that is removed must not come again.
            Kind::Letters => {
                wanted = wanted
                    .set_enable_exactly_once_delivery(true)
                    .set_message_retention_duration(duration(config.dead_letter_retention));
            }
            Kind::Entry(reader) => {
                wanted = wanted.set_enable_message_ordering(false).set_enable_exactly_once_delivery(false);
                if reader.as_group().is_none() {
                    let expiry = ExpirationPolicy::new().set_ttl(duration(config.ephemeral_expiry));
                    wanted = wanted.set_expiration_policy(expiry);
                }
            }
        }
        Ok(wanted)
    }

    /// The subscription `name` of `topic`.
    async fn ensure_subscription(&self, name: &str, topic: &str, kind: &Kind) -> Result<(), TransportError> {
        // One that is there for some patterns may have a filter that sorts out others.
        let known = match kind {
            Kind::Reads { patterns, own: true, .. } => format!("{name} for {patterns:?}"),
            _ => name.to_owned(),
        };
        if self.is_there(&known) {
            return Ok(());
        }
        let client = self.clients.subscriptions().await?;
        if self.config.create {
            let wanted = self.wanted(name, topic, kind)?;
            match client.create_subscription().with_request(wanted).send().await {
                Ok(_) => {
                    self.know(name);
                    self.know(&known);
                    return Ok(());
                }
                Err(error) if code(&error) == Some(Code::AlreadyExists) => {}
                Err(error) => return Err(error::of(error, &format!("creating subscription `{name}`"))),
            }
        }
        let there = match client.get_subscription().set_subscription(name).send().await {
            Ok(there) => there,
            Err(error) if code(&error) == Some(Code::NotFound) => return Err(missing("subscription", name)),
            Err(error) => return Err(error::of(error, &format!("looking for subscription `{name}`"))),
        };
        belongs(name, &there.topic, topic)?;
        if let Kind::Reads { patterns, own: true, .. } = kind {
            check_filter(name, &there.filter, patterns)?;
        }
        if let Kind::Copies(_) = kind {
            self.check_retention(name, there.message_retention_duration)?;
        }
        self.know(name);
        self.know(&known);
        Ok(())
    }

    /// Refuses a subscription of copies, made by hand or by an older configuration, that keeps them shorter than the options say:
    /// delays are checked against those.
    fn check_retention(
        &self,
        name: &str,
        there: Option<google_cloud_wkt::Duration>,
    ) -> Result<(), TransportError> {
        let wanted = self.config.copy_retention().as_secs();
        // Where it does not say, it is the service's default.
        let kept = there.map_or(DEFAULT_RETENTION, |kept| u64::try_from(kept.seconds()).unwrap_or(0));
        if kept >= wanted {
            return Ok(());
        }
        Err(invalid(format!(
            "subscription `{name}` keeps copies for {kept}s, less than the {wanted}s of `retention` and `dead_letter_retention`, so a \
             retry could be lost; lower those, or: gcloud pubsub subscriptions update {name} --message-retention-duration={wanted}s"
        )))
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
            if self.is_there(&name) && self.is_kept(&subscription, &name).await? {
                continue;
            }
            match step {
                Some(step) => self.ensure_copies(group, step).await?,
                None => self.ensure_letters(group).await?,
            };
            self.know(&name);
        }
        self.ensure_topics(topics, None).await
    }

    /// Whether the subscription `name`, which is known, still keeps what is published to `topic`.
    async fn is_kept(&self, name: &str, topic: &str) -> Result<bool, TransportError> {
        if self.was_seen(name) {
            return Ok(true);
        }
        let client = self.clients.subscriptions().await?;
        match client.get_subscription().set_subscription(name).send().await {
            Ok(there) if there.topic == topic => {
                self.see(name);
                Ok(true)
            }
            Err(error) if code(&error) != Some(Code::NotFound) => {
                Err(error::of(error, &format!("looking for subscription `{name}`")))
            }
            // It is made again, or the reason told why it cannot be.
            Ok(_) | Err(_) => {
                self.forget_one(name);
                Ok(false)
            }
        }
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
        together(making.map(|making| making.boxed()).collect()).await?;
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
        self.made.send_modify(|made| *made += 1);
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
    ) -> Result<BTreeMap<String, String>, TransportError> {
        // Before the entries: who finds those makes subscriptions that name the first retry topic.
        if let Some(group) = reader.as_group() {
            self.ensure_copies(&group, 1).await?;
        }
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

    /// Says that `reader` takes `patterns`.
    async fn ensure_entries(&self, reader: &Reader, patterns: &[Pattern]) -> Result<(), TransportError> {
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
        together(making.collect()).await
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

    /// The subscriptions of `reader` to `topics`, and to all others that are there and may hold what it takes.
    pub(crate) async fn ensure_reads(
        &self,
        reader: &Reader,
        patterns: &[Pattern],
        topics: BTreeSet<String>,
    ) -> Result<BTreeMap<String, String>, TransportError> {
        let mut all = BTreeMap::new();
        for topic in topics.into_iter().chain(self.topics_of(patterns).await?) {
            all.insert(self.names.reads(reader, &topic)?, topic);
        }
        let mut beside = Vec::new();
        if self.config.filters && self.config.create {
            // Of an older version perhaps; what they take must pass as well.
            beside = self.entries().await?.remove(reader).unwrap_or_default();
        }
        let kind = Kind::Reads { reader: reader.clone(), patterns: patterns.to_vec(), beside, own: true };
        let making = all.iter().map(|(name, topic)| self.ensure_subscription(name, topic, &kind).boxed());
        together(making.collect()).await?;
        Ok(all)
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
async fn together<T>(asking: Vec<BoxFuture<'_, Result<T, TransportError>>>) -> Result<(), TransportError> {
    futures_util::stream::iter(asking)
        .buffer_unordered(AT_ONCE)
        .try_for_each(|_| std::future::ready(Ok(())))
        .await
}

/// Refuses a filter that is there and sorts out what is wanted: nobody would ever see that again.
fn check_filter(name: &str, filter: &str, patterns: &[Pattern]) -> Result<(), TransportError> {
    match filter::passes(filter, patterns) {
        Some(true) => Ok(()),
        Some(false) => {
            let wanted: Vec<&str> = patterns.iter().map(Pattern::as_str).collect();
            Err(invalid(format!(
                "subscription `{name}` has the filter `{filter}`, which does not let pass all of `{}`, and a filter cannot be \
                 changed; take what the subscription holds, then delete it",
                wanted.join("`, `")
            )))
        }
        None => {
            tracing::warn!(
                subscription = name,
                filter,
                "the subscription has a filter that was not made here: what that sorts out, nobody gets"
            );
            Ok(())
        }
    }
}

/// Refuses a subscription that is there and belongs to another topic than it should.
fn belongs(name: &str, there: &str, topic: &str) -> Result<(), TransportError> {
    if there == topic {
        return Ok(());
    }
    Err(TransportError::new(
        TransportErrorKind::Refused,
        format!(
            "subscription `{name}` belongs to `{there}` and not to `{topic}`, which was deleted, or made again since; take what it \
             holds, then delete it"
        ),
    ))
}

fn missing(what: &str, name: &str) -> TransportError {
    invalid(format!("there is no {what} `{name}`, and `create` is off; create it by hand, or turn that on"))
}

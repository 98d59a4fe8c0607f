//! Subscriptions: how each kind is made, and what one that is there must be like.

use google_cloud_gax::error::rpc::Code;
use google_cloud_pubsub::model::{DeadLetterPolicy, ExpirationPolicy, Subscription as Wanted};
use msgkit::Pattern;
use msgkit::transport::{Group, TransportError, TransportErrorKind};

use super::missing;
use crate::core::Core;
use crate::error::{self, code, invalid};
use crate::filter;
use crate::names::Reader;

/// How long a subscription keeps messages that does not say so, in seconds.
const DEFAULT_RETENTION: u64 = 7 * 24 * 3600;

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
    /// The subscription `name`, where it is there.
    pub(crate) async fn find(&self, name: &str) -> Result<Option<Wanted>, TransportError> {
        let client = self.clients.subscriptions().await?;
        match client.get_subscription().set_subscription(name).send().await {
            Ok(there) => Ok(Some(there)),
            Err(error) if code(&error) == Some(Code::NotFound) => Ok(None),
            Err(error) => Err(error::of(error, &format!("looking for subscription `{name}`"))),
        }
    }

    /// Refuses a subscription that is there and does not belong to `topic`: a topic that is deleted and made again is another
    /// one, from which its old subscriptions get nothing.
    pub(super) async fn check_topic(&self, name: &str, topic: &str) -> Result<(), TransportError> {
        match self.find(name).await? {
            Some(there) => belongs(name, &there.topic, topic),
            None => Ok(()),
        }
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

    /// The subscription `name` of `topic`; answers whether it was made here.
    pub(super) async fn ensure_subscription(
        &self,
        name: &str,
        topic: &str,
        kind: &Kind,
    ) -> Result<bool, TransportError> {
        // One that is there for some patterns may have a filter that sorts out others.
        let known = match kind {
            Kind::Reads { patterns, own: true, .. } => format!("{name} for {patterns:?}"),
            _ => name.to_owned(),
        };
        if self.is_there(&known) {
            return Ok(false);
        }
        if self.config.create {
            let client = self.clients.subscriptions().await?;
            let wanted = self.wanted(name, topic, kind)?;
            match client.create_subscription().with_request(wanted).send().await {
                Ok(_) => {
                    self.know(name);
                    self.know(&known);
                    return Ok(true);
                }
                Err(error) if code(&error) == Some(Code::AlreadyExists) => {}
                Err(error) => return Err(error::of(error, &format!("creating subscription `{name}`"))),
            }
        }
        let Some(there) = self.find(name).await? else { return Err(missing("subscription", name)) };
        belongs(name, &there.topic, topic)?;
        if let Kind::Reads { patterns, own: true, .. } = kind {
            check_filter(name, &there.filter, patterns)?;
        }
        if let Kind::Copies(_) = kind {
            self.check_retention(name, there.message_retention_duration)?;
        }
        self.know(name);
        self.know(&known);
        Ok(false)
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

    /// Whether the subscription `name`, which is known, still keeps what is published to `topic`.
    pub(super) async fn is_kept(&self, name: &str, topic: &str) -> Result<bool, TransportError> {
        if self.was_seen(name) {
            return Ok(true);
        }
        if self.find(name).await?.is_some_and(|there| there.topic == topic) {
            self.see(name);
            return Ok(true);
        }
        // It is made again, or the reason told why it cannot be.
        self.forget_one(name);
        Ok(false)
    }
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

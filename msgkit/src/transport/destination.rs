//! Where a message is published to.

use std::borrow::Cow;
use std::fmt;
use std::time::Duration;

use super::subscription::Group;
use crate::envelope::Envelope;
use crate::topic::Topic;

/// A place in a broker that messages are published to.
///
/// User data goes to topics. What failed goes to destinations of the group that it failed in, which never share a place
/// with user data.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Destination {
    /// Everybody who is subscribed to the topic. On log brokers all values of a dynamic segment share `place`, in which
    /// it is `_`; elsewhere the topic itself is the place.
    Topic {
        /// The full topic.
        topic: Topic,
        /// The topic with `_` for each dynamic segment, where it has some.
        place: Option<Topic>,
    },
    /// Only `group`, after `delay`: the copy of a message that failed there.
    Retry {
        /// The group that failed.
        group: Group,
        /// The delay step, from 1; each has a place of its own.
        step: u32,
        /// The delay of the step.
        delay: Duration,
    },
    /// The group's dead letters.
    DeadLetter(Group),
}

impl Destination {
    /// The topic itself.
    #[must_use]
    pub fn topic(topic: Topic) -> Self {
        Self::Topic { topic, place: None }
    }

    /// The place's name: the topic, `msgkit.retry.<group>.<step>` or `msgkit.dead_letter.<group>`.
    #[must_use]
    pub fn name(&self) -> Cow<'_, str> {
        match self {
            Self::Topic { topic, .. } => Cow::Borrowed(topic.as_str()),
            Self::Retry { group, step, .. } => Cow::Owned(format!("msgkit.retry.{group}.{step}")),
            Self::DeadLetter(group) => Cow::Owned(format!("msgkit.dead_letter.{group}")),
        }
    }

    /// The name as a topic: for transports on which every place is one.
    #[must_use]
    pub fn as_topic(&self) -> Topic {
        match self {
            Self::Topic { topic, .. } => topic.clone(),
            _ => Topic::reserved(self.name().into_owned()),
        }
    }

    /// The name on a log broker: as [`Destination::as_topic`], dynamic segments as `_`.
    #[must_use]
    pub fn place(&self) -> Topic {
        match self {
            Self::Topic { place: Some(place), .. } => place.clone(),
            _ => self.as_topic(),
        }
    }
}

impl fmt::Display for Destination {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.name())
    }
}

/// A message on its way to a destination.
#[derive(Debug, Clone)]
pub struct Outgoing {
    /// Where it goes.
    pub to: Destination,
    /// What goes.
    pub envelope: Envelope,
}

impl Outgoing {
    /// `envelope` to `to`.
    #[must_use]
    pub fn new(to: Destination, envelope: Envelope) -> Self {
        Self { to, envelope }
    }

    /// `envelope` to its own topic.
    #[must_use]
    pub fn to_topic(envelope: Envelope) -> Self {
        Self { to: Destination::topic(envelope.topic().clone()), envelope }
    }
}

//! What a catalog holds: message types, handlers, calls, and the links that follow.

use std::collections::BTreeSet;
use std::fmt;

use crate::error::Error;
use crate::message::Message;
use crate::text::Text;
use crate::topic::{Pattern, TopicTemplate};

/// A message type: its wire name, and the topic on which it is published.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct MessageType {
    pub(super) name: Text,
    pub(super) topic: Text,
    pub(super) pattern: Pattern,
}

impl MessageType {
    /// The type `name` on the topic (or template, `device.{device_id}.reading`) `topic`.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidName`](crate::ErrorKind::InvalidName) where the topic breaks its grammar.
    pub fn new(name: impl Into<Text>, topic: impl Into<Text>) -> Result<Self, Error> {
        let topic = topic.into();
        let pattern = TopicTemplate::new(topic.clone())?.pattern();
        Ok(Self { name: name.into(), topic, pattern })
    }

    /// The type `M`.
    ///
    /// # Errors
    /// As [`MessageType::new`].
    pub fn of<M: Message>() -> Result<Self, Error> {
        Self::declared((M::NAME, M::TOPIC))
    }

    pub(crate) fn declared((name, topic): (&'static str, &'static str)) -> Result<Self, Error> {
        Self::new(Text::from_static(name), Text::from_static(topic))
    }

    /// The wire name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The topic, or its template.
    #[must_use]
    pub fn topic(&self) -> &str {
        &self.topic
    }

    /// The pattern of all topics on which it is published.
    #[must_use]
    pub fn pattern(&self) -> &Pattern {
        &self.pattern
    }
}

/// A handler: whose it is, what it takes, what it publishes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HandlerEntry {
    pub(super) component: Text,
    pub(super) name: Text,
    pub(super) group: Option<Text>,
    pub(super) takes: BTreeSet<MessageType>,
    pub(super) publishes: BTreeSet<MessageType>,
    pub(super) subscriptions: BTreeSet<Pattern>,
}

impl HandlerEntry {
    /// The handler `name` of `component`, which takes nothing yet.
    #[must_use]
    pub fn new(component: impl Into<Text>, name: impl Into<Text>) -> Self {
        Self {
            component: component.into(),
            name: name.into(),
            group: None,
            takes: BTreeSet::new(),
            publishes: BTreeSet::new(),
            subscriptions: BTreeSet::new(),
        }
    }

    /// Its group; without one each instance takes everything.
    #[must_use]
    pub fn group(mut self, group: impl Into<Text>) -> Self {
        self.group = Some(group.into());
        self
    }

    /// Takes `message` too.
    #[must_use]
    pub fn takes(mut self, message: MessageType) -> Self {
        self.takes.insert(message);
        self
    }

    /// Publishes `message` because of what it takes.
    #[must_use]
    pub fn publishes(mut self, message: MessageType) -> Self {
        self.publishes.insert(message);
        self
    }

    /// Subscribes to `pattern` instead of the topics of its messages.
    #[must_use]
    pub fn subscribes(mut self, pattern: Pattern) -> Self {
        self.subscriptions.insert(pattern);
        self
    }

    /// The component that it is part of.
    #[must_use]
    pub fn component(&self) -> &str {
        &self.component
    }

    /// Its name, unique in its component.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The name of its group.
    #[must_use]
    pub fn group_name(&self) -> Option<&str> {
        self.group.as_deref()
    }

    /// What it takes, by name.
    pub fn taken(&self) -> impl Iterator<Item = &MessageType> {
        self.takes.iter()
    }

    /// What it publishes, by name.
    pub fn published(&self) -> impl Iterator<Item = &MessageType> {
        self.publishes.iter()
    }

    /// Whether `message`, as it is published, gets here: it takes the type, and listens where it is published.
    #[must_use]
    pub fn hears(&self, message: &MessageType) -> bool {
        let mut same = self.takes.iter().filter(|taken| taken.name == message.name);
        if self.subscriptions.is_empty() {
            same.any(|taken| taken.pattern.overlaps(&message.pattern))
        } else {
            same.next().is_some()
                && self.subscriptions.iter().any(|pattern| pattern.overlaps(&message.pattern))
        }
    }

    pub(super) fn join(&mut self, other: Self) {
        self.takes.extend(other.takes);
        self.publishes.extend(other.publishes);
        self.subscriptions.extend(other.subscriptions);
    }
}

/// A call from one component to another.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
#[non_exhaustive]
pub struct Call {
    /// Who calls.
    pub from: Text,
    /// Who is called.
    pub to: Text,
    /// What for: `POST /orders`.
    pub what: Text,
}

/// A message's way from one component to another.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
#[non_exhaustive]
pub struct Link {
    /// The component that publishes.
    pub from: Text,
    /// The component that handles.
    pub to: Text,
    /// The topic, or its template, on which it is published.
    pub topic: Text,
    /// The wire name of the message.
    pub message: Text,
    /// The handler.
    pub handler: Text,
}

impl fmt::Display for Link {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} -> {}: {}", self.from, self.to, self.message)
    }
}

//! The common language of a system: which team owns which part of the topic tree, and who may use it.

use super::{Pattern, Topic};
use crate::error::Error;
use crate::text::Text;

/// Where in a system the messages of a namespace live.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum NamespaceClass {
    /// Devices and what talks to them.
    Edge,
    /// Where the outside world comes in and goes out.
    Gateway,
    /// Decisions: business processes and rules.
    BusinessProcess,
    /// What is kept.
    Data,
}

impl NamespaceClass {
    /// The class as configuration and exports write it.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Edge => "edge",
            Self::Gateway => "gateway",
            Self::BusinessProcess => "business_process",
            Self::Data => "data",
        }
    }
}

impl std::str::FromStr for NamespaceClass {
    type Err = Error;
    fn from_str(class: &str) -> Result<Self, Error> {
        match class {
            "edge" => Ok(Self::Edge),
            "gateway" => Ok(Self::Gateway),
            "business_process" => Ok(Self::BusinessProcess),
            "data" => Ok(Self::Data),
            _ => Err(Error::config(format!(
                "namespace class `{class}` is unknown; use edge, gateway, business_process or data"
            ))),
        }
    }
}

/// A declared topic prefix: its owner, its purpose, its class and who may publish and consume below it.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Namespace {
    /// The prefix, `service_platform.auth`.
    pub prefix: Topic,
    /// The team that answers for it.
    pub team: Text,
    /// What its messages are for, one sentence.
    pub purpose: Text,
    /// Where in the system it lives.
    pub class: NamespaceClass,
    /// Components that may publish; empty = every one.
    pub publishers: Vec<Text>,
    /// Components that may consume; empty = every one.
    pub consumers: Vec<Text>,
}

impl Namespace {
    /// A namespace that everybody may publish to and consume from.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidName`](crate::ErrorKind::InvalidName) where `prefix` is not a topic.
    pub fn new(
        prefix: impl Into<Text>,
        team: impl Into<Text>,
        purpose: impl Into<Text>,
        class: NamespaceClass,
    ) -> Result<Self, Error> {
        Ok(Self {
            prefix: Topic::new(prefix)?,
            team: team.into(),
            purpose: purpose.into(),
            class,
            publishers: Vec::new(),
            consumers: Vec::new(),
        })
    }

    /// Whether `topic` lies in the namespace: it is the prefix, or below it.
    #[must_use]
    pub fn contains(&self, topic: &str) -> bool {
        topic.strip_prefix(self.prefix.as_str()).is_some_and(|rest| rest.is_empty() || rest.starts_with('.'))
    }

    /// The pattern of everything below the prefix.
    #[must_use]
    pub fn pattern(&self) -> Pattern {
        Pattern::trusted(format!("{}.>", self.prefix).into())
    }
}

//! The options of a memory transport.

use std::time::Duration;

use serde::Deserialize;

use crate::transport::{Delay, OnUnrouted};

/// What a `memory://` URL, or its table in the configuration, may say.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
#[non_exhaustive]
pub struct MemoryConfig {
    /// The most messages that one group may have waiting and in hand; publishers in front of a full group wait.
    pub capacity: usize,
    /// How long a publisher waits in front of a full group before it gets a temporary error.
    #[serde(with = "crate::config::duration")]
    pub publish_timeout: Duration,
    /// How many messages are kept after they were published, so that a new group can start with them; 0 = none.
    pub retain: usize,
    /// The most dead letters that one group may have; then no more are taken, and its handlers wait.
    pub dead_letters: usize,
    /// What becomes of a message that no group takes.
    pub on_unrouted: OnUnrouted,
    /// How delays are kept: by this transport, or by the core's retry topics as on brokers that cannot.
    pub delay: MemoryDelay,
}

impl Default for MemoryConfig {
    fn default() -> Self {
        Self {
            capacity: 10_000,
            publish_timeout: Duration::from_secs(5),
            retain: 0,
            dead_letters: 10_000,
            on_unrouted: OnUnrouted::Accept,
            delay: MemoryDelay::Native,
        }
    }
}

/// How a memory transport keeps delays.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum MemoryDelay {
    /// It holds messages back until they are due.
    #[default]
    Native,
    /// The core does, with retry topics.
    RetryTopics,
}

impl From<MemoryDelay> for Delay {
    fn from(delay: MemoryDelay) -> Self {
        match delay {
            MemoryDelay::Native => Self::Native,
            MemoryDelay::RetryTopics => Self::RetryTopics,
        }
    }
}

//! The messages that the suite's handlers take and publish.

use std::borrow::Cow;

use msgkit::codec::Json;
use msgkit::{Error, Message, Topic};
use serde::{Deserialize, Serialize};

/// What most cases send: a number, a key, and the last segment of its topic.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Probe {
    /// Which one it is.
    pub n: u32,
    /// Its ordering key.
    pub key: String,
}

impl Probe {
    /// Number `n` of `key`.
    pub fn new(n: u32, key: impl Into<String>) -> Self {
        Self { n, key: key.into() }
    }

    /// Numbers `0..count` of one key.
    #[must_use]
    pub fn many(count: u32) -> Vec<Self> {
        (0..count).map(|n| Self::new(n, "k")).collect()
    }
}

impl Message for Probe {
    type Codec = Json;
    const NAME: &'static str = "conformance.probe";
    const TOPIC: &'static str = "conformance.probes";
    fn topic(&self) -> Result<Topic, Error> {
        Self::template()?.render(&[])
    }
    fn key(&self) -> Option<Cow<'_, str>> {
        Some(self.key.as_str().into())
    }
}

/// Another type on the same topic.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Other {
    /// Which one it is.
    pub n: u32,
    /// Its ordering key.
    pub key: String,
}

impl Message for Other {
    type Codec = Json;
    const NAME: &'static str = "conformance.other";
    const TOPIC: &'static str = Probe::TOPIC;
    fn topic(&self) -> Result<Topic, Error> {
        Self::template()?.render(&[])
    }
    fn key(&self) -> Option<Cow<'_, str>> {
        Some(self.key.as_str().into())
    }
}

/// What handlers publish.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Said {
    /// The number of the probe that it follows from, or what the handler chose.
    pub n: u32,
}

impl Message for Said {
    type Codec = Json;
    const NAME: &'static str = "conformance.said";
    const TOPIC: &'static str = "conformance.said";
    fn topic(&self) -> Result<Topic, Error> {
        Self::template()?.render(&[])
    }
    fn key(&self) -> Option<Cow<'_, str>> {
        Some(self.n.to_string().into())
    }
}

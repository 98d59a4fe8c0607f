//! What is measured: a flow, a variant of the message or its handling, and a number of lanes, named `flow/variant/lanes`.

use std::{fmt, num::NonZeroUsize, str::FromStr};

use anyhow::{Context as _, bail};

/// How messages get to the handler, and which part of that is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Flow {
    /// Messages are published before the measurement, as many at once as a queue takes ([`FILL`](Flow::FILL)); measured is
    /// handling and settling them.
    Consume,
    /// Measured is publishing as well: bursts of [`BURST`](Flow::BURST) messages, each burst handled before the next.
    PublishHandleAck,
    /// As `PublishHandleAck` with one message at a time: what waking up the service adds.
    RoundTrip,
    /// One thread publishes without a pause, another handles. Interleaving differs from run to run, so this one has a
    /// wall time but no instruction count.
    AcrossThreads,
    /// As `AcrossThreads` with a handler slower than the publisher: what the heap does meanwhile.
    Backlog,
}

impl Flow {
    /// Messages in a burst: enough that waking up the service is spread thin, few enough that its queue stays in cache.
    pub const BURST: u64 = 64;
    /// Messages that wait at once to be consumed: less than msgkit's memory transport takes before publishers wait (10,000).
    pub const FILL: u64 = 4_800;

    const NAMES: [(Self, &'static str); 5] = [
        (Self::Consume, "consume"),
        (Self::PublishHandleAck, "publish_handle_ack"),
        (Self::RoundTrip, "round_trip"),
        (Self::AcrossThreads, "across_threads"),
        (Self::Backlog, "backlog"),
    ];

    /// Whether publisher and handler are on two threads.
    #[must_use]
    pub fn takes_threads(self) -> bool {
        matches!(self, Self::AcrossThreads | Self::Backlog)
    }

    fn name(self) -> &'static str {
        Self::NAMES.iter().find(|(flow, _)| *flow == self).map_or("", |(_, name)| name)
    }
}

/// What is special about the message or its handling.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Variant {
    /// A small JSON object with two numbers.
    Json,
    /// The same, published with an ordering key (16 of them) and, on several lanes, handled in order per key.
    Key,
    /// A JSON object of 1 KiB, most of it one string.
    Kibibyte,
    /// Three message types in turn on one subscription, all taken by one handler.
    Types,
    /// Every tenth message fails once and is retried by the default policy.
    Retry,
}

impl Variant {
    const NAMES: [(Self, &'static str); 5] = [
        (Self::Json, "json"),
        (Self::Key, "key"),
        (Self::Kibibyte, "1kib"),
        (Self::Types, "types"),
        (Self::Retry, "retry"),
    ];

    fn name(self) -> &'static str {
        Self::NAMES.iter().find(|(variant, _)| *variant == self).map_or("", |(_, name)| name)
    }
}

/// One thing to measure.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Scenario {
    /// How messages get to the handler.
    pub flow: Flow,
    /// What is special about them.
    pub variant: Variant,
    /// How many messages the service may handle at once.
    pub lanes: NonZeroUsize,
}

impl Scenario {
    /// Every scenario of the report; `backlog` is asked for by name, because it takes long.
    #[must_use]
    pub fn all() -> Vec<Self> {
        let lanes = [NonZeroUsize::MIN, NonZeroUsize::MIN.saturating_add(3)];
        let mut all = Vec::new();
        for flow in [Flow::Consume, Flow::PublishHandleAck] {
            for (variant, _) in Variant::NAMES {
                all.extend(lanes.map(|lanes| Self { flow, variant, lanes }));
            }
        }
        for flow in [Flow::RoundTrip, Flow::AcrossThreads] {
            all.extend(lanes.map(|lanes| Self { flow, variant: Variant::Json, lanes }));
        }
        all
    }
}

impl fmt::Display for Scenario {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}/{}", self.flow.name(), self.variant.name(), self.lanes)
    }
}

impl FromStr for Scenario {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let [flow, variant, lanes] = text.split('/').collect::<Vec<_>>()[..] else {
            bail!("a scenario is named flow/variant/lanes, as in consume/json/1; got `{text}`");
        };
        let flow = named(flow, &Flow::NAMES).context("flow")?;
        let variant = named(variant, &Variant::NAMES).context("variant")?;
        let lanes = lanes.parse().with_context(|| format!("lanes: `{lanes}` is not a positive number"))?;
        Ok(Self { flow, variant, lanes })
    }
}

fn named<T: Copy>(text: &str, names: &[(T, &str)]) -> anyhow::Result<T> {
    match names.iter().find(|(_, name)| *name == text) {
        Some((value, _)) => Ok(*value),
        None => {
            let known: Vec<_> = names.iter().map(|(_, name)| *name).collect();
            bail!("`{text}` is not one of {}", known.join(", "))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::Scenario;

    #[test]
    fn names_round_trip() {
        for scenario in Scenario::all() {
            assert_eq!(scenario.to_string().parse::<Scenario>().unwrap(), scenario);
        }
    }

    #[test]
    fn an_unknown_name_lists_the_known_ones() {
        let error = format!("{:#}", "consume/xml/1".parse::<Scenario>().unwrap_err());
        assert!(error.contains("json, key, 1kib, types, retry"), "{error}");
    }
}

//! The options of a Kafka transport.

use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use msgkit::{Error, ErrorKind, Pattern};
use serde::{Deserialize, Serialize};

/// What a `kafka:` URL, or its table in the configuration, may say.
///
/// ```toml
/// [transports.backbone]
/// url = "kafkas://app:secret@kafka-1.example.org:9093,kafka-2.example.org:9093"
/// [transports.backbone.kafka]
/// partitions = 12
/// sasl = "scram_sha_512"
/// [[transports.backbone.kafka.destinations]]
/// match = "device.>"
/// topic = "fleet"
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
#[non_exhaustive]
pub struct KafkaConfig {
    /// What stands before the name of every Kafka topic and consumer group (`staging.`), so that several systems can share
    /// a cluster; at most 100 of `A-Z a-z 0-9 _ - .`.
    pub prefix: String,
    /// Topics that go to another Kafka topic than the one of their name, the first match wins. `topic` is the whole name,
    /// without `prefix`; many topics may share one, since readers filter on the full topic.
    pub destinations: Vec<DestinationRule>,
    /// Whether topics that are not there are created: those that are declared, those that are published to, and the
    /// framework's own (`msgkit.…`). Where it is off, a topic that is missing is an error that names it.
    pub create_topics: bool,
    /// How many partitions a topic that is created gets: the most members of a group that can work at once. 0 = as many as
    /// the broker decides.
    pub partitions: u16,
    /// On how many brokers a topic that is created lies; 0 = as many as the broker decides.
    pub replication: u16,
    /// Where messages without a key go: `ordered` keeps those of one publisher in one partition of the topic, and so in
    /// order; `spread` distributes them over all partitions.
    pub unkeyed: Unkeyed,
    /// The largest message in bytes, key and headers included. Topics that are created take as much; of one that is there already
    /// the `max.message.bytes` has to allow it.
    pub max_message: usize,
    /// How long a message may take to be taken by as many brokers as must have it, retries included; after that it is
    /// given back.
    #[serde(with = "msgkit::config::duration")]
    pub publish_timeout: Duration,
    /// The most bytes that may be on their way to the broker; publishers wait for room.
    pub publish_buffer: usize,
    /// How long a message may wait for others to travel with. What one call publishes travels together in any case.
    #[serde(with = "msgkit::config::duration")]
    pub linger: Duration,
    /// How messages are compressed on the wire and at the broker: `none`, `gzip`, `snappy`, `lz4`, or `zstd`, which needs the
    /// feature `zstd` of the crate.
    pub compression: Compression,
    /// After how long without a sign of life a member counts as dead, and its messages go to the others of its group.
    #[serde(with = "msgkit::config::duration")]
    pub session_timeout: Duration,
    /// The name of this process among the members of its groups (Kafka's static membership): one that comes back within
    /// `session_timeout` gets its partitions back without a rebalance. Each process needs another; empty = none.
    pub instance: String,
    /// How long a member that has to give a partition away waits for its handlers to finish what they have of it; the
    /// member's other partitions go on meanwhile. What is not finished then is done again by the new owner.
    #[serde(with = "msgkit::config::duration")]
    pub revoke_grace: Duration,
    /// How often what was settled is committed.
    #[serde(with = "msgkit::config::duration")]
    pub commit_interval: Duration,
    /// How often patterns look for new topics. A topic that this process has created is seen at once.
    #[serde(with = "msgkit::config::duration")]
    pub topic_refresh: Duration,
    /// The most bytes that one subscription has fetched and not handed out yet.
    pub fetch_buffer: usize,
    /// How long the first answer of the brokers may take before they count as unreachable.
    #[serde(with = "msgkit::config::duration")]
    pub connect_timeout: Duration,
    /// How the client proves who it is, where the URL has a user and a password: `plain`, `scram_sha_256` or `scram_sha_512`;
    /// SCRAM needs the feature `tls` of the crate.
    pub sasl: Sasl,
    /// What the brokers know the client as.
    pub client_id: String,
    /// A PEM file with the certificate authorities to trust in place of the machine's own, for `kafkas:`.
    pub ca_file: Option<PathBuf>,
    /// A PEM file with the client's certificate chain, for `kafkas:`; needs `key_file`.
    pub cert_file: Option<PathBuf>,
    /// A PEM file with the client's private key, for `kafkas:`; needs `cert_file`.
    pub key_file: Option<PathBuf>,
}

impl Default for KafkaConfig {
    fn default() -> Self {
        Self {
            prefix: String::new(),
            destinations: Vec::new(),
            create_topics: true,
            partitions: 0,
            replication: 0,
            unkeyed: Unkeyed::default(),
            max_message: 1_000_000,
            publish_timeout: Duration::from_secs(30),
            publish_buffer: 64 << 20,
            linger: Duration::ZERO,
            compression: Compression::default(),
            session_timeout: Duration::from_secs(30),
            instance: String::new(),
            revoke_grace: Duration::from_secs(10),
            commit_interval: Duration::from_millis(100),
            topic_refresh: Duration::from_secs(10),
            fetch_buffer: 16 << 20,
            connect_timeout: Duration::from_secs(10),
            sasl: Sasl::default(),
            client_id: "msgkit".to_owned(),
            ca_file: None,
            cert_file: None,
            key_file: None,
        }
    }
}

/// Topics that go to another Kafka topic than the one of their name.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DestinationRule {
    /// Which topics: `device.>`.
    #[serde(rename = "match", serialize_with = "text_of", deserialize_with = "pattern")]
    pub matches: Pattern,
    /// The Kafka topic's whole name.
    pub topic: String,
}

fn text_of<S: serde::Serializer>(pattern: &Pattern, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(pattern.as_str())
}

fn pattern<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<Pattern, D::Error> {
    let text = String::deserialize(deserializer)?;
    Pattern::new(text).map_err(serde::de::Error::custom)
}

/// Where messages without a key go.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Unkeyed {
    /// Those of one publisher to one partition of the topic, so that they stay in order.
    #[default]
    Ordered,
    /// To all partitions in turn.
    Spread,
}

/// How messages are compressed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Compression {
    /// Not at all.
    #[default]
    None,
    /// By gzip.
    Gzip,
    /// By snappy.
    Snappy,
    /// By LZ4.
    Lz4,
    /// By Zstandard; needs the feature `zstd` of the crate.
    Zstd,
}

impl Compression {
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Gzip => "gzip",
            Self::Snappy => "snappy",
            Self::Lz4 => "lz4",
            Self::Zstd => "zstd",
        }
    }
}

/// How the client proves who it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Sasl {
    /// By the user and password of the URL, as they are: only over TLS, or where nobody listens.
    #[default]
    Plain,
    /// By SCRAM with SHA-256; needs the feature `tls` of the crate.
    #[serde(rename = "scram_sha_256")]
    ScramSha256,
    /// By SCRAM with SHA-512; needs the feature `tls` of the crate.
    #[serde(rename = "scram_sha_512")]
    ScramSha512,
}

impl Sasl {
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Plain => "PLAIN",
            Self::ScramSha256 => "SCRAM-SHA-256",
            Self::ScramSha512 => "SCRAM-SHA-512",
        }
    }
}

/// What a Kafka topic takes by default.
const DEFAULT_LIMIT: usize = 1_048_588;
/// What a copy may have beside its message: why it failed, and the broker's own.
const COPY: usize = 64 << 10;

impl KafkaConfig {
    /// The largest record that is written: a copy of the largest message that may come, others' messages included.
    pub(crate) fn max_copy(&self) -> usize {
        self.max_message.max(DEFAULT_LIMIT) + COPY
    }

    /// What a topic for user data must be created with, where the broker's default is not enough.
    pub(crate) fn topic_limit(&self) -> Option<usize> {
        (self.max_message + 1000 > DEFAULT_LIMIT).then(|| self.max_copy())
    }
}

/// Whether the crate was built with TLS, on which SCRAM stands too.
pub(crate) const HAS_TLS: bool = cfg!(any(feature = "tls", feature = "tls-system"));

/// An error of the configuration.
pub(crate) fn refusal(text: impl fmt::Display) -> Error {
    Error::new(ErrorKind::Config, text.to_string())
}

fn is_name(text: &str) -> bool {
    text.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-' | b'.'))
}

impl KafkaConfig {
    /// Refuses what cannot work, naming the option.
    pub(crate) fn check(&self) -> Result<(), Error> {
        let refuse = |text: &str| Err(refusal(text));
        if self.prefix.len() > 100 || !is_name(&self.prefix) || self.prefix.starts_with("__") {
            return refuse(
                "`prefix` of a Kafka transport must be at most 100 of A-Z a-z 0-9 _ - . and not begin with `__`, which \
                 Kafka keeps for itself",
            );
        }
        for rule in &self.destinations {
            if rule.topic.is_empty()
                || rule.topic.len() > 249
                || !is_name(&rule.topic)
                || rule.topic.starts_with("__")
            {
                return Err(refusal(format!(
                    "the destination of `{}` is no name that Kafka can have; `topic` must be 1 to 249 of A-Z a-z 0-9 _ - . \
                     and not begin with `__`",
                    rule.matches.as_str()
                )));
            }
        }
        if self.max_message < 1000 || self.max_message > MOST_MESSAGE {
            return refuse("`max_message` of a Kafka transport must be 1000 to 999934464 bytes");
        }
        if self.publish_buffer < self.max_message {
            return refuse(
                "`publish_buffer` of a Kafka transport must hold at least one message of `max_message`",
            );
        }
        if self.publish_buffer < 1 << 20 || self.fetch_buffer < 64 << 10 {
            return refuse(
                "`publish_buffer` of a Kafka transport must be at least 1048576 bytes, `fetch_buffer` at least 65536",
            );
        }
        if self.publish_timeout < Duration::from_millis(100) || self.linger >= self.publish_timeout {
            return refuse(
                "`publish_timeout` of a Kafka transport must be at least 100ms, and more than `linger`",
            );
        }
        if self.session_timeout < Duration::from_millis(300)
            || self.session_timeout > Duration::from_secs(1800)
        {
            return refuse("`session_timeout` of a Kafka transport must be 300ms to 30m");
        }
        if self.revoke_grace > Duration::from_secs(240) {
            return refuse("`revoke_grace` of a Kafka transport must be at most 4m: the group waits for it");
        }
        if self.commit_interval.is_zero() || self.commit_interval > Duration::from_secs(60) {
            return refuse("`commit_interval` of a Kafka transport must be more than 0s and at most 1m");
        }
        if self.topic_refresh < Duration::from_millis(10) || self.connect_timeout.is_zero() {
            return refuse(
                "`topic_refresh` of a Kafka transport must be at least 10ms, `connect_timeout` more than 0s",
            );
        }
        if self.cert_file.is_some() != self.key_file.is_some() {
            return refuse(
                "`cert_file` and `key_file` of a Kafka transport belong together; set both or none",
            );
        }
        if self.compression == Compression::Zstd && !cfg!(feature = "zstd") {
            return refuse(
                "`compression = \"zstd\"` needs the feature `zstd` of msgkit-transport-kafka; add it, or use `lz4`",
            );
        }
        if self.sasl != Sasl::Plain && !HAS_TLS {
            return refuse(
                "`sasl` with SCRAM needs the feature `tls` of msgkit-transport-kafka; add it, or use `plain`",
            );
        }
        Ok(())
    }
}

/// The most that librdkafka takes, with room for a copy.
const MOST_MESSAGE: usize = 1_000_000_000 - COPY;

#[cfg(test)]
mod tests {
    use msgkit::Registry;
    use msgkit::transport::{Options, TransportUrl};

    use super::*;

    fn refusal_of(url: &str, options: &str) -> String {
        let registry = Registry::new().with(crate::scheme());
        let url = TransportUrl::parse(url).unwrap();
        let options = Options::from_toml("[transports.t.kafka]", options).unwrap();
        match registry.build(&url, options) {
            Ok(transport) => panic!("taken: {transport:?}"),
            Err(error) => msgkit::Chain(&error).to_string(),
        }
    }

    #[test]
    fn mechanisms_are_spelled_as_the_options_say() {
        let named = |name: &str| serde_json::from_value::<Sasl>(name.into());
        assert_eq!(named("plain").unwrap(), Sasl::Plain);
        assert_eq!(named("scram_sha_256").unwrap(), Sasl::ScramSha256);
        assert_eq!(named("scram_sha_512").unwrap(), Sasl::ScramSha512);
    }

    #[test]
    fn every_option_is_read() {
        let options = r#"
            prefix = "staging."
            create_topics = false
            partitions = 12
            replication = 3
            unkeyed = "spread"
            max_message = 2000000
            publish_timeout = "10s"
            publish_buffer = 4000000
            linger = "5ms"
            compression = "lz4"
            session_timeout = "6s"
            instance = "worker-1"
            revoke_grace = "5s"
            commit_interval = "1s"
            topic_refresh = "30s"
            fetch_buffer = 1000000
            connect_timeout = "4s"
            sasl = "plain"
            client_id = "orders"
            ca_file = "ca.pem"
            cert_file = "client.pem"
            key_file = "client.key"
            [[destinations]]
            match = "device.>"
            topic = "fleet"
        "#;
        let url = TransportUrl::parse("kafka://localhost").unwrap();
        let config: KafkaConfig = Options::from_toml("place", options).unwrap().read(&url).unwrap();
        config.check().unwrap();
        assert_eq!((config.partitions, config.replication, config.unkeyed), (12, 3, Unkeyed::Spread));
        assert_eq!(config.destinations[0].topic, "fleet");
        assert_eq!(config.instance, "worker-1");
    }

    #[test]
    fn what_cannot_be_is_refused_by_its_name() {
        let cases = [
            ("partitoins = 3", "partitions"),
            ("prefix = \"a b\"", "prefix"),
            ("prefix = \"__x\"", "prefix"),
            ("max_message = 1", "max_message"),
            ("publish_buffer = 5", "publish_buffer"),
            ("session_timeout = \"1ms\"", "session_timeout"),
            ("revoke_grace = \"1h\"", "revoke_grace"),
            ("commit_interval = \"0s\"", "commit_interval"),
            ("cert_file = \"a\"", "key_file"),
            ("ca_file = \"ca.pem\"", "kafkas"),
            ("compression = \"zip\"", "gzip"),
            ("[[destinations]]\nmatch = \"a.>\"\ntopic = \"no good\"", "a.>"),
            ("[[destinations]]\nmatch = \"a.#\"\ntopic = \"x\"", "a.#"),
        ];
        for (options, named) in cases {
            let text = refusal_of("kafka://localhost", options);
            assert!(text.contains(named), "{options}: {text}");
        }
    }

    #[test]
    fn an_address_that_cannot_be_says_what_is_wrong() {
        for (url, named) in [
            ("kafka://", "host"),
            ("kafka://localhost/topic", "/topic"),
            ("kafka://localhost:port", "port"),
            ("kafka://user@localhost", "password"),
        ] {
            let text = refusal_of(url, "");
            assert!(text.contains(named), "{url}: {text}");
        }
    }
}

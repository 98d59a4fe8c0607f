//! The options of a Kinesis transport.

use std::fmt;
use std::time::Duration;

use msgkit::transport::TransportUrl;
use msgkit::{Error, ErrorKind, Pattern};
use serde::{Deserialize, Serialize};

/// The most bytes of a record, its partition key included, unless a stream was told otherwise.
const MIB: usize = 1 << 20;
/// What a copy has more than its message, at most, beside its payload.
const COPY: usize = 64 << 10;
/// What of a record is left for attributes and headers beside the largest payload.
const ATTRIBUTES: usize = 8 << 10;

/// What a `kinesis:` URL, or its table in the configuration, may say.
///
/// ```toml
/// [transports.backbone]
/// url = "kinesis://eu-west-1/device-platform"
/// [transports.backbone.kinesis]
/// leases = "sqlite:/var/lib/platform/leases.db"
/// shards = 4
/// [[transports.backbone.kinesis.destinations]]
/// match = "device.>"
/// stream = "all-devices"
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
#[non_exhaustive]
pub struct KinesisConfig {
    /// Where the leases of shards are kept; must be set: `memory` (one process, gone with it), `sqlite:<file>` (processes of
    /// one machine; feature `sqlite`), `dynamodb:<table>` (any number of machines; feature `dynamodb`). A store of your own
    /// goes to `Kinesis::with_leases`.
    pub leases: Option<String>,
    /// The address of DynamoDB in place of the region's own. Default: what `AWS_ENDPOINT_URL_DYNAMODB` or `AWS_ENDPOINT_URL`
    /// say.
    pub leases_endpoint: Option<String>,
    /// The address of the service in place of the region's own: `http://127.0.0.1:4567`. Default: what
    /// `AWS_ENDPOINT_URL_KINESIS` or `AWS_ENDPOINT_URL` say.
    pub endpoint: Option<String>,
    /// The profile of `~/.aws` that credentials, and the region where the URL names none, are taken from; feature `aws-config`.
    pub profile: Option<String>,
    /// The id of an access key; default: the user of the URL, else `AWS_ACCESS_KEY_ID`, else (feature `aws-config`) as every
    /// AWS tool finds it.
    pub access_key_id: Option<String>,
    /// Its secret; default: the password of the URL, else `AWS_SECRET_ACCESS_KEY`.
    #[serde(skip_serializing)]
    pub secret_access_key: Option<Secret>,
    /// The token of temporary credentials; default: `AWS_SESSION_TOKEN`.
    #[serde(skip_serializing)]
    pub session_token: Option<Secret>,
    /// Streams other than the default, which is one for each first segment of a topic; the first match wins.
    pub destinations: Vec<DestinationRule>,
    /// Whether streams that are not there are created. `false`: one that is missing is an error.
    pub create: bool,
    /// How many shards a stream has that is created; 0 = an on-demand stream. Those of retries and dead letters have one.
    pub shards: u32,
    /// How long the streams keep a record; 24 h to 8760 h. One that keeps less is raised to it, unless `create = false`; one of a
    /// delay step that cannot be raised is an error.
    #[serde(with = "msgkit::config::duration")]
    pub retention: Duration,
    /// How long dead letters are kept; 24 h to 8760 h. A stream of theirs that keeps less, and cannot be raised, is an error.
    #[serde(with = "msgkit::config::duration")]
    pub dead_letter_retention: Duration,
    /// What a message without a key shares a shard with.
    pub unkeyed: Unkeyed,
    /// Whether messages of one key keep their order also where the service takes only some of a request: a request then
    /// holds one record of each key. `false` is faster where few keys have many messages; the transport then claims no order.
    pub ordered: bool,
    /// The largest record in bytes, key included: 1 MiB, or what the streams were raised to (at most 10 MiB); those that are
    /// created take so much. Streams of copies take more, so that whatever others publish has room there; above 7815168 what is
    /// no text may have none, since no stream takes more than 10 MiB.
    pub max_record_size: usize,
    /// How long a publish goes on, throttling included, while the service takes nothing; then it gives back what is left.
    #[serde(with = "msgkit::config::duration")]
    pub publish_timeout: Duration,
    /// How long a member may give no sign of life before others take its shards; where theirs differs, the larger of both.
    #[serde(with = "msgkit::config::duration")]
    pub lease: Duration,
    /// How often a member gives one, and looks at the others; at most a third of `lease`.
    #[serde(with = "msgkit::config::duration")]
    pub heartbeat: Duration,
    /// How often streams and shards are looked for that are new.
    #[serde(with = "msgkit::config::duration")]
    pub discover: Duration,
    /// The longest wait before a shard that had nothing is read again; right after a message it is an eighth. Where a read
    /// takes long, four times as long as it took, at most 5s.
    #[serde(with = "msgkit::config::duration")]
    pub poll_interval: Duration,
    /// The least time between two reads of one shard: the service takes five a second for each shard, all groups together.
    #[serde(with = "msgkit::config::duration")]
    pub read_interval: Duration,
    /// Whether groups read by enhanced fan-out: records are pushed as they come, and each group has a reading throughput of its
    /// own. A group is then a registered consumer of each of its streams, which takes 20 of them and is paid for each. Delay
    /// steps, and subscriptions without a group, are polled as before.
    pub fan_out: bool,
    /// The most records that are read of one shard to tell how much a group has left.
    pub lag_limit: u64,
}

impl Default for KinesisConfig {
    fn default() -> Self {
        Self {
            leases: None,
            leases_endpoint: None,
            endpoint: None,
            profile: None,
            access_key_id: None,
            secret_access_key: None,
            session_token: None,
            destinations: Vec::new(),
            create: true,
            shards: 2,
            retention: Duration::from_secs(24 * 3600),
            dead_letter_retention: Duration::from_secs(7 * 24 * 3600),
            unkeyed: Unkeyed::default(),
            ordered: true,
            max_record_size: MIB,
            publish_timeout: Duration::from_secs(30),
            lease: Duration::from_secs(15),
            heartbeat: Duration::from_secs(3),
            discover: Duration::from_secs(30),
            poll_interval: Duration::from_secs(1),
            read_interval: Duration::from_millis(200),
            fan_out: false,
            lag_limit: 10_000,
        }
    }
}

/// One line of `destinations`.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
#[non_exhaustive]
pub struct DestinationRule {
    /// Topics; dynamic segments count as `_`, which `*` matches.
    #[serde(rename = "match", deserialize_with = "pattern", serialize_with = "shown")]
    pub matches: Pattern,
    /// The whole name of their stream, to which nothing is added.
    pub stream: String,
    /// The topic of what others put into that stream without naming one; `{key}` stands for the record's partition key.
    #[serde(default)]
    pub foreign: Option<String>,
}

impl DestinationRule {
    /// Topics of `matches` to `stream`.
    pub fn new(matches: Pattern, stream: impl Into<String>) -> Self {
        Self { matches, stream: stream.into(), foreign: None }
    }

    /// The same, with the topic of what others put there.
    #[must_use]
    pub fn with_foreign(mut self, topic: impl Into<String>) -> Self {
        self.foreign = Some(topic.into());
        self
    }
}

fn pattern<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<Pattern, D::Error> {
    String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
}

fn shown<S: serde::Serializer>(pattern: &Pattern, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(pattern.as_str())
}

/// What a message without a key shares a shard with.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize, Serialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Unkeyed {
    /// All of its topic: they stay in order, but for one that the service refuses at first, and are no faster than one shard.
    #[default]
    Topic,
    /// Nothing: they spread over all shards, in no order.
    Spread,
}

/// A text that is never printed.
#[derive(Clone, PartialEq, Eq, Deserialize)]
#[serde(transparent)]
pub struct Secret(String);

impl Secret {
    /// Keeps `text`.
    pub fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }

    pub(crate) fn reveal(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("…")
    }
}

impl KinesisConfig {
    /// Refuses what cannot work, naming the option.
    pub(crate) fn check(&self) -> Result<(), Error> {
        let refuse = |text: String| Err(Error::new(ErrorKind::Config, text));
        let day = Duration::from_secs(24 * 3600);
        for (name, value) in
            [("retention", self.retention), ("dead_letter_retention", self.dead_letter_retention)]
        {
            if value < day || value > day * 365 {
                return refuse(format!("`{name}` of a Kinesis transport must be 24h to 8760h"));
            }
        }
        for (name, value) in [
            ("publish_timeout", self.publish_timeout),
            ("heartbeat", self.heartbeat),
            ("discover", self.discover),
            ("poll_interval", self.poll_interval),
        ] {
            if value.is_zero() {
                return refuse(format!("`{name}` of a Kinesis transport must be more than 0s"));
            }
        }
        if self.lease < self.heartbeat * 3 {
            return refuse(
                "`lease` of a Kinesis transport must be at least three times its `heartbeat`, or a member that lives \
                 is taken for dead"
                    .to_owned(),
            );
        }
        if self.max_record_size < 64 << 10 || self.max_record_size > 10 * MIB {
            return refuse(
                "`max_record_size` of a Kinesis transport must be 65536 to 10485760 bytes (10 MiB)"
                    .to_owned(),
            );
        }
        if self.shards > 10_000 {
            return refuse("`shards` of a Kinesis transport must be 0 (on-demand) to 10000".to_owned());
        }
        if self.access_key_id.is_some() != self.secret_access_key.is_some() {
            return refuse(
                "`access_key_id` and `secret_access_key` of a Kinesis transport belong together; set both or none"
                    .to_owned(),
            );
        }
        for rule in &self.destinations {
            check_name("a `stream` of `destinations`", &rule.stream)?;
            if let Some(foreign) = &rule.foreign
                && msgkit::Topic::new(foreign.replace("{key}", "key")).is_err()
            {
                return refuse(format!(
                    "`foreign = \"{foreign:.100}\"` of a Kinesis destination is no topic; write one like `device.{{key}}.raw`"
                ));
            }
        }
        Ok(())
    }

    /// The most bytes of a record that is a copy of another one (delayed retry, dead letter): whatever came has room there, as
    /// base64 where it is no text. The service takes no more than 10 MiB.
    pub(crate) fn max_copy(&self) -> usize {
        (self.max_record_size.div_ceil(3) * 4 + COPY).min(10 * MIB)
    }

    /// The most bytes that a payload may have in its written form.
    pub(crate) fn max_written(&self) -> usize {
        self.max_record_size - ATTRIBUTES
    }

    /// The most bytes of a payload of any kind: what is no JSON is written as base64.
    pub(crate) fn max_payload(&self) -> usize {
        self.max_written() / 4 * 3
    }
}

/// Refuses what cannot be a stream's name.
pub(crate) fn check_name(what: &str, name: &str) -> Result<(), Error> {
    let legal = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-' | b'.');
    if name.is_empty() || name.len() > 128 || !name.bytes().all(legal) {
        return Err(Error::new(
            ErrorKind::Config,
            format!("{what} of a Kinesis transport must be 1 to 128 of A-Z a-z 0-9 _ - ., not `{name:.140}`"),
        ));
    }
    Ok(())
}

/// The region, which may be left out, and the prefix of the streams' names.
pub(crate) fn place(url: &TransportUrl) -> Result<(String, String), Error> {
    let (region, prefix) = url.address().split_once('/').unwrap_or((url.address(), ""));
    let legal = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-';
    if !region.bytes().all(legal) {
        return Err(Error::new(
            ErrorKind::Config,
            "the url of a Kinesis transport names no region; write `kinesis://eu-west-1/name-of-the-system`, or \
             `kinesis:///name-of-the-system` for the region that AWS tools take",
        ));
    }
    let prefix = prefix.trim_end_matches('/');
    if !prefix.is_empty() {
        check_name("the path of the url", prefix)?;
        if prefix.len() > 50 {
            return Err(Error::new(
                ErrorKind::Config,
                "the path of the url of a Kinesis transport begins the name of every stream, so it may have 50 bytes",
            ));
        }
    }
    Ok((region.to_owned(), prefix.to_owned()))
}

#[cfg(test)]
mod tests {
    use msgkit::Registry;
    use msgkit::transport::Options;

    use super::*;

    fn refusal(url: &str, options: &str) -> String {
        let registry = Registry::new().with(crate::scheme());
        let url = TransportUrl::parse(url).unwrap();
        let options = Options::from_toml("[transports.t.kinesis]", options).unwrap();
        match registry.build(&url, options) {
            Ok(transport) => panic!("taken: {transport:?}"),
            Err(error) => msgkit::Chain(&error).to_string(),
        }
    }

    #[test]
    fn every_option_is_read() {
        let options = r#"
            leases = "memory:tests"
            leases_endpoint = "http://127.0.0.1:8000"
            profile = "plant"
            endpoint = "http://127.0.0.1:4567"
            access_key_id = "AKID"
            secret_access_key = "5ecr3t"
            session_token = "t0ken"
            destinations = [{ match = "device.*.raw", stream = "raw", foreign = "device.{key}.raw" }]
            create = false
            shards = 0
            retention = "48h"
            dead_letter_retention = "720h"
            unkeyed = "spread"
            ordered = false
            max_record_size = 10485760
            publish_timeout = "5s"
            lease = "30s"
            heartbeat = "5s"
            discover = "1m"
            poll_interval = "2s"
            read_interval = "1s"
            fan_out = true
            lag_limit = 7
        "#;
        let url = TransportUrl::parse("kinesis://eu-west-1/app").unwrap();
        let config: KinesisConfig = Options::from_toml("place", options).unwrap().read(&url).unwrap();
        config.check().unwrap();
        assert_eq!(
            (config.unkeyed, config.ordered, config.create, config.shards),
            (Unkeyed::Spread, false, false, 0)
        );
        assert_eq!(config.destinations[0].foreign.as_deref(), Some("device.{key}.raw"));
        assert_eq!((config.lease, config.lag_limit, config.fan_out), (Duration::from_secs(30), 7, true));
        assert_eq!(config.leases_endpoint.as_deref(), Some("http://127.0.0.1:8000"));
        assert_eq!(config.profile.as_deref(), Some("plant"));
        let printed = format!("{config:?}");
        assert!(!printed.contains("5ecr3t") && !printed.contains("t0ken"), "{printed}");
    }

    #[test]
    fn what_cannot_work_is_refused_by_name() {
        for (options, said) in [
            ("leases = \"redis:x\"", "redis"),
            ("leases = \"sqlite:\"", "sqlite"),
            ("leases = \"dynamodb:\"", "dynamodb:platform-leases"),
            ("leases = \"dynamodb:a b c\"", "dynamodb:platform-leases"),
            ("leases = \"dynamodb:abc\"\nleases_endpoint = \"127.0.0.1:8000\"", "`leases_endpoint`"),
            ("leases = \"memory\"\nprofile = \"plant\"", "leave one of them out"),
            ("shards = 1", "leases"),
            ("leases = \"memory\"\nretention = \"1h\"", "retention"),
            ("leases = \"memory\"\nlease = \"5s\"", "heartbeat"),
            ("leases = \"memory\"\nmax_record_size = 1", "max_record_size"),
            ("leases = \"memory\"\npoll_interval = \"0s\"", "poll_interval"),
            ("leases = \"memory\"\naccess_key_id = \"a\"", "secret_access_key"),
            ("leases = \"memory\"\nendpoint = \"127.0.0.1:4567\"", "http://"),
            ("leases = \"memory\"\nlease_s = 1", "lease_s"),
            ("leases = \"memory\"\nunkeyed = \"random\"", "spread"),
            ("leases = \"memory\"\ndestinations = [{ match = \"a.>\", stream = \"a b\" }]", "a b"),
            ("leases = \"memory\"\ndestinations = [{ match = \"a.>.b\", stream = \"a\" }]", "a.>.b"),
            (
                "leases = \"memory\"\ndestinations = [{ match = \"a.>\", stream = \"a\", foreign = \"a/b\" }]",
                "foreign",
            ),
        ] {
            let text = refusal("kinesis://AKID:5ecr3t@eu-west-1/app", options);
            assert!(text.contains(said), "{options}: {text}");
            assert!(!text.contains("5ecr3t"), "{text}");
        }
    }

    #[test]
    fn a_wrong_address_is_refused_without_its_secret() {
        for url in [
            "kinesis://a:5ecr3t@eu west",
            "kinesis://a:5ecr3t@eu_west/app",
            "kinesis://a:5ecr3t@eu-west-1/a b",
        ] {
            let text = refusal(url, "leases = \"memory\"");
            assert!(!text.contains("5ecr3t"), "{text}");
        }
        assert!(refusal("kinesis://eu_west", "leases = \"memory\"").contains("kinesis://eu-west-1"));
    }
}

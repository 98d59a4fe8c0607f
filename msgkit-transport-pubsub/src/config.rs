//! The options of a Pub/Sub transport.

use std::path::PathBuf;
use std::time::Duration;

use msgkit::transport::TransportUrl;
use msgkit::{Error, ErrorKind};
use serde::{Deserialize, Serialize};

/// The largest request that the service takes.
pub(crate) const MOST_REQUEST: usize = 10_000_000;
/// What of a request is left for what copies have more, and for its frame.
pub(crate) const COPY: usize = 16 << 10;

/// What a `pubsub:` URL, or its table in the configuration, may say.
///
/// ```toml
/// [transports.backbone]
/// url = "pubsub://my-project/device-platform"
/// [transports.backbone.pubsub]
/// exactly_once = false
/// retention = "48h"
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
#[non_exhaustive]
pub struct PubsubConfig {
    /// The address of the service in place of Google's: `http://127.0.0.1:8085`. One that begins with `http://` is an emulator
    /// and gets no credentials. Default: what `PUBSUB_EMULATOR_HOST` says.
    pub endpoint: Option<String>,
    /// A JSON file with the key of a service account. Default: as every tool of Google's finds them (`GOOGLE_APPLICATION_CREDENTIALS`,
    /// `gcloud auth application-default login`, the machine's own account).
    pub credentials_file: Option<PathBuf>,
    /// Whether topics and subscriptions that are not there are created. `false`: one that is missing is an error that names it.
    pub create: bool,
    /// Whether subscriptions that are created deliver exactly once: the service then confirms each settlement, and refuses one
    /// whose lease was lost. `false` is faster; the service then says nothing, and now and then hands out again what was settled.
    pub exactly_once: bool,
    /// Whether subscriptions that are created let the service sort out what their group does not take, where several topics share
    /// a Pub/Sub topic (one device of `device.{id}.raw`). A filter cannot be changed: a group that takes more later is refused
    /// until its subscription was taken empty and deleted. `false`: members get it all, and skip what is not theirs.
    pub filters: bool,
    /// How often the service may hand out a message before it moves it by itself, 10 to 100, as a last resort: to the group's
    /// first retry topic, from there to its dead letters. It must exceed `max_starts` of each policy, or the service is first. It
    /// counts starts only where there is such a bound.
    pub delivery_attempts: u8,
    /// How long a message stays with a member that has died or is cut off, 10s to 10m; a living member renews it.
    #[serde(with = "msgkit::config::duration")]
    pub lease: Duration,
    /// How long a message may be held unsettled altogether; after that its lease is renewed no more.
    #[serde(with = "msgkit::config::duration")]
    pub max_hold: Duration,
    /// How long subscriptions that are created keep what nobody has settled, 10m to 31 days. Copies that wait for a retry are kept
    /// so long as dead letters where that is longer; a retry later than half of it is refused.
    #[serde(with = "msgkit::config::duration")]
    pub retention: Duration,
    /// The same for dead letters. Emulators take 7 days at most.
    #[serde(with = "msgkit::config::duration")]
    pub dead_letter_retention: Duration,
    /// After how long without a reader the subscriptions of a handler without a group are removed by the service, where the
    /// process could not; at least one day.
    #[serde(with = "msgkit::config::duration")]
    pub ephemeral_expiry: Duration,
    /// How many messages a subscription may have fetched beyond those in hand. Settlements are told ten times a second, so a
    /// member handles at most ten times these and the prefetch in a second. When a process dies, what it has fetched counts as
    /// started.
    pub fetch_ahead: u32,
    /// The most bytes that one subscription has fetched and not settled.
    pub fetch_buffer: usize,
    /// The largest message in bytes, attributes included; at most 9983616, with which copies fit into a request.
    pub max_message: usize,
    /// How long a message may take to be taken, retries and the wait for room included; after that it is given back.
    #[serde(with = "msgkit::config::duration")]
    pub publish_timeout: Duration,
    /// The most bytes that may be on their way to the service; publishers wait for room.
    pub publish_buffer: usize,
    /// How long a message may wait for others to travel with. What one call publishes travels together in any case.
    #[serde(with = "msgkit::config::duration")]
    pub linger: Duration,
    /// How often a subscription looks for new topics that it takes. One that this process has created is seen at once.
    #[serde(with = "msgkit::config::duration")]
    pub topic_refresh: Duration,
    /// How long the service may take for the answer to a question, retries included.
    #[serde(with = "msgkit::config::duration")]
    pub connect_timeout: Duration,
}

impl Default for PubsubConfig {
    fn default() -> Self {
        Self {
            endpoint: None,
            credentials_file: None,
            create: true,
            exactly_once: true,
            filters: false,
            delivery_attempts: 100,
            lease: Duration::from_secs(60),
            max_hold: Duration::from_secs(3600),
            retention: Duration::from_secs(7 * 24 * 3600),
            dead_letter_retention: Duration::from_secs(7 * 24 * 3600),
            ephemeral_expiry: Duration::from_secs(24 * 3600),
            fetch_ahead: 1000,
            fetch_buffer: 32 << 20,
            max_message: MOST_REQUEST - COPY,
            publish_timeout: Duration::from_secs(30),
            publish_buffer: 64 << 20,
            linger: Duration::ZERO,
            topic_refresh: Duration::from_secs(30),
            connect_timeout: Duration::from_secs(10),
        }
    }
}

impl PubsubConfig {
    /// The largest payload, which leaves room for attributes.
    pub(crate) fn max_payload(&self) -> usize {
        self.max_message - self.max_message.min(COPY) / 2
    }

    /// How long copies that wait for a retry are kept: what is owed a retry is owed it no shorter than a dead letter its reader.
    pub(crate) fn copy_retention(&self) -> Duration {
        self.retention.max(self.dead_letter_retention)
    }

    /// Refuses what cannot work, naming the option.
    pub(crate) fn check(&self) -> Result<(), Error> {
        let refuse = |text: &str| Err(Error::new(ErrorKind::Config, text.to_owned()));
        let (second, day) = (Duration::from_secs(1), Duration::from_secs(24 * 3600));
        if !(second * 10..=second * 600).contains(&self.lease) {
            return refuse("`lease` of a Pub/Sub transport must be 10s to 10m");
        }
        if self.max_hold < self.lease {
            return refuse("`max_hold` of a Pub/Sub transport must be at least its `lease`");
        }
        for (name, value) in
            [("retention", self.retention), ("dead_letter_retention", self.dead_letter_retention)]
        {
            if !(second * 600..=day * 31).contains(&value) {
                return Err(Error::new(
                    ErrorKind::Config,
                    format!("`{name}` of a Pub/Sub transport must be 10m to 744h (31 days)"),
                ));
            }
        }
        if !(day..=day * 31).contains(&self.ephemeral_expiry) {
            return refuse("`ephemeral_expiry` of a Pub/Sub transport must be 24h to 744h (31 days)");
        }
        if !(10..=100).contains(&self.delivery_attempts) {
            return refuse("`delivery_attempts` of a Pub/Sub transport must be 10 to 100");
        }
        if !(1 << 10..=MOST_REQUEST - COPY).contains(&self.max_message) {
            return refuse("`max_message` of a Pub/Sub transport must be 1024 to 9983616 bytes");
        }
        if self.publish_buffer < self.max_message || self.publish_buffer > 1 << 30 {
            return refuse(
                "`publish_buffer` of a Pub/Sub transport must be `max_message` to 1073741824 bytes",
            );
        }
        if self.fetch_buffer < self.max_message {
            return refuse("`fetch_buffer` of a Pub/Sub transport must be at least its `max_message`");
        }
        if self.linger > second * 60 {
            return refuse("`linger` of a Pub/Sub transport must be at most 1m");
        }
        for (name, value) in [
            ("publish_timeout", self.publish_timeout),
            ("topic_refresh", self.topic_refresh),
            ("connect_timeout", self.connect_timeout),
        ] {
            if value < Duration::from_millis(10) {
                return Err(Error::new(
                    ErrorKind::Config,
                    format!("`{name}` of a Pub/Sub transport must be at least 10ms"),
                ));
            }
        }
        Ok(())
    }
}

/// The project that a URL names, and what everything's name begins with.
pub(crate) fn place(url: &TransportUrl) -> Result<(String, String), Error> {
    let refuse = |text: String| Err(Error::new(ErrorKind::Config, text));
    if url.user().is_some() || url.password().is_some() {
        return refuse(
            "the url of a Pub/Sub transport takes no user and no password; credentials are found as Google's tools find them, or \
             in `credentials_file`"
                .to_owned(),
        );
    }
    let (project, prefix) = url.address().split_once('/').unwrap_or((url.address(), ""));
    let legal = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b':' | b'_');
    if project.is_empty() || !project.bytes().all(legal) {
        return refuse(format!(
            "the url of a Pub/Sub transport names the project `{project:.60}`, which can be none; write \
             `pubsub://my-project/name-of-the-system`"
        ));
    }
    let prefix = prefix.trim_end_matches('/');
    let legal = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-' | b'.');
    if prefix.len() > 50 || !prefix.bytes().all(legal) {
        return refuse(format!(
            "the path `{prefix:.60}` of the url of a Pub/Sub transport begins the name of every topic, so it may have 50 of \
             A-Z a-z 0-9 _ - ."
        ));
    }
    Ok((project.to_owned(), prefix.to_owned()))
}

#[cfg(test)]
mod tests {
    use msgkit::Registry;
    use msgkit::transport::Options;

    use super::*;

    fn refusal(url: &str, options: &str) -> String {
        let registry = Registry::new().with(crate::scheme());
        let url = TransportUrl::parse(url).unwrap();
        let options = Options::from_toml("[transports.t.pubsub]", options).unwrap();
        match registry.build(&url, options) {
            Ok(transport) => panic!("taken: {transport:?}"),
            Err(error) => msgkit::Chain(&error).to_string(),
        }
    }

    #[test]
    fn every_option_is_read() {
        let options = r#"
            endpoint = "http://127.0.0.1:8085"
            credentials_file = "key.json"
            create = false
            exactly_once = false
            delivery_attempts = 12
            lease = "30s"
            max_hold = "10m"
            retention = "1h"
            dead_letter_retention = "48h"
            ephemeral_expiry = "48h"
            fetch_ahead = 5
            fetch_buffer = 20000000
            max_message = 100000
            publish_timeout = "10s"
            publish_buffer = 20000000
            linger = "5ms"
            topic_refresh = "1m"
            connect_timeout = "4s"
        "#;
        let url = TransportUrl::parse("pubsub://p/app").unwrap();
        let config: PubsubConfig = Options::from_toml("place", options).unwrap().read(&url).unwrap();
        config.check().unwrap();
        assert_eq!((config.create, config.exactly_once, config.delivery_attempts), (false, false, 12));
        assert_eq!(place(&url).unwrap(), ("p".to_owned(), "app".to_owned()));
    }

    #[test]
    fn what_cannot_be_is_refused_by_its_name() {
        for (options, named) in [
            ("exactly_onec = true", "exactly_once"),
            ("endpoint = \"127.0.0.1:8085\"", "http://"),
            ("lease = \"5s\"", "lease"),
            ("max_hold = \"10s\"", "max_hold"),
            ("retention = \"1m\"", "retention"),
            ("dead_letter_retention = \"1000h\"", "dead_letter_retention"),
            ("ephemeral_expiry = \"1h\"", "ephemeral_expiry"),
            ("delivery_attempts = 9", "delivery_attempts"),
            ("max_message = 10000000", "max_message"),
            ("publish_buffer = 5", "publish_buffer"),
            ("fetch_buffer = 5", "fetch_buffer"),
            ("linger = \"2m\"", "linger"),
            ("publish_timeout = \"0s\"", "publish_timeout"),
            ("endpoint = \"http://127.0.0.1:1\"\ncredentials_file = \"key.json\"", "credentials_file"),
            ("credentials_file = \"no/such/key.json\"", "no/such/key.json"),
        ] {
            let text = refusal("pubsub://my-project/app", options);
            assert!(text.contains(named), "{options}: {text}");
        }
    }

    #[test]
    fn an_address_that_cannot_be_says_what_is_wrong_without_its_secret() {
        for (url, named) in [
            ("pubsub://", "pubsub://my-project"),
            ("pubsub://my project", "my project"),
            ("pubsub://p/a b", "a b"),
            ("pubsub://user:5ecr3t@p/app", "credentials_file"),
        ] {
            let text = refusal(url, "endpoint = \"http://127.0.0.1:1\"");
            assert!(text.contains(named), "{url}: {text}");
            assert!(!text.contains("5ecr3t"), "{text}");
        }
    }

    #[test]
    fn the_key_of_an_account_is_never_printed() {
        let file = tempfile::NamedTempFile::new().unwrap();
        for wrong in [
            "{\"private_key\": \"5ecr3t\", ",
            "\"5ecr3t\"",
            "[\"5ecr3t\"]",
            "{\"private_key\": \"5ecr3t\"}",
            "{\"client_email\": \"a@b\", \"private_key_id\": \"5ecr3t\", \"private_key\": [\"5ecr3t\"], \"project_id\": \"p\"}",
        ] {
            std::fs::write(file.path(), wrong).unwrap();
            let text = refusal("pubsub://p", &format!("credentials_file = {:?}", file.path()));
            assert!(text.contains("credentials_file") && !text.contains("5ecr3t"), "{text}");
        }
    }
}

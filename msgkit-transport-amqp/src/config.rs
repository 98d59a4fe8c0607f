//! The options of an AMQP transport.

use std::path::PathBuf;
use std::time::Duration;

use msgkit::{Error, ErrorKind};
use serde::{Deserialize, Serialize};

/// What an `amqp:` URL, or its table in the configuration, may say.
///
/// ```toml
/// [transports.backbone]
/// url = "amqps://app:secret@rabbit.example.org/production"
/// [transports.backbone.amqp]
/// capacity = 500000
/// on_unrouted = "error"
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
#[non_exhaustive]
pub struct AmqpConfig {
    /// The topic exchange that messages are published to, and the first part of every queue's name; at most 60 bytes.
    pub exchange: String,
    /// What stands before the names of CloudEvents attributes in the headers that are written: `cloudEvents_`, `cloudEvents:`,
    /// `ce-` or `ce_`; all are read.
    pub attribute_prefix: AttributePrefix,
    /// The most messages that wait in one group's queue; publishers in front of a full queue wait.
    pub capacity: u32,
    /// How long a publisher waits in front of a full queue before it gets a temporary error.
    #[serde(with = "msgkit::config::duration")]
    pub publish_timeout: Duration,
    /// How long the broker may take for its confirmation, as when an alarm blocks publishers. Of settlements too, which have
    /// `connect_timeout` where that is longer.
    #[serde(with = "msgkit::config::duration")]
    pub confirm_timeout: Duration,
    /// The largest payload in bytes; at most what the broker's `max_message_size` allows.
    pub max_payload: usize,
    /// What becomes of a message that no queue takes: it is taken and counted (`accept`), refused (`error`), or kept in the queue
    /// `<exchange>.unrouted` (`keep`).
    pub on_unrouted: OnUnrouted,
    /// How many nodes of a cluster keep each quorum queue; 0 = as many as the broker decides.
    pub replicas: u32,
    /// How often both sides give a sign of life; after twice as long without one the connection counts as dead. 0 = never.
    #[serde(with = "msgkit::config::duration")]
    pub heartbeat: Duration,
    /// How long connecting may take, the handshake included, and each answer of the broker to what is asked or declared.
    #[serde(with = "msgkit::config::duration")]
    pub connect_timeout: Duration,
    /// How long the broker lets a message be held unsettled: its `consumer_timeout`.
    #[serde(with = "msgkit::config::duration")]
    pub max_hold: Duration,
    /// How the client proves who it is: by user and password (`plain`), or by its certificate (`external`, with `cert_file`).
    pub sasl: Sasl,
    /// What the broker shows the connections as.
    pub connection_name: String,
    /// A PEM file with the certificate authorities to trust besides the machine's own, for `amqps:`.
    pub ca_file: Option<PathBuf>,
    /// A PEM file with the client's certificate chain, for `amqps:`; needs `key_file`.
    pub cert_file: Option<PathBuf>,
    /// A PEM file with the client's private key (PKCS #8), for `amqps:`; needs `cert_file`.
    pub key_file: Option<PathBuf>,
}

impl Default for AmqpConfig {
    fn default() -> Self {
        Self {
            exchange: "msgkit".to_owned(),
            attribute_prefix: AttributePrefix::default(),
            capacity: 1_000_000,
            publish_timeout: Duration::from_secs(5),
            confirm_timeout: Duration::from_secs(30),
            max_payload: 16 << 20,
            on_unrouted: OnUnrouted::default(),
            replicas: 0,
            heartbeat: Duration::from_secs(10),
            connect_timeout: Duration::from_secs(10),
            max_hold: Duration::from_secs(30 * 60),
            sasl: Sasl::default(),
            connection_name: "msgkit".to_owned(),
            ca_file: None,
            cert_file: None,
            key_file: None,
        }
    }
}

/// What stands before the names of CloudEvents attributes in headers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[non_exhaustive]
pub enum AttributePrefix {
    /// `cloudEvents_`, which AMQP 1.0 and JMS consumers of the same queue understand too.
    #[default]
    #[serde(rename = "cloudEvents_")]
    Underscore,
    /// `cloudEvents:`, the older form of the AMQP binding.
    #[serde(rename = "cloudEvents:")]
    Colon,
    /// `ce-`, as Knative and the RabbitMQ draft write it.
    #[serde(rename = "ce-")]
    CeDash,
    /// `ce_`, as on Kafka.
    #[serde(rename = "ce_")]
    CeUnderscore,
}

impl AttributePrefix {
    /// All that are read.
    pub(crate) const ALL: [Self; 4] = [Self::Underscore, Self::Colon, Self::CeDash, Self::CeUnderscore];

    /// The text.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Underscore => "cloudEvents_",
            Self::Colon => "cloudEvents:",
            Self::CeDash => "ce-",
            Self::CeUnderscore => "ce_",
        }
    }
}

/// What becomes of a message that no queue takes. A copy (delayed retry, dead letter) that no queue takes always fails.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum OnUnrouted {
    /// It is taken and counted.
    #[default]
    Accept,
    /// The publisher gets an error.
    Error,
    /// It is kept in the queue `<exchange>.unrouted`, by an alternate exchange.
    Keep,
}

/// How the client proves who it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Sasl {
    /// By the user and password of the URL.
    #[default]
    Plain,
    /// By its certificate.
    External,
}

impl AmqpConfig {
    /// Refuses what cannot work, naming the option.
    pub(crate) fn check(&self) -> Result<(), Error> {
        let refuse = |text: &str| Err(Error::new(ErrorKind::Config, text));
        let legal = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-' | b'.');
        if self.exchange.is_empty() || self.exchange.len() > 60 || !self.exchange.bytes().all(legal) {
            return refuse("`exchange` of an AMQP transport must be 1 to 60 of A-Z a-z 0-9 _ - .");
        }
        if self.exchange.starts_with("amq.") {
            return refuse("`exchange` begins with `amq.`, which the broker keeps for itself");
        }
        if self.capacity == 0 {
            return refuse("`capacity = 0` lets nothing be published to an AMQP transport; use at least 1");
        }
        if self.max_payload == 0 || self.max_payload > MOST_PAYLOAD {
            return refuse("`max_payload` of an AMQP transport must be 1 to 536870912 bytes (512 MiB)");
        }
        if self.heartbeat.as_secs() > u64::from(u16::MAX) || self.heartbeat.subsec_nanos() != 0 {
            return refuse("`heartbeat` of an AMQP transport must be whole seconds, at most 65535");
        }
        if self.connect_timeout.is_zero() || self.confirm_timeout.is_zero() {
            return refuse(
                "`connect_timeout` and `confirm_timeout` of an AMQP transport must be more than 0s",
            );
        }
        if self.cert_file.is_some() != self.key_file.is_some() {
            return refuse(
                "`cert_file` and `key_file` of an AMQP transport belong together; set both or none",
            );
        }
        if self.sasl == Sasl::External && self.cert_file.is_none() {
            return refuse(
                "`sasl = \"external\"` proves the client by its certificate; set `cert_file` and `key_file`",
            );
        }
        Ok(())
    }
}

/// The most that any RabbitMQ lets a message have.
const MOST_PAYLOAD: usize = 512 << 20;

#[cfg(test)]
mod tests {
    use msgkit::Registry;
    use msgkit::transport::{Options, TransportUrl};

    use super::*;

    fn refusal(url: &str, options: &str) -> String {
        let registry = Registry::new().with(crate::scheme());
        let url = TransportUrl::parse(url).unwrap();
        let options = Options::from_toml("[transports.t.amqp]", options).unwrap();
        match registry.build(&url, options) {
            Ok(transport) => panic!("taken: {transport:?}"),
            Err(error) => msgkit::Chain(&error).to_string(),
        }
    }

    #[test]
    fn every_option_is_read() {
        let options = r#"
            exchange = "orders"
            attribute_prefix = "ce-"
            capacity = 10
            publish_timeout = "1s"
            confirm_timeout = "2s"
            max_payload = 1000
            on_unrouted = "keep"
            replicas = 3
            heartbeat = "30s"
            connect_timeout = "4s"
            max_hold = "1h"
            sasl = "external"
            connection_name = "orders service"
            ca_file = "ca.pem"
            cert_file = "client.pem"
            key_file = "client.key"
        "#;
        let url = TransportUrl::parse("amqps://rabbit.example.org/v").unwrap();
        let config: AmqpConfig = Options::from_toml("place", options).unwrap().read(&url).unwrap();
        config.check().unwrap();
        assert_eq!(
            (config.attribute_prefix, config.on_unrouted),
            (AttributePrefix::CeDash, OnUnrouted::Keep)
        );
        assert_eq!((config.sasl, config.replicas, config.capacity), (Sasl::External, 3, 10));
        assert_eq!(config.max_hold, Duration::from_secs(3600));
    }

    #[test]
    fn what_cannot_work_is_refused_by_name() {
        for (options, said) in [
            ("capacity = 0", "capacity"),
            ("exchange = \"\"", "exchange"),
            ("exchange = \"amq.topic\"", "exchange"),
            ("max_payload = 0", "max_payload"),
            ("heartbeat = \"1500ms\"", "heartbeat"),
            ("connect_timeout = \"0s\"", "connect_timeout"),
            ("cert_file = \"c.pem\"", "key_file"),
            ("sasl = \"external\"", "cert_file"),
            ("ca_file = \"ca.pem\"", "amqps"),
            ("capcity = 1", "capacity"),
            ("attribute_prefix = \"x-\"", "cloudEvents_"),
        ] {
            let text = refusal("amqp://user:5ecr3t@localhost/v", options);
            assert!(text.contains(said), "{options}: {text}");
            assert!(!text.contains("5ecr3t"), "{text}");
        }
    }

    #[test]
    fn a_wrong_address_is_refused_without_its_password() {
        for url in ["amqp://user:5ecr3t@", "amqp://user:5ecr3t@host:notaport/v", "amqp:///v"] {
            let text = refusal(url, "");
            assert!(text.contains("amqp://host:5672/vhost"), "{url}: {text}");
            assert!(!text.contains("5ecr3t"), "{text}");
        }
    }
}

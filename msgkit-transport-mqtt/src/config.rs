//! The options of an MQTT transport.

use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use msgkit::transport::TransportUrl;
use msgkit::{Error, ErrorKind};
use serde::{Deserialize, Serialize};

use crate::wire::is_carried;

/// What an `mqtt:` URL, or its table in the configuration, may say.
///
/// ```toml
/// [transports.edge]
/// url = "mqtts://localhost:8883"
/// [transports.edge.mqtt]
/// session_expiry = "24h"
/// ca_file = "ca.crt"
/// ```
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
#[non_exhaustive]
pub struct MqttConfig {
    /// Which version of the protocol is spoken: `"5"`, or `"3.1.1"`, which has no headers and does not tell what nobody reads.
    pub version: Version,
    /// Topic levels that everything of this transport lies below, `plant/7`; empty for none.
    pub prefix: String,
    /// What every client id begins with; the same for all members of a group, other than that of any other system on the
    /// broker.
    pub client_id: String,
    /// The name of this process among its equals, where each has one that it keeps over a restart (the ordinal of a
    /// stateful set, a host): a restart then takes up its own sessions at once, whatever the broker believes.
    pub instance: Option<String>,
    /// The user, where the url does not name one.
    pub user: Option<String>,
    /// The password, where the url does not name one. Never printed.
    #[serde(skip_serializing)]
    pub password: Option<String>,
    /// The certificates that the broker's is checked against, PEM; without it those of the system.
    pub ca_file: Option<PathBuf>,
    /// This client's certificate, PEM; with `key_file`.
    pub cert_file: Option<PathBuf>,
    /// This client's private key, PEM; with `cert_file`.
    pub key_file: Option<PathBuf>,
    /// How events are written: `binary` (without it on MQTT 5), or `structured` (without it on 3.1.1), for all where some speak
    /// 3.1.1. Both are read.
    pub format: Option<Format>,
    /// The quality of service of what is published to topics: 1, or 0 to trade safety for speed. Copies are always 1.
    pub qos: u8,
    /// How long the broker keeps the session of a group whose members are all away, and so its messages (MQTT 5).
    #[serde(with = "msgkit::config::duration")]
    pub session_expiry: Duration,
    /// How long nothing may be heard before the connection counts as broken; at least 5s.
    #[serde(with = "msgkit::config::duration")]
    pub keep_alive: Duration,
    /// How long connecting may take, and then the longest silence before the broker has answered the subscription and its mark.
    #[serde(with = "msgkit::config::duration")]
    pub connect_timeout: Duration,
    /// How long a publisher waits while the broker confirms nothing, before it gets a temporary error; a broker that says
    /// nothing for half of it is left for a new connection.
    #[serde(with = "msgkit::config::duration")]
    pub publish_timeout: Duration,
    /// The most messages that may be on their way to the broker unconfirmed; the broker may allow fewer.
    pub in_flight: u16,
    /// The largest payload that is published, in bytes.
    pub max_payload: usize,
    /// The largest packet that is received, in bytes. A broker of MQTT 5 drops larger ones by the standard, so less than
    /// the protocol's own limit (256 MiB) can lose messages.
    pub max_packet: u32,
    /// Whether an ephemeral subscription begins with what the broker retains for its topics.
    pub retained: bool,
    /// What the broker publishes when it misses this process, as devices use it: `will = { topic = "device.7.state", payload =
    /// "{\"online\":false}", retain = true }`. Plain bytes, which a subscription reads by its ingest rules.
    pub will: Option<Will>,
    /// What becomes of a message that nobody is subscribed to: it is taken and counted (`accept`), or refused (`error`; MQTT 5).
    pub on_unrouted: OnUnrouted,
    /// Whether a group of several members has one more session, to which its messages go as well, for what is published
    /// between a restart of the broker and their return. `false` only where the broker keeps shared subscriptions over its
    /// restart (Mosquitto 2.0 does not), or where that may be lost.
    pub keeper: bool,
    /// How long a member of a group must have been gone before another takes over its session.
    #[serde(with = "msgkit::config::duration")]
    pub takeover_after: Duration,
}

/// The protocol's own limit of a packet.
pub(crate) const MOST_PACKET: u32 = 268_435_455;

impl Default for MqttConfig {
    fn default() -> Self {
        Self {
            version: Version::V5,
            prefix: String::new(),
            client_id: "msgkit".to_owned(),
            instance: None,
            user: None,
            password: None,
            ca_file: None,
            cert_file: None,
            key_file: None,
            format: None,
            qos: 1,
            session_expiry: Duration::from_secs(7 * 24 * 3600),
            keep_alive: Duration::from_secs(30),
            connect_timeout: Duration::from_secs(5),
            publish_timeout: Duration::from_secs(10),
            in_flight: 100,
            max_payload: 16 << 20,
            max_packet: MOST_PACKET,
            retained: false,
            will: None,
            on_unrouted: OnUnrouted::Accept,
            keeper: true,
            takeover_after: Duration::from_secs(2),
        }
    }
}

impl fmt::Debug for MqttConfig {
    /// Without user, password and the place of the key.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MqttConfig")
            .field("version", &self.version)
            .field("prefix", &self.prefix)
            .field("client_id", &self.client_id)
            .field("instance", &self.instance)
            .field("format", &self.format())
            .field("qos", &self.qos)
            .field("session_expiry", &self.session_expiry)
            .field("keep_alive", &self.keep_alive)
            .finish_non_exhaustive()
    }
}

/// What the broker publishes when the connection that publishes breaks; a transport that is closed takes it back.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[non_exhaustive]
pub struct Will {
    /// Where to.
    pub topic: String,
    /// What.
    pub payload: String,
    /// Whether the broker keeps it for those who subscribe later.
    #[serde(default)]
    pub retain: bool,
}

impl Will {
    /// `payload` to `topic`, not retained.
    pub fn new(topic: impl Into<String>, payload: impl Into<String>) -> Self {
        Self { topic: topic.into(), payload: payload.into(), retain: false }
    }
}

/// A version of the protocol.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[non_exhaustive]
pub enum Version {
    /// MQTT 5.
    #[default]
    #[serde(rename = "5")]
    V5,
    /// MQTT 3.1.1: no headers, so events are structured; no word on messages that nobody reads.
    #[serde(rename = "3.1.1")]
    V311,
}

/// How events are written (CloudEvents MQTT binding). Both are read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Format {
    /// Attributes as user properties; MQTT 5 only.
    Binary,
    /// One JSON text.
    Structured,
}

/// What becomes of a message that nobody is subscribed to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum OnUnrouted {
    /// It is taken and counted.
    #[default]
    Accept,
    /// The publisher gets an error; needs MQTT 5 and a broker that tells.
    Error,
}

impl MqttConfig {
    /// How messages are written.
    pub(crate) fn format(&self) -> Format {
        self.format.unwrap_or(match self.version {
            Version::V5 => Format::Binary,
            Version::V311 => Format::Structured,
        })
    }

    /// Refuses what cannot work, naming the option.
    pub(crate) fn check(&self) -> Result<(), Error> {
        let refuse = |text: &str| Err(Error::new(ErrorKind::Config, text));
        if self.version == Version::V311 && self.format == Some(Format::Binary) {
            return refuse(
                "`format = \"binary\"` needs MQTT 5, because 3.1.1 has no headers; use \"structured\"",
            );
        }
        if self.version == Version::V311 && self.on_unrouted == OnUnrouted::Error {
            return refuse("`on_unrouted = \"error\"` needs MQTT 5: a broker of 3.1.1 cannot tell");
        }
        if self.qos > 1 {
            return refuse(
                "`qos` of an MQTT transport must be 0 or 1; duplicates are the consumer's to tell",
            );
        }
        if self.keep_alive < Duration::from_secs(5) || self.keep_alive > Duration::from_secs(65_535) {
            return refuse("`keep_alive` of an MQTT transport must be 5s to 65535s");
        }
        if self.in_flight == 0 {
            return refuse("`in_flight = 0` lets nothing be published to an MQTT transport; use at least 1");
        }
        if self.max_payload == 0 || self.max_payload > (MOST_PACKET as usize) - (1 << 20) {
            return refuse("`max_payload` of an MQTT transport must be 1 to 267386879 bytes (255 MiB)");
        }
        if self.max_packet < 10 << 10 || self.max_packet > MOST_PACKET {
            return refuse("`max_packet` of an MQTT transport must be 10240 to 268435455 bytes");
        }
        if self.version == Version::V311 && self.max_packet != MOST_PACKET {
            return refuse(
                "`max_packet` needs MQTT 5: a broker of 3.1.1 cannot be told, and would send what is larger again and again",
            );
        }
        if self.prefix.contains(['+', '#']) || self.prefix.starts_with('$') || !is_carried(&self.prefix) {
            return refuse(
                "`prefix` of an MQTT transport must be topic levels like `plant/7`, without `+ # $` and control characters",
            );
        }
        if self.client_id.is_empty() || self.client_id.len() > 1024 || !is_carried(&self.client_id) {
            return refuse(
                "`client_id` of an MQTT transport must have 1 to 1024 bytes and no control characters; it begins every client id",
            );
        }
        if self.connect_timeout.is_zero() {
            return refuse("`connect_timeout = 0s` lets no MQTT connection come about; use at least 1s");
        }
        if self.takeover_after < Duration::from_millis(100) {
            return refuse(
                "`takeover_after` of an MQTT transport must be at least 100ms: members would take sessions from each other all the time",
            );
        }
        let name = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'-' | b'.');
        if self.instance.as_ref().is_some_and(|instance| instance.is_empty() || !instance.bytes().all(name)) {
            return refuse("`instance` of an MQTT transport must be made of A-Z a-z 0-9 _ - .");
        }
        if self.session_expiry.is_zero() {
            return refuse(
                "`session_expiry = 0s` would lose what a group that is away is owed; use at least 1s",
            );
        }
        if let Some(will) = &self.will
            && let Err(error) = will.topic.parse::<msgkit::Topic>()
        {
            let text = format!("`will.topic = {:?}` of an MQTT transport is no topic", will.topic);
            return Err(Error::new(ErrorKind::Config, text).with_source(error));
        }
        if self.cert_file.is_some() != self.key_file.is_some() {
            return refuse("`cert_file` and `key_file` of an MQTT transport belong together; give both");
        }
        Ok(())
    }
}

/// Where the broker is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Address {
    pub(crate) host: String,
    pub(crate) port: u16,
    /// The path of a WebSocket, with its `/`.
    pub(crate) path: String,
    pub(crate) tls: bool,
    pub(crate) websocket: bool,
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.host, self.port)
    }
}

/// The schemes of MQTT's URLs.
pub(crate) const SCHEMES: &[&str] = &["mqtt", "mqtts", "mqtt+ws", "mqtt+wss"];

impl Address {
    /// What `url` names.
    pub(crate) fn of(url: &TransportUrl) -> Result<Self, Error> {
        let refuse = |text: String| Err(Error::new(ErrorKind::Config, text));
        let scheme = url.scheme();
        let (tls, websocket) = (scheme.ends_with('s') && scheme != "mqtt+ws", scheme.contains("+ws"));
        if tls && !cfg!(feature = "tls") {
            return refuse(format!("`{scheme}:` needs the feature `tls` of msgkit-transport-mqtt"));
        }
        if websocket && !cfg!(feature = "websocket") {
            return refuse(format!("`{scheme}:` needs the feature `websocket` of msgkit-transport-mqtt"));
        }
        let address = url.broker()?;
        let (authority, path) = match address.find('/') {
            Some(at) => address.split_at(at),
            None => (address, ""),
        };
        if !websocket && !matches!(path, "" | "/") {
            return refuse(format!(
                "the url of an MQTT transport has the path `{path}`; for topic levels use the option `prefix`"
            ));
        }
        let default = match (tls, websocket) {
            (false, false) => 1883,
            (true, false) => 8883,
            (false, true) => 80,
            (true, true) => 443,
        };
        let (host, port) = match authority.rsplit_once(':') {
            Some((host, port)) if !port.ends_with(']') => match port.parse() {
                Ok(port) => (host, port),
                Err(_) => {
                    return refuse(format!(
                        "the url of an MQTT transport has the port `{port}`, which is none"
                    ));
                }
            },
            _ => (authority, default),
        };
        if host.is_empty() {
            return refuse(
                "the url of an MQTT transport names no host; write `mqtt://localhost:1883`".to_owned(),
            );
        }
        Ok(Self {
            host: host.to_owned(),
            port,
            path: if path.is_empty() { "/mqtt".to_owned() } else { path.to_owned() },
            tls,
            websocket,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(url: &str) -> Result<Address, Error> {
        Address::of(&TransportUrl::parse(url).unwrap())
    }

    #[test]
    fn addresses_have_their_usual_ports() {
        let plain = address("mqtt://broker").unwrap();
        assert_eq!((plain.host.as_str(), plain.port, plain.tls), ("broker", 1883, false));
        assert_eq!(address("mqtt://user:pw@broker:99/").unwrap().port, 99);
        assert_eq!(address("mqtt://[::1]").unwrap().port, 1883);
        for wrong in ["mqtt://", "mqtt://broker:no", "mqtt://broker/some/topic"] {
            assert!(address(wrong).is_err(), "{wrong}");
        }
        #[cfg(feature = "tls")]
        assert_eq!(address("mqtts://broker").unwrap().port, 8883);
    }

    #[test]
    fn what_cannot_work_is_refused_by_name() {
        type Change = fn(&mut MqttConfig);
        let cases: [(&str, Change); 15] = [
            ("will.topic", |config| config.will = Some(Will::new("a/b", "gone"))),
            ("qos", |config| config.qos = 2),
            ("keep_alive", |config| config.keep_alive = Duration::from_secs(4)),
            ("in_flight", |config| config.in_flight = 0),
            ("max_payload", |config| config.max_payload = usize::MAX),
            ("prefix", |config| config.prefix = "a/#".to_owned()),
            ("prefix", |config| config.prefix = "a\nb".to_owned()),
            ("client_id", |config| config.client_id = "a\u{7f}".to_owned()),
            ("connect_timeout", |config| config.connect_timeout = Duration::ZERO),
            ("takeover_after", |config| config.takeover_after = Duration::from_millis(1)),
            ("max_packet", |config| {
                config.version = Version::V311;
                config.max_packet = 1 << 20;
            }),
            ("session_expiry", |config| config.session_expiry = Duration::ZERO),
            ("cert_file", |config| config.cert_file = Some("c.pem".into())),
            ("format", |config| {
                config.version = Version::V311;
                config.format = Some(Format::Binary);
            }),
            ("on_unrouted", |config| {
                config.version = Version::V311;
                config.on_unrouted = OnUnrouted::Error;
            }),
        ];
        assert!(MqttConfig::default().check().is_ok());
        for (option, change) in cases {
            let mut config = MqttConfig::default();
            change(&mut config);
            let error = config.check().unwrap_err();
            assert!(error.to_string().contains(&format!("`{option}")), "{option}: {error}");
        }
    }

    #[test]
    fn secrets_are_not_printed() {
        let config = MqttConfig { password: Some("5ecr3t".to_owned()), ..MqttConfig::default() };
        assert!(!format!("{config:?}").contains("5ecr3t"));
    }
}

//! The native clients: how they are configured, and what they tell on the side.

use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use msgkit::Error;
use msgkit::transport::{TransportError, TransportErrorKind, TransportUrl};
use rdkafka::ClientConfig;
use rdkafka::client::ClientContext;
use rdkafka::config::RDKafkaLogLevel;
use rdkafka::consumer::ConsumerContext;
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::producer::{DeliveryResult, ProducerContext};

use crate::config::{HAS_TLS, KafkaConfig, Sasl, refusal};
use crate::error;
use crate::publisher::Ticket;

/// Where the brokers are, and who we are there; never prints its password.
#[derive(Clone)]
pub(crate) struct Address {
    servers: String,
    tls: bool,
    user: Option<(String, String)>,
}

impl Address {
    /// Reads `kafka://user:password@host:port,host:port`.
    pub(crate) fn of(url: &TransportUrl, config: &KafkaConfig) -> Result<Self, Error> {
        let tls = url.scheme() == "kafkas";
        if tls && !HAS_TLS {
            return Err(refusal(
                "`kafkas:` needs the feature `tls` of msgkit-transport-kafka; add it, or use `kafka:`",
            ));
        }
        if !tls && [&config.ca_file, &config.cert_file, &config.key_file].iter().any(|file| file.is_some()) {
            return Err(refusal(
                "`ca_file`, `cert_file` and `key_file` are for `kafkas:`; this url is `kafka:`",
            ));
        }
        let address = url.broker()?;
        let (hosts, path) = address.split_once('/').unwrap_or((address, ""));
        if !path.is_empty() {
            return Err(refusal(format!(
                "the url of a Kafka transport has no path, yet `/{path:.60}` follows the hosts; topics are named by messages, \
                 see `prefix` and `destinations`"
            )));
        }
        let mut servers = Vec::new();
        for host in hosts.split(',') {
            // `[::1]:9092` has its port behind the bracket.
            let (name, port) = match host.rsplit_once(':') {
                Some((name, port)) if !port.ends_with(']') => (name, port),
                _ => (host, "9092"),
            };
            if name.is_empty() {
                return Err(refusal(
                    "the url of a Kafka transport has no host; write `kafka://host:9092`, more hosts behind commas",
                ));
            }
            if port.parse::<u16>().is_err() {
                return Err(refusal(format!(
                    "the url of a Kafka transport has the port `{port:.20}`, which is no number from 0 to 65535"
                )));
            }
            servers.push(format!("{name}:{port}"));
        }
        let user = match (url.user(), url.password()) {
            (None, _) => None,
            (Some(user), Some(password)) => Some((user.to_owned(), password.to_owned())),
            (Some(_), None) => {
                return Err(refusal(
                    "the url of a Kafka transport has a user and no password; write `kafka://user:password@host`",
                ));
            }
        };
        if user.is_none() && config.sasl != Sasl::Plain {
            return Err(refusal(
                "`sasl` needs a user and a password in the url: `kafka://user:password@host`",
            ));
        }
        Ok(Self { servers: servers.join(","), tls, user })
    }

    /// The hosts, for errors.
    pub(crate) fn servers(&self) -> &str {
        &self.servers
    }
}

impl fmt::Debug for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Address")
            .field("servers", &self.servers)
            .field("tls", &self.tls)
            .finish_non_exhaustive()
    }
}

/// What every client has in common.
fn common(address: &Address, config: &KafkaConfig) -> ClientConfig {
    let mut native = ClientConfig::new();
    native
        .set("bootstrap.servers", &address.servers)
        .set("client.id", &config.client_id)
        .set("log.connection.close", "false")
        .set("socket.timeout.ms", "10000")
        .set("socket.nagle.disable", "true")
        .set("reconnect.backoff.ms", "50")
        .set("reconnect.backoff.max.ms", "2000")
        .set("allow.auto.create.topics", "false");
    let protocol = match (&address.user, address.tls) {
        (Some(_), true) => "sasl_ssl",
        (Some(_), false) => "sasl_plaintext",
        (None, true) => "ssl",
        (None, false) => "plaintext",
    };
    native.set("security.protocol", protocol);
    if let Some((user, password)) = &address.user {
        native
            .set("sasl.mechanism", config.sasl.as_str())
            .set("sasl.username", user)
            .set("sasl.password", password);
    }
    let files = [
        ("ssl.ca.location", &config.ca_file),
        ("ssl.certificate.location", &config.cert_file),
        ("ssl.key.location", &config.key_file),
    ];
    if address.tls {
        // Where the machine keeps its authorities, which an OpenSSL that was built along does not know by itself.
        native.set("ssl.ca.location", "probe");
        for (name, file) in files {
            if let Some(file) = file {
                native.set(name, file.display().to_string());
            }
        }
    }
    native
}

fn millis(duration: Duration) -> String {
    duration.as_millis().to_string()
}

/// A producer that loses nothing and keeps the order of each partition.
pub(crate) fn producer(address: &Address, config: &KafkaConfig) -> ClientConfig {
    let mut native = common(address, config);
    native
        .set("enable.idempotence", "true")
        .set("acks", "all")
        // The partition that a Java producer would choose for the key.
        .set("partitioner", "murmur2_random")
        .set("message.max.bytes", config.max_copy().to_string())
        .set("delivery.timeout.ms", millis(config.publish_timeout))
        .set("linger.ms", millis(config.linger))
        .set("compression.type", config.compression.as_str())
        .set("queue.buffering.max.kbytes", (config.publish_buffer.max(config.max_copy()) >> 10).to_string())
        .set("queue.buffering.max.messages", "1000000");
    native
}

/// A consumer, `group` of which names its offsets and members.
pub(crate) fn consumer(address: &Address, config: &KafkaConfig, group: &str) -> ClientConfig {
    let mut native = common(address, config);
    let heartbeat = (config.session_timeout / 10).clamp(Duration::from_millis(100), Duration::from_secs(3));
    // Of both bounds the lower one holds. One message more than the bytes allow is fetched in any case.
    let kilobytes = (config.fetch_buffer >> 10).to_string();
    native
        .set("group.id", group)
        .set("enable.auto.commit", "false")
        .set("enable.auto.offset.store", "false")
        .set("auto.offset.reset", "earliest")
        .set("partition.assignment.strategy", "cooperative-sticky")
        .set("session.timeout.ms", millis(config.session_timeout))
        .set("heartbeat.interval.ms", millis(heartbeat))
        .set("queued.min.messages", "1000")
        .set("queued.max.messages.kbytes", kilobytes)
        .set("fetch.message.max.bytes", config.max_message.max(1 << 20).to_string())
        .set("fetch.max.bytes", config.fetch_buffer.max(config.max_message).max(1 << 20).to_string())
        // One answer that is larger would come again and again.
        .set("receive.message.max.bytes", largest_answer(config).to_string())
        .set("fetch.error.backoff.ms", "100");
    native
}

/// The largest answer that is taken: more than a broker takes in one request by default (100 MiB), so that whatever others
/// could publish can be read.
fn largest_answer(config: &KafkaConfig) -> usize {
    (config.fetch_buffer.max(config.max_message) + (2 << 20)).max(128 << 20)
}

/// A member of a group; `instance` is its static name.
pub(crate) fn member(address: &Address, config: &KafkaConfig, group: &str) -> ClientConfig {
    let mut native = consumer(address, config, group);
    if !config.instance.is_empty() {
        native.set("group.instance.id", &config.instance);
    }
    native
}

/// A consumer that looks and leaves no trace.
pub(crate) fn looker(address: &Address, config: &KafkaConfig) -> ClientConfig {
    let mut native = consumer(address, config, "msgkit.looker");
    native.set("enable.partition.eof", "true").set("fetch.wait.max.ms", "10");
    native
}

/// What the clients of one transport have said of their connections last.
#[derive(Debug, Clone, Default)]
pub(crate) struct Said {
    words: Arc<Mutex<Words>>,
    /// How often a broker has refused one of them for what it is.
    refusals: Arc<AtomicU64>,
}

#[derive(Debug, Default)]
struct Words {
    last: Option<Last>,
    /// Why no connection came about.
    unreached: Option<String>,
    /// It was logged that nobody can be reached.
    told: bool,
}

#[derive(Debug, Clone, Copy)]
struct Last {
    code: RDKafkaErrorCode,
    kind: TransportErrorKind,
    hint: &'static str,
    /// By the client's own reason, not by its code alone.
    exact: bool,
}

impl Said {
    fn hear(&self, error: &KafkaError, reason: &str) {
        tracing::debug!(error = %error, reason, "the Kafka client tells");
        if let Some(code) = error.rdkafka_error_code() {
            let told = error::meaning(reason);
            let (kind, hint) = told.unwrap_or_else(|| error::kind_of(code));
            if error::is_refusal(code, reason) {
                self.refusals.fetch_add(1, Ordering::AcqRel);
            }
            self.keep(Last { code, kind, hint, exact: told.is_some() });
            if let Some(why) = self.unreached(code, reason) {
                tracing::warn!(reason = why, "no Kafka broker can be reached; the client goes on trying");
            }
        }
    }

    /// Why no broker can be reached, once until one answers. Brokers are down also where they have ended a connection that nobody
    /// used, and then the client has not tried yet.
    fn unreached(&self, code: RDKafkaErrorCode, reason: &str) -> Option<String> {
        let mut words = self.words();
        let failed = code == RDKafkaErrorCode::BrokerTransportFailure && reason.contains("Connect to ");
        if failed || code == RDKafkaErrorCode::Resolve {
            words.unreached = Some(reason.to_owned());
        }
        if code != RDKafkaErrorCode::AllBrokersDown || words.told {
            return None;
        }
        let why = words.unreached.take();
        words.told = why.is_some();
        why
    }

    fn words(&self) -> MutexGuard<'_, Words> {
        self.words.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// That all brokers are down says less than why, and that a connection ended less than that somebody was refused.
    fn keep(&self, new: Last) {
        let last = &mut self.words().last;
        let weight = |last: &Last| {
            let refused = last.kind == TransportErrorKind::Refused;
            (refused, last.exact, last.code != RDKafkaErrorCode::AllBrokersDown)
        };
        if last.as_ref().is_none_or(|last| weight(last) <= weight(&new)) {
            *last = Some(new);
        }
    }

    /// Changes whenever a broker refuses who we are, or shows that it is not whom we trust: waiting longer changes nothing.
    pub(crate) fn refusals(&self) -> u64 {
        self.refusals.load(Ordering::Acquire)
    }

    /// Forgets, once a broker has answered.
    pub(crate) fn forget(&self) {
        if std::mem::take(&mut *self.words()).told {
            tracing::info!("a Kafka broker answers again");
        }
    }

    /// The error of a call that failed, made clearer by what was said: a refused password looks like no answer.
    pub(crate) fn explain(&self, failed: KafkaError, doing: &str) -> TransportError {
        let said = self.words().last;
        let plain = error::of(failed, doing);
        let Some(Last { code, kind, hint, .. }) = said else { return plain };
        let clearer = kind == TransportErrorKind::Refused || !hint.is_empty();
        if !clearer || !matches!(plain.kind(), TransportErrorKind::Unavailable | TransportErrorKind::Timeout)
        {
            return plain;
        }
        TransportError::new(kind, format!("{doing} failed: {hint}"))
            .with_source(error::Native(KafkaError::Global(code)))
    }
}

/// The context of clients that have nothing of their own to tell.
#[derive(Debug, Clone)]
pub(crate) struct Listening(pub(crate) Said);

impl ClientContext for Listening {
    fn log(&self, level: RDKafkaLogLevel, facility: &str, text: &str) {
        log(level, facility, text);
    }

    fn error(&self, error: KafkaError, reason: &str) {
        self.0.hear(&error, reason);
    }
}

impl ConsumerContext for Listening {}

impl ProducerContext for Listening {
    type DeliveryOpaque = Box<Ticket>;

    fn delivery(&self, result: &DeliveryResult<'_>, ticket: Box<Ticket>) {
        ticket.answer(result.as_ref().err().map(|(error, _)| error.clone()));
    }
}

/// What the client logs is for those who look for it: what matters comes as an error too.
fn log(level: RDKafkaLogLevel, facility: &str, text: &str) {
    match level {
        RDKafkaLogLevel::Emerg | RDKafkaLogLevel::Alert | RDKafkaLogLevel::Critical => {
            tracing::error!(target: "librdkafka", facility, "{text}");
        }
        RDKafkaLogLevel::Error | RDKafkaLogLevel::Warning => {
            tracing::info!(target: "librdkafka", facility, "{text}");
        }
        _ => tracing::debug!(target: "librdkafka", facility, "{text}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_outage_is_told_once_and_an_idle_connection_is_none() {
        const REFUSED: &str = "b:9092/bootstrap: Connect to ipv4#127.0.0.1:9092 failed: Connection refused";
        let said = Said::default();
        let hears = |code, reason: &str| said.unreached(code, reason);
        let down = || hears(RDKafkaErrorCode::AllBrokersDown, "1/1 brokers are down");
        assert_eq!(down(), None, "the broker has ended a connection that nobody used");
        for _ in 0..2 {
            assert_eq!(hears(RDKafkaErrorCode::BrokerTransportFailure, REFUSED), None);
            assert_eq!(down().as_deref(), Some(REFUSED));
            assert_eq!(hears(RDKafkaErrorCode::BrokerTransportFailure, REFUSED), None);
            assert_eq!(down(), None, "it was told");
            said.forget();
        }
    }
}

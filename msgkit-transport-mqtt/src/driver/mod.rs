//! The one place that knows the MQTT client, so that another one could take its place.
//!
//! **A client is made for each connection and thrown away with it.** The client would rather live on and repair itself, and
//! that is where its faults are: on a reconnect without a session it forgets what it had not sent; a collision of packet
//! numbers outlives its connection and stops all publishing; an acknowledgement that was made for one connection goes out on
//! the next. A client that never sees a second connection has none of them, and what has to survive is kept by those who
//! gave it: [`crate::sending`] sends again what is unconfirmed, [`crate::inbox`] forgets what will come again.
//!
//! What else it is known for, and what is done: it has no word on what became of a publish, so requests are counted in the
//! order in which it takes them ([`Event::Sent`]); it takes no packet over 10 KiB unless told; it retries at once and
//! forever, so the pauses are in [`crate::connection`]; its loop must not be dropped between two polls, so one task owns it;
//! it does not send acknowledgements while its window of publishes is full, so nothing is published where messages are
//! received but the marks of a slot.

mod v311;
mod v5;

use std::collections::VecDeque;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use msgkit::Error;
use msgkit::transport::TransportErrorKind;

use crate::config::{Address, MqttConfig, Version};
use crate::error::Failure;
use crate::wire::{Arrived, Parcel};

/// Where the broker is and how it is spoken to: what all connections share.
pub(crate) struct Broker {
    pub(crate) address: Address,
    pub(crate) version: Version,
    credentials: Option<(String, String)>,
    transport: rumqttc::Transport,
    keep_alive: Duration,
    pub(crate) connect_timeout: Duration,
    in_flight: u16,
    max_packet: u32,
}

impl fmt::Debug for Broker {
    /// Without credentials.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Broker")
            .field("address", &self.address)
            .field("version", &self.version)
            .finish_non_exhaustive()
    }
}

impl Broker {
    pub(crate) fn new(address: Address, config: &MqttConfig) -> Result<Self, Error> {
        let files =
            [("ca_file", &config.ca_file), ("cert_file", &config.cert_file), ("key_file", &config.key_file)];
        if let Some((option, _)) = files.into_iter().find(|(_, file)| file.is_some() && !address.tls) {
            let text = format!(
                "`{option}` of an MQTT transport is for TLS, which its url does not ask for; write `mqtts:`"
            );
            return Err(Error::new(msgkit::ErrorKind::Config, text));
        }
        if config.password.is_some() && config.user.is_none() {
            return Err(Error::new(
                msgkit::ErrorKind::Config,
                "`password` of an MQTT transport needs `user`, in the url or beside it",
            ));
        }
        let credentials = config.user.clone().map(|user| (user, config.password.clone().unwrap_or_default()));
        Ok(Self {
            transport: transport(&address, config)?,
            address,
            version: config.version,
            credentials,
            keep_alive: config.keep_alive,
            connect_timeout: config.connect_timeout,
            in_flight: config.in_flight,
            max_packet: config.max_packet,
        })
    }

    /// The host as the client wants it: for a WebSocket its whole address.
    fn host(&self) -> String {
        let Address { host, port, path, tls, websocket } = &self.address;
        match (websocket, tls) {
            (false, _) => host.clone(),
            (true, false) => format!("ws://{host}:{port}{path}"),
            (true, true) => format!("wss://{host}:{port}{path}"),
        }
    }

    /// What a failure is called.
    fn failure(&self, kind: TransportErrorKind, text: &str) -> Failure {
        Failure::new(kind, format!("the MQTT broker at {}: {text}", self.address))
    }
}

#[cfg(feature = "tls")]
fn transport(address: &Address, config: &MqttConfig) -> Result<rumqttc::Transport, Error> {
    use rumqttc::{TlsConfiguration, Transport};
    if !address.tls {
        return Ok(plain(address));
    }
    let read = |option: &str, file: &std::path::Path| {
        std::fs::read(file).map_err(|error| {
            let text = format!("`{option} = {:?}` of an MQTT transport cannot be read", file.display());
            Error::new(msgkit::ErrorKind::Config, text).with_source(error)
        })
    };
    let client_auth = match (&config.cert_file, &config.key_file) {
        (Some(cert), Some(key)) => Some((read("cert_file", cert)?, read("key_file", key)?)),
        _ => None,
    };
    let tls = match &config.ca_file {
        Some(file) => TlsConfiguration::Simple { ca: read("ca_file", file)?, alpn: None, client_auth },
        None if client_auth.is_some() => {
            return Err(Error::new(
                msgkit::ErrorKind::Config,
                "`cert_file` of an MQTT transport needs `ca_file`: name the certificates that the broker's is checked against",
            ));
        }
        None => TlsConfiguration::default(),
    };
    #[cfg(feature = "websocket")]
    if address.websocket {
        return Ok(Transport::Wss(tls));
    }
    Ok(Transport::Tls(tls))
}

#[cfg(not(feature = "tls"))]
fn transport(address: &Address, _: &MqttConfig) -> Result<rumqttc::Transport, Error> {
    Ok(plain(address))
}

fn plain(address: &Address) -> rumqttc::Transport {
    #[cfg(feature = "websocket")]
    if address.websocket {
        return rumqttc::Transport::Ws;
    }
    let _ = address;
    rumqttc::Transport::Tcp
}

/// One connection to be made.
#[derive(Debug, Clone)]
pub(crate) struct Dial {
    pub(crate) broker: Arc<Broker>,
    pub(crate) client_id: String,
    /// Whether a session of that client id is thrown away first.
    pub(crate) clean: bool,
    /// How long the session outlives the connection; MQTT 3.1.1 knows only "not" and "forever".
    pub(crate) expiry: Duration,
    /// The most messages that the broker may have sent unacknowledged.
    pub(crate) receive: u16,
    /// What the broker publishes when the connection breaks.
    pub(crate) will: Option<LastWill>,
}

/// What the broker publishes for a connection that breaks.
#[derive(Debug, Clone)]
pub(crate) struct LastWill {
    pub(crate) topic: String,
    pub(crate) payload: String,
    pub(crate) retain: bool,
}

impl LastWill {
    /// A mark, or an empty text for none.
    pub(crate) fn mark(topic: String, payload: String) -> Self {
        Self { topic, payload, retain: true }
    }
}

/// What happens on a connection.
#[derive(Debug)]
pub(crate) enum Event {
    /// It stands.
    Connected(Welcome),
    /// The next publish of those that were asked for went out under a number; 0 = nobody will confirm it.
    Sent(u16),
    /// The next publish has to wait, because its number is in use; it will be `Sent` later.
    Waiting(u16),
    /// The broker has a publish, or has refused it.
    Confirmed(u16, Confirmation),
    /// The broker has answered the oldest subscribe: granted it as it was asked for, or refused the filter that is named.
    Subscribed(Result<(), Failure>),
    /// The broker has answered the oldest unsubscribe, which was of that filter; why, where it refuses to end it.
    Unsubscribed(String, Option<String>),
    /// A message came.
    Arrived(Arrived),
    /// The goodbye is on its way.
    Left,
}

/// What the broker says at the beginning.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Welcome {
    /// Whether it has kept the session.
    pub(crate) session: bool,
    /// The most publishes that may be unconfirmed.
    pub(crate) window: u16,
    /// The largest packet that it takes.
    pub(crate) largest: Option<u32>,
    /// Whether it confirms publishes, as far as it tells.
    pub(crate) confirms: bool,
}

/// What the broker says of a publish.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Confirmation {
    Taken,
    /// Taken, and nobody is subscribed.
    Unrouted,
    Refused(TransportErrorKind, &'static str),
}

impl Confirmation {
    /// Whether the broker has what was published to `topic`, whoever reads it.
    pub(crate) fn taken(self, topic: &str) -> Result<(), Failure> {
        match self {
            Self::Taken | Self::Unrouted => Ok(()),
            Self::Refused(kind, why) => Err(Failure::new(kind, format!("the publisher to `{topic}` {why}"))),
        }
    }
}

/// The broker goes on with a subscription that it was asked to end.
pub(crate) fn not_ended(filter: &str, why: &str) -> Failure {
    let text =
        format!("the broker refuses to end the subscription to `{filter}` ({why}); look at its access rules");
    Failure::new(TransportErrorKind::Refused, text)
}

/// Why a connection ended.
#[derive(Debug, Clone)]
pub(crate) struct Broken {
    pub(crate) failure: Failure,
    /// Another connection has taken up the client id.
    pub(crate) taken_over: bool,
}

/// Asks for things on a connection; every call hands over and returns at once. On a connection that is gone it does
/// nothing, which is how acknowledgements that come too late are dropped.
#[derive(Debug, Clone)]
pub(crate) enum Client {
    V5(v5::Client),
    V311(v311::Client),
}

macro_rules! each {
    ($self:ident, $client:ident => $call:expr) => {
        match $self {
            Client::V5($client) => $call,
            Client::V311($client) => $call,
        }
    };
}

impl Client {
    /// False where it was not handed over, because the connection is gone.
    pub(crate) fn publish(&self, parcel: Parcel) -> bool {
        each!(self, client => client.publish(parcel))
    }

    /// The bytes of `parcel` on the wire, at most.
    pub(crate) fn size_of(&self, parcel: &Parcel) -> usize {
        each!(self, client => client.size_of(parcel))
    }

    /// Subscribes to `filters`; `retained` = also what the broker has retained for them.
    pub(crate) fn subscribe(&self, filters: &[Filter]) -> bool {
        each!(self, client => client.subscribe(filters))
    }

    pub(crate) fn unsubscribe(&self, filter: &str) -> bool {
        each!(self, client => client.unsubscribe(filter))
    }

    /// Acknowledges the message that came under `number`.
    pub(crate) fn acknowledge(&self, number: u16) -> bool {
        each!(self, client => client.acknowledge(number))
    }

    pub(crate) fn leave(&self) -> bool {
        each!(self, client => client.leave())
    }
}

/// One filter of a subscription.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Filter {
    pub(crate) name: String,
    pub(crate) confirmed: bool,
    /// Whether the broker first sends what it has retained.
    pub(crate) retained: bool,
}

/// What the broker was asked for and has not answered, in order.
#[derive(Debug, Clone, Default)]
struct Asked(Arc<Mutex<Open>>);

#[derive(Debug, Default)]
struct Open {
    subscribes: VecDeque<Vec<Filter>>,
    unsubscribes: VecDeque<String>,
}

impl Asked {
    fn lock(&self) -> MutexGuard<'_, Open> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes note of what `ask` asks for, where it does.
    fn expect(&self, filters: &[Filter], ask: impl FnOnce() -> bool) -> bool {
        let mut asked = self.lock();
        let goes = ask();
        if goes {
            asked.subscribes.push_back(filters.to_vec());
        }
        goes
    }

    /// Whether the oldest subscribe was granted as it was asked for; `granted` says of each filter whether what comes by it is
    /// confirmed. A broker may grant less than was asked for (MQTT 5, 3.8.4).
    fn answered(&self, granted: impl Iterator<Item = Result<bool, String>>) -> Result<(), Failure> {
        let asked = self.lock().subscribes.pop_front().unwrap_or_default();
        for (filter, granted) in asked.iter().zip(granted) {
            let why = match granted {
                Ok(false) if filter.confirmed => {
                    "it grants only quality of service 0, by its `max_qos`".to_owned()
                }
                Ok(_) => continue,
                Err(why) => why,
            };
            let text = format!(
                "the broker refuses the subscription to `{}` ({why}); look at its access rules, and whether it has \
                 shared subscriptions",
                filter.name
            );
            return Err(Failure::new(TransportErrorKind::Refused, text));
        }
        Ok(())
    }

    /// Takes note of what `ask` asks to end, where it does.
    fn expect_end(&self, filter: &str, ask: impl FnOnce() -> bool) -> bool {
        let mut asked = self.lock();
        let goes = ask();
        if goes {
            asked.unsubscribes.push_back(filter.to_owned());
        }
        goes
    }

    /// Which unsubscribe was the oldest.
    fn ended(&self) -> String {
        self.lock().unsubscribes.pop_front().unwrap_or_default()
    }
}

/// A connection. One task owns it and asks for its events until one is an error.
pub(crate) enum Connection {
    V5(Box<v5::Connection>),
    V311(Box<v311::Connection>),
}

impl Connection {
    /// The next event; the first call connects. After an error the connection is gone.
    ///
    /// Not cancel-safe: a call that is dropped ends the connection.
    pub(crate) async fn next(&mut self) -> Result<Event, Broken> {
        match self {
            Self::V5(connection) => connection.next().await,
            Self::V311(connection) => connection.next().await,
        }
    }

    /// Whether the next event is a message that is here already.
    pub(crate) fn has_message(&self) -> bool {
        match self {
            Self::V5(connection) => connection.has_message(),
            Self::V311(connection) => connection.has_message(),
        }
    }
}

/// Prepares a connection; nothing happens before its first event is asked for.
pub(crate) fn open(dial: &Dial) -> (Client, Connection) {
    match dial.broker.version {
        Version::V5 => {
            let (client, connection) = v5::open(dial);
            (Client::V5(client), Connection::V5(Box::new(connection)))
        }
        Version::V311 => {
            let (client, connection) = v311::open(dial);
            (Client::V311(client), Connection::V311(Box::new(connection)))
        }
    }
}

/// What a failed handshake means: a certificate that does not hold stays so.
#[cfg(feature = "tls")]
fn tls_failure(broker: &Broker, error: &rumqttc::TlsError) -> Failure {
    use rumqttc::TlsError;
    let certificate = match error {
        TlsError::Io(error) => error.kind() == std::io::ErrorKind::InvalidData,
        TlsError::Addr(_) => false,
        _ => true,
    };
    if certificate {
        let text = "the TLS handshake failed; look at the broker's certificate (expired? for this host?), `ca_file`, \
                    `cert_file` and `key_file`";
        broker.failure(TransportErrorKind::Refused, text)
    } else {
        broker.failure(TransportErrorKind::Unavailable, "the connection broke in the TLS handshake")
    }
}

/// What it means that no connection came about. A broker that refuses a client's certificate says so only behind the handshake.
fn unreached(broker: &Broker, error: &dyn std::error::Error) -> Failure {
    if broker.address.tls && error.to_string().contains("received fatal alert") {
        let text = "it refuses the TLS connection; look at `cert_file` and `key_file`, which prove who this client is";
        return broker.failure(TransportErrorKind::Refused, text);
    }
    broker.failure(TransportErrorKind::Unavailable, "it cannot be reached; look at host and port")
}

/// How many requests may wait for the client's loop, which takes one where it reads several packets. A request that does not fit
/// is an acknowledgement that the broker never gets. What bounds them is the window of publishes, and of acknowledgements what the
/// broker has sent, which with Mosquitto before 2.0.13 is more than it was told to (eclipse-mosquitto/mosquitto#2301).
const ROOM: usize = usize::MAX / 2;

/// The client takes no fractions: not less than was asked for.
fn whole_seconds(duration: Duration) -> u64 {
    duration.as_secs().saturating_add(u64::from(duration.subsec_nanos() > 0))
}

fn seconds(duration: Duration) -> u32 {
    u32::try_from(duration.as_secs().max(u64::from(!duration.is_zero()))).unwrap_or(u32::MAX)
}

/// The payload as it was, not copied.
fn text_of(bytes: &Bytes) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// What a refused connection means.
fn refused(broker: &Broker, why: Refusal) -> Failure {
    use TransportErrorKind::{Refused, Unavailable};
    match why {
        Refusal::Credentials => broker.failure(
            Refused,
            "user or password are refused; look at `user` and `password`, or the url's `user:password@`",
        ),
        Refusal::NotAuthorized => broker.failure(
            Refused,
            "this client is not authorized; look at `user`, `password` and the broker's access rules",
        ),
        Refusal::ClientId => broker
            .failure(Refused, "the client id is refused; look at `client_id` and the broker's rules for it"),
        Refusal::Version => broker.failure(
            Refused,
            "this version of the protocol is refused; set `version = \"3.1.1\"` (or \"5\")",
        ),
        Refusal::Other(text) => broker.failure(Unavailable, &format!("the connection is refused ({text})")),
    }
}

/// Why a broker refuses a connection, as far as it matters.
enum Refusal {
    Credentials,
    NotAuthorized,
    ClientId,
    Version,
    Other(String),
}

/// The packet is larger than `max_packet` allows.
fn too_large(broker: &Broker, size: usize) -> Failure {
    broker.failure(
        TransportErrorKind::Invalid,
        &format!(
            "it sends a message of {size} bytes, more than `max_packet`; raise it: until then this subscription stands still"
        ),
    )
}

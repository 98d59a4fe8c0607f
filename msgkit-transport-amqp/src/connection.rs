//! Connections that repair themselves: whoever needs one asks, and gets the living one or a new one.
//!
//! The client's own recovery is not used: it gives up after some tries, does not repair channels that the broker has
//! closed, and knows nothing of what must not be settled twice. Here every repair is a new connection with new channels.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use lapin::tcp::{OwnedIdentity, OwnedTLSConfig};
use lapin::uri::{AMQPScheme, AMQPUri, SASLMechanism};
use lapin::{Channel, Connection, ConnectionBuilder, ConnectionProperties};
use msgkit::transport::{TransportError, TransportErrorKind, TransportUrl};
use msgkit::{Error, ErrorKind};
use tokio::sync::watch;
use tokio::time::Instant;

use crate::config::{AmqpConfig, Sasl};
use crate::error;
use crate::kept::Kept;

/// Where the broker is and how to prove who we are; never prints its password.
#[derive(Clone)]
pub(crate) struct Address {
    uri: AMQPUri,
    /// Host, port and vhost, as errors name it.
    shown: String,
}

impl Address {
    /// Reads what a URL and the options say.
    pub(crate) fn of(url: &TransportUrl, config: &AmqpConfig) -> Result<Self, Error> {
        let refuse = |text: String| Err(Error::new(ErrorKind::Config, text));
        // Without user and password, so that no error can show them.
        let plain = format!("{}://{}", url.scheme(), url.broker()?);
        let Ok(mut uri) = plain.parse::<AMQPUri>() else {
            return refuse(format!(
                "`{url}` is no AMQP url; write `amqp://host:5672/vhost`, `%2F` for a `/` in it"
            ));
        };
        if uri.authority.host.is_empty() || url.address().starts_with(['/', ':']) || url.address().is_empty()
        {
            return refuse(
                "the url of an AMQP transport names no host; write `amqp://host:5672/vhost`".to_owned(),
            );
        }
        if uri.scheme == AMQPScheme::AMQPS && !cfg!(feature = "tls") {
            return refuse("`amqps:` needs the feature `tls` of msgkit-transport-amqp".to_owned());
        }
        let files = [&config.ca_file, &config.cert_file, &config.key_file];
        if uri.scheme == AMQPScheme::AMQP && files.iter().any(|file| file.is_some()) {
            return refuse(
                "`ca_file`, `cert_file` and `key_file` are for `amqps:`; this url is `amqp:`".to_owned(),
            );
        }
        if uri.vhost.is_empty() {
            // `amqp://host/`: nobody means the virtual host without a name.
            uri.vhost = "/".to_owned();
        }
        uri.authority.userinfo.username = url.user().unwrap_or("guest").to_owned();
        uri.authority.userinfo.password = url.password().unwrap_or("guest").to_owned();
        uri.query.auth_mechanism = Some(match config.sasl {
            Sasl::Plain => SASLMechanism::Plain,
            Sasl::External => SASLMechanism::External,
        });
        uri.query.heartbeat = u16::try_from(config.heartbeat.as_secs()).ok();
        uri.query.connection_timeout = u64::try_from(config.connect_timeout.as_millis()).ok();
        let shown = format!("{}:{}, vhost `{}`", uri.authority.host, uri.authority.port, uri.vhost);
        Ok(Self { uri, shown })
    }
}

impl fmt::Debug for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.shown)
    }
}

/// One connection, made when it is needed and again when it is lost. Clones share it.
#[derive(Clone)]
pub(crate) struct Link {
    dial: Arc<Dial>,
    connection: Kept<Connection>,
}

/// How the connection is made.
struct Dial {
    address: Address,
    config: Arc<AmqpConfig>,
    /// What it is for, as the broker shows it.
    role: &'static str,
    closed: watch::Receiver<bool>,
}

impl Link {
    pub(crate) fn new(
        address: Address,
        config: Arc<AmqpConfig>,
        role: &'static str,
        closed: watch::Receiver<bool>,
    ) -> Self {
        Self { dial: Arc::new(Dial { address, config, role, closed }), connection: Kept::default() }
    }

    /// The living connection, or a new one.
    pub(crate) async fn connection(&self) -> Result<Arc<Connection>, TransportError> {
        if *self.dial.closed.borrow() {
            return Err(error::closed());
        }
        let dial = self.dial.clone();
        self.connection
            .get(|connection| connection.status().connected(), async move { dial.connect().await })
            .await
    }

    /// A new channel of the living connection.
    pub(crate) async fn channel(&self) -> Result<Channel, TransportError> {
        self.channel_until(self.deadline()).await
    }

    /// When what begins now has taken too long.
    pub(crate) fn deadline(&self) -> Instant {
        Instant::now() + self.dial.config.connect_timeout
    }

    /// As [`Link::channel`]. Connecting has a deadline of its own, which all who wait for it share.
    pub(crate) async fn channel_until(&self, deadline: Instant) -> Result<Channel, TransportError> {
        let connection = self.connection().await?;
        self.until(deadline, connection.create_channel(), "opening a channel").await
    }

    /// What `asking` gives before the deadline.
    pub(crate) async fn until<T>(
        &self,
        deadline: Instant,
        asking: impl Future<Output = lapin::Result<T>>,
        doing: &str,
    ) -> Result<T, TransportError> {
        match tokio::time::timeout_at(deadline, asking).await {
            Ok(answer) => answer.map_err(|error| error::of(error, doing)),
            Err(_) => Err(self.dial.late(doing)),
        }
    }

    /// Why messages cannot flow although the connection is there.
    pub(crate) fn blocked(&self) -> bool {
        self.connection.now().is_some_and(|connection| connection.status().blocked())
    }

    /// Ends the connection in good order.
    pub(crate) async fn close(&self) {
        if let Some(connection) = self.connection.take().await {
            // The broker finds out by itself where it cannot be told.
            let closing = connection.close(200, "closed by its owner".into());
            let _ = tokio::time::timeout(Duration::from_secs(2), closing).await;
        }
    }
}

impl Dial {
    async fn connect(&self) -> Result<Connection, TransportError> {
        let doing = || format!("connecting to {}", self.address.shown);
        let tls = self.tls()?;
        let name = format!("{} {}", self.config.connection_name, self.role);
        let properties = ConnectionProperties::default().with_connection_name(name.into());
        let builder = ConnectionBuilder::new()
            .map_err(|error| error::of(error, &doing()))?
            .with_uri(self.address.uri.clone())
            .with_properties(properties)
            .with_tls_config(tls);
        let mut closed = self.closed.clone();
        let connected = tokio::select! {
            biased;
            _ = closed.wait_for(|closed| *closed) => return Err(error::closed()),
            connected = tokio::time::timeout(self.config.connect_timeout, builder.connect()) => connected,
        };
        match connected {
            Ok(Ok(connection)) => Ok(connection),
            Ok(Err(error)) => Err(error::of(error, &doing())),
            Err(_) => Err(self.late(&doing())),
        }
    }

    fn tls(&self) -> Result<OwnedTLSConfig, TransportError> {
        let read = |option: &str, file: &std::path::Path| {
            std::fs::read(file).map_err(|error| {
                let text = format!("`{option}` cannot be read: `{}`", file.display());
                TransportError::new(TransportErrorKind::Refused, text).with_source(error)
            })
        };
        let mut tls = OwnedTLSConfig::default();
        if let Some(file) = &self.config.ca_file {
            let chain = String::from_utf8(read("ca_file", file)?).map_err(|_| {
                let text = format!("`ca_file` is no PEM file: `{}`", file.display());
                TransportError::new(TransportErrorKind::Refused, text)
            })?;
            tls.cert_chain = Some(chain);
        }
        if let (Some(pem), Some(key)) = (&self.config.cert_file, &self.config.key_file) {
            tls.identity =
                Some(OwnedIdentity::PKCS8 { pem: read("cert_file", pem)?, key: read("key_file", key)? });
        }
        Ok(tls)
    }

    fn late(&self, doing: &str) -> TransportError {
        let waited = self.config.connect_timeout;
        let text = format!("{doing} took longer than the {waited:?} of `connect_timeout`");
        TransportError::new(TransportErrorKind::Unavailable, text)
    }
}

impl fmt::Debug for Link {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Link")
            .field("address", &self.dial.address)
            .field("role", &self.dial.role)
            .finish_non_exhaustive()
    }
}

//! Which transports a service can be configured to use.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use serde::Deserialize;
use serde::de::DeserializeOwned;

use super::{Transport, TransportUrl};
use crate::config::nearest;
use crate::envelope::Clock;
use crate::error::Error;

/// Makes the transports of one kind from their configuration.
pub trait Factory: Send + Sync {
    /// The URL schemes that it serves, in lower case; the first is its name and that of its table of options.
    fn schemes(&self) -> &'static [&'static str];

    /// Checks the configuration and builds the transport, without connecting: that happens at the first declaration,
    /// publish or subscription.
    ///
    /// # Errors
    /// [`ErrorKind::Config`](crate::ErrorKind::Config), naming the option and the fix.
    fn build(&self, url: &TransportUrl, options: Options) -> Result<Arc<dyn Transport>, Error>;
}

/// The transports that are known, by scheme. Registered explicitly: nothing happens before `main`.
#[derive(Clone, Default)]
pub struct Registry {
    factories: BTreeMap<&'static str, Arc<dyn Factory>>,
}

impl Registry {
    /// A registry that knows the memory transport (`memory://`).
    #[must_use]
    pub fn new() -> Self {
        Self::empty().with(crate::memory::scheme())
    }

    /// A registry that knows nothing.
    #[must_use]
    pub fn empty() -> Self {
        Self::default()
    }

    /// The same, with one more kind of transport; a later one takes the place of an earlier one with the same scheme.
    #[must_use]
    pub fn with(mut self, factory: impl Factory + 'static) -> Self {
        let factory: Arc<dyn Factory> = Arc::new(factory);
        for scheme in factory.schemes() {
            self.factories.insert(scheme, factory.clone());
        }
        self
    }

    /// The schemes that are known.
    pub fn schemes(&self) -> impl Iterator<Item = &'static str> {
        self.factories.keys().copied()
    }

    /// The schemes of the kind of transport that serves `scheme`, its name first; none where it is unknown.
    pub(crate) fn names(&self, scheme: &str) -> &'static [&'static str] {
        self.factories.get(scheme).map_or(&[], |factory| factory.schemes())
    }

    /// Builds the transport at `url` with `options`, its native keys, without connecting.
    ///
    /// # Errors
    /// [`ErrorKind::Config`](crate::ErrorKind::Config): an unknown scheme lists the known ones, an unknown option names
    /// the nearest known one.
    pub fn build(&self, url: &TransportUrl, options: Options) -> Result<Arc<dyn Transport>, Error> {
        let Some(factory) = self.factories.get(url.scheme()) else {
            let known: Vec<_> = self.schemes().collect();
            let port = url.address().split('/').next().unwrap_or_default();
            let is_port = !port.is_empty() && port.bytes().all(|byte| byte.is_ascii_digit());
            let hint = match (krate(url.scheme()), nearest(url.scheme(), known.iter().copied())) {
                (Some(own), _) if !self.factories.contains_key(own) => {
                    let path = format!("msgkit_transport_{own}");
                    format!(
                        "; add the crate `msgkit-transport-{own}` and register it: `Registry::new().with({path}::scheme())`"
                    )
                }
                (Some(own), _) => format!("; did you mean `{own}`?"),
                // `localhost:5672`
                (None, None) if is_port => {
                    "; a url begins with its scheme, like `amqp://host:5672`".to_owned()
                }
                (None, Some(near)) => format!("; did you mean `{near}`?"),
                (None, None) => {
                    "; add its crate and register it: `Registry::new().with(the_crate::scheme())`".to_owned()
                }
            };
            return Err(Error::config(format!(
                "transport scheme `{}` is unknown; known are {}{hint}",
                url.scheme(),
                known.join(", "),
            )));
        };
        factory.build(url, options)
    }

    /// Builds the transport at `url`, options behind its `?`, without connecting.
    ///
    /// # Errors
    /// As [`Registry::build`].
    pub fn open(&self, url: &str) -> Result<Arc<dyn Transport>, Error> {
        let url = TransportUrl::parse(url)?;
        self.build(&url, Options::new("the url"))
    }
}

/// The name of the transport of ours that is meant by a scheme, or by the name of its broker.
fn krate(scheme: &str) -> Option<&'static str> {
    let meant: [(&[&str], &'static str); 6] = [
        (&["amqp", "amqps", "rabbitmq", "rabbit"], "amqp"),
        (&["mqtt", "mqtts", "mqtt+ws", "mqtt+wss", "mosquitto"], "mqtt"),
        (&["kafka", "kafkas"], "kafka"),
        (&["kinesis"], "kinesis"),
        (&["pubsub"], "pubsub"),
        (&["sqlite"], "sqlite"),
    ];
    meant.into_iter().find(|(schemes, _)| schemes.contains(&scheme)).map(|(_, own)| own)
}

impl fmt::Debug for Registry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.factories.keys()).finish()
    }
}

/// A transport's native options as configuration holds them, not yet read.
#[derive(Clone)]
pub struct Options {
    place: String,
    table: toml::Table,
    on_unrouted: Option<OnUnrouted>,
    clock: Clock,
}

impl Options {
    /// No options; `place` is where they would stand, for errors (`[transports.edge.mqtt]`).
    pub fn new(place: impl Into<String>) -> Self {
        Self::from_table(place, toml::Table::new())
    }

    /// Options in TOML.
    ///
    /// # Errors
    /// [`ErrorKind::Config`](crate::ErrorKind::Config) where `text` is no TOML.
    pub fn from_toml(place: impl Into<String>, text: &str) -> Result<Self, Error> {
        let place = place.into();
        // Not the whole error: that shows the line, in which a secret may stand.
        let table = text.parse().map_err(|error: toml::de::Error| {
            Error::config(format!("{place} holds no legal TOML: {}", error.message()))
        })?;
        Ok(Self::from_table(place, table))
    }

    pub(crate) fn from_table(place: impl Into<String>, table: toml::Table) -> Self {
        Self { place: place.into(), table, on_unrouted: None, clock: Clock::system() }
    }

    /// The same, with the clock that the transport is to use.
    #[must_use]
    pub fn with_clock(mut self, clock: Clock) -> Self {
        self.clock = clock;
        self
    }

    /// The same, with what is to become of messages that nobody takes: the portable `on_unrouted`, which
    /// [`Options::read`] gives to the transport's own option of that name.
    #[must_use]
    pub fn with_on_unrouted(mut self, on_unrouted: OnUnrouted) -> Self {
        self.on_unrouted = Some(on_unrouted);
        self
    }

    /// The clock that the transport is to use.
    #[must_use]
    pub fn clock(&self) -> Clock {
        self.clock
    }

    /// Reads the options, those behind the `?` of `url` included, into a transport's own `Config`, a `serde` struct
    /// with `#[serde(default, deny_unknown_fields)]`. A transport that can tell whether anybody takes a message has an
    /// option `on_unrouted`, of [`OnUnrouted`] or more, and gets the portable one there.
    ///
    /// # Errors
    /// [`ErrorKind::Config`](crate::ErrorKind::Config): an unknown key names the nearest known one, a wrong value its key;
    /// `on_unrouted = "error"` for a transport that has no such option.
    pub fn read<T: DeserializeOwned>(mut self, url: &TransportUrl) -> Result<T, Error> {
        for (name, value) in url.query() {
            self.table.insert(name.to_owned(), toml::Value::String(value.to_owned()));
        }
        let Some(on_unrouted) = self.on_unrouted else {
            return crate::config::from_table(self.table, &self.place);
        };
        if self.table.contains_key(ON_UNROUTED) {
            return Err(Error::config(format!(
                "{}: `{ON_UNROUTED}` is said here and beside the transport's url; remove one of them",
                self.place
            )));
        }
        let mut with = self.table.clone();
        with.insert(ON_UNROUTED.to_owned(), toml::Value::String(on_unrouted.as_str().to_owned()));
        crate::config::from_table(with, &self.place).or_else(|_| {
            // Whether it is this key that the transport does not have: then the rest can be read without it.
            match (crate::config::from_table(self.table, &self.place), on_unrouted) {
                (Err(error), _) => Err(error),
                (Ok(config), OnUnrouted::Accept) => Ok(config),
                (Ok(_), OnUnrouted::Error) => Err(Error::config(format!(
                    "a transport of `{}:` cannot tell whether anybody takes a message; remove `{ON_UNROUTED} = \"error\"`",
                    url.scheme()
                ))),
            }
        })
    }
}

/// The portable key, and that of a transport's own options.
const ON_UNROUTED: &str = "on_unrouted";

/// What becomes of a message that no group takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum OnUnrouted {
    /// It is taken and counted.
    #[default]
    Accept,
    /// The publisher gets an error.
    Error,
}

impl OnUnrouted {
    /// The word that configuration has for it.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Accept => "accept",
            Self::Error => "error",
        }
    }
}

impl fmt::Debug for Options {
    /// The names only: values may be secrets.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Options")
            .field("place", &self.place)
            .field("keys", &self.table.keys().collect::<Vec<_>>())
            .finish_non_exhaustive()
    }
}

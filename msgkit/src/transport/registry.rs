//! Which transports a service can be configured to use.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

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

    /// Builds the transport at `url` with `options`, its native keys, without connecting.
    ///
    /// # Errors
    /// [`ErrorKind::Config`](crate::ErrorKind::Config): an unknown scheme lists the known ones, an unknown option names
    /// the nearest known one.
    pub fn build(&self, url: &TransportUrl, options: Options) -> Result<Arc<dyn Transport>, Error> {
        let Some(factory) = self.factories.get(url.scheme()) else {
            let known: Vec<_> = self.schemes().collect();
            let hint = match nearest(url.scheme(), known.iter().copied()) {
                Some(near) => format!("; did you mean `{near}`?"),
                None => {
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
    clock: Clock,
}

impl Options {
    /// No options; `place` is where they would stand, for errors (`[transports.edge.mqtt]`).
    pub fn new(place: impl Into<String>) -> Self {
        Self { place: place.into(), table: toml::Table::new(), clock: Clock::system() }
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
        Ok(Self { place, table, clock: Clock::system() })
    }

    pub(crate) fn from_table(place: impl Into<String>, table: toml::Table) -> Self {
        Self { place: place.into(), table, clock: Clock::system() }
    }

    /// The same, with the clock that the transport is to use.
    #[must_use]
    pub fn with_clock(mut self, clock: Clock) -> Self {
        self.clock = clock;
        self
    }

    /// The clock that the transport is to use.
    #[must_use]
    pub fn clock(&self) -> Clock {
        self.clock
    }

    /// Reads the options, those behind the `?` of `url` included, into a transport's own `Config`, a `serde` struct
    /// with `#[serde(default, deny_unknown_fields)]`.
    ///
    /// # Errors
    /// [`ErrorKind::Config`](crate::ErrorKind::Config): an unknown key names the nearest known one, a wrong value its key.
    pub fn read<T: DeserializeOwned>(mut self, url: &TransportUrl) -> Result<T, Error> {
        for (name, value) in url.query() {
            self.table.insert(name.to_owned(), toml::Value::String(value.to_owned()));
        }
        crate::config::from_table(self.table, &self.place)
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

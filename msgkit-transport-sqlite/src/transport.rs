//! The transport itself: what it is made from, what it can do.

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;

use async_trait::async_trait;
use msgkit::Error;
use msgkit::envelope::Clock;
use msgkit::transport::{
    Capabilities, Declaration, Delay, Factory, Health, KeyOrder, Operate, Options, StartPositions, Transport,
    TransportError, TransportUrl,
};

use crate::config::{SqliteConfig, path_of};
use crate::store::{Command, Store, ask};

/// The scheme `sqlite:path`, for a [`Registry`](msgkit::Registry).
#[must_use]
pub fn scheme() -> impl Factory {
    Scheme
}

#[derive(Debug)]
struct Scheme;

impl Factory for Scheme {
    fn schemes(&self) -> &'static [&'static str] {
        &["sqlite"]
    }

    fn build(&self, url: &TransportUrl, options: Options) -> Result<Arc<dyn Transport>, Error> {
        let clock = options.clock();
        let file = path_of(url)?;
        Ok(Arc::new(Sqlite::with(file, options.read(url)?, clock)?))
    }
}

/// A file that messages live in; clones share one connection to it.
#[derive(Clone)]
pub struct Sqlite(Arc<Store>);

impl Sqlite {
    /// The transport of `file`, with the default options. Nothing is opened before the first use.
    #[must_use]
    pub fn new(file: impl Into<PathBuf>) -> Self {
        Self(Arc::new(Store::new(file.into(), SqliteConfig::default(), Clock::system())))
    }

    /// The transport of `file`. Nothing is opened before the first use.
    ///
    /// # Errors
    /// [`ErrorKind::Config`](msgkit::ErrorKind::Config), naming the option that cannot be and the fix.
    pub fn with(file: impl Into<PathBuf>, config: SqliteConfig, clock: Clock) -> Result<Self, Error> {
        config.check()?;
        Ok(Self(Arc::new(Store::new(file.into(), config, clock))))
    }

    /// How many settlements came too late, because this process had lost its lease: their messages come again.
    #[must_use]
    pub fn lost_leases(&self) -> u64 {
        self.0.lost_leases()
    }

    pub(crate) fn store(&self) -> &Store {
        &self.0
    }

    pub(crate) fn config(&self) -> &SqliteConfig {
        self.0.config()
    }
}

impl fmt::Debug for Sqlite {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Sqlite").field(&self.0).finish()
    }
}

#[async_trait]
impl Transport for Sqlite {
    fn system(&self) -> &'static str {
        "sqlite"
    }

    fn capabilities(&self) -> Capabilities {
        let retains = !self.config().retain.is_zero();
        let mut can = Capabilities::none();
        can.durable = true;
        can.groups = true;
        can.ephemeral = true;
        can.backlog = true;
        can.keeps_unread = true;
        can.key_order = KeyOrder::Group;
        can.delay = Delay::Native;
        can.delivery_count = true;
        can.nack = true;
        can.start = StartPositions::new(retains, retains);
        can.detects_unrouted = true;
        can.lag = true;
        can.peek = true;
        can.max_payload = Some(self.config().max_payload);
        can.live_patterns = true;
        can.native_headers = true;
        can.back_pressure = true;
        can
    }

    async fn declare(&self, declarations: &[Declaration]) -> Result<(), TransportError> {
        let mut wanted = Vec::new();
        for declaration in declarations {
            // Topics and dead letters need no place of their own here.
            if let Declaration::Group { subscription, .. } = declaration {
                self.capabilities().admit("sqlite", subscription)?;
                if subscription.group.is_some() {
                    wanted.push(subscription.into());
                }
            }
        }
        let commands = self.0.commands().await?;
        if wanted.is_empty() {
            return Ok(());
        }
        ask(&commands, |reply| Command::Declare { wanted, reply }).await
    }

    async fn health(&self) -> Health {
        match self.probe().await {
            Ok(()) => Health::Up,
            Err(error) => Health::Down(error.to_string()),
        }
    }

    fn operate(&self) -> Option<&dyn Operate> {
        Some(self)
    }

    async fn close(&self) -> Result<(), TransportError> {
        self.0.close().await
    }
}

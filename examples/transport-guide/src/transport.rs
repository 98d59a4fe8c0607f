//! The transport itself: what it is made from, what it can do.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use async_trait::async_trait;
use msgkit::Error;
use msgkit::envelope::Clock;
use msgkit::transport::{
    Capabilities, Declaration, Delay, Factory, Health, KeyOrder, Operate, Options, Transport, TransportError,
    TransportErrorKind, TransportUrl,
};

use crate::config::{FilesConfig, path_of};
use crate::store::Store;

/// The scheme `files:path`, for a [`Registry`](msgkit::Registry).
#[must_use]
pub fn scheme() -> impl Factory {
    Scheme
}

#[derive(Debug)]
struct Scheme;

impl Factory for Scheme {
    fn schemes(&self) -> &'static [&'static str] {
        &["files"]
    }

    fn build(&self, url: &TransportUrl, options: Options) -> Result<Arc<dyn Transport>, Error> {
        let clock = options.clock();
        let directory = path_of(url)?;
        Ok(Arc::new(Files::with(directory, options.read(url)?, clock)?))
    }
}

/// A directory that messages live in; clones share one connection to it.
#[derive(Debug, Clone)]
pub struct Files(Arc<Store>);

impl Files {
    /// The transport of `directory`. Nothing is opened before the first use.
    ///
    /// # Errors
    /// [`ErrorKind::Config`](msgkit::ErrorKind::Config), naming the option that cannot be and the fix.
    pub fn with(directory: impl Into<PathBuf>, config: FilesConfig, clock: Clock) -> Result<Self, Error> {
        config.check()?;
        Ok(Self(Arc::new(Store::new(directory.into(), config, clock))))
    }

    /// How many settlements came too late, because their messages had been taken from this connection: those come again.
    #[must_use]
    pub fn late_settlements(&self) -> u64 {
        self.0.late.load(Ordering::Relaxed)
    }

    pub(crate) fn store(&self) -> &Arc<Store> {
        &self.0
    }
}

#[async_trait]
impl Transport for Files {
    fn system(&self) -> &'static str {
        "files"
    }

    fn capabilities(&self) -> Capabilities {
        let mut can = Capabilities::none();
        can.durable = true;
        can.groups = true;
        can.backlog = true;
        can.keeps_unread = true;
        // Each claim takes the oldest, but two members may hold messages of one key at once.
        can.key_order = KeyOrder::Member;
        can.delay = Delay::Native;
        can.delivery_count = true;
        can.nack = true;
        can.lag = true;
        can.peek = true;
        can.live_patterns = true;
        can.native_headers = true;
        can
    }

    async fn declare(&self, declarations: &[Declaration]) -> Result<(), TransportError> {
        let can = self.capabilities();
        for declaration in declarations {
            if let Declaration::Group { subscription, .. } = declaration {
                can.admit("files", subscription)?;
            }
        }
        let declarations = declarations.to_vec();
        let declaring = self.0.run(move |turn| {
            for declaration in &declarations {
                match declaration {
                    Declaration::Group { subscription, .. } => {
                        if let Some(group) = &subscription.group {
                            turn.declare(group, &subscription.patterns)?;
                        }
                    }
                    Declaration::DeadLetters(group) => turn.make(group)?,
                    // A topic is no place here: its messages lie with the groups that take it.
                    Declaration::Topic(_) => {}
                    other => {
                        let text = format!("the files transport cannot declare {other:?}; update it");
                        return Err(TransportError::new(TransportErrorKind::Unsupported, text));
                    }
                }
            }
            Ok(())
        });
        declaring.await
    }

    async fn health(&self) -> Health {
        match self.0.run(|_| Ok(())).await {
            Ok(()) => Health::Up,
            Err(error) => Health::Down(error.to_string()),
        }
    }

    fn operate(&self) -> Option<&dyn Operate> {
        Some(self)
    }

    async fn close(&self) -> Result<(), TransportError> {
        self.0.close();
        Ok(())
    }
}

//! The options of a SQLite transport.

use std::path::PathBuf;
use std::time::Duration;

use msgkit::transport::{OnUnrouted, TransportUrl};
use msgkit::{Error, ErrorKind};
use serde::Deserialize;

/// What a `sqlite:` URL, or its table in the configuration, may say.
///
/// ```toml
/// [transports.backbone]
/// url = "sqlite:data/messages.db"
/// [transports.backbone.sqlite]
/// retain = "1h"
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
#[non_exhaustive]
pub struct SqliteConfig {
    /// What is on the disk when `publish` returns.
    pub synchronous: Synchronous,
    /// The most messages that one group may have waiting, kept back and in hand; publishers in front of a full group wait.
    pub capacity: usize,
    /// How long a publisher waits in front of a full group before it gets a temporary error.
    #[serde(with = "msgkit::config::duration")]
    pub publish_timeout: Duration,
    /// The largest payload in bytes; at most 256 MiB.
    pub max_payload: usize,
    /// How long a message is kept after it was published, whoever has handled it, so that a new group can start with it;
    /// zero = no longer than some group needs it.
    #[serde(with = "msgkit::config::duration")]
    pub retain: Duration,
    /// What becomes of a message that no group takes.
    pub on_unrouted: OnUnrouted,
    /// How long after the last sign of life of a process its messages in hand go to others; at least 200 ms.
    ///
    /// A sign is given every third of it, so a process whose runtime is blocked for longer loses what it has in hand.
    #[serde(with = "msgkit::config::duration")]
    pub lease: Duration,
    /// How often a waiting process looks whether another one has changed the file.
    #[serde(with = "msgkit::config::duration")]
    pub poll_interval: Duration,
    /// How long to wait for the file's write lock while other processes have it.
    #[serde(with = "msgkit::config::duration")]
    pub busy_timeout: Duration,
}

/// The largest `max_payload`: what SQLite takes for one value, Base64 and the other messages of a commit included.
const MOST_PAYLOAD: usize = 256 << 20;

impl Default for SqliteConfig {
    fn default() -> Self {
        Self {
            synchronous: Synchronous::Full,
            capacity: 100_000,
            publish_timeout: Duration::from_secs(5),
            max_payload: 16 << 20,
            retain: Duration::ZERO,
            on_unrouted: OnUnrouted::Accept,
            lease: Duration::from_secs(15),
            poll_interval: Duration::from_millis(20),
            busy_timeout: Duration::from_secs(5),
        }
    }
}

/// What is on the disk when `publish` returns. Both survive the death of any process at any point.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Synchronous {
    /// The messages: a power cut loses nothing that was confirmed. Claims and settlements reach the disk with the next
    /// publish or checkpoint, so after a power cut the messages settled last may come once more.
    #[default]
    Full,
    /// Whatever the operating system has written by then: after a power cut, messages confirmed last may be lost.
    Normal,
}

impl SqliteConfig {
    /// Refuses what cannot work, naming the option.
    pub(crate) fn check(&self) -> Result<(), Error> {
        let refuse = |text: &str| Err(Error::new(ErrorKind::Config, text));
        if self.capacity == 0 {
            return refuse("`capacity = 0` lets nothing be published to a SQLite transport; use at least 1");
        }
        if self.max_payload == 0 || self.max_payload > MOST_PAYLOAD {
            return refuse("`max_payload` of a SQLite transport must be 1 to 268435456 bytes (256 MiB)");
        }
        if self.lease < Duration::from_millis(200) {
            return refuse(
                "`lease` of a SQLite transport must be at least 200ms, or living processes look dead",
            );
        }
        if self.poll_interval < Duration::from_millis(1) {
            return refuse("`poll_interval` of a SQLite transport must be at least 1ms; less is a busy loop");
        }
        Ok(())
    }
}

/// The file that a URL names.
pub(crate) fn path_of(url: &TransportUrl) -> Result<PathBuf, Error> {
    let refuse = |text: &str| Err(Error::new(ErrorKind::Config, text));
    if url.user().is_some() || url.password().is_some() {
        return refuse("a SQLite transport has no user or password; write `sqlite:path/to/file.db`");
    }
    match url.address() {
        "" => refuse("the url of a SQLite transport names no file; write `sqlite:path/to/file.db`"),
        ":memory:" => refuse("a SQLite transport needs a file; for messages in memory use `memory://`"),
        path => Ok(PathBuf::from(path)),
    }
}

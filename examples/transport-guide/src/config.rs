//! The options, and what a URL names.

use std::path::PathBuf;
use std::time::Duration;

use msgkit::transport::TransportUrl;
use msgkit::{Error, ErrorKind};
use serde::Deserialize;

/// What a `files:` URL, or its table in the configuration, may say.
///
/// ```toml
/// [transports.backbone]
/// url = "files:data/messages"
/// [transports.backbone.files]
/// poll_interval = "100ms"
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
#[non_exhaustive]
pub struct FilesConfig {
    /// How often a waiting reader looks into its group's directory; at least 1 ms.
    #[serde(with = "msgkit::config::duration")]
    pub poll_interval: Duration,
    /// Whether `publish` waits until the disk has the messages. Without it they survive the death of any process, but
    /// not a power cut.
    pub sync: bool,
}

impl Default for FilesConfig {
    fn default() -> Self {
        Self { poll_interval: Duration::from_millis(20), sync: true }
    }
}

impl FilesConfig {
    /// Refuses what cannot work, naming the option.
    pub(crate) fn check(&self) -> Result<(), Error> {
        if self.poll_interval < Duration::from_millis(1) {
            return Err(refuse(
                "`poll_interval` of a files transport must be at least 1ms; less is a busy loop",
            ));
        }
        Ok(())
    }
}

/// The directory that a URL names.
pub(crate) fn path_of(url: &TransportUrl) -> Result<PathBuf, Error> {
    if url.user().is_some() || url.password().is_some() {
        return Err(refuse("a files transport has no user or password; write `files:path/to/directory`"));
    }
    match url.address() {
        "" => Err(refuse("the url of a files transport names no directory; write `files:path/to/directory`")),
        path => Ok(PathBuf::from(path)),
    }
}

fn refuse(text: &str) -> Error {
    Error::new(ErrorKind::Config, text)
}

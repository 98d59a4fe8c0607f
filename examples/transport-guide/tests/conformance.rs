//! The conformance suite on directories: every connection is what another part of a process has.

use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use msgkit::envelope::NativeHeaders;
use msgkit::transport::{Transport, TransportError, TransportErrorKind};
use msgkit::{Registry, Topic};
use msgkit_testing::conformance::{self, Broker, Fault, NotRun, Setup, Subject, Wrapped, Wrapping};
use transport_guide::{Files, FilesConfig};

fn main() -> ExitCode {
    let mut subjects: Vec<Box<dyn Subject>> = vec![Box::new(FilesSubject::default())];
    for wrapping in Wrapping::ALL {
        subjects.push(Box::new(Wrapped(FilesSubject::default(), wrapping)));
    }
    conformance::main(subjects)
}

/// Directories that live as long as the suite: a case may drop its broker and keep its connections.
#[derive(Debug, Default)]
struct FilesSubject {
    directories: Mutex<Vec<tempfile::TempDir>>,
}

#[async_trait]
impl Subject for FilesSubject {
    fn name(&self) -> String {
        "files".to_owned()
    }

    fn version(&self) -> String {
        "a directory, the example of the guide for transport authors".to_owned()
    }

    async fn broker(&self, setup: &Setup) -> Result<Box<dyn Broker>, NotRun> {
        let directory = tempfile::tempdir().map_err(|error| NotRun(error.to_string()))?;
        let path = directory.path().join("messages");
        self.directories.lock().unwrap_or_else(PoisonError::into_inner).push(directory);
        // It has no option for any other wish, and claims nothing that would need one.
        Ok(Box::new(Directory { path, setup: setup.clone() }))
    }

    fn secrets(&self) -> Option<(Registry, String, Vec<String>)> {
        // A directory has neither user nor password; written all the same, the refusal must not print them.
        let registry = Registry::new().with(transport_guide::scheme());
        let url = "files://keeper:5ecr3t-w0rd@messages?poll_interval=7ms".to_owned();
        Some((registry, url, vec!["5ecr3t-w0rd".to_owned()]))
    }
}

/// A directory of its own.
struct Directory {
    path: PathBuf,
    setup: Setup,
}

#[async_trait]
impl Broker for Directory {
    async fn connect(&self) -> Result<Arc<dyn Transport>, TransportError> {
        let mut config = FilesConfig::default();
        config.poll_interval = Duration::from_millis(5);
        let files = Files::with(&self.path, config, self.setup.clock)
            .map_err(|error| TransportError::new(TransportErrorKind::Invalid, error.to_string()))?;
        Ok(Arc::new(files))
    }

    /// What the next process does that opens the directory, when all that had it open are dead.
    async fn disconnect(&self) -> Fault {
        if let Err(error) = transport_guide::recover(&self.path) {
            panic!("what is in hand cannot be put back: {error}");
        }
        Fault::Done
    }

    async fn publish_foreign(&self, _: &Topic, _: Bytes, _: &NativeHeaders) -> Fault {
        Fault::Impossible("a file that is no envelope tells no topic")
    }
}

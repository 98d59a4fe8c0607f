//! The conformance suite on SQLite files: every connection is what another process would have.

use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use msgkit::envelope::NativeHeaders;
use msgkit::transport::{OnUnrouted, Transport, TransportError};
use msgkit::{Registry, Topic};
use msgkit_testing::conformance::{self, Broker, Fault, NotRun, Setup, Subject, Wrapped, Wrapping};
use msgkit_transport_sqlite::{Sqlite, SqliteConfig};
use sqlx::{Connection as _, SqliteConnection};

fn main() -> ExitCode {
    let mut subjects: Vec<Box<dyn Subject>> = vec![Box::new(SqliteSubject::default())];
    for wrapping in Wrapping::ALL {
        subjects.push(Box::new(Wrapped(SqliteSubject::default(), wrapping)));
    }
    conformance::main(subjects)
}

/// Files in a directory that lives as long as the suite: a case may drop its broker and keep its connections.
#[derive(Debug, Default)]
struct SqliteSubject {
    directories: Mutex<Vec<tempfile::TempDir>>,
}

#[async_trait]
impl Subject for SqliteSubject {
    fn name(&self) -> String {
        "sqlite".to_owned()
    }

    fn version(&self) -> String {
        "a file, written by the SQLite that the crate bundles".to_owned()
    }

    async fn broker(&self, setup: &Setup) -> Result<Box<dyn Broker>, NotRun> {
        let directory = tempfile::tempdir().map_err(|error| NotRun(error.to_string()))?;
        let mut config = SqliteConfig::default();
        config.capacity = setup.capacity.unwrap_or(config.capacity);
        config.publish_timeout = setup.publish_timeout.unwrap_or(config.publish_timeout);
        config.poll_interval = Duration::from_millis(5);
        // Who dies is buried by hand. A machine may stand still for a while.
        config.lease = Duration::from_secs(60);
        if setup.retains {
            config.retain = Duration::from_secs(3600);
        }
        if setup.refuses_unrouted {
            config.on_unrouted = OnUnrouted::Error;
        }
        let file = directory.path().join("messages.db");
        self.directories.lock().unwrap_or_else(PoisonError::into_inner).push(directory);
        Ok(Box::new(File { file, config, setup: setup.clone() }))
    }

    fn secrets(&self) -> Option<(Registry, String, Vec<String>)> {
        // A file has neither user nor password; written all the same, they must not be printed by the refusal.
        let registry = Registry::new().with(msgkit_transport_sqlite::scheme());
        let url = "sqlite://keeper:5ecr3t-w0rd@messages.db?capacity=7".to_owned();
        Some((registry, url, vec!["5ecr3t-w0rd".to_owned()]))
    }
}

/// A file of its own.
struct File {
    file: PathBuf,
    config: SqliteConfig,
    setup: Setup,
}

#[async_trait]
impl Broker for File {
    async fn connect(&self) -> Result<Arc<dyn Transport>, TransportError> {
        let sqlite = Sqlite::with(&self.file, self.config.clone(), self.setup.clock).map_err(|error| {
            TransportError::new(msgkit::transport::TransportErrorKind::Invalid, error.to_string())
        })?;
        Ok(Arc::new(sqlite))
    }

    /// What a process does to others that have given no sign of life for their lease.
    async fn disconnect(&self) -> Fault {
        let bury = "BEGIN IMMEDIATE; UPDATE msgkit_queue SET member = NULL WHERE member IS NOT NULL; \
                    DELETE FROM msgkit_member; DELETE FROM msgkit_process; COMMIT";
        let url = format!("sqlite:{}", self.file.display());
        let buried = async {
            let mut connection = SqliteConnection::connect(&url).await?;
            sqlx::raw_sql(bury).execute(&mut connection).await?;
            connection.close().await
        };
        if let Err(error) = buried.await {
            panic!("the leases cannot be ended: {error}");
        }
        Fault::Done
    }

    async fn publish_foreign(&self, topic: &Topic, payload: Bytes, headers: &NativeHeaders) -> Fault {
        let sqlite = match Sqlite::with(&self.file, self.config.clone(), self.setup.clock) {
            Ok(sqlite) => sqlite,
            Err(error) => panic!("the file cannot be opened: {error}"),
        };
        if let Err(error) = sqlite.publish_foreign(topic, &payload, headers).await {
            panic!("the foreign publish failed: {error}");
        }
        Fault::Done
    }
}

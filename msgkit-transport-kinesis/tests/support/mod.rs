//! The stand-in for Kinesis as the suite's subject: an account and a table of leases for each case.
#![allow(dead_code)]

use std::path::PathBuf;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, LazyLock, Mutex, OnceLock, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use aws_sdk_kinesis::Client;
use aws_sdk_kinesis::config::{BehaviorVersion, Credentials, Region};
use aws_sdk_kinesis::primitives::Blob;
use bytes::Bytes;
use msgkit::envelope::NativeHeaders;
use msgkit::transport::{Transport, TransportError, TransportErrorKind, TransportUrl};
use msgkit::{Registry, Topic};
use msgkit_testing::brokers::{BrokerError, FaultProxy, KinesisLocal};
use msgkit_testing::conformance::{Broker, Fault, NotRun, Setup, Subject, Time};
use msgkit_transport_kinesis::{Change, DestinationRule, Kinesis, KinesisConfig, LeaseStore, SqliteLeases};

/// One stand-in for each case that runs at once: each is one process that answers some hundred calls a second at most, and an idle
/// one costs nothing. The cases take them by turns.
fn one_of_many() -> Result<&'static KinesisLocal, BrokerError> {
    static ALL: LazyLock<Vec<OnceLock<Result<KinesisLocal, BrokerError>>>> = LazyLock::new(|| {
        let cores = std::thread::available_parallelism().map_or(2, std::num::NonZero::get);
        (0..cores.min(4)).map(|_| OnceLock::new()).collect()
    });
    static TURN: AtomicUsize = AtomicUsize::new(0);
    let turn = TURN.fetch_add(1, Ordering::Relaxed) % ALL.len();
    ALL[turn].get_or_init(KinesisLocal::start).as_ref().map_err(Clone::clone)
}

/// A client of its own, as a producer that knows nothing of msgkit has it.
pub(crate) fn client(endpoint: &str, account: &str) -> Client {
    let config = aws_sdk_kinesis::Config::builder()
        .behavior_version(BehaviorVersion::latest())
        .region(Region::new("eu-west-1"))
        .endpoint_url(endpoint)
        .credentials_provider(Credentials::new(account, "none", None, None, "test"))
        .build();
    Client::from_conf(config)
}

/// Options for a stand-in: short intervals, since nobody is charged for a read.
pub(crate) fn config() -> KinesisConfig {
    let mut config = KinesisConfig::default();
    config.leases = Some("memory".to_owned());
    config.lease = Duration::from_secs(6);
    config.heartbeat = Duration::from_millis(300);
    // The keeper writes nothing while it looks for shards, so not more often than the cases need it.
    config.discover = Duration::from_secs(5);
    config.poll_interval = Duration::from_millis(800);
    config.read_interval = Duration::from_millis(5);
    config
}

pub(crate) fn url(account: &str) -> TransportUrl {
    match TransportUrl::parse(&format!("kinesis://{account}:none@eu-west-1/app")) {
        Ok(url) => url,
        Err(error) => panic!("{error}"),
    }
}

#[derive(Default)]
pub(crate) struct KinesisSubject {
    /// They live as long as the suite: a case may drop its broker and keep its connections.
    kept: Mutex<Vec<(tempfile::TempDir, Arc<FaultProxy>)>>,
}

#[async_trait]
impl Subject for KinesisSubject {
    fn name(&self) -> String {
        "kinesis".to_owned()
    }

    fn version(&self) -> String {
        let broker = one_of_many().map_or_else(|_| "kinesis-local".to_owned(), KinesisLocal::version);
        format!("{broker}, leases in SQLite")
    }

    fn time(&self) -> Time {
        Time::Slow
    }

    async fn broker(&self, setup: &Setup) -> Result<Box<dyn Broker>, NotRun> {
        let local = one_of_many()?;
        let not_run = |error: std::io::Error| NotRun(error.to_string());
        let directory = tempfile::tempdir().map_err(not_run)?;
        let proxy = Arc::new(FaultProxy::start(local.address().to_owned()).await.map_err(not_run)?);
        let leases = directory.path().join("leases.db");
        self.kept.lock().unwrap_or_else(PoisonError::into_inner).push((directory, proxy.clone()));
        let mut config = config();
        config.endpoint = Some(format!("http://{}", proxy.address()));
        // No case waits for one to run out: who dies is buried by hand. A busy machine may stand still for seconds.
        config.lease = Duration::from_secs(30);
        config.publish_timeout =
            setup.publish_timeout.unwrap_or(config.publish_timeout).max(config.heartbeat);
        // What records of others cannot say.
        let rule = |pattern: &str, stream: &str, topic: &str| match pattern.parse() {
            Ok(pattern) => DestinationRule::new(pattern, stream).with_foreign(topic),
            Err(error) => panic!("{error}"),
        };
        config.destinations = vec![
            rule("conformance.probes", "app.conformance", "conformance.probes"),
            rule("a.b", "app.a", "a.b"),
            rule("device.*.raw", "app.device", "device.{key}.raw"),
        ];
        Ok(Box::new(Place {
            proxy,
            endpoint: local.endpoint().to_owned(),
            account: local.account(),
            leases,
            config,
            setup: setup.clone(),
        }))
    }

    fn secrets(&self) -> Option<(Registry, String, Vec<String>)> {
        let registry = Registry::new().with(msgkit_transport_kinesis::scheme());
        // Nobody listens there; what cannot be reached must not print its secrets either.
        let url = "kinesis://AKIDEXAMPLE:5ecr3t-w0rd@eu-west-1/app?leases=memory&publish_timeout=200ms\
                   &session_token=t0ken-5ecr3t&endpoint=http:%2F%2F127.0.0.1:9"
            .to_owned();
        Some((registry, url, vec!["5ecr3t-w0rd".to_owned(), "t0ken-5ecr3t".to_owned()]))
    }
}

/// An account of its own.
struct Place {
    proxy: Arc<FaultProxy>,
    endpoint: String,
    account: String,
    leases: PathBuf,
    config: KinesisConfig,
    setup: Setup,
}

/// Does to every member that the table of leases knows what the others do with one that gave no sign of life: buries it,
/// and has its leases written since, so that it can neither settle nor give back.
pub(crate) async fn bury_all(leases: &dyn LeaseStore, spaces: &[String]) {
    for space in spaces {
        loop {
            let mut again = false;
            let rows = match leases.load(space).await {
                Ok(rows) => rows,
                Err(error) => panic!("the leases cannot be read: {}", msgkit::Chain(&error)),
            };
            for row in rows.iter().filter(|row| row.key.starts_with("member/")) {
                // It may give a sign of life between the look and the burial.
                again |= !matches!(leases.swap(space, Change::remove(&row.key, row.version)).await, Ok(true));
            }
            for row in rows.iter().filter(|row| row.key.starts_with("lease/")) {
                again |= !matches!(
                    leases.swap(space, Change::write(&row.key, row.version, &row.value)).await,
                    Ok(true)
                );
            }
            if !again {
                break;
            }
        }
    }
}

#[async_trait]
impl Broker for Place {
    async fn connect(&self) -> Result<Arc<dyn Transport>, TransportError> {
        let leases = Arc::new(SqliteLeases::new(&self.leases));
        let kinesis =
            Kinesis::with_leases(&url(&self.account), self.config.clone(), self.setup.clock, leases);
        match kinesis {
            Ok(kinesis) => Ok(Arc::new(kinesis)),
            Err(error) => Err(TransportError::new(TransportErrorKind::Invalid, error.to_string())),
        }
    }

    /// What happens when processes die: their connections end, and the others take them for dead.
    async fn disconnect(&self) -> Fault {
        self.proxy.cut();
        let store = SqliteLeases::new(&self.leases);
        bury_all(&store, &spaces(&self.leases).await).await;
        Fault::Done
    }

    /// A record has no headers.
    async fn publish_foreign(&self, topic: &Topic, payload: Bytes, _: &NativeHeaders) -> Fault {
        let key = topic.segments().nth(1).unwrap_or("none").to_owned();
        let stream = format!("app.{}", topic.segments().next().unwrap_or_default());
        let client = client(&self.endpoint, &self.account);
        let put = client.put_record().stream_name(stream).partition_key(key).data(Blob::new(payload));
        if let Err(error) = put.send().await {
            panic!("the foreign publish failed: {}", msgkit::Chain(&error));
        }
        Fault::Done
    }
}

/// The spaces of the groups in a file of leases.
pub(crate) async fn spaces(file: &std::path::Path) -> Vec<String> {
    use sqlx::Connection as _;
    let read = async {
        let mut connection = sqlx::SqliteConnection::connect(&format!("sqlite:{}", file.display())).await?;
        let rows: Vec<(String,)> =
            sqlx::query_as("SELECT DISTINCT space FROM msgkit_lease WHERE key LIKE 'member/%'")
                .fetch_all(&mut connection)
                .await?;
        connection.close().await?;
        Ok::<_, sqlx::Error>(rows.into_iter().map(|(space,)| space).collect())
    };
    match read.await {
        Ok(spaces) => spaces,
        Err(error) => panic!("the leases cannot be read: {error}"),
    }
}

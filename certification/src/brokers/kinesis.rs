//! Kinesis by its stand-in, its leases in the stand-in for DynamoDB.

use std::sync::Mutex;

use async_trait::async_trait;
use msgkit_testing::brokers::{Dynalite, FaultProxy, KinesisLocal};

use super::{Broker, Place, lock};
use crate::{Failure, scenarios};

/// What stands before the names of all streams.
const SYSTEM: &str = "certify";
/// The stream that the messages of a run go through: that of their topic's first segment.
const STREAM: &str = "certify.certification";

/// One stand-in; an account of its own for each run, one run at a time. What breaks is the way to the streams; that to the leases
/// is another service, and goes on.
#[derive(Debug)]
pub struct KinesisBroker {
    streams: Mutex<KinesisLocal>,
    leases: Dynalite,
    /// The account of the run that is on.
    account: Mutex<String>,
}

impl KinesisBroker {
    /// Starts stand-ins of our own, or takes those that the environment names, which cannot be restarted.
    ///
    /// # Errors
    /// [`Failure`] where they are not installed or do not come up.
    pub fn start() -> Result<Self, Failure> {
        let (streams, leases) = (Mutex::new(KinesisLocal::start()?), Dynalite::start()?);
        Ok(Self { streams, leases, account: Mutex::default() })
    }
}

#[async_trait]
impl Broker for KinesisBroker {
    fn name(&self) -> &'static str {
        "kinesis"
    }

    fn version(&self) -> String {
        format!("{}, leases in {}", lock(&self.streams).version(), self.leases.version())
    }

    async fn place(&self, _: &str) -> Result<Place, Failure> {
        let (account, target) = {
            let streams = lock(&self.streams);
            (streams.account(), streams.address().to_owned())
        };
        lock(&self.account).clone_from(&account);
        let network = FaultProxy::start(target).await?;
        let url = format!("kinesis://{account}:none@eu-west-1/{SYSTEM}");
        // A member of which nothing is heard is missed within ten seconds instead of fifteen, and shards that are new are seen soon.
        let options = format!(
            "endpoint = \"http://{}\"\nleases = \"dynamodb:{}\"\nleases_endpoint = \"{}\"\nshards = 4\n\
             lease = \"10s\"\nheartbeat = \"1s\"\ndiscover = \"5s\"\nread_interval = \"20ms\"\n",
            network.address(),
            self.leases.table(),
            self.leases.endpoint(),
        );
        Ok(Place { network, url, options, keeps: Box::new(()) })
    }

    fn restart(&self, killed: bool) -> Result<(), Failure> {
        let mut streams = lock(&self.streams);
        if killed {
            streams.kill()?;
        }
        Ok(streams.restart()?)
    }

    /// Its HTTP server does, for minutes.
    fn waits_for_callers(&self) -> bool {
        true
    }

    /// Checkpoints are written with each sign of life.
    fn settles_in_intervals(&self) -> bool {
        true
    }

    fn cannot(&self, scenario: &str) -> Option<&'static str> {
        (scenario == scenarios::BROKER_KILLED).then_some(
            "the stand-in forgets what came since its start, and gives its sequence numbers again, which the service never does",
        )
    }

    fn reshard(&self) -> Result<(), Failure> {
        Ok(lock(&self.streams).reshard(&lock(&self.account), STREAM)?)
    }
}

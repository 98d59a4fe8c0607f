//! Kinesis, and the work by hand on `aws-sdk-kinesis`: one stream of four shards on the stand-in; a batch in one request; a
//! loop for each shard that reads as often and as much at once as the transport does, and writes its place into a table in
//! memory. The stand-in needs longer for a call than its callers, so what counts is the CPU time of these.

use std::collections::HashMap;
use std::ops::Range;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use aws_sdk_kinesis::Client;
use aws_sdk_kinesis::config::retry::RetryConfig;
use aws_sdk_kinesis::config::{BehaviorVersion, Credentials, Region};
use aws_sdk_kinesis::primitives::Blob;
use aws_sdk_kinesis::types::{PutRecordsRequestEntry, Record, ShardIteratorType, StreamStatus};
use msgkit_testing::brokers::KinesisLocal;
use tokio::task::JoinHandle;

use crate::event::{Event, Structured, payload};
use crate::run::{BATCH, Flow, Run, Scenario};
use crate::system::{Place, Subject, System, Work, spawn};

pub(crate) const SYSTEM: System = System {
    name: "kinesis",
    client: "aws-sdk-kinesis",
    place,
    register: |registry| registry.with(msgkit_transport_kinesis::scheme()),
    // What has no key is spread, as by hand.
    options: "leases = \"memory\"\nshards = 4\nunkeyed = \"spread\"",
    scenarios: &[
        Scenario { flow: Flow::Publish, members: 1 },
        Scenario { flow: Flow::Consume, members: 1 },
        Scenario { flow: Flow::Consume, members: 4 },
    ],
    raw: |run| Box::pin(run.drive::<Raw>()),
};

const STREAM: &str = "bench.bench";
const SHARDS: usize = 4;
/// The transport's: the least time between two reads of a shard, and how much is read at once.
const READ_INTERVAL: Duration = Duration::from_millis(200);
const MOST: i32 = 2_000;
/// How long its shards may rest that had nothing.
const POLL_INTERVAL: Duration = Duration::from_secs(1);

/// An account of one stand-in.
fn place() -> anyhow::Result<Place> {
    static LOCAL: OnceLock<KinesisLocal> = OnceLock::new();
    let local = match LOCAL.get() {
        Some(local) => local,
        None => {
            let started = KinesisLocal::start()?;
            LOCAL.get_or_init(|| started)
        }
    };
    let (account, endpoint) = (local.account(), local.address());
    let url = format!("kinesis://{account}:none@eu-west-1/bench?endpoint=http:%2F%2F{endpoint}");
    Ok(Place { url, _keep: Box::new(()) })
}

/// How far each shard is handled.
type Places = Arc<Mutex<HashMap<String, String>>>;

struct Raw {
    client: Client,
    /// The shards that nobody reads, and how many each member takes.
    shards: Vec<String>,
    share: usize,
    places: Places,
    readers: Vec<JoinHandle<()>>,
}

impl Subject for Raw {
    async fn open(run: &Run) -> anyhow::Result<Self> {
        let (account, rest) =
            run.url.trim_start_matches("kinesis://").split_once(':').context("an account")?;
        let (_, endpoint) = rest.split_once("endpoint=http:%2F%2F").context("an endpoint")?;
        let config = aws_sdk_kinesis::Config::builder()
            .behavior_version(BehaviorVersion::latest())
            .region(Region::new("eu-west-1"))
            .credentials_provider(Credentials::new(account, "none", None, None, "bench"))
            .retry_config(RetryConfig::disabled())
            .endpoint_url(format!("http://{endpoint}"))
            .build();
        let client = Client::from_conf(config);
        client.create_stream().stream_name(STREAM).shard_count(i32::try_from(SHARDS)?).send().await?;
        loop {
            let told = client.describe_stream_summary().stream_name(STREAM).send().await?;
            if told.stream_description_summary.is_some_and(|all| all.stream_status == StreamStatus::Active) {
                break;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        let told = client.list_shards().stream_name(STREAM).send().await?;
        let shards: Vec<_> =
            told.shards.unwrap_or_default().into_iter().map(|shard| shard.shard_id).collect();
        ensure!(shards.len() == SHARDS, "{} shards", shards.len());
        let share = SHARDS / run.members();
        Ok(Self { client, shards, share, places: Places::default(), readers: Vec::new() })
    }

    async fn publish(&self, numbers: Range<usize>) -> anyhow::Result<()> {
        let mut next = numbers.start;
        while next < numbers.end {
            let end = (next + BATCH).min(numbers.end);
            let mut call = self.client.put_records().stream_name(STREAM);
            for n in next..end {
                let record = PutRecordsRequestEntry::builder()
                    .partition_key(format!("~{:016x}", fastrand::u64(..)))
                    .data(Blob::new(Structured::write(&Event::new(), &payload(n))?))
                    .build()?;
                call = call.records(record);
            }
            let told = call.send().await?;
            let refused = told.records.iter().filter(|record| record.sequence_number.is_none()).count();
            ensure!(refused == 0 && told.records.len() == end - next, "{refused} records were refused");
            next = end;
        }
        Ok(())
    }

    async fn join(&mut self, work: Work) -> anyhow::Result<()> {
        for shard in self.shards.split_off(self.shards.len() - self.share) {
            let (client, places, work) = (self.client.clone(), self.places.clone(), work.clone());
            self.readers.push(spawn(consume(client, shard, places, work)));
        }
        Ok(())
    }

    async fn close(self) -> anyhow::Result<()> {
        for reader in self.readers {
            reader.abort();
        }
        Ok(())
    }
}

async fn consume(client: Client, shard: String, places: Places, work: Work) -> anyhow::Result<()> {
    let at = client.get_shard_iterator().stream_name(STREAM).shard_id(&shard);
    let told = at.shard_iterator_type(ShardIteratorType::TrimHorizon).send().await?;
    let mut iterator = told.shard_iterator.context("an iterator")?;
    loop {
        let began = Instant::now();
        let told = client.get_records().shard_iterator(iterator).limit(MOST).send().await?;
        for record in &told.records {
            handle(record)?;
        }
        if let Some(last) = told.records.last() {
            let mut places = places.lock().unwrap_or_else(PoisonError::into_inner);
            places.insert(shard.clone(), last.sequence_number.clone());
        }
        work.handled(told.records.len());
        iterator = told.next_shard_iterator.context("the shard has ended")?;
        let pause = if told.records.is_empty() { POLL_INTERVAL } else { READ_INTERVAL };
        tokio::time::sleep(pause.saturating_sub(began.elapsed())).await;
    }
}

fn handle(record: &Record) -> anyhow::Result<()> {
    let event = Structured::read(record.data.as_ref())?;
    std::hint::black_box((event.attributes()?, event.payload().first()));
    Ok(())
}

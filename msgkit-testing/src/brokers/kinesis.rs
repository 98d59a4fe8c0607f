//! A stand-in for Amazon Kinesis Data Streams: `kinesis-local` (kinesis-mock), of npm.

use std::io;
use std::path::Path;
use std::process::Command;
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::error::BrokerError;
use super::http;
use super::npm::{self, StandIn, StandsFor};

/// A `kinesis-local` for tests, which ends when it is dropped.
///
/// What it gets right: streams, shards, their splitting and merging, iterators, enhanced fan-out. What it does not: it never
/// throttles, never refuses a part of a request, and takes requests of more than 500 records; [`KinesisFaults`] stands before
/// it for those. Each access key has its own account, so a test that has a key of its own has its own streams:
/// [`account`](StandIn::account).
///
/// It writes down what it was told when it is ended in good order, so that a restart keeps all of it. After SIGKILL what came
/// since the last restart is gone, and its sequence numbers are given a second time, which the service never does.
///
/// [`KinesisFaults`]: super::KinesisFaults
pub type KinesisLocal = StandIn<KinesisStreams>;

/// What [`KinesisLocal`] stands for.
#[derive(Debug)]
pub enum KinesisStreams {}

impl StandIn<KinesisStreams> {
    /// The id of an access key that no other test uses: an account with no streams. Any secret will do.
    #[must_use]
    pub fn account(&self) -> String {
        // It takes twelve digits for an account.
        format!("{:012}", fastrand::u64(100_000_000_000..1_000_000_000_000))
    }

    /// Splits the first open shard of a stream in two, then merges two that lie side by side, and waits until it is done.
    ///
    /// # Errors
    /// [`BrokerError`] where it does not answer, or has no such stream.
    pub fn reshard(&self, account: &str, stream: &str) -> Result<(), BrokerError> {
        let doing =
            |error| BrokerError::io(KinesisStreams::NAME, format!("cannot reshard `{stream}`"), error);
        let (first, last, shard) = self.open_shards(account, stream).map_err(doing)?.swap_remove(0);
        let middle = (first + (last - first) / 2 + 1).to_string();
        let split = json!({ "StreamName": stream, "ShardToSplit": shard, "NewStartingHashKey": middle });
        self.change(account, stream, "SplitShard", &split).map_err(doing)?;
        let open = self.open_shards(account, stream).map_err(doing)?;
        let [_, (_, _, one), (_, _, other), ..] = &open[..] else {
            return Err(doing(io::Error::other("it has too few shards")));
        };
        let merged = json!({ "StreamName": stream, "ShardToMerge": one, "AdjacentShardToMerge": other });
        self.change(account, stream, "MergeShards", &merged).map_err(doing)
    }

    /// The shards that are written to, in the order of their hash keys, with the first and the last of those.
    fn open_shards(&self, account: &str, stream: &str) -> io::Result<Vec<(u128, u128, String)>> {
        let told = self.call(account, "ListShards", &json!({ "StreamName": stream }))?;
        let shards = told["Shards"].as_array().map(Vec::as_slice).unwrap_or_default();
        let number = |value: &Value| value.as_str()?.parse().ok();
        let mut open: Vec<_> = shards
            .iter()
            .filter(|shard| shard["SequenceNumberRange"]["EndingSequenceNumber"].is_null())
            .filter_map(|shard| {
                let range = &shard["HashKeyRange"];
                let (first, last) = (&range["StartingHashKey"], &range["EndingHashKey"]);
                Some((number(first)?, number(last)?, shard["ShardId"].as_str()?.to_owned()))
            })
            .collect();
        open.sort();
        if open.is_empty() { Err(io::Error::other(format!("no open shards: {told}"))) } else { Ok(open) }
    }

    fn change(&self, account: &str, stream: &str, operation: &str, body: &Value) -> io::Result<()> {
        self.call(account, operation, body)?;
        let deadline = Instant::now() + Duration::from_secs(60);
        loop {
            let told = self.call(account, "DescribeStreamSummary", &json!({ "StreamName": stream }))?;
            match told["StreamDescriptionSummary"]["StreamStatus"].as_str() {
                Some("ACTIVE") => return Ok(()),
                _ if Instant::now() > deadline => return Err(io::Error::other(told.to_string())),
                _ => std::thread::sleep(Duration::from_millis(20)),
            }
        }
    }

    /// A call of the API as any client makes it, whose signature nobody looks at.
    fn call(&self, account: &str, operation: &str, body: &Value) -> io::Result<Value> {
        let scope = format!("{account}/20260101/eu-west-1/kinesis/aws4_request");
        let head = format!(
            "POST / HTTP/1.0\r\nContent-Type: application/x-amz-json-1.1\r\n\
             X-Amz-Target: Kinesis_20131202.{operation}\r\nX-Amz-Date: 20260101T000000Z\r\n\
             Authorization: AWS4-HMAC-SHA256 Credential={scope}, SignedHeaders=host, Signature=00"
        );
        let answer = http::send(self.address(), &head, &body.to_string())?;
        match answer.status {
            200 if answer.body.is_empty() => Ok(Value::Null),
            200 => serde_json::from_str(&answer.body).map_err(io::Error::other),
            status => Err(io::Error::other(format!("{operation}: {status} {}", answer.body))),
        }
    }
}

impl StandsFor for KinesisStreams {
    const NAME: &'static str = "kinesis-local";
    const MAIN: &'static str = "main.js";
    const URL: &'static str = "MSGKIT_KINESIS_URL";
    const HOME: &'static str = "MSGKIT_KINESIS_HOME";

    fn configure(command: &mut Command, package: &Path, [plain, tls]: [u16; 2], directory: &Path) {
        command
            // Without a bound it keeps 600 MB after a few large records.
            .arg("--max-old-space-size=512")
            .arg(package.join(Self::MAIN))
            .env("KINESIS_MOCK_PLAIN_PORT", plain.to_string())
            .env("KINESIS_MOCK_TLS_PORT", tls.to_string())
            .env("KINESIS_MOCK_CERT_PATH", package.join("server.json"))
            .env("LOG_LEVEL", "WARN")
            .env("SHARD_LIMIT", "100000")
            .env("ON_DEMAND_STREAM_COUNT_LIMIT", "10000")
            .env("SHOULD_PERSIST_DATA", "true")
            .env("PERSIST_PATH", directory.join("data"))
            // Only at its end: it stands still while it writes.
            .env("PERSIST_INTERVAL", "1h");
        for change in [
            "CREATE_STREAM",
            "DELETE_STREAM",
            "SPLIT_SHARD",
            "MERGE_SHARDS",
            "UPDATE_SHARD_COUNT",
            "REGISTER_STREAM_CONSUMER",
        ] {
            command.env(format!("{change}_DURATION"), "20ms");
        }
    }

    fn greet(address: &str) -> io::Result<()> {
        match npm::status(address, "/healthcheck")? {
            200 => Ok(()),
            status => Err(io::Error::other(format!("its health check answers {status}"))),
        }
    }

    fn shared() -> &'static OnceLock<Result<KinesisLocal, BrokerError>> {
        static SHARED: OnceLock<Result<KinesisLocal, BrokerError>> = OnceLock::new();
        &SHARED
    }
}

//! Kafka, and the work by hand on `rdkafka`: one topic of 16 partitions; an idempotent producer that gets a batch at once and
//! waits for all brokers' word on each record; a consumer for each member, whose offsets are stored once handled and
//! committed ten times a second.

use std::ops::Range;
use std::sync::OnceLock;
use std::time::Duration;

use anyhow::{Context as _, anyhow};
use msgkit_testing::brokers::Kafka;
use rdkafka::ClientConfig;
use rdkafka::admin::{AdminClient, AdminOptions, NewTopic, TopicReplication};
use rdkafka::consumer::{CommitMode, Consumer as _, StreamConsumer};
use rdkafka::message::{BorrowedMessage, Header, Headers as _, Message as _, OwnedHeaders};
use rdkafka::producer::{FutureProducer, FutureRecord, Producer as _};
use tokio::task::JoinHandle;

use crate::event::{Event, Read, TOPIC, payload};
use crate::run::{BATCH, Flow, Run, Scenario};
use crate::system::{Place, Subject, System, Work, spawn};

pub(crate) const SYSTEM: System = System {
    name: "kafka",
    client: "rdkafka",
    place,
    register: |registry| registry.with(msgkit_transport_kafka::scheme()),
    // What has no key is spread, as by hand.
    options: "partitions = 16\nunkeyed = \"spread\"",
    scenarios: &[
        Scenario { flow: Flow::Publish, members: 1 },
        Scenario { flow: Flow::Consume, members: 1 },
        Scenario { flow: Flow::Consume, members: 4 },
        Scenario { flow: Flow::Consume, members: 16 },
        Scenario { flow: Flow::Pass, members: 1 },
        Scenario { flow: Flow::Pass, members: 4 },
        Scenario { flow: Flow::Waiting, members: 1 },
    ],
    raw: |run| Box::pin(run.drive::<Raw>()),
};

const PARTITIONS: i32 = 16;
/// What stands before the names of attributes.
pub(crate) const PREFIX: &str = "ce_";

/// A name space of one broker, which takes its time to start.
fn place() -> anyhow::Result<Place> {
    static BROKER: OnceLock<Kafka> = OnceLock::new();
    let broker = match BROKER.get() {
        Some(broker) => broker,
        None => {
            let started = Kafka::start()?;
            BROKER.get_or_init(|| started)
        }
    };
    Ok(Place { url: format!("{}?prefix={}", broker.url(), broker.prefix("bench")), _keep: Box::new(()) })
}

/// Makes the topic of a run; answers where the broker is, and its name.
pub(crate) async fn topic(run: &Run) -> anyhow::Result<(String, String)> {
    let (servers, prefix) = run.url.split_once("?prefix=").context("a prefix")?;
    let servers = servers.trim_start_matches("kafka://").to_owned();
    let topic = format!("{prefix}{TOPIC}");
    let admin: AdminClient<_> = ClientConfig::new().set("bootstrap.servers", &servers).create()?;
    let wanted = NewTopic::new(&topic, PARTITIONS, TopicReplication::Fixed(1));
    for made in admin.create_topics(&[wanted], &AdminOptions::new()).await? {
        made.map_err(|(topic, code)| anyhow!("topic {topic}: {code}"))?;
    }
    Ok((servers, topic))
}

struct Raw {
    servers: String,
    topic: String,
    producer: FutureProducer,
    members: Vec<JoinHandle<()>>,
}

impl Subject for Raw {
    async fn open(run: &Run) -> anyhow::Result<Self> {
        let (servers, topic) = topic(run).await?;
        let producer = ClientConfig::new()
            .set("bootstrap.servers", &servers)
            .set("enable.idempotence", "true")
            .set("acks", "all")
            .set("linger.ms", "0")
            .set("socket.nagle.disable", "true")
            .create()?;
        Ok(Self { servers, topic, producer, members: Vec::new() })
    }

    async fn publish(&self, numbers: Range<usize>) -> anyhow::Result<()> {
        let mut next = numbers.start;
        while next < numbers.end {
            let end = (next + BATCH).min(numbers.end);
            let sent = (next..end).map(|n| self.send(n)).collect::<anyhow::Result<Vec<_>>>()?;
            for told in futures_util::future::try_join_all(sent).await? {
                told.map_err(|(error, _)| error)?;
            }
            next = end;
        }
        Ok(())
    }

    async fn join(&mut self, work: Work) -> anyhow::Result<()> {
        let consumer: StreamConsumer = ClientConfig::new()
            .set("bootstrap.servers", &self.servers)
            .set("group.id", format!("{}.group", self.topic))
            .set("enable.auto.offset.store", "false")
            .set("auto.commit.interval.ms", "100")
            .set("auto.offset.reset", "earliest")
            .set("partition.assignment.strategy", "cooperative-sticky")
            .set("queued.min.messages", "1000")
            .set("socket.nagle.disable", "true")
            .create()?;
        consumer.subscribe(&[&self.topic])?;
        self.members.push(spawn(consume(consumer, work)));
        Ok(())
    }

    async fn close(self) -> anyhow::Result<()> {
        for member in self.members {
            member.abort();
        }
        Ok(self.producer.flush(Duration::from_secs(5))?)
    }
}

impl Raw {
    fn send(&self, n: usize) -> anyhow::Result<rdkafka::producer::DeliveryFuture> {
        let event = Event::new();
        let mut headers = OwnedHeaders::new_with_capacity(10);
        for (name, value) in event.attributes() {
            headers = headers.insert(Header { key: &format!("{PREFIX}{name}"), value: Some(value) });
        }
        headers = headers.insert(Header { key: "content-type", value: Some("application/json") });
        let payload = payload(n);
        let record = FutureRecord::<(), _>::to(&self.topic).payload(&payload).headers(headers);
        self.producer.send_result(record).map_err(|(error, _)| error.into())
    }
}

async fn consume(consumer: StreamConsumer, work: Work) -> anyhow::Result<()> {
    // Left in good order when it is broken off.
    let left = Leaving(consumer);
    loop {
        let message = left.0.recv().await?;
        handle(&message)?;
        left.0.store_offset_from_message(&message)?;
        let pause = work.pause();
        if !pause.is_zero() {
            tokio::time::sleep(pause).await;
        }
        work.handled(1);
    }
}

struct Leaving(StreamConsumer);

impl Drop for Leaving {
    fn drop(&mut self) {
        let _ = self.0.commit_consumer_state(CommitMode::Sync);
    }
}

fn handle(message: &BorrowedMessage<'_>) -> anyhow::Result<()> {
    let headers = message.headers().context("headers")?;
    let attributes = headers.iter().filter_map(|header| {
        Some((header.key.strip_prefix(PREFIX)?, std::str::from_utf8(header.value?).ok()?))
    });
    std::hint::black_box((Read::from(attributes)?, message.payload().and_then(|payload| payload.first())));
    Ok(())
}

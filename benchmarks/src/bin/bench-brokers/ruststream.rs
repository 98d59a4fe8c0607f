//! The peer on Kafka: `ruststream-rdkafka`, at the level at which msgkit's transport is used here, its connected broker, and
//! with the same settings of the client. What it has no word for, the attributes of an event, is written and read by hand.

use std::ops::Range;

use anyhow::{Context as _, anyhow};
use futures_util::StreamExt as _;
use ruststream::{Broker as _, ConnectedBroker as _, HeaderMap, IncomingMessage as _, OutgoingMessage};
use ruststream::{Publisher as _, Subscriber as _};
use ruststream_rdkafka::{
    Assignment, Commit, ConnectedKafkaBroker, KafkaBroker, KafkaMessage, KafkaPublish, KafkaPublisher,
    KafkaSubscriber, KafkaTopic, StartOffset,
};
use tokio::task::JoinHandle;

use crate::event::{Event, Read, payload};
use crate::kafka::{PREFIX, topic};
use crate::run::{BATCH, Flow, Run};
use crate::system::{Peer, Subject, Work, spawn};

pub(crate) const PEER: Peer = Peer {
    name: "ruststream-rdkafka",
    flows: &[Flow::Publish, Flow::Consume, Flow::Pass],
    run: |run| Box::pin(run.drive::<Ruststream>()),
};

struct Ruststream {
    broker: ConnectedKafkaBroker,
    publisher: KafkaPublisher,
    topic: String,
    members: Vec<JoinHandle<()>>,
}

impl Subject for Ruststream {
    async fn open(run: &Run) -> anyhow::Result<Self> {
        let (servers, topic) = topic(run).await?;
        let broker = KafkaBroker::new([servers])
            .config("socket.nagle.disable", "true")
            .producer_config("enable.idempotence", "true")
            .producer_config("acks", "all")
            .producer_config("linger.ms", "0")
            .connect()
            .await?;
        let publisher = broker.publisher(KafkaPublish::default());
        Ok(Self { broker, publisher, topic, members: Vec::new() })
    }

    async fn publish(&self, numbers: Range<usize>) -> anyhow::Result<()> {
        let mut next = numbers.start;
        while next < numbers.end {
            let end = (next + BATCH).min(numbers.end);
            futures_util::future::try_join_all((next..end).map(|n| self.send(n))).await?;
            next = end;
        }
        Ok(())
    }

    async fn join(&mut self, work: Work) -> anyhow::Result<()> {
        let topic = KafkaTopic::new(&self.topic)
            .group(format!("{}.group", self.topic))
            .start(StartOffset::Earliest)
            .commit(Commit::Tracked)
            .assignment(Assignment::CooperativeSticky)
            .config("auto.commit.interval.ms", "100")
            .config("queued.min.messages", "1000");
        let subscriber = self.broker.subscribe_with(topic).await?;
        self.members.push(spawn(consume(subscriber, work)));
        Ok(())
    }

    async fn close(self) -> anyhow::Result<()> {
        for member in self.members {
            member.abort();
        }
        self.broker.shutdown().await?;
        Ok(())
    }
}

impl Ruststream {
    async fn send(&self, n: usize) -> anyhow::Result<()> {
        let event = Event::new();
        let mut headers = HeaderMap::with_capacity(10);
        for (name, value) in event.attributes() {
            headers.insert(format!("{PREFIX}{name}"), value.to_owned());
        }
        headers.insert("content-type", "application/json");
        let payload = payload(n);
        let message = OutgoingMessage::new(&self.topic, &payload).with_headers(headers);
        Ok(self.publisher.publish(message, None).await?)
    }
}

async fn consume(mut subscriber: KafkaSubscriber, work: Work) -> anyhow::Result<()> {
    let mut messages = std::pin::pin!(subscriber.stream());
    loop {
        let message = messages.next().await.context("the stream has ended")??;
        handle(&message)?;
        message.ack().await.map_err(|error| anyhow!(error))?;
        work.handled(1);
    }
}

fn handle(message: &KafkaMessage) -> anyhow::Result<()> {
    let attributes = message
        .headers()
        .iter()
        .filter_map(|(name, value)| Some((name.strip_prefix(PREFIX)?, std::str::from_utf8(value).ok()?)));
    std::hint::black_box((Read::from(attributes)?, message.payload().first()));
    Ok(())
}

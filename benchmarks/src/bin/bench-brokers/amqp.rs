//! RabbitMQ, and the work by hand on `lapin`: a quorum queue on a topic exchange; a batch published at once, each message
//! mandatory and confirmed; one connection that publishes and one that consumes, a channel for each member; one
//! acknowledgement for all that has come at once.

use std::ops::Range;
use std::sync::OnceLock;

use anyhow::{Context as _, ensure};
use futures_util::{FutureExt as _, StreamExt as _};
use lapin::message::Delivery;
use lapin::options::{
    BasicAckOptions, BasicConsumeOptions, BasicPublishOptions, BasicQosOptions, ConfirmSelectOptions,
    ExchangeDeclareOptions, QueueBindOptions, QueueDeclareOptions,
};
use lapin::types::{AMQPValue, FieldTable, LongString, ShortString};
use lapin::{
    BasicProperties, Channel, Confirmation, Connection, ConnectionProperties, Consumer, ExchangeKind,
};
use msgkit_testing::brokers::RabbitMq;
use tokio::task::JoinHandle;

use crate::event::{Event, Read, TOPIC, payload};
use crate::run::{BATCH, Flow, PREFETCH, Run, Scenario};
use crate::system::{Place, Subject, System, Work, spawn};

pub(crate) const SYSTEM: System = System {
    name: "amqp",
    client: "lapin",
    place,
    register: |registry| registry.with(msgkit_transport_amqp::scheme()),
    options: "",
    scenarios: &[
        Scenario { flow: Flow::Publish, members: 1 },
        Scenario { flow: Flow::Consume, members: 1 },
        Scenario { flow: Flow::Consume, members: 4 },
        Scenario { flow: Flow::Consume, members: 16 },
        Scenario { flow: Flow::Pass, members: 1 },
        Scenario { flow: Flow::Pass, members: 16 },
        Scenario { flow: Flow::Waiting, members: 1 },
    ],
    raw: |run| Box::pin(run.drive::<Raw>()),
};

/// A virtual host of one broker, which takes its time to start.
fn place() -> anyhow::Result<Place> {
    static BROKER: OnceLock<RabbitMq> = OnceLock::new();
    let broker = match BROKER.get() {
        Some(broker) => broker,
        None => {
            let started = RabbitMq::start()?;
            BROKER.get_or_init(|| started)
        }
    };
    let vhost = broker.vhost("bench")?;
    Ok(Place { url: vhost.url().to_owned(), _keep: Box::new(vhost) })
}

/// The name of the exchange and of the queue.
const NAME: &str = "bench";
/// What stands before the names of attributes.
const PREFIX: &str = "cloudEvents_";

struct Raw {
    _publishing: Connection,
    consuming: Connection,
    channel: Channel,
    members: Vec<JoinHandle<()>>,
}

impl Subject for Raw {
    async fn open(run: &Run) -> anyhow::Result<Self> {
        let publishing = Connection::connect(&run.url, ConnectionProperties::default()).await?;
        let consuming = Connection::connect(&run.url, ConnectionProperties::default()).await?;
        let channel = publishing.create_channel().await?;
        channel.confirm_select(ConfirmSelectOptions::default()).await?;
        let durable = ExchangeDeclareOptions { durable: true, ..ExchangeDeclareOptions::default() };
        channel.exchange_declare(NAME.into(), ExchangeKind::Topic, durable, FieldTable::default()).await?;
        let mut quorum = FieldTable::default();
        quorum.insert("x-queue-type".into(), AMQPValue::LongString("quorum".into()));
        quorum.insert("x-max-length".into(), AMQPValue::LongInt(1_000_000));
        quorum.insert("x-overflow".into(), AMQPValue::LongString("reject-publish".into()));
        channel.queue_declare(NAME.into(), QueueDeclareOptions::durable(), quorum).await?;
        let options = QueueBindOptions::default();
        channel.queue_bind(NAME.into(), NAME.into(), TOPIC.into(), options, FieldTable::default()).await?;
        Ok(Self { _publishing: publishing, consuming, channel, members: Vec::new() })
    }

    async fn publish(&self, numbers: Range<usize>) -> anyhow::Result<()> {
        let mut next = numbers.start;
        while next < numbers.end {
            let end = (next + BATCH).min(numbers.end);
            futures_util::future::try_join_all((next..end).map(|n| publish(&self.channel, n))).await?;
            next = end;
        }
        Ok(())
    }

    async fn join(&mut self, work: Work) -> anyhow::Result<()> {
        let channel = self.consuming.create_channel().await?;
        channel.basic_qos(u16::try_from(PREFETCH)?, BasicQosOptions::default()).await?;
        let options = BasicConsumeOptions::default();
        let consumer = channel.basic_consume(NAME.into(), "".into(), options, FieldTable::default()).await?;
        self.members.push(spawn(consume(channel, consumer, work)));
        Ok(())
    }

    async fn close(self) -> anyhow::Result<()> {
        for member in self.members {
            member.abort();
        }
        Ok(self.consuming.close(200, "done".into()).await?)
    }
}

async fn publish(channel: &Channel, n: usize) -> anyhow::Result<()> {
    let event = Event::new();
    let mut headers = FieldTable::default();
    for (name, value) in event.attributes() {
        let name = ShortString::try_new(format!("{PREFIX}{name}"))?;
        headers.insert(name, AMQPValue::LongString(LongString::from(value)));
    }
    let properties = BasicProperties::default()
        .with_delivery_mode(2)
        .with_content_type("application/json".into())
        .with_message_id(ShortString::try_new(event.id)?)
        .with_headers(headers);
    let options = BasicPublishOptions { mandatory: true, ..BasicPublishOptions::default() };
    let sent = channel.basic_publish(NAME.into(), TOPIC.into(), options, &payload(n), properties).await?;
    ensure!(matches!(sent.await?, Confirmation::Ack(None)), "a message was not taken");
    Ok(())
}

async fn consume(channel: Channel, mut consumer: Consumer, work: Work) -> anyhow::Result<()> {
    loop {
        let first = consumer.next().await.context("the consumer has ended")??;
        handle(&first)?;
        let (mut last, mut count) = (first.delivery_tag, 1);
        // What has come meanwhile is settled with it.
        while let Some(Some(next)) = consumer.next().now_or_never() {
            let next = next?;
            handle(&next)?;
            (last, count) = (next.delivery_tag, count + 1);
        }
        channel.basic_ack(last, BasicAckOptions { multiple: true }).await?;
        work.handled(count);
    }
}

fn handle(message: &Delivery) -> anyhow::Result<()> {
    let headers = message.properties.headers().as_ref().context("headers")?;
    let attributes = headers.into_iter().filter_map(|(name, value)| match value {
        AMQPValue::LongString(text) => {
            Some((name.as_str().strip_prefix(PREFIX)?, std::str::from_utf8(text.as_bytes()).ok()?))
        }
        _ => None,
    });
    std::hint::black_box((Read::from(attributes)?, message.data.first()));
    Ok(())
}

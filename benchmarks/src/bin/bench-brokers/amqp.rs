//! The same by hand on `lapin`: a quorum queue on a topic exchange, confirms with `mandatory`, one connection that publishes, one
//! that consumes with a channel for each member, acknowledgements with `multiple` once for what has come at once.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use anyhow::ensure;
use futures_util::{FutureExt as _, StreamExt as _};
use lapin::options::{
    BasicAckOptions, BasicConsumeOptions, BasicPublishOptions, BasicQosOptions, ConfirmSelectOptions,
    ExchangeDeclareOptions, QueueBindOptions, QueueDeclareOptions, QueueDeleteOptions,
};
use lapin::types::{AMQPValue, FieldTable, LongString, ShortString};
use lapin::{
    BasicProperties, Channel, Confirmation, Connection, ConnectionProperties, Consumer, ExchangeKind,
};
use tokio::sync::Notify;

use crate::run::{BATCH, Clocks, PREFETCH, Run, Taken, WARM, attributes, payload};

pub(crate) async fn run(run: &Run) -> anyhow::Result<Taken> {
    let (name, all) = (run.unique(), run.messages + WARM);
    let publishing = Connection::connect(&run.url, ConnectionProperties::default()).await?;
    let consuming = Connection::connect(&run.url, ConnectionProperties::default()).await?;
    let channel = publishing.create_channel().await?;
    channel.confirm_select(ConfirmSelectOptions::default()).await?;
    let durable = ExchangeDeclareOptions { durable: true, ..ExchangeDeclareOptions::default() };
    let short = |text: &str| ShortString::from(text.to_owned());
    channel.exchange_declare(short(&name), ExchangeKind::Topic, durable, FieldTable::default()).await?;
    let (handled, arrived) = (Arc::new(AtomicUsize::new(0)), Arc::new(Notify::new()));
    let mut members = Vec::new();
    if run.passes() {
        let mut arguments = FieldTable::default();
        arguments.insert("x-queue-type".into(), AMQPValue::LongString(LongString::from("quorum")));
        arguments.insert("x-max-length".into(), AMQPValue::LongInt(1_000_000));
        arguments.insert("x-overflow".into(), AMQPValue::LongString(LongString::from("reject-publish")));
        let durable = QueueDeclareOptions { durable: true, ..QueueDeclareOptions::default() };
        channel.queue_declare(short(&name), durable, arguments).await?;
        let options = QueueBindOptions::default();
        channel
            .queue_bind(short(&name), short(&name), "bench.reading".into(), options, FieldTable::default())
            .await?;
        for _ in 0..run.members {
            let channel = consuming.create_channel().await?;
            channel.basic_qos(u16::try_from(PREFETCH)?, BasicQosOptions::default()).await?;
            let options = BasicConsumeOptions::default();
            let consumer =
                channel.basic_consume(short(&name), "".into(), options, FieldTable::default()).await?;
            members.push(tokio::spawn(consume(channel, consumer, handled.clone(), arrived.clone())));
        }
    }
    publish(&channel, &name, 0..WARM).await?;
    let clocks = Clocks::start()?;
    publish(&channel, &name, WARM..all).await?;
    while run.passes() && handled.load(Ordering::Acquire) < all {
        arrived.notified().await;
    }
    let taken = clocks.stop()?;
    members.iter().for_each(tokio::task::JoinHandle::abort);
    if run.passes() {
        channel.queue_delete(short(&name), QueueDeleteOptions::default()).await?;
    }
    Ok(taken)
}

/// Batches, each confirmed before the next.
async fn publish(channel: &Channel, exchange: &str, numbers: std::ops::Range<usize>) -> anyhow::Result<()> {
    let exchange = ShortString::from(exchange.to_owned());
    let mut open = Vec::with_capacity(BATCH);
    for n in numbers {
        let mut headers = FieldTable::default();
        let attributes = attributes(n);
        let id = attributes[1].1.clone();
        for (name, value) in attributes {
            headers
                .insert(format!("cloudEvents_{name}").into(), AMQPValue::LongString(LongString::from(value)));
        }
        let properties = BasicProperties::default()
            .with_delivery_mode(2)
            .with_content_type("application/json".into())
            .with_message_id(id.into())
            .with_headers(headers);
        let options = BasicPublishOptions { mandatory: true, ..BasicPublishOptions::default() };
        let payload = payload(n);
        let sent = channel
            .basic_publish(exchange.clone(), "bench.reading".into(), options, &payload, properties)
            .await?;
        open.push(sent);
        if open.len() == BATCH {
            for sent in open.drain(..) {
                ensure!(matches!(sent.await?, Confirmation::Ack(_)), "a message was not confirmed");
            }
        }
    }
    Ok(())
}

async fn consume(channel: Channel, mut consumer: Consumer, handled: Arc<AtomicUsize>, arrived: Arc<Notify>) {
    while let Some(Ok(first)) = consumer.next().await {
        let (mut last, mut count) = (first.delivery_tag, 1);
        std::hint::black_box(first.data.len());
        // What has come meanwhile is settled with it.
        while let Some(Some(Ok(next))) = consumer.next().now_or_never() {
            std::hint::black_box(next.data.len());
            (last, count) = (next.delivery_tag, count + 1);
        }
        if channel.basic_ack(last, BasicAckOptions { multiple: true }).await.is_err() {
            return;
        }
        handled.fetch_add(count, Ordering::Release);
        arrived.notify_one();
    }
}

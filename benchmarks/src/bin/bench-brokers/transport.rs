//! msgkit: through the contract of a transport, as a service uses it.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use msgkit::envelope::ContentType;
use msgkit::transport::{Declaration, Deliveries, Options, Outgoing, Subscription, Transport, TransportUrl};
use msgkit::{Clock, Envelope, Group, Registry};
use tokio::sync::Notify;

use crate::run::{BATCH, Clocks, PREFETCH, Run, Taken, WARM, payload};

/// How many messages the slow handler takes, and how long it takes for each.
const SLOW: (usize, Duration) = (1_000, Duration::from_millis(1));

pub(crate) async fn run(run: &Run) -> anyhow::Result<Taken> {
    let transport = open(run)?;
    let wanted =
        Subscription::group(Group::new("bench")?, ["bench.reading".parse()?]).with_prefetch(PREFETCH);
    let all = run.messages + WARM;
    if run.flow == "waiting" {
        return waiting(run, &*transport, &wanted).await;
    }
    let (handled, arrived) = (Arc::new(AtomicUsize::new(0)), Arc::new(Notify::new()));
    let mut members = Vec::new();
    if run.passes() {
        declare(&*transport, &wanted).await?;
        for _ in 0..run.members {
            let deliveries = transport.subscribe(&wanted).await?;
            members.push(tokio::spawn(consume(deliveries, handled.clone(), arrived.clone(), Duration::ZERO)));
        }
    }
    publish(&*transport, 0..WARM).await?;
    let clocks = Clocks::start()?;
    publish(&*transport, WARM..all).await?;
    while run.passes() && handled.load(Ordering::Acquire) < all {
        arrived.notified().await;
    }
    let taken = clocks.stop()?;
    transport.close().await?;
    for member in members {
        member.await?;
    }
    Ok(taken)
}

fn open(run: &Run) -> anyhow::Result<Arc<dyn Transport>> {
    let registry =
        Registry::new().with(msgkit_transport_mqtt::scheme()).with(msgkit_transport_amqp::scheme());
    let name = run.unique();
    let options = if run.url.starts_with("mqtt") {
        format!("prefix = \"{name}\"\nclient_id = \"{name}\"\nkeeper = {}", run.flow == "pass_kept")
    } else {
        format!("exchange = \"{name}\"")
    };
    Ok(registry.build(&TransportUrl::parse(&run.url)?, Options::from_toml("the benchmark", &options)?)?)
}

async fn declare(transport: &dyn Transport, wanted: &Subscription) -> anyhow::Result<()> {
    let subscription = wanted.clone();
    transport
        .declare(&[Declaration::Group { subscription, retry_steps: Vec::new(), dead_letters: false }])
        .await?;
    Ok(())
}

async fn publish(transport: &dyn Transport, numbers: std::ops::Range<usize>) -> anyhow::Result<()> {
    let mut next = numbers.start;
    while next < numbers.end {
        let mut batch = Vec::with_capacity(BATCH);
        for n in next..(next + BATCH).min(numbers.end) {
            batch.push(Outgoing::to_topic(Envelope::new(
                "bench",
                "bench.reading",
                "bench.reading".parse()?,
                ContentType::Json,
                Bytes::from(payload(n)),
                Clock::system().now(),
            )));
        }
        next += batch.len();
        transport.publish(batch).await?;
    }
    Ok(())
}

async fn consume(
    mut deliveries: Box<dyn Deliveries>,
    handled: Arc<AtomicUsize>,
    arrived: Arc<Notify>,
    pause: Duration,
) {
    let mut came = VecDeque::new();
    while deliveries.receive(PREFETCH, &mut came).await.is_ok() && !came.is_empty() {
        for delivery in came.drain(..) {
            if !pause.is_zero() {
                tokio::time::sleep(pause).await;
            }
            let bytes = delivery.message().envelope().map_or(0, |envelope| envelope.payload().len());
            std::hint::black_box(bytes);
            delivery.ack();
            handled.fetch_add(1, Ordering::Release);
        }
        arrived.notify_one();
    }
}

/// Many messages wait at the broker while a slow handler takes some of them.
async fn waiting(run: &Run, transport: &dyn Transport, wanted: &Subscription) -> anyhow::Result<Taken> {
    declare(transport, wanted).await?;
    publish(transport, 0..run.messages).await?;
    let (handled, arrived) = (Arc::new(AtomicUsize::new(0)), Arc::new(Notify::new()));
    let clocks = Clocks::start()?;
    let deliveries = transport.subscribe(wanted).await?;
    let member = tokio::spawn(consume(deliveries, handled.clone(), arrived.clone(), SLOW.1));
    while handled.load(Ordering::Acquire) < SLOW.0 {
        arrived.notified().await;
    }
    let taken = clocks.stop()?;
    transport.close().await?;
    member.await?;
    Ok(taken)
}

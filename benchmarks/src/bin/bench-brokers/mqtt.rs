//! The same by hand on `rumqttc`: MQTT 5, quality of service 1, manual acknowledgements, persistent sessions, one connection
//! that publishes and one for each member.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use anyhow::Context as _;
use rumqttc::v5::mqttbytes::QoS;
use rumqttc::v5::mqttbytes::v5::{Packet, PublishProperties};
use rumqttc::v5::{AsyncClient, Event, EventLoop, MqttOptions};
use tokio::sync::Notify;

use crate::run::{BATCH, Clocks, PREFETCH, Run, Taken, WARM, attributes, payload};

pub(crate) async fn run(run: &Run) -> anyhow::Result<Taken> {
    let (name, all) = (run.unique(), run.messages + WARM);
    let (handled, arrived) = (Arc::new(AtomicUsize::new(0)), Arc::new(Notify::new()));
    let mut members = Vec::new();
    let topic = format!("{name}/bench/reading");
    if run.passes() {
        let filter = if run.members == 1 { topic.clone() } else { format!("$share/bench/{topic}") };
        for member in 0..run.members {
            let (client, mut events) = connect(run, &format!("{name}-{member}"), false)?;
            client.subscribe(filter.as_str(), QoS::AtLeastOnce).await?;
            while !matches!(events.poll().await?, Event::Incoming(Packet::SubAck(_))) {}
            members.push(tokio::spawn(consume(client, events, handled.clone(), arrived.clone())));
        }
    }
    let (client, mut events) = connect(run, &format!("{name}-publisher"), true)?;
    let confirmed = Arc::new((AtomicUsize::new(0), Notify::new()));
    let ledger = confirmed.clone();
    let publisher = tokio::spawn(async move {
        while let Ok(event) = events.poll().await {
            if let Event::Incoming(Packet::PubAck(_)) = event
                && ledger.0.fetch_add(1, Ordering::Release) % BATCH == BATCH - 1
            {
                ledger.1.notify_one();
            }
        }
    });
    publish(&client, &topic, 0..WARM, &confirmed).await?;
    let clocks = Clocks::start()?;
    publish(&client, &topic, WARM..all, &confirmed).await?;
    while run.passes() && handled.load(Ordering::Acquire) < all {
        arrived.notified().await;
    }
    let taken = clocks.stop()?;
    publisher.abort();
    members.iter().for_each(tokio::task::JoinHandle::abort);
    Ok(taken)
}

fn connect(run: &Run, id: &str, clean: bool) -> anyhow::Result<(AsyncClient, EventLoop)> {
    let (_, address) = run.url.split_once("://").context("an address")?;
    let (host, port) = address.rsplit_once(':').context("a port")?;
    let mut options = MqttOptions::new(id, host, port.parse()?);
    options
        .set_clean_start(clean)
        .set_session_expiry_interval(Some(if clean { 0 } else { 3600 }))
        .set_receive_maximum(Some(u16::try_from(PREFETCH)?))
        .set_manual_acks(true)
        .set_outgoing_inflight_upper_limit(u16::try_from(BATCH)?);
    let mut network = options.network_options();
    network.set_tcp_nodelay(true);
    options.set_network_options(network);
    Ok(AsyncClient::new(options, 1024))
}

/// Batches, each confirmed before the next.
async fn publish(
    client: &AsyncClient,
    topic: &str,
    numbers: std::ops::Range<usize>,
    confirmed: &(AtomicUsize, Notify),
) -> anyhow::Result<()> {
    for n in numbers {
        let attributes = attributes(n);
        let properties = PublishProperties {
            content_type: Some("application/json".to_owned()),
            correlation_data: Some(attributes[7].1.clone().into()),
            user_properties: attributes.into(),
            ..PublishProperties::default()
        };
        client.publish_with_properties(topic, QoS::AtLeastOnce, false, payload(n), properties).await?;
        if n % BATCH == BATCH - 1 {
            while confirmed.0.load(Ordering::Acquire) <= n {
                confirmed.1.notified().await;
            }
        }
    }
    Ok(())
}

async fn consume(
    client: AsyncClient,
    mut events: EventLoop,
    handled: Arc<AtomicUsize>,
    arrived: Arc<Notify>,
) {
    while let Ok(event) = events.poll().await {
        if let Event::Incoming(Packet::Publish(message)) = event {
            std::hint::black_box(message.payload.len());
            if client.try_ack(&message).is_err() {
                return;
            }
            handled.fetch_add(1, Ordering::Release);
            arrived.notify_one();
        }
    }
}

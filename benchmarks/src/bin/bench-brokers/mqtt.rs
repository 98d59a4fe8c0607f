//! Mosquitto, and the work by hand on `rumqttc`: MQTT 5, quality of service 1, manual acknowledgements, persistent sessions,
//! one connection that publishes and one for each member of a shared subscription.

use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use anyhow::Context as _;
use msgkit_testing::brokers::Mosquitto;
use rumqttc::Outgoing;
use rumqttc::v5::mqttbytes::QoS;
use rumqttc::v5::mqttbytes::v5::{Packet, Publish, PublishProperties};
use rumqttc::v5::{AsyncClient, Event as Happened, EventLoop, MqttOptions};
use tokio::sync::Notify;
use tokio::task::JoinHandle;

use crate::event::{Event, Read, payload};
use crate::run::{BATCH, Flow, PREFETCH, Run, Scenario};
use crate::system::{Place, Subject, System, Work, spawn};

pub(crate) const SYSTEM: System = System {
    name: "mqtt",
    client: "rumqttc",
    place,
    register: |registry| registry.with(msgkit_transport_mqtt::scheme()),
    // The session for what comes while the broker has forgotten shared subscriptions is a second copy of each message, which the
    // work by hand does not have.
    options: "client_id = \"bench\"\nkeeper = false",
    // What waits is in the session of one member, so several have something to share while it is published only.
    scenarios: &[
        Scenario { flow: Flow::Publish, members: 1 },
        Scenario { flow: Flow::Consume, members: 1 },
        Scenario { flow: Flow::Pass, members: 1 },
        Scenario { flow: Flow::Pass, members: 4 },
        Scenario { flow: Flow::Pass, members: 16 },
        Scenario { flow: Flow::Waiting, members: 1 },
    ],
    raw: |run| Box::pin(run.drive::<Raw>()),
};

/// A broker of its own, which starts in milliseconds.
fn place() -> anyhow::Result<Place> {
    let broker = Mosquitto::options()
        .setting("autosave_on_changes false")
        .setting("autosave_interval 0")
        .setting("max_queued_messages 0")
        .setting("max_queued_bytes 0")
        .setting(format!("max_inflight_messages {PREFETCH}"))
        .start()?;
    Ok(Place { url: broker.url().to_owned(), _keep: Box::new(broker) })
}

/// How many requests may wait for the client's loop: an acknowledgement for each packet number that there is. The loop reads
/// ahead of them, and Mosquitto before 2.0.13 sends more than the receive maximum (eclipse-mosquitto/mosquitto#2301).
const REQUESTS: usize = u16::MAX as usize;

/// The topic in MQTT's words.
const TOPIC_NAME: &str = "bench/reading";

struct Raw {
    address: (String, u16),
    filter: String,
    client: AsyncClient,
    confirmed: Arc<Confirmed>,
    members: usize,
    tasks: Vec<JoinHandle<()>>,
}

/// What the broker has confirmed of what was published; it does so in order.
#[derive(Default)]
struct Confirmed {
    count: AtomicUsize,
    target: AtomicUsize,
    more: Notify,
}

impl Subject for Raw {
    async fn open(run: &Run) -> anyhow::Result<Self> {
        let address = run.url.split_once("://").context("an address")?.1;
        let (host, port) = address.rsplit_once(':').context("a port")?;
        let address = (host.to_owned(), port.trim_end_matches('/').parse()?);
        // The group's first session keeps what is published before a member is there.
        let filter =
            if run.members() == 1 { TOPIC_NAME.to_owned() } else { format!("$share/bench/{TOPIC_NAME}") };
        let (client, mut events) = connect(&address, "bench-0", false)?;
        subscribe(&client, &mut events, &filter).await?;
        client.disconnect().await?;
        while events.poll().await.is_ok() {}
        let (client, mut events) = connect(&address, "bench-publisher", true)?;
        let confirmed = Arc::<Confirmed>::default();
        let ledger = confirmed.clone();
        let publisher = spawn(async move {
            loop {
                if let Happened::Incoming(Packet::PubAck(_)) = events.poll().await? {
                    ledger.one();
                }
            }
        });
        Ok(Self { address, filter, client, confirmed, members: 0, tasks: vec![publisher] })
    }

    async fn publish(&self, numbers: Range<usize>) -> anyhow::Result<()> {
        let mut next = numbers.start;
        while next < numbers.end {
            let end = (next + BATCH).min(numbers.end);
            self.confirmed.target.fetch_add(end - next, Ordering::SeqCst);
            for n in next..end {
                let event = Event::new();
                let attributes = event.attributes().map(|(name, value)| (name.to_owned(), value.to_owned()));
                let properties = PublishProperties {
                    content_type: Some("application/json".to_owned()),
                    user_properties: attributes.into(),
                    ..PublishProperties::default()
                };
                let (qos, payload) = (QoS::AtLeastOnce, payload(n));
                self.client.publish_with_properties(TOPIC_NAME, qos, false, payload, properties).await?;
            }
            self.confirmed.all().await;
            next = end;
        }
        Ok(())
    }

    async fn join(&mut self, work: Work) -> anyhow::Result<()> {
        let (client, mut events) = connect(&self.address, &format!("bench-{}", self.members), false)?;
        self.members += 1;
        if self.members > 1 {
            subscribe(&client, &mut events, &self.filter).await?;
        }
        self.tasks.push(spawn(consume(client, events, work)));
        Ok(())
    }

    async fn close(self) -> anyhow::Result<()> {
        for task in self.tasks {
            task.abort();
        }
        Ok(())
    }
}

impl Confirmed {
    fn one(&self) {
        // SeqCst with `all`: either this sees the target, or the waiter sees this one.
        if self.count.fetch_add(1, Ordering::SeqCst) + 1 >= self.target.load(Ordering::SeqCst) {
            self.more.notify_one();
        }
    }

    async fn all(&self) {
        while self.count.load(Ordering::SeqCst) < self.target.load(Ordering::SeqCst) {
            self.more.notified().await;
        }
    }
}

fn connect((host, port): &(String, u16), id: &str, clean: bool) -> anyhow::Result<(AsyncClient, EventLoop)> {
    let mut options = MqttOptions::new(id, host, *port);
    options
        .set_clean_start(clean)
        .set_session_expiry_interval(Some(if clean { 0 } else { 3600 }))
        .set_receive_maximum(Some(u16::try_from(PREFETCH)?))
        .set_manual_acks(true)
        .set_max_packet_size(Some(1 << 20))
        .set_outgoing_inflight_upper_limit(u16::try_from(BATCH)?);
    let mut network = options.network_options();
    network.set_tcp_nodelay(true);
    options.set_network_options(network);
    Ok(AsyncClient::new(options, REQUESTS))
}

async fn subscribe(client: &AsyncClient, events: &mut EventLoop, filter: &str) -> anyhow::Result<()> {
    client.subscribe(filter, QoS::AtLeastOnce).await?;
    while !matches!(events.poll().await?, Happened::Incoming(Packet::SubAck(_))) {}
    Ok(())
}

async fn consume(client: AsyncClient, mut events: EventLoop, work: Work) -> anyhow::Result<()> {
    loop {
        match events.poll().await? {
            Happened::Incoming(Packet::Publish(message)) => {
                handle(&message)?;
                client.try_ack(&message)?;
            }
            // Written; the loop may have read, and this has handled, far more by then.
            Happened::Outgoing(Outgoing::PubAck(_)) => work.handled(1),
            _ => {}
        }
    }
}

fn handle(message: &Publish) -> anyhow::Result<()> {
    let properties = message.properties.as_ref().context("properties")?;
    let attributes = properties.user_properties.iter().map(|(name, value)| (name.as_str(), value.as_str()));
    std::hint::black_box((Read::from(attributes)?, message.payload.first()));
    Ok(())
}

//! Google Pub/Sub, and the work by hand on `google-cloud-pubsub`: a topic and a subscription on the stand-in, with the
//! transport's defaults (exactly once, leases of a minute); a batch published at once and flushed; each message settled by
//! itself, with the service's word awaited while others are read.

use std::ops::Range;
use std::sync::OnceLock;
use std::time::Duration;

use anyhow::{Context as _, bail};
use futures_util::StreamExt as _;
use futures_util::stream::FuturesUnordered;
use google_cloud_auth::credentials::anonymous;
use google_cloud_pubsub::client::{BasePublisher, Publisher, Subscriber, SubscriptionAdmin, TopicAdmin};
use google_cloud_pubsub::model::{ExpirationPolicy, Message, Subscription};
use google_cloud_pubsub::subscriber::MessageStream;
use google_cloud_pubsub::subscriber::handler::Handler;
use msgkit_testing::brokers::Pubsub;
use tokio::task::JoinHandle;

use crate::event::{Event, Read, payload};
use crate::run::{BATCH, Flow, PREFETCH, Run, Scenario};
use crate::system::{Place, Subject, System, Work, spawn};

pub(crate) const SYSTEM: System = System {
    name: "pubsub",
    client: "google-cloud-pubsub",
    place,
    register: |registry| registry.with(msgkit_transport_pubsub::scheme()),
    options: "",
    scenarios: &[
        Scenario { flow: Flow::Publish, members: 1 },
        Scenario { flow: Flow::Consume, members: 1 },
        Scenario { flow: Flow::Consume, members: 4 },
    ],
    raw: |run| Box::pin(run.drive::<Raw>()),
};

/// What stands before the names of attributes.
const PREFIX: &str = "ce-";
/// The transport's `fetch_ahead`, `fetch_buffer`, `lease` and `max_hold`.
const AHEAD: usize = 1_000;
const BYTES: i64 = 32 << 20;
const LEASE: Duration = Duration::from_secs(60);
const HOLD: Duration = Duration::from_secs(3600);

/// A project of one stand-in.
fn place() -> anyhow::Result<Place> {
    static STAND_IN: OnceLock<Pubsub> = OnceLock::new();
    let stand_in = match STAND_IN.get() {
        Some(stand_in) => stand_in,
        None => {
            let started = Pubsub::start()?;
            STAND_IN.get_or_init(|| started)
        }
    };
    let (project, address) = (stand_in.project("bench"), stand_in.address());
    Ok(Place { url: format!("pubsub://{project}/bench?endpoint=http:%2F%2F{address}"), _keep: Box::new(()) })
}

struct Raw {
    endpoint: String,
    subscription: String,
    publisher: Publisher,
    members: Vec<JoinHandle<()>>,
}

impl Subject for Raw {
    async fn open(run: &Run) -> anyhow::Result<Self> {
        let (project, rest) = run.url.trim_start_matches("pubsub://").split_once('/').context("a project")?;
        let (_, address) = rest.split_once("endpoint=http:%2F%2F").context("an endpoint")?;
        let endpoint = format!("http://{address}");
        let topic = format!("projects/{project}/topics/bench");
        let subscription = format!("projects/{project}/subscriptions/bench");
        let nobody = || anonymous::Builder::new().build();
        let topics =
            TopicAdmin::builder().with_credentials(nobody()).with_endpoint(&endpoint).build().await?;
        topics.create_topic().set_name(&topic).send().await?;
        let subscriptions =
            SubscriptionAdmin::builder().with_credentials(nobody()).with_endpoint(&endpoint).build().await?;
        let wanted = Subscription::new()
            .set_name(&subscription)
            .set_topic(&topic)
            .set_ack_deadline_seconds(i32::try_from(LEASE.as_secs())?)
            .set_enable_message_ordering(true)
            .set_enable_exactly_once_delivery(true)
            .set_expiration_policy(ExpirationPolicy::new());
        subscriptions.create_subscription().with_request(wanted).send().await?;
        let base =
            BasePublisher::builder().with_credentials(nobody()).with_endpoint(&endpoint).build().await?;
        let publisher = base.publisher(topic).set_delay_threshold(Duration::ZERO).build();
        Ok(Self { endpoint, subscription, publisher, members: Vec::new() })
    }

    async fn publish(&self, numbers: Range<usize>) -> anyhow::Result<()> {
        let mut next = numbers.start;
        while next < numbers.end {
            let end = (next + BATCH).min(numbers.end);
            let taken: Vec<_> = (next..end).map(|n| self.publisher.publish(message(n))).collect();
            let taken = futures_util::future::try_join_all(taken);
            let (taken, ()) = futures_util::future::join(taken, self.publisher.flush()).await;
            taken?;
            next = end;
        }
        Ok(())
    }

    async fn join(&mut self, work: Work) -> anyhow::Result<()> {
        let nobody = anonymous::Builder::new().build();
        let builder = Subscriber::builder().with_credentials(nobody).with_endpoint(&self.endpoint);
        let stream = builder
            .build()
            .await?
            .subscribe(&self.subscription)
            .set_max_outstanding_messages(i64::try_from(PREFETCH + AHEAD)?)
            .set_max_outstanding_bytes(BYTES)
            .set_max_lease_extension(LEASE)
            .set_max_lease(HOLD)
            .build();
        self.members.push(spawn(consume(stream, work)));
        Ok(())
    }

    async fn close(self) -> anyhow::Result<()> {
        for member in self.members {
            member.abort();
        }
        self.publisher.flush().await;
        Ok(())
    }
}

fn message(n: usize) -> Message {
    let event = Event::new();
    let attributes = event.attributes().map(|(name, value)| (format!("{PREFIX}{name}"), value.to_owned()));
    let content_type = ("content-type".to_owned(), "application/json".to_owned());
    let mut message = Message::new();
    message.attributes = attributes.into_iter().chain([content_type]).collect();
    message.data = payload(n).into();
    message
}

async fn consume(mut stream: MessageStream, work: Work) -> anyhow::Result<()> {
    let mut settled = FuturesUnordered::new();
    loop {
        tokio::select! {
            biased;
            Some(told) = settled.next() => told?,
            next = stream.next() => {
                let (message, handler) = next.context("the stream has ended")??;
                handle(&message)?;
                let Handler::ExactlyOnce(handler) = handler else { bail!("it is not exactly once") };
                settled.push(handler.confirmed_ack());
                work.handled(1);
            }
        }
    }
}

fn handle(message: &Message) -> anyhow::Result<()> {
    let attributes = message
        .attributes
        .iter()
        .filter_map(|(name, value)| Some((name.strip_prefix(PREFIX)?, value.as_str())));
    std::hint::black_box((Read::from(attributes)?, message.data.first()));
    Ok(())
}

//! msgkit: through the contract of a transport, as its service uses it.

use std::collections::VecDeque;
use std::ops::Range;
use std::sync::Arc;

use anyhow::{Context as _, ensure};
use bytes::Bytes;
use msgkit::envelope::ContentType;
use msgkit::transport::{
    Acks, Declaration, Deliveries, Incoming, Options, Outgoing, Subscription, Transport, TransportUrl,
};
use msgkit::{Clock, Envelope, Group, Registry, Topic};
use tokio::task::JoinHandle;

use crate::event::{KIND, SOURCE, TOPIC, payload};
use crate::run::{BATCH, PREFETCH, Run};
use crate::system::{Subject, Work, first_ended};

/// msgkit with the transport of the run's broker.
pub(crate) struct Msgkit {
    transport: Arc<dyn Transport>,
    subscription: Subscription,
    topic: Topic,
    members: Vec<JoinHandle<anyhow::Result<()>>>,
}

impl Subject for Msgkit {
    async fn open(run: &Run) -> anyhow::Result<Self> {
        let system = run.system()?;
        let options = Options::from_toml("the benchmark", system.options)?;
        let registry = (system.register)(Registry::new());
        let transport = registry.build(&TransportUrl::parse(&run.url)?, options)?;
        let topic: Topic = TOPIC.parse()?;
        let subscription =
            Subscription::group(Group::new("bench")?, [TOPIC.parse()?]).with_prefetch(PREFETCH);
        let declared = Declaration::Group {
            subscription: subscription.clone(),
            retry_steps: Vec::new(),
            dead_letters: false,
        };
        transport.declare(&[declared]).await?;
        Ok(Self { transport, subscription, topic, members: Vec::new() })
    }

    async fn publish(&self, numbers: Range<usize>) -> anyhow::Result<()> {
        let mut next = numbers.start;
        while next < numbers.end {
            let end = (next + BATCH).min(numbers.end);
            let new = |n| {
                let (topic, now) = (self.topic.clone(), Clock::system().now());
                Envelope::new(SOURCE, KIND, topic, ContentType::Json, Bytes::from(payload(n)), now)
            };
            self.transport.publish((next..end).map(|n| Outgoing::to_topic(new(n))).collect()).await?;
            next = end;
        }
        Ok(())
    }

    async fn join(&mut self, work: Work) -> anyhow::Result<()> {
        let deliveries = self.transport.subscribe(&self.subscription).await?;
        self.members.push(tokio::spawn(consume(deliveries, work)));
        Ok(())
    }

    async fn failed(&mut self) -> anyhow::Error {
        first_ended(&mut self.members).await
    }

    async fn close(self) -> anyhow::Result<()> {
        for member in self.members {
            member.abort();
        }
        Ok(self.transport.close().await?)
    }
}

async fn consume(mut deliveries: Box<dyn Deliveries>, work: Work) -> anyhow::Result<()> {
    let (mut came, mut acks) = (VecDeque::new(), Acks::new());
    loop {
        deliveries.receive(PREFETCH, &mut came).await?;
        ensure!(!came.is_empty(), "the subscription has ended");
        let count = came.len();
        for delivery in came.drain(..) {
            if !work.pause().is_zero() {
                tokio::time::sleep(work.pause()).await;
            }
            let Incoming::Envelope(envelope) = delivery.message() else {
                anyhow::bail!("a message was not read")
            };
            std::hint::black_box((envelope.id(), envelope.payload().first().context("a payload")?));
            delivery.ack_into(&mut acks);
            if !work.pause().is_zero() {
                acks.hand_over();
                work.handled(1);
            }
        }
        if work.pause().is_zero() {
            acks.hand_over();
            work.handled(count);
        }
    }
}

//! The transport itself: what it is made from, what it can do.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use async_trait::async_trait;
use msgkit::Error;
use msgkit::envelope::Clock;
use msgkit::transport::{
    Capabilities, Declaration, Delay, Factory, Health, KeyOrder, Operate, Options, StartPositions,
    Subscription, Transport, TransportError, TransportUrl,
};

use crate::client::Address;
use crate::cluster::{Cluster, Kind};
use crate::config::KafkaConfig;
use crate::error::{SYSTEM, closed};

/// How long the members may take to leave when the transport closes.
const LEAVE: Duration = Duration::from_secs(20);

/// How long the client for questions may take to end when the transport closes.
const ASKER_ENDS: Duration = Duration::from_millis(250);

/// The schemes `kafka:` and `kafkas:`, for a [`Registry`](msgkit::Registry).
#[must_use]
pub fn scheme() -> impl Factory {
    Scheme
}

#[derive(Debug)]
struct Scheme;

impl Factory for Scheme {
    fn schemes(&self) -> &'static [&'static str] {
        &["kafka", "kafkas"]
    }

    fn build(&self, url: &TransportUrl, options: Options) -> Result<Arc<dyn Transport>, Error> {
        url.broker()?;
        let clock = options.clock();
        let config = options.read(url)?;
        Ok(Arc::new(Kafka::with(url, config, clock)?))
    }
}

/// Apache Kafka at one address; clones share their connections.
#[derive(Clone)]
pub struct Kafka(Arc<Cluster>);

impl Kafka {
    /// The transport of the cluster at `url`, with `config`; what the URL has behind its `?` is not read. Nothing is
    /// connected before the first use.
    ///
    /// # Errors
    /// [`ErrorKind::Config`](msgkit::ErrorKind::Config), naming the option that cannot be and the fix.
    pub fn with(url: &TransportUrl, config: KafkaConfig, clock: Clock) -> Result<Self, Error> {
        config.check()?;
        let address = Address::of(url, &config)?;
        Ok(Self(Arc::new(Cluster::new(address, config, clock))))
    }

    /// How many settlements came too late, after their partition had gone to another member: their messages come again.
    #[must_use]
    pub fn lost_leases(&self) -> u64 {
        self.0.late.load(Ordering::Relaxed)
    }

    pub(crate) fn cluster(&self) -> &Arc<Cluster> {
        &self.0
    }

    /// Makes the places of a subscription, and writes its group down.
    pub(crate) async fn declare_group(&self, subscription: &Subscription) -> Result<(), TransportError> {
        self.declare_places(subscription).await?;
        self.0.register(subscription).await
    }

    /// Makes the places at which a subscription expects messages; with `create_topics` off those that are missing may
    /// come later.
    pub(crate) async fn declare_places(&self, subscription: &Subscription) -> Result<(), TransportError> {
        if !self.0.config.create_topics {
            return Ok(());
        }
        let mut names = Vec::new();
        for place in self.0.names.places(&subscription.patterns, &subscription.places) {
            names.extend(self.0.names.all_of_place(&place)?);
        }
        self.ensure(&names, Kind::Topic).await
    }

    async fn ensure(&self, names: &[String], kind: Kind) -> Result<(), TransportError> {
        let wanted: Vec<(&str, Kind)> = names.iter().map(|name| (name.as_str(), kind)).collect();
        self.0.ensure(&wanted).await.map(drop)
    }
}

impl fmt::Debug for Kafka {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Kafka").field(&self.0).finish()
    }
}

/// What every transport of this crate can do with `config`.
pub(crate) fn capabilities(config: &KafkaConfig) -> Capabilities {
    let mut can = Capabilities::none();
    can.durable = true;
    can.groups = true;
    can.ephemeral = true;
    can.backlog = true;
    can.keeps_unread = true;
    can.key_order = KeyOrder::Group;
    can.delay = Delay::RetryTopics;
    can.delivery_count = true;
    can.nack = true;
    can.start = StartPositions::new(true, true);
    can.lag = true;
    can.peek = true;
    can.max_payload = Some(config.max_message);
    can.live_patterns = true;
    can.native_headers = true;
    can
}

#[async_trait]
impl Transport for Kafka {
    fn system(&self) -> &'static str {
        SYSTEM
    }

    fn capabilities(&self) -> Capabilities {
        capabilities(&self.0.config)
    }

    async fn declare(&self, declarations: &[Declaration]) -> Result<(), TransportError> {
        if self.0.is_closed() {
            return Err(closed());
        }
        let (mut topics, mut retries, mut kept, mut groups) =
            (Vec::new(), Vec::new(), Vec::new(), Vec::new());
        let names = &self.0.names;
        for declaration in declarations {
            match declaration {
                Declaration::Group { subscription, retry_steps, dead_letters } => {
                    self.capabilities().admit(SYSTEM, subscription)?;
                    let Some(group) = &subscription.group else { continue };
                    retries.extend((1..).zip(retry_steps).map(|(step, _)| names.retry(group, step)));
                    kept.extend(dead_letters.then(|| names.dead_letter(group)));
                    for place in names.places(&subscription.patterns, &subscription.places) {
                        if self.0.config.create_topics {
                            topics.extend(names.all_of_place(&place)?);
                        }
                    }
                    groups.push(subscription);
                }
                Declaration::DeadLetters(group) => kept.push(names.dead_letter(group)),
                Declaration::Topic(place) => topics.extend(names.all_of_place(place)?),
                _ => {}
            }
        }
        if !groups.is_empty() {
            kept.push(names.groups());
        }
        let kinds = [(topics, Kind::Topic), (retries, Kind::Retry), (kept, Kind::Kept)];
        let wanted: Vec<(&str, Kind)> =
            kinds.iter().flat_map(|(names, kind)| names.iter().map(|name| (name.as_str(), *kind))).collect();
        self.0.ensure(&wanted).await?;
        self.0.refuse_unfit(&wanted).await?;
        for subscription in groups {
            self.0.register(subscription).await?;
        }
        Ok(())
    }

    async fn health(&self) -> Health {
        if self.0.is_closed() {
            return Health::Down(closed().to_string());
        }
        match self.0.ask("asking the brokers", Cluster::list_topics).await {
            Ok(_) => Health::Up,
            Err(error) => Health::Down(msgkit::Chain(&error).to_string()),
        }
    }

    fn operate(&self) -> Option<&dyn Operate> {
        Some(self)
    }

    async fn close(&self) -> Result<(), TransportError> {
        if !self.0.shut() {
            return Ok(());
        }
        let members = self.0.members();
        for member in &members {
            member.dismiss();
        }
        let flushed = self.0.sender.close(&self.0.threads, self.0.config.publish_timeout.min(LEAVE)).await;
        let leaving = async {
            for member in members {
                member.is_gone().await;
            }
        };
        if tokio::time::timeout(LEAVE, leaving).await.is_err() {
            tracing::warn!(
                "not every Kafka subscription has left in time; the brokers find out by themselves"
            );
        }
        if let Some(asker) = self.0.drop_asker() {
            // A process that ends waits for it in good time, and not where it cannot end.
            let ending = self.0.threads.run(move || drop(asker));
            let _ = tokio::time::timeout(ASKER_ENDS, ending).await;
        }
        flushed
    }
}

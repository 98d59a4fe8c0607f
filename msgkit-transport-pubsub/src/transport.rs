//! The transport itself: what it is made from, what it can do.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use async_trait::async_trait;
use futures_util::future::try_join_all;
use msgkit::envelope::Clock;
use msgkit::transport::{
    Capabilities, Declaration, Delay, Factory, Health, KeyOrder, Operate, Options, Transport, TransportError,
    TransportUrl,
};
use msgkit::{Error, Text};

use crate::client::Clients;
use crate::config::{PubsubConfig, place};
use crate::core::Core;
use crate::error::{self, SYSTEM, closed, invalid};
use crate::names::{Names, Reader};

/// How long the members may take to leave when the transport closes.
const LEAVE: Duration = Duration::from_secs(45);

/// The scheme `pubsub:`, for a [`Registry`](msgkit::Registry).
#[must_use]
pub fn scheme() -> impl Factory {
    Scheme
}

#[derive(Debug)]
struct Scheme;

impl Factory for Scheme {
    fn schemes(&self) -> &'static [&'static str] {
        &["pubsub"]
    }

    fn build(&self, url: &TransportUrl, options: Options) -> Result<Arc<dyn Transport>, Error> {
        let clock = options.clock();
        let config = options.read(url)?;
        Ok(Arc::new(Pubsub::with(url, config, clock)?))
    }
}

/// Google Cloud Pub/Sub in one project; clones share their connections.
#[derive(Clone)]
pub struct Pubsub(Arc<Core>);

impl Pubsub {
    /// The transport of the project and the system that `url` names, with `config`; what the URL has behind its `?` is not
    /// read. Nothing is connected before the first use.
    ///
    /// # Errors
    /// [`ErrorKind::Config`](msgkit::ErrorKind::Config), naming the option that cannot be and the fix.
    pub fn with(url: &TransportUrl, config: PubsubConfig, clock: Clock) -> Result<Self, Error> {
        config.check()?;
        let (project, prefix) = place(url)?;
        let clients = Clients::new(&config)?;
        let names = Names::new(project, &prefix);
        Ok(Self(Arc::new(Core::new(clients, names, config, clock))))
    }

    /// How many settlements came too late, after their lease was lost: their messages come again.
    #[must_use]
    pub fn lost_leases(&self) -> u64 {
        self.0.late.load(Ordering::Relaxed)
    }

    pub(crate) fn core(&self) -> &Arc<Core> {
        &self.0
    }

    async fn declare_one(&self, declaration: &Declaration) -> Result<(), TransportError> {
        let core = &self.0;
        match declaration {
            Declaration::Group { subscription, retry_steps, .. } => {
                let Some(group) = &subscription.group else { return Ok(()) };
                let kept = core.config.copy_retention();
                // Jitter may double a delay.
                if let Some(step) = retry_steps.iter().find(|step| step.saturating_mul(2) > kept) {
                    return Err(invalid(format!(
                        "group `{group}` has a retry after {step:?}, with its jitter up to twice that, and Pub/Sub keeps copies for \
                         {kept:?}; raise `retention` or `dead_letter_retention`, or retry sooner"
                    )));
                }
                let steps = u32::try_from(retry_steps.len()).unwrap_or(u32::MAX);
                try_join_all((2..=steps).map(|step| core.ensure_copies(group, step))).await?;
                core.ensure_reader(&Reader::group(group), subscription).await.map(drop)
            }
            Declaration::DeadLetters(group) => core.ensure_letters(group).await.map(drop),
            Declaration::Topic(topic) => {
                core.ensure_topics([core.names.topic_of(topic.as_str())?].into(), None).await
            }
            _ => Ok(()),
        }
    }
}

impl fmt::Debug for Pubsub {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Pubsub").field(&self.0).finish()
    }
}

#[async_trait]
impl Transport for Pubsub {
    fn system(&self) -> &'static str {
        SYSTEM
    }

    fn capabilities(&self) -> Capabilities {
        let config = &self.0.config;
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
        can.max_hold = Some(config.max_hold);
        can.max_payload = Some(config.max_payload());
        can.live_patterns = true;
        can.native_headers = true;
        if !config.exactly_once {
            can.costs.push(Text::from_static(
                "with `exactly_once = false` the service does not confirm settlements: after a drain, and now and then at any \
                 time, messages come again that were settled",
            ));
        }
        can
    }

    async fn declare(&self, declarations: &[Declaration]) -> Result<(), TransportError> {
        self.0.open()?;
        for declaration in declarations {
            if let Declaration::Group { subscription, .. } = declaration {
                self.capabilities().admit(SYSTEM, subscription)?;
            }
        }
        // One after the other: they share topics, and the service answers a second that makes one with an error.
        for declaration in declarations {
            self.declare_one(declaration).await?;
        }
        Ok(())
    }

    async fn health(&self) -> Health {
        if self.0.is_closed() {
            return Health::Down(closed().to_string());
        }
        let asked = async {
            let listing = self.0.clients.topics().await?.list_topics().set_project(self.0.names.project());
            listing.set_page_size(1).send().await.map_err(|error| error::of(error, "asking for the topics"))
        };
        match asked.await {
            Ok(_) => self.0.refused().map_or(Health::Up, Health::Down),
            Err(error) => Health::Down(msgkit::Chain(&error).to_string()),
        }
    }

    fn operate(&self) -> Option<&dyn Operate> {
        Some(self)
    }

    async fn close(&self) -> Result<(), TransportError> {
        if self.0.closing.send_replace(true) {
            return Ok(());
        }
        let leaving = futures_util::future::join_all(self.0.take_drivers());
        let (left, ()) =
            futures_util::future::join(tokio::time::timeout(LEAVE, leaving), self.0.flush_publishers()).await;
        if left.is_err() {
            tracing::warn!(
                "not every Pub/Sub subscription has left in time; their leases run out by themselves"
            );
        }
        Ok(())
    }
}

//! The transport itself: what it is made from, what it can do.

use std::collections::BTreeSet;
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use async_trait::async_trait;
use msgkit::Error;
use msgkit::envelope::Clock;
use msgkit::transport::{
    Capabilities, Declaration, Delay, Factory, Health, KeyOrder, Operate, Options, Transport, TransportError,
    TransportUrl,
};

use crate::broker::{Broker, KnownGroup};
use crate::config::AmqpConfig;
use crate::connection::Address;
use crate::error::{SYSTEM, closed};
use crate::topology::{Wanted, delays};

/// The schemes `amqp:` and `amqps:`, for a [`Registry`](msgkit::Registry).
#[must_use]
pub fn scheme() -> impl Factory {
    Scheme
}

#[derive(Debug)]
struct Scheme;

impl Factory for Scheme {
    fn schemes(&self) -> &'static [&'static str] {
        &["amqp", "amqps"]
    }

    fn build(&self, url: &TransportUrl, options: Options) -> Result<Arc<dyn Transport>, Error> {
        url.broker()?;
        let clock = options.clock();
        let config = options.read(url)?;
        Ok(Arc::new(Amqp::with(url, config, clock)?))
    }
}

/// RabbitMQ at one address; clones share their connections.
#[derive(Clone)]
pub struct Amqp(Arc<Broker>);

impl Amqp {
    /// The transport of the broker at `url`, with `config`; what the URL has behind its `?` is not read. Nothing is
    /// connected before the first use.
    ///
    /// # Errors
    /// [`ErrorKind::Config`](msgkit::ErrorKind::Config), naming the option that cannot be and the fix.
    pub fn with(url: &TransportUrl, config: AmqpConfig, clock: Clock) -> Result<Self, Error> {
        config.check()?;
        let address = Address::of(url, &config)?;
        Ok(Self(Arc::new(Broker::new(&address, config, clock))))
    }

    /// How many messages no queue has taken, since the transport was made.
    #[must_use]
    pub fn unrouted(&self) -> u64 {
        self.0.counters.unrouted.load(Ordering::Relaxed)
    }

    /// How many settlements came too late, after their channel was lost: their messages come again.
    #[must_use]
    pub fn lost_leases(&self) -> u64 {
        self.0.counters.late.load(Ordering::Relaxed)
    }

    /// How often the broker has ended a subscription's consumer, because its queue was deleted or moved; it was consumed again
    /// each time. By group: [`GroupStatus::broken_off`](msgkit::transport::GroupStatus::broken_off).
    #[must_use]
    pub fn cancelled(&self) -> u64 {
        self.0.counters.cancelled.load(Ordering::Relaxed)
    }

    pub(crate) fn broker(&self) -> &Arc<Broker> {
        &self.0
    }
}

impl fmt::Debug for Amqp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Amqp").field(&self.0).finish()
    }
}

/// What every transport of this crate can do with `config`.
pub(crate) fn capabilities(config: &AmqpConfig) -> Capabilities {
    let mut can = Capabilities::none();
    can.durable = true;
    can.groups = true;
    can.ephemeral = true;
    can.backlog = true;
    can.keeps_unread = true;
    can.key_order = KeyOrder::Member;
    can.delay = Delay::Native;
    can.delivery_count = true;
    can.nack = true;
    can.max_hold = Some(config.max_hold);
    can.detects_unrouted = true;
    can.lag = true;
    can.peek = true;
    can.max_payload = Some(config.max_payload);
    can.live_patterns = true;
    can.native_headers = true;
    can.back_pressure = true;
    can
}

#[async_trait]
impl Transport for Amqp {
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
        for declaration in declarations {
            if let Declaration::Group { subscription, .. } = declaration {
                self.capabilities().admit(SYSTEM, subscription)?;
            }
        }
        let channel = self.0.asking().await?;
        self.0.ensure_exchanges(&channel).await?;
        let mut wanted = Vec::new();
        for declaration in declarations {
            match declaration {
                Declaration::Group { subscription, retry_steps, dead_letters } => {
                    let Some(group) = &subscription.group else { continue };
                    let steps = retry_steps.iter().filter(|step| !step.is_zero());
                    let delays: BTreeSet<u64> = steps.flat_map(|step| delays(*step)).collect();
                    wanted.extend([Wanted::Group(group, subscription), Wanted::Suspects(group)]);
                    wanted.extend(dead_letters.then_some(Wanted::DeadLetters(group)));
                    wanted.extend(delays.iter().map(|millis| Wanted::Retry(group, *millis)));
                    let patterns = subscription.patterns.iter().map(|pattern| pattern.as_str().to_owned());
                    self.0.know_group(group, KnownGroup { patterns: patterns.collect(), delays });
                }
                Declaration::DeadLetters(group) => {
                    wanted.push(Wanted::DeadLetters(group));
                    self.0.know_group(group, KnownGroup::default());
                }
                // Every topic has its place already: the exchange.
                _ => {}
            }
        }
        futures_util::future::try_join(self.0.make(wanted), self.0.register()).await.map(drop)
    }

    async fn health(&self) -> Health {
        if self.0.is_closed() {
            return Health::Down(closed().to_string());
        }
        let both =
            futures_util::future::try_join(self.0.consuming.connection(), self.0.publishing.connection());
        if let Err(error) = both.await {
            return Health::Down(msgkit::Chain(&error).to_string());
        }
        if self.0.publishing.blocked() {
            return Health::Down(
                "the broker takes no messages now: an alarm for memory or disk is on".to_owned(),
            );
        }
        self.0.trouble().map_or(Health::Up, Health::Down)
    }

    fn operate(&self) -> Option<&dyn Operate> {
        Some(self)
    }

    async fn close(&self) -> Result<(), TransportError> {
        self.0.close().await
    }
}

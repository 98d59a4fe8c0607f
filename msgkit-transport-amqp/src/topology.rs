//! What exists at the broker: its names, its properties, and how it is made.
//!
//! One durable topic exchange for user data and one for the framework's own topics (so that no wildcard reaches those),
//! a quorum queue per group, and for each group its dead letters and a queue per delay. Everything is declared again
//! whenever it is needed anew, which changes nothing where it exists.

use std::collections::BTreeSet;
use std::time::Duration;

use futures_util::future::BoxFuture;
use futures_util::{FutureExt as _, StreamExt as _, TryStreamExt as _};
use lapin::options::{ExchangeBindOptions, ExchangeDeclareOptions, QueueBindOptions, QueueDeclareOptions};
use lapin::types::{AMQPValue, FieldTable, ShortString};
use lapin::{Channel, ExchangeKind};
use msgkit::Pattern;
use msgkit::transport::{Group, Subscription, TransportError};

use crate::broker::Broker;
use crate::config::{AmqpConfig, OnUnrouted};
use crate::later;

/// The names of everything at the broker, from that of the exchange.
#[derive(Debug, Clone)]
pub(crate) struct Names {
    /// User data.
    pub(crate) exchange: String,
    /// The framework's own topics, `msgkit.>`.
    pub(crate) reserved: String,
    /// What nobody takes.
    pub(crate) unrouted: String,
    /// Which groups there are.
    pub(crate) registry: String,
}

impl Names {
    pub(crate) fn new(exchange: &str) -> Self {
        Self {
            exchange: exchange.to_owned(),
            reserved: format!("{exchange}.reserved"),
            unrouted: format!("{exchange}.unrouted"),
            registry: format!("{exchange}.registry"),
        }
    }

    pub(crate) fn group(&self, group: &str) -> String {
        format!("{}.group.{group}", self.exchange)
    }

    pub(crate) fn dead_letter(&self, group: &str) -> String {
        format!("{}.dead_letter.{group}", self.exchange)
    }

    /// Copies whose next start is their last, alone.
    pub(crate) fn suspects(&self, group: &str) -> String {
        format!("{}.suspect.{group}", self.exchange)
    }

    pub(crate) fn retry(&self, group: &str, millis: u64) -> String {
        format!("{}.retry.{group}.{millis}", self.exchange)
    }

    pub(crate) fn ephemeral(&self) -> String {
        format!("{}.ephemeral.{:032x}", self.exchange, fastrand::u128(..))
    }

    /// The exchange of one place of a delay, see [`crate::later`]; behind the last is that of the topics.
    pub(crate) fn later(&self, place: u32) -> String {
        format!("{}.later.{place}", self.exchange)
    }

    /// The queue of one digit at one place.
    pub(crate) fn later_queue(&self, place: u32, digit: u32) -> String {
        format!("{}.later.{place}.{digit:x}", self.exchange)
    }

    fn behind(&self, place: u32) -> String {
        if place > later::LOWEST { self.later(place - 1) } else { self.exchange.clone() }
    }

    /// The exchange of a topic.
    pub(crate) fn exchange_of(&self, reserved: bool) -> &str {
        if reserved { &self.reserved } else { &self.exchange }
    }
}

/// A name that this crate has made, none of which is too long.
pub(crate) fn short(name: &str) -> ShortString {
    ShortString::try_new(name).unwrap_or_else(|_| ShortString::from(""))
}

/// The routing pattern that matches what `pattern` matches: `>` is one segment or more.
pub(crate) fn binding_key(pattern: &Pattern) -> String {
    match pattern.as_str().strip_suffix('>') {
        Some(head) => format!("{head}*.#"),
        None => pattern.as_str().to_owned(),
    }
}

fn is_reserved(pattern: &Pattern) -> bool {
    pattern.segments().next() == Some("msgkit")
}

/// Deliveries after which the broker itself would give up: never before the pipeline does. A queue without a limit of its
/// own has one of 20 since RabbitMQ 4.0, and drops what exceeds it.
const DELIVERY_LIMIT: i32 = i32::MAX;

/// A list of named properties.
#[derive(Default)]
struct Arguments(FieldTable);

impl Arguments {
    /// Those of a quorum queue.
    fn quorum(config: &AmqpConfig) -> Self {
        let mut all =
            Self::default().text("x-queue-type", "quorum").number("x-delivery-limit", DELIVERY_LIMIT.into());
        if config.replicas > 0 {
            all = all.number("x-quorum-initial-group-size", config.replicas.into());
        }
        all
    }

    fn text(mut self, name: &'static str, value: &str) -> Self {
        self.0.insert(name.into(), AMQPValue::LongString(value.into()));
        self
    }

    fn number(mut self, name: &'static str, value: i64) -> Self {
        self.0.insert(name.into(), AMQPValue::LongLongInt(value));
        self
    }

    /// Refuses what comes when `most` messages wait. The broker refuses one message later than its limit says.
    fn at_most(self, most: u32) -> Self {
        self.number("x-max-length", i64::from(most) - 1).text("x-overflow", "reject-publish")
    }
}

/// A queue that is wanted.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Wanted<'a> {
    /// A group's own.
    Group(&'a Group, &'a Subscription),
    /// Its suspects'.
    Suspects(&'a Group),
    /// Its dead letters'.
    DeadLetters(&'a Group),
    /// Its copies' that wait for so many milliseconds.
    Retry(&'a Group, u64),
}

/// The most queues that are declared at once: a new one takes the broker its time.
const AT_ONCE: usize = 16;

impl Broker {
    /// Makes every queue that is wanted.
    pub(crate) async fn make(&self, wanted: Vec<Wanted<'_>>) -> Result<(), TransportError> {
        let making: Vec<BoxFuture<'_, _>> =
            wanted.into_iter().map(|wanted| self.make_one(wanted).boxed()).collect();
        futures_util::stream::iter(making).buffer_unordered(AT_ONCE).try_collect().await
    }

    async fn make_one(&self, wanted: Wanted<'_>) -> Result<(), TransportError> {
        let channel = self.asking().await?;
        let declarer = self.declarer(&channel);
        let queue = match wanted {
            Wanted::Group(group, subscription) => return declarer.group(group.as_str(), subscription).await,
            Wanted::Suspects(group) => self.names.suspects(group.as_str()),
            Wanted::DeadLetters(group) => self.names.dead_letter(group.as_str()),
            Wanted::Retry(group, millis) => {
                declarer.retry(group.as_str(), millis).await?;
                self.know_queue(self.names.retry(group.as_str(), millis));
                return Ok(());
            }
        };
        declarer.plain(&queue).await?;
        self.know_queue(queue);
        Ok(())
    }
}

/// Declares on a channel that is used for nothing else: a refusal closes it.
pub(crate) struct Declarer<'a> {
    pub(crate) channel: &'a Channel,
    pub(crate) broker: &'a Broker,
    pub(crate) names: &'a Names,
    pub(crate) config: &'a AmqpConfig,
}

impl Declarer<'_> {
    /// The exchanges.
    pub(crate) async fn exchanges(&self) -> Result<(), TransportError> {
        let mut arguments = Arguments::default();
        if self.config.on_unrouted == OnUnrouted::Keep {
            let unrouted = &self.names.unrouted;
            self.exchange(unrouted, ExchangeKind::Fanout, Arguments::default()).await?;
            self.queue(unrouted, Arguments::quorum(self.config)).await?;
            self.bind(unrouted, unrouted, "").await?;
            arguments = arguments.text("alternate-exchange", unrouted);
        }
        self.exchange(&self.names.exchange, ExchangeKind::Topic, arguments).await?;
        self.exchange(&self.names.reserved, ExchangeKind::Topic, Arguments::default()).await
    }

    /// A group's queue, bound by its patterns.
    pub(crate) async fn group(&self, group: &str, subscription: &Subscription) -> Result<(), TransportError> {
        let queue = self.names.group(group);
        self.queue(&queue, Arguments::quorum(self.config).at_most(self.config.capacity)).await?;
        self.bind_all(&queue, &subscription.patterns).await
    }

    /// The queue in which copies for `group` wait for so long; then they go to the group's own queue, confirmed.
    pub(crate) async fn retry(&self, group: &str, millis: u64) -> Result<(), TransportError> {
        let arguments = self
            .keeps(millis)
            .text("x-dead-letter-exchange", "")
            .text("x-dead-letter-routing-key", &self.names.group(group));
        self.queue(&self.names.retry(group, millis), arguments).await
    }

    /// The exchanges that messages for later pass, up to the place `top`.
    pub(crate) async fn later(&self, top: u32) -> Result<(), TransportError> {
        for place in later::LOWEST..=top {
            let (exchange, behind) = (self.names.later(place), self.names.behind(place));
            self.exchange(&exchange, ExchangeKind::Headers, Arguments::default()).await?;
            let options = ExchangeBindOptions::default();
            let wanted = later::wanted(place, 0);
            let binding =
                self.channel.exchange_bind(short(&behind), short(&exchange), short(""), options, wanted);
            self.broker.answer(binding, &format!("binding exchange `{behind}` to `{exchange}`")).await?;
        }
        Ok(())
    }

    /// The queue of one digit of a delay.
    pub(crate) async fn later_queue(&self, place: u32, digit: u32) -> Result<(), TransportError> {
        let (queue, exchange) = (self.names.later_queue(place, digit), self.names.later(place));
        let behind = self.names.behind(place);
        self.queue(&queue, self.keeps(later::millis(place, digit)).text("x-dead-letter-exchange", &behind))
            .await?;
        self.bind_with(&queue, &exchange, "", later::wanted(place, digit)).await
    }

    /// A queue that keeps its messages for so long, and then passes them on: confirmed, and kept where nobody takes them.
    fn keeps(&self, millis: u64) -> Arguments {
        Arguments::quorum(self.config)
            .number("x-message-ttl", i64::try_from(millis).unwrap_or(i64::MAX))
            .text("x-dead-letter-strategy", "at-least-once")
            .text("x-overflow", "reject-publish")
    }

    /// The queue of one reader, which goes with it.
    pub(crate) async fn ephemeral(&self, queue: &str, patterns: &[Pattern]) -> Result<(), TransportError> {
        let arguments = Arguments::default().at_most(self.config.capacity);
        let options =
            QueueDeclareOptions { exclusive: true, auto_delete: true, ..QueueDeclareOptions::default() };
        self.queue_with(queue, options, arguments).await?;
        self.bind_all(queue, patterns).await
    }

    /// A durable queue without a limit: of what has no other place, like dead letters.
    pub(crate) async fn plain(&self, queue: &str) -> Result<(), TransportError> {
        self.queue(queue, Arguments::quorum(self.config)).await
    }

    async fn bind_all(&self, queue: &str, patterns: &[Pattern]) -> Result<(), TransportError> {
        for pattern in patterns {
            let exchange = self.names.exchange_of(is_reserved(pattern));
            self.bind(queue, exchange, &binding_key(pattern)).await?;
        }
        Ok(())
    }

    async fn exchange(
        &self,
        name: &str,
        kind: ExchangeKind,
        arguments: Arguments,
    ) -> Result<(), TransportError> {
        let options = ExchangeDeclareOptions { durable: true, ..ExchangeDeclareOptions::default() };
        let declaring = self.channel.exchange_declare(short(name), kind, options, arguments.0);
        self.broker.answer(declaring, &format!("declaring exchange `{name}`")).await
    }

    async fn queue(&self, name: &str, arguments: Arguments) -> Result<(), TransportError> {
        self.queue_with(name, QueueDeclareOptions::durable(), arguments).await
    }

    async fn queue_with(
        &self,
        name: &str,
        options: QueueDeclareOptions,
        arguments: Arguments,
    ) -> Result<(), TransportError> {
        let declaring = self.channel.queue_declare(short(name), options, arguments.0);
        self.broker.answer(declaring, &format!("declaring queue `{name}`")).await.map(drop)
    }

    async fn bind(&self, queue: &str, exchange: &str, key: &str) -> Result<(), TransportError> {
        self.bind_with(queue, exchange, key, FieldTable::default()).await
    }

    async fn bind_with(
        &self,
        queue: &str,
        exchange: &str,
        key: &str,
        arguments: FieldTable,
    ) -> Result<(), TransportError> {
        let options = QueueBindOptions::default();
        let binding = self.channel.queue_bind(short(queue), short(exchange), short(key), options, arguments);
        self.broker.answer(binding, &format!("binding queue `{queue}` to exchange `{exchange}`")).await
    }
}

/// How long a queue of copies keeps them, for a copy that is due in `rest`: the delay of its step, counted from when the
/// broker has it, where that is long enough; else the next of 16 lengths per doubling. So the queues stay few, no copy is
/// early, and none is late by more than it took to publish it, or a sixteenth of its delay.
pub(crate) fn delay_millis(rest: Duration, step: Duration) -> u64 {
    let rest = u64::try_from(rest.as_nanos().div_ceil(1_000_000)).unwrap_or(u64::MAX);
    let step = u64::try_from(step.as_millis()).unwrap_or(u64::MAX);
    if (rest..=rest.saturating_mul(2)).contains(&step) {
        return step.min(LONGEST);
    }
    let rest = rest.clamp(16, LONGEST);
    let unit = 1 << (rest.ilog2() - 4);
    (rest.div_ceil(unit) * unit).min(LONGEST)
}

/// How long each queue keeps its copies that those of a delay step go to, with a jitter of up to a tenth, the default.
///
/// They are made before anything is received. RabbitMQ writes the name of a quorum queue to disk a moment after it has said
/// that the queue is there: one that was made for a copy could go with that copy, confirmed, when the node is killed then.
pub(crate) fn delays(step: Duration) -> BTreeSet<u64> {
    let millis = |delay: Duration| u64::try_from(delay.as_nanos().div_ceil(1_000_000)).unwrap_or(u64::MAX);
    let mut delays = BTreeSet::from([delay_millis(step, step)]);
    let (mut rest, last) = (millis(step).saturating_add(1), millis(step.saturating_add(step / 10)));
    while rest <= last.min(LONGEST) {
        let kept = delay_millis(Duration::from_millis(rest), step);
        delays.insert(kept);
        rest = kept.saturating_add(1);
    }
    delays
}

/// The longest time that a queue may keep a message, in milliseconds: what is due later is sent on.
const LONGEST: u64 = 1 << 31;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wildcards_become_routing_patterns() {
        let key = |pattern: &str| binding_key(&pattern.parse().unwrap());
        assert_eq!(key("a.b"), "a.b");
        assert_eq!(key("a.*.c"), "a.*.c");
        assert_eq!(key("a.>"), "a.*.#");
        assert_eq!(key(">"), "*.#");
        assert_eq!(key("*.>"), "*.*.#");
    }

    #[test]
    fn a_copy_is_never_early_and_little_late() {
        for millis in (0..200_000).chain([1 << 30, (1 << 30) + 1]) {
            let rest = Duration::from_millis(millis);
            let kept = delay_millis(rest, Duration::ZERO);
            assert!(kept >= millis, "{millis} → {kept}");
            assert!(kept <= (millis + millis / 16 + 1).max(16), "{millis} → {kept}");
        }
    }

    #[test]
    fn a_step_has_one_queue() {
        let step = Duration::from_millis(1000);
        for late in [Duration::ZERO, Duration::from_micros(1), Duration::from_millis(500)] {
            assert_eq!(delay_millis(step - late, step), 1000);
        }
        // A jitter of a tenth takes two queues more.
        let with_jitter: BTreeSet<u64> =
            (1000..1100).map(|millis| delay_millis(Duration::from_millis(millis), step)).collect();
        assert_eq!(with_jitter.into_iter().collect::<Vec<_>>(), [1000, 1024, 1088, 1152]);
    }

    #[test]
    fn every_queue_that_jitter_leads_to_is_made_beforehand() {
        for step in [1, 16, 500, 1000, 4321, 300_000, 1 << 31] {
            let step = Duration::from_millis(step);
            let made = delays(step);
            for tenths in 0..=100 {
                let kept = delay_millis(step + step.mul_f64(f64::from(tenths) / 1000.0), step);
                assert!(
                    made.contains(&kept),
                    "{step:?} with {tenths} thousandths goes to {kept}, of {made:?}"
                );
            }
            assert!(made.len() <= 5, "{made:?}");
        }
    }

    #[test]
    fn the_longest_names_fit() {
        let names = Names::new(&"e".repeat(60));
        let group = "g".repeat(48);
        for name in [names.retry(&group, u64::MAX), names.dead_letter(&group), names.ephemeral()] {
            assert_eq!(short(&name).as_str(), name);
        }
    }
}

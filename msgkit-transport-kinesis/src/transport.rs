//! The transport itself: what it is made from, what it can do.

use std::fmt;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use futures_util::future::join_all;
use msgkit::envelope::Clock;
use msgkit::transport::{
    Capabilities, Declaration, Delay, Factory, Health, KeyOrder, Operate, Options, StartPositions,
    Subscription, Transport, TransportError, TransportUrl,
};
use msgkit::{Error, ErrorKind, Text};
use tokio::sync::{Notify, OnceCell};

use crate::client::Account;
use crate::config::{KinesisConfig, place};
use crate::core::Core;
use crate::error::{self, SYSTEM, closed, invalid};
use crate::lease::{LeaseStore, MemoryLeases};
use crate::making::Made;
use crate::names::Names;

/// How long the service may take to say that it is there.
const HEALTH: Duration = Duration::from_secs(5);

/// The scheme `kinesis:`, for a [`Registry`](msgkit::Registry).
#[must_use]
pub fn scheme() -> impl Factory {
    Scheme
}

#[derive(Debug)]
struct Scheme;

impl Factory for Scheme {
    fn schemes(&self) -> &'static [&'static str] {
        &["kinesis"]
    }

    fn build(&self, url: &TransportUrl, options: Options) -> Result<Arc<dyn Transport>, Error> {
        url.broker()?;
        let clock = options.clock();
        let config = options.read(url)?;
        Ok(Arc::new(Kinesis::with(url, config, clock)?))
    }
}

/// The streams of one account and region; clones share what they know.
#[derive(Clone)]
pub struct Kinesis(Arc<Core>);

impl Kinesis {
    /// The transport of the region and the system that `url` names, with `config`; what the URL has behind its `?` is not
    /// read. Nothing is connected before the first use.
    ///
    /// # Errors
    /// [`ErrorKind::Config`], naming the option that cannot be and the fix.
    pub fn with(url: &TransportUrl, config: KinesisConfig, clock: Clock) -> Result<Self, Error> {
        config.check()?;
        let (region, prefix) = place(url)?;
        let account = Arc::new(Account::new(url, region, &config)?);
        let store = leases(&config, &account)?;
        Ok(Self::made(account, prefix, config, clock, store))
    }

    /// As [`Kinesis::with`], with leases of your own in place of those that the option `leases` names.
    ///
    /// # Errors
    /// As [`Kinesis::with`].
    pub fn with_leases(
        url: &TransportUrl,
        config: KinesisConfig,
        clock: Clock,
        leases: Arc<dyn LeaseStore>,
    ) -> Result<Self, Error> {
        config.check()?;
        let (region, prefix) = place(url)?;
        let account = Arc::new(Account::new(url, region, &config)?);
        Ok(Self::made(account, prefix, config, clock, leases))
    }

    fn made(
        account: Arc<Account>,
        prefix: String,
        config: KinesisConfig,
        clock: Clock,
        store: Arc<dyn LeaseStore>,
    ) -> Self {
        let names = Names::new(prefix, config.destinations.clone());
        Self(Arc::new(Core {
            account,
            names,
            config,
            clock,
            store,
            streams: Mutex::default(),
            placed: OnceCell::new(),
            members: Mutex::default(),
            late: AtomicU64::new(0),
            expired: AtomicU64::new(0),
            remade: AtomicU64::new(0),
            throttled: AtomicU64::new(0),
            closed: AtomicBool::new(false),
            closing: Notify::new(),
        }))
    }

    /// How many settlements came too late, after their shard had gone to another member: their messages come again there.
    #[must_use]
    pub fn lost_leases(&self) -> u64 {
        self.0.late.load(Ordering::Relaxed)
    }

    /// How many shards the service had dropped, by their stream's retention, before a group had read them to their end: what was
    /// left in them is gone.
    #[must_use]
    pub fn expired_shards(&self) -> u64 {
        self.0.expired.load(Ordering::Relaxed)
    }

    /// How many streams were deleted and made again since a group had read them: it reads the new ones from their beginning,
    /// and what it had not read of the old ones is gone. Also how many shards were read from their beginning because the service
    /// did not take the place where the group was.
    #[must_use]
    pub fn remade_streams(&self) -> u64 {
        self.0.remade.load(Ordering::Relaxed)
    }

    /// How many records and reads the service refused as too much at once; each was tried again.
    #[must_use]
    pub fn throttled(&self) -> u64 {
        self.0.throttled.load(Ordering::Relaxed)
    }

    pub(crate) fn core(&self) -> &Arc<Core> {
        &self.0
    }
}

impl fmt::Debug for Kinesis {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Kinesis")
            .field("region", &self.0.account.region())
            .field("prefix", &self.0.names.prefix())
            .field("endpoint", &self.0.account.endpoint())
            .finish_non_exhaustive()
    }
}

/// The store that the option names.
fn leases(config: &KinesisConfig, account: &Arc<Account>) -> Result<Arc<dyn LeaseStore>, Error> {
    let refuse = |text: String| Err(Error::new(ErrorKind::Config, text));
    let known = "`memory` (one process), `sqlite:<file>` (one machine, feature `sqlite`), `dynamodb:<table>` (any number of \
                 machines, feature `dynamodb`)";
    let Some(leases) = &config.leases else {
        return refuse(format!(
            "a Kinesis transport needs the option `leases`, which says where groups keep how far they are: {known}"
        ));
    };
    let (kind, rest) = leases.split_once(':').unwrap_or((leases, ""));
    match kind {
        "memory" => Ok(Arc::new(MemoryLeases::shared(rest))),
        "sqlite" if rest.is_empty() => {
            refuse("`leases = \"sqlite:\"` names no file; write `sqlite:leases.db`".to_owned())
        }
        "sqlite" => sqlite(Path::new(rest)),
        "dynamodb" if !is_table(rest) => refuse(format!(
            "`leases = \"{leases:.60}\"` names no DynamoDB table, which has 3 to 255 of A-Z a-z 0-9 _ - .; write \
             `dynamodb:platform-leases`"
        )),
        "dynamodb" => dynamodb(account, rest, config),
        _ => refuse(format!(
            "`leases = \"{leases:.60}\"` of a Kinesis transport is unknown; known are {known}"
        )),
    }
}

#[cfg(feature = "sqlite")]
#[allow(clippy::unnecessary_wraps)]
fn sqlite(file: &Path) -> Result<Arc<dyn LeaseStore>, Error> {
    Ok(Arc::new(crate::lease::SqliteLeases::new(file)))
}

#[cfg(not(feature = "sqlite"))]
fn sqlite(_: &Path) -> Result<Arc<dyn LeaseStore>, Error> {
    Err(Error::new(
        ErrorKind::Config,
        "`leases = \"sqlite:…\"` needs the feature `sqlite` of msgkit-transport-kinesis; add it in Cargo.toml",
    ))
}

/// What DynamoDB takes for a table's name.
fn is_table(name: &str) -> bool {
    let legal = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-' | b'.');
    (3..=255).contains(&name.len()) && name.bytes().all(legal)
}

#[cfg(feature = "dynamodb")]
#[allow(clippy::unnecessary_wraps)]
fn dynamodb(
    account: &Arc<Account>,
    table: &str,
    config: &KinesisConfig,
) -> Result<Arc<dyn LeaseStore>, Error> {
    Ok(Arc::new(crate::lease::DynamoDbLeases::of_account(
        account.clone(),
        table,
        config.create,
        config.heartbeat,
    )))
}

#[cfg(not(feature = "dynamodb"))]
fn dynamodb(_: &Arc<Account>, _: &str, _: &KinesisConfig) -> Result<Arc<dyn LeaseStore>, Error> {
    Err(Error::new(
        ErrorKind::Config,
        "`leases = \"dynamodb:…\"` needs the feature `dynamodb` of msgkit-transport-kinesis; add it in Cargo.toml",
    ))
}

#[async_trait]
impl Transport for Kinesis {
    fn system(&self) -> &'static str {
        SYSTEM
    }

    fn capabilities(&self) -> Capabilities {
        let config = &self.0.config;
        let mut can = Capabilities::none();
        // A group is no longer there when the table that says how far it is has gone.
        can.durable = self.0.store.is_durable();
        if !can.durable {
            can.costs.push(Text::from_static(
                "groups, and how far they are, end with this process (`leases = \"memory\"`): the next one begins anew, and what was \
                 handled comes again",
            ));
        }
        can.groups = true;
        can.ephemeral = true;
        can.backlog = true;
        can.keeps_unread = true;
        can.key_order = if config.ordered { KeyOrder::Group } else { KeyOrder::None };
        can.delay = Delay::RetryTopics;
        can.delivery_count = true;
        can.nack = true;
        // What is older is not there any more when it has to come again.
        can.max_hold = Some(config.retention / 2);
        can.start = StartPositions::new(true, true);
        can.lag = true;
        can.peek = true;
        can.max_payload = Some(config.max_payload());
        can.live_patterns = true;
        can
    }

    async fn declare(&self, declarations: &[Declaration]) -> Result<(), TransportError> {
        self.0.open()?;
        for declaration in declarations {
            if let Declaration::Group { subscription, retry_steps, .. } = declaration {
                self.capabilities().admit(SYSTEM, subscription)?;
                self.outlives(subscription, retry_steps)?;
            }
        }
        // Each to its end, so that one that is refused leaves nothing of the others half made.
        join_all(declarations.iter().map(|declaration| self.declare_one(declaration)))
            .await
            .into_iter()
            .collect()
    }

    async fn health(&self) -> Health {
        if self.0.is_closed() {
            return Health::Down(closed().to_string());
        }
        if let Some(trouble) = self.0.trouble() {
            return Health::Down(trouble);
        }
        let asked = async {
            let client = self.0.account.client().await?;
            let told = client.list_streams().limit(1).send().await;
            told.map(drop).map_err(|error| error::of(error, "asking for the streams").error)
        };
        match tokio::time::timeout(HEALTH, asked).await {
            Ok(Ok(())) => Health::Up,
            Ok(Err(error)) => Health::Down(msgkit::Chain(&error).to_string()),
            Err(_) => Health::Down(format!("the service does not answer within {HEALTH:?}")),
        }
    }

    fn operate(&self) -> Option<&dyn Operate> {
        Some(self)
    }

    async fn close(&self) -> Result<(), TransportError> {
        if self.0.closed.swap(true, Ordering::AcqRel) {
            return Ok(());
        }
        self.0.closing.notify_waiters();
        let members: Vec<_> = {
            let mut members = self.0.members.lock().unwrap_or_else(PoisonError::into_inner);
            members.drain(..).filter_map(|member| member.upgrade()).collect()
        };
        for member in &members {
            member.shut();
        }
        join_all(members.iter().map(|member| member.left())).await.into_iter().collect()
    }
}

impl Kinesis {
    /// Refuses delays whose copies would be gone before they are due.
    fn outlives(&self, subscription: &Subscription, retry_steps: &[Duration]) -> Result<(), TransportError> {
        let Some(group) = &subscription.group else { return Ok(()) };
        let kept = self.0.config.retention;
        // Jitter may double a delay.
        match retry_steps.iter().find(|step| step.saturating_mul(2) > kept) {
            None => Ok(()),
            Some(step) => Err(invalid(format!(
                "group `{group}` has a retry after {step:?}, with its jitter up to twice that, and Kinesis keeps copies for \
                 {kept:?}; raise `retention`, or retry sooner"
            ))),
        }
    }

    async fn declare_one(&self, declaration: &Declaration) -> Result<(), TransportError> {
        let core = &self.0;
        match declaration {
            Declaration::Group { subscription, retry_steps, dead_letters } => {
                let Some(group) = &subscription.group else { return Ok(()) };
                let space = core.group_space(group);
                core.ensure_group(&*core.store, &space, subscription).await?;
                let steps = u32::try_from(retry_steps.len()).unwrap_or(u32::MAX);
                // One more than none: what operators replay goes by the first step.
                let steps_made =
                    (1..=steps.max(u32::from(*dead_letters))).map(|step| core.ensure_retry(group, step));
                join_all(steps_made).await.into_iter().collect::<Result<Vec<_>, _>>()?;
                if *dead_letters {
                    core.ensure_letters(group).await?;
                }
                core.register(group, steps).await
            }
            Declaration::DeadLetters(group) => core.ensure_letters(group).await,
            Declaration::Topic(topic) => {
                let stream = core.names.stream_of_place(topic);
                core.ensure(&stream, Made::topic(&core.config)).await.map(drop)
            }
            _ => Ok(()),
        }
    }
}

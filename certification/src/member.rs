//! A member of the group: a process of its own that runs a [`Service`], and may kill itself at a chosen point.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use clap::{Args, ValueEnum};
use msgkit::handler::{HandlerSpec, closure};
use msgkit::policy::{Delayed, OnFailure, Order};
use msgkit::telemetry::{Event, EventKind};
use msgkit::{Context, HandlerError, Service};
use tokio::io::AsyncReadExt as _;

use crate::Failure;
use crate::journal::Journal;
use crate::message::{Fate, Numbered};

/// The group's name, and the handler's.
pub(crate) const GROUP: &str = "certified";
/// The most messages that a member has in hand, of each of its subscriptions.
pub(crate) const IN_FLIGHT: usize = 16;
/// A member's subscriptions that carry messages: the group's, and that of its first delay where the core keeps delays.
pub(crate) const SUBSCRIPTIONS: usize = 2;
/// What a member prints when it is subscribed.
pub(crate) const READY: &str = "ready";
const DELAY: Duration = Duration::from_millis(500);
/// How often a member looks whether it stood still, and from when on it did. Leases here are ten seconds, and clients renew them a
/// few seconds before they end, so a broker may miss it from then on.
const LOOK: Duration = Duration::from_millis(250);
const PAUSE: Duration = Duration::from_secs(2);

/// What a member is started with.
#[derive(Debug, Args)]
pub struct Member {
    /// The configuration of its service.
    #[arg(long)]
    config: PathBuf,
    /// Where it writes down what it has handled.
    #[arg(long)]
    journal: PathBuf,
    /// Where it kills itself.
    #[arg(long, requires = "at")]
    dies: Option<Death>,
    /// With the how manieth message.
    #[arg(long)]
    at: Option<u64>,
}

/// A point at which a member kills itself (SIGKILL).
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Death {
    /// The message is handled and written down, and not acknowledged: it must come again.
    BeforeAck,
    /// The service has acknowledged the message, and the broker may have heard of it or not.
    AfterAck,
}

impl Member {
    /// Handles messages until its standard input ends, which it also does when the one who started it dies.
    ///
    /// # Errors
    /// What keeps the service from starting, or from a clean end.
    pub async fn run(self) -> Result<(), Failure> {
        let journal = Arc::new(Journal::open(&self.journal)?);
        let dies = self.dies.map(|death| (death, self.at.unwrap_or(1)));
        watch(journal.clone());
        let handled = Arc::new(AtomicU64::new(0));
        let handler = move |message: Numbered, cx: Context| {
            let (journal, handled) = (journal.clone(), handled.clone());
            async move {
                match Fate::of(message.n) {
                    Fate::Condemned => return Err(HandlerError::permanent("condemned")),
                    Fate::Delayed if cx.attempt() == 1 => return Err(HandlerError::from("delayed")),
                    _ => journal.note(message.n)?,
                }
                let count = handled.fetch_add(1, Ordering::Relaxed) + 1;
                if dies == Some((Death::BeforeAck, count)) {
                    die();
                }
                Ok(())
            }
        };
        let spec = HandlerSpec::new(GROUP, GROUP)?
            .with(closure(handler))
            .concurrency(4)
            .order(Order::Key(OnFailure::Overtake))
            .overrides(|policy| {
                policy.immediate = Some(0);
                policy.delayed = Some(Some(Delayed::new(DELAY, 3)));
                policy.in_flight = Some(IN_FLIGHT);
            });
        let mut service = Service::from_config(self.config, &crate::registry())?.spec(spec);
        if let Some((Death::AfterAck, at)) = dies {
            let settled = AtomicU64::new(0);
            service = service.observe(move |event: &Event<'_>| {
                if matches!(event.kind, EventKind::Settled)
                    && settled.fetch_add(1, Ordering::Relaxed) + 1 == at
                {
                    die();
                }
            });
        }
        let running = service.start().await?;
        println!("{READY}");
        tokio::io::stdin().read_to_end(&mut Vec::new()).await?;
        Ok(running.drain().await?)
    }
}

/// Writes down when this process stood still: whoever paused it, what it has in hand comes to others meanwhile. It is a thread
/// of its own, so that what blocks the service is not excused.
fn watch(journal: Arc<Journal>) {
    std::thread::spawn(move || {
        loop {
            let begun = Instant::now();
            std::thread::sleep(LOOK);
            if begun.elapsed() > LOOK + PAUSE {
                let _ = journal.paused();
            }
        }
    });
}

/// What no process can do anything about.
fn die() -> ! {
    let _ = rustix::process::kill_process(rustix::process::getpid(), rustix::process::Signal::KILL);
    std::process::abort()
}

//! The way to the writer: opened at the first use, shared by everything that one transport does.

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use msgkit::Text;
use msgkit::envelope::Clock;
use msgkit::transport::{Start, Subscription, TransportError};
use sqlx::{Connection, SqliteConnection};
use tokio::sync::{Notify, OnceCell, mpsc, oneshot};
use tokio::task::JoinHandle;
use tokio::time::Instant;

use crate::config::SqliteConfig;
use crate::member::Member;
use crate::schema;
use crate::wire::Parcel;
use crate::writer::Writer;

/// How many commands wait for the writer; more make their callers wait.
const COMMANDS: usize = 1024;

/// What the writer is asked for. Claims and settlements take the shorter way of [`Member`].
#[derive(Debug)]
pub(crate) enum Command {
    Publish(Publication),
    Declare { wanted: Vec<Wanted>, reply: Reply },
    Subscribe { wanted: Wanted, member: Arc<Member>, reply: Reply },
    Replay { group: Text, position: i64, reply: Reply },
    Remove { group: Text, position: i64, reply: Reply },
    Flush { reply: Reply },
    Close { reply: Reply },
}

pub(crate) type Reply = oneshot::Sender<Result<(), TransportError>>;

/// A group, or an ephemeral subscription, that shall be.
#[derive(Debug)]
pub(crate) struct Wanted {
    /// `None` = ephemeral.
    pub(crate) name: Option<Text>,
    pub(crate) patterns: Vec<msgkit::Pattern>,
    pub(crate) start: Start,
}

impl From<&Subscription> for Wanted {
    fn from(subscription: &Subscription) -> Self {
        Self {
            name: subscription.group.as_ref().map(|group| group.text().clone()),
            patterns: subscription.patterns.clone(),
            start: subscription.start,
        }
    }
}

/// One call of `publish` on its way.
#[derive(Debug)]
pub(crate) struct Publication {
    pub(crate) parcels: Vec<Parcel>,
    /// How many are committed.
    pub(crate) taken: usize,
    reply: oneshot::Sender<Result<(), (usize, TransportError)>>,
    /// Until when it waits in front of a full group.
    pub(crate) deadline: Instant,
    /// The group that was full when it was tried last.
    pub(crate) full: Option<Text>,
}

impl Publication {
    pub(crate) fn new(
        parcels: Vec<Parcel>,
        reply: oneshot::Sender<Result<(), (usize, TransportError)>>,
        patience: Duration,
    ) -> Self {
        Self { parcels, taken: 0, reply, deadline: Instant::now() + patience, full: None }
    }

    /// Whether somebody still waits for the answer.
    pub(crate) fn is_wanted(&self) -> bool {
        !self.reply.is_closed()
    }

    pub(crate) fn confirm(self) {
        let _ = self.reply.send(Ok(()));
    }

    pub(crate) fn refuse(self, error: TransportError) {
        let _ = self.reply.send(Err((self.taken, error)));
    }
}

/// What cannot be asked of the database.
#[derive(Debug, Default)]
pub(crate) struct Counters {
    pub(crate) lost_leases: AtomicU64,
}

pub(crate) struct Store {
    file: PathBuf,
    config: SqliteConfig,
    clock: Clock,
    counters: Arc<Counters>,
    wake: Arc<Notify>,
    commands: OnceCell<mpsc::Sender<Command>>,
    writer: Mutex<Option<JoinHandle<()>>>,
    reader: tokio::sync::Mutex<Option<SqliteConnection>>,
    closed: AtomicBool,
}

impl Store {
    pub(crate) fn new(file: PathBuf, config: SqliteConfig, clock: Clock) -> Self {
        Self {
            file,
            config,
            clock,
            counters: Arc::default(),
            wake: Arc::default(),
            commands: OnceCell::new(),
            writer: Mutex::default(),
            reader: tokio::sync::Mutex::default(),
            closed: AtomicBool::new(false),
        }
    }

    pub(crate) fn file(&self) -> &Path {
        &self.file
    }

    pub(crate) fn config(&self) -> &SqliteConfig {
        &self.config
    }

    pub(crate) fn clock(&self) -> Clock {
        self.clock
    }

    pub(crate) fn member(&self, prefetch: usize) -> Arc<Member> {
        Arc::new(Member::new(prefetch, self.wake.clone(), self.counters.clone()))
    }

    pub(crate) fn lost_leases(&self) -> u64 {
        self.counters.lost_leases.load(Ordering::Relaxed)
    }

    fn is_closed(&self) -> bool {
        self.closed.load(Ordering::Acquire)
    }

    /// The way to the writer, which is started where it is not yet.
    pub(crate) async fn commands(&self) -> Result<mpsc::Sender<Command>, TransportError> {
        if self.is_closed() {
            return Err(closed());
        }
        let sender = self.commands.get_or_try_init(|| self.start()).await?;
        Ok(sender.clone())
    }

    async fn start(&self) -> Result<mpsc::Sender<Command>, TransportError> {
        let connection =
            schema::open(&self.file, self.config.busy_timeout).await.map_err(|failure| failure.to_error())?;
        let (sender, receiver) = mpsc::channel(COMMANDS);
        let writer = Writer::new(
            connection,
            self.file.clone(),
            self.config.clone(),
            self.clock,
            receiver,
            self.wake.clone(),
            self.counters.clone(),
        );
        let task = tokio::spawn(writer.run());
        *self.writer.lock().unwrap_or_else(PoisonError::into_inner) = Some(task);
        Ok(sender)
    }

    /// A connection of its own for what only reads, so that it waits for no commit and no commit for it.
    pub(crate) async fn reader(
        &self,
    ) -> Result<tokio::sync::MappedMutexGuard<'_, SqliteConnection>, TransportError> {
        if self.is_closed() {
            return Err(closed());
        }
        let mut guard = self.reader.lock().await;
        if guard.is_none() {
            let opened = schema::open(&self.file, self.config.busy_timeout).await;
            *guard = Some(opened.map_err(|failure| failure.to_error())?);
        }
        tokio::sync::MutexGuard::try_map(guard, Option::as_mut).map_err(|_| closed())
    }

    /// Commits what was handed over, gives back what is in hand, and ends the writer.
    pub(crate) async fn close(&self) -> Result<(), TransportError> {
        let first = !self.closed.swap(true, Ordering::AcqRel);
        let result = match self.commands.get() {
            Some(commands) if first => ask(commands, |reply| Command::Close { reply }).await,
            _ => Ok(()),
        };
        let task = self.writer.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(task) = task {
            // A writer that panicked has nothing more to commit.
            let _ = task.await;
        }
        if let Some(reader) = self.reader.lock().await.take() {
            // The last connection to be closed tidies the file up.
            let _ = reader.close().await;
        }
        result
    }
}

impl fmt::Debug for Store {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Store")
            .field("file", &self.file)
            .field("connected", &self.commands.initialized())
            .field("closed", &self.is_closed())
            .finish_non_exhaustive()
    }
}

/// The error of every call after `close`.
pub(crate) fn closed() -> TransportError {
    TransportError::closed("sqlite")
}

/// Asks the writer, and waits for the commit that answers.
pub(crate) async fn ask(
    commands: &mpsc::Sender<Command>,
    command: impl FnOnce(Reply) -> Command,
) -> Result<(), TransportError> {
    let (reply, answer) = oneshot::channel();
    commands.send(command(reply)).await.map_err(|_| closed())?;
    answer.await.unwrap_or_else(|_| Err(closed()))
}

//! One connection to a directory: what it shares with its readers, and who is alive.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::{fmt, io};

use msgkit::envelope::Clock;
use msgkit::transport::{TransportError, TransportErrorKind};

use crate::config::FilesConfig;
use crate::error::{closed, failed};
use crate::member::Member;
use crate::turn::{Turn, names};

/// A connection.
pub(crate) struct Store {
    pub(crate) root: PathBuf,
    pub(crate) config: FilesConfig,
    pub(crate) clock: Clock,
    /// Settlements that came too late.
    pub(crate) late: AtomicU64,
    closed: AtomicBool,
    /// Holds a shared lock for as long as the connection is open; the kernel ends it with the process.
    alive: Mutex<Option<File>>,
    members: Mutex<Vec<Weak<Member>>>,
}

impl Store {
    pub(crate) fn new(root: PathBuf, config: FilesConfig, clock: Clock) -> Self {
        let (late, closed) = (AtomicU64::new(0), AtomicBool::new(false));
        Self { root, config, clock, late, closed, alive: Mutex::default(), members: Mutex::default() }
    }

    /// Does `work` on a thread that may block, alone in the directory.
    ///
    /// Listing a queue, writing messages and waiting for one's turn take as long as they take: on a thread of the runtime
    /// they would hold up every other task.
    pub(crate) async fn run<T: Send + 'static>(
        self: &Arc<Self>,
        work: impl FnOnce(&Turn<'_>) -> Result<T, TransportError> + Send + 'static,
    ) -> Result<T, TransportError> {
        let store = self.clone();
        let working = tokio::task::spawn_blocking(move || work(&store.turn()?));
        working.await.unwrap_or_else(|error| {
            Err(TransportError::new(TransportErrorKind::Internal, "work on the directory broke off")
                .with_source(error))
        })
    }

    /// Waits for this connection's turn. The first one connects. Blocks.
    pub(crate) fn turn(&self) -> Result<Turn<'_>, TransportError> {
        let at = |error| failed(&self.root, error);
        if self.is_closed() {
            return Err(closed());
        }
        if held(&self.alive).is_none() {
            fs::create_dir_all(self.root.join("groups")).map_err(at)?;
        }
        let lock = open(&self.root.join("lock")).map_err(at)?;
        lock.lock().map_err(at)?;
        let mut alive = held(&self.alive);
        // It may have been closed while this turn was waited for.
        if self.is_closed() {
            return Err(closed());
        }
        if alive.is_none() {
            *alive = Some(self.come_alive().map_err(at)?);
        }
        Ok(Turn { store: self, _lock: lock })
    }

    /// Tells the others that somebody lives; who finds nobody takes what the dead had in hand. Only in one's turn, so that
    /// nobody comes alive between the two locks.
    fn come_alive(&self) -> io::Result<File> {
        let alive = open(&self.root.join("alive"))?;
        if alive.try_lock().is_ok() {
            recover(&self.root)?;
            alive.unlock()?;
        }
        alive.lock_shared()?;
        Ok(alive)
    }

    pub(crate) fn is_closed(&self) -> bool {
        self.closed.load(Ordering::SeqCst)
    }

    pub(crate) fn join(&self, member: &Arc<Member>) {
        let mut members = held(&self.members);
        members.retain(|member| member.strong_count() > 0);
        members.push(Arc::downgrade(member));
    }

    /// Ends every subscription. What was settled is settled already, so there is nothing to flush.
    pub(crate) fn close(&self) {
        self.closed.store(true, Ordering::SeqCst);
        for member in held(&self.members).drain(..).filter_map(|member| member.upgrade()) {
            member.leave();
        }
        // Last: from here on another process may take this one for dead.
        *held(&self.alive) = None;
    }
}

impl fmt::Debug for Store {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Store")
            .field("root", &self.root)
            .field("config", &self.config)
            .finish_non_exhaustive()
    }
}

/// Puts back what is in hand in `directory`: what becomes of the messages of dead processes. Each keeps its start in the
/// count, and whoever was taken for dead and lives settles too late, which is harmless.
///
/// The transport does it by itself when it opens a directory that no living process has open.
///
/// # Errors
/// [`io::Error`] where the directory cannot be changed.
pub fn recover(directory: &Path) -> io::Result<()> {
    for group in fs::read_dir(directory.join("groups"))? {
        let place = group?.path();
        for name in names(&place.join("in-hand"))? {
            // Dying before or after this line: the next one to open the directory does the rest.
            let name = name.to_string();
            if_there(fs::rename(place.join("in-hand").join(&name), place.join("ready").join(&name)))?;
        }
    }
    Ok(())
}

/// Whether a file was there: that it is gone is an answer, and no error.
pub(crate) fn if_there(done: io::Result<()>) -> io::Result<bool> {
    match done {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(error),
    }
}

/// The lock of a mutex whose holder cannot leave it half changed.
pub(crate) fn held<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn open(path: &Path) -> io::Result<File> {
    File::options().create(true).write(true).truncate(false).open(path)
}

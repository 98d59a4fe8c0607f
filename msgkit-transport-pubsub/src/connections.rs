//! The connections by which messages come.
//!
//! Google's client has one connection, which has room for 100 requests at once, as the service has for the streams of a
//! connection. What waits for room waits silently: settlements and renewals of leases as well as new streams. So a connection
//! gets [a part](STREAMS) of that in streams, and the next ones another connection.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use google_cloud_pubsub::client::Subscriber;
use msgkit::transport::TransportError;
use tokio::sync::watch;

/// The most streams of a connection.
const STREAMS: usize = 40;

#[derive(Default)]
pub(crate) struct Connections(Mutex<Vec<Arc<Connection>>>);

impl Connections {
    /// Room for one stream, in the first connection that has some.
    pub(crate) fn seat(&self) -> Seat {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let free =
            all.iter().find(|connection| connection.streams.load(Ordering::Relaxed) < STREAMS).cloned();
        let connection = free.unwrap_or_else(|| {
            let new = Arc::new(Connection::new());
            all.push(new.clone());
            new
        });
        connection.streams.fetch_add(1, Ordering::Relaxed);
        Seat(connection)
    }

    /// Those by which nothing has come since this was asked last.
    pub(crate) fn silent(&self) -> Vec<Arc<Connection>> {
        let all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let used = all.iter().filter(|connection| connection.streams.load(Ordering::Relaxed) > 0);
        used.filter(|connection| !connection.heard.swap(false, Ordering::Relaxed)).cloned().collect()
    }
}

pub(crate) struct Connection {
    pub(crate) client: Renewed<Subscriber>,
    /// How many streams it has.
    streams: AtomicUsize,
    /// Whether something has come by it of late.
    heard: AtomicBool,
}

impl Connection {
    fn new() -> Self {
        Self { client: Renewed::new(), streams: AtomicUsize::new(0), heard: AtomicBool::new(false) }
    }

    pub(crate) fn is_silent(&self) -> bool {
        !self.heard.load(Ordering::Relaxed)
    }
}

/// Room for one stream, for as long as it lives.
pub(crate) struct Seat(Arc<Connection>);

impl Seat {
    pub(crate) fn client(&self) -> &Renewed<Subscriber> {
        &self.0.client
    }

    /// A message has come, so that nobody asks for a sign of life.
    pub(crate) fn heard(&self) {
        self.0.heard.store(true, Ordering::Relaxed);
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        self.0.streams.fetch_sub(1, Ordering::Relaxed);
    }
}

/// A client that is exchanged when its connection is silent.
pub(crate) struct Renewed<C> {
    now: Mutex<Option<C>>,
    /// How often it was.
    generation: watch::Sender<u64>,
}

impl<C: Clone> Renewed<C> {
    pub(crate) fn new() -> Self {
        Self { now: Mutex::new(None), generation: watch::Sender::new(0) }
    }

    pub(crate) fn generation(&self) -> u64 {
        *self.generation.borrow()
    }

    pub(crate) async fn get(
        &self,
        make: impl Future<Output = Result<C, TransportError>>,
    ) -> Result<C, TransportError> {
        let known = self.now.lock().unwrap_or_else(PoisonError::into_inner).clone();
        if let Some(client) = known {
            return Ok(client);
        }
        let new = make.await?;
        let mut now = self.now.lock().unwrap_or_else(PoisonError::into_inner);
        // Of several that were made at once the first stays.
        Ok(now.get_or_insert(new).clone())
    }

    /// Resolves when the client of `generation` was exchanged.
    pub(crate) async fn renewed(&self, generation: u64) {
        let _ = self.generation.subscribe().wait_for(|now| *now != generation).await;
    }

    /// Exchanges the client of `generation`, which somebody else may have done already, for `new`, or one that is made when it is
    /// needed.
    pub(crate) fn renew(&self, generation: u64, new: Option<C>) -> bool {
        let mut now = self.now.lock().unwrap_or_else(PoisonError::into_inner);
        let renewed = self.generation.send_if_modified(|current| {
            let is_current = *current == generation;
            *current += u64::from(is_current);
            is_current
        });
        if renewed {
            *now = new;
        }
        renewed
    }
}

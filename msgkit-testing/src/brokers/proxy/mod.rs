//! A TCP proxy in this process that breaks connections as networks do.

mod connection;
mod link;
#[cfg(test)]
mod tests;

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::net::{TcpListener, TcpStream};
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::sleep;

pub use self::connection::Connection;
use self::link::{Ending, Faults, Link, serve};

/// A network between a client and a broker, with faults on command.
///
/// A command on the proxy holds for the connections that are there and for those to come, until [`heal`](Self::heal);
/// one on a [`Connection`] for that alone. The proxy knows a connection as soon as a byte of the broker's has come
/// through it. It works while the runtime that it was started on does, and ends when it is dropped, with all of its
/// connections.
///
/// ```no_run
/// # async fn example() -> std::io::Result<()> {
/// use msgkit_testing::brokers::{Direction, FaultProxy};
///
/// let proxy = FaultProxy::start("127.0.0.1:1883").await?;
/// let url = format!("mqtt://127.0.0.1:{}", proxy.port());
/// // … a client connects to `url` …
/// proxy.cut(); // all connections, once
/// proxy.cut_after(Direction::ToBroker, 100); // every connection in the midst of what it sends
/// proxy.heal();
/// # Ok(())
/// # }
/// ```
pub struct FaultProxy {
    address: SocketAddr,
    shared: Arc<Shared>,
    accepting: JoinHandle<()>,
}

/// One of the two ways through a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Direction {
    /// From the client to the broker.
    ToBroker,
    /// From the broker to the client.
    ToClient,
}

struct Shared {
    target: String,
    state: Mutex<State>,
}

struct State {
    /// What a new connection begins with.
    faults: Faults,
    refusing: bool,
    links: Vec<Arc<Link>>,
}

impl FaultProxy {
    /// Listens on a free loopback port, for a broker at `host:port`. The broker need not be there yet: a client that
    /// connects while it is not is reset.
    ///
    /// # Errors
    /// What the operating system says against listening.
    pub async fn start(target: impl Into<String>) -> io::Result<Self> {
        Self::listen(TcpListener::bind(("127.0.0.1", 0)).await?, target)
    }

    /// The same at a port that was known before: for a broker that tells its clients where to connect, and so has to be
    /// started with the proxy's port.
    ///
    /// # Errors
    /// What the operating system says against listening.
    pub async fn start_on(listener: std::net::TcpListener, target: impl Into<String>) -> io::Result<Self> {
        listener.set_nonblocking(true)?;
        Self::listen(TcpListener::from_std(listener)?, target)
    }

    fn listen(listener: TcpListener, target: impl Into<String>) -> io::Result<Self> {
        let address = listener.local_addr()?;
        let state = State { faults: Faults::default(), refusing: false, links: Vec::new() };
        let shared = Arc::new(Shared { target: target.into(), state: Mutex::new(state) });
        let accepting = tokio::spawn(accept(listener, shared.clone()));
        Ok(Self { address, shared, accepting })
    }

    /// The port that clients connect to.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.address.port()
    }

    /// `127.0.0.1` and the port.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The connections that are there, oldest first.
    #[must_use]
    pub fn connections(&self) -> Vec<Connection> {
        self.shared.lock().links.iter().cloned().map(Connection::new).collect()
    }

    /// Closes every connection on both sides, in order (FIN). Answers how many.
    pub fn cut(&self) -> usize {
        self.end(Ending::Cut)
    }

    /// Breaks every connection on both sides, as a crashed peer does (RST). Answers how many.
    pub fn reset(&self) -> usize {
        self.end(Ending::Reset)
    }

    /// Takes every byte, and the end of a connection, and passes on nothing: the other side seems to be there. What was
    /// taken is lost, so [`heal`](Self::heal) resets these connections, as the return of the other side does.
    pub fn half_open(&self) {
        self.change(|faults| faults.silent = true);
    }

    /// Takes no more bytes, so that senders find their buffers full. Nothing is lost: [`heal`](Self::heal) passes it on.
    pub fn stall(&self) {
        self.change(|faults| faults.stalled = true);
    }

    /// Delays every byte in each direction: a round trip takes twice as long. What is on its way keeps its delay.
    pub fn latency(&self, latency: Duration) {
        self.change(|faults| faults.latency = latency);
    }

    /// Passes no more than so many bytes a second, on each connection in each direction; at least one.
    pub fn bandwidth(&self, bytes_per_second: u64) {
        self.change(|faults| faults.bandwidth = Some(bytes_per_second.max(1)));
    }

    /// Cuts every connection when so many more bytes have passed in that direction: these arrive, the next does not.
    pub fn cut_after(&self, direction: Direction, bytes: u64) {
        let mut state = self.shared.lock();
        state.faults.cut_after = Some((direction, bytes));
        for link in &state.links {
            link.cut_after(direction, bytes);
        }
    }

    /// Closes every new connection at once (RST); those that are there stay.
    pub fn refuse(&self) {
        self.shared.lock().refusing = true;
    }

    /// Ends all faults, of single connections as well.
    pub fn heal(&self) {
        let mut state = self.shared.lock();
        state.faults = Faults::default();
        state.refusing = false;
        for link in &state.links {
            link.heal();
        }
    }

    fn change(&self, change: impl Fn(&mut Faults)) {
        let mut state = self.shared.lock();
        change(&mut state.faults);
        for link in &state.links {
            link.change(&change);
        }
    }

    fn end(&self, ending: Ending) -> usize {
        let state = self.shared.lock();
        for link in &state.links {
            link.end(ending);
        }
        state.links.len()
    }
}

impl Drop for FaultProxy {
    fn drop(&mut self) {
        // Takes the listener and the connections along.
        self.accepting.abort();
    }
}

impl fmt::Debug for FaultProxy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FaultProxy")
            .field("address", &self.address)
            .field("target", &self.shared.target)
            .finish_non_exhaustive()
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Knows a new connection, or refuses it.
    fn admit(&self) -> Option<Arc<Link>> {
        let mut state = self.lock();
        if state.refusing {
            return None;
        }
        let link = Arc::new(Link::new(state.faults));
        state.links.push(link.clone());
        Some(link)
    }

    fn forget(&self, link: &Arc<Link>) {
        self.lock().links.retain(|other| !Arc::ptr_eq(other, link));
    }
}

async fn accept(listener: TcpListener, shared: Arc<Shared>) {
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            accepted = listener.accept() => match accepted {
                Ok((client, _)) => {
                    connections.spawn(carry(client, shared.clone()));
                }
                // No more file descriptors, most likely: some will be free again.
                Err(_) => sleep(Duration::from_millis(10)).await,
            },
            Some(_) = connections.join_next() => {}
        }
    }
}

async fn carry(client: TcpStream, shared: Arc<Shared>) {
    match shared.admit() {
        None => drop(client.set_zero_linger()),
        Some(link) => {
            serve(client, &shared.target, &link).await;
            shared.forget(&link);
        }
    }
}

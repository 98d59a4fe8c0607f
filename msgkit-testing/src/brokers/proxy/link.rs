//! What carries the bytes of one connection, and loses them.

use std::future::pending;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::net::tcp::{ReadHalf, WriteHalf};
use tokio::sync::mpsc::{Receiver, Sender, channel};
use tokio::sync::watch;
use tokio::time::{Instant, sleep, sleep_until};

use super::Direction;

/// How much is read at once, and how often that may be on its way in one direction: 4 MB.
const PIECE: usize = 16 * 1024;
const PIECES: usize = 256;

/// What is wrong with a connection.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Faults {
    pub(super) silent: bool,
    pub(super) stalled: bool,
    pub(super) latency: Duration,
    pub(super) bandwidth: Option<u64>,
    /// The bytes since the connection began, after which it ends.
    pub(super) cut_after: Option<(Direction, u64)>,
    pub(super) ending: Option<Ending>,
}

/// How a connection ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Ending {
    /// With FIN.
    Cut,
    /// With RST.
    Reset,
}

/// A connection, as those see it who command its faults.
pub(super) struct Link {
    faults: watch::Sender<Faults>,
    to_broker: AtomicU64,
    to_client: AtomicU64,
}

impl Link {
    pub(super) fn new(faults: Faults) -> Self {
        Self {
            faults: watch::Sender::new(faults),
            to_broker: AtomicU64::new(0),
            to_client: AtomicU64::new(0),
        }
    }

    pub(super) fn seen(&self, direction: Direction) -> u64 {
        self.counter(direction).load(Ordering::Relaxed)
    }

    pub(super) fn change(&self, change: impl FnOnce(&mut Faults)) {
        self.faults.send_modify(change);
    }

    pub(super) fn end(&self, ending: Ending) {
        self.change(|faults| faults.ending = Some(ending));
    }

    pub(super) fn cut_after(&self, direction: Direction, bytes: u64) {
        let limit = self.seen(direction).saturating_add(bytes);
        self.change(|faults| faults.cut_after = Some((direction, limit)));
    }

    pub(super) fn heal(&self) {
        self.change(|faults| {
            let lossy = faults.silent.then_some(Ending::Reset);
            *faults = Faults { ending: faults.ending.or(lossy), ..Faults::default() };
        });
    }

    fn counter(&self, direction: Direction) -> &AtomicU64 {
        match direction {
            Direction::ToBroker => &self.to_broker,
            Direction::ToClient => &self.to_client,
        }
    }
}

/// Carries one connection to its end.
pub(super) async fn serve(mut client: TcpStream, target: &str, link: &Link) {
    let mut orders = link.faults.subscribe();
    if orders.borrow().silent {
        // The broker does not even hear of it.
        let ending = tokio::select! {
            ending = ordered(&mut orders) => ending,
            () = swallow(&mut client, link) => Ending::Cut,
        };
        return finish(client, ending);
    }
    let connected = tokio::select! {
        ending = ordered(&mut orders) => Err(ending),
        connected = TcpStream::connect(target) => connected.map_err(|_| Ending::Reset),
    };
    let mut broker = match connected {
        Ok(broker) => broker,
        Err(ending) => return finish(client, ending),
    };
    // Small frames go at once, as they would without a proxy.
    let _ = client.set_nodelay(true);
    let _ = broker.set_nodelay(true);
    let ending = {
        let (from_client, to_client) = client.split();
        let (from_broker, to_broker) = broker.split();
        tokio::select! {
            ending = ordered(&mut orders) => ending,
            carried = async { tokio::try_join!(
                pump(Direction::ToBroker, from_client, to_broker, link),
                pump(Direction::ToClient, from_broker, to_client, link),
            ) } => carried.err().unwrap_or(Ending::Cut),
        }
    };
    finish(client, ending);
    finish(broker, ending);
}

/// Waits for the command to end.
async fn ordered(orders: &mut watch::Receiver<Faults>) -> Ending {
    match orders.wait_for(|faults| faults.ending.is_some()).await {
        Ok(faults) => faults.ending.unwrap_or(Ending::Cut),
        Err(_) => Ending::Cut,
    }
}

fn finish(stream: TcpStream, ending: Ending) {
    match ending {
        // A socket with bytes that nobody has read is closed with RST.
        Ending::Cut => while stream.try_read(&mut [0; 1024]).is_ok_and(|n| n > 0) {},
        Ending::Reset => {
            let _ = stream.set_zero_linger();
        }
    }
    drop(stream);
}

/// Takes and forgets until the client goes, and then seems to be there still.
async fn swallow(client: &mut TcpStream, link: &Link) {
    let mut buffer = vec![0; PIECE];
    while let Ok(n) = client.read(&mut buffer).await {
        link.to_broker.fetch_add(n as u64, Ordering::Relaxed);
        if n == 0 {
            return;
        }
    }
}

/// What is on its way, with the time when it is due.
type Piece = (Instant, What);

enum What {
    Bytes(Vec<u8>),
    End,
    Cut,
}

async fn pump(
    direction: Direction,
    from: ReadHalf<'_>,
    to: WriteHalf<'_>,
    link: &Link,
) -> Result<(), Ending> {
    let (sender, receiver) = channel(PIECES);
    tokio::try_join!(take(direction, from, sender, link), deliver(to, receiver, link.faults.subscribe()))?;
    Ok(())
}

async fn take(
    direction: Direction,
    mut from: ReadHalf<'_>,
    sender: Sender<Piece>,
    link: &Link,
) -> Result<(), Ending> {
    let mut orders = link.faults.subscribe();
    let mut buffer = vec![0; PIECE];
    loop {
        let _ = orders.wait_for(|faults| !faults.stalled).await;
        let n = tokio::select! {
            _ = orders.changed() => continue,
            n = from.read(&mut buffer) => n.map_err(|_| Ending::Reset)?,
        };
        let seen = link.counter(direction).fetch_add(n as u64, Ordering::Relaxed) + n as u64;
        let faults = *orders.borrow();
        if faults.silent && n == 0 {
            // The other side does not hear of the end; healing ends the connection.
            return pending().await;
        }
        if faults.silent {
            continue;
        }
        let due = Instant::now() + faults.latency;
        let above = match faults.cut_after {
            Some((its, limit)) if its == direction && seen >= limit => Some(seen - limit),
            _ => None,
        };
        let kept = n.saturating_sub(usize::try_from(above.unwrap_or(0)).unwrap_or(usize::MAX));
        let mut pieces = Vec::new();
        if kept > 0 {
            pieces.push(What::Bytes(buffer[..kept].to_vec()));
        }
        if above.is_some() {
            pieces.push(What::Cut);
        } else if n == 0 {
            pieces.push(What::End);
        }
        for what in pieces {
            // Nobody is there where the other half has failed, which ends both.
            let _ = sender.send((due, what)).await;
        }
        if above.is_some() {
            return pending().await;
        }
        if n == 0 {
            return Ok(());
        }
    }
}

async fn deliver(
    mut to: WriteHalf<'_>,
    mut receiver: Receiver<Piece>,
    mut orders: watch::Receiver<Faults>,
) -> Result<(), Ending> {
    while let Some((due, what)) = receiver.recv().await {
        sleep_until(due).await;
        match what {
            What::Cut => return Err(Ending::Cut),
            What::End => {
                if open(&mut orders).await {
                    to.shutdown().await.map_err(|_| Ending::Reset)?;
                } else {
                    pending::<()>().await;
                }
            }
            What::Bytes(bytes) => {
                let mut rest = &bytes[..];
                while !rest.is_empty() && open(&mut orders).await {
                    let rate = orders.borrow().bandwidth;
                    // A share of a second's bytes at once, so that they flow evenly and commands are heard.
                    let share = rate.map_or(rest.len(), |rate| {
                        usize::try_from(rate / 50).unwrap_or(usize::MAX).clamp(1, rest.len())
                    });
                    to.write_all(&rest[..share]).await.map_err(|_| Ending::Reset)?;
                    rest = &rest[share..];
                    if let Some(rate) = rate {
                        sleep(Duration::from_secs_f64(share as f64 / rate as f64)).await;
                    }
                }
            }
        }
    }
    Ok(())
}

/// Waits while the connection is stalled; whether bytes pass then, and are not lost.
async fn open(orders: &mut watch::Receiver<Faults>) -> bool {
    match orders.wait_for(|faults| !faults.stalled).await {
        Ok(faults) => !faults.silent,
        Err(_) => true,
    }
}

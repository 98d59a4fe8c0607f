//! Every fault, between clients and an echo.

use std::io;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::timeout;

use super::{Direction, FaultProxy};

/// Says back what it hears, and remembers that.
struct Echo {
    address: String,
    heard: Arc<Mutex<Vec<u8>>>,
    /// How its connections ended.
    ends: tokio::sync::mpsc::UnboundedReceiver<io::Result<()>>,
}

impl Echo {
    async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let heard = Arc::<Mutex<Vec<u8>>>::default();
        let (sender, ends) = tokio::sync::mpsc::unbounded_channel();
        let memory = heard.clone();
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                let (memory, sender) = (memory.clone(), sender.clone());
                tokio::spawn(async move {
                    let mut buffer = [0; 4096];
                    let end = loop {
                        match stream.read(&mut buffer).await {
                            Ok(0) => break Ok(()),
                            Ok(n) => {
                                memory.lock().unwrap().extend(&buffer[..n]);
                                let _ = stream.write_all(&buffer[..n]).await;
                            }
                            Err(error) => break Err(error),
                        }
                    };
                    let _ = sender.send(end);
                });
            }
        });
        Self { address, heard, ends }
    }

    fn heard(&self) -> String {
        String::from_utf8(self.heard.lock().unwrap().clone()).unwrap()
    }
}

async fn connect(proxy: &FaultProxy) -> TcpStream {
    TcpStream::connect(proxy.address()).await.unwrap()
}

/// There and back.
async fn talk(stream: &mut TcpStream, text: &str) {
    stream.write_all(text.as_bytes()).await.unwrap();
    assert_eq!(hear(stream, text.len()).await, text);
}

async fn hear(stream: &mut TcpStream, length: usize) -> String {
    let mut bytes = vec![0; length];
    patient(stream.read_exact(&mut bytes)).await.unwrap();
    String::from_utf8(bytes).unwrap()
}

async fn end(stream: &mut TcpStream) -> io::Result<Vec<u8>> {
    let mut rest = Vec::new();
    patient(stream.read_to_end(&mut rest)).await?;
    Ok(rest)
}

async fn patient<T>(future: impl Future<Output = T>) -> T {
    timeout(Duration::from_secs(20), future).await.expect("it never happens")
}

/// Nothing comes, as far as a moment can tell.
async fn silence(stream: &mut TcpStream) {
    let read = timeout(Duration::from_millis(100), stream.read(&mut [0; 16])).await;
    assert!(read.is_err(), "something came: {read:?}");
}

async fn pair() -> (Echo, FaultProxy, TcpStream) {
    let echo = Echo::start().await;
    let proxy = FaultProxy::start(echo.address.clone()).await.unwrap();
    let mut stream = connect(&proxy).await;
    talk(&mut stream, "hello").await;
    (echo, proxy, stream)
}

#[tokio::test]
async fn bytes_pass_and_so_does_the_end_of_one_direction() {
    let (mut echo, proxy, mut stream) = pair().await;
    let big = "x".repeat(1_000_000);
    let (mut read, mut write) = stream.split();
    let mut back = vec![0; big.len()];
    let (written, heard) = tokio::join!(write.write_all(big.as_bytes()), read.read_exact(&mut back));
    written.unwrap();
    heard.unwrap();
    assert_eq!(proxy.connections()[0].bytes(Direction::ToBroker), 1_000_005);
    write.shutdown().await.unwrap();
    assert_eq!(end(&mut stream).await.unwrap(), b"");
    assert!(patient(echo.ends.recv()).await.unwrap().is_ok());
    drop(stream);
    patient(async {
        while !proxy.connections().is_empty() {
            tokio::task::yield_now().await;
        }
    })
    .await;
}

#[tokio::test]
async fn a_cut_ends_both_sides_in_order_and_the_next_connection_works() {
    let (mut echo, proxy, mut stream) = pair().await;
    assert_eq!(proxy.cut(), 1);
    assert_eq!(end(&mut stream).await.unwrap(), b"");
    assert!(patient(echo.ends.recv()).await.unwrap().is_ok());
    talk(&mut connect(&proxy).await, "again").await;
}

#[tokio::test]
async fn a_reset_is_an_error_on_both_sides() {
    let (mut echo, proxy, mut stream) = pair().await;
    assert_eq!(proxy.reset(), 1);
    assert_eq!(end(&mut stream).await.unwrap_err().kind(), io::ErrorKind::ConnectionReset);
    let other = patient(echo.ends.recv()).await.unwrap();
    assert_eq!(other.unwrap_err().kind(), io::ErrorKind::ConnectionReset);
    talk(&mut connect(&proxy).await, "again").await;
}

#[tokio::test]
async fn a_half_open_connection_loses_what_it_takes_and_is_reset_when_it_heals() {
    let (mut echo, proxy, mut stream) = pair().await;
    proxy.half_open();
    let mut late = connect(&proxy).await;
    stream.write_all(b"lost").await.unwrap();
    late.write_all(b"lost").await.unwrap();
    silence(&mut stream).await;
    silence(&mut late).await;
    assert_eq!(proxy.connections().len(), 2);
    proxy.heal();
    for stream in [&mut stream, &mut late] {
        assert_eq!(end(stream).await.unwrap_err().kind(), io::ErrorKind::ConnectionReset);
    }
    assert!(patient(echo.ends.recv()).await.unwrap().is_err());
    talk(&mut connect(&proxy).await, "again").await;
    assert_eq!(echo.heard(), "helloagain");
}

#[tokio::test]
async fn the_end_of_a_half_open_connection_is_not_heard() {
    let (mut echo, proxy, stream) = pair().await;
    proxy.half_open();
    drop(stream);
    assert!(timeout(Duration::from_millis(100), echo.ends.recv()).await.is_err());
    proxy.heal();
    assert!(patient(echo.ends.recv()).await.unwrap().is_err());
}

#[tokio::test]
async fn a_stalled_connection_loses_nothing() {
    let (echo, proxy, mut stream) = pair().await;
    proxy.stall();
    stream.write_all(b" and").await.unwrap();
    silence(&mut stream).await;
    assert_eq!(echo.heard(), "hello");
    proxy.heal();
    assert_eq!(hear(&mut stream, 4).await, " and");
    talk(&mut stream, " on").await;
}

#[tokio::test]
async fn latency_delays_each_way_but_not_one_piece_after_the_other() {
    let (_echo, proxy, mut stream) = pair().await;
    proxy.latency(Duration::from_millis(100));
    let started = Instant::now();
    let connection = proxy.connections().remove(0);
    for piece in 1..=400 {
        stream.write_all(b"x").await.unwrap();
        // Each on its own: together they would be one piece.
        while connection.bytes(Direction::ToBroker) < 5 + piece {
            tokio::task::yield_now().await;
        }
    }
    hear(&mut stream, 400).await;
    let took = started.elapsed();
    assert!(took >= Duration::from_millis(200), "{took:?}");
    assert!(took < Duration::from_secs(40), "{took:?}");
}

#[tokio::test]
async fn bandwidth_is_bytes_a_second() {
    let (_echo, proxy, mut stream) = pair().await;
    proxy.bandwidth(50_000);
    let started = Instant::now();
    stream.write_all(&[b'x'; 20_000]).await.unwrap();
    hear(&mut stream, 20_000).await;
    let took = started.elapsed();
    assert!(took >= Duration::from_millis(350), "{took:?}");
    proxy.heal();
    let mut healed = Vec::new();
    for _ in 0..5 {
        let started = Instant::now();
        stream.write_all(&[b'x'; 20_000]).await.unwrap();
        hear(&mut stream, 20_000).await;
        healed.push(started.elapsed());
    }
    assert!(healed.iter().any(|again| *again < took), "as slow as before, {took:?}: {healed:?}");
}

#[tokio::test]
async fn exactly_so_many_bytes_pass_before_the_cut() {
    let (mut echo, proxy, mut stream) = pair().await;
    proxy.cut_after(Direction::ToBroker, 3);
    stream.write_all(b"abcdef").await.unwrap();
    end(&mut stream).await.unwrap();
    assert!(patient(echo.ends.recv()).await.unwrap().is_ok());
    assert_eq!(echo.heard(), "helloabc");
    // It holds for the next one as well, from its beginning, and in that direction alone.
    let mut next = connect(&proxy).await;
    next.write_all(b"12").await.unwrap();
    assert_eq!(hear(&mut next, 2).await, "12");
    next.write_all(b"34").await.unwrap();
    end(&mut next).await.unwrap();
    assert!(patient(echo.ends.recv()).await.is_some());
    assert_eq!(echo.heard(), "helloabc123");
    proxy.heal();
    let mut last = connect(&proxy).await;
    proxy.cut_after(Direction::ToClient, 2);
    last.write_all(b"xyz").await.unwrap();
    assert_eq!(end(&mut last).await.unwrap(), b"xy");
}

#[tokio::test]
async fn only_new_connections_are_refused() {
    let (_echo, proxy, mut stream) = pair().await;
    proxy.refuse();
    // Linux completes the connection before the proxy sees it.
    if let Ok(mut refused) = TcpStream::connect(proxy.address()).await {
        assert!(end(&mut refused).await.is_err());
    }
    talk(&mut stream, "still").await;
    proxy.heal();
    talk(&mut connect(&proxy).await, "again").await;
}

#[tokio::test]
async fn a_fault_of_one_connection_spares_the_other() {
    let (_echo, proxy, mut first) = pair().await;
    let mut second = connect(&proxy).await;
    talk(&mut second, "me too").await;
    let connections = proxy.connections();
    connections[1].stall();
    connections[0].cut();
    assert_eq!(end(&mut first).await.unwrap(), b"");
    second.write_all(b"held").await.unwrap();
    silence(&mut second).await;
    connections[1].heal();
    assert_eq!(hear(&mut second, 4).await, "held");
    assert_eq!(proxy.connections().len(), 1);
}

#[tokio::test]
async fn without_a_broker_a_client_is_reset() {
    let nobody = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    let proxy = FaultProxy::start(nobody.to_string()).await.unwrap();
    if let Ok(mut stream) = TcpStream::connect(proxy.address()).await {
        assert!(end(&mut stream).await.is_err());
    }
}

#[tokio::test]
async fn a_dropped_proxy_leaves_nothing() {
    let (mut echo, proxy, mut stream) = pair().await;
    let address = proxy.address();
    drop(proxy);
    assert_eq!(end(&mut stream).await.unwrap(), b"");
    assert!(patient(echo.ends.recv()).await.is_some());
    assert!(TcpStream::connect(address).await.is_err());
}

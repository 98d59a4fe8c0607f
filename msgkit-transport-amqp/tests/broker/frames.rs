//! A network that reads what the broker says, frame by frame (AMQP 0-9-1, section 4.2.3), and may say something else.

use std::io;
use std::net::SocketAddr;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;

/// Type, channel and size stand before a frame's payload, a mark behind it.
const HEAD: usize = 7;

/// What the broker says on one connection; what the client hears instead.
pub(crate) type Hears = Box<dyn FnMut(Frame<'_>) -> Vec<u8> + Send>;

/// A frame, from its head to the mark at its end.
#[derive(Clone, Copy)]
pub(crate) struct Frame<'a>(pub(crate) &'a [u8]);

impl<'a> Frame<'a> {
    /// Its channel, as it is written.
    pub(crate) fn channel(self) -> [u8; 2] {
        [self.0[1], self.0[2]]
    }

    /// The arguments of the method `id` of class `class`, where it is that.
    pub(crate) fn arguments(self, class: u8, id: u8) -> Option<&'a [u8]> {
        let payload = &self.0[HEAD..self.0.len() - 1];
        (self.0[0] == 1).then(|| payload.strip_prefix(&[0, class, 0, id])).flatten()
    }
}

/// The frame of a method.
pub(crate) fn method(channel: [u8; 2], class: u8, id: u8, arguments: &[u8]) -> Vec<u8> {
    let size = u8::try_from(4 + arguments.len()).unwrap_or(u8::MAX);
    let head = [1, channel[0], channel[1], 0, 0, 0, size, 0, class, 0, id];
    [&head, arguments, &[0xce]].concat()
}

/// Listens for clients of the broker at `target`; `hears` is asked for each of them.
pub(crate) async fn between(
    target: &str,
    hears: impl Fn() -> Hears + Send + 'static,
) -> io::Result<SocketAddr> {
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let address = listener.local_addr()?;
    let target = target.to_owned();
    // It ends with the test's runtime.
    tokio::spawn(async move {
        while let Ok((client, _)) = listener.accept().await {
            let (target, mut hears) = (target.clone(), hears());
            tokio::spawn(async move {
                let broker = tokio::net::TcpStream::connect(target).await?;
                let (mut from_broker, mut to_broker) = broker.into_split();
                let (mut from_client, mut to_client) = client.into_split();
                let said = async {
                    loop {
                        let mut frame = vec![0; HEAD];
                        from_broker.read_exact(&mut frame).await?;
                        let size = u32::from_be_bytes([frame[3], frame[4], frame[5], frame[6]]);
                        frame.resize(HEAD + size as usize + 1, 0);
                        from_broker.read_exact(&mut frame[HEAD..]).await?;
                        to_client.write_all(&hears(Frame(&frame))).await?;
                    }
                };
                tokio::select! {
                    ended = said => ended,
                    copied = tokio::io::copy(&mut from_client, &mut to_broker) => copied.map(drop),
                }
            });
        }
    });
    Ok(address)
}

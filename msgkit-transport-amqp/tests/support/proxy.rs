//! A way to the broker that can be cut, as a network is: at once, and for every connection that goes through it.

use std::io;
use std::sync::Arc;

use tokio::io::copy_bidirectional;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

/// Passes connections on to the broker until they are cut.
#[derive(Debug)]
pub(crate) struct Proxy {
    /// Where it listens, `host:port`.
    pub(crate) address: String,
    cuts: Arc<watch::Sender<u32>>,
}

impl Proxy {
    pub(crate) async fn to(broker: String) -> io::Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let address = listener.local_addr()?.to_string();
        let cuts = Arc::new(watch::Sender::new(0));
        let signal = cuts.clone();
        // As long as the runtime lives: a case may drop its broker and keep its connections.
        tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                let (broker, mut cut) = (broker.clone(), signal.subscribe());
                tokio::spawn(async move {
                    tokio::select! {
                        _ = pass(client, &broker) => {}
                        _ = cut.changed() => {}
                    }
                });
            }
        });
        Ok(Self { address, cuts })
    }

    /// Ends every connection that goes through it now; new ones are passed on.
    pub(crate) fn cut(&self) {
        self.cuts.send_modify(|cuts| *cuts += 1);
    }
}

async fn pass(mut client: TcpStream, broker: &str) -> io::Result<()> {
    let mut server = TcpStream::connect(broker).await?;
    client.set_nodelay(true)?;
    server.set_nodelay(true)?;
    copy_bidirectional(&mut client, &mut server).await.map(drop)
}

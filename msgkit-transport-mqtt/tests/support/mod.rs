//! What the tests need of a broker: an address, and a way to cut every connection to it.

use std::net::SocketAddr;
use std::sync::Arc;

use tokio::io::copy_bidirectional;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

/// The variable that names a broker which is there already, `mqtt://127.0.0.1:1883`.
pub(crate) const URL: &str = "MSGKIT_MQTT_URL";

/// The broker's `host:port`, where one is there.
pub(crate) fn broker() -> Option<String> {
    let url = std::env::var(URL).ok()?;
    Some(url.strip_prefix("mqtt://").unwrap_or(&url).trim_end_matches('/').to_owned())
}

/// A name that no other test has.
pub(crate) fn unique(what: &str) -> String {
    use std::sync::atomic::{AtomicU32, Ordering};
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let run = std::process::id();
    format!("{what}{run}x{}", NEXT.fetch_add(1, Ordering::Relaxed))
}

/// Passes connections on to a broker, and cuts them when it is told to.
#[derive(Debug, Clone)]
pub(crate) struct Wire {
    address: SocketAddr,
    cuts: Arc<watch::Sender<u64>>,
}

impl Wire {
    /// In front of `target`.
    pub(crate) async fn before(target: String) -> std::io::Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let address = listener.local_addr()?;
        let cuts = Arc::new(watch::Sender::new(0));
        let signal = cuts.clone();
        tokio::spawn(async move {
            while let Ok((mut near, _)) = listener.accept().await {
                let (target, mut cut) = (target.clone(), signal.subscribe());
                tokio::spawn(async move {
                    let Ok(mut far) = TcpStream::connect(target).await else { return };
                    let _ = near.set_nodelay(true);
                    let _ = far.set_nodelay(true);
                    tokio::select! {
                        _ = copy_bidirectional(&mut near, &mut far) => {}
                        _ = cut.changed() => {}
                    }
                });
            }
        });
        Ok(Self { address, cuts })
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    /// Ends every connection that there is; new ones are let through.
    pub(crate) fn cut(&self) {
        self.cuts.send_modify(|cuts| *cuts += 1);
    }
}

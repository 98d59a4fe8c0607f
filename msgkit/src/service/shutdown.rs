//! The signals that ask a process to end.

/// Listens for SIGINT and, where there is one, SIGTERM, from the moment it is made.
///
/// Made before a service starts, it lets no signal end the process without a drain.
#[derive(Debug)]
pub struct Shutdown {
    #[cfg(unix)]
    signals: Option<[tokio::signal::unix::Signal; 2]>,
}

impl Shutdown {
    /// Begins to listen; needs tokio's runtime. Where the system refuses, signals go on to end the process at once.
    #[must_use]
    pub fn listen() -> Self {
        #[cfg(unix)]
        {
            use tokio::signal::unix::{SignalKind, signal};
            let signals = signal(SignalKind::interrupt())
                .and_then(|interrupt| Ok([interrupt, signal(SignalKind::terminate())?]));
            if let Err(error) = &signals {
                tracing::warn!(%error, "a signal will end the process without a drain");
            }
            Self { signals: signals.ok() }
        }
        #[cfg(not(unix))]
        Self {}
    }

    /// Waits for a signal. Cancel-safe.
    pub async fn requested(&mut self) {
        #[cfg(unix)]
        match &mut self.signals {
            Some([interrupt, terminate]) => tokio::select! {
                _ = interrupt.recv() => {}
                _ = terminate.recv() => {}
            },
            None => std::future::pending().await,
        }
        #[cfg(not(unix))]
        let _ = tokio::signal::ctrl_c().await;
    }
}

/// Waits for SIGINT or, where there is one, SIGTERM: [`Shutdown`] for those who begin to listen only now.
pub async fn shutdown_signal() {
    Shutdown::listen().requested().await;
}

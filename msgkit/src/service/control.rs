//! What a running handler is told to do.

use tokio::sync::watch;

/// The mode of a handler.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Mode {
    /// Fetch and handle.
    Running,
    /// Fetch nothing; finish what is in hand.
    Paused,
    /// Fetch nothing more; finish what is being handled, give the rest back, end.
    Draining,
}

/// The listening end, one for each task of a handler.
#[derive(Debug, Clone)]
pub(crate) struct Control(watch::Receiver<Mode>);

impl Control {
    pub(crate) fn new(receiver: watch::Receiver<Mode>) -> Self {
        Self(receiver)
    }

    /// The mode now.
    pub(crate) fn mode(&mut self) -> Mode {
        *self.0.borrow_and_update()
    }

    pub(crate) fn is_draining(&self) -> bool {
        *self.0.borrow() == Mode::Draining
    }

    /// Waits until the mode changes; draining where nobody is left who could change it.
    pub(crate) async fn changed(&mut self) {
        if self.0.changed().await.is_err() {
            std::future::pending::<()>().await;
        }
    }

    /// Waits until draining begins.
    pub(crate) async fn draining(&mut self) {
        if self.0.wait_for(|mode| *mode == Mode::Draining).await.is_err() {
            std::future::pending::<()>().await;
        }
    }
}

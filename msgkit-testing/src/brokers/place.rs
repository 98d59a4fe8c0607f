//! Whose a broker is: one of our own, or one that the environment names and no test may end.

use std::io;
use std::net::{TcpStream, ToSocketAddrs};
use std::path::Path;
use std::time::Duration;

use super::error::{BrokerError, BrokerErrorKind};
use super::sandbox::Sandbox;
use super::system::escape;

/// How long a broker on this machine may take to accept a connection.
const CONNECT: Duration = Duration::from_secs(2);

/// A broker that was started here.
pub(super) trait Launched {
    const NAME: &'static str;
    /// The variable that names one that runs already.
    const URL: &'static str;
    /// Its process in the sandbox.
    const PROCESS: &'static str;
    /// How long it may take to end.
    const STOP: Duration;

    fn sandbox(&self) -> &Sandbox;

    fn sandbox_mut(&mut self) -> &mut Sandbox;

    /// Starts its process, and waits until it answers.
    fn run(&mut self) -> Result<(), BrokerError>;
}

pub(super) enum Place<O> {
    Ours(Box<O>),
    Theirs,
}

impl<O: Launched> Place<O> {
    pub(super) fn ours(&self) -> Option<&O> {
        match self {
            Place::Ours(ours) => Some(ours),
            Place::Theirs => None,
        }
    }

    pub(super) fn ours_mut(&mut self) -> Result<&mut O, BrokerError> {
        match self {
            Place::Ours(ours) => Ok(ours),
            Place::Theirs => Err(BrokerError::not_ours(O::NAME, O::URL)),
        }
    }

    pub(super) fn directory(&self) -> Option<&Path> {
        Some(self.ours()?.sandbox().path())
    }

    /// Ends it in good order.
    pub(super) fn stop(&mut self) -> Result<(), BrokerError> {
        if self.ours_mut()?.sandbox_mut().end(O::PROCESS, Some(O::STOP)) {
            return Ok(());
        }
        Err(BrokerError::new(
            O::NAME,
            BrokerErrorKind::NotReady,
            format!("did not end within {:?} of SIGTERM, so it was killed", O::STOP),
        ))
    }

    pub(super) fn kill(&mut self) -> Result<(), BrokerError> {
        self.ours_mut()?.sandbox_mut().end(O::PROCESS, None);
        Ok(())
    }

    /// On the same ports and data.
    pub(super) fn restart(&mut self) -> Result<(), BrokerError> {
        self.stop()?;
        self.ours_mut()?.run()
    }
}

/// Starts it with other ports where somebody took one between our finding it free and its listening on it, of which it says
/// `taken`.
pub(super) fn on_free_ports<T>(
    taken: &str,
    mut start: impl FnMut() -> Result<T, BrokerError>,
) -> Result<T, BrokerError> {
    let mut tries = 3;
    loop {
        tries -= 1;
        match start() {
            Err(error) if tries > 0 && error.to_string().contains(taken) => {}
            other => return other,
        }
    }
}

/// A connection to `host:port`, on which it has `patience` to answer.
pub(super) fn connect(address: &str, patience: Duration) -> io::Result<TcpStream> {
    let address = address.to_socket_addrs()?.next().ok_or(io::ErrorKind::NotFound)?;
    let stream = TcpStream::connect_timeout(&address, CONNECT)?;
    stream.set_read_timeout(Some(patience))?;
    Ok(stream)
}

/// `user:password@`, as it stands in an address.
pub(super) fn credentials(user: Option<&(String, String)>) -> String {
    user.map(|(name, password)| format!("{}:{}@", escape(name), escape(password))).unwrap_or_default()
}

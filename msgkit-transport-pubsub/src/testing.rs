//! What the tests within this crate share.

use msgkit_testing::brokers::{BrokerErrorKind, Pubsub};

/// The stand-in for the service; `None` where it is not installed and need not be.
pub(crate) fn stand_in() -> Option<Pubsub> {
    match Pubsub::launch() {
        Err(error)
            if error.kind() == BrokerErrorKind::Missing
                && std::env::var("MSGKIT_REQUIRE_BROKERS").as_deref() != Ok("1") =>
        {
            eprintln!("not run: {error}");
            None
        }
        started => Some(started.unwrap()),
    }
}

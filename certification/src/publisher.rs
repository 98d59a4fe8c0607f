//! The publisher: each message until it is confirmed, in order, never far ahead of the members.

use std::sync::Arc;
use std::time::Duration;

use msgkit::transport::{Outgoing, Transport, TransportErrorKind};
use msgkit::{Clock, Text};
use tokio::sync::watch;
use tokio::time::{sleep, timeout};

use crate::message::{Fate, Numbered};
use crate::{Broker, Failure};

/// How many messages are published at once: the most whose fate a broken connection leaves open.
pub(crate) const BATCH: u64 = 20;
/// How far the publisher runs ahead of the members, so that a fault meets both at work.
const LEAD: u64 = 500;
/// The same where a second session is sent what members are sent, or where settlements are heard of in intervals: the lead is
/// then what is on its way or in hand, so it is short.
const SHORT_LEAD: u64 = 2 * BATCH;
/// How long the members may be behind until it goes on nevertheless; longer than any outage.
const STANDSTILL: Duration = Duration::from_secs(60);
/// How long it waits after a failure before it tries again.
const PAUSE: Duration = Duration::from_millis(50);

/// How far a run is.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Progress {
    /// Messages that the broker has confirmed: all below this number.
    pub(crate) confirmed: u64,
    /// Messages that the broker did not confirm at first, counted each time.
    pub(crate) again: u64,
    /// Different messages that members have handled.
    pub(crate) handled: u64,
    /// How many messages may be published until the scenario is further.
    pub(crate) limit: u64,
}

/// How far the publisher may run ahead on `broker`, of a group of so many.
pub(crate) fn lead(broker: &dyn Broker, members: usize) -> u64 {
    let copied = broker.copies_what_a_group_is_sent() && members > 1;
    if copied || broker.settles_in_intervals() { SHORT_LEAD } else { LEAD }
}

/// Publishes the messages below `total`, at most `lead` ahead of what was handled.
pub(crate) async fn publish(
    transport: Arc<dyn Transport>,
    total: u64,
    lead: u64,
    progress: watch::Sender<Progress>,
) -> Result<(), Failure> {
    let mut seen = progress.subscribe();
    let (mut next, mut given_up) = (0, 0);
    while next < total {
        let missing = |progress: &Progress| (next - Fate::condemned(next)).saturating_sub(progress.handled);
        let may = |progress: &Progress| next < progress.limit && missing(progress) < given_up + lead;
        match timeout(STANDSTILL, seen.wait_for(may)).await {
            Ok(Ok(_)) => {}
            Ok(Err(_)) => return Err(Failure::broken("the run has ended before its publisher")),
            Err(_) => {
                // Lost, or stuck: the ledger will show it.
                given_up = missing(&progress.borrow());
                continue;
            }
        }
        let end = (next + BATCH).min(total);
        let mut batch = Vec::new();
        for n in next..end {
            let source = Text::from_static("certification");
            let envelope = msgkit::envelope_of(&Numbered::new(n), &source, Clock::system().now())?;
            batch.push(Outgoing::to_topic(envelope));
        }
        while let Err(error) = transport.publish(batch).await {
            // Nobody there to take it: the members are on their way back.
            let will_pass =
                |kind: TransportErrorKind| kind.is_temporary() || kind == TransportErrorKind::Unrouted;
            if !error.rejected().iter().all(|rejected| will_pass(rejected.error.kind())) {
                return Err(Failure::broken(format!("the publisher is refused: {}", msgkit::Chain(&error))));
            }
            batch = error.into_rejected().into_iter().map(|rejected| rejected.message).collect();
            progress.send_modify(|progress| progress.again += batch.len() as u64);
            sleep(PAUSE).await;
        }
        next = end;
        progress.send_modify(|progress| progress.confirmed = next);
    }
    Ok(())
}

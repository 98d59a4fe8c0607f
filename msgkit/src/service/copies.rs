//! Copies of messages that failed: delayed retries and dead letters. The order is always: copy confirmed, then settle.

use std::time::Duration;

use bytes::Bytes;

use super::control::Control;
use super::health::HealthBoard;
use super::lane::Shared;
use super::plan::{Origin, Plan};
use crate::envelope::{ContentType, DeadLetter, DeadLetterKind, Envelope, MessageId, Retry, Timestamp};
use crate::error::Chain;
use crate::telemetry::EventKind;
use crate::text::Text;
use crate::transport::{Destination, Malformed, Outgoing, Position, Publisher as _};

/// The shortest and the longest pause between two tries to get a copy confirmed.
const PAUSE: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(30));
/// How many tries may fail before the service is not ready any more.
const PATIENCE: u32 = 5;

/// What the failure of one message is known by.
#[derive(Debug)]
pub(crate) struct Failed<'a> {
    pub(crate) kind: DeadLetterKind,
    pub(crate) error: &'a str,
    /// Attempts so far, this one included.
    pub(crate) attempts: u32,
    /// When it failed first.
    pub(crate) first: Timestamp,
    pub(crate) position: Option<&'a Position>,
}

/// A copy that is due after `delay`, to the group that failed and to no other; with the attempts and rounds so far, and
/// when it failed first.
pub(crate) fn retry(
    plan: &Plan,
    envelope: &Envelope,
    (attempts, round, first): (u32, u32, Timestamp),
    delay: Duration,
    now: Timestamp,
) -> Outgoing {
    let mut copy = envelope.clone();
    copy.set_attempt(attempts);
    copy.set_retry(Some(Retry { round, first, last_start: false }));
    copy.set_not_before(Some(now.after(delay)));
    Outgoing::new(plan.retry_destination(delay), copy)
}

/// A copy of a suspect, whose next start is its last and alone; due at once.
pub(crate) fn last_start(plan: &Plan, envelope: &Envelope, now: Timestamp) -> Outgoing {
    let mut copy = envelope.clone();
    let round = envelope.retry().map_or(0, |retry| retry.round);
    let first = envelope.retry().map_or(now, |retry| retry.first);
    copy.set_retry(Some(Retry { round, first, last_start: true }));
    copy.set_not_before(None);
    Outgoing::new(plan.retry_destination(Duration::ZERO), copy)
}

/// The dead letter of `envelope`, payload and headers untouched.
pub(crate) fn dead_letter(
    plan: &Plan,
    envelope: &Envelope,
    failed: &Failed<'_>,
    now: Timestamp,
) -> (Outgoing, DeadLetter) {
    let mut letter = DeadLetter::new(failed.kind, failed.error, now);
    letter.attempts = failed.attempts;
    letter.first = failed.first;
    letter.topic = envelope.topic().text().clone();
    letter.group = plan.identity.group.clone();
    letter.service = plan.identity.service.clone();
    letter.handler = plan.identity.handler.clone();
    letter.position = failed.position.map(|position| Text::from(position.to_string()));
    letter.replays = envelope.dead_letter().map_or(0, |before| before.replays);
    letter.fingerprint();
    let mut copy = envelope.clone();
    copy.set_attempt(failed.attempts);
    copy.set_retry(None);
    copy.set_not_before(None);
    copy.set_dead_letter(Some(letter.clone()));
    (Outgoing::new(Destination::DeadLetter(plan.group.clone()), copy), letter)
}

/// The envelope under which bytes that are none become a dead letter.
pub(crate) fn envelope_of(
    malformed: &Malformed,
    system: &str,
    position: Option<&Position>,
    now: Timestamp,
) -> Envelope {
    let mut envelope = Envelope::new(
        Text::from(system),
        Text::from_static("msgkit.malformed"),
        malformed.topic.clone(),
        ContentType::Other(Text::from_static("application/octet-stream")),
        Bytes::new(),
        now,
    );
    if let Some(position) = position {
        // The same bytes at the same place are the same dead letter, however often they come.
        envelope.set_id(MessageId::derived(&[
            b"malformed",
            system.as_bytes(),
            malformed.topic.as_str().as_bytes(),
            position.to_string().as_bytes(),
        ]));
    }
    envelope.set_payload(malformed.payload.clone());
    envelope.set_key(malformed.key.clone());
    envelope.set_native(malformed.native.clone());
    envelope
}

/// Publishes a copy until the broker has confirmed it; false where `stop` came first, and the original must go back.
///
/// Each try has a deadline of its own, whatever became of the message's. Between two tries there is a pause that grows,
/// so that a broker that is down is not beaten, and the lane does nothing else meanwhile: that is the back-pressure. A copy
/// that its destination will never take (a dead letter above its limit) is tried as well, since no lane may drop it: the
/// service is not ready any more, and says which message and why, until somebody has put it right.
pub(crate) async fn confirm(shared: &Shared, origin: &Origin, copy: &Outgoing, stop: &mut Control) -> bool {
    let Shared { plan, observers, health, .. } = shared;
    let to = match &copy.to {
        Destination::DeadLetter(_) => &origin.dead_letters,
        _ => &origin.from,
    };
    let mut stuck = Stuck { health, thing: None };
    let mut pause = PAUSE.0;
    for tries in 1_u32.. {
        let publishing = to.transport.publish(vec![copy.clone()]);
        let error = match tokio::time::timeout(plan.policy.copy_deadline, publishing).await {
            Ok(Ok(())) => return true,
            Ok(Err(error)) => Chain(&error).to_string(),
            Err(_) => {
                format!("transport `{}` did not confirm within {:?}", to.name, plan.policy.copy_deadline)
            }
        };
        observers.tell(
            Some(&copy.envelope),
            Some(&plan.identity),
            EventKind::CopyFailed { to: &copy.to, error: &error },
        );
        tracing::warn!(
            handler = %plan.identity.handler, message_id = %copy.envelope.id(), destination = %copy.to, error,
            "a copy could not be confirmed; its message stays unsettled and the lane waits {pause:?}"
        );
        if tries >= PATIENCE {
            stuck.tell(plan, copy, &error);
        }
        tokio::select! {
            biased;
            () = stop.draining() => return false,
            () = tokio::time::sleep(pause) => {}
        }
        pause = (pause * 2).min(PAUSE.1);
    }
    false
}

/// A copy that cannot be confirmed, on the board of health for as long as that is so.
struct Stuck<'a> {
    health: &'a HealthBoard,
    thing: Option<Text>,
}

impl Stuck<'_> {
    fn tell(&mut self, plan: &Plan, copy: &Outgoing, error: &str) {
        let thing = self.thing.get_or_insert_with(|| {
            format!("handler {}, message {}", plan.identity.handler, copy.envelope.id()).into()
        });
        self.health.down(thing, &format!("its copy to {} is not confirmed: {error}", copy.to));
    }
}

impl Drop for Stuck<'_> {
    fn drop(&mut self) {
        if let Some(thing) = &self.thing {
            self.health.up(thing);
        }
    }
}

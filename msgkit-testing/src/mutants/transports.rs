//! Broken transports: each a decorator around a right one.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use bytes::Bytes;
use msgkit::envelope::{Headers, NativeHeaders};
use msgkit::transport::{
    Delivery, Destination, Incoming, Outgoing, Start, StartPositions, Subscription, Transport,
    TransportErrorKind,
};
use msgkit::{Group, Pattern};

use super::Mutant;
use super::receiving::{
    DoesNotStop, Doubles, GivesBack, LosesOnCancel, Settles, SettlesAllBefore, SettlesOnReceipt, Shows,
    SkipsMalformed, WaitsForMore, forget_delivery,
};
use super::sending::{
    Batches, Claims, DeclaresNothing, DoesNotClose, Edits, Hides, Renames, Subscribes, Swallows, WaitsForever,
};
use crate::decorate::{Decorate, Decorated};

/// A mutant that is a transport.
struct BrokenTransport {
    name: &'static str,
    mistake: &'static str,
    wrap: fn(Arc<dyn Transport>) -> Arc<dyn Transport>,
}

impl Mutant for BrokenTransport {
    fn name(&self) -> &str {
        self.name
    }

    fn mistake(&self) -> &str {
        self.mistake
    }

    fn transport(&self, transport: Arc<dyn Transport>) -> Arc<dyn Transport> {
        (self.wrap)(transport)
    }
}

fn decorated(inner: Arc<dyn Transport>, with: impl Decorate) -> Arc<dyn Transport> {
    Arc::new(Decorated::new(inner, with))
}

/// One line of the table.
macro_rules! mutant {
    ($name:ident, $mistake:literal, $with:expr) => {
        Box::new(BrokenTransport {
            name: stringify!($name),
            mistake: $mistake,
            wrap: |inner| decorated(inner, $with),
        })
    };
}

pub(super) fn all() -> Vec<Box<dyn Mutant>> {
    vec![
        // Publishing.
        mutant!(forgets_a_message, "confirms every seventh message and forgets it", Batches::new(forget)),
        mutant!(doubles_a_message, "sends every seventh message twice", Batches::new(double)),
        mutant!(reverses_a_batch, "publishes a batch from its end", Batches::new(|_, batch| batch.reverse())),
        mutant!(
            takes_the_head_of_a_batch,
            "sends the first hundred messages of a batch, and confirms all",
            Batches::new(|_, batch| batch.truncate(100))
        ),
        mutant!(
            drops_when_full,
            "drops what a full queue does not take, and confirms it",
            Swallows(TransportErrorKind::Full)
        ),
        mutant!(
            confirms_after_close,
            "takes what is published after close, and drops it",
            Swallows(TransportErrorKind::Closed)
        ),
        mutant!(
            takes_what_nobody_reads,
            "confirms what is to be refused because nobody reads it",
            Swallows(TransportErrorKind::Unrouted)
        ),
        mutant!(
            waits_forever_for_room,
            "publishes into a full queue again and again, without a deadline",
            WaitsForever
        ),
        mutant!(
            says_full_is_permanent,
            "calls a full queue a permanent failure",
            Renames(TransportErrorKind::Full, TransportErrorKind::Refused)
        ),
        mutant!(does_not_close, "ignores close", DoesNotClose),
        // What a message keeps.
        mutant!(
            loses_headers,
            "does not carry headers",
            Edits(|message| *message.envelope.headers_mut() = Headers::new())
        ),
        mutant!(loses_the_key, "does not carry the key", Edits(|message| message.envelope.set_key(None))),
        mutant!(
            loses_the_trace,
            "begins a new trace with each message",
            Edits(|message| message.envelope.set_trace(msgkit::envelope::trace::TraceContext::root(7, 7)))
        ),
        mutant!(
            loses_the_correlation,
            "begins a new flow with each message",
            Edits(|message| {
                let id = message.envelope.id().clone();
                message.envelope.set_correlation_id(id);
            })
        ),
        mutant!(
            gives_new_ids,
            "gives each message an id of its own",
            Edits(|message| message
                .envelope
                .set_id(msgkit::envelope::MessageId::new(msgkit::Timestamp::now())))
        ),
        mutant!(
            loses_null,
            "sends an empty payload for a null one",
            Edits(|message| {
                let payload = Bytes::copy_from_slice(message.envelope.payload());
                message.envelope.set_payload(Some(payload));
            })
        ),
        mutant!(
            makes_null_of_nothing,
            "sends null for an empty payload",
            Edits(|message| {
                if message.envelope.payload().is_empty() {
                    message.envelope.set_payload(None);
                }
            })
        ),
        mutant!(
            takes_payloads_for_text,
            "replaces what is no UTF-8 in a payload",
            Edits(|message| {
                if !message.envelope.is_null() {
                    let text = String::from_utf8_lossy(message.envelope.payload()).into_owned();
                    message.envelope.set_payload(Some(text.into()));
                }
            })
        ),
        mutant!(
            cuts_payloads,
            "cuts payloads at 64 KiB",
            Edits(|message| {
                if message.envelope.payload().len() > 65_536 {
                    let head = Bytes::copy_from_slice(&message.envelope.payload()[..65_536]);
                    message.envelope.set_payload(Some(head));
                }
            })
        ),
        mutant!(
            loses_the_time,
            "sets the time of a message when it is sent",
            Edits(|message| message.envelope.set_time(None))
        ),
        mutant!(
            loses_foreign_headers,
            "keeps no headers of foreign messages",
            Shows(|message, count| {
                let message = match message {
                    Incoming::Malformed(malformed) => {
                        let mut bare = (**malformed).clone();
                        bare.native = NativeHeaders::new();
                        Incoming::Malformed(Box::new(bare))
                    }
                    Incoming::Envelope(envelope) => {
                        let mut bare = envelope.clone();
                        bare.set_native(NativeHeaders::new());
                        Incoming::Envelope(bare)
                    }
                };
                (message, count)
            })
        ),
        mutant!(
            skips_what_it_cannot_read,
            "settles messages that are no envelope, without a word",
            SkipsMalformed
        ),
        // Groups and subscriptions.
        mutant!(
            makes_each_member_a_group,
            "gives everything to every member of a group",
            Subscribes::new(|subscription, turn| {
                if let (Some(group), None) = (&subscription.group, subscription.retry_step) {
                    subscription.group = Group::new(format!("{group}-{turn}")).ok();
                }
            })
        ),
        mutant!(
            knows_one_group,
            "has one queue for all groups",
            Subscribes::new(|subscription, _| {
                if subscription.group.is_some() {
                    subscription.group = Group::new("all").ok();
                }
            })
        ),
        mutant!(
            keeps_ephemeral_subscriptions,
            "makes a group of a subscription that should go with its instance",
            Subscribes::new(|subscription, _| {
                if subscription.group.is_none() {
                    subscription.group = Group::new("tail").ok();
                }
            })
        ),
        mutant!(declares_nothing, "makes a group only when somebody subscribes", DeclaresNothing),
        mutant!(
            takes_a_rest_for_one_segment,
            "matches one segment where `>` matches several",
            Subscribes::new(|subscription, _| {
                edit_patterns(subscription, |pattern| {
                    pattern.strip_suffix(".>").map(|head| format!("{head}.*"))
                });
            })
        ),
        mutant!(
            takes_one_segment_for_a_rest,
            "matches several segments where `*` at the end matches one",
            Subscribes::new(|subscription, _| {
                edit_patterns(subscription, |pattern| {
                    pattern.strip_suffix(".*").map(|head| format!("{head}.>"))
                });
            })
        ),
        mutant!(
            reads_its_first_pattern,
            "subscribes to the first of several patterns",
            Subscribes::new(|subscription, _| subscription.patterns.truncate(1))
        ),
        mutant!(
            always_starts_at_the_latest,
            "ignores where a new group is to begin",
            Subscribes::new(|subscription, _| subscription.start = Start::Latest)
        ),
        mutant!(
            claims_a_start_at_the_earliest,
            "claims starts that it refuses",
            Claims(|can| can.start = StartPositions::new(true, true))
        ),
        mutant!(
            disclaims_groups,
            "says that it has no groups, and takes them all the same",
            Claims(|can| can.groups = false)
        ),
        mutant!(
            disclaims_ephemeral,
            "says that it has no ephemeral subscriptions, and takes them all the same",
            Claims(|can| can.ephemeral = false)
        ),
        mutant!(hides_from_operators, "claims that lag can be asked, and answers nobody", Hides),
        // Settlement.
        mutant!(settles_on_receipt, "settles a message when it hands it out", SettlesOnReceipt),
        mutant!(never_settles, "keeps settlements to itself", Settles(forget_delivery)),
        mutant!(settles_what_is_given_back, "settles what is given back", GivesBack(Delivery::ack)),
        mutant!(
            keeps_what_is_given_back,
            "does not hand out again what is given back",
            GivesBack(forget_delivery)
        ),
        mutant!(
            settles_all_before,
            "settles everything that was handed out before with each message",
            SettlesAllBefore
        ),
        mutant!(
            fetches_without_end,
            "ignores how much may be in hand",
            Subscribes::new(|subscription, _| subscription.prefetch = 100_000)
        ),
        mutant!(
            counts_no_starts,
            "claims to count starts, and says 1 each time",
            Shows(|message, _| (message.clone(), 1))
        ),
        mutant!(loses_on_cancel, "loses what it has fetched when a receive is dropped", LosesOnCancel),
        mutant!(waits_for_more, "hands out nothing until there are ten messages", WaitsForMore),
        mutant!(does_not_stop, "fetches after stop", DoesNotStop),
        // Copies.
        mutant!(
            retries_to_everybody,
            "sends retry copies to the topic, and so to all groups",
            Edits(|message| {
                if let Destination::Retry { .. } = message.to {
                    message.to = Destination::topic(message.envelope.topic().clone());
                }
            })
        ),
        mutant!(
            ignores_delays,
            "hands out at once what is due later",
            Edits(|message| message.envelope.set_not_before(None))
        ),
        mutant!(
            has_one_delay_step,
            "has one place for all delay steps, as long as the longest",
            Edits(|message| {
                if let Destination::Retry { step, .. } = &mut message.to {
                    *step = 1;
                    if let Some(due) = message.envelope.not_before() {
                        message.envelope.set_not_before(Some(due.after(Duration::from_secs(60))));
                    }
                }
            })
        ),
        mutant!(
            forgets_retry_copies,
            "confirms retry copies and forgets them",
            Batches::new(|_, batch| {
                batch.retain(|message| !matches!(message.to, Destination::Retry { .. }));
            })
        ),
        mutant!(
            forgets_dead_letters,
            "confirms dead letters and forgets them",
            Batches::new(|_, batch| {
                batch.retain(|message| !matches!(message.to, Destination::DeadLetter(_)));
            })
        ),
        mutant!(
            strips_dead_letters,
            "keeps a dead letter without its reasons",
            Edits(|message| message.envelope.set_dead_letter(None))
        ),
        mutant!(
            loses_attempts,
            "does not carry the attempts on copies",
            Edits(|message| message.envelope.set_attempt(0))
        ),
        mutant!(delivers_twice, "hands out every fifth message a second time", Doubles::default()),
    ]
}

fn edit_patterns(subscription: &mut Subscription, edit: impl Fn(&str) -> Option<String>) {
    for pattern in &mut subscription.patterns {
        if let Some(Ok(edited)) = edit(pattern.as_str()).map(|edited| edited.parse::<Pattern>()) {
            *pattern = edited;
        }
    }
}

fn forget(turn: &AtomicU32, batch: &mut Vec<Outgoing>) {
    batch.retain(|_| turn.fetch_add(1, Ordering::SeqCst) % 7 != 6);
}

fn double(turn: &AtomicU32, batch: &mut Vec<Outgoing>) {
    let doubled = std::mem::take(batch);
    for message in doubled {
        if turn.fetch_add(1, Ordering::SeqCst) % 7 == 6 {
            batch.push(message.clone());
        }
        batch.push(message);
    }
}

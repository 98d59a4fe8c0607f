//! What becomes of messages whose handling fails.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bytes::Bytes;
use msgkit::HandlerError;
use msgkit::envelope::DeadLetterKind;
use msgkit::policy::Unhandled;
use msgkit::transport::{Delay, Destination, Outgoing};

use super::case;
use super::letters::{Letters, kinds, nobody_is_dead};
use super::support::{Calls, Gate, drain, failing, noting, odd_headers, policy, publish, run, until_idle};
use crate::conformance::bench::{Bench, group_of, topic_of};
use crate::conformance::pipeline::{JobHandler, envelope_of};
use crate::conformance::probe::{Other, Probe};
use crate::conformance::{Case, Fault, Proof};

pub(super) const CHAPTER: &str = "Failure (promises 1 to 3)";

pub(super) const CASES: &[Case] = &[
    case!(
        CHAPTER,
        attempts_are_counted_across_copies,
        "Attempts are counted across retry copies, and the cap fires exactly once"
    ),
    case!(CHAPTER, a_success_ends_the_retries, "A retry that succeeds is the last one"),
    case!(
        CHAPTER,
        a_delayed_retry_is_never_early_for_the_handler,
        "No handler sees a delayed retry before it is due"
    ),
    case!(CHAPTER, a_failing_message_holds_up_nobody, "A message that waits for its retry holds up no other"),
    case!(CHAPTER, retry_after_is_kept, "`retry_after` is kept though the policy's delays are shorter"),
    case!(
        CHAPTER,
        fewer_delay_steps_leave_nothing_behind,
        "Retry copies in delay steps that a newer policy no longer has reach their group"
    ),
    case!(
        CHAPTER,
        a_permanent_error_is_dead_lettered_at_once,
        "A permanent error is dead-lettered at the first attempt"
    ),
    case!(CHAPTER, a_discarded_message_is_settled, "A discarded message is settled, and is no dead letter"),
    case!(
        CHAPTER,
        what_cannot_be_decoded_is_dead_lettered_untouched,
        "A payload that cannot be decoded is dead-lettered with its bytes and headers"
    ),
    case!(
        CHAPTER,
        foreign_bytes_are_dead_lettered_untouched,
        "Bytes that are no envelope are dead-lettered with everything they came with"
    ),
    case!(CHAPTER, a_panic_is_a_failure_of_one_message, "A handler that panics fails its message alone"),
    case!(
        CHAPTER,
        a_timeout_is_a_failure_of_one_message,
        "A handler that takes too long fails its message alone"
    ),
    case!(CHAPTER, an_expired_message_is_not_handled, "A message past its expiry is dead-lettered unhandled"),
    case!(
        CHAPTER,
        a_type_without_a_handler_is_skipped,
        "A message of a type that the handler does not take is skipped"
    ),
    case!(
        CHAPTER,
        a_type_without_a_handler_can_be_dead_lettered,
        "`unhandled = dead_letter` keeps a message of a type that the handler does not take"
    ),
];

/// Longer than every delay that the policies of these cases have.
pub(super) async fn a_while(bench: &Bench<'_>) {
    tokio::time::sleep(bench.time().tick() * 4).await;
}

async fn attempts_are_counted_across_copies(bench: &Bench<'_>) -> Proof {
    let transport = bench.connect().await;
    let kept = match Letters::of(bench, &transport) {
        Ok(kept) => kept,
        Err(absent) => return absent,
    };
    let calls = Calls::default();
    let running = run(bench, [failing("g", policy(bench, 1, 2), &calls, u32::MAX)]).await;
    publish(bench, &*running, [7]).await;
    let letters = kept.until(bench, "g", 1).await;
    a_while(bench).await;
    let attempts: Vec<u32> = calls.all().iter().map(|call| call.attempt).collect();
    assert_eq!(attempts, [1, 2, 3, 4, 5, 6], "two at once, and that for two delayed rounds again");
    assert_eq!(kinds(&letters), [DeadLetterKind::Handler]);
    assert_eq!(letters[0].dead_letter().map(|facts| facts.attempts), Some(6));
    assert_eq!(kept.all("g").await.len(), 1, "once");
    until_idle(bench, &*transport, "g").await;
    drain(bench, running).await;
    kept.proof()
}

async fn a_success_ends_the_retries(bench: &Bench<'_>) -> Proof {
    let transport = bench.connect().await;
    let calls = Calls::default();
    let running = run(bench, [failing("g", policy(bench, 1, 2), &calls, 3)]).await;
    publish(bench, &*running, [7]).await;
    bench.until("the fourth attempt", || calls.len() >= 4).await;
    until_idle(bench, &*transport, "g").await;
    a_while(bench).await;
    assert_eq!(calls.len(), 4, "no attempt after the one that succeeded");
    nobody_is_dead(bench, &transport, "g").await;
    drain(bench, running).await;
    Proof::Proven
}

/// A handler that notes when it was called.
fn timed(
    bench: &Bench<'_>,
    policy: msgkit::Policy,
    calls: &Calls,
    error: impl Fn() -> HandlerError + Send + Sync + 'static,
) -> (JobHandler, Arc<std::sync::Mutex<Vec<msgkit::Timestamp>>>) {
    let times: Arc<std::sync::Mutex<Vec<msgkit::Timestamp>>> = Arc::default();
    let (log, calls, clock) = (times.clone(), calls.clone(), bench.clock());
    let handler = JobHandler::new("g", policy, move |call| {
        calls.push(call);
        log.lock().unwrap_or_else(std::sync::PoisonError::into_inner).push(clock.now());
        let error = error();
        async move { Err::<(), _>(error) }
    });
    (handler, times)
}

async fn a_delayed_retry_is_never_early_for_the_handler(bench: &Bench<'_>) -> Proof {
    let calls = Calls::default();
    let policy = policy(bench, 0, 2);
    let delays: Vec<Duration> = policy.delayed.iter().flat_map(msgkit::policy::Delayed::steps).collect();
    let (handler, times) = timed(bench, policy, &calls, || "not yet".into());
    let running = run(bench, [handler]).await;
    publish(bench, &*running, [1]).await;
    bench.until("three attempts", || calls.len() >= 3).await;
    let times = times.lock().unwrap_or_else(std::sync::PoisonError::into_inner).clone();
    for (pair, delay) in times.windows(2).zip(delays) {
        let waited = pair[1].since(pair[0]);
        assert!(waited >= delay, "a retry due after {delay:?} came after {waited:?}");
    }
    drain(bench, running).await;
    Proof::Proven
}

async fn a_failing_message_holds_up_nobody(bench: &Bench<'_>) -> Proof {
    let calls = Calls::default();
    let (log, failed) = (calls.clone(), Arc::new(AtomicBool::new(false)));
    let all_there = Gate::default();
    let gate = all_there.clone();
    let handler = JobHandler::new("g", policy(bench, 0, 1), move |call| {
        let fails = call.n == 0 && !failed.swap(true, Ordering::SeqCst);
        log.push(call);
        let gate = gate.clone();
        async move {
            if fails {
                gate.passed().await;
                return Err(HandlerError::retry("once"));
            }
            Ok(())
        }
    });
    let running = run(bench, [handler]).await;
    let probes = (0..6).map(|n| Outgoing::to_topic(envelope_of(&Probe::new(n, "k"), bench.clock())));
    bench.publish_all(&*bench.connect().await, probes.collect()).await;
    // However long publishing took, the last one is there long before the retry is due.
    all_there.open();
    bench.until("all of them", || calls.len() >= 7).await;
    assert_eq!(calls.numbers(), [0, 1, 2, 3, 4, 5, 0]);
    drain(bench, running).await;
    Proof::Proven
}

async fn retry_after_is_kept(bench: &Bench<'_>) -> Proof {
    let calls = Calls::default();
    let after = bench.time().tick() * 3;
    let (handler, times) =
        timed(bench, policy(bench, 3, 2), &calls, move || HandlerError::retry_after("busy", after));
    let running = run(bench, [handler]).await;
    publish(bench, &*running, [1]).await;
    bench.until("two attempts", || calls.len() >= 2).await;
    let times = times.lock().unwrap_or_else(std::sync::PoisonError::into_inner).clone();
    let waited = times[1].since(times[0]);
    assert!(waited >= after, "asked for {after:?}, came after {waited:?}");
    drain(bench, running).await;
    Proof::Proven
}

async fn fewer_delay_steps_leave_nothing_behind(bench: &Bench<'_>) -> Proof {
    let transport = bench.connect().await;
    let failed = Calls::default();
    let older = run(bench, [failing("g", policy(bench, 0, 3), &failed, u32::MAX)]).await;
    publish(bench, &*older, [7]).await;
    bench.until("the third attempt", || failed.len() >= 3).await;
    drain(bench, older).await;
    if transport.capabilities().delay == Delay::RetryTopics {
        let last = Destination::Retry { group: group_of("g"), step: 3, delay: bench.time().tick() };
        let told = match transport.operate() {
            Some(operate) => {
                bench.soon("the depth of a step", operate.depth(&last)).await.unwrap_or_default()
            }
            None => None,
        };
        if told.is_none() {
            return Proof::absent(
                "it does not tell what lies in a delay step; end the copies before the steps",
            );
        }
    }
    let calls = Calls::default();
    let newer = run(bench, [noting("g", policy(bench, 0, 1), &calls)]).await;
    bench.until("the copy of the older policy", || calls.len() >= 1).await;
    a_while(bench).await;
    assert_eq!(calls.numbers(), [7]);
    until_idle(bench, &*transport, "g").await;
    drain(bench, newer).await;
    Proof::Proven
}

async fn a_permanent_error_is_dead_lettered_at_once(bench: &Bench<'_>) -> Proof {
    let transport = bench.connect().await;
    let kept = match Letters::of(bench, &transport) {
        Ok(kept) => kept,
        Err(absent) => return absent,
    };
    let calls = Calls::default();
    let (handler, _) = timed(bench, policy(bench, 3, 3), &calls, || HandlerError::permanent("no such order"));
    let running = run(bench, [handler]).await;
    publish(bench, &*running, [1]).await;
    let letters = kept.until(bench, "g", 1).await;
    a_while(bench).await;
    assert_eq!(calls.len(), 1);
    assert_eq!(kinds(&letters), [DeadLetterKind::Rejected]);
    drain(bench, running).await;
    kept.proof()
}

async fn a_discarded_message_is_settled(bench: &Bench<'_>) -> Proof {
    let transport = bench.connect().await;
    let calls = Calls::default();
    let (handler, _) = timed(bench, policy(bench, 3, 3), &calls, || HandlerError::discard("test data"));
    let running = run(bench, [handler]).await;
    publish(bench, &*running, 0..3).await;
    bench.until("all of them", || calls.len() >= 3).await;
    until_idle(bench, &*transport, "g").await;
    a_while(bench).await;
    assert_eq!(calls.numbers(), [0, 1, 2]);
    nobody_is_dead(bench, &transport, "g").await;
    drain(bench, running).await;
    Proof::Proven
}

async fn what_cannot_be_decoded_is_dead_lettered_untouched(bench: &Bench<'_>) -> Proof {
    let transport = bench.connect().await;
    let kept = match Letters::of(bench, &transport) {
        Ok(kept) => kept,
        Err(absent) => return absent,
    };
    let calls = Calls::default();
    let running = run(bench, [noting("g", policy(bench, 3, 3), &calls)]).await;
    let mut broken = envelope_of(&Probe::new(1, "k"), bench.clock());
    broken.set_payload(Some(Bytes::from_static(b"{\"n\": 1, \"key\":\xff")));
    let inserted = "tenant".try_into().map(|name| broken.headers_mut().insert(name, "t1"));
    assert!(matches!(inserted, Ok(Ok(_))));
    let published = bench.soon("publish", running.publish_envelope(broken.clone())).await;
    assert!(published.is_ok(), "{published:?}");
    publish(bench, &*running, [2]).await;
    let letters = kept.until(bench, "g", 1).await;
    assert_eq!(kinds(&letters), [DeadLetterKind::Decode]);
    assert_eq!((letters[0].payload(), letters[0].id()), (broken.payload(), broken.id()));
    assert_eq!(letters[0].headers(), broken.headers());
    bench.until("the next message", || calls.len() >= 1).await;
    a_while(bench).await;
    assert_eq!(calls.numbers(), [2]);
    drain(bench, running).await;
    kept.proof()
}

async fn foreign_bytes_are_dead_lettered_untouched(bench: &Bench<'_>) -> Proof {
    let (transport, can) = bench.start().await;
    let kept = match Letters::of(bench, &transport) {
        Ok(kept) => kept,
        Err(absent) => return absent,
    };
    let calls = Calls::default();
    let running = run(bench, [noting("g", policy(bench, 3, 3), &calls)]).await;
    let payload = Bytes::from_static(b"\xff\x00not an envelope");
    let headers = odd_headers();
    let topic = topic_of("conformance.probes");
    if let Fault::Impossible(why) =
        bench.broker().await.publish_foreign(&topic, payload.clone(), &headers).await
    {
        return Proof::not_proven(why);
    }
    publish(bench, &*running, [2]).await;
    let letters = kept.until(bench, "g", 1).await;
    assert_eq!(kinds(&letters), [DeadLetterKind::Decode]);
    assert_eq!(letters[0].payload(), payload);
    assert_eq!(letters[0].dead_letter().map(|facts| facts.topic.as_str()), Some("conformance.probes"));
    if can.native_headers {
        assert_eq!(letters[0].native(), &headers);
    }
    bench.until("the next message", || calls.len() >= 1).await;
    drain(bench, running).await;
    kept.proof()
}

async fn a_panic_is_a_failure_of_one_message(bench: &Bench<'_>) -> Proof {
    let transport = bench.connect().await;
    let kept = match Letters::of(bench, &transport) {
        Ok(kept) => kept,
        Err(absent) => return absent,
    };
    let calls = Calls::default();
    let log = calls.clone();
    let handler = JobHandler::new("g", policy(bench, 1, 0), move |call| {
        let n = call.n;
        log.push(call);
        async move {
            assert!(n != 1, "number {n} is refused by a panic");
            Ok::<_, HandlerError>(())
        }
    });
    let running = run(bench, [handler]).await;
    publish(bench, &*running, 0..3).await;
    let letters = kept.until(bench, "g", 1).await;
    bench.until("the others", || calls.len() >= 4).await;
    assert_eq!(calls.numbers(), [0, 1, 1, 2]);
    assert_eq!(kinds(&letters), [DeadLetterKind::Panic]);
    let error = letters[0].dead_letter().map(|facts| facts.error.as_str().to_owned()).unwrap_or_default();
    assert!(error.contains("number 1 is refused"), "the dead letter has the panic's words: {error}");
    drain(bench, running).await;
    kept.proof()
}

async fn a_timeout_is_a_failure_of_one_message(bench: &Bench<'_>) -> Proof {
    let transport = bench.connect().await;
    let kept = match Letters::of(bench, &transport) {
        Ok(kept) => kept,
        Err(absent) => return absent,
    };
    let calls = Calls::default();
    let log = calls.clone();
    let mut policy = policy(bench, 0, 0);
    policy.timeout = bench.time().tick();
    let handler = JobHandler::new("g", policy, move |call| {
        let n = call.n;
        log.push(call);
        async move {
            if n == 1 {
                std::future::pending::<()>().await;
            }
            Ok::<_, HandlerError>(())
        }
    });
    let running = run(bench, [handler]).await;
    publish(bench, &*running, 0..3).await;
    let letters = kept.until(bench, "g", 1).await;
    bench.until("the others", || calls.len() >= 3).await;
    assert_eq!(calls.numbers(), [0, 1, 2]);
    assert_eq!(kinds(&letters), [DeadLetterKind::Timeout]);
    drain(bench, running).await;
    kept.proof()
}

async fn an_expired_message_is_not_handled(bench: &Bench<'_>) -> Proof {
    let transport = bench.connect().await;
    let kept = match Letters::of(bench, &transport) {
        Ok(kept) => kept,
        Err(absent) => return absent,
    };
    let calls = Calls::default();
    let running = run(bench, [noting("g", policy(bench, 3, 3), &calls)]).await;
    let mut late = envelope_of(&Probe::new(1, "k"), bench.clock());
    late.set_expires(Some(bench.clock().now()));
    let mut early = envelope_of(&Probe::new(2, "k"), bench.clock());
    early.set_expires(Some(bench.clock().now().after(Duration::from_secs(86_400))));
    for envelope in [late, early] {
        let published = bench.soon("publish", running.publish_envelope(envelope)).await;
        assert!(published.is_ok(), "{published:?}");
    }
    let letters = kept.until(bench, "g", 1).await;
    assert_eq!(kinds(&letters), [DeadLetterKind::Expired]);
    bench.until("the one in time", || calls.len() >= 1).await;
    assert_eq!(calls.numbers(), [2]);
    drain(bench, running).await;
    kept.proof()
}

/// Publishes an `Other` between two probes.
async fn with_an_other(bench: &Bench<'_>, running: &dyn crate::conformance::RunningPipeline) {
    publish(bench, running, [1]).await;
    let other = envelope_of(&Other { n: 9, key: "k".to_owned() }, bench.clock());
    let published = bench.soon("publish", running.publish_envelope(other)).await;
    assert!(published.is_ok(), "{published:?}");
    publish(bench, running, [2]).await;
}

async fn a_type_without_a_handler_is_skipped(bench: &Bench<'_>) -> Proof {
    let transport = bench.connect().await;
    let calls = Calls::default();
    let running = run(bench, [noting("g", policy(bench, 3, 3), &calls)]).await;
    with_an_other(bench, &*running).await;
    bench.until("the probes", || calls.len() >= 2).await;
    until_idle(bench, &*transport, "g").await;
    assert_eq!(calls.numbers(), [1, 2]);
    nobody_is_dead(bench, &transport, "g").await;
    drain(bench, running).await;
    Proof::Proven
}

async fn a_type_without_a_handler_can_be_dead_lettered(bench: &Bench<'_>) -> Proof {
    let transport = bench.connect().await;
    let kept = match Letters::of(bench, &transport) {
        Ok(kept) => kept,
        Err(absent) => return absent,
    };
    let calls = Calls::default();
    let mut policy = policy(bench, 3, 3);
    policy.unhandled = Unhandled::DeadLetter;
    let running = run(bench, [noting("g", policy, &calls)]).await;
    with_an_other(bench, &*running).await;
    let letters = kept.until(bench, "g", 1).await;
    bench.until("the probes", || calls.len() >= 2).await;
    assert_eq!(calls.numbers(), [1, 2]);
    assert_eq!(kinds(&letters), [DeadLetterKind::Rejected]);
    assert_eq!(letters[0].kind(), "conformance.other");
    drain(bench, running).await;
    kept.proof()
}

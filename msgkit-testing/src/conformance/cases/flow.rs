//! What handlers publish, and in which order messages reach them.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use msgkit::policy::{OnFailure, Order};
use msgkit::transport::{Delivery, KeyOrder, Outgoing, Transport};
use msgkit::{Envelope, HandlerError};

use super::case;
use super::letters::{Letters, nobody_is_dead};
use super::support::{
    Calls, Gate, Refuses, Which, drain, job, noting, policy, publish, run, start, until_idle,
};
use crate::conformance::bench::{Bench, Reader};
use crate::conformance::pipeline::{Answer, Job, JobHandler, Takes, envelope_of};
use crate::conformance::probe::{Other, Probe, Said};
use crate::conformance::{Case, Proof};
use crate::decorate::{Decorate, Decorated};

const CHAPTER: &str = "Flow (promises 6 to 8)";

pub(super) const CASES: &[Case] = &[
    case!(
        CHAPTER,
        what_is_published_carries_its_cause,
        "What a handler publishes carries correlation, cause, hop and trace of the message it follows from"
    ),
    case!(
        CHAPTER,
        a_failing_attempt_publishes_nothing,
        "An attempt that fails publishes nothing of what it wanted to"
    ),
    case!(
        CHAPTER,
        a_redelivered_message_publishes_the_same_ids,
        "A message that is handled twice publishes messages of the same ids"
    ),
    case!(
        CHAPTER,
        an_id_belongs_to_what_it_names,
        "A second run that publishes less gives no message the id of another"
    ),
    case!(
        CHAPTER,
        what_cannot_be_published_keeps_its_cause,
        "While what a handler published is refused, the message that it follows from stays"
    ),
    case!(
        CHAPTER,
        keyed_messages_keep_their_order_over_lanes,
        "Concurrent lanes keep the messages of each key in order"
    ),
    case!(
        CHAPTER,
        several_types_of_a_key_keep_one_order,
        "Messages of several types with one key keep one order"
    ),
    case!(
        CHAPTER,
        a_key_that_overtakes_goes_on,
        "`overtake`: later messages of a key go on while one waits for its retry, in their order"
    ),
    case!(
        CHAPTER,
        a_key_that_holds_waits,
        "`hold`: later messages of a key wait for the retries of the one that fails"
    ),
    case!(
        CHAPTER,
        a_held_key_ends_with_its_dead_letter,
        "`hold`: a key goes on once its failing message is dead-lettered"
    ),
    case!(
        CHAPTER,
        a_batch_is_bounded,
        "A batch is never larger than it may be, and no message waits in it for longer than it may"
    ),
    case!(
        CHAPTER,
        a_scheduled_message_is_not_handled_early,
        "A message published for later is not handled before"
    ),
    case!(CHAPTER, several_groups_get_everything, "Each group handles every message once"),
];

/// The next `count` messages that handlers have said.
async fn heard(reader: &mut Reader, count: usize) -> Vec<Envelope> {
    let mut heard = Vec::new();
    for delivery in reader.take(count).await {
        match delivery.message().envelope() {
            Some(envelope) => heard.push(envelope.clone()),
            None => panic!("it came malformed: {delivery:?}"),
        }
        delivery.ack();
    }
    heard
}

fn said_by(envelope: &Envelope) -> u32 {
    match serde_json::from_slice::<Said>(envelope.payload()) {
        Ok(said) => said.n,
        Err(error) => panic!("what came is not what was said: {error}"),
    }
}

/// A handler that says `says(call)`.
fn saying(
    name: &'static str,
    policy: msgkit::Policy,
    says: impl Fn(u32) -> Vec<u32> + Send + Sync + 'static,
) -> JobHandler {
    JobHandler::new(name, policy, move |call| {
        let said = says(call.n).into_iter().map(|n| Said { n }).collect::<Vec<_>>();
        async move { Ok::<_, HandlerError>(said) }
    })
}

async fn what_is_published_carries_its_cause(bench: &Bench<'_>) -> Proof {
    let transport = bench.connect().await;
    let mut listener = bench.group(&*transport, "listener", "conformance.said").await;
    let running = run(bench, [saying("g", policy(bench, 0, 0), |n| vec![n, n + 10])]).await;
    let mut sent = envelope_of(&Probe::new(1, "k"), bench.clock());
    sent.set_cause(&bench.envelope("a.cause", "the cause"));
    let published = bench.soon("publish", running.publish_envelope(sent.clone())).await;
    assert!(published.is_ok(), "{published:?}");
    let mut both = heard(&mut listener, 2).await;
    // They have different keys, so no order among them is promised.
    both.sort_by_key(said_by);
    assert_eq!(both.iter().map(said_by).collect::<Vec<_>>(), [1, 11]);
    for said in &both {
        assert_eq!(said.correlation_id(), sent.correlation_id());
        assert_eq!(said.causation_id(), Some(sent.id()));
        assert_eq!(said.hop(), sent.hop() + 1);
        assert_eq!(said.trace().parent.trace_id(), sent.trace().parent.trace_id());
        assert_ne!(said.trace().parent, sent.trace().parent, "it has a span of its own");
        assert_eq!(said.source(), "conformance");
        assert_ne!(said.id(), sent.id());
    }
    assert_ne!(both[0].id(), both[1].id());
    drain(bench, running).await;
    Proof::Proven
}

async fn a_failing_attempt_publishes_nothing(bench: &Bench<'_>) -> Proof {
    let transport = bench.connect().await;
    let mut listener = bench.group(&*transport, "listener", "conformance.said").await;
    let calls = Calls::default();
    let log = calls.clone();
    let handler = JobHandler::new("g", policy(bench, 1, 1), move |call| {
        let (n, attempt) = (call.n, call.attempt);
        log.push(call);
        async move {
            let result = if attempt < 4 { Err(HandlerError::retry("not yet")) } else { Ok(()) };
            Answer::new(vec![Said { n: n * 100 + attempt }], result)
        }
    });
    let running = run(bench, [handler]).await;
    publish(bench, &*running, [1]).await;
    assert_eq!(said_by(&heard(&mut listener, 1).await[0]), 104, "the successful attempt's alone");
    listener.nothing("the others have failed").await;
    drain(bench, running).await;
    Proof::Proven
}

/// Gives back instead of settling, the first time that each message is settled.
#[derive(Debug, Default)]
struct ForgetsOnce(std::sync::Mutex<HashSet<String>>);

#[async_trait]
impl Decorate for ForgetsOnce {
    fn settle(&self, delivery: Delivery) {
        let id = delivery.message().envelope().map(|envelope| envelope.id().to_string()).unwrap_or_default();
        let first = self.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner).insert(id);
        if first { delivery.give_back() } else { delivery.ack() }
    }
}

/// A job on a transport that forgets each settlement once, as a broker does whose connection broke just then.
async fn forgetful(bench: &Bench<'_>, handler: JobHandler) -> Result<Job, Proof> {
    let mut job = job(bench, [handler]).await;
    if !job.transport.capabilities().nack {
        return Err(Proof::not_proven("what is given back comes again on the next connection only"));
    }
    let transport: Arc<dyn Transport> =
        Arc::new(Decorated::new(job.transport.clone(), ForgetsOnce::default()));
    job.transport = transport;
    Ok(job)
}

async fn a_redelivered_message_publishes_the_same_ids(bench: &Bench<'_>) -> Proof {
    let transport = bench.connect().await;
    let mut listener = bench.group(&*transport, "listener", "conformance.said").await;
    // Two of one type, topic and key, and one of another key.
    let job = match forgetful(bench, saying("g", policy(bench, 0, 0), |n| vec![n, n, n + 10])).await {
        Ok(job) => job,
        Err(why) => return why,
    };
    let running = start(bench, job).await;
    publish(bench, &*running, [1, 2]).await;
    let mut ids: BTreeMap<u32, Vec<String>> = BTreeMap::new();
    for said in heard(&mut listener, 12).await {
        ids.entry(said_by(&said)).or_default().push(said.id().to_string());
    }
    listener.nothing("each was handled twice, and not more often").await;
    for (n, ids) in &ids {
        let distinct: BTreeSet<&String> = ids.iter().collect();
        let expected = if *n < 10 { (4, 2) } else { (2, 1) };
        assert_eq!((ids.len(), distinct.len()), expected, "what was said of {n}: {ids:?}");
    }
    let all: BTreeSet<&String> = ids.values().flatten().collect();
    assert_eq!(all.len(), 6, "no two messages share an id");
    drain(bench, running).await;
    Proof::Proven
}

async fn an_id_belongs_to_what_it_names(bench: &Bench<'_>) -> Proof {
    let transport = bench.connect().await;
    let mut listener = bench.group(&*transport, "listener", "conformance.said").await;
    let runs = AtomicU32::new(0);
    // The first run says 5, 6, 7; the second only 7.
    let says = move |_| if runs.fetch_add(1, Ordering::SeqCst) == 0 { vec![5, 6, 7] } else { vec![7] };
    let job = match forgetful(bench, saying("g", policy(bench, 0, 0), says)).await {
        Ok(job) => job,
        Err(why) => return why,
    };
    let running = start(bench, job).await;
    publish(bench, &*running, [1]).await;
    let mut all = heard(&mut listener, 4).await;
    // They have no key in common, so no order either.
    all.sort_by_key(said_by);
    assert_eq!(all.iter().map(said_by).collect::<Vec<_>>(), [5, 6, 7, 7]);
    assert_eq!(all[2].id(), all[3].id(), "the 7 of both runs is one message");
    assert!(all[..2].iter().all(|said| said.id() != all[3].id()));
    drain(bench, running).await;
    Proof::Proven
}

async fn what_cannot_be_published_keeps_its_cause(bench: &Bench<'_>) -> Proof {
    let transport = bench.connect().await;
    let mut listener = bench.group(&*transport, "listener", "conformance.said").await;
    let mut job = job(bench, [saying("g", policy(bench, 1, 2), |n| vec![n])]).await;
    let (decorated, refuses) = Refuses::around(job.transport.clone(), Which::Topics, u32::MAX);
    job.transport = decorated;
    let running = start(bench, job).await;
    // By another connection, whose publishes are not refused.
    let probes = (0..3).map(|n| Outgoing::to_topic(envelope_of(&Probe::new(n, "k"), bench.clock())));
    bench.publish_all(&*transport, probes.collect()).await;
    bench.until("a refused publish", || refuses.refused() >= 1).await;
    listener.nothing("what they say is refused").await;
    refuses.allow();
    let mut numbers: BTreeSet<u32> = BTreeSet::new();
    bench
        .soon("all is said", async {
            while numbers.len() < 3 {
                numbers.insert(said_by(&heard(&mut listener, 1).await[0]));
            }
        })
        .await;
    until_idle(bench, &*transport, "g").await;
    nobody_is_dead(bench, &transport, "g").await;
    drain(bench, running).await;
    Proof::Proven
}

/// Numbers `0..each` of `keys` keys, in turn, as one batch.
async fn publish_keys(bench: &Bench<'_>, keys: u32, each: u32) {
    let numbers = (0..each).flat_map(|n| (0..keys).map(move |key| (n, key)));
    let probes = numbers.map(|(n, key)| Probe::new(n, format!("key {key}")));
    let batch = probes.map(|probe| Outgoing::to_topic(envelope_of(&probe, bench.clock()))).collect();
    bench.publish_all(&*bench.connect().await, batch).await;
}

/// Numbers of `key` in the order of their calls.
fn of_key(calls: &Calls, key: u32) -> Vec<u32> {
    let key = format!("key {key}");
    calls.all().iter().filter(|call| call.key == key).map(|call| call.n).collect()
}

/// A handler that notes what it has done after a moment of another length each time, and fails number `bad` of key 0 for
/// `times` attempts, which wait for `gate`: opened when all are published, it sees to it that however long publishing takes,
/// all are there before a delayed retry is due.
fn jittery(policy: msgkit::Policy, calls: &Calls, bad: u32, times: u32, gate: &Gate) -> JobHandler {
    let (log, turn, gate) = (calls.clone(), AtomicU32::new(7), gate.clone());
    JobHandler::new("g", policy, move |call| {
        let (log, gate) = (log.clone(), gate.clone());
        let turn = turn.fetch_add(5, Ordering::SeqCst);
        async move {
            tokio::time::sleep(Duration::from_millis(u64::from(turn % 4))).await;
            if call.n == bad && call.key == "key 0" && call.attempt <= times {
                gate.passed().await;
                return Err(HandlerError::retry("not yet"));
            }
            log.push(call);
            Ok(())
        }
    })
}

async fn keyed_messages_keep_their_order_over_lanes(bench: &Bench<'_>) -> Proof {
    let (_, can) = bench.start().await;
    if can.key_order == KeyOrder::None {
        return Proof::absent("no order by key");
    }
    let calls = Calls::default();
    let mut policy = policy(bench, 0, 1);
    (policy.order, policy.concurrency) = (Order::Key(OnFailure::Overtake), 4);
    let running = run(bench, [jittery(policy, &calls, u32::MAX, 0, &Gate::default())]).await;
    publish_keys(bench, 7, 20).await;
    bench.until("all of them", || calls.len() >= 140).await;
    for key in 0..7 {
        assert_eq!(of_key(&calls, key), (0..20).collect::<Vec<_>>(), "key {key}");
    }
    drain(bench, running).await;
    Proof::Proven
}

async fn several_types_of_a_key_keep_one_order(bench: &Bench<'_>) -> Proof {
    let (_, can) = bench.start().await;
    if can.key_order == KeyOrder::None {
        return Proof::absent("no order by key");
    }
    let calls = Calls::default();
    let mut policy = policy(bench, 0, 1);
    (policy.order, policy.concurrency) = (Order::Key(OnFailure::Overtake), 4);
    let running =
        run(bench, [jittery(policy, &calls, u32::MAX, 0, &Gate::default()).takes(Takes::Both)]).await;
    for n in 0..20_u32 {
        for key in 0..5 {
            let key = format!("key {key}");
            let envelope = if n.is_multiple_of(2) {
                envelope_of(&Probe::new(n, key), bench.clock())
            } else {
                envelope_of(&Other { n, key }, bench.clock())
            };
            let published = bench.soon("publish", running.publish_envelope(envelope)).await;
            assert!(published.is_ok(), "{published:?}");
        }
    }
    bench.until("all of them", || calls.len() >= 100).await;
    for key in 0..5 {
        assert_eq!(of_key(&calls, key), (0..20).collect::<Vec<_>>(), "key {key}");
    }
    drain(bench, running).await;
    Proof::Proven
}

async fn a_key_that_overtakes_goes_on(bench: &Bench<'_>) -> Proof {
    let (_, can) = bench.start().await;
    if can.key_order == KeyOrder::None {
        return Proof::absent("no order by key");
    }
    let calls = Calls::default();
    let mut policy = policy(bench, 0, 2);
    (policy.order, policy.concurrency) = (Order::Key(OnFailure::Overtake), 3);
    let gate = Gate::default();
    let running = run(bench, [jittery(policy, &calls, 2, 1, &gate)]).await;
    publish_keys(bench, 3, 8).await;
    gate.open();
    bench.until("all of them", || calls.len() >= 24).await;
    assert_eq!(of_key(&calls, 0), [0, 1, 3, 4, 5, 6, 7, 2], "the failing one is overtaken");
    assert_eq!(of_key(&calls, 1), (0..8).collect::<Vec<_>>());
    drain(bench, running).await;
    Proof::Proven
}

async fn a_key_that_holds_waits(bench: &Bench<'_>) -> Proof {
    let (_, can) = bench.start().await;
    if can.key_order == KeyOrder::None {
        return Proof::absent("no order by key");
    }
    let calls = Calls::default();
    let mut policy = policy(bench, 1, 2);
    (policy.order, policy.concurrency) = (Order::Key(OnFailure::Hold), 3);
    let gate = Gate::default();
    let running = run(bench, [jittery(policy, &calls, 2, 3, &gate)]).await;
    publish_keys(bench, 3, 8).await;
    gate.open();
    bench.until("all of them", || calls.len() >= 24).await;
    assert_eq!(of_key(&calls, 0), (0..8).collect::<Vec<_>>(), "those behind have waited");
    let others: BTreeSet<u32> =
        calls.all().iter().take(18).filter(|call| call.key != "key 0").map(|call| call.n).collect();
    assert_eq!(others, (0..8).collect(), "other keys have not waited");
    drain(bench, running).await;
    Proof::Proven
}

async fn a_held_key_ends_with_its_dead_letter(bench: &Bench<'_>) -> Proof {
    let (transport, can) = bench.start().await;
    if can.key_order == KeyOrder::None {
        return Proof::absent("no order by key");
    }
    let kept = match Letters::of(bench, &transport) {
        Ok(kept) => kept,
        Err(absent) => return absent,
    };
    let calls = Calls::default();
    let mut policy = policy(bench, 0, 1);
    (policy.order, policy.concurrency) = (Order::Key(OnFailure::Hold), 2);
    let gate = Gate::default();
    let running = run(bench, [jittery(policy, &calls, 2, u32::MAX, &gate)]).await;
    publish_keys(bench, 2, 6).await;
    gate.open();
    bench.until("all others", || calls.len() >= 11).await;
    until_idle(bench, &*transport, "g").await;
    assert_eq!(of_key(&calls, 0), [0, 1, 3, 4, 5]);
    let letters = kept.all("g").await;
    assert_eq!(letters.len(), 1);
    assert_eq!(letters[0].dead_letter().map(|facts| facts.attempts), Some(2));
    drain(bench, running).await;
    kept.proof()
}

async fn a_batch_is_bounded(bench: &Bench<'_>) -> Proof {
    let transport = bench.connect().await;
    let sizes: Arc<std::sync::Mutex<Vec<usize>>> = Arc::default();
    let log = sizes.clone();
    let mut handler =
        noting("g", policy(bench, 0, 0), &Calls::default()).takes(Takes::Batch(8, bench.time().tick()));
    handler.run = Arc::new(move |calls| {
        log.lock().unwrap_or_else(std::sync::PoisonError::into_inner).push(calls.len());
        Box::pin(async move { calls.iter().map(|_| Answer::new(Vec::new(), Ok(()))).collect() })
    });
    // They wait already, so that batches fill.
    bench.declare(&*transport, &crate::conformance::bench::subscription("g", "conformance.probes")).await;
    let probes = (0..21).map(|n| Outgoing::to_topic(envelope_of(&Probe::new(n, "k"), bench.clock())));
    bench.publish_all(&*transport, probes.collect()).await;
    let running = run(bench, [handler]).await;
    if !transport.capabilities().backlog {
        publish(bench, &*running, 0..21).await;
    }
    let handled = || sizes.lock().unwrap_or_else(std::sync::PoisonError::into_inner).iter().sum::<usize>();
    bench.until("all of them, the last though its batch is not full", || handled() >= 21).await;
    let sizes = sizes.lock().unwrap_or_else(std::sync::PoisonError::into_inner).clone();
    assert!(sizes.iter().all(|size| (1..=8).contains(size)), "{sizes:?}");
    assert!(sizes.contains(&8), "what waits is handled together: {sizes:?}");
    drain(bench, running).await;
    Proof::Proven
}

async fn a_scheduled_message_is_not_handled_early(bench: &Bench<'_>) -> Proof {
    let calls = Calls::default();
    let (log, clock) = (calls.clone(), bench.clock());
    // When the scheduled message of a round is due.
    let due = Arc::new(Mutex::new(clock.now()));
    // Of every message whether it was handled before that.
    let early: Arc<Mutex<BTreeMap<u32, bool>>> = Arc::default();
    let (noted, awaited) = (early.clone(), due.clone());
    let handler = JobHandler::new("g", policy(bench, 0, 2), move |call| {
        let is_early = clock.now() < *awaited.lock().unwrap_or_else(PoisonError::into_inner);
        noted.lock().unwrap_or_else(PoisonError::into_inner).insert(call.n, is_early);
        log.push(call);
        async { Ok::<(), HandlerError>(()) }
    });
    let running = run(bench, [handler]).await;
    let mut overtaken = false;
    // A machine that is busy may need more than the first delay until the other message is handled.
    for (round, ticks) in (0_u32..).zip([2, 4, 8, 16]) {
        let (scheduled, at_once) = (2 * round, 2 * round + 1);
        let mut later = envelope_of(&Probe::new(scheduled, "k"), bench.clock());
        let at = clock.now().after(bench.time().tick() * ticks);
        *due.lock().unwrap_or_else(PoisonError::into_inner) = at;
        later.set_not_before(Some(at));
        let published = bench.soon("publish", running.publish_envelope(later)).await;
        assert!(published.is_ok(), "{published:?}");
        publish(bench, &*running, [at_once]).await;
        bench.until("both", || calls.len() > 2 * round as usize + 1).await;
        let early = early.lock().unwrap_or_else(PoisonError::into_inner).clone();
        assert!(!early[&scheduled], "it was handled before it was due");
        overtaken = early[&at_once];
        if overtaken {
            break;
        }
    }
    assert!(overtaken, "what is behind a scheduled message waits for it: {:?}", calls.numbers());
    assert!(calls.all().iter().all(|call| call.attempt == 1), "waiting is no attempt");
    drain(bench, running).await;
    Proof::Proven
}

async fn several_groups_get_everything(bench: &Bench<'_>) -> Proof {
    let transport = bench.connect().await;
    let calls = [Calls::default(), Calls::default(), Calls::default()];
    let names = ["one", "two", "three"];
    let handlers = names.iter().zip(&calls).map(|(name, calls)| noting(name, policy(bench, 0, 0), calls));
    let running = run(bench, handlers.collect::<Vec<_>>()).await;
    publish(bench, &*running, 0..10).await;
    for (name, calls) in names.iter().zip(&calls) {
        bench.until("all of them", || calls.len() >= 10).await;
        until_idle(bench, &*transport, name).await;
        assert_eq!(calls.numbers(), (0..10).collect::<Vec<_>>(), "{name}");
    }
    drain(bench, running).await;
    Proof::Proven
}

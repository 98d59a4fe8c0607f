//! Starting, stopping, pausing, and what a broken connection does.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::Duration;

use msgkit::HandlerError;
use tokio::sync::Semaphore;

use super::case;
use super::letters::nobody_is_dead;
use super::support::{Calls, crash, drain, job, noting, policy, publish, run, start, until_idle};
use crate::conformance::bench::Bench;
use crate::conformance::pipeline::{JobHandler, RunningPipeline};
use crate::conformance::probe::Probe;
use crate::conformance::{Case, Fault, Proof};

const CHAPTER: &str = "Life cycle (promises 4 and 9)";

pub(super) const CASES: &[Case] = &[
    case!(
        CHAPTER,
        a_drain_waits_for_what_is_in_hand,
        "A drain waits for the handlers that run, and settles what they did"
    ),
    case!(CHAPTER, a_drain_costs_no_attempt, "What a drain breaks off goes back and costs no attempt"),
    case!(
        CHAPTER,
        a_drain_gives_back_what_was_not_begun,
        "What was fetched and not begun at a drain is handled by the next run, once"
    ),
    case!(CHAPTER, a_cancelled_handler_has_not_failed, "A handler that is cancelled has not failed"),
    case!(CHAPTER, a_crash_loses_nothing, "After a crash everything that was not settled is handled again"),
    case!(CHAPTER, a_broken_connection_heals, "Handling goes on after the connection broke; nothing is lost"),
    case!(
        CHAPTER,
        a_paused_handler_fetches_nothing,
        "A paused handler handles nothing, and goes on where it was"
    ),
    case!(
        CHAPTER,
        a_handler_can_be_attached,
        "A handler that is attached at run time gets what its group is owed"
    ),
    case!(
        CHAPTER,
        a_detached_handler_leaves_its_group,
        "A detached handler handles nothing more; its group keeps what comes"
    ),
    case!(
        CHAPTER,
        in_flight_bounds_what_is_fetched,
        "No more messages are in hand than `in_flight`, and no more handlers run than `concurrency`"
    ),
    case!(
        CHAPTER,
        two_services_share_a_group,
        "Two services of one group share its messages, each handled once"
    ),
    case!(
        CHAPTER,
        a_handler_without_a_group_is_for_itself,
        "A handler without a group gets everything in each instance"
    ),
    case!(
        CHAPTER,
        a_service_starts_after_its_messages,
        "A service that is started later handles what came for its groups meanwhile"
    ),
];

/// A handler that begins when it is told and ends when it is let.
#[derive(Debug, Clone)]
struct Gate {
    begun: Arc<AtomicU32>,
    running: Arc<AtomicU32>,
    most: Arc<AtomicU32>,
    open: Arc<Semaphore>,
}

impl Gate {
    fn new() -> Self {
        Self {
            begun: Arc::default(),
            running: Arc::default(),
            most: Arc::default(),
            open: Arc::new(Semaphore::new(0)),
        }
    }

    /// A handler that waits in front of the gate before it notes its call.
    fn handler(&self, policy: msgkit::Policy, calls: &Calls) -> JobHandler {
        let (gate, log) = (self.clone(), calls.clone());
        JobHandler::new("g", policy, move |call| {
            let (gate, log) = (gate.clone(), log.clone());
            async move {
                gate.begun.fetch_add(1, Ordering::SeqCst);
                let running = Counted::new(&gate.running);
                gate.most.fetch_max(gate.running.load(Ordering::SeqCst), Ordering::SeqCst);
                if let Ok(permit) = gate.open.acquire().await {
                    permit.forget();
                }
                log.push(call);
                drop(running);
                Ok::<_, HandlerError>(())
            }
        })
    }

    fn begun(&self) -> u32 {
        self.begun.load(Ordering::SeqCst)
    }

    fn open(&self, permits: usize) {
        self.open.add_permits(permits);
    }
}

/// Counts a running handler for as long as it lives, cancelled or not.
struct Counted(Arc<AtomicU32>);

impl Counted {
    fn new(count: &Arc<AtomicU32>) -> Self {
        count.fetch_add(1, Ordering::SeqCst);
        Self(count.clone())
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}

/// A policy whose timeout no case reaches.
fn patient(bench: &Bench<'_>) -> msgkit::Policy {
    let mut policy = policy(bench, 0, 1);
    policy.timeout = bench.time().patience();
    policy
}

/// What each number was called with: its attempts.
fn attempts(calls: &Calls) -> BTreeMap<u32, Vec<u32>> {
    let mut attempts: BTreeMap<u32, Vec<u32>> = BTreeMap::new();
    for call in calls.all() {
        attempts.entry(call.n).or_default().push(call.attempt);
    }
    attempts
}

async fn a_drain_waits_for_what_is_in_hand(bench: &Bench<'_>) -> Proof {
    let (gate, calls) = (Gate::new(), Calls::default());
    let running = run(bench, [gate.handler(patient(bench), &calls)]).await;
    publish(bench, &*running, [1]).await;
    bench.until("the handler runs", || gate.begun() == 1).await;
    let opener = gate.clone();
    let pause = bench.time().tick();
    let opening = tokio::spawn(async move {
        tokio::time::sleep(pause).await;
        opener.open(1);
    });
    drain(bench, running).await;
    assert_eq!(calls.numbers(), [1], "the drain has waited");
    assert!(opening.await.is_ok());
    let again = Calls::default();
    let running = run(bench, [noting("g", policy(bench, 0, 0), &again)]).await;
    publish(bench, &*running, [2]).await;
    bench.until("the next message", || again.len() >= 1).await;
    until_idle(bench, &*bench.connect().await, "g").await;
    assert_eq!(again.numbers(), [2], "the first one was settled by the drain");
    drain(bench, running).await;
    Proof::Proven
}

async fn a_drain_costs_no_attempt(bench: &Bench<'_>) -> Proof {
    let (gate, calls) = (Gate::new(), Calls::default());
    let mut job = job(bench, [gate.handler(patient(bench), &calls)]).await;
    job.drain_deadline = bench.time().tick() / 4;
    let running = start(bench, job).await;
    publish(bench, &*running, [1]).await;
    bench.until("the handler runs", || gate.begun() == 1).await;
    // Its deadline passes, which the drain may report.
    let _ = bench.soon("the drain ends", running.drain()).await;
    assert_eq!((calls.len(), gate.running.load(Ordering::SeqCst)), (0, 0), "the handler was broken off");
    gate.open(8);
    let running = run(bench, [gate.handler(patient(bench), &calls)]).await;
    bench.until("it is handled", || calls.len() >= 1).await;
    until_idle(bench, &*bench.connect().await, "g").await;
    assert_eq!(attempts(&calls), [(1, vec![1])].into(), "it was broken off, it has not failed");
    nobody_is_dead(bench, &bench.connect().await, "g").await;
    drain(bench, running).await;
    Proof::Proven
}

async fn a_drain_gives_back_what_was_not_begun(bench: &Bench<'_>) -> Proof {
    let (gate, calls) = (Gate::new(), Calls::default());
    let running = run(bench, [gate.handler(patient(bench), &calls)]).await;
    publish(bench, &*running, 0..10).await;
    bench.until("the first handler runs", || gate.begun() == 1).await;
    let opener = gate.clone();
    let pause = bench.time().tick() / 2;
    let opening = tokio::spawn(async move {
        tokio::time::sleep(pause).await;
        opener.open(1);
    });
    drain(bench, running).await;
    assert!(opening.await.is_ok());
    assert_eq!(calls.numbers(), [0], "nothing new is begun in a drain");
    gate.open(100);
    let running = run(bench, [gate.handler(patient(bench), &calls)]).await;
    bench.until("the rest", || calls.len() >= 10).await;
    until_idle(bench, &*bench.connect().await, "g").await;
    assert_eq!(calls.numbers(), (0..10).collect::<Vec<_>>(), "each once, in order");
    assert!(calls.all().iter().all(|call| call.attempt == 1));
    drain(bench, running).await;
    Proof::Proven
}

async fn a_cancelled_handler_has_not_failed(bench: &Bench<'_>) -> Proof {
    let (gate, calls) = (Gate::new(), Calls::default());
    for round in 1..=4 {
        let running = run(bench, [gate.handler(patient(bench), &calls)]).await;
        if round == 1 {
            publish(bench, &*running, [1]).await;
        }
        bench.until("the handler runs", || gate.begun() == round).await;
        bench.soon("the crash", running.crash()).await;
    }
    gate.open(8);
    let running = run(bench, [gate.handler(patient(bench), &calls)]).await;
    bench.until("it is handled", || calls.len() >= 1).await;
    until_idle(bench, &*bench.connect().await, "g").await;
    assert_eq!(attempts(&calls), [(1, vec![1])].into(), "four times cancelled is no attempt of the policy");
    nobody_is_dead(bench, &bench.connect().await, "g").await;
    drain(bench, running).await;
    Proof::Proven
}

async fn a_crash_loses_nothing(bench: &Bench<'_>) -> Proof {
    let (gate, calls) = (Gate::new(), Calls::default());
    let mut policy = patient(bench);
    policy.concurrency = 3;
    let running = run(bench, [gate.handler(policy.clone(), &calls)]).await;
    publish(bench, &*running, 0..20).await;
    gate.open(5);
    bench.until("some are handled, some are in hand", || calls.len() == 5 && gate.begun() == 8).await;
    if let Err(why) = crash(bench, running).await {
        return why;
    }
    gate.open(1000);
    let running = run(bench, [gate.handler(policy, &calls)]).await;
    bench.until("all of them", || calls.numbers().iter().collect::<BTreeSet<_>>().len() >= 20).await;
    until_idle(bench, &*bench.connect().await, "g").await;
    assert!(calls.len() <= 25, "only what was not settled is handled again: {:?}", calls.numbers());
    nobody_is_dead(bench, &bench.connect().await, "g").await;
    drain(bench, running).await;
    Proof::Proven
}

async fn a_broken_connection_heals(bench: &Bench<'_>) -> Proof {
    let (gate, calls) = (Gate::new(), Calls::default());
    let mut policy = patient(bench);
    policy.concurrency = 2;
    let running = run(bench, [gate.handler(policy, &calls)]).await;
    publish(bench, &*running, 0..10).await;
    bench.until("handlers run", || gate.begun() == 2).await;
    if let Fault::Impossible(why) = bench.broker().await.disconnect().await {
        return Proof::not_proven(why);
    }
    gate.open(1000);
    // A publish may fail while the connection is repaired; then it is temporary.
    for n in 10..20 {
        let publishing = async {
            while let Err(error) = running.publish(&Probe::new(n, "k")).await {
                assert!(error.is_temporary(), "{}", msgkit::Chain(&error));
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        };
        bench.soon("a publish succeeds again", publishing).await;
    }
    bench.until("all of them", || calls.numbers().iter().collect::<BTreeSet<_>>().len() >= 20).await;
    until_idle(bench, &*bench.connect().await, "g").await;
    assert!(
        calls.all().iter().all(|call| call.attempt == 1),
        "a broken connection is no failure of a message"
    );
    nobody_is_dead(bench, &bench.connect().await, "g").await;
    drain(bench, running).await;
    Proof::Proven
}

async fn done(bench: &Bench<'_>, what: &str, future: impl Future<Output = Result<(), msgkit::Error>>) {
    if let Err(error) = bench.soon(what, future).await {
        panic!("{what}: {}", msgkit::Chain(&error));
    }
}

async fn a_paused_handler_fetches_nothing(bench: &Bench<'_>) -> Proof {
    let calls = Calls::default();
    let running = run(bench, [noting("g", policy(bench, 0, 0), &calls)]).await;
    publish(bench, &*running, 0..3).await;
    bench.until("the first three", || calls.len() >= 3).await;
    done(bench, "pause", running.pause("g")).await;
    publish(bench, &*running, 3..6).await;
    bench.silence().await;
    assert_eq!(calls.numbers(), [0, 1, 2], "it is paused");
    done(bench, "resume", running.resume("g")).await;
    bench.until("the rest", || calls.len() >= 6).await;
    assert_eq!(calls.numbers(), [0, 1, 2, 3, 4, 5]);
    for refused in [running.pause("nobody").await, running.resume("nobody").await] {
        let error = match refused {
            Ok(()) => panic!("there is no such handler"),
            Err(error) => error.to_string(),
        };
        assert!(error.contains("nobody"), "the error names what is not there: {error}");
    }
    drain(bench, running).await;
    Proof::Proven
}

async fn a_handler_can_be_attached(bench: &Bench<'_>) -> Proof {
    let (first, second) = (Calls::default(), Calls::default());
    let running = run(bench, [noting("g", policy(bench, 0, 0), &first)]).await;
    publish(bench, &*running, [1]).await;
    done(bench, "attach", running.attach(noting("later", policy(bench, 0, 0), &second))).await;
    publish(bench, &*running, [2, 3]).await;
    bench.until("both have theirs", || first.len() >= 3 && second.len() >= 2).await;
    assert_eq!(second.numbers(), [2, 3]);
    drain(bench, running).await;
    Proof::Proven
}

async fn a_detached_handler_leaves_its_group(bench: &Bench<'_>) -> Proof {
    let (transport, can) = bench.start().await;
    let (gone, stays) = (Calls::default(), Calls::default());
    let handlers = [noting("g", policy(bench, 0, 0), &gone), noting("other", policy(bench, 0, 0), &stays)];
    let running = run(bench, handlers).await;
    publish(bench, &*running, [1]).await;
    bench.until("both have it", || gone.len() >= 1 && stays.len() >= 1).await;
    done(bench, "detach", running.detach("g")).await;
    publish(bench, &*running, [2, 3]).await;
    bench.until("the other goes on", || stays.len() >= 3).await;
    bench.silence().await;
    assert_eq!(gone.numbers(), [1]);
    done(bench, "attach", running.attach(noting("g", policy(bench, 0, 0), &gone))).await;
    if can.backlog {
        bench.until("its backlog", || gone.len() >= 3).await;
        assert_eq!(gone.numbers(), [1, 2, 3]);
    }
    until_idle(bench, &*transport, "g").await;
    drain(bench, running).await;
    Proof::Proven
}

async fn in_flight_bounds_what_is_fetched(bench: &Bench<'_>) -> Proof {
    let (transport, can) = bench.start().await;
    let (gate, calls) = (Gate::new(), Calls::default());
    let mut policy = patient(bench);
    (policy.concurrency, policy.in_flight) = (2, 4);
    let running = run(bench, [gate.handler(policy, &calls)]).await;
    publish(bench, &*running, 0..20).await;
    bench.until("both lanes work", || gate.begun() == 2).await;
    bench.silence().await;
    assert_eq!(gate.begun(), 2, "two lanes, two handlers");
    if let (true, Some(operate)) = (can.lag, transport.operate()) {
        let groups = match operate.groups().await {
            Ok(groups) => groups,
            Err(error) => panic!("the groups cannot be asked: {}", msgkit::Chain(&error)),
        };
        let status = groups.iter().find(|status| status.group.as_str() == "g");
        let (waiting, in_hand) = status.map(|status| (status.waiting, status.in_hand)).unwrap_or_default();
        assert!(in_hand.is_none_or(|count| count <= 4), "four may be in hand: {in_hand:?}");
        assert!(waiting >= 16, "the rest waits at the broker: {waiting}");
    }
    gate.open(100);
    bench.until("all of them", || calls.len() >= 20).await;
    assert!(gate.most.load(Ordering::SeqCst) <= 2);
    drain(bench, running).await;
    if can.lag { Proof::Proven } else { Proof::not_proven("what is in hand cannot be asked") }
}

async fn two_services_share_a_group(bench: &Bench<'_>) -> Proof {
    let (transport, can) = bench.start().await;
    if !can.groups {
        return Proof::absent("no groups");
    }
    let calls = Calls::default();
    let one = run(bench, [noting("g", policy(bench, 0, 0), &calls)]).await;
    let two = run(bench, [noting("g", policy(bench, 0, 0), &calls)]).await;
    publish(bench, &*one, 0..50).await;
    publish(bench, &*two, 50..100).await;
    bench.until("all of them", || calls.len() >= 100).await;
    until_idle(bench, &*transport, "g").await;
    let mut numbers = calls.numbers();
    numbers.sort_unstable();
    assert_eq!(numbers, (0..100).collect::<Vec<_>>(), "each once");
    drain(bench, one).await;
    // The one that is left goes on alone.
    publish(bench, &*two, [100]).await;
    bench.until("the last", || calls.len() >= 101).await;
    drain(bench, two).await;
    Proof::Proven
}

async fn a_handler_without_a_group_is_for_itself(bench: &Bench<'_>) -> Proof {
    let (_, can) = bench.start().await;
    let (first, second) = (Calls::default(), Calls::default());
    let handler = |calls: &Calls| noting("tail", policy(bench, 0, 0), calls).ephemeral();
    if !can.ephemeral {
        let job = job(bench, [handler(&first)]).await;
        let refused = bench.soon("start", bench.pipeline().start(job)).await.is_err();
        assert!(
            refused,
            "the transport claims no subscriptions without a group, yet the handler was started"
        );
        return Proof::absent("handlers without a group are refused at start");
    }
    let one = run(bench, [handler(&first)]).await;
    let two = run(bench, [handler(&second)]).await;
    publish(bench, &*one, 0..5).await;
    bench.until("each has them all", || first.len() >= 5 && second.len() >= 5).await;
    assert_eq!((first.numbers(), second.numbers()), ((0..5).collect(), (0..5).collect()));
    drain(bench, two).await;
    publish(bench, &*one, [5]).await;
    bench.until("the one that is left", || first.len() >= 6).await;
    assert_eq!(second.len(), 5);
    drain(bench, one).await;
    Proof::Proven
}

async fn a_service_starts_after_its_messages(bench: &Bench<'_>) -> Proof {
    let (_, can) = bench.start().await;
    if !can.backlog {
        return Proof::absent("no backlog: a group that is away misses what is published");
    }
    let (calls, elsewhere) = (Calls::default(), Arc::new(AtomicBool::new(false)));
    let away = run(bench, [noting("g", policy(bench, 0, 0), &calls)]).await;
    drain(bench, away).await;
    let flag = elsewhere.clone();
    let publisher: Box<dyn RunningPipeline> = run(
        bench,
        [JobHandler::new("other", policy(bench, 0, 0), move |_| {
            flag.store(true, Ordering::SeqCst);
            async { Ok::<(), HandlerError>(()) }
        })],
    )
    .await;
    publish(bench, &*publisher, 0..5).await;
    bench.until("the other group has some", || elsewhere.load(Ordering::SeqCst)).await;
    let running = run(bench, [noting("g", policy(bench, 0, 0), &calls)]).await;
    bench.until("its backlog", || calls.len() >= 5).await;
    assert_eq!(calls.numbers(), [0, 1, 2, 3, 4]);
    drain(bench, running).await;
    drain(bench, publisher).await;
    Proof::Proven
}

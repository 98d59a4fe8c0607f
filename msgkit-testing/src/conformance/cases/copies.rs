//! What a message's copies, its dead letter and an outage do to it: nothing is lost between two of them.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use msgkit::envelope::DeadLetterKind;
use msgkit::policy::BreakerPolicy;
use msgkit::{Envelope, HandlerError};

use super::case;
use super::failure::{CHAPTER, a_while};
use super::letters::{Letters, kinds, nobody_is_dead};
use super::support::{
    Calls, Refuses, Which, crash, drain, failing, job, noting, policy, publish, run, start, until_idle,
};
use crate::conformance::bench::{Bench, group_of};
use crate::conformance::pipeline::{JobHandler, Takes, envelope_of};
use crate::conformance::probe::{Probe, Said};
use crate::conformance::{Case, Proof};

pub(super) const CASES: &[Case] = &[
    case!(
        CHAPTER,
        a_retry_copy_that_is_refused_keeps_the_original,
        "While a retry copy cannot be published its original stays, without a busy loop"
    ),
    case!(
        CHAPTER,
        a_dead_letter_that_is_refused_keeps_the_original,
        "While a dead letter cannot be published its original stays, without a busy loop"
    ),
    case!(
        CHAPTER,
        a_crash_before_the_copy_is_confirmed_loses_nothing,
        "A crash while a copy is unconfirmed brings the original back"
    ),
    case!(
        CHAPTER,
        a_dead_letter_is_complete,
        "A dead letter tells why, where, when and how often, and has the untouched message"
    ),
    case!(
        CHAPTER,
        a_replay_is_handled_by_its_group_alone,
        "A replayed dead letter is handled by the group that gave it up and by no other, its attempts anew"
    ),
    case!(
        CHAPTER,
        every_message_ends_handled_or_dead,
        "Of many messages that fail now and then each ends handled or dead-lettered, once"
    ),
    case!(
        CHAPTER,
        a_failure_in_a_batch_names_its_messages,
        "Of a batch exactly the messages fail that the handler named"
    ),
    case!(
        CHAPTER,
        an_outage_condemns_nobody,
        "While everything fails the fetch slows down, and no attempts are burnt"
    ),
    case!(
        CHAPTER,
        an_outage_leaves_no_message_in_the_way,
        "After an outage a message that fails for good holds up no other"
    ),
    case!(
        CHAPTER,
        a_message_that_kills_the_process_is_condemned,
        "A message that kills the process ends as a dead letter of kind crash; the innocent are handled"
    ),
];

/// How often a lane may have tried a copy that is refused all the time, after [`a_while`] and a second.
const NO_BUSY_LOOP: u32 = 100;

async fn a_retry_copy_that_is_refused_keeps_the_original(bench: &Bench<'_>) -> Proof {
    let calls = Calls::default();
    let mut job = job(bench, [failing("g", policy(bench, 0, 1), &calls, 1)]).await;
    let (transport, refuses) = Refuses::around(job.transport.clone(), Which::Retries, u32::MAX);
    job.transport = transport.clone();
    let running = start(bench, job).await;
    publish(bench, &*running, [1, 2]).await;
    bench.until("a refused copy", || refuses.refused() >= 2).await;
    a_while(bench).await;
    let refused = refuses.refused();
    assert!(refused < NO_BUSY_LOOP, "{refused} copies were tried");
    assert!(
        calls.all().iter().all(|call| call.attempt == 1),
        "nothing is handled again meanwhile: {calls:?}"
    );
    refuses.allow();
    bench.until("both are handled", || calls.len() >= 4).await;
    until_idle(bench, &*transport, "g").await;
    a_while(bench).await;
    let mut attempts: Vec<(u32, u32)> = calls.all().iter().map(|call| (call.n, call.attempt)).collect();
    attempts.sort_unstable();
    assert_eq!(attempts, [(1, 1), (1, 2), (2, 1), (2, 2)], "each had one failure and one success");
    drain(bench, running).await;
    Proof::Proven
}

async fn a_dead_letter_that_is_refused_keeps_the_original(bench: &Bench<'_>) -> Proof {
    let calls = Calls::default();
    let mut job = job(bench, [failing("g", policy(bench, 0, 0), &calls, u32::MAX)]).await;
    let kept = match Letters::of(bench, &job.transport) {
        Ok(kept) => kept,
        Err(absent) => return absent,
    };
    let transport = job.transport.clone();
    let refuses = kept.refused(&mut job);
    let running = start(bench, job).await;
    publish(bench, &*running, [1]).await;
    bench.until("a refused dead letter", || refuses.refused() >= 2).await;
    a_while(bench).await;
    let refused = refuses.refused();
    assert!(refused < NO_BUSY_LOOP, "{refused} dead letters were tried");
    assert_eq!(kept.all("g").await.len(), 0);
    refuses.allow();
    let letters = kept.until(bench, "g", 1).await;
    until_idle(bench, &*transport, "g").await;
    assert_eq!(letters[0].dead_letter().map(|facts| facts.attempts), Some(1), "waiting cost no attempt");
    drain(bench, running).await;
    kept.proof()
}

async fn a_crash_before_the_copy_is_confirmed_loses_nothing(bench: &Bench<'_>) -> Proof {
    let calls = Calls::default();
    let mut job = job(bench, [failing("g", policy(bench, 0, 1), &calls, 1)]).await;
    let (transport, refuses) = Refuses::around(job.transport.clone(), Which::Retries, u32::MAX);
    job.transport = transport;
    let running = start(bench, job).await;
    publish(bench, &*running, [1]).await;
    bench.until("a refused copy", || refuses.refused() >= 1).await;
    if let Err(why) = crash(bench, running).await {
        return why;
    }
    let running = run(bench, [failing("g", policy(bench, 0, 1), &calls, 1)]).await;
    bench.until("it is handled", || calls.len() >= 2).await;
    until_idle(bench, &*bench.connect().await, "g").await;
    a_while(bench).await;
    assert_eq!(calls.numbers(), [1, 1]);
    drain(bench, running).await;
    Proof::Proven
}

async fn a_dead_letter_is_complete(bench: &Bench<'_>) -> Proof {
    let transport = bench.connect().await;
    let kept = match Letters::of(bench, &transport) {
        Ok(kept) => kept,
        Err(absent) => return absent,
    };
    let calls = Calls::default();
    let running = run(bench, [failing("g", policy(bench, 1, 1), &calls, u32::MAX)]).await;
    let mut sent = envelope_of(&Probe::new(1, "the key"), bench.clock());
    let inserted = "tenant".try_into().map(|name| sent.headers_mut().insert(name, "t1 ä"));
    assert!(matches!(inserted, Ok(Ok(_))));
    let published = bench.soon("publish", running.publish_envelope(sent.clone())).await;
    assert!(published.is_ok(), "{published:?}");
    let letter = kept.until(bench, "g", 1).await.remove(0);
    let Some(facts) = letter.dead_letter() else { panic!("no `dl…` attributes: {letter:?}") };
    assert_eq!((facts.kind, facts.attempts, facts.replays), (DeadLetterKind::Handler, 4, 0));
    assert!(facts.error.contains("failure 4"), "the last error: {}", facts.error);
    assert_eq!(facts.fingerprint.len(), 16);
    assert!(facts.first < facts.last, "{} {}", facts.first, facts.last);
    assert!(facts.last.since(facts.first) >= bench.time().tick());
    let place =
        [&facts.topic, &facts.group, &facts.service, &facts.handler].map(|text| text.as_str().to_owned());
    assert_eq!(place, ["conformance.probes", "g", "conformance", "g"]);
    // The message itself is as it was sent, and so is its place in the flow.
    assert_eq!((letter.id(), letter.payload(), letter.key()), (sent.id(), sent.payload(), sent.key()));
    assert_eq!((letter.kind(), letter.topic(), letter.source()), (sent.kind(), sent.topic(), sent.source()));
    assert_eq!((letter.headers(), letter.content_type()), (sent.headers(), sent.content_type()));
    assert_eq!(
        (letter.correlation_id(), letter.causation_id()),
        (sent.correlation_id(), sent.causation_id())
    );
    assert_eq!((letter.hop(), letter.trace(), letter.time()), (sent.hop(), sent.trace(), sent.time()));
    // So was every copy on the way.
    for call in calls.all() {
        assert_eq!((call.envelope.id(), call.envelope.payload()), (sent.id(), sent.payload()));
        assert_eq!((call.envelope.headers(), call.envelope.trace()), (sent.headers(), sent.trace()));
    }
    drain(bench, running).await;
    kept.proof()
}

async fn a_replay_is_handled_by_its_group_alone(bench: &Bench<'_>) -> Proof {
    let transport = bench.connect().await;
    let (true, Some(operate)) = (transport.capabilities().keeps_unread, transport.operate()) else {
        return Proof::absent("dead letters are kept on another transport, which does not reach the group");
    };
    let (mended, innocent) = (Calls::default(), Calls::default());
    let handlers =
        [failing("g", policy(bench, 1, 0), &mended, 2), noting("other", policy(bench, 0, 0), &innocent)];
    let running = run(bench, handlers).await;
    publish(bench, &*running, [1]).await;
    let kept = match Letters::of(bench, &transport) {
        Ok(kept) => kept,
        Err(absent) => return absent,
    };
    kept.until(bench, "g", 1).await;
    let group = group_of("g");
    let position = match operate.dead_letters(&group, None, 10).await {
        Ok(letters) => letters[0].position.clone(),
        Err(error) => panic!("the dead letters cannot be listed: {error}"),
    };
    if let Err(error) = bench.soon("replay", operate.replay(&group, &position)).await {
        panic!("the replay failed: {}", msgkit::Chain(&error));
    }
    bench.until("it is handled again", || mended.len() >= 3).await;
    until_idle(bench, &*transport, "g").await;
    a_while(bench).await;
    let attempts: Vec<u32> = mended.all().iter().map(|call| call.attempt).collect();
    assert_eq!(attempts, [1, 2, 1], "its attempts begin anew");
    let envelopes: BTreeSet<String> =
        mended.all().iter().map(|call| call.envelope.id().to_string()).collect();
    assert_eq!(envelopes.len(), 1, "it is the same message");
    assert_eq!(innocent.len(), 1, "the other group has handled it long ago");
    assert_eq!(kept.all("g").await.len(), 0);
    drain(bench, running).await;
    Proof::Proven
}

async fn every_message_ends_handled_or_dead(bench: &Bench<'_>) -> Proof {
    let transport = bench.connect().await;
    let kept = match Letters::of(bench, &transport) {
        Ok(kept) => kept,
        Err(absent) => return absent,
    };
    let calls = Calls::default();
    let log = calls.clone();
    let mut policy = policy(bench, 1, 1);
    policy.concurrency = 3;
    // The cap is 4 attempts: numbers with a remainder of 4 or 5 never get there.
    let handler = JobHandler::new("g", policy, move |call| {
        let fails = call.attempt <= call.n % 6;
        log.push(call);
        async move {
            tokio::task::yield_now().await;
            if fails { Err(HandlerError::retry("not yet")) } else { Ok(()) }
        }
    });
    let running = run(bench, [handler]).await;
    publish(bench, &*running, 0..60).await;
    let letters = kept.until(bench, "g", 20).await;
    until_idle(bench, &*transport, "g").await;
    a_while(bench).await;
    let dead: BTreeSet<u32> = letters.iter().filter_map(number_of).collect();
    assert_eq!(dead, (0..60).filter(|n| n % 6 > 3).collect(), "exactly the ones that fail too often");
    assert_eq!(letters.len(), 20, "each once");
    let mut attempts: BTreeMap<u32, Vec<u32>> = BTreeMap::new();
    for call in calls.all() {
        attempts.entry(call.n).or_default().push(call.attempt);
    }
    for n in 0..60 {
        let expected: Vec<u32> = (1..=(n % 6 + 1).min(4)).collect();
        assert_eq!(attempts.get(&n), Some(&expected), "number {n}");
    }
    drain(bench, running).await;
    kept.proof()
}

/// The number in a probe's payload.
fn number_of(envelope: &Envelope) -> Option<u32> {
    serde_json::from_slice::<Probe>(envelope.payload()).ok().map(|probe| probe.n)
}

async fn a_failure_in_a_batch_names_its_messages(bench: &Bench<'_>) -> Proof {
    let transport = bench.connect().await;
    let kept = match Letters::of(bench, &transport) {
        Ok(kept) => kept,
        Err(absent) => return absent,
    };
    let calls = Calls::default();
    let log = calls.clone();
    let handler = JobHandler::new("g", policy(bench, 0, 1), move |call| {
        let fails = call.n % 3 == 0;
        let n = call.n;
        log.push(call);
        async move { if fails { Err(HandlerError::retry("divisible by three")) } else { Ok(vec![Said { n }]) } }
    });
    let mut said = bench.group(&*transport, "listener", "conformance.said").await;
    let running = run(bench, [handler.takes(Takes::Batch(8, bench.time().tick()))]).await;
    publish(bench, &*running, 0..20).await;
    let letters = kept.until(bench, "g", 7).await;
    until_idle(bench, &*transport, "g").await;
    a_while(bench).await;
    let dead: BTreeSet<u32> = letters.iter().filter_map(number_of).collect();
    assert_eq!(dead, (0..20).filter(|n| n % 3 == 0).collect());
    let mut often: BTreeMap<u32, usize> = BTreeMap::new();
    for call in calls.all() {
        *often.entry(call.n).or_default() += 1;
    }
    assert!(often.iter().all(|(n, count)| *count == if n % 3 == 0 { 2 } else { 1 }), "{often:?}");
    let mut heard: Vec<u32> = said
        .take(13)
        .await
        .into_iter()
        .filter_map(|delivery| {
            let n = serde_json::from_slice::<Said>(delivery.message().envelope()?.payload())
                .ok()
                .map(|said| said.n);
            delivery.ack();
            n
        })
        .collect();
    heard.sort_unstable();
    assert_eq!(
        heard,
        (0..20).filter(|n| n % 3 != 0).collect::<Vec<_>>(),
        "what the successful ones have published"
    );
    drain(bench, running).await;
    kept.proof()
}

async fn an_outage_condemns_nobody(bench: &Bench<'_>) -> Proof {
    let transport = bench.connect().await;
    let calls = Calls::default();
    let (log, down) = (calls.clone(), Arc::new(AtomicBool::new(true)));
    let outage = down.clone();
    let tick = bench.time().tick();
    let mut policy = policy(bench, 1, 1);
    let mut breaker = BreakerPolicy::default();
    (breaker.failures, breaker.wait, breaker.max_wait) = (3, tick, tick * 8);
    policy.breaker = Some(breaker);
    let handler = JobHandler::new("g", policy, move |call| {
        log.push(call);
        let down = outage.load(Ordering::SeqCst);
        async move { if down { Err(HandlerError::retry("the database is down")) } else { Ok(()) } }
    });
    let running = run(bench, [handler]).await;
    publish(bench, &*running, 0..10).await;
    bench.until("the outage is noticed", || calls.len() >= 3).await;
    tokio::time::sleep(tick * 12).await;
    let during = calls.len();
    assert!(during < 16, "twelve waits of an outage cost {during} calls");
    down.store(false, Ordering::SeqCst);
    bench
        .until("all are handled", || calls.numbers()[during..].iter().collect::<BTreeSet<_>>().len() >= 10)
        .await;
    until_idle(bench, &*transport, "g").await;
    nobody_is_dead(bench, &transport, "g").await;
    drain(bench, running).await;
    Proof::Proven
}

async fn an_outage_leaves_no_message_in_the_way(bench: &Bench<'_>) -> Proof {
    let transport = bench.connect().await;
    let kept = match Letters::of(bench, &transport) {
        Ok(kept) => kept,
        Err(absent) => return absent,
    };
    let calls = Calls::default();
    let (down, broken) = (Arc::new(AtomicBool::new(true)), Arc::new(AtomicBool::new(true)));
    let (log, outage, bad) = (calls.clone(), down.clone(), broken.clone());
    let tick = bench.time().tick();
    let mut policy = policy(bench, 1, 1);
    let mut breaker = BreakerPolicy::default();
    // It opens with the second attempt of number 0, which then goes first.
    (breaker.failures, breaker.wait, breaker.max_wait) = (2, tick / 4, tick / 4);
    policy.breaker = Some(breaker);
    // After the outage number 0 still fails, number 1 is refused; both come before the others.
    let handler = JobHandler::new("g", policy, move |call| {
        let (n, down, broken) = (call.n, outage.load(Ordering::SeqCst), bad.load(Ordering::SeqCst));
        log.push(call);
        async move {
            match n {
                _ if down => Err(HandlerError::retry("the database is down")),
                0 if broken => Err(HandlerError::retry("not yet")),
                1 => Err(HandlerError::permanent("no such order")),
                _ => Ok(()),
            }
        }
    });
    let running = run(bench, [handler]).await;
    publish(bench, &*running, 0..6).await;
    bench.until("the outage is noticed", || calls.len() >= 3).await;
    down.store(false, Ordering::SeqCst);
    bench.until("the others are handled", || (2..6).all(|n| calls.numbers().contains(&n))).await;
    broken.store(false, Ordering::SeqCst);
    let letters = kept.until(bench, "g", 1).await;
    until_idle(bench, &*transport, "g").await;
    assert_eq!(letters.iter().filter_map(number_of).collect::<Vec<_>>(), [1]);
    drain(bench, running).await;
    kept.proof()
}

async fn a_message_that_kills_the_process_is_condemned(bench: &Bench<'_>) -> Proof {
    let (transport, can) = bench.start().await;
    let kept = match Letters::of(bench, &transport) {
        Ok(kept) => kept,
        Err(absent) => return absent,
    };
    if !can.delivery_count {
        return Proof::absent(
            "starts are not counted: a message that kills the process comes again without end",
        );
    }
    let (calls, killed) = (Calls::default(), Arc::new(tokio::sync::Notify::new()));
    let handler = || {
        let (log, killed) = (calls.clone(), killed.clone());
        let mut policy = policy(bench, 1, 1);
        policy.max_starts = 3;
        policy.timeout = bench.time().patience();
        JobHandler::new("g", policy, move |call| {
            let (log, killed) = (log.clone(), killed.clone());
            async move {
                if call.n == 3 {
                    killed.notify_one();
                    std::future::pending::<()>().await;
                }
                log.push(call);
                Ok::<_, HandlerError>(())
            }
        })
    };
    let mut running = run(bench, [handler()]).await;
    publish(bench, &*running, 0..10).await;
    let mut crashes = 0;
    loop {
        let dead = async {
            kept.until(bench, "g", 1).await;
        };
        tokio::select! {
            biased;
            () = killed.notified() => {
                crashes += 1;
                assert!(crashes <= 10, "the process is killed without end");
                if let Err(why) = crash(bench, running).await {
                    return why;
                }
                running = run(bench, [handler()]).await;
            }
            () = dead => break,
        }
    }
    assert!(crashes > 3, "three starts are allowed, then one alone: {crashes}");
    bench.until("the innocent", || calls.numbers().iter().collect::<BTreeSet<_>>().len() >= 9).await;
    until_idle(bench, &*transport, "g").await;
    let letters = kept.until(bench, "g", 1).await;
    assert_eq!(kinds(&letters), [DeadLetterKind::Crash], "no innocent is condemned");
    assert_eq!(number_of(&letters[0]), Some(3));
    drain(bench, running).await;
    kept.proof()
}

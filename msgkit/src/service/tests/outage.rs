//! What does not answer - a transport, a database - costs no message.

use super::faulty::Faulty;
use super::*;
use crate::envelope::{Envelope, MessageId};
use crate::error::BoxError;
use crate::handler::{Batch, BatchOutcome, HandleBatch, Inbox, batch};
use crate::policy::BreakerPolicy;
use crate::transport::{Health, Outgoing, Publisher as _, TransportErrorKind};

/// While copies cannot be confirmed the original stays in hand, unsettled; the lane tries again with pauses, not in a spin.
#[tokio::test(start_paused = true)]
async fn a_copy_that_is_not_confirmed_keeps_the_original() {
    for delayed in [0, 1] {
        let (memory, clock) = virtual_memory(MemoryConfig::default());
        let faulty = Faulty::new(&memory);
        faulty.copies.store(5, Ordering::SeqCst);
        let tries = Arc::new(AtomicU32::new(0));
        let counter = tries.clone();
        let spec = HandlerSpec::new("g", "g")
            .unwrap()
            .with(closure(|_: Placed, _| async { Err::<(), _>("no".into()) }))
            .retry(0, delayed);
        let running = Service::new("shop")
            .clock(clock)
            .transport("memory", faulty.clone())
            .observe(move |event: &crate::telemetry::Event<'_>| {
                if event.kind.name() == "copy_failed" {
                    counter.fetch_add(1, Ordering::SeqCst);
                }
            })
            .spec(spec)
            .start()
            .await
            .unwrap();
        let began = clock.now();
        let sent = running.publisher().publish(&placed(1)).await.unwrap();
        until("five tries", || tries.load(Ordering::SeqCst) == 5).await;
        assert!(clock.now().since(began) >= Duration::from_millis(1500), "the lane pauses between tries");
        let status = memory.groups().await.unwrap();
        assert_eq!(
            (status[0].waiting, status[0].in_hand, status[0].delayed),
            (0, Some(1), 0),
            "still in custody"
        );
        assert!(letters(&memory, "g").await.is_empty());
        until("dead letter", || faulty.copies.load(Ordering::SeqCst) == 0 && memory.is_idle()).await;
        tokio::time::sleep(Duration::from_secs(5)).await;
        until("idle", || memory.is_idle()).await;
        let letters = letters(&memory, "g").await;
        assert_eq!(letters.iter().map(crate::Envelope::id).collect::<Vec<_>>(), [sent.id()]);
        running.drain().await.unwrap();
    }
}

/// What ends a start says where to look.
#[tokio::test]
async fn a_start_that_a_transport_refuses_names_it() {
    let memory = Memory::new();
    memory.close().await.unwrap();
    let service = Service::new("shop").transport("edge", memory).on("g", |_: Placed, _| async { Ok(()) });
    let refused = service.start().await.unwrap_err();
    assert_eq!(refused.kind(), crate::ErrorKind::Transport);
    assert!(refused.to_string().contains("`edge`"), "{refused}");
}

/// A service whose handler always fails, on a broker that takes no copies.
async fn without_copies() -> (Memory, Faulty, Running) {
    let (memory, clock) = virtual_memory(MemoryConfig::default());
    let faulty = Faulty::new(&memory);
    faulty.copies.store(u32::MAX, Ordering::SeqCst);
    let running = Service::new("shop")
        .clock(clock)
        .transport("memory", faulty.clone())
        .spec(
            HandlerSpec::new("g", "g")
                .unwrap()
                .with(closure(|_: Placed, _| async { Err::<(), _>("no".into()) }))
                .retry(0, 0),
        )
        .start()
        .await
        .unwrap();
    (memory, faulty, running)
}

/// A copy that is refused for good (a dead letter that is too large where dead letters go) is not tried in silence.
#[tokio::test(start_paused = true)]
async fn a_copy_that_is_never_confirmed_is_told_until_it_is() {
    let (memory, faulty, running) = without_copies().await;
    let sent = running.publisher().publish(&placed(1)).await.unwrap();
    until("a try", || faulty.copies.load(Ordering::SeqCst) < u32::MAX).await;
    assert_eq!(problems(&running).await, [""; 0], "a short outage is none of its business");
    until("some tries", || faulty.copies.load(Ordering::SeqCst) < u32::MAX - 10).await;
    let told = problems(&running).await;
    let wanted =
        format!("handler g, message {}: its copy to msgkit.dead_letter.g is not confirmed: ", sent.id());
    assert!(matches!(&told[..], [only] if only.starts_with(&wanted)), "{told:?}");
    faulty.copies.store(0, Ordering::SeqCst);
    until("dead letter", || memory.is_idle()).await;
    assert_eq!(problems(&running).await, [""; 0]);
    running.drain().await.unwrap();
}

/// A drain while a copy cannot be confirmed gives the message back instead of losing it.
#[tokio::test(start_paused = true)]
async fn a_drain_during_an_unconfirmed_copy_gives_the_message_back() {
    let (memory, faulty, running) = without_copies().await;
    running.publisher().publish(&placed(1)).await.unwrap();
    until("a failed copy", || faulty.copies.load(Ordering::SeqCst) < u32::MAX).await;
    running.drain().await.unwrap();
    let status = memory.groups().await.unwrap();
    assert_eq!((status[0].waiting, status[0].in_hand), (1, Some(0)));
}

/// In an outage the breaker holds the message instead of burning its attempts.
#[tokio::test(start_paused = true)]
async fn an_outage_burns_no_attempts() {
    let (memory, clock) = virtual_memory(MemoryConfig::default());
    let down = Arc::new(AtomicU32::new(1));
    let calls: Arc<Mutex<Vec<Timestamp>>> = Arc::default();
    let (outage, times) = (down.clone(), calls.clone());
    let spec = HandlerSpec::new("g", "g")
        .unwrap()
        .with(closure(move |_: Placed, _| {
            times.lock().unwrap().push(clock.now());
            let down = outage.load(Ordering::SeqCst) == 1;
            async move { if down { Err("the database is down".into()) } else { Ok(()) } }
        }))
        .retry(1, 1)
        .overrides(|policy| {
            policy.breaker = Some(Some(BreakerPolicy { failures: 3, ..Default::default() }));
        });
    let running = serve(&memory, clock, spec).await;
    running.publisher().publish_all(&[placed(1), placed(2)]).await.unwrap();
    tokio::time::sleep(Duration::from_secs(300)).await;
    // What comes meanwhile is not even begun.
    let more: Vec<Placed> = (3..103).map(placed).collect();
    running.publisher().publish_all(&more).await.unwrap();
    tokio::time::sleep(Duration::from_secs(300)).await;
    let during = calls.lock().unwrap().clone();
    assert!((4..30).contains(&during.len()), "ten minutes of outage cost {} calls", during.len());
    let gaps: Vec<Duration> = during[2..].windows(2).map(|two| two[1].since(two[0])).collect();
    assert!(gaps.iter().all(|gap| *gap >= Duration::from_secs(1)), "each waits for its turn: {gaps:?}");
    assert!(letters(&memory, "g").await.is_empty());
    down.store(0, Ordering::SeqCst);
    until("all handled", || memory.is_idle()).await;
    tokio::time::sleep(Duration::from_secs(60)).await;
    until("all handled", || memory.is_idle()).await;
    assert!(letters(&memory, "g").await.is_empty(), "nobody is condemned for an outage");
    running.drain().await.unwrap();
}

/// A database that is down condemns nobody either where a policy has no later attempts.
#[tokio::test(start_paused = true)]
async fn without_delays_an_outage_lets_the_others_pass() {
    let (memory, clock) = virtual_memory(MemoryConfig::default());
    let handled: Arc<Mutex<Vec<u32>>> = Arc::default();
    let begun: Arc<Mutex<Vec<u32>>> = Arc::default();
    let (log, starts) = (handled.clone(), begun.clone());
    let spec = HandlerSpec::new("g", "g")
        .unwrap()
        .with(closure(move |order: Placed, _| {
            starts.lock().unwrap().push(order.id);
            let log = log.clone();
            async move {
                if order.id == 1 {
                    return Err("no such customer".into());
                }
                log.lock().unwrap().push(order.id);
                Ok(())
            }
        }))
        .retry(1, 0)
        .overrides(|policy| {
            policy.breaker = Some(Some(BreakerPolicy { failures: 1, ..Default::default() }));
        });
    let running = serve(&memory, clock, spec).await;
    running
        .publisher()
        .publish_all(&[placed(1), Placed { customer: "c2".to_owned(), ..placed(2) }])
        .await
        .unwrap();
    // It cannot be told from an outage at first; but the other one is let through in minutes, not after the patience.
    tokio::time::sleep(Duration::from_secs(600)).await;
    assert_eq!(*handled.lock().unwrap(), [2]);
    assert_eq!(begun.lock().unwrap()[..4], [1, 1, 1, 2], "three times it goes first");
    tokio::time::sleep(Duration::from_secs(2 * 3600)).await;
    let letters = letters(&memory, "g").await;
    assert_eq!(letters.iter().map(|letter| letter.dead_letter().unwrap().attempts).collect::<Vec<_>>(), [2]);
    running.drain().await.unwrap();
}

/// Where nothing else comes nobody can tell an outage from a message that always fails: after the breaker's patience its
/// attempts count, and they never pass the cap.
#[tokio::test(start_paused = true)]
async fn what_always_fails_ends_as_a_dead_letter_behind_an_open_breaker() {
    for (immediate, rounds) in [(0, 0), (2, 0), (1, 2)] {
        let (memory, clock) = virtual_memory(MemoryConfig::default());
        let patience = Duration::from_secs(120);
        let spec = HandlerSpec::new("g", "g")
            .unwrap()
            .with(closure(|_: Placed, _| async { Err::<(), _>("no".into()) }))
            .retry(immediate, rounds)
            .overrides(move |policy| {
                let breaker = BreakerPolicy { failures: 2, patience, ..Default::default() };
                policy.breaker = Some(Some(breaker));
            });
        let running = serve(&memory, clock, spec).await;
        running.publisher().publish_all(&[placed(1), placed(2)]).await.unwrap();
        tokio::time::sleep(patience / 2).await;
        assert!(letters(&memory, "g").await.len() < 2, "the breaker has patience");
        tokio::time::sleep(Duration::from_secs(3600)).await;
        let letters = letters(&memory, "g").await;
        let cap = (1 + immediate) * (1 + rounds);
        let attempts: Vec<_> = letters.iter().map(|letter| letter.dead_letter().unwrap().attempts).collect();
        assert_eq!(attempts.len(), 2, "retry({immediate}, {rounds})");
        assert!(attempts.iter().all(|attempts| *attempts <= cap), "{attempts:?} over {cap}");
        running.drain().await.unwrap();
    }
}

/// A subscription that ends, against the contract, is begun again: its handler may not stop without a word.
#[tokio::test(start_paused = true)]
async fn a_subscription_that_ends_by_itself_is_begun_again() {
    let (memory, clock) = virtual_memory(MemoryConfig::default());
    let faulty = Faulty::new(&memory);
    faulty.endings.store(3, Ordering::SeqCst);
    let handled = Arc::new(AtomicU32::new(0));
    let counter = handled.clone();
    let running = Service::new("shop")
        .clock(clock)
        .transport("memory", faulty.clone())
        .on("g", move |_: Placed, _| {
            counter.fetch_add(1, Ordering::SeqCst);
            async { Ok(()) }
        })
        .start()
        .await
        .unwrap();
    running.publisher().publish(&placed(1)).await.unwrap();
    until("handled", || handled.load(Ordering::SeqCst) == 1).await;
    assert_eq!(faulty.endings.load(Ordering::SeqCst), 0);
    running.drain().await.unwrap();
}

/// What is missing, each as "thing: why".
async fn problems(running: &Running) -> Vec<String> {
    let readiness = running.readiness().await;
    assert_eq!(readiness.ready, readiness.problems.is_empty());
    readiness.problems.into_iter().map(|(thing, why)| format!("{thing}: {why}")).collect()
}

#[tokio::test(start_paused = true)]
async fn readiness_asks_the_transports_each_time() {
    let (memory, clock) = virtual_memory(MemoryConfig::default());
    let faulty = Faulty::new(&memory);
    let service = Service::new("shop").clock(clock).transport("edge", faulty.clone());
    let board = service.health();
    assert!(!board.readiness().await.ready, "it has not started");
    let running = service.on("g", |_: Placed, _| async { Ok(()) }).start().await.unwrap();
    assert_eq!(problems(&running).await, [""; 0]);
    *faulty.down.lock().unwrap() = Some(Health::Down("no route to host".to_owned()));
    assert_eq!(problems(&running).await, ["edge: no route to host"]);
    *faulty.down.lock().unwrap() = Some(Health::Up);
    assert_eq!(problems(&running).await, ["edge: it does not say within 2s how it is"]);
    *faulty.down.lock().unwrap() = None;
    assert_eq!(problems(&running).await, [""; 0]);
    running.drain().await.unwrap();
    assert!(!board.readiness().await.ready, "it has been drained");
}

#[tokio::test(start_paused = true)]
async fn a_subscription_that_cannot_be_begun_again_is_told_until_it_can() {
    let (memory, clock) = virtual_memory(MemoryConfig::default());
    let faulty = Faulty::new(&memory);
    faulty.endings.store(1, Ordering::SeqCst);
    let handled = Arc::new(AtomicU32::new(0));
    let counter = handled.clone();
    let running = Service::new("shop")
        .clock(clock)
        .transport("memory", faulty.clone())
        .on("g", move |_: Placed, _| {
            counter.fetch_add(1, Ordering::SeqCst);
            async { Ok(()) }
        })
        .start()
        .await
        .unwrap();
    faulty.refusals.store(u32::MAX, Ordering::SeqCst);
    tokio::time::sleep(Duration::from_secs(100)).await;
    assert_eq!(problems(&running).await, ["subscription of g on memory: the rights were taken away"]);
    faulty.refusals.store(0, Ordering::SeqCst);
    running.publisher().publish(&placed(1)).await.unwrap();
    until("handled", || handled.load(Ordering::SeqCst) == 1).await;
    assert_eq!(problems(&running).await, [""; 0]);
    running.drain().await.unwrap();
}

/// An inbox that panics for one message.
#[derive(Debug)]
struct Panicking(MessageId);

#[async_trait::async_trait]
impl Inbox for Panicking {
    async fn contains(&self, _: &str, envelope: &Envelope) -> Result<bool, BoxError> {
        assert!(*envelope.id() != self.0, "the inbox has a mistake");
        Ok(false)
    }
    async fn remember(&self, _: &str, _: &Envelope) -> Result<(), BoxError> {
        Ok(())
    }
}

/// What is plugged in panics: the message goes back, and the service is not ready any more.
#[tokio::test(start_paused = true)]
async fn a_lane_that_panics_is_told_and_loses_nothing() {
    for lanes in [1, 3] {
        let (memory, clock) = virtual_memory(MemoryConfig::default());
        let bad = MessageId::parse("bad").unwrap();
        let spec = HandlerSpec::new("g", "g")
            .unwrap()
            .with(closure(|_: Placed, _| async { Ok(()) }))
            .concurrency(lanes)
            .inbox(Arc::new(Panicking(bad.clone())));
        let running = Service::new("shop")
            .clock(clock)
            .transport("memory", memory.connection())
            .spec(spec)
            .start()
            .await
            .unwrap();
        running.publisher().publish_with(&placed(1), |envelope| envelope.set_id(bad)).await.unwrap();
        tokio::time::sleep(Duration::from_secs(10)).await;
        let told = problems(&running).await;
        assert_eq!(told, ["handler g: a lane ended by a panic: the inbox has a mistake"]);
        running.drain().await.unwrap();
        let groups = memory.groups().await.unwrap();
        assert_eq!((groups[0].waiting, groups[0].in_hand), (1, Some(0)), "it waits for another start");
    }
}

/// Fails both of a batch: the first for good, the second so that it is tried again alone.
#[derive(Default)]
struct Failing(Mutex<Vec<Vec<u32>>>);

impl HandleBatch<Placed> for Failing {
    async fn handle_batch(&self, batch: Vec<Batch<Placed>>) -> Result<BatchOutcome, HandlerError> {
        let ids: Vec<u32> = batch.iter().map(|one| one.message.id).collect();
        self.0.lock().unwrap().push(ids.clone());
        let outcome = |id: u32| match (id, ids.len()) {
            (1, _) => Err(HandlerError::permanent("no such order")),
            (_, 2) => Err("once more".into()),
            _ => Ok(()),
        };
        Ok(BatchOutcome::each(ids.iter().map(|id| outcome(*id)).collect()))
    }
}

/// A copy that cannot be confirmed does not keep a suspect from its last start; and whoever waited for it begins nothing
/// beside the suspect.
#[tokio::test(start_paused = true)]
async fn a_suspect_does_not_wait_for_a_copy_and_nothing_starts_beside_it() {
    let (memory, clock) = virtual_memory(MemoryConfig::default());
    let faulty = Faulty::new(&memory);
    let failing = Arc::new(Failing::default());
    let gate = Arc::new(tokio::sync::Semaphore::new(0));
    let (begun, passed) = (Arc::new(AtomicU32::new(0)), gate.clone());
    let count = begun.clone();
    let suspected = HandlerSpec::new("g", "g").unwrap().with(closure(move |_: Shipped, _| {
        let (count, passed) = (count.clone(), passed.clone());
        async move {
            count.fetch_add(1, Ordering::SeqCst);
            let _ = passed.acquire().await;
            Ok(())
        }
    }));
    let batches = HandlerSpec::new("b", "b").unwrap().with(batch(&failing, 2, Duration::from_secs(1)));
    let running = Service::new("shop")
        .clock(clock)
        .transport("memory", faulty.clone())
        .spec(suspected)
        .spec(batches)
        .start()
        .await
        .unwrap();
    faulty.copies.store(u32::MAX, Ordering::SeqCst);
    running.publisher().publish_all(&[placed(1), placed(2)]).await.unwrap();
    until("the batch", || !failing.0.lock().unwrap().is_empty()).await;
    let mut suspect =
        crate::envelope_of(&Shipped { id: 7 }, &Text::from_static("shop"), clock.now()).unwrap();
    suspect.set_retry(Some(crate::envelope::Retry { round: 0, first: clock.now(), last_start: true }));
    let to = Destination::Retry { group: Group::new("g").unwrap(), step: 1, delay: Duration::ZERO };
    memory.publish(vec![Outgoing::new(to, suspect)]).await.unwrap();
    until("the suspect", || begun.load(Ordering::SeqCst) == 1).await;
    faulty.copies.store(0, Ordering::SeqCst);
    // Long enough for the copy, shorter than the suspect's timeout.
    tokio::time::sleep(Duration::from_secs(20)).await;
    assert_eq!(letters(&memory, "b").await.len(), 1, "the copy is confirmed meanwhile");
    assert_eq!(*failing.0.lock().unwrap(), [vec![1, 2]], "the other one waits for the suspect's end");
    gate.close();
    until("the other one", || failing.0.lock().unwrap().len() == 2).await;
    running.drain().await.unwrap();
}

/// Of two suspects one has its turn; the other is in nobody's hand meanwhile, so that it is not accused where the first kills the
/// process.
#[tokio::test(start_paused = true)]
async fn a_suspect_that_waits_for_its_turn_is_not_in_hand() {
    let (memory, clock) = virtual_memory(MemoryConfig::default());
    let (begun, gate) = (Arc::new(AtomicU32::new(0)), Arc::new(tokio::sync::Semaphore::new(0)));
    let handler = |name: &str| {
        let (count, passed) = (begun.clone(), gate.clone());
        HandlerSpec::new(name, name).unwrap().with(closure(move |_: Shipped, _| {
            let (count, passed) = (count.clone(), passed.clone());
            async move {
                count.fetch_add(1, Ordering::SeqCst);
                passed.acquire().await.unwrap().forget();
                Ok(())
            }
        }))
    };
    let faulty = Faulty::new(&memory);
    faulty.slow.store(true, Ordering::SeqCst);
    let service = Service::new("shop").clock(clock).transport("memory", faulty);
    let running = service.spec(handler("a")).spec(handler("b")).start().await.unwrap();
    // Both at once: each lane has its own before one has its turn.
    let suspects = ["a", "b"].map(|group| {
        let mut suspect =
            crate::envelope_of(&Shipped { id: 7 }, &Text::from_static("shop"), clock.now()).unwrap();
        suspect.set_retry(Some(crate::envelope::Retry { round: 0, first: clock.now(), last_start: true }));
        let to = Destination::Retry { group: Group::new(group).unwrap(), step: 1, delay: Duration::ZERO };
        Outgoing::new(to, suspect)
    });
    memory.publish(suspects.into()).await.unwrap();
    until("the first", || begun.load(Ordering::SeqCst) == 1).await;
    tokio::time::sleep(Duration::from_secs(5)).await;
    let groups = memory.groups().await.unwrap();
    let mut in_hand: Vec<_> = groups.iter().map(|group| group.in_hand.unwrap()).collect();
    in_hand.sort_unstable();
    assert_eq!((begun.load(Ordering::SeqCst), in_hand), (1, vec![0, 1]));
    gate.add_permits(2);
    until("the second, too", || begun.load(Ordering::SeqCst) == 2 && memory.is_idle()).await;
    running.drain().await.unwrap();
}

/// What a handler publishes is with the broker before its message is settled, and a pause of the broker is no reason to handle it again.
#[tokio::test(start_paused = true)]
async fn publishing_is_tried_again_unless_it_is_refused_for_good() {
    use TransportErrorKind::{Invalid, Unavailable};
    for (faults, condemned) in [(vec![Unavailable; 3], false), (vec![Invalid, Unavailable], true)] {
        let (memory, clock) = virtual_memory(MemoryConfig::default());
        let faulty = Faulty::new(&memory);
        *faulty.publishes.lock().unwrap() = faults;
        let (calls, shipped) = (Arc::new(AtomicU32::new(0)), Arc::new(AtomicU32::new(0)));
        let (count, arrived) = (calls.clone(), shipped.clone());
        let running = Service::new("shop")
            .clock(clock)
            .transport("memory", faulty.clone())
            .on("g", move |order: Placed, _| {
                count.fetch_add(1, Ordering::SeqCst);
                async move { Ok(Shipped { id: order.id }) }
            })
            .on("mail", move |_: Shipped, _| {
                arrived.fetch_add(1, Ordering::SeqCst);
                async { Ok(()) }
            })
            .start()
            .await
            .unwrap();
        running.publisher().publish(&placed(1)).await.unwrap();
        until("settled", || calls.load(Ordering::SeqCst) > 0 && memory.is_idle()).await;
        assert_eq!(calls.load(Ordering::SeqCst), 1);
        assert_eq!(shipped.load(Ordering::SeqCst), u32::from(!condemned));
        let letters = letters(&memory, "g").await;
        assert_eq!(letters.len(), usize::from(condemned));
        for letter in letters {
            let facts = letter.dead_letter().unwrap();
            assert_eq!(facts.kind, DeadLetterKind::Rejected);
            assert!(
                facts.error.contains("publishing failed") && facts.error.contains("not now"),
                "{}",
                facts.error
            );
        }
        running.drain().await.unwrap();
    }
}

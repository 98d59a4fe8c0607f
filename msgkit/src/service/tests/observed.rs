//! What observers are told.

use std::collections::BTreeMap;

use super::*;
use crate::policy::BreakerPolicy;
use crate::telemetry::Event;

#[tokio::test(start_paused = true)]
async fn observers_are_told_every_step_of_every_message() {
    let (memory, clock) = virtual_memory(MemoryConfig::default());
    let told: Arc<Mutex<BTreeMap<u32, Vec<&'static str>>>> = Arc::default();
    let (notes, tries) = (told.clone(), Arc::new(AtomicU32::new(0)));
    let spec = HandlerSpec::new("g", "g")
        .unwrap()
        .with(closure(move |order: Placed, _| {
            let tries = tries.clone();
            async move {
                match order.id {
                    2 if tries.fetch_add(1, Ordering::SeqCst) < 2 => Err("not yet".into()),
                    3 => Err(HandlerError::permanent("never")),
                    4 => Err(HandlerError::discard("of no use")),
                    5 => {
                        tokio::time::sleep(Duration::from_secs(1)).await;
                        Ok(())
                    }
                    _ => Ok(()),
                }
            }
        }))
        .overrides(|policy| {
            policy.immediate = Some(1);
            policy.delayed = Some(Some(Delayed::new(Duration::from_secs(1), 1)));
        });
    let running = Service::new("shop")
        .clock(clock)
        .transport("memory", memory.clone())
        .spec(spec)
        .observe(move |event: &Event<'_>| {
            // By the order's id; bytes that are none have none.
            let order =
                event.envelope.and_then(|envelope| serde_json::from_slice::<Placed>(envelope.payload()).ok());
            let whose = order.map_or(0, |order| order.id);
            notes.lock().unwrap().entry(whose).or_default().push(event.kind.name());
        })
        .start()
        .await
        .unwrap();
    running.publisher().publish_all(&(1..=4).map(placed).collect::<Vec<_>>()).await.unwrap();
    memory.publish_foreign(&"orders.x".parse().unwrap(), &b"\xff"[..], &NativeHeaders::new());
    until("the retry", || told.lock().unwrap().get(&2).is_some_and(|of| of.contains(&"succeeded"))).await;
    until("idle", || memory.is_idle()).await;
    running.publisher().publish_all(&[placed(5), placed(6)]).await.unwrap();
    until("the slow one", || told.lock().unwrap().get(&5).is_some_and(|of| of.len() == 3)).await;
    running.drain().await.unwrap();

    let told = told.lock().unwrap();
    let of = |id: u32| told[&id].join(" ");
    assert_eq!(of(1), "published received started succeeded settled");
    assert_eq!(
        of(2),
        "published received started failed started failed retry_scheduled settled received started succeeded settled"
    );
    assert_eq!(of(3), "published received started failed dead_lettered settled");
    assert_eq!(of(4), "published received started failed discarded settled");
    assert_eq!(of(5), "published received started succeeded settled", "a drain waits for it");
    assert_eq!(of(6), "published given_back");
    assert_eq!(of(0), "malformed dead_lettered settled");
}

/// The names of what an observer was told.
#[derive(Clone, Default)]
struct Told(Arc<Mutex<Vec<&'static str>>>);

impl Told {
    fn times(&self, name: &str) -> usize {
        self.0.lock().unwrap().iter().filter(|told| **told == name).count()
    }
}

/// A service with one handler, all on `memory`, and an observer.
async fn observed(memory: &Memory, clock: Clock, spec: HandlerSpec) -> (Running, Told) {
    let told = Told::default();
    let notes = told.clone();
    let service = Service::new("shop").clock(clock).transport("memory", memory.clone()).spec(spec);
    let service = service.observe(move |event: &Event<'_>| notes.0.lock().unwrap().push(event.kind.name()));
    (service.start().await.unwrap(), told)
}

/// What waited behind an open breaker when a drain began goes back, and somebody is told.
#[tokio::test(start_paused = true)]
async fn what_a_drain_gives_back_unfinished_is_told() {
    let (memory, clock) = virtual_memory(MemoryConfig::default());
    let spec = HandlerSpec::new("g", "g")
        .unwrap()
        .with(closure(|_: Placed, _| async { Err::<(), _>("no database".into()) }))
        .retry(5, 0)
        .overrides(|policy| {
            policy.breaker = Some(Some(BreakerPolicy { failures: 1, ..Default::default() }));
        });
    let (running, told) = observed(&memory, clock, spec).await;
    running.publisher().publish(&placed(1)).await.unwrap();
    until("it failed", || told.times("failed") == 1).await;
    running.drain().await.unwrap();
    let told = told.0.lock().unwrap().join(" ");
    assert!(told.ends_with("failed given_back"), "{told}");
    assert!(!memory.is_idle(), "it waits for the next who comes");
}

/// So does what waits for its retry in place, and what waits behind it.
#[tokio::test(start_paused = true)]
async fn what_waits_in_place_goes_back_with_what_is_behind_it() {
    let (memory, clock) = virtual_memory(MemoryConfig::default());
    let spec = HandlerSpec::new("g", "g")
        .unwrap()
        .with(closure(|_: Placed, _| async {
            Err::<(), _>(HandlerError::retry_after("busy", Duration::from_secs(60)))
        }))
        .order(Order::Key(OnFailure::Hold))
        .retry(0, 3);
    let (running, told) = observed(&memory, clock, spec).await;
    running.publisher().publish_all(&[placed(1), placed(2)]).await.unwrap();
    until("both are there", || told.times("received") == 2).await;
    running.drain().await.unwrap();
    let told = told.0.lock().unwrap().join(" ");
    assert!(told.ends_with("given_back given_back"), "{told}");
}

/// A message may be started as often as the policy says without being settled; the start after those is its last, by way of a copy.
#[tokio::test(start_paused = true)]
async fn starts_are_counted_up_to_the_policys_most() {
    for (lost, received) in [(2, 3), (3, 5)] {
        let (memory, clock) = virtual_memory(MemoryConfig::default());
        let starts = Arc::new(AtomicU32::new(0));
        let (count, broken) = (starts.clone(), memory.clone());
        let spec = HandlerSpec::new("g", "g")
            .unwrap()
            .with(closure(move |_: Placed, _| {
                // Nothing that is settled after that is heard.
                if count.fetch_add(1, Ordering::SeqCst) < lost {
                    broken.disconnect();
                }
                async { Ok(()) }
            }))
            .overrides(|policy| policy.max_starts = Some(3));
        let (running, told) = observed(&memory, clock, spec).await;
        running.publisher().publish(&placed(1)).await.unwrap();
        until("idle", || memory.is_idle()).await;
        running.drain().await.unwrap();
        assert_eq!(starts.load(Ordering::SeqCst), lost + 1);
        assert_eq!(told.times("received"), received, "{lost} starts were lost");
    }
}

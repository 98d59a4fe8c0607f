//! What only comes together now and then: a pause and a suspect, a batch that takes too long, waits beyond all numbers.

use super::*;
use crate::envelope::MessageId;
use crate::handler::{Batch, BatchOutcome, HandleBatch, HandlerSpec, MemoryInbox, batch, closure};
use crate::telemetry::Event;
use crate::transport::{Destination, Outgoing, Publisher as _};

fn service(memory: &Memory, clock: Clock) -> Service {
    Service::new("shop").clock(clock).transport("memory", memory.connection())
}

/// A handler in group `name` that counts what it has handled.
fn counting(name: &'static str, count: &Arc<AtomicU32>) -> HandlerSpec {
    let count = count.clone();
    HandlerSpec::new(name, name).unwrap().with(closure(move |_: Placed, _| {
        count.fetch_add(1, Ordering::SeqCst);
        async { Ok(()) }
    }))
}

#[tokio::test(start_paused = true)]
async fn without_delays_retry_after_is_kept_and_the_cap_holds() {
    // A copy waits in the place of a message, or where a key must hold, the message itself.
    for (order, copies) in [(Order::None, 2), (Order::Key(OnFailure::Hold), 0)] {
        let (memory, clock) = virtual_memory(MemoryConfig::default());
        let times: Arc<Mutex<Vec<Timestamp>>> = Arc::default();
        let log = times.clone();
        let spec = HandlerSpec::new("g", "g")
            .unwrap()
            .with(closure(move |_: Placed, _| {
                log.lock().unwrap().push(clock.now());
                async { Err::<(), _>(HandlerError::retry_after("busy", Duration::from_secs(60))) }
            }))
            .order(order)
            .overrides(|policy| {
                policy.immediate = Some(2);
                policy.delayed = Some(None);
            });
        let scheduled = Arc::new(AtomicU32::new(0));
        let count = scheduled.clone();
        let counting = move |event: &Event<'_>| {
            count.fetch_add(u32::from(event.kind.name() == "retry_scheduled"), Ordering::SeqCst);
        };
        let running = service(&memory, clock).spec(spec).observe(counting).start().await.unwrap();
        running.publisher().publish(&placed(1)).await.unwrap();
        tokio::time::sleep(Duration::from_secs(600)).await;
        let times = times.lock().unwrap().clone();
        assert_eq!(times.len(), 3, "two retries, {order:?}");
        assert!(times.windows(2).all(|pair| pair[1].since(pair[0]) >= Duration::from_secs(60)), "{times:?}");
        assert_eq!(scheduled.load(Ordering::SeqCst), copies, "{order:?}");
        let letter = letters(&memory, "g").await.remove(0);
        let facts = letter.dead_letter().unwrap();
        assert_eq!((facts.attempts, facts.first), (3, times[0]), "{order:?}");
        running.drain().await.unwrap();
    }
}

#[tokio::test(start_paused = true)]
async fn waits_beyond_all_numbers_are_waits_and_no_panics() {
    let (memory, clock) = virtual_memory(MemoryConfig::default());
    let count = Arc::new(AtomicU32::new(0));
    let counter = count.clone();
    let spec = HandlerSpec::new("g", "g")
        .unwrap()
        .with(closure(move |order: Placed, _| {
            let counter = counter.clone();
            async move {
                tokio::task::yield_now().await;
                if order.id == 0 {
                    return Err(HandlerError::retry_after("busy", Duration::MAX));
                }
                counter.fetch_add(1, Ordering::SeqCst);
                Ok(())
            }
        }))
        .order(Order::Key(OnFailure::Hold))
        .overrides(|policy| policy.timeout = Some(Duration::MAX));
    let running = service(&memory, clock).spec(spec).start().await.unwrap();
    running.publisher().publish(&Placed { id: 0, customer: "waits".into() }).await.unwrap();
    running.publisher().publish(&placed(1)).await.unwrap();
    until("the other key", || count.load(Ordering::SeqCst) == 1).await;
    assert!(running.readiness().await.ready);
    running.drain().await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_batch_that_takes_too_long_lets_go_of_what_it_holds() {
    struct Locking {
        lock: tokio::sync::Mutex<()>,
        handled: AtomicU32,
    }
    impl HandleBatch<Placed> for Locking {
        async fn handle_batch(&self, batch: Vec<Batch<Placed>>) -> Result<BatchOutcome, HandlerError> {
            let _held = self.lock.lock().await;
            if batch.len() > 1 {
                std::future::pending::<()>().await;
            }
            self.handled.fetch_add(1, Ordering::SeqCst);
            Ok(BatchOutcome::all(batch.len()))
        }
    }
    let (memory, clock) = virtual_memory(MemoryConfig::default());
    let handler = Arc::new(Locking { lock: tokio::sync::Mutex::default(), handled: AtomicU32::new(0) });
    let spec = HandlerSpec::new("g", "g")
        .unwrap()
        .with(batch(&handler, 8, Duration::from_millis(100)))
        .overrides(|policy| {
            policy.immediate = Some(1);
            policy.delayed = Some(None);
            policy.timeout = Some(Duration::from_secs(1));
        });
    let running = service(&memory, clock).spec(spec).start().await.unwrap();
    running.publisher().publish_all(&[placed(1), placed(2)]).await.unwrap();
    until("both, alone", || handler.handled.load(Ordering::SeqCst) == 2).await;
    assert!(letters(&memory, "g").await.is_empty());
    running.drain().await.unwrap();
}

/// A copy of a suspect, as a service makes it whose message was started too often.
fn suspect(clock: Clock) -> Outgoing {
    let mut envelope = crate::envelope_of(&placed(1), &Text::from_static("shop"), clock.now()).unwrap();
    envelope.set_retry(Some(crate::envelope::Retry { round: 0, first: clock.now(), last_start: true }));
    let group = Group::new("g").unwrap();
    Outgoing::new(Destination::Retry { group, step: 1, delay: Duration::ZERO }, envelope)
}

#[tokio::test(start_paused = true)]
async fn a_suspect_does_not_wait_for_a_handler_that_is_paused() {
    let (memory, clock) = virtual_memory(MemoryConfig::default());
    let (count, other) = (Arc::new(AtomicU32::new(0)), Arc::new(AtomicU32::new(0)));
    let running = service(&memory, clock)
        .spec(counting("g", &count))
        .spec(counting("other", &other))
        .spec(counting("third", &other).concurrency(3))
        .start()
        .await
        .unwrap();
    running.pause("other").await.unwrap();
    running.pause("third").await.unwrap();
    memory.publish(vec![suspect(clock)]).await.unwrap();
    until("the suspect", || count.load(Ordering::SeqCst) == 1).await;
    running.publisher().publish(&placed(2)).await.unwrap();
    until("the next", || count.load(Ordering::SeqCst) == 2).await;
    assert_eq!(other.load(Ordering::SeqCst), 0, "they are paused still");
    running.resume("other").await.unwrap();
    running.resume("third").await.unwrap();
    until("the others", || other.load(Ordering::SeqCst) == 2).await;
    running.drain().await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn what_is_attached_is_checked_and_fitted_out_as_at_the_start() {
    let (memory, clock) = virtual_memory(MemoryConfig::default());
    let count = Arc::new(AtomicU32::new(0));
    let running = service(&memory, clock)
        .inbox(Arc::new(MemoryInbox::new(100)))
        .spec(counting("g", &count))
        .start()
        .await
        .unwrap();
    let shares = HandlerSpec::new("second", "g").unwrap().with(closure(|_: Placed, _| async { Ok(()) }));
    let error = running.attach(shares).await.unwrap_err().to_string();
    assert!(error.contains("share the group `g`"), "{error}");
    let error = running.attach(counting("g", &count)).await.unwrap_err().to_string();
    assert!(error.contains("two handlers are named `g`"), "{error}");
    running.detach("g").await.unwrap();
    let late = Arc::new(AtomicU32::new(0));
    running.attach(counting("late", &late)).await.unwrap();
    let id = MessageId::parse("once").unwrap();
    for _ in 0..2 {
        running.publisher().publish_with(&placed(1), |envelope| envelope.set_id(id.clone())).await.unwrap();
    }
    tokio::time::sleep(Duration::from_secs(60)).await;
    assert_eq!(late.load(Ordering::SeqCst), 1, "the service's inbox is the attached handler's, too");
    running.drain().await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn what_an_attached_handler_publishes_has_to_have_a_place() {
    let says = || {
        HandlerSpec::new("says", "says")
            .unwrap()
            .with(closure(|_: Shipped, _| async { Ok(Placed { id: 1, customer: "c".into() }) }))
    };
    let (memory, clock) = virtual_memory(MemoryConfig::default());
    let running = service(&memory, clock).start().await.unwrap();
    let error = running.attach(says()).await.unwrap_err().to_string();
    assert!(error.contains("publishes `orders.placed`") && error.contains("`Service::publishes`"), "{error}");
    running.drain().await.unwrap();
    let (memory, clock) = virtual_memory(MemoryConfig::default());
    let running = service(&memory, clock).publishes::<Placed>().start().await.unwrap();
    running.attach(says()).await.unwrap();
    running.drain().await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn what_is_published_for_later_waits_for_a_handler_without_a_group_too() {
    let (memory, clock) =
        virtual_memory(MemoryConfig { delay: MemoryDelay::RetryTopics, ..MemoryConfig::default() });
    let seen: Arc<Mutex<Vec<(u32, Timestamp)>>> = Arc::default();
    let log = seen.clone();
    let spec = HandlerSpec::ephemeral("all").unwrap().with(closure(move |order: Placed, _| {
        log.lock().unwrap().push((order.id, clock.now()));
        async { Ok(()) }
    }));
    let running = service(&memory, clock).spec(spec).start().await.unwrap();
    let due = clock.now().after(Duration::from_secs(60));
    running
        .publisher()
        .publish_with(&placed(1), |envelope| envelope.set_not_before(Some(due)))
        .await
        .unwrap();
    running.publisher().publish(&placed(2)).await.unwrap();
    until("both", || seen.lock().unwrap().len() == 2).await;
    let seen = seen.lock().unwrap().clone();
    assert_eq!((seen[0].0, seen[1].0), (2, 1), "the other one of its key need not wait");
    assert!(seen[1].1 >= due, "{seen:?}");
    running.drain().await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn nobody_can_stop_the_retries_of_a_group_with_a_date() {
    let (memory, clock) =
        virtual_memory(MemoryConfig { delay: MemoryDelay::RetryTopics, ..MemoryConfig::default() });
    let handled: Arc<Mutex<Vec<u32>>> = Arc::default();
    let (log, failed) = (handled.clone(), Arc::new(AtomicU32::new(0)));
    let spec = HandlerSpec::new("g", "g")
        .unwrap()
        .with(closure(move |order: Placed, _| {
            let first = order.id == 7 && failed.fetch_add(1, Ordering::SeqCst) == 0;
            if !first {
                log.lock().unwrap().push(order.id);
            }
            async move { if first { Err("once".into()) } else { Ok(()) } }
        }))
        .overrides(|policy| {
            policy.immediate = Some(0);
            policy.delayed = Some(Some(Delayed::new(Duration::from_secs(1), 1)));
        });
    let running = service(&memory, clock).spec(spec).start().await.unwrap();
    let far = "9999-12-30T00:00:00Z".parse::<Timestamp>().unwrap();
    for id in [1, 2] {
        running
            .publisher()
            .publish_with(&placed(id), |envelope| envelope.set_not_before(Some(far)))
            .await
            .unwrap();
    }
    tokio::time::sleep(Duration::from_secs(5)).await;
    running.publisher().publish(&placed(7)).await.unwrap();
    tokio::time::sleep(Duration::from_secs(120)).await;
    assert_eq!(*handled.lock().unwrap(), [7], "and the two are not handled before their time");
    let delayed: u64 = memory.groups().await.unwrap().iter().map(|group| group.delayed + group.waiting).sum();
    assert_eq!(delayed, 2, "they are kept");
    running.drain().await.unwrap();
}

/// A policy is changed to fewer delays, and older members go on with the larger one for a while.
#[tokio::test(start_paused = true)]
async fn copies_in_steps_that_the_policy_no_longer_has_are_read() {
    let (memory, clock) =
        virtual_memory(MemoryConfig { delay: MemoryDelay::RetryTopics, ..MemoryConfig::default() });
    let handled: Arc<Mutex<Vec<u32>>> = Arc::default();
    let failed = Arc::new(AtomicU32::new(0));
    let member = |rounds: u32, works: bool| {
        let (log, count) = (handled.clone(), failed.clone());
        let handle = closure(move |order: Placed, _| {
            count.fetch_add(u32::from(!works), Ordering::SeqCst);
            if works {
                log.lock().unwrap().push(order.id);
            }
            async move { if works { Ok(()) } else { Err("not yet".into()) } }
        });
        let spec = HandlerSpec::new("g", "g").unwrap().with(handle).overrides(|policy| {
            policy.immediate = Some(0);
            policy.delayed = Some(Some(Delayed::new(Duration::from_secs(10), rounds)));
        });
        service(&memory, clock).spec(spec).start()
    };
    let third = Destination::Retry { group: Group::new("g").unwrap(), step: 3, delay: Duration::ZERO };
    for id in [1, 2] {
        let old = member(3, false).await.unwrap();
        let new = if id == 2 { Some(member(1, true).await.unwrap()) } else { None };
        if let Some(new) = &new {
            // The older member gets it: the newer one takes nothing for now.
            new.pause("g").await.unwrap();
        }
        old.publisher().publish(&placed(id)).await.unwrap();
        until("three attempts", || failed.load(Ordering::SeqCst) == 3 * id).await;
        tokio::time::sleep(Duration::from_secs(1)).await;
        old.crash().await;
        assert_eq!(memory.depth(&third).await.unwrap(), Some(1));
        let new = match new {
            Some(new) => {
                new.resume("g").await.unwrap();
                new
            }
            None => member(1, true).await.unwrap(),
        };
        tokio::time::sleep(Duration::from_secs(600)).await;
        assert_eq!(handled.lock().unwrap().iter().filter(|seen| **seen == id).count(), 1);
        new.drain().await.unwrap();
    }
}

#[tokio::test(start_paused = true)]
async fn batches_are_batches_behind_a_belt_too() {
    #[derive(Default)]
    struct Sizes(Mutex<Vec<usize>>);
    impl HandleBatch<Placed> for Sizes {
        async fn handle_batch(&self, batch: Vec<Batch<Placed>>) -> Result<BatchOutcome, HandlerError> {
            tokio::time::sleep(Duration::from_millis(10)).await;
            self.0.lock().unwrap().push(batch.len());
            Ok(BatchOutcome::all(batch.len()))
        }
    }
    for (delay, lanes) in
        [(MemoryDelay::RetryTopics, 1), (MemoryDelay::Native, 2), (MemoryDelay::RetryTopics, 2)]
    {
        let (memory, clock) = virtual_memory(MemoryConfig { delay, ..MemoryConfig::default() });
        let handler = Arc::new(Sizes::default());
        let spec = HandlerSpec::new("g", "g")
            .unwrap()
            .with(batch(&handler, 10, Duration::from_secs(1)))
            .concurrency(lanes);
        let running = service(&memory, clock).spec(spec).start().await.unwrap();
        // One by one, so that they come together only where they are waited for.
        for id in 0..60 {
            running.publisher().publish(&placed(id)).await.unwrap();
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        until("all", || handler.0.lock().unwrap().iter().sum::<usize>() == 60).await;
        let sizes = handler.0.lock().unwrap().clone();
        assert!(sizes.len() <= 8, "{lanes} lanes: {sizes:?}");
        running.drain().await.unwrap();
    }
}

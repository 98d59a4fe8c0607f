//! Messages on their way through handlers, in order, and what a drain and a pause do.

use super::*;
use crate::handler::{Batch, BatchOutcome, HandleBatch, batch};

#[tokio::test(start_paused = true)]
async fn a_message_flows_through_two_handlers() {
    let (memory, clock) = virtual_memory(MemoryConfig::default());
    let seen = Arc::new(Mutex::new(Vec::new()));
    let log = seen.clone();
    let running = Service::new("shop")
        .clock(clock)
        .transport("memory", memory.clone())
        .on("shipping", |order: Placed, _| async move { Ok(Shipped { id: order.id }) })
        .on("mail", move |shipped: Shipped, cx: Context| {
            log.lock().unwrap().push((shipped.id, cx.envelope().hop(), cx.envelope().clone()));
            async { Ok(()) }
        })
        .start()
        .await
        .unwrap();
    let first = running.publisher().publish(&placed(7)).await.unwrap();
    until("mail", || !seen.lock().unwrap().is_empty()).await;
    until("idle", || memory.is_idle()).await;
    let (id, hop, envelope) = seen.lock().unwrap()[0].clone();
    assert_eq!((id, hop), (7, 1));
    assert_eq!(envelope.causation_id(), Some(first.id()));
    assert_eq!(envelope.correlation_id(), first.id());
    assert_eq!(envelope.trace().parent.trace_id(), first.trace().parent.trace_id());
    running.drain().await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn keys_stay_in_order_over_lanes_and_hold_keeps_those_behind() {
    for order in [Order::Key(OnFailure::Overtake), Order::Key(OnFailure::Hold)] {
        let (memory, clock) = virtual_memory(MemoryConfig::default());
        let seen: Arc<Mutex<Vec<(String, u32)>>> = Arc::default();
        let (log, failed) = (seen.clone(), Arc::new(AtomicU32::new(0)));
        let spec = HandlerSpec::new("g", "g")
            .unwrap()
            .with(closure(move |order: Placed, _| {
                let (log, failed) = (log.clone(), failed.clone());
                async move {
                    tokio::time::sleep(Duration::from_millis(fastrand::u64(0..5))).await;
                    if order.id == 5 && order.customer == "a" && failed.fetch_add(1, Ordering::SeqCst) < 2 {
                        return Err("once more".into());
                    }
                    log.lock().unwrap().push((order.customer, order.id));
                    Ok(())
                }
            }))
            .order(order)
            .concurrency(4)
            .overrides(|p| {
                p.immediate = Some(0);
                p.delayed = Some(Some(Delayed::new(Duration::from_secs(1), 3)));
            });
        let running = serve(&memory, clock, spec).await;
        for id in 0..20 {
            for customer in ["a", "b", "c", "d", "e"] {
                running.publisher().publish(&Placed { id, customer: customer.into() }).await.unwrap();
            }
        }
        until("all handled", || seen.lock().unwrap().len() == 100).await;
        until("idle", || memory.is_idle()).await;
        let seen = seen.lock().unwrap().clone();
        for customer in ["a", "b", "c", "d", "e"] {
            let mut ids: Vec<u32> = seen.iter().filter(|(c, _)| c == customer).map(|(_, id)| *id).collect();
            if customer == "a" && order == Order::Key(OnFailure::Overtake) {
                assert_eq!(ids.pop(), Some(5), "the failed one is overtaken");
                assert_eq!(ids, (0..20).filter(|id| *id != 5).collect::<Vec<_>>());
            } else {
                assert_eq!(ids, (0..20).collect::<Vec<_>>(), "{customer} {order:?}");
            }
        }
        running.drain().await.unwrap();
    }
}

#[tokio::test(start_paused = true)]
async fn a_drain_costs_no_attempt_and_gives_back_what_is_not_done() {
    let (memory, clock) = virtual_memory(MemoryConfig::default());
    let started = Arc::new(AtomicU32::new(0));
    let count = started.clone();
    let running = Service::new("shop")
        .clock(clock)
        .transport("memory", memory.connection())
        .drain_deadline(Duration::from_secs(1))
        .on("g", move |_: Placed, cx: Context| {
            assert_eq!(cx.attempt(), 1);
            count.fetch_add(1, Ordering::SeqCst);
            async { std::future::pending::<Result<(), HandlerError>>().await }
        })
        .start()
        .await
        .unwrap();
    running.publisher().publish_all(&[placed(1), placed(2), placed(3)]).await.unwrap();
    until("started", || started.load(Ordering::SeqCst) == 1).await;
    running.drain().await.unwrap();
    assert_eq!(started.load(Ordering::SeqCst), 1);
    let handled: Arc<Mutex<Vec<(u32, u32)>>> = Arc::default();
    let log = handled.clone();
    let running = Service::new("shop")
        .clock(clock)
        .transport("memory", memory.connection())
        .on("g", move |order: Placed, cx: Context| {
            log.lock().unwrap().push((order.id, cx.attempt()));
            async { Ok(()) }
        })
        .start()
        .await
        .unwrap();
    until("handled", || handled.lock().unwrap().len() == 3).await;
    assert_eq!(*handled.lock().unwrap(), [(1, 1), (2, 1), (3, 1)]);
    running.drain().await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn pause_resume_attach_detach() {
    let (memory, clock) = virtual_memory(MemoryConfig::default());
    let count = Arc::new(AtomicU32::new(0));
    let counter = count.clone();
    let spec = || {
        let counter = counter.clone();
        HandlerSpec::new("g", "g").unwrap().with(closure(move |_: Placed, _| {
            counter.fetch_add(1, Ordering::SeqCst);
            async { Ok(()) }
        }))
    };
    let running = Service::new("shop")
        .clock(clock)
        .transport("memory", memory.clone())
        .spec(spec())
        .start()
        .await
        .unwrap();
    running.pause("g").await.unwrap();
    running.publisher().publish(&placed(1)).await.unwrap();
    tokio::time::sleep(Duration::from_secs(60)).await;
    assert_eq!(count.load(Ordering::SeqCst), 0);
    running.resume("g").await.unwrap();
    until("resumed", || count.load(Ordering::SeqCst) == 1).await;
    running.detach("g").await.unwrap();
    running.publisher().publish(&placed(2)).await.unwrap();
    tokio::time::sleep(Duration::from_secs(60)).await;
    assert_eq!(count.load(Ordering::SeqCst), 1);
    assert!(running.pause("g").await.unwrap_err().to_string().contains("no handler is named `g`"));
    running.attach(spec()).await.unwrap();
    until("attached", || count.load(Ordering::SeqCst) == 2).await;
    running.drain().await.unwrap();
}

#[tokio::test]
async fn what_a_handler_returns_shares_one_destination_whatever_its_dynamic_segments() {
    let places = Arc::new(Mutex::new(Vec::new()));
    let seen = places.clone();
    let running = Service::new("shop")
        .on("order", |shipped: Shipped, _cx: Context| async move { Ok(placed(shipped.id)) })
        .observe(move |event: &crate::telemetry::Event<'_>| {
            if let crate::telemetry::EventKind::Published { to: Destination::Topic { topic, place } } =
                &event.kind
            {
                seen.lock().unwrap().push((topic.to_string(), place.as_ref().map(ToString::to_string)));
            }
        })
        .start()
        .await
        .unwrap();
    running.publisher().publish(&Shipped { id: 1 }).await.unwrap();
    until("it is published", || places.lock().unwrap().len() == 2).await;
    running.drain().await.unwrap();
    let wanted = [("shipping".to_owned(), None), ("orders.c1".to_owned(), Some("orders._".to_owned()))];
    assert_eq!(*places.lock().unwrap(), wanted);
}

#[tokio::test(start_paused = true)]
async fn a_batch_never_has_two_messages_of_a_key_that_holds() {
    #[derive(Default)]
    struct Noting {
        batches: Mutex<Vec<Vec<(String, u32)>>>,
        failed: AtomicU32,
    }
    impl HandleBatch<Placed> for Noting {
        async fn handle_batch(&self, batch: Vec<Batch<Placed>>) -> Result<BatchOutcome, HandlerError> {
            let orders = batch.iter().map(|one| (one.message.customer.clone(), one.message.id));
            self.batches.lock().unwrap().push(orders.collect());
            let outcomes = batch.iter().map(|one| {
                let bad = (one.message.customer.as_str(), one.message.id) == ("a", 0);
                if bad && self.failed.fetch_add(1, Ordering::SeqCst) == 0 {
                    return Err("once more".into());
                }
                Ok(())
            });
            Ok(BatchOutcome::each(outcomes.collect()))
        }
    }
    let (memory, clock) = virtual_memory(MemoryConfig::default());
    let handler = Arc::new(Noting::default());
    let spec = HandlerSpec::new("g", "g")
        .unwrap()
        .with(batch(&handler, 8, Duration::from_millis(100)))
        .order(Order::Key(OnFailure::Hold))
        .overrides(|p| {
            p.immediate = Some(0);
            p.delayed = Some(Some(Delayed::new(Duration::from_secs(1), 3)));
        });
    let service = Service::new("shop").clock(clock).transport("memory", memory.clone()).spec(spec);
    let running = service.start().await.unwrap();
    let orders: Vec<Placed> = [("a", 0), ("b", 0), ("a", 1), ("b", 1), ("a", 2), ("c", 0)]
        .map(|(customer, id)| Placed { id, customer: customer.into() })
        .into();
    running.publisher().publish_all(&orders).await.unwrap();
    until("idle", || memory.is_idle()).await;
    let batches = handler.batches.lock().unwrap().clone();
    for keys in batches.iter().map(|batch| batch.iter().map(|(key, _)| key).collect::<Vec<_>>()) {
        let distinct: std::collections::BTreeSet<_> = keys.iter().collect();
        assert_eq!(distinct.len(), keys.len(), "{batches:?}");
    }
    assert_eq!(batches[0].len(), 2, "the first batch ends before the second message of a key: {batches:?}");
    let of_a: Vec<u32> = batches.iter().flatten().filter(|(key, _)| key == "a").map(|(_, id)| *id).collect();
    assert_eq!(of_a, [0, 0, 1, 2], "nothing of the key overtakes the one that failed");
    running.drain().await.unwrap();
}

/// A batch is handled once it is full, however long it may wait; one that is not full when its wait is over; none is larger.
#[tokio::test(start_paused = true)]
async fn a_batch_waits_until_it_is_full_or_its_time_is_over() {
    struct Sizes {
        clock: Clock,
        batches: Mutex<Vec<(Timestamp, usize)>>,
    }
    impl HandleBatch<Placed> for Sizes {
        async fn handle_batch(&self, batch: Vec<Batch<Placed>>) -> Result<BatchOutcome, HandlerError> {
            self.batches.lock().unwrap().push((self.clock.now(), batch.len()));
            Ok(BatchOutcome::all(batch.len()))
        }
    }
    let wait = Duration::from_secs(3600);
    let (memory, clock) = virtual_memory(MemoryConfig::default());
    let handler = Arc::new(Sizes { clock, batches: Mutex::default() });
    let spec = crate::handler::HandlerSpec::new("g", "g").unwrap().with(batch(&handler, 3, wait));
    let service = Service::new("shop").clock(clock).transport("memory", memory.connection());
    let running = service.spec(spec).start().await.unwrap();
    let began = clock.now();
    // Seven, of which no more than two come at once.
    for ids in [&[1, 2][..], &[3, 4], &[5, 6], &[7]] {
        let orders: Vec<Placed> = ids.iter().copied().map(placed).collect();
        running.publisher().publish_all(&orders).await.unwrap();
        tokio::time::sleep(Duration::from_secs(60)).await;
    }
    let sizes = |batches: &[(Timestamp, usize)]| batches.iter().map(|(_, size)| *size).collect::<Vec<_>>();
    {
        let batches = handler.batches.lock().unwrap();
        assert_eq!(sizes(&batches), [3, 3], "what is full waits no longer");
        assert!(batches[0].0 < began.after(Duration::from_secs(120)));
    }
    tokio::time::sleep(wait).await;
    {
        let batches = handler.batches.lock().unwrap();
        assert_eq!(sizes(&batches), [3, 3, 1]);
        assert!(batches[2].0.since(began) >= wait, "the last waited for others");
    }
    running.drain().await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn nothing_waits_behind_a_slow_message_while_another_lane_is_free() {
    let (memory, clock) = virtual_memory(MemoryConfig::default());
    let handled: Arc<Mutex<Vec<u32>>> = Arc::default();
    let log = handled.clone();
    let spec = HandlerSpec::new("g", "g")
        .unwrap()
        .with(closure(move |order: Placed, _| {
            let log = log.clone();
            async move {
                match order.id {
                    0..4 => tokio::time::sleep(Duration::from_millis(1)).await,
                    4 => tokio::time::sleep(Duration::from_secs(10)).await,
                    _ => {}
                }
                log.lock().unwrap().push(order.id);
                Ok(())
            }
        }))
        .order(Order::None)
        .concurrency(2);
    let running = serve(&memory, clock, spec).await;
    // Lanes that had to wait take no more than one message at once.
    let all: Vec<Placed> = (0..20).map(placed).collect();
    running.publisher().publish_all(&all[..4]).await.unwrap();
    until("the first four", || handled.lock().unwrap().len() == 4).await;
    running.publisher().publish_all(&all[4..]).await.unwrap();
    until("all but the slow one", || handled.lock().unwrap().len() >= 19).await;
    assert!(!handled.lock().unwrap().contains(&4), "{:?}", handled.lock().unwrap());
    running.drain().await.unwrap();
    assert_eq!(handled.lock().unwrap().last(), Some(&4));
}

#[tokio::test(start_paused = true)]
async fn a_batch_is_of_one_transport() {
    struct Ids(Mutex<Vec<Vec<u32>>>);
    impl HandleBatch<Placed> for Ids {
        async fn handle_batch(&self, batch: Vec<Batch<Placed>>) -> Result<BatchOutcome, HandlerError> {
            self.0.lock().unwrap().push(batch.iter().map(|item| item.message.id).collect());
            Ok(BatchOutcome::all(batch.len()))
        }
    }
    let (memory, clock) = virtual_memory(MemoryConfig::default());
    let other = Memory::with(MemoryConfig::default(), clock);
    let handler = Arc::new(Ids(Mutex::default()));
    let running = Service::new("shop")
        .clock(clock)
        .transport("memory", memory.clone())
        .transport("other", other.clone())
        .route("orders.b".parse().unwrap(), "other")
        .route(">".parse().unwrap(), "memory")
        .spec(HandlerSpec::new("g", "g").unwrap().with(batch(&handler, 8, Duration::from_secs(10))))
        .start()
        .await
        .unwrap();
    let order = |id: u32, customer: &str| Placed { id, customer: customer.to_owned() };
    running.publisher().publish_all(&[order(1, "a"), order(2, "a")]).await.unwrap();
    tokio::time::sleep(Duration::from_secs(1)).await;
    running.publisher().publish_all(&[order(3, "b"), order(4, "b")]).await.unwrap();
    until("all four", || handler.0.lock().unwrap().iter().flatten().count() == 4).await;
    assert_eq!(*handler.0.lock().unwrap(), [[1, 2], [3, 4]]);
    until("idle", || memory.is_idle() && other.is_idle()).await;
    running.drain().await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_drain_finishes_what_is_being_handled_and_begins_nothing_more() {
    let (memory, clock) = virtual_memory(MemoryConfig::default());
    let begun = Arc::new(AtomicU32::new(0));
    let count = begun.clone();
    let running = Service::new("shop")
        .clock(clock)
        .transport("memory", memory.clone())
        .on("g", move |_: Placed, _| {
            count.fetch_add(1, Ordering::SeqCst);
            async {
                tokio::time::sleep(Duration::from_secs(1)).await;
                Ok(())
            }
        })
        .start()
        .await
        .unwrap();
    // The lane takes all of them at once.
    running.publisher().publish_all(&(0..10).map(placed).collect::<Vec<_>>()).await.unwrap();
    until("the first", || begun.load(Ordering::SeqCst) == 1).await;
    running.drain().await.unwrap();
    assert_eq!(begun.load(Ordering::SeqCst), 1);
    let [left] = &memory.groups().await.unwrap()[..] else { panic!("one group") };
    assert_eq!((left.waiting, left.in_hand), (9, Some(0)), "{left:?}");
}

/// A lane works off what there is of one type by itself and looks where the type changes: what comes next is not taken for handled.
#[tokio::test(start_paused = true)]
async fn types_that_alternate_are_each_handled_once() {
    let (memory, clock) = virtual_memory(MemoryConfig::default());
    let handled: Arc<Mutex<Vec<u32>>> = Arc::default();
    let (of_one, of_other) = (handled.clone(), handled.clone());
    let spec = HandlerSpec::new("g", "g")
        .unwrap()
        .with(closure(move |order: Placed, _| {
            of_one.lock().unwrap().push(order.id);
            async { Ok(()) }
        }))
        .with(closure(move |order: Shipped, _| {
            of_other.lock().unwrap().push(order.id);
            async { Ok(()) }
        }));
    let running = serve(&memory, clock, spec).await;
    for id in 0..12 {
        let to = running.publisher();
        match id {
            1 | 3 | 4 | 6 | 7 => drop(to.publish(&Shipped { id }).await.unwrap()),
            9 => memory.publish_foreign(&"orders.x".parse().unwrap(), &b"\xff"[..], &NativeHeaders::new()),
            _ => drop(to.publish(&placed(id)).await.unwrap()),
        }
    }
    until("idle", || memory.is_idle()).await;
    assert_eq!(*handled.lock().unwrap(), [0, 1, 2, 3, 4, 5, 6, 7, 8, 10, 11]);
    running.drain().await.unwrap();
}

/// A key that goes on does not wait for another one that still holds.
#[tokio::test(start_paused = true)]
async fn a_key_goes_on_while_another_waits() {
    let (memory, clock) = virtual_memory(MemoryConfig::default());
    let handled: Arc<Mutex<Vec<u32>>> = Arc::default();
    let log = handled.clone();
    let spec = HandlerSpec::new("g", "g")
        .unwrap()
        .with(closure(move |order: Placed, cx: Context| {
            let log = log.clone();
            let waits = |seconds| Err(HandlerError::retry_after("busy", Duration::from_secs(seconds)));
            async move {
                match (order.id, cx.attempt()) {
                    (1, 1) => return waits(1),
                    (2, 1) => return waits(60),
                    _ => log.lock().unwrap().push(order.id),
                }
                Ok(())
            }
        }))
        .order(Order::Key(OnFailure::Hold))
        .retry(0, 3);
    let running = serve(&memory, clock, spec).await;
    for (id, customer) in [(1, "a"), (2, "b"), (3, "a"), (4, "b")] {
        running.publisher().publish(&Placed { id, customer: customer.into() }).await.unwrap();
    }
    tokio::time::sleep(Duration::from_secs(30)).await;
    assert_eq!(*handled.lock().unwrap(), [1, 3]);
    until("idle", || memory.is_idle()).await;
    assert_eq!(*handled.lock().unwrap(), [1, 3, 2, 4]);
    running.drain().await.unwrap();
}

//! The failure pipeline: retries, dead letters, what kills a process.

use super::*;
use crate::policy::Unhandled;
use crate::transport::{Outgoing, Publisher as _};

struct Flaky {
    fail: u32,
    calls: Arc<AtomicU32>,
    ids: Arc<Mutex<Vec<crate::MessageId>>>,
}

impl Handle<Placed, Shipped> for Flaky {
    async fn handle(&self, order: Placed, cx: &Context) -> Result<Shipped, HandlerError> {
        let call = self.calls.fetch_add(1, Ordering::SeqCst) + 1;
        assert_eq!(cx.attempt(), call);
        if call <= self.fail {
            return Err("not yet".into());
        }
        cx.publish(&Shipped { id: order.id })?;
        self.ids.lock().unwrap().extend(cx.published().iter().map(|e| e.id().clone()));
        Ok(Shipped { id: order.id })
    }
}

impl crate::Handler for Flaky {
    fn spec(self: Arc<Self>) -> Result<HandlerSpec, Error> {
        Ok(HandlerSpec::new("flaky", "flaky")?.handles::<Placed, _, _, _>(&self).retry(1, 3))
    }
}

/// Immediate and delayed retries, on native delays and on the core's retry topics alike.
async fn retries(config: MemoryConfig) {
    let (memory, clock) = virtual_memory(config);
    let calls = Arc::new(AtomicU32::new(0));
    let running = Service::new("shop")
        .clock(clock)
        .transport("memory", memory.clone())
        .handler(Flaky { fail: 5, calls: calls.clone(), ids: Arc::default() })
        .start()
        .await
        .unwrap();
    let began = clock.now();
    running.publisher().publish(&placed(1)).await.unwrap();
    until("six calls", || calls.load(Ordering::SeqCst) == 6).await;
    let took = clock.now().since(began);
    assert!(took >= Duration::from_secs(3) && took < Duration::from_secs(5), "{took:?}");
    assert!(letters(&memory, "flaky").await.is_empty());
    running.drain().await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn delayed_retries_come_when_they_are_due() {
    retries(MemoryConfig::default()).await;
}

#[tokio::test(start_paused = true)]
async fn delayed_retries_by_retry_topics() {
    retries(MemoryConfig { delay: MemoryDelay::RetryTopics, ..MemoryConfig::default() }).await;
}

/// A retry copy that its reader holds until it is due is still kept back, and is seen so.
#[tokio::test(start_paused = true)]
async fn what_waits_for_its_retry_is_seen_as_delayed() {
    for delay in [MemoryDelay::Native, MemoryDelay::RetryTopics] {
        let (memory, clock) = virtual_memory(MemoryConfig { delay, ..MemoryConfig::default() });
        let spec = HandlerSpec::new("g", "g")
            .unwrap()
            .with(closure(|_: Placed, _| async { Err::<(), _>("no".into()) }))
            .retry(0, 1);
        let running = serve(&memory, clock, spec).await;
        running.publisher().publish(&placed(1)).await.unwrap();
        tokio::time::sleep(Duration::from_millis(500)).await;
        let status = memory.groups().await.unwrap();
        assert_eq!((status[0].waiting, status[0].in_hand, status[0].delayed), (0, Some(0), 1));
        running.drain().await.unwrap();
    }
}

#[tokio::test(start_paused = true)]
async fn what_fails_for_good_is_a_complete_dead_letter_and_replays_to_its_group() {
    let (memory, clock) = virtual_memory(MemoryConfig::default());
    let calls = Arc::new(AtomicU32::new(0));
    let running = Service::new("shop")
        .clock(clock)
        .transport("memory", memory.clone())
        .handler(Flaky { fail: 8, calls: calls.clone(), ids: Arc::default() })
        .start()
        .await
        .unwrap();
    let publisher = running.publisher();
    let order = placed(1);
    let sent = publisher.publish_with(&order, |e| {
        e.headers_mut().insert("tenant".try_into().unwrap(), "t1").unwrap();
    });
    let sent = sent.await.unwrap();
    until("eight calls", || calls.load(Ordering::SeqCst) == 8).await;
    until("idle", || memory.is_idle()).await;
    let letters = letters(&memory, "flaky").await;
    let [letter] = letters.as_slice() else { panic!("{letters:?}") };
    let facts = letter.dead_letter().unwrap();
    assert_eq!(facts.kind, DeadLetterKind::Handler);
    assert_eq!((facts.attempts, facts.error.as_str()), (8, "not yet"));
    assert_eq!(
        (facts.group.as_str(), facts.service.as_str(), facts.handler.as_str()),
        ("flaky", "shop", "flaky")
    );
    assert_eq!(facts.topic, "orders.c1");
    assert!(facts.last > facts.first);
    assert_eq!(
        (letter.id(), letter.payload(), letter.headers().get("tenant")),
        (sent.id(), sent.payload(), Some("t1"))
    );
    running.drain().await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn undecodable_and_foreign_bytes_become_dead_letters_untouched() {
    let (memory, clock) = virtual_memory(MemoryConfig::default());
    let running = Service::new("shop")
        .clock(clock)
        .transport("memory", memory.clone())
        .on("g", |_: Placed, _| async { Ok(()) })
        .start()
        .await
        .unwrap();
    let mut native = NativeHeaders::new();
    native.push("X-Odd", crate::envelope::NativeValue::Null);
    memory.publish_foreign(&"orders.x".parse().unwrap(), &b"\xff\x00raw"[..], &native);
    let mut bad = crate::envelope_of(&placed(1), &Text::from("t"), clock.now()).unwrap();
    bad.set_payload(Some("{".into()));
    running.publisher().publish_envelopes(vec![bad]).await.unwrap();
    until("idle", || memory.is_idle()).await;
    let letters = letters(&memory, "g").await;
    assert_eq!(letters.len(), 2);
    assert_eq!((letters[0].payload(), letters[0].native()), (&b"\xff\x00raw"[..], &native));
    for letter in &letters {
        assert_eq!(letter.dead_letter().unwrap().kind, DeadLetterKind::Decode);
    }
    running.drain().await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn panics_and_timeouts_are_failures_of_one_message() {
    let (memory, clock) = virtual_memory(MemoryConfig::default());
    let handled = Arc::new(AtomicU32::new(0));
    let count = handled.clone();
    let spec = HandlerSpec::new("g", "g")
        .unwrap()
        .with(closure(move |order: Placed, _| {
            let count = count.clone();
            async move {
                match order.id {
                    1 => panic!("id {}", order.id),
                    2 => std::future::pending::<()>().await,
                    _ => {}
                }
                count.fetch_add(1, Ordering::SeqCst);
                Ok(())
            }
        }))
        .retry(0, 0);
    let running = serve(&memory, clock, spec).await;
    running.publisher().publish_all(&[placed(1), placed(2), placed(3)]).await.unwrap();
    until("idle", || memory.is_idle()).await;
    assert_eq!(handled.load(Ordering::SeqCst), 1);
    let kinds: Vec<_> = letters(&memory, "g").await.iter().map(|e| e.dead_letter().unwrap().kind).collect();
    assert_eq!(kinds, [DeadLetterKind::Panic, DeadLetterKind::Timeout]);
    running.drain().await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_message_that_kills_the_process_ends_as_a_crash_and_the_innocent_go_on() {
    let (memory, clock) = virtual_memory(MemoryConfig::default());
    let handled: Arc<Mutex<std::collections::BTreeSet<u32>>> = Arc::default();
    let build = |killed: Arc<tokio::sync::Notify>| {
        let log = handled.clone();
        Service::new("shop").clock(clock).transport("memory", memory.connection()).on(
            "g",
            move |order: Placed, _: Context| {
                let (log, killed) = (log.clone(), killed.clone());
                async move {
                    if order.id == 3 {
                        killed.notify_one();
                        std::future::pending::<()>().await;
                    }
                    log.lock().unwrap().insert(order.id);
                    Ok(())
                }
            },
        )
    };
    let killed = Arc::new(tokio::sync::Notify::new());
    let mut running = build(killed.clone()).start().await.unwrap();
    running.publisher().publish_all(&(0..10).map(placed).collect::<Vec<_>>()).await.unwrap();
    let mut crashes = 0;
    loop {
        tokio::select! {
            () = killed.notified() => {
                crashes += 1;
                assert!(crashes < 20, "never condemned");
                // The process dies: connections break first, so that nothing is given back in good order.
                memory.disconnect();
                running.crash().await;
                running = build(killed.clone()).start().await.unwrap();
            }
            () = tokio::time::sleep(Duration::from_secs(5)) => break,
        }
    }
    assert_eq!(crashes, 5 + 2, "five starts, then two alone");
    assert_eq!(handled.lock().unwrap().len(), 9, "{handled:?}");
    let letters = letters(&memory, "g").await;
    assert_eq!(letters.len(), 1);
    assert_eq!(letters[0].dead_letter().unwrap().kind, DeadLetterKind::Crash);
    running.drain().await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn dead_letters_are_kept_where_the_configuration_says() {
    let (memory, clock) = virtual_memory(MemoryConfig::default());
    let archive = Memory::with(MemoryConfig::default(), clock);
    let service = Service::new("shop")
        .clock(clock)
        .transport("memory", memory.clone())
        .transport("archive", archive.clone())
        .route(">".parse().unwrap(), "memory")
        .dead_letters("memory", "archive")
        .on("g", |_: Placed, _| async { Err::<(), _>(HandlerError::permanent("no such customer")) });
    let report = service.check().unwrap();
    let note = "memory: dead letters are kept at archive, and gone with its process";
    assert!(report.handlers[0].notes.iter().any(|told| told == note), "{report}");
    let running = service.start().await.unwrap();
    running.publisher().publish(&placed(1)).await.unwrap();
    until("idle", || memory.is_idle()).await;
    assert_eq!(letters(&memory, "g").await, []);
    let [letter] = &letters(&archive, "g").await[..] else { panic!("one letter") };
    assert_eq!(letter.dead_letter().unwrap().error.as_str(), "no such customer");
    running.drain().await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_dead_letter_that_is_kept_elsewhere_is_replayed_to_its_own_handler() {
    let (edge, clock) = virtual_memory(MemoryConfig::default());
    let new = || Memory::with(MemoryConfig::default(), clock);
    let (backbone, archive) = (new(), new());
    let broken = Arc::new(AtomicU32::new(1));
    let handled: Arc<Mutex<Vec<u32>>> = Arc::default();
    let (state, log) = (broken.clone(), handled.clone());
    let running = Service::new("shop")
        .clock(clock)
        .transport("edge", edge.clone())
        .transport("backbone", backbone.clone())
        .transport("archive", archive.clone())
        .route("orders.c1".parse().unwrap(), "edge")
        .route(">".parse().unwrap(), "backbone")
        .dead_letters("edge", "archive")
        .dead_letters("backbone", "archive")
        .on("g", move |order: Placed, _| {
            let broken = state.load(Ordering::Relaxed) > 0;
            if !broken {
                log.lock().unwrap().push(order.id);
            }
            async move { if broken { Err(HandlerError::permanent("no such customer")) } else { Ok(()) } }
        })
        .start()
        .await
        .unwrap();
    let idle = || edge.is_idle() && backbone.is_idle();
    running.publisher().publish(&placed(1)).await.unwrap();
    running.publisher().publish(&Placed { id: 2, customer: "c2".to_owned() }).await.unwrap();
    until("idle", idle).await;
    let group = Group::new("g").unwrap();
    let kept = archive.dead_letters(&group, None, 100).await.unwrap();
    assert_eq!(kept.len(), 2);
    broken.store(0, Ordering::Relaxed);
    for (at, named, position, reason) in [
        ("archive", "other", "0", "there are g"),
        ("edge", "g", "0", "kept at `archive`, not at `edge`"),
        ("archive", "g", "99", "stays at `archive`"),
    ] {
        let refused = running.replay(at, &Group::new(named).unwrap(), position).await.unwrap_err();
        assert!(refused.to_string().contains(reason), "{refused}");
    }
    for letter in &kept {
        running.replay("archive", &group, &letter.position).await.unwrap();
    }
    until("both are handled", || handled.lock().unwrap().len() == 2).await;
    until("idle", idle).await;
    assert_eq!(*handled.lock().unwrap(), [1, 2], "each by the transport that it came from");
    assert_eq!(letters(&archive, "g").await, []);
    running.drain().await.unwrap();
}

/// What an operator's process needs: the way back to handlers that run elsewhere.
#[tokio::test(start_paused = true)]
async fn a_dead_letter_is_replayed_by_a_process_that_handles_nothing() {
    let (edge, clock) = virtual_memory(MemoryConfig::default());
    let archive = Memory::with(MemoryConfig::default(), clock);
    let handled: Arc<Mutex<Vec<u32>>> = Arc::default();
    let service = |settings: &str, fails: bool| {
        let log = handled.clone();
        let settings = format!("[service]\nname = \"shop\"\n{settings}");
        let settings = crate::config::Settings::parse(&settings, "msgkit.toml", []).unwrap();
        let service = Service::from_settings(settings, &crate::Registry::new()).unwrap().clock(clock);
        let service = service.transport("edge", edge.clone()).transport("archive", archive.clone());
        let service = service.route(">".parse().unwrap(), "edge").dead_letters("edge", "archive");
        service.on("g", move |order: Placed, _| {
            if !fails {
                log.lock().unwrap().push(order.id);
            }
            async move { if fails { Err(HandlerError::permanent("no such customer")) } else { Ok(()) } }
        })
    };
    let running = service("", true).start().await.unwrap();
    running.publisher().publish(&placed(1)).await.unwrap();
    until("idle", || edge.is_idle()).await;
    let group = Group::new("g").unwrap();
    let letter = archive.dead_letters(&group, None, 10).await.unwrap().remove(0);
    let operator = service("[handlers.g]\nenabled = false", false).start().await.unwrap();
    assert_eq!(operator.handlers().await, [""; 0]);
    let refused = operator.replay("archive", &Group::new("other").unwrap(), "0").await.unwrap_err();
    assert!(refused.to_string().contains("there are g"), "{refused}");
    running.detach("g").await.unwrap();
    operator.replay("archive", &group, &letter.position).await.unwrap();
    assert_eq!(letters(&archive, "g").await, []);
    let again = service("", false).start().await.unwrap();
    until("it is handled", || *handled.lock().unwrap() == [1]).await;
    let _ = (running, operator);
    again.drain().await.unwrap();
}

/// Nobody reads what is published for a group that a handler does not have.
#[tokio::test(start_paused = true)]
async fn a_dead_letter_of_a_handler_without_a_group_stays_where_it_is() {
    let config = MemoryConfig { delay: MemoryDelay::RetryTopics, ..MemoryConfig::default() };
    let (memory, clock) = virtual_memory(config);
    let archive = Memory::with(MemoryConfig::default(), clock);
    let spec = HandlerSpec::ephemeral("reader")
        .unwrap()
        .with(closure(|_: Placed, _| async { Err::<(), _>(HandlerError::permanent("no such customer")) }));
    let service = Service::new("shop").clock(clock).transport("edge", memory.clone());
    let service = service.transport("archive", archive.clone()).route(">".parse().unwrap(), "edge");
    let running = service.dead_letters("edge", "archive").spec(spec).start().await.unwrap();
    running.publisher().publish(&placed(1)).await.unwrap();
    let group = Group::new("shop").unwrap();
    until("idle", || memory.is_idle()).await;
    let letter = archive.dead_letters(&group, None, 10).await.unwrap().remove(0);
    let refused = running.replay("archive", &group, &letter.position).await.unwrap_err();
    assert!(refused.to_string().contains("has no group"), "{refused}");
    assert_eq!(archive.dead_letters(&group, None, 10).await.unwrap().len(), 1);
    running.drain().await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn what_has_expired_is_a_dead_letter_and_nothing_else_is() {
    let (memory, clock) = virtual_memory(MemoryConfig::default());
    let handled: Arc<Mutex<Vec<u32>>> = Arc::default();
    let log = handled.clone();
    let spec = HandlerSpec::new("g", "g").unwrap().with(closure(move |order: Placed, _| {
        log.lock().unwrap().push(order.id);
        async { Ok(()) }
    }));
    let running = serve(&memory, clock, spec).await;
    let now = clock.now();
    for (id, expires) in [(1, Timestamp::EPOCH), (2, now), (3, now.after(Duration::from_secs(3600)))] {
        running
            .publisher()
            .publish_with(&placed(id), |envelope| envelope.set_expires(Some(expires)))
            .await
            .unwrap();
    }
    until("idle", || memory.is_idle()).await;
    assert_eq!(*handled.lock().unwrap(), [3]);
    let letters = letters(&memory, "g").await;
    let told: Vec<_> = letters
        .iter()
        .map(|letter| {
            let facts = letter.dead_letter().unwrap();
            (serde_json::from_slice::<Placed>(letter.payload()).unwrap().id, facts.kind, facts.attempts)
        })
        .collect();
    assert_eq!(told, [(1, DeadLetterKind::Expired, 0), (2, DeadLetterKind::Expired, 0)]);
    running.drain().await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_type_that_the_handler_does_not_take_is_skipped_or_dead_lettered() {
    for (unhandled, kinds) in
        [(Unhandled::Skip, vec![]), (Unhandled::DeadLetter, vec![DeadLetterKind::Rejected])]
    {
        let (memory, clock) = virtual_memory(MemoryConfig::default());
        let spec = HandlerSpec::new("g", "g")
            .unwrap()
            .with(closure(|_: Placed, _| async { Ok(()) }))
            .overrides(move |policy| policy.unhandled = Some(unhandled));
        let running = serve(&memory, clock, spec).await;
        let other = crate::envelope_of(&Shipped { id: 1 }, &Text::from_static("shop"), clock.now()).unwrap();
        let to = Destination::topic("orders.x".parse().unwrap());
        memory.publish(vec![Outgoing::new(to, other)]).await.unwrap();
        until("it is settled", || memory.is_idle()).await;
        let told = letters(&memory, "g").await;
        let told: Vec<_> = told.iter().map(|letter| letter.dead_letter().unwrap().kind).collect();
        assert_eq!(told, kinds, "{unhandled:?}");
        running.drain().await.unwrap();
    }
}

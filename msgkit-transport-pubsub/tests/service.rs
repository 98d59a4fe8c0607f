//! What the suite cannot see: a service that goes and comes back empty, leases that are kept over a broken network and lost without
//! one, keys that fail and go on, limits, things that are missing; and Google's own emulator, where it is installed.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a panic is how a test fails")]

#[path = "service/foreign.rs"]
mod foreign;
#[path = "service/letters.rs"]
mod letters;
#[path = "service/many.rs"]
mod many;
#[path = "service/mended.rs"]
mod mended;
#[path = "service/order.rs"]
mod order;
#[path = "service/places.rs"]
mod places;
#[path = "service/poison.rs"]
mod poison;
#[path = "service/refused.rs"]
mod refused;
#[path = "service/scale.rs"]
mod scale;
mod support;

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use msgkit::envelope::{Clock, ContentType, NativeHeaders};
use msgkit::transport::{
    Declaration, Deliveries, Delivery, Incoming, Operate as _, Outgoing, PublishError, Publisher as _,
    Subscriber as _, Subscription, Transport as _, TransportErrorKind,
};
use msgkit::{Envelope, Timestamp};
use msgkit_testing::brokers::{BrokerErrorKind, FaultProxy, Pubsub as StandIn};
use msgkit_transport_pubsub::{Pubsub, PubsubConfig};

/// How long what must come may take on a busy machine.
const PATIENCE: Duration = Duration::from_secs(90);

fn pubsub(project: &str, config: PubsubConfig) -> Pubsub {
    Pubsub::with(&support::url(project), config, Clock::system()).unwrap()
}

fn message(topic: &str, key: &str, text: &str) -> Outgoing {
    let payload = Bytes::from(format!("\"{text}\""));
    let mut envelope = Envelope::new(
        "tests",
        "tests.text",
        topic.parse().unwrap(),
        ContentType::Json,
        payload,
        Timestamp::now(),
    );
    envelope.set_key(Some(key.into()));
    Outgoing::to_topic(envelope)
}

fn group() -> Subscription {
    Subscription::group("g".parse().unwrap(), ["a.>".parse().unwrap()])
}

fn text(delivery: &Delivery) -> String {
    String::from_utf8_lossy(delivery.message().envelope().unwrap().payload()).trim_matches('"').to_owned()
}

async fn within<T>(what: &str, future: impl Future<Output = T>) -> T {
    tokio::time::timeout(PATIENCE, future).await.unwrap_or_else(|_| panic!("never: {what}"))
}

async fn take(deliveries: &mut dyn Deliveries, count: usize) -> Vec<Delivery> {
    let mut came = VecDeque::new();
    let receiving = async {
        while came.len() < count {
            let missing = count - came.len();
            if let Err(error) = deliveries.receive(missing, &mut came).await {
                assert!(error.is_temporary(), "{}", msgkit::Chain(&error));
            }
        }
    };
    tokio::time::timeout(PATIENCE, receiving).await.expect("what must come");
    came.into()
}

/// Nothing where there is no stand-in, unless it is required.
fn stand_in() -> Option<StandIn> {
    or_not_run(StandIn::launch())
}

fn or_not_run(started: Result<StandIn, msgkit_testing::brokers::BrokerError>) -> Option<StandIn> {
    match started {
        Ok(started) => Some(started),
        Err(error)
            if error.kind() == BrokerErrorKind::Missing
                && std::env::var("MSGKIT_REQUIRE_BROKERS").as_deref() != Ok("1") =>
        {
            eprintln!("not run: {error}");
            None
        }
        Err(error) => panic!("{error}"),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_service_that_comes_back_empty_is_made_anew_and_goes_on() {
    let Some(mut stand_in) = stand_in() else { return };
    let pubsub = pubsub("restart", support::config(stand_in.address()));
    let mut reader = pubsub.subscribe(&group()).await.unwrap();
    pubsub.publish(vec![message("a.b", "k", "1")]).await.unwrap();
    let first = take(&mut *reader, 1).await;
    let stand_in = tokio::task::spawn_blocking(move || {
        stand_in.kill().unwrap();
        stand_in.restart().unwrap();
        stand_in
    })
    .await
    .unwrap();
    // What was in hand is gone with the service, and settling it harms nobody.
    first.into_iter().for_each(Delivery::ack);
    within("it is counted", async {
        while !pubsub.groups().await.is_ok_and(|all| all.iter().any(|group| group.broken_off > 0)) {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    })
    .await;
    // The topic is made again by the publish that finds it missing, the subscription by its reader.
    let until_it_comes = async {
        for n in 0.. {
            let _ = pubsub.publish(vec![message("a.b", "k", &format!("again {n}"))]).await;
            let mut came = VecDeque::new();
            let receiving = tokio::time::timeout(Duration::from_millis(300), reader.receive(1, &mut came));
            if receiving.await.is_ok()
                && came.pop_front().is_some_and(|delivery| text(&delivery).starts_with("again"))
            {
                return;
            }
        }
    };
    tokio::time::timeout(PATIENCE, until_it_comes).await.expect("messages flow again");
    pubsub.close().await.unwrap();
    drop(stand_in);
}

/// Whoever publishes makes the topic again, and a look for new topics its subscription: a stream that could not reach the
/// service meanwhile goes on in that, and never hears that it was gone.
#[tokio::test(flavor = "multi_thread")]
async fn a_group_is_known_again_though_its_stream_has_noticed_nothing() {
    let Some(mut stand_in) = stand_in() else { return };
    let pubsub = pubsub("unnoticed", support::config(stand_in.address()));
    let mut reader = pubsub.subscribe(&group()).await.unwrap();
    pubsub.publish(vec![message("a.b", "k", "1")]).await.unwrap();
    take(&mut *reader, 1).await.remove(0).ack();
    let stand_in = tokio::task::spawn_blocking(move || {
        stand_in.kill().unwrap();
        stand_in.restart().unwrap();
        stand_in.refuse("StreamingPull", UNAVAILABLE, u32::MAX >> 1).unwrap();
        stand_in
    })
    .await
    .unwrap();
    until_taken(&pubsub, vec![message("a.b", "k", "again")]).await;
    within("its entries are there, and it is counted", async {
        while !pubsub.groups().await.is_ok_and(|all| all.iter().any(|group| group.broken_off > 0)) {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    })
    .await;
    stand_in.refuse("StreamingPull", UNAVAILABLE, 0).unwrap();
    // A subscription for it is made by whoever publishes, who has it from the entries.
    let other = self::pubsub("unnoticed", support::config(stand_in.address()));
    until_taken(&other, vec![message("a.c", "k", "new")]).await;
    while text(&take(&mut *reader, 1).await[0]) != "new" {}
    pubsub.close().await.unwrap();
    other.close().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_broken_network_loses_no_lease() {
    let Some(stand_in) = stand_in() else { return };
    let proxy = FaultProxy::start(stand_in.address()).await.unwrap();
    let pubsub = pubsub("network", support::config(proxy.address()));
    let mut reader = pubsub.subscribe(&group()).await.unwrap();
    let sent: Vec<String> = (0..20).map(|n| format!("{n:02}")).collect();
    pubsub.publish(sent[..10].iter().map(|text| message("a.b", "k", text)).collect()).await.unwrap();
    let held = take(&mut *reader, 10).await;
    proxy.reset();
    pubsub.publish(sent[10..].iter().map(|text| message("a.b", "k", text)).collect()).await.unwrap();
    let mut came: Vec<String> = held.iter().map(text).collect();
    held.into_iter().for_each(Delivery::ack);
    let rest = take(&mut *reader, 10).await;
    came.extend(rest.iter().map(text));
    rest.into_iter().for_each(Delivery::ack);
    reader.flush().await.unwrap();
    assert_eq!(came, sent, "each once, in order");
    assert_eq!(pubsub.lost_leases(), 0);
    pubsub.close().await.unwrap();
}

/// How long this process has stood still at most, as on a machine that has much else to do: leases run on meanwhile.
#[derive(Clone, Default)]
struct Standstill(Arc<AtomicU64>);

impl Standstill {
    fn watch(self) -> tokio::task::JoinHandle<()> {
        tokio::spawn(async move {
            loop {
                let before = std::time::Instant::now();
                tokio::time::sleep(Duration::from_millis(50)).await;
                let took = u64::try_from(before.elapsed().as_millis()).unwrap_or(u64::MAX);
                self.0.fetch_max(took, Ordering::Relaxed);
            }
        })
    }

    /// Whether it was long enough to cost leases of ten seconds.
    fn was_long(&self) -> bool {
        self.0.swap(0, Ordering::Relaxed) > 2000
    }
}

/// The service sends more than the prefetch, and what it has sent has a lease that somebody must renew.
#[tokio::test(flavor = "multi_thread")]
async fn what_waits_behind_a_slow_handler_keeps_its_lease() {
    let Some(stand_in) = stand_in() else { return };
    let mut config = support::config(stand_in.address());
    config.lease = Duration::from_secs(10);
    let standstill = Standstill::default();
    let watch = standstill.clone().watch();
    for round in 0.. {
        let pubsub = pubsub(&format!("slow-{round}"), config.clone());
        let mut reader = pubsub.subscribe(&group().with_prefetch(1)).await.unwrap();
        let sent: Vec<String> = (0..30).map(|n| format!("{n:02}")).collect();
        pubsub.publish(sent.iter().map(|text| message("a.b", "k", text)).collect()).await.unwrap();
        let slow = take(&mut *reader, 1).await.remove(0);
        // The handler's time. Leases run by the clock of the service, which no test can turn.
        tokio::time::sleep(config.lease * 2).await;
        let mut came = vec![(text(&slow), slow.count())];
        slow.ack();
        while came.len() < sent.len() {
            let next = take(&mut *reader, 1).await.remove(0);
            came.push((text(&next), next.count()));
            next.ack();
        }
        let flushed = reader.flush().await;
        pubsub.close().await.unwrap();
        let wanted: Vec<(String, u32)> = sent.into_iter().map(|text| (text, 1)).collect();
        let lost = pubsub.lost_leases();
        if came == wanted && flushed.is_ok() && lost == 0 {
            break;
        }
        // Where nobody could renew them, it says nothing.
        let again = standstill.was_long() && round < 5;
        assert!(again, "each once, in order, at its first start: {came:?}; {flushed:?}; {lost} leases lost");
    }
    watch.abort();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_settlement_without_its_lease_is_told_and_counted() {
    let Some(stand_in) = stand_in() else { return };
    let mut config = support::config(stand_in.address());
    // One alone is fetched, so that none behind it is here already.
    config.fetch_ahead = 0;
    let pubsub = pubsub("leases", config);
    let mut reader = pubsub.subscribe(&group().with_prefetch(1)).await.unwrap();
    pubsub.publish(vec![message("a.b", "k", "1"), message("a.b", "k", "2")]).await.unwrap();
    let mut held = take(&mut *reader, 1).await;
    stand_in.expire("leases").unwrap();
    held.remove(0).ack();
    let again = take(&mut *reader, 1).await;
    assert_eq!(
        (text(&again[0]), again[0].count()),
        ("1".to_owned(), 2),
        "it was not settled, and its start is counted"
    );
    // The service's word on the late settlement may come after the message.
    let _ = reader.flush().await;
    assert!(pubsub.lost_leases() > 0);
    again.into_iter().for_each(Delivery::ack);
    assert_eq!(text(&take(&mut *reader, 1).await[0]), "2", "and all behind it of its key come after it");
    pubsub.close().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_that_failed_goes_on_and_a_full_buffer_says_so() {
    let Some(stand_in) = stand_in() else { return };
    let proxy = FaultProxy::start(stand_in.address()).await.unwrap();
    let mut config = support::config(proxy.address());
    config.max_message = 2000;
    config.publish_buffer = 2000;
    config.publish_timeout = Duration::from_millis(1500);
    let pubsub = Arc::new(pubsub("keys", config));
    let mut reader = reading(&pubsub, &group()).await;
    until_taken(&pubsub, vec![message("a.b", "k", "1")]).await;
    proxy.stall();
    let publisher = pubsub.clone();
    let long = "x".repeat(700);
    let first = tokio::spawn({
        let long = long.clone();
        async move { publisher.publish(vec![message("a.b", "k", &long)]).await }
    });
    let publisher = pubsub.clone();
    let second = tokio::spawn(async move { publisher.publish(vec![message("a.b", "k", &long)]).await });
    let (first, second) = (first.await.unwrap(), second.await.unwrap());
    let kinds: Vec<_> =
        [&first, &second].iter().filter_map(|result| result.as_ref().err()).map(PublishError::kind).collect();
    assert_eq!(kinds.len(), 2, "nothing was taken: {first:?} {second:?}");
    assert!(kinds.iter().all(|kind| kind.is_temporary()), "{kinds:?}");
    proxy.heal();
    proxy.reset();
    let flowing = async {
        while pubsub.publish(vec![message("a.b", "k", "last")]).await.is_err() {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(PATIENCE, flowing).await.expect("the key goes on");
    let read_on = async {
        loop {
            let delivery = take(&mut *reader, 1).await.remove(0);
            let last = text(&delivery) == "last";
            delivery.ack();
            if last {
                return;
            }
        }
    };
    tokio::time::timeout(PATIENCE, read_on).await.expect("the last one");
    pubsub.close().await.unwrap();
}

/// Nothing of HTTP/2 tells the client, and on a network that takes every byte no time-out of TCP does.
#[tokio::test(flavor = "multi_thread")]
async fn a_connection_that_falls_silent_is_exchanged() {
    let Some(stand_in) = stand_in() else { return };
    let proxy = FaultProxy::start(stand_in.address()).await.unwrap();
    let mut config = support::config(proxy.address());
    config.lease = Duration::from_secs(10);
    config.connect_timeout = Duration::from_secs(1);
    config.publish_timeout = Duration::from_secs(2);
    let pubsub = pubsub("silent", config);
    let mut reader = reading(&pubsub, &group()).await;
    until_taken(&pubsub, vec![message("a.b", "k", "1"), message("a.b", "l", "held")]).await;
    let mut held = take(&mut *reader, 2).await;
    held.sort_by_key(text);
    held.remove(0).ack();
    // Where it is not taken in time, it comes again.
    let _ = reader.flush().await;
    // Those that are there; new ones work.
    let silent = proxy.connections();
    assert!(!silent.is_empty());
    silent.iter().for_each(msgkit_testing::brokers::Connection::half_open);
    let flowing = async {
        while let Err(error) = pubsub.publish(vec![message("a.b", "k", "2")]).await {
            assert!(error.kind().is_temporary(), "{error}");
        }
    };
    tokio::time::timeout(PATIENCE, flowing).await.expect("it is published by another connection");
    // A publish without an answer may have been taken, so the message may come more than once; what was in hand comes again.
    let mut came = Vec::new();
    while !["2", "held"].iter().all(|wanted| came.iter().any(|text| text == wanted)) {
        let delivery = take(&mut *reader, 1).await.remove(0);
        came.push(text(&delivery));
        delivery.ack();
    }
    drop(held);
    pubsub.close().await.unwrap();
}

fn given_back(error: PublishError) -> Vec<Outgoing> {
    error.into_rejected().into_iter().map(|rejected| rejected.message).collect()
}

/// Reads, also where the service takes longer than this client waits.
async fn reading(pubsub: &Pubsub, wanted: &Subscription) -> Box<dyn Deliveries> {
    loop {
        match pubsub.subscribe(wanted).await {
            Ok(reader) => return reader,
            Err(error) => assert!(error.is_temporary(), "{}", msgkit::Chain(&error)),
        }
    }
}

/// Publishes what is given back again: the client gives up before its time where much has failed of late.
async fn until_taken(pubsub: &Pubsub, mut batch: Vec<Outgoing>) {
    while let Err(error) = pubsub.publish(batch).await {
        assert!(error.kind().is_temporary(), "{}", msgkit::Chain(&error));
        batch = given_back(error);
    }
}

const UNAVAILABLE: u32 = 14;
/// `RESOURCE_EXHAUSTED`, and that.
const REFUSALS: [(u32, &str); 2] = [(8, "quota"), (UNAVAILABLE, "")];
/// How often something may be tried in a second and a half.
const NO_BUSY_LOOP: u64 = 50;

#[tokio::test(flavor = "multi_thread")]
async fn what_the_service_refuses_for_now_is_tried_again_with_pauses() {
    let Some(stand_in) = stand_in() else { return };
    for (code, hint) in REFUSALS {
        let mut config = support::config(stand_in.address());
        config.publish_timeout = Duration::from_millis(1500);
        let project = format!("quota-{code}");
        let patient = pubsub(&project, support::config(stand_in.address()));
        let hasty = pubsub(&project, config);
        for method in ["CreateTopic", "CreateSubscription"] {
            stand_in.refuse(method, code, 2).unwrap();
        }
        let mut reader = reading(&patient, &group()).await;
        until_taken(&patient, vec![message("a.b", "k", "0")]).await;
        assert_eq!(stand_in.refuse("CreateTopic", code, 0).unwrap(), 2, "both refusals were met");
        assert_eq!(stand_in.refuse("CreateSubscription", code, 0).unwrap(), 2);
        // A few refusals cost time alone.
        stand_in.refuse("Publish", code, 3).unwrap();
        let texts = ["1", "2", "3"];
        until_taken(&patient, texts.iter().map(|text| message("a.b", "k", text)).collect()).await;
        assert_eq!(stand_in.refuse("Publish", code, u32::MAX >> 1).unwrap(), 3);
        // Many are an error that says so, and the message is given back.
        let error = hasty.publish(vec![message("a.b", "k", "4")]).await.unwrap_err();
        let told = msgkit::Chain(&error).to_string();
        let late = error.kind() == TransportErrorKind::Timeout;
        assert!(error.kind().is_temporary() && (late || told.contains(hint)), "{told}");
        assert_eq!(error.rejected().len(), 1);
        let tried = stand_in.refuse("Publish", code, 0).unwrap();
        assert!((1..NO_BUSY_LOOP).contains(&tried), "{tried} tries");
        until_taken(&patient, given_back(error)).await;
        // A settlement that is refused loses nothing: its message comes again.
        let held = take(&mut *reader, 5).await;
        assert_eq!(
            held.iter().map(text).collect::<Vec<_>>(),
            ["0", "1", "2", "3", "4"],
            "each once, in order"
        );
        stand_in.refuse("Acknowledge", code, 1).unwrap();
        held.into_iter().for_each(Delivery::ack);
        while reader.flush().await.is_err() {
            take(&mut *reader, 1).await.remove(0).ack();
        }
        assert_eq!(stand_in.refuse("Acknowledge", code, 0).unwrap(), 1);
        // Whatever is unsettled would come again before it.
        stand_in.expire(&project).unwrap();
        until_taken(&patient, vec![message("a.b", "k", "last")]).await;
        assert_eq!(text(&take(&mut *reader, 1).await[0]), "last", "all before it is settled for good");
        patient.close().await.unwrap();
        hasty.close().await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_largest_message_travels_and_a_larger_one_is_told_the_limit() {
    let Some(stand_in) = stand_in() else { return };
    let config = support::config(stand_in.address());
    let largest = pubsub("large", config).capabilities().max_payload.unwrap();
    let pubsub = pubsub("large", support::config(stand_in.address()));
    let mut reader = pubsub.subscribe(&group()).await.unwrap();
    // Two bytes are quotation marks.
    pubsub.publish(vec![message("a.b", "k", &"x".repeat(largest - 2))]).await.unwrap();
    let came = take(&mut *reader, 1).await.remove(0);
    assert_eq!(came.message().envelope().unwrap().payload().len(), largest);
    came.ack();
    let error = pubsub.publish(vec![message("a.b", "k", &"x".repeat(10_000_000))]).await.unwrap_err();
    let told = msgkit::Chain(&error).to_string();
    assert!(!error.kind().is_temporary() && told.contains("max_message") && told.contains("10 MB"), "{told}");
    // It has stopped nothing.
    pubsub.publish(vec![message("a.b", "k", "small")]).await.unwrap();
    assert_eq!(text(&take(&mut *reader, 1).await[0]), "small");
    pubsub.close().await.unwrap();
}

/// The service drops what nobody has settled for too long, a copy as well that is not due yet.
#[tokio::test]
async fn a_retry_later_than_copies_are_kept_is_refused() {
    let mut config = support::config("127.0.0.1:9");
    config.retention = Duration::from_secs(600);
    config.dead_letter_retention = Duration::from_secs(3600);
    let pubsub = pubsub("kept", config);
    let steps = |minutes: u64| Declaration::Group {
        subscription: group(),
        retry_steps: vec![Duration::from_secs(1), Duration::from_secs(60 * minutes)],
        dead_letters: true,
    };
    let error = pubsub.declare(&[steps(31)]).await.unwrap_err();
    assert_eq!(error.kind(), TransportErrorKind::Invalid);
    for word in ["`g`", "1860s", "3600s", "`retention`"] {
        assert!(error.to_string().contains(word), "{word}: {error}");
    }
    assert_ne!(pubsub.declare(&[steps(30)]).await.unwrap_err().kind(), TransportErrorKind::Invalid);
}

/// What an older configuration made is there still when the new one allows longer delays.
#[tokio::test(flavor = "multi_thread")]
async fn copies_that_are_kept_shorter_than_configured_are_refused() {
    let Some(stand_in) = stand_in() else { return };
    let kept = |minutes: u64| {
        let mut config = support::config(stand_in.address());
        config.retention = Duration::from_secs(60 * minutes);
        config.dead_letter_retention = config.retention;
        pubsub("kept", config)
    };
    let steps = Declaration::Group {
        subscription: group(),
        retry_steps: vec![Duration::from_secs(1), Duration::from_secs(300)],
        dead_letters: true,
    };
    let steps = [steps];
    kept(10).declare(&steps).await.unwrap();
    let error = kept(60).declare(&steps).await.unwrap_err();
    assert_eq!(error.kind(), TransportErrorKind::Invalid);
    for word in
        ["600s", "3600s", "`retention`", "gcloud pubsub subscriptions update projects/kept/subscriptions/"]
    {
        assert!(error.to_string().contains(word), "{word}: {error}");
    }
    kept(10).declare(&steps).await.unwrap();
}

/// One device of a Pub/Sub topic that many share: the service sorts out the others, and never what somebody asks for.
#[tokio::test(flavor = "multi_thread")]
async fn a_filter_sorts_out_what_nobody_asked_for_and_nothing_else() {
    let Some(stand_in) = stand_in() else { return };
    let mut config = support::config(stand_in.address());
    config.filters = true;
    let filtered = pubsub("filters", config.clone());
    config.filters = false;
    let plain = pubsub("filters", config);
    let reads =
        |group: &str, pattern: &str| Subscription::group(group.parse().unwrap(), [pattern.parse().unwrap()]);
    let (one, other) = ("device.AA~3A01.raw", "device.AA~3A02.raw");
    let mut sorted = filtered.subscribe(&reads("g", one)).await.unwrap();
    let mut skipping = plain.subscribe(&reads("all", "device.*.raw")).await.unwrap();
    let sent = |n: usize| if n.is_multiple_of(2) { one } else { other };
    plain.publish((0..20).map(|n| message(sent(n), "k", &n.to_string())).collect()).await.unwrap();
    // It names no topic, so only its reader can say whether it is for it.
    let foreign = Bytes::from_static(b"from a device");
    plain.publish_foreign(&one.parse().unwrap(), foreign.clone(), &NativeHeaders::new()).await.unwrap();
    foreign::publish(&stand_in, "projects/filters/topics/app.device._.raw", foreign::events()).await;
    let came = take(&mut *sorted, 13).await;
    let own = came.iter().filter(|came| came.message().key() == Some("k")).map(text);
    assert_eq!(own.collect::<Vec<_>>(), (0..20).step_by(2).map(|n| n.to_string()).collect::<Vec<_>>());
    let mut events: Vec<String> = came
        .iter()
        .filter(|came| came.message().envelope().is_some() && came.message().key().is_none())
        .map(text)
        .collect();
    events.sort();
    assert_eq!(events, ["binary", "structured"], "those of others");
    assert!(came.iter().any(|came| matches!(came.message(), Incoming::Malformed(one) if one.payload.as_ref() == Some(&foreign))), "the foreign one");
    came.into_iter().for_each(Delivery::ack);
    take(&mut *skipping, 23).await.into_iter().for_each(Delivery::ack);
    // Whether members have filters or not: what one of them asks for and the filter sorts out would never come to it.
    for member in [&filtered, &plain] {
        assert!(member.subscribe(&reads("g", one)).await.is_ok(), "the same is let pass");
        let Err(error) = member.subscribe(&reads("g", other)).await else { panic!("another is not") };
        for word in ["filter", one, other, "delete"] {
            assert!(error.to_string().contains(word), "{word}: {error}");
        }
    }
    // Who publishes is not held up by what a reader was refused.
    let newcomer = pubsub("filters", support::config(stand_in.address()));
    newcomer.publish(vec![message(one, "k", "after all")]).await.unwrap();
    assert_eq!(text(&take(&mut *sorted, 1).await[0]), "after all");
    newcomer.close().await.unwrap();
    // What has no filter lets pass everything.
    assert!(filtered.subscribe(&reads("all", one)).await.is_ok());
    filtered.close().await.unwrap();
    plain.close().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_missing_is_named_where_nothing_may_be_made() {
    let Some(stand_in) = stand_in() else { return };
    let mut config = support::config(stand_in.address());
    config.create = false;
    let pubsub = pubsub("strict", config);
    let error = pubsub.publish(vec![message("a.b", "k", "1")]).await.unwrap_err();
    let told = msgkit::Chain(&error).to_string();
    assert!(told.contains("projects/strict/topics/app.a.b") && told.contains("`create`"), "{told}");
    let exact = Subscription::group("g".parse().unwrap(), ["a.b".parse().unwrap()]);
    let declaration = Declaration::Group { subscription: exact, retry_steps: Vec::new(), dead_letters: true };
    let error = pubsub.declare(&[declaration]).await.unwrap_err();
    assert_eq!(error.kind(), TransportErrorKind::Invalid, "{error}");
    assert!(error.to_string().contains("msgkit.dead_letter.g"), "{error}");
    assert!(
        pubsub
            .peek(&"g".parse().unwrap(), None, 1)
            .await
            .is_err_and(|error| error.kind() == TransportErrorKind::Unsupported)
    );
    pubsub.close().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn googles_own_emulator_does() {
    let Some(emulator) = or_not_run(match StandIn::emulator() {
        // It is no package of Debian: whoever has it tests with it.
        Err(error) if error.kind() == BrokerErrorKind::Missing => return eprintln!("not run: {error}"),
        started => started,
    }) else {
        return;
    };
    let pubsub = pubsub("emulated", support::config(emulator.address()));
    let mut reader = pubsub.subscribe(&group()).await.unwrap();
    let mut other = pubsub
        .subscribe(&Subscription::group("other".parse().unwrap(), [">".parse().unwrap()]))
        .await
        .unwrap();
    let sent: Vec<String> = (0..50).map(|n| format!("{n:02}")).collect();
    pubsub.publish(sent.iter().map(|text| message("a.b", "k", text)).collect()).await.unwrap();
    for reader in [&mut reader, &mut other] {
        let came = take(&mut **reader, 50).await;
        assert_eq!(came.iter().map(text).collect::<Vec<_>>(), sent, "each group everything, in order");
        came.into_iter().for_each(Delivery::ack);
        reader.flush().await.expect("the emulator confirms settlements");
    }
    assert_eq!(pubsub.lost_leases(), 0);
    pubsub.close().await.unwrap();
}

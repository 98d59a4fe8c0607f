//! On the stand-in, because what is seen is what the service has.

use std::collections::VecDeque;
use std::time::Duration;

use bytes::Bytes;
use msgkit::envelope::{Clock, ContentType, Retry};
use msgkit::transport::{
    Deliveries, Delivery, Destination, Group, Incoming, Outgoing, Publisher as _, Settle as _,
    Subscriber as _, Transport as _, TransportUrl,
};
use msgkit::{Envelope, Pattern, Timestamp};

use super::super::member::Came;
use super::*;
use crate::client::Clients;
use crate::config::PubsubConfig;
use crate::names::Names;
use crate::testing::stand_in;
use crate::transport::Pubsub;

const PATIENCE: Duration = Duration::from_secs(90);

/// A reader that asks for one topic alone has as much to lose as one with wildcards: who makes a topic again looks for entries.
#[tokio::test(flavor = "multi_thread")]
async fn entries_of_readers_without_a_group_are_made_again_before_they_expire() {
    let Some(stand_in) = stand_in() else { return };
    let endpoint = Some(format!("http://{}", stand_in.address()));
    let topic_refresh = Duration::from_millis(100);
    let config = PubsubConfig { endpoint, topic_refresh, ..PubsubConfig::default() };
    let clients = Clients::new(&config).unwrap();
    let core = Arc::new(Core::new(clients, Names::new("renewed".to_owned(), "app"), config, Clock::system()));
    for pattern in ["a.>", "a.b"] {
        let pattern: msgkit::Pattern = pattern.parse().unwrap();
        let (reader, subscription) = (Reader::alone(), Subscription::ephemeral([pattern.clone()]));
        let reads = core.ensure_reader(&reader, &subscription).await.unwrap();
        let member = Arc::new(Member::new(&core, 1));
        let mut driver = Driver::new(&core, member.clone(), Some(reader.clone()), subscription, reads);
        // What the service does with one that nobody has asked for.
        core.remove([core.names.entry(&reader, &pattern).unwrap()]).await;
        assert!(!core.entries().await.unwrap().contains_key(&reader));
        // Not yet when it begins, and nothing else wakes it.
        driver.renew_at = Instant::now() + Duration::from_millis(500);
        let running = tokio::spawn(driver.run());
        let back = async {
            while !core.entries().await.unwrap().contains_key(&reader) {
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        };
        timeout(PATIENCE, back).await.unwrap_or_else(|_| panic!("the entry for {pattern} never came back"));
        member.enter(Phase::Left);
        running.await.unwrap();
    }
}

/// Three devices of one place.
const OURS: &str = "device.AA~3A01.raw";
const DECLARED: &str = "device.AA~3A02.raw";
const FOREIGN: &str = "device.AA~3A03.raw";

fn message((topic, key, text): (&str, &str, &'static str)) -> Outgoing {
    let payload = Bytes::from_static(text.as_bytes());
    let topic = topic.parse().unwrap();
    let mut envelope =
        Envelope::new("tests", "tests.text", topic, ContentType::Json, payload, Timestamp::now());
    envelope.set_key(Some(key.into()));
    Outgoing::to_topic(envelope)
}

async fn settled(deliveries: &mut dyn Deliveries, count: usize) -> Vec<String> {
    let mut came = VecDeque::new();
    let receiving = async {
        while came.len() < count {
            deliveries.receive(count - came.len(), &mut came).await.unwrap();
        }
    };
    timeout(PATIENCE, receiving).await.expect("what must come");
    let text =
        |came: &Delivery| String::from_utf8_lossy(came.message().envelope().unwrap().payload()).into_owned();
    let texts = came.iter().map(text).collect();
    came.into_iter().for_each(Delivery::ack);
    texts
}

/// Of a place that three topics share a member knows one, another member of its group declares the next, and nobody the third.
#[tokio::test(flavor = "multi_thread")]
async fn what_is_undecided_keeps_its_place_and_holds_up_its_key_alone() {
    let Some(stand_in) = stand_in() else { return };
    let endpoint = Some(format!("http://{}", stand_in.address()));
    let config = PubsubConfig { endpoint, ..PubsubConfig::default() };
    let url = TransportUrl::parse("pubsub://undecided/app").unwrap();
    let pubsub = Pubsub::with(&url, config, Clock::system()).unwrap();
    let core = pubsub.core().clone();
    let group: Group = "g".parse().unwrap();
    let of = |topic: &str| Subscription::group(group.clone(), [topic.parse::<Pattern>().unwrap()]);
    let mut reader = pubsub.subscribe(&of(OURS)).await.unwrap();
    pubsub.publish(vec![message((OURS, "k", "0"))]).await.unwrap();
    assert_eq!(settled(&mut *reader, 1).await, ["0"]);
    let nobody_asks = core.asked.lock().await;
    assert!(nobody_asks.is_none(), "nothing was asked where everything is known");
    // The order of several keys of one publish is nobody's promise.
    let waits = [(FOREIGN, "k", "1"), (OURS, "k", "2"), (DECLARED, "m", "3"), (OURS, "m", "4")];
    pubsub.publish(waits.into_iter().map(message).collect()).await.unwrap();
    for free in [(OURS, "l", "5"), (OURS, "n", "6")] {
        pubsub.publish(vec![message(free)]).await.unwrap();
    }
    assert_eq!(settled(&mut *reader, 2).await, ["5", "6"], "whose keys have nothing undecided before them");
    core.ensure_reader(&Reader::group(&group), &of(DECLARED)).await.unwrap();
    drop(nobody_asks);
    let mut rest = settled(&mut *reader, 3).await;
    let place = |text: &str| rest.iter().position(|came| came == text);
    assert!(place("3") < place("4"), "in the order of their key: {rest:?}");
    rest.sort();
    assert_eq!(rest, ["2", "3", "4"]);
    reader.flush().await.unwrap();
    reader.close().await.unwrap();
    // Whoever declares it now is not owed what was settled before.
    let mut later = pubsub.subscribe(&of(FOREIGN)).await.unwrap();
    pubsub.publish(vec![message((FOREIGN, "k", "7"))]).await.unwrap();
    assert_eq!(settled(&mut *later, 1).await, ["7"]);
    pubsub.close().await.unwrap();
}

/// Entries that were asked for before it came may lack the one by which its group takes it.
#[tokio::test(flavor = "multi_thread")]
async fn what_comes_while_the_entries_are_asked_for_waits_for_the_next_answer() {
    let Some(stand_in) = stand_in() else { return };
    let endpoint = Some(format!("http://{}", stand_in.address()));
    let config = PubsubConfig { endpoint, ..PubsubConfig::default() };
    let url = TransportUrl::parse("pubsub://late/app").unwrap();
    let pubsub = Pubsub::with(&url, config, Clock::system()).unwrap();
    let core = pubsub.core();
    let nobody_asks = core.asked.lock().await;
    let group: Group = "g".parse().unwrap();
    let reader = Reader::group(&group);
    let subscription = Subscription::group(group, [OURS.parse::<Pattern>().unwrap()]);
    let reads = core.ensure_reader(&reader, &subscription).await.unwrap();
    let member = Arc::new(Member::new(core, 1));
    let running = tokio::spawn(Driver::new(core, member.clone(), Some(reader), subscription, reads).run());
    pubsub.publish(vec![message((FOREIGN, "k", "1"))]).await.unwrap();
    let came = async {
        loop {
            if let Some(after) = member.undecided() {
                return after;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    let after = timeout(PATIENCE, came).await.expect("it came");
    member.decide(after - 1, |_| false);
    assert_eq!(member.undecided(), Some(after), "it came later than that was asked");
    member.decide(after, |_| false);
    assert_eq!(member.undecided(), None, "it is nobody's");
    drop(nobody_asks);
    member.enter(Phase::Left);
    running.await.unwrap();
    pubsub.close().await.unwrap();
}

/// Nobody else would hear of it: the receiver waits, and what was fetched keeps its lease.
#[tokio::test(flavor = "multi_thread")]
async fn a_task_that_breaks_off_is_told_to_the_receiver() {
    let Some(stand_in) = stand_in() else { return };
    let endpoint = Some(format!("http://{}", stand_in.address()));
    let config = PubsubConfig { endpoint, ..PubsubConfig::default() };
    let clients = Clients::new(&config).unwrap();
    let core = Arc::new(Core::new(clients, Names::new("broken".to_owned(), "app"), config, Clock::system()));
    let reads = Subscription::ephemeral(["a.b".parse::<Pattern>().unwrap()]);
    let told = async |member: &Member| {
        loop {
            match member.take(1, &mut Vec::new()) {
                Err(error) => return error.kind(),
                Ok(_) => member.arrived.notified().await,
            }
        }
    };
    // One that reads.
    let member = Arc::new(Member::new(&core, 1));
    let mut driver = Driver::new(&core, member.clone(), None, reads, Reads::new());
    driver.tasks.spawn(async { panic!("as a test wants it") });
    let running = tokio::spawn(guarded(driver.run(), member.clone()));
    assert_eq!(timeout(PATIENCE, told(&member)).await.expect("it is told"), TransportErrorKind::Internal);
    member.enter(Phase::Left);
    running.await.unwrap();
    // The one that they belong to.
    let member = Arc::new(Member::new(&core, 1));
    guarded(async { panic!("as a test wants it") }, member.clone()).await;
    assert_eq!(timeout(PATIENCE, told(&member)).await.expect("it is told"), TransportErrorKind::Internal);
    timeout(PATIENCE, member.gone()).await.expect("it is over");
}

/// Handles of messages that have come; what they belong to is told by whoever puts them.
async fn handles(
    core: &Arc<Core>,
    pubsub: &Pubsub,
    count: usize,
) -> Vec<google_cloud_pubsub::subscriber::handler::Handler> {
    let reader = Reader::group(&"handles".parse().unwrap());
    let subscription = Subscription::group("handles".parse().unwrap(), [OURS.parse::<Pattern>().unwrap()]);
    let reads = core.ensure_reader(&reader, &subscription).await.unwrap();
    let (name, _) = reads.into_iter().next().unwrap();
    pubsub.publish((0..count).map(|_| message((OURS, "other", "text"))).collect()).await.unwrap();
    let seat = core.clients.seat();
    let mut stream = core.clients.subscriber(&seat).await.unwrap().subscribe(name).build();
    let mut all = Vec::new();
    while all.len() < count {
        let (_, handler) = timeout(PATIENCE, stream.next()).await.expect("it comes").unwrap().unwrap();
        all.push(handler);
    }
    all
}

/// The service hands out again the first of a key, and all behind it; between the two the second one must not be first.
#[tokio::test(flavor = "multi_thread")]
async fn what_comes_again_keeps_its_place_in_its_key() {
    let Some(stand_in) = stand_in() else { return };
    let endpoint = Some(format!("http://{}", stand_in.address()));
    let config = PubsubConfig { endpoint, ..PubsubConfig::default() };
    let url = TransportUrl::parse("pubsub://place/app").unwrap();
    let pubsub = Pubsub::with(&url, config, Clock::system()).unwrap();
    let core = pubsub.core();
    let member = Member::new(core, 10);
    let mut handles = handles(core, &pubsub, 8).await.into_iter();
    let mut comes = |id: &str| {
        let message = Incoming::Envelope(message((OURS, "k", "text")).envelope);
        let handler = handles.next().unwrap();
        member.put(Came { source: 0, connection: 0, id: id.into(), key: "k".to_owned(), message, handler });
    };
    let taken = || {
        let mut handed = Vec::new();
        member.take(10, &mut handed).unwrap();
        let positions: Vec<String> = handed.iter().map(|handed| handed.position.to_string()).collect();
        (positions, handed.into_iter().map(|handed| handed.token).collect::<Vec<_>>())
    };
    ["1", "2", "1"].into_iter().for_each(&mut comes);
    let (positions, mut in_hand) = taken();
    assert_eq!(positions, ["1", "2"]);
    // In hand as well, where the settlement of the earlier delivery settles nothing.
    comes("1");
    member.done(&mut in_hand);
    assert_eq!(pubsub.lost_leases(), 1);
    assert_eq!(taken().0, ["1"]);
    // So does what was settled behind it: it is not handed out again, and not behind a later one.
    ["3", "1", "2", "3"].into_iter().for_each(&mut comes);
    let (positions, mut in_hand) = taken();
    assert_eq!(positions, ["1", "3"]);
    member.done(&mut in_hand);
    assert!(!member.acks().is_empty());
    member.give_back();
    assert_eq!(pubsub.lost_leases(), 1, "all was told that was settled");
    pubsub.close().await.unwrap();
}

/// Settlements of a key wait for the service's word on those before them, not for another key's, and not for a word that would
/// have to come by a connection that has fallen silent.
#[tokio::test(flavor = "multi_thread")]
async fn settlements_wait_for_those_of_their_key_alone() {
    let Some(stand_in) = stand_in() else { return };
    let endpoint = Some(format!("http://{}", stand_in.address()));
    let config = PubsubConfig { endpoint, ..PubsubConfig::default() };
    let url = TransportUrl::parse("pubsub://apart/app").unwrap();
    let pubsub = Pubsub::with(&url, config, Clock::system()).unwrap();
    let core = pubsub.core();
    let member = Member::new(core, 10);
    let mut handles = handles(core, &pubsub, 6).await.into_iter();
    let mut comes = |connection: u64, id: &str, key: &str| {
        let message = Incoming::Envelope(message((OURS, key, "text")).envelope);
        let handler = handles.next().unwrap();
        member.put(Came { source: 0, connection, id: id.into(), key: key.to_owned(), message, handler });
        let mut handed = Vec::new();
        member.take(1, &mut handed).unwrap();
        vec![handed.remove(0).token]
    };
    let (mut first, mut second) = (comes(0, "1", "k"), comes(0, "2", "k"));
    let mut other = comes(0, "3", "l");
    first.append(&mut other);
    member.done(&mut first);
    let mut acks = member.acks();
    assert_eq!(acks.len(), 2, "each key apart");
    member.done(&mut second);
    assert!(member.acks().is_empty(), "it waits");
    let of_other = acks.pop().unwrap();
    member.answered(timeout(PATIENCE, acks.remove(0)).await.unwrap());
    let silent = member.acks();
    assert_eq!(silent.len(), 1, "it goes while nobody has said anything of the other key");
    // Now that connection falls silent, with one on its way and one behind it.
    member.done(&mut comes(0, "4", "k"));
    assert!(member.acks().is_empty(), "it waits");
    member.exchanged(0);
    assert_eq!(pubsub.lost_leases(), 1, "that one comes again");
    member.done(&mut comes(1, "4", "k"));
    assert_eq!(member.acks().len(), 1, "by the next connection, where it waits for nothing");
    drop((silent, of_other));
    member.give_back();
    pubsub.close().await.unwrap();
}

/// Whoever leaves sends on as new what nobody can have started: a suspect that was is none of these, however often it comes again.
#[tokio::test(flavor = "multi_thread")]
async fn a_suspect_that_comes_again_while_it_runs_was_started() {
    let Some(stand_in) = stand_in() else { return };
    let endpoint = Some(format!("http://{}", stand_in.address()));
    let config = PubsubConfig { endpoint, ..PubsubConfig::default() };
    let url = TransportUrl::parse("pubsub://running/app").unwrap();
    let pubsub = Pubsub::with(&url, config, Clock::system()).unwrap();
    let core = pubsub.core();
    let member = Member::new(core, 1);
    member.suspects(0);
    let mut handles = handles(core, &pubsub, 2).await.into_iter();
    let mut comes = || {
        let message = Incoming::Envelope(message((OURS, "k", "text")).envelope);
        let handler = handles.next().unwrap();
        member.put(Came { source: 0, connection: 0, id: "1".into(), key: "k".to_owned(), message, handler });
    };
    comes();
    assert!(member.unstarted().is_some(), "it is fetched only");
    let mut handed = Vec::new();
    member.take(1, &mut handed).unwrap();
    comes();
    assert!(member.unstarted().is_none(), "it runs");
    pubsub.close().await.unwrap();
}

/// A process that leaves gives back what it has fetched, and the service counts a start of it. Of a suspect few are allowed, and
/// it may wait behind a copy that is not due.
#[tokio::test(flavor = "multi_thread")]
async fn a_suspect_that_was_never_started_is_not_counted_as_started() {
    let Some(stand_in) = stand_in() else { return };
    let endpoint = Some(format!("http://{}", stand_in.address()));
    let config = PubsubConfig { endpoint, ..PubsubConfig::default() };
    let url = TransportUrl::parse("pubsub://suspects/app").unwrap();
    let pubsub = Pubsub::with(&url, config, Clock::system()).unwrap();
    let core = pubsub.core();
    let group: Group = "g".parse().unwrap();
    let mut subscription = Subscription::group(group.clone(), [OURS.parse::<Pattern>().unwrap()]);
    subscription.retry_step = Some(1);
    let reads = Reads::from([
        (core.ensure_copies(&group, 1).await.unwrap(), core.names.retry(&group, 1).unwrap()),
        (core.ensure_suspects(&group).await.unwrap(), core.names.suspects(&group).unwrap()),
    ]);
    let copy = |last_start| {
        let mut envelope = message((OURS, "k", "text")).envelope;
        envelope.set_retry(Some(Retry { round: 1, first: Timestamp::now(), last_start }));
        let to = Destination::Retry { group: group.clone(), step: 1, delay: Duration::from_secs(60) };
        Outgoing::new(to, envelope)
    };
    pubsub.publish(vec![copy(false)]).await.unwrap();
    let next = async |member: &Member| {
        let mut handed = Vec::new();
        while handed.is_empty() {
            member.take(1, &mut handed).unwrap();
            if handed.is_empty() {
                member.arrived.notified().await;
            }
        }
        handed.remove(0)
    };
    let both = async |member: &Member| {
        while member.fetched() < 2 {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    let mut begun = true;
    for _ in 0..4 {
        let member = Arc::new(Member::new(core, 1));
        let driver = Driver::new(core, member.clone(), None, subscription.clone(), reads.clone());
        let running = tokio::spawn(driver.run());
        if std::mem::take(&mut begun) {
            // Its head is not due, and the suspect comes behind it.
            timeout(PATIENCE, next(&member)).await.expect("a copy");
            pubsub.publish(vec![copy(true)]).await.unwrap();
        }
        timeout(PATIENCE, both(&member)).await.expect("both are fetched");
        member.enter(Phase::Left);
        running.await.unwrap();
    }
    let member = Arc::new(Member::new(core, 1));
    let driver = Driver::new(core, member.clone(), None, subscription.clone(), reads.clone());
    let running = tokio::spawn(driver.run());
    timeout(PATIENCE, both(&member)).await.expect("both are fetched");
    let first = timeout(PATIENCE, next(&member)).await.expect("a copy");
    let is_suspect = first.message.envelope().unwrap().retry().is_some_and(|retry| retry.last_start);
    assert!(is_suspect, "it waits for nothing");
    assert_eq!(first.count, 1, "nobody has started it");
    member.enter(Phase::Left);
    running.await.unwrap();
    pubsub.close().await.unwrap();
}

/// The member has told what was settled before, and asks the service for a sign that its stream is over. One thread alone, so
/// that no answer comes before it is settled.
#[tokio::test]
async fn what_is_settled_while_a_member_leaves_is_settled() {
    let Some(stand_in) = stand_in() else { return };
    let endpoint = Some(format!("http://{}", stand_in.address()));
    let config = PubsubConfig { endpoint, ..PubsubConfig::default() };
    let url = TransportUrl::parse("pubsub://leaving/app").unwrap();
    let open = || Pubsub::with(&url, config.clone(), Clock::system()).unwrap();
    let (leaving, staying) = (open(), open());
    let core = leaving.core();
    let group: Group = "g".parse().unwrap();
    let reader = Reader::group(&group);
    let subscription = Subscription::group(group, [OURS.parse::<Pattern>().unwrap()]);
    let reads = core.ensure_reader(&reader, &subscription).await.unwrap();
    let member = Arc::new(Member::new(core, 2));
    let driver = Driver::new(core, member.clone(), Some(reader), subscription.clone(), reads);
    let running = tokio::spawn(driver.run());
    staying.publish(["1", "2"].map(|text| message((OURS, "k", text))).into()).await.unwrap();
    let mut handed = Vec::new();
    while handed.len() < 2 {
        timeout(PATIENCE, member.arrived.notified()).await.expect("both come");
        member.take(2, &mut handed).unwrap();
    }
    core.closing.send_replace(true);
    member.reached(Phase::Stopped).await;
    assert_eq!(member.phase(), Phase::Stopped);
    member.done(&mut vec![handed[0].token]);
    timeout(PATIENCE, running).await.expect("it leaves").unwrap();
    assert_eq!(leaving.lost_leases(), 0);
    let mut next = staying.subscribe(&subscription).await.unwrap();
    assert_eq!(settled(&mut *next, 1).await, ["2"], "the first one is settled, the other was given back");
    staying.close().await.unwrap();
}

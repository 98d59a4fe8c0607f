//! What was found by reading, and mended: each of it as it would be again.

use std::collections::{BTreeSet, VecDeque};
use std::time::Duration;

use bytes::Bytes;
use google_cloud_auth::credentials::anonymous;
use google_cloud_pubsub::client::{SubscriptionAdmin, TopicAdmin};
use msgkit::envelope::NativeHeaders;
use msgkit::transport::{
    Deliveries, Delivery, Incoming, Publisher as _, Subscriber as _, Subscription, Transport as _,
    TransportError, TransportErrorKind,
};
use msgkit_testing::brokers::Pubsub as StandIn;

use super::{PATIENCE, group, message, pubsub, stand_in, support, take, text, within};

/// `PERMISSION_DENIED` and `UNKNOWN`: both end a stream for Google's client, only the first one for good.
const DENIED: u32 = 7;
const UNKNOWN: u32 = 2;

fn of(group: &str, pattern: &str) -> Subscription {
    Subscription::group(group.parse().unwrap(), [pattern.parse().unwrap()])
}

/// Returns when somebody reads in `project`.
async fn reading(stand_in: &StandIn, project: &str) {
    streams(stand_in, project, 1).await;
}

/// Returns when as many streams are open in `project`.
async fn streams(stand_in: &StandIn, project: &str, count: usize) {
    within("a stream", async {
        while stand_in.streams(project).unwrap() < count {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    })
    .await;
}

async fn refusal(reader: &mut dyn Deliveries) -> TransportError {
    let mut came = VecDeque::new();
    let told = within("the refusal", reader.receive(1, &mut came)).await;
    told.expect_err("it is told")
}

/// Who publishes makes the subscriptions of all groups that have an entry, and those name the group's first retry topic.
#[tokio::test(flavor = "multi_thread")]
async fn a_group_that_could_not_be_made_holds_up_nobody_who_publishes() {
    let Some(stand_in) = stand_in() else { return };
    let open = || pubsub("unmade", support::config(stand_in.address()));
    let first = open();
    // The place of the entries is there, so that making an entry needs no topic.
    let mut other = first.subscribe(&of("other", "x.y")).await.unwrap();
    stand_in.refuse("CreateTopic", DENIED, u32::MAX >> 1).unwrap();
    let Err(error) = first.subscribe(&of("g", "a.b")).await else { panic!("no topic can be made") };
    assert_eq!(error.kind(), TransportErrorKind::Refused, "{error}");
    assert!(stand_in.refuse("CreateTopic", DENIED, 0).unwrap() > 0, "it was refused");
    let publisher = open();
    publisher.publish(vec![message("a.b", "k", "1")]).await.expect("there is no entry of the group yet");
    other.close().await.unwrap();
    for pubsub in [publisher, first] {
        pubsub.close().await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_that_ended_keeps_its_leases() {
    let Some(stand_in) = stand_in() else { return };
    let mut config = support::config(stand_in.address());
    config.fetch_ahead = 0;
    let pubsub = pubsub("ended", config);
    let mut reader = pubsub.subscribe(&group().with_prefetch(1)).await.unwrap();
    pubsub.publish(vec![message("a.b", "k", "1"), message("a.b", "k", "2")]).await.unwrap();
    let held = take(&mut *reader, 1).await.remove(0);
    stand_in.end_streams("ended", UNKNOWN).unwrap();
    reading(&stand_in, "ended").await;
    held.ack();
    within("the word on the settlement", reader.flush()).await.unwrap();
    assert_eq!(pubsub.lost_leases(), 0, "it was settled by the stream that is no more");
    let next = take(&mut *reader, 1).await.remove(0);
    assert_eq!((text(&next), next.count()), ("2".to_owned(), 1));
    next.ack();
    pubsub.close().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_refused_for_good_while_it_runs_is_told_to_the_receiver() {
    let Some(stand_in) = stand_in() else { return };
    let pubsub = pubsub("denied", support::config(stand_in.address()));
    // A stream that may not be any more.
    pubsub.publish(vec![message("a.b", "k", "1")]).await.unwrap();
    let mut reader = pubsub.subscribe(&of("exact", "a.b")).await.unwrap();
    reading(&stand_in, "denied").await;
    stand_in.end_streams("denied", DENIED).unwrap();
    let error = refusal(&mut *reader).await;
    assert!(error.is_temporary(), "it is tried again: {error}");
    assert!(error.to_string().contains("a.b"), "it names the subscription: {error}");
    // A subscription to a topic that has come since, which may not be made.
    let mut reader = pubsub.subscribe(&group()).await.unwrap();
    stand_in.refuse("CreateSubscription", DENIED, u32::MAX >> 1).unwrap();
    let nobody = anonymous::Builder::new().build();
    let endpoint = format!("http://{}", stand_in.address());
    let topics =
        TopicAdmin::builder().with_credentials(nobody).with_endpoint(endpoint).build().await.unwrap();
    topics.create_topic().set_name("projects/denied/topics/app.a.new").send().await.unwrap();
    let error = loop {
        let mut came = VecDeque::new();
        match within("the refusal", reader.receive(1, &mut came)).await {
            Ok(()) => came.into_iter().for_each(Delivery::ack),
            Err(error) => break error,
        }
    };
    assert!(error.is_temporary(), "it is tried again: {error}");
    assert!(error.to_string().contains("a.new"), "it names the subscription: {error}");
    stand_in.refuse("CreateSubscription", DENIED, 0).unwrap();
    pubsub.close().await.unwrap();
}

/// The service moves what it has handed out too often to the group's first retry topic, where nothing but it says which topic a
/// message had that names none.
#[tokio::test(flavor = "multi_thread")]
async fn a_message_that_the_service_moved_keeps_its_topic() {
    const STARTS: u8 = 10;
    let Some(stand_in) = stand_in() else { return };
    let mut config = support::config(stand_in.address());
    (config.delivery_attempts, config.fetch_ahead) = (STARTS, 0);
    let pubsub = pubsub("moved", config);
    let mut reader = pubsub.subscribe(&of("g", "a.b")).await.unwrap();
    let payload = Bytes::from_static(b"from a device");
    pubsub.publish_foreign(&"a.b".parse().unwrap(), payload.clone(), &NativeHeaders::new()).await.unwrap();
    let mut held = Vec::new();
    for start in 1..=u32::from(STARTS) {
        let came = take(&mut *reader, 1).await.remove(0);
        assert_eq!(came.count(), start);
        held.push(came);
        stand_in.expire("moved").unwrap();
    }
    let mut copies = of("g", "a.b");
    copies.retry_step = Some(1);
    let mut copies = pubsub.subscribe(&copies).await.unwrap();
    let moved = take(&mut *copies, 1).await.remove(0);
    let Incoming::Malformed(malformed) = moved.message() else { panic!("no event: {moved:?}") };
    assert_eq!((malformed.topic.as_str(), malformed.payload.as_ref()), ("a.b", Some(&payload)));
    moved.ack();
    drop(held);
    pubsub.close().await.unwrap();
}

/// Three devices of one place.
const DEVICES: [&str; 3] = ["device.AA~3A01.raw", "device.AA~3A02.raw", "device.AA~3A03.raw"];

/// A roll-out: what comes of a shared place goes to whichever member the service likes, and an older one has never heard of what
/// the newer one takes.
#[tokio::test(flavor = "multi_thread")]
async fn what_only_a_newer_member_takes_is_not_skipped_by_an_older_one() {
    const EACH: usize = 60;
    let Some(stand_in) = stand_in() else { return };
    let open = || pubsub("rollout", support::config(stand_in.address()));
    let [known, declared, foreign] = DEVICES;
    let (old, new) = (open(), open());
    let mut older = old.subscribe(&of("g", known)).await.unwrap();
    let both = [known, declared].map(|pattern| pattern.parse().unwrap());
    let mut newer = new.subscribe(&Subscription::group("g".parse().unwrap(), both)).await.unwrap();
    streams(&stand_in, "rollout", 2).await;
    // Each with a key of its own, so that both members get some.
    for topic in [declared, foreign] {
        let sent = |n| message(topic, &format!("key {n}"), &format!("{topic} {n}"));
        new.publish((0..EACH).map(sent).collect()).await.unwrap();
    }
    let (mut came, mut by_older) = (BTreeSet::new(), 0);
    let all = async {
        while came.len() < EACH {
            let (mut first, mut second) = (VecDeque::new(), VecDeque::new());
            let received = tokio::select! {
                received = older.receive(10, &mut first) => received,
                received = newer.receive(10, &mut second) => received,
            };
            received.unwrap();
            by_older += first.len();
            for delivery in first.into_iter().chain(second) {
                came.insert(text(&delivery));
                delivery.ack();
            }
        }
    };
    let _ = tokio::time::timeout(PATIENCE, all).await;
    let wanted: BTreeSet<String> = (0..EACH).map(|n| format!("{declared} {n}")).collect();
    assert_eq!(came, wanted, "{} came; all that the group takes, and nothing else", came.len());
    assert!(by_older > 0, "some came to the member that does not know them");
    // What nobody takes has held up nobody.
    new.publish(vec![message(known, "key 0", "last")]).await.unwrap();
    let last = within("the last one", async {
        tokio::select! {
            came = take(&mut *older, 1) => came,
            came = take(&mut *newer, 1) => came,
        }
    });
    let last = last.await.remove(0);
    assert_eq!(text(&last), "last");
    last.ack();
    for pubsub in [old, new] {
        pubsub.close().await.unwrap();
    }
}

/// Nobody can say what a group takes whose entries somebody has deleted.
#[tokio::test(flavor = "multi_thread")]
async fn without_the_entries_of_its_group_a_member_skips_nothing() {
    let Some(stand_in) = stand_in() else { return };
    let pubsub = pubsub("entries", support::config(stand_in.address()));
    let [known, other, _] = DEVICES;
    let mut reader = pubsub.subscribe(&of("g", known)).await.unwrap();
    let nobody = anonymous::Builder::new().build();
    let endpoint = format!("http://{}", stand_in.address());
    let admin =
        SubscriptionAdmin::builder().with_credentials(nobody).with_endpoint(endpoint).build().await.unwrap();
    let entry = format!("projects/entries/subscriptions/app.g~~{known}");
    admin.delete_subscription().set_subscription(entry).send().await.unwrap();
    pubsub.publish(vec![message(other, "k", "1")]).await.unwrap();
    let came = take(&mut *reader, 1).await.remove(0);
    assert_eq!(text(&came), "1");
    came.ack();
    pubsub.close().await.unwrap();
}

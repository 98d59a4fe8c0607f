//! What was found by reading, and mended: each of it as it would be again.

use std::collections::VecDeque;
use std::time::Duration;

use bytes::Bytes;
use google_cloud_auth::credentials::anonymous;
use google_cloud_pubsub::client::TopicAdmin;
use msgkit::envelope::NativeHeaders;
use msgkit::transport::{
    Deliveries, Delivery, Incoming, Publisher as _, Subscriber as _, Subscription, Transport as _,
    TransportError, TransportErrorKind,
};
use msgkit_testing::brokers::{FaultProxy, Pubsub as StandIn};

use super::{PATIENCE, group, message, pubsub, stand_in, support, take, text};

/// `PERMISSION_DENIED` and `UNKNOWN`: both end a stream for Google's client, only the first one for good.
const DENIED: u32 = 7;
const UNKNOWN: u32 = 2;

fn of(group: &str, pattern: &str) -> Subscription {
    Subscription::group(group.parse().unwrap(), [pattern.parse().unwrap()])
}

async fn within<T>(what: &str, future: impl Future<Output = T>) -> T {
    tokio::time::timeout(PATIENCE, future).await.unwrap_or_else(|_| panic!("never: {what}"))
}

/// Returns when somebody reads in `project`.
async fn reading(stand_in: &StandIn, project: &str) {
    within("a stream", async {
        while stand_in.streams(project).unwrap() == 0 {
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
    assert_eq!(error.kind(), TransportErrorKind::Refused, "{}", msgkit::Chain(&error));
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
    assert_eq!(error.kind(), TransportErrorKind::Refused, "{}", msgkit::Chain(&error));
    assert!(error.to_string().contains("a.new"), "it names the subscription: {error}");
    stand_in.refuse("CreateSubscription", DENIED, 0).unwrap();
    pubsub.close().await.unwrap();
}

/// The member has told what was settled before, and asks the service for a sign that its stream is over.
#[tokio::test(flavor = "multi_thread")]
async fn what_is_settled_while_a_member_leaves_is_settled() {
    let Some(stand_in) = stand_in() else { return };
    let proxy = FaultProxy::start(stand_in.address()).await.unwrap();
    let leaving = pubsub("leaving", support::config(proxy.address()));
    let staying = pubsub("leaving", support::config(stand_in.address()));
    let mut reader = leaving.subscribe(&group()).await.unwrap();
    staying.publish(vec![message("a.b", "k", "1"), message("a.b", "k", "2")]).await.unwrap();
    let mut held = take(&mut *reader, 2).await;
    proxy.stall();
    let closing = tokio::spawn(async move { leaving.close().await });
    // Its question is on its way, for two seconds at most.
    tokio::time::sleep(Duration::from_millis(500)).await;
    held.remove(0).ack();
    proxy.heal();
    within("the close", closing).await.unwrap().unwrap();
    drop(held);
    let mut next = staying.subscribe(&group()).await.unwrap();
    let came = take(&mut *next, 1).await.remove(0);
    assert_eq!(text(&came), "2", "the first one is settled, the other was given back");
    came.ack();
    staying.close().await.unwrap();
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

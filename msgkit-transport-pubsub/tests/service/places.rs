//! Topics and subscriptions that come and go while they are used.

use std::collections::VecDeque;
use std::time::Duration;

use google_cloud_auth::credentials::anonymous;
use google_cloud_pubsub::client::{SubscriptionAdmin, TopicAdmin};
use msgkit::envelope::{DeadLetter, DeadLetterKind, Retry};
use msgkit::transport::{
    Deliveries, Delivery, Destination, Health, Operate as _, Outgoing, Publisher as _, Subscriber as _,
    Subscription, Transport as _,
};
use msgkit::{Group, Timestamp};
use msgkit_testing::brokers::Pubsub as StandIn;

use super::{group, message, pubsub, stand_in, support, take, text, within};

/// Longer than what was seen is trusted.
const TRUST: Duration = Duration::from_secs(6);

async fn topics(stand_in: &StandIn) -> TopicAdmin {
    let builder = TopicAdmin::builder().with_credentials(anonymous::Builder::new().build());
    builder.with_endpoint(format!("http://{}", stand_in.address())).build().await.unwrap()
}

async fn subscriptions(stand_in: &StandIn) -> SubscriptionAdmin {
    let builder = SubscriptionAdmin::builder().with_credentials(anonymous::Builder::new().build());
    builder.with_endpoint(format!("http://{}", stand_in.address())).build().await.unwrap()
}

async fn delete(stand_in: &StandIn, subscription: &str) {
    let admin = subscriptions(stand_in).await;
    admin.delete_subscription().set_subscription(subscription).send().await.unwrap();
}

/// What the receiver is told that `says` so; what comes meanwhile is settled.
async fn told(reader: &mut dyn Deliveries, says: &str) {
    within(says, async {
        loop {
            let mut came = VecDeque::new();
            match reader.receive(1, &mut came).await {
                Ok(()) => came.into_iter().for_each(Delivery::ack),
                Err(error) if error.to_string().contains(says) => return,
                Err(_) => {}
            }
        }
    })
    .await;
}

fn letter(group: &str, text: &str) -> Outgoing {
    let mut envelope = message("a.b", "k", text).envelope;
    envelope.set_dead_letter(Some(DeadLetter::new(DeadLetterKind::Handler, "it failed", Timestamp::now())));
    Outgoing::new(Destination::DeadLetter(group.parse().unwrap()), envelope)
}

/// Who publishes knows the place that topics share; who takes one of them alone does not.
#[tokio::test(flavor = "multi_thread")]
async fn a_place_that_is_made_later_is_found_by_who_takes_one_of_its_topics() {
    let Some(stand_in) = stand_in() else { return };
    let open = || pubsub("later", support::config(stand_in.address()));
    let (reading, publishing) = (open(), open());
    let device = "device.7.raw";
    let exact = Subscription::group("g".parse().unwrap(), [device.parse().unwrap()]);
    let mut reader = reading.subscribe(&exact).await.unwrap();
    let mut outgoing = message(device, "k", "1");
    let place = msgkit::TopicTemplate::new("device.{id}.raw").unwrap().destination();
    let place = Some(msgkit::Topic::from_checked(place).unwrap());
    outgoing.to = Destination::Topic { topic: device.parse().unwrap(), place };
    publishing.publish(vec![outgoing]).await.unwrap();
    let came = take(&mut *reader, 1).await.remove(0);
    assert_eq!(text(&came), "1");
    came.ack();
    for pubsub in [reading, publishing] {
        pubsub.close().await.unwrap();
    }
}

/// A topic takes what is published though no subscription keeps it, and nobody reads dead letters who would notice.
#[tokio::test(flavor = "multi_thread")]
async fn a_copy_is_not_confirmed_where_nothing_keeps_it() {
    let Some(stand_in) = stand_in() else { return };
    let pubsub = pubsub("unkept", support::config(stand_in.address()));
    let g: Group = "g".parse().unwrap();
    pubsub.publish(vec![letter("g", "1")]).await.unwrap();
    assert_eq!(pubsub.dead_letters(&g, None, 10).await.unwrap().len(), 1);
    delete(&stand_in, "projects/unkept/subscriptions/app.msgkit.dead_letter.g").await;
    // What was seen a moment ago is trusted, by the clock.
    tokio::time::sleep(TRUST).await;
    pubsub.publish(vec![letter("g", "2")]).await.unwrap();
    let letters = pubsub.dead_letters(&g, None, 10).await.unwrap();
    assert_eq!(letters.len(), 1, "what was confirmed is there");
    // Who looks notices as well.
    delete(&stand_in, "projects/unkept/subscriptions/app.msgkit.dead_letter.g").await;
    let error = pubsub.dead_letters(&g, None, 10).await.unwrap_err();
    assert!(error.is_temporary(), "{}", msgkit::Chain(&error));
    assert_eq!(pubsub.dead_letters(&g, None, 10).await.unwrap().len(), 0, "it was made again");
    pubsub.close().await.unwrap();
}

/// Readers know the subscriptions that keep copies, because they made sure of them when they began. That is no word on them when
/// the first copy is published, which may be days later.
#[tokio::test(flavor = "multi_thread")]
async fn the_first_copy_of_all_is_not_confirmed_where_nothing_keeps_it() {
    let Some(stand_in) = stand_in() else { return };
    let pubsub = pubsub("first", support::config(stand_in.address()));
    let mut reader = pubsub.subscribe(&group()).await.unwrap();
    let copy = |last_start| {
        let mut envelope = message("a.b", "k", "1").envelope;
        envelope.set_retry(Some(Retry { round: 1, first: Timestamp::now(), last_start }));
        let group = "g".parse().unwrap();
        Outgoing::new(Destination::Retry { group, step: 1, delay: Duration::from_secs(60) }, envelope)
    };
    let admin = subscriptions(&stand_in).await;
    for (name, copy) in
        [("dead_letter.g", letter("g", "1")), ("retry.g.1", copy(false)), ("suspect.g", copy(true))]
    {
        let name = format!("projects/first/subscriptions/app.msgkit.{name}");
        delete(&stand_in, &name).await;
        pubsub.publish(vec![copy]).await.unwrap();
        let kept = admin.get_subscription().set_subscription(&name).send().await;
        assert!(kept.is_ok(), "what was confirmed is kept by nothing: {name}");
    }
    assert_eq!(pubsub.dead_letters(&"g".parse().unwrap(), None, 10).await.unwrap().len(), 1);
    reader.close().await.unwrap();
    pubsub.close().await.unwrap();
}

/// One of them that cannot be read is told, by `receive` and by health, until it can.
#[tokio::test(flavor = "multi_thread")]
async fn a_topic_that_cannot_be_read_keeps_nobody_from_those_that_come_later() {
    let Some(stand_in) = stand_in() else { return };
    let open = || pubsub("beside", support::config(stand_in.address()));
    let (pubsub, publishing) = (open(), open());
    let mut reader = pubsub.subscribe(&group()).await.unwrap();
    let (topics, admin) = (topics(&stand_in).await, subscriptions(&stand_in).await);
    let bad = "projects/beside/subscriptions/app.g~a.bad";
    let elsewhere = "projects/beside/topics/elsewhere";
    topics.create_topic().set_name(elsewhere).send().await.unwrap();
    admin.create_subscription().set_name(bad).set_topic(elsewhere).send().await.unwrap();
    topics.create_topic().set_name("projects/beside/topics/app.a.bad").send().await.unwrap();
    told(&mut *reader, "app.g~a.bad").await;
    publishing.publish(vec![message("a.good", "k", "1")]).await.unwrap();
    let came = take(&mut *reader, 1).await.remove(0);
    assert_eq!(text(&came), "1");
    came.ack();
    let Health::Down(why) = pubsub.health().await else { panic!("not all of it is read") };
    assert!(why.contains("app.g~a.bad"), "{why}");
    delete(&stand_in, bad).await;
    within("all is read", async {
        while pubsub.health().await != Health::Up {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    })
    .await;
    for pubsub in [pubsub, publishing] {
        pubsub.close().await.unwrap();
    }
}

/// A topic that is made again is another one: its old subscriptions get nothing, and nobody may publish to it as if they did.
#[tokio::test(flavor = "multi_thread")]
async fn a_topic_that_was_deleted_is_not_made_again_while_its_subscriptions_are_left() {
    let Some(stand_in) = stand_in() else { return };
    let open = || pubsub("again", support::config(stand_in.address()));
    let (first, second) = (open(), open());
    let mut reader = first.subscribe(&group()).await.unwrap();
    for pubsub in [&first, &second] {
        pubsub.publish(vec![message("a.b", "k", "before")]).await.unwrap();
        take(&mut *reader, 1).await.remove(0).ack();
    }
    reader.flush().await.unwrap();
    let admin = topics(&stand_in).await;
    let topic = "projects/again/topics/app.a.b";
    admin.delete_topic().set_topic(topic).send().await.unwrap();
    for pubsub in [&first, &first, &second, &second] {
        pubsub.publish(vec![message("a.b", "k", "lost")]).await.expect_err("nobody would get it");
    }
    let error = first.publish(vec![message("a.b", "k", "lost")]).await.unwrap_err();
    assert!(msgkit::Chain(&error).to_string().contains("app.g~a.b"), "{error}");
    // Somebody makes it by hand: those who read the old subscription are told.
    admin.create_topic().set_name(topic).send().await.unwrap();
    told(&mut *reader, "app.g~a.b").await;
    for pubsub in [first, second] {
        pubsub.close().await.unwrap();
    }
}

/// A topic that is needed no more is deleted with its subscriptions; those who read by wildcards go on without it.
#[tokio::test(flavor = "multi_thread")]
async fn a_topic_that_is_retired_is_read_no_more_until_it_is_there_again() {
    let Some(stand_in) = stand_in() else { return };
    let open = || pubsub("retired", support::config(stand_in.address()));
    let (pubsub, publishing) = (open(), open());
    publishing.publish(vec![message("a.old", "k", "0"), message("a.new", "k", "0")]).await.unwrap();
    let mut reader = pubsub.subscribe(&group()).await.unwrap();
    within("both are read", async {
        while stand_in.streams("retired").unwrap() < 2 {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    })
    .await;
    let topics = topics(&stand_in).await;
    topics.delete_topic().set_topic("projects/retired/topics/app.a.old").send().await.unwrap();
    delete(&stand_in, "projects/retired/subscriptions/app.g~a.old").await;
    let broken_off = async || {
        let groups = pubsub.groups().await.unwrap();
        groups.iter().map(|group| group.broken_off).sum::<u64>()
    };
    within("it is noticed", async {
        while broken_off().await == 0 {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    })
    .await;
    // Longer than it takes to try again a few times.
    tokio::time::sleep(Duration::from_secs(2)).await;
    assert_eq!(broken_off().await, 1, "it is not tried again and again");
    publishing.publish(vec![message("a.new", "k", "1")]).await.unwrap();
    let came = take(&mut *reader, 1).await.remove(0);
    assert_eq!(text(&came), "1");
    came.ack();
    // Its publisher has not noticed yet.
    let _ = publishing.publish(vec![message("a.old", "k", "missed")]).await;
    publishing.publish(vec![message("a.old", "k", "2")]).await.unwrap();
    let came = take(&mut *reader, 1).await.remove(0);
    assert_eq!(text(&came), "2", "made again, it is read again");
    came.ack();
    for pubsub in [pubsub, publishing] {
        pubsub.close().await.unwrap();
    }
}

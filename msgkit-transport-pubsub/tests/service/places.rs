//! Topics and subscriptions that come and go while they are used.

use std::time::Duration;

use google_cloud_auth::credentials::anonymous;
use google_cloud_pubsub::client::SubscriptionAdmin;
use msgkit::envelope::{DeadLetter, DeadLetterKind};
use msgkit::transport::{
    Destination, Operate as _, Outgoing, Publisher as _, Subscriber as _, Subscription, Transport as _,
};
use msgkit::{Group, Timestamp};
use msgkit_testing::brokers::Pubsub as StandIn;

use super::{message, pubsub, stand_in, support, take, text};

/// Longer than what was seen is trusted.
const TRUST: Duration = Duration::from_secs(6);

async fn subscriptions(stand_in: &StandIn) -> SubscriptionAdmin {
    let builder = SubscriptionAdmin::builder().with_credentials(anonymous::Builder::new().build());
    builder.with_endpoint(format!("http://{}", stand_in.address())).build().await.unwrap()
}

async fn delete(stand_in: &StandIn, subscription: &str) {
    let admin = subscriptions(stand_in).await;
    admin.delete_subscription().set_subscription(subscription).send().await.unwrap();
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

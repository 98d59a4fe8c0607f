//! What the service refuses while it is read.

use std::collections::VecDeque;
use std::time::Duration;

use msgkit::transport::{Delivery, Health, Publisher as _, Subscriber as _, Transport as _};
use msgkit_testing::brokers::Pubsub as StandIn;

use super::{PATIENCE, group, message, pubsub, reading, stand_in, support, take, text, until_taken, within};

/// `PERMISSION_DENIED` and `RESOURCE_EXHAUSTED`.
const DENIED: u32 = 7;
const EXHAUSTED: u32 = 8;
const ALWAYS: u32 = u32::MAX >> 1;
/// More than the tries of one sign of life that is asked for.
const TRIES: u64 = 10;

/// Refuses streams of one subscription alone.
fn refuse(stand_in: &StandIn, subscription: &str, times: u32) {
    stand_in.refuse(&format!("StreamingPull&prefix={subscription}"), DENIED, times).unwrap();
}

/// To begin anew would give back what is fetched, and each time the service would count a start of it.
#[tokio::test(flavor = "multi_thread")]
async fn one_subscription_that_is_denied_does_not_disturb_the_others() {
    let Some(stand_in) = stand_in() else { return };
    let pubsub = pubsub("one-denied", support::config(stand_in.address()));
    let mut reader = pubsub.subscribe(&group().with_prefetch(1)).await.unwrap();
    let sent = |topic: &str, text: &str| message(topic, text, text);
    pubsub.publish(vec![sent("a.bad", "0")]).await.unwrap();
    take(&mut *reader, 1).await.remove(0).ack();
    pubsub.publish(vec![sent("a.good", "1")]).await.unwrap();
    let held = take(&mut *reader, 1).await.remove(0);
    pubsub.publish(vec![sent("a.good", "2")]).await.unwrap();
    refuse(&stand_in, "projects/one-denied/subscriptions/app.g~a.bad", ALWAYS);
    stand_in.end_streams("one-denied", DENIED).unwrap();
    let told = async {
        loop {
            let mut came = VecDeque::new();
            match reader.receive(1, &mut came).await {
                Err(error) if error.to_string().contains("a.bad") => return error,
                Err(error) => assert!(error.is_temporary(), "{error}"),
                Ok(()) => panic!("one is in hand already"),
            }
        }
    };
    let error = tokio::time::timeout(PATIENCE, told).await.expect("it is told");
    assert!(error.is_temporary(), "it is tried again: {error}");
    let Health::Down(why) = pubsub.health().await else { panic!("it is read no more") };
    assert!(why.contains("app.g~a.bad"), "{why}");
    held.ack();
    let next = take(&mut *reader, 1).await.remove(0);
    assert_eq!((text(&next), next.count()), ("2".to_owned(), 1));
    next.ack();
    pubsub.publish(vec![sent("a.bad", "3")]).await.unwrap();
    refuse(&stand_in, "", 0);
    let last = take(&mut *reader, 1).await.remove(0);
    assert_eq!((text(&last), last.count()), ("3".to_owned(), 1));
    last.ack();
    // The stream of the other one was ended too; that it lasts again is known when it has for a while.
    within("all is read", async {
        while pubsub.health().await != Health::Up {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    })
    .await;
    pubsub.close().await.unwrap();
    assert_eq!(pubsub.lost_leases(), 0);
}

/// Google's client tries again by itself what is refused for now, so a sign of life that is refused looks like silence.
#[tokio::test(flavor = "multi_thread")]
async fn a_sign_of_life_that_is_refused_costs_no_stream() {
    let Some(stand_in) = stand_in() else { return };
    let mut config = support::config(stand_in.address());
    (config.lease, config.connect_timeout) = (Duration::from_secs(10), Duration::from_secs(1));
    let pubsub = pubsub("pulse", config);
    let mut reader = reading(&pubsub, &group()).await;
    until_taken(&pubsub, vec![message("a.b", "k", "1")]).await;
    take(&mut *reader, 1).await.into_iter().for_each(Delivery::ack);
    stand_in.refuse("StreamingPull", EXHAUSTED, ALWAYS).unwrap();
    let mut refused = 0;
    let asked = async {
        while refused < TRIES {
            tokio::time::sleep(Duration::from_millis(200)).await;
            refused += stand_in.refuse("StreamingPull", EXHAUSTED, ALWAYS).unwrap();
        }
    };
    tokio::time::timeout(PATIENCE, asked).await.expect("it is asked for");
    until_taken(&pubsub, vec![message("a.b", "k", "2")]).await;
    // By the stream that was there before; the first one may come again.
    loop {
        let came = take(&mut *reader, 1).await.remove(0);
        let last = text(&came) == "2";
        came.ack();
        if last {
            break;
        }
    }
    pubsub.close().await.unwrap();
}

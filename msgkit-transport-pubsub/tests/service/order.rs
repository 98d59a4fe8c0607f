//! Settlements of a key, which the service takes in its order alone.

use std::time::Duration;

use msgkit::transport::{Delivery, Publisher as _, Subscriber as _, Subscription, Transport as _};
use tokio::time::timeout;

use super::{PATIENCE, message, pubsub, stand_in, support, take, text};

/// Two devices of one place.
const OURS: &str = "device.AA~3A01.raw";
const FOREIGN: &str = "device.AA~3A02.raw";
/// The code of gRPC.
const UNAVAILABLE: u32 = 14;

fn group() -> Subscription {
    Subscription::group("g".parse().unwrap(), [OURS.parse().unwrap()])
}

/// A settlement that the service does not take would keep the flush waiting for two leases, and be lost.
#[tokio::test(flavor = "multi_thread")]
async fn what_is_skipped_is_settled_in_the_order_of_its_key() {
    let Some(stand_in) = stand_in() else { return };
    let pubsub = pubsub("skipped", support::config(stand_in.address()));
    for subscription in [group(), Subscription::ephemeral([OURS.parse().unwrap()])] {
        let mut reader = pubsub.subscribe(&subscription).await.unwrap();
        let sent = [(OURS, "1"), (FOREIGN, "2"), (OURS, "3"), (FOREIGN, "4")];
        pubsub.publish(sent.iter().map(|(topic, text)| message(topic, "k", text)).collect()).await.unwrap();
        let mut held = take(&mut *reader, 2).await;
        assert_eq!(held.iter().map(text).collect::<Vec<_>>(), ["1", "3"]);
        reader.flush().await.expect("what is skipped waits for what is in hand");
        held.remove(0).ack();
        reader.flush().await.unwrap();
        held.remove(0).ack();
        reader.flush().await.unwrap();
        reader.close().await.unwrap();
    }
    assert_eq!(pubsub.lost_leases(), 0);
    pubsub.close().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_settled_behind_an_unsettled_one_of_its_key_waits_for_it() {
    let Some(stand_in) = stand_in() else { return };
    let pubsub = pubsub("behind", support::config(stand_in.address()));
    let mut reader = pubsub.subscribe(&group()).await.unwrap();
    pubsub.publish(["1", "2", "3"].map(|text| message(OURS, "k", text)).into()).await.unwrap();
    let mut held = take(&mut *reader, 3).await;
    held.remove(1).ack();
    reader.flush().await.expect("there is nothing that the service could have answered");
    held.remove(0).ack();
    reader.flush().await.unwrap();
    assert_eq!(pubsub.lost_leases(), 0, "both were taken, in order");
    drop(held);
    reader.close().await.unwrap();
    // Where the one before it goes back it comes again as well.
    let mut reader = pubsub.subscribe(&group()).await.unwrap();
    pubsub.publish(vec![message(OURS, "k", "4")]).await.unwrap();
    let mut held = take(&mut *reader, 2).await;
    assert_eq!(held.iter().map(text).collect::<Vec<_>>(), ["3", "4"]);
    held.remove(1).ack();
    drop(held);
    reader.close().await.unwrap();
    assert_eq!(pubsub.lost_leases(), 1, "it is counted");
    let mut reader = pubsub.subscribe(&group()).await.unwrap();
    let held = take(&mut *reader, 2).await;
    assert_eq!(held.iter().map(text).collect::<Vec<_>>(), ["3", "4"]);
    held.into_iter().for_each(Delivery::ack);
    reader.flush().await.unwrap();
    pubsub.close().await.unwrap();
}

/// While a settlement is tried again those behind it wait: the service would refuse each of them, and each would be tried again by
/// itself, with ever longer pauses, and so would all that come behind them.
#[tokio::test(flavor = "multi_thread")]
async fn settlements_that_are_refused_for_now_slow_their_key_down_once() {
    let Some(stand_in) = stand_in() else { return };
    let mut config = support::config(stand_in.address());
    // Longer than the client's pauses: what has no answer after two of them counts as lost.
    (config.lease, config.fetch_ahead) = (Duration::from_secs(60), 16);
    let pubsub = pubsub("for-now", config);
    let mut wanted = group();
    wanted.prefetch = 16;
    let mut reader = pubsub.subscribe(&wanted).await.unwrap();
    stand_in.refuse("Acknowledge", UNAVAILABLE, u32::MAX >> 1).unwrap();
    let sent: Vec<String> = (0..200).map(|n| n.to_string()).collect();
    pubsub.publish(sent.iter().map(|text| message(OURS, "k", text)).collect()).await.unwrap();
    let all = async {
        let mut came = Vec::new();
        while came.len() < sent.len() {
            let delivery = take(&mut *reader, 1).await.remove(0);
            came.push(text(&delivery));
            delivery.ack();
            match came.len() {
                // Time for requests with one settlement each, which is what must not be.
                ..32 => tokio::time::sleep(Duration::from_millis(150)).await,
                32 => assert!(stand_in.refuse("Acknowledge", UNAVAILABLE, 0).unwrap() > 0),
                _ => {}
            }
        }
        reader.flush().await.unwrap();
        came
    };
    assert_eq!(timeout(PATIENCE, all).await.expect("it ends"), sent, "each once, in order");
    assert_eq!(pubsub.lost_leases(), 0);
    reader.close().await.unwrap();
    pubsub.close().await.unwrap();
}

//! Topics and subscriptions that come and go while they are used.

use msgkit::transport::{Destination, Publisher as _, Subscriber as _, Subscription, Transport as _};

use super::{message, pubsub, stand_in, support, take, text};

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

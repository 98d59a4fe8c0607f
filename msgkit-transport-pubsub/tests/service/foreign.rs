//! Events of others, which know nothing of msgkit's topics: whoever reads where they come gets them.

use std::collections::HashMap;

use bytes::Bytes;
use google_cloud_auth::credentials::anonymous;
use google_cloud_pubsub::client::BasePublisher;
use google_cloud_pubsub::model::Message;
use msgkit::transport::{Delivery, Publisher as _, Subscriber as _, Subscription, Transport as _};
use msgkit_testing::brokers::Pubsub as StandIn;

use super::{message, pubsub, stand_in, support, take, text};

/// One of several that share a place.
const DEVICE: &str = "device.AA~3A01.raw";

/// The same event in both modes of CloudEvents, without a topic.
pub(super) fn events() -> [Message; 2] {
    let attributes = [("specversion", "1.0"), ("id", "1"), ("source", "others"), ("type", "tests.text")];
    let binary: HashMap<String, String> =
        attributes.iter().map(|(name, value)| (format!("ce-{name}"), (*value).to_owned())).collect();
    let whole = r#"{"specversion": "1.0", "id": "2", "source": "others", "type": "tests.text", "data": "structured"}"#;
    [
        Message::new().set_data(Bytes::from_static(b"\"binary\"")).set_attributes(binary),
        Message::new()
            .set_data(Bytes::from_static(whole.as_bytes()))
            .set_attributes([("content-type", "application/cloudevents+json")]),
    ]
}

pub(super) async fn publish(stand_in: &StandIn, topic: &str, messages: impl IntoIterator<Item = Message>) {
    let builder = BasePublisher::builder().with_credentials(anonymous::Builder::new().build());
    let client = builder.with_endpoint(format!("http://{}", stand_in.address())).build().await.unwrap();
    let publisher = client.publisher(topic).build();
    for message in messages {
        publisher.publish(message).await.unwrap();
    }
}

/// Which of the topics that share its place it has, nobody can tell.
#[tokio::test(flavor = "multi_thread")]
async fn an_event_without_a_topic_goes_to_everybody_who_reads_there() {
    let Some(stand_in) = stand_in() else { return };
    let pubsub = pubsub("unnamed", support::config(stand_in.address()));
    // The place is there, for those who take everything.
    pubsub.publish(vec![message(DEVICE, "k", "0")]).await.unwrap();
    let mut readers = Vec::new();
    for (group, pattern) in [("all", "device.*.raw"), ("one", DEVICE), ("other", ">")] {
        let subscription = Subscription::group(group.parse().unwrap(), [pattern.parse().unwrap()]);
        readers.push((group, pubsub.subscribe(&subscription).await.unwrap()));
    }
    let alone = Subscription::ephemeral([DEVICE.parse().unwrap()]);
    readers.push(("nobody's", pubsub.subscribe(&alone).await.unwrap()));
    publish(&stand_in, "projects/unnamed/topics/app.device._.raw", events()).await;
    for (who, reader) in &mut readers {
        let came = take(&mut **reader, 2).await;
        let mut texts: Vec<String> = came.iter().map(text).collect();
        texts.sort();
        assert_eq!(texts, ["binary", "structured"], "{who}");
        came.into_iter().for_each(Delivery::ack);
    }
    pubsub.close().await.unwrap();
}

//! Messages of ten megabytes: over the limit, and within a higher one.

use bytes::Bytes;
use msgkit::transport::{
    Destination, Incoming, Operate as _, Outgoing, Publisher as _, Transport as _, TransportErrorKind,
};
use msgkit::{Envelope, Group};
use msgkit_testing::brokers::Kafka;

use super::bench::{envelope, group, message, reader, shared, take, text, there};
use crate::support;

const TEN: usize = 10_000_000;

/// Bytes that no compression makes small.
fn noise(count: usize) -> Bytes {
    let mut state = 1_u64;
    (0..count)
        .map(|_| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            u8::try_from(state >> 56).unwrap_or(0)
        })
        .collect()
}

fn large(count: usize) -> Envelope {
    let mut envelope = envelope("a.b", Some("k"), "");
    envelope.set_payload(Some(noise(count)));
    envelope
}

/// Over the limit a message comes back with a word on what to change, and what follows goes on.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn over_the_limit_it_is_given_back_by_the_name_of_the_limit() {
    let Some((url, prefix)) = shared("toolarge") else { return };
    let kafka = support::kafka(&url, support::quick(&prefix)).unwrap();
    let mut deliveries = reader(&kafka, &group("g", "a.b")).await;
    let sent = large(TEN);
    let error = kafka.publish(vec![Outgoing::to_topic(sent.clone())]).await.unwrap_err();
    let said = msgkit::Chain(&error).to_string();
    assert_eq!(error.kind(), TransportErrorKind::Invalid, "{said}");
    assert!(said.contains("`max_message`") && said.contains("1000000") && said.len() < 400, "{said}");
    assert_eq!(error.rejected()[0].message.envelope, sent);
    kafka.publish(vec![message("a.b", Some("k"), "small")]).await.unwrap();
    assert_eq!(text(&take(&mut *deliveries, 1).await[0]), "small");
    deliveries.close().await.unwrap();
    kafka.close().await.unwrap();
}

/// Within a raised limit it goes round, and so do its dead letter and what is replayed of it, on topics that are made for it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn within_a_raised_limit_it_goes_round_with_its_copies() {
    let Some((url, prefix)) = shared("large") else { return };
    let mut config = support::quick(&prefix);
    // Headers and key count too.
    config.max_message = TEN + 1000;
    let kafka = support::kafka(&url, config).unwrap();
    let mut deliveries = reader(&kafka, &group("g", "a.b")).await;
    let sent = large(TEN);
    kafka.publish(vec![Outgoing::to_topic(sent.clone()), message("a.b", Some("k"), "next")]).await.unwrap();
    let came = take(&mut *deliveries, 2).await;
    assert_eq!(came[0].message().envelope(), Some(&sent));
    assert_eq!(text(&came[1]), "next");
    // A dead letter is larger than its message.
    let mut dead = sent.clone();
    dead.set_dead_letter(Some(msgkit::envelope::DeadLetter::new(
        msgkit::envelope::DeadLetterKind::Handler,
        &"x".repeat(1000),
        msgkit::Timestamp::now(),
    )));
    let of = Group::new("g").unwrap();
    kafka.publish(vec![Outgoing::new(Destination::DeadLetter(of.clone()), dead)]).await.unwrap();
    came.into_iter().for_each(msgkit::transport::Delivery::ack);
    let letters = kafka.dead_letters(&of, None, 10).await.unwrap();
    assert_eq!(letters[0].message.envelope().map(Envelope::payload), Some(sent.payload()));
    deliveries.close().await.unwrap();
    kafka.close().await.unwrap();
}

/// What others may publish, as large as the topic takes, becomes a dead letter like any other: nothing is too large for that.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_others_publish_as_large_as_may_be_has_room_for_its_copy() {
    let Some(broker) = there(Kafka::shared()) else { return };
    let prefix = broker.prefix("brim");
    let kafka = support::kafka(broker.url(), support::quick(&prefix)).unwrap();
    let mut deliveries = reader(&kafka, &group("g", "a.b")).await;
    // A batch with one record takes some 80 bytes beside it.
    let payload = noise(1_048_400);
    let topic = "a.b".parse().unwrap();
    kafka
        .publish_foreign(&topic, Some(payload.clone()), &msgkit::envelope::NativeHeaders::new())
        .await
        .unwrap();
    let came = take(&mut *deliveries, 1).await.remove(0);
    let Incoming::Malformed(malformed) = came.message() else { panic!("no event: {came:?}") };
    assert_eq!(malformed.payload.as_ref(), Some(&payload));
    let mut copy = envelope("a.b", None, "");
    copy.set_payload(Some(payload.clone()));
    copy.set_dead_letter(Some(msgkit::envelope::DeadLetter::new(
        msgkit::envelope::DeadLetterKind::Decode,
        &"x".repeat(1000),
        msgkit::Timestamp::now(),
    )));
    let of = Group::new("g").unwrap();
    let retry = Destination::Retry { group: of.clone(), step: 1, delay: std::time::Duration::from_secs(1) };
    for to in [Destination::DeadLetter(of), retry] {
        kafka.publish(vec![Outgoing::new(to, copy.clone())]).await.unwrap();
    }
    came.ack();
    deliveries.close().await.unwrap();
    kafka.close().await.unwrap();
}

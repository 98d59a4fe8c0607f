//! What travels.

use bytes::Bytes;
use msgkit::envelope::ingest::{Ingest, IngestRule};
use msgkit::transport::{Delivery, Incoming, Outgoing, TransportErrorKind};

use super::case;
use super::support::{assert_same, full_envelope, odd_headers};
use crate::conformance::bench::{Bench, pattern_of, subscription, text_of, topic_of};
use crate::conformance::{Case, Fault, Proof};

const CHAPTER: &str = "Envelope";

pub(super) const CASES: &[Case] = &[
    case!(
        CHAPTER,
        every_attribute_travels,
        "Every attribute, header and byte of an envelope comes as it was sent"
    ),
    case!(
        CHAPTER,
        payloads_of_every_kind_travel,
        "Binary, empty, large and absent payloads come as they were sent"
    ),
    case!(CHAPTER, the_trace_travels, "Trace id, trace state, correlation, cause and hop travel"),
    case!(CHAPTER, foreign_headers_travel, "Foreign headers (typed, repeated, null) travel with an envelope"),
    case!(
        CHAPTER,
        foreign_bytes_come_untouched,
        "Bytes of a foreign producer come as they are, headers intact, to be settled like all"
    ),
    case!(
        CHAPTER,
        a_foreign_message_becomes_an_envelope,
        "A subscription's ingest rule makes an envelope of a foreign message, its id equal on redelivery"
    ),
    case!(
        CHAPTER,
        a_payload_over_the_limit_is_refused,
        "A payload over the transport's limit is refused for good; the rest of its batch is taken"
    ),
    case!(
        CHAPTER,
        an_id_may_repeat,
        "Two messages with one id are two messages: deduplication is the consumer's"
    ),
];

async fn every_attribute_travels(bench: &Bench<'_>) -> Proof {
    let (transport, _) = bench.start().await;
    let mut reader = bench.group(&*transport, "g", "a.b").await;
    let mut with_letter = full_envelope(bench, "a.b");
    let mut letter = msgkit::envelope::DeadLetter::new(
        msgkit::envelope::DeadLetterKind::Handler,
        "it failed:\nbadly",
        bench.clock().now(),
    );
    letter.attempts = 7;
    letter.replays = 1;
    letter.group = "other".into();
    letter.fingerprint();
    with_letter.set_dead_letter(Some(letter));
    for envelope in [full_envelope(bench, "a.b"), bench.envelope("a.b", "plain"), with_letter] {
        bench.publish_all(&*transport, vec![Outgoing::to_topic(envelope.clone())]).await;
        let delivery = reader.next().await;
        assert_same(&envelope, &delivery);
        delivery.ack();
    }
    Proof::Proven
}

async fn payloads_of_every_kind_travel(bench: &Bench<'_>) -> Proof {
    let (transport, can) = bench.start().await;
    let mut reader = bench.group(&*transport, "g", "a.b").await;
    let large = can.max_payload.unwrap_or(1 << 20).min(1 << 20) / 4 * 3;
    let random: Vec<u8> =
        (0..large).map(|at| u8::try_from((at * 31 + at / 251) % 256).unwrap_or(0)).collect();
    let payloads = [
        Some(Bytes::from_static(b"")),
        Some(Bytes::from((0..=255).collect::<Vec<u8>>())),
        Some(Bytes::from_static("ä€😀 \u{0}".as_bytes())),
        Some(Bytes::from(random)),
        None,
        Some(Bytes::from_static(b"null")),
    ];
    for payload in payloads {
        let mut envelope = full_envelope(bench, "a.b");
        envelope.set_payload(payload);
        bench.publish_all(&*transport, vec![Outgoing::to_topic(envelope.clone())]).await;
        let delivery = reader.next().await;
        assert_same(&envelope, &delivery);
        delivery.ack();
    }
    // JSON that is embedded in a structured form must not be touched either.
    for text in ["{\"a\" : 1.0e2 ,\"b\":12345678901234567890}", " [1]\n", "\"\\u0041\"", "{\"a\":1,\"a\":2}"]
    {
        let mut envelope = bench.envelope("a.b", "");
        envelope.set_payload(Some(Bytes::from(text)));
        bench.publish_all(&*transport, vec![Outgoing::to_topic(envelope.clone())]).await;
        let delivery = reader.next().await;
        let came = delivery.message().envelope().map(msgkit::Envelope::payload).unwrap_or_default();
        assert_eq!(String::from_utf8_lossy(came), text);
        delivery.ack();
    }
    Proof::Proven
}

async fn the_trace_travels(bench: &Bench<'_>) -> Proof {
    let (transport, _) = bench.start().await;
    let mut reader = bench.group(&*transport, "g", "a.b").await;
    let cause = bench.envelope("a.cause", "cause");
    let mut sent = bench.envelope("a.b", "effect");
    sent.set_cause(&cause);
    bench.publish_all(&*transport, vec![Outgoing::to_topic(sent.clone())]).await;
    let delivery = reader.next().await;
    let came = match delivery.message() {
        Incoming::Envelope(envelope) => envelope.clone(),
        Incoming::Malformed(_) => panic!("it came malformed"),
    };
    assert_eq!(came.trace().parent.trace_id(), cause.trace().parent.trace_id());
    assert_eq!((came.correlation_id(), came.causation_id(), came.hop()), (cause.id(), Some(cause.id()), 1));
    assert_eq!(came.id(), sent.id());
    delivery.ack();
    Proof::Proven
}

async fn foreign_headers_travel(bench: &Bench<'_>) -> Proof {
    let (transport, can) = bench.start().await;
    let mut reader = bench.group(&*transport, "g", "a.b").await;
    let mut envelope = bench.envelope("a.b", "with headers");
    envelope.set_native(odd_headers());
    bench.publish_all(&*transport, vec![Outgoing::to_topic(envelope.clone())]).await;
    let delivery = reader.next().await;
    let came = delivery.message().envelope().map(|envelope| envelope.native().clone());
    delivery.ack();
    if can.native_headers {
        assert_eq!(came.as_ref(), Some(&odd_headers()));
        return Proof::Proven;
    }
    Proof::absent("foreign headers that are not text are written as text")
}

async fn foreign_bytes_come_untouched(bench: &Bench<'_>) -> Proof {
    let (transport, can) = bench.start().await;
    let mut reader = bench.group(&*transport, "g", "a.b").await;
    let bytes = Bytes::from_static(b"\xff\x00 no event");
    let published =
        bench.broker().await.publish_foreign(&topic_of("a.b"), bytes.clone(), &odd_headers()).await;
    if let Fault::Impossible(why) = published {
        return Proof::not_proven(why);
    }
    bench.publish(&*transport, "a.b", &["behind it"]).await;
    let delivery = reader.next().await;
    let Incoming::Malformed(malformed) = delivery.message() else {
        panic!("it is no envelope: {delivery:?}")
    };
    assert_eq!((malformed.payload.as_ref(), malformed.topic.as_str()), (Some(&bytes), "a.b"));
    assert!(!malformed.error.is_empty(), "it says why it could not be read");
    if can.native_headers {
        assert_eq!(malformed.native, odd_headers());
    }
    drop(delivery);
    let again = if can.nack { reader.next().await } else { return Proof::Proven };
    assert!(matches!(again.message(), Incoming::Malformed(_)), "given back, it comes again as it was");
    again.ack();
    assert_eq!(reader.texts(1).await, ["behind it"], "it blocks nothing");
    reader.nothing("it was settled").await;
    Proof::Proven
}

async fn a_foreign_message_becomes_an_envelope(bench: &Bench<'_>) -> Proof {
    let (transport, _) = bench.start().await;
    let mut wanted = subscription("g", "device.*.raw");
    let mut rule = IngestRule::new(pattern_of("device.*.raw"), "device.reading");
    rule.key_segment = Some(1);
    wanted.ingest = Ingest(vec![rule]);
    let mut reader = bench.reader(&*transport, &wanted).await;
    let bytes = Bytes::from_static(b"{\"t\":21.5}");
    let topic = topic_of("device.7.raw");
    if let Fault::Impossible(why) =
        bench.broker().await.publish_foreign(&topic, bytes.clone(), &odd_headers()).await
    {
        return Proof::not_proven(why);
    }
    let first = reader.next().await;
    let Incoming::Envelope(envelope) = first.message().clone() else { panic!("the rule matches: {first:?}") };
    assert_eq!(
        (envelope.kind(), envelope.key(), envelope.payload()),
        ("device.reading", Some("7"), &bytes[..])
    );
    assert_eq!(envelope.topic(), &topic);
    drop(first);
    if transport.capabilities().nack {
        let again = reader.next().await;
        let id = again.message().envelope().map(|envelope| envelope.id().clone());
        assert_eq!(id.as_ref(), Some(envelope.id()), "one message has one id, however often it comes");
        again.ack();
    }
    Proof::Proven
}

async fn a_payload_over_the_limit_is_refused(bench: &Bench<'_>) -> Proof {
    let (transport, can) = bench.start().await;
    let Some(limit) = can.max_payload else {
        return Proof::absent("no limit of its own");
    };
    if limit > 64 << 20 {
        return Proof::not_proven(format!("the limit of {limit} bytes is too large to be tried"));
    }
    let mut reader = bench.group(&*transport, "g", "a.b").await;
    let mut large = bench.envelope("a.b", "large");
    large.set_payload(Some(Bytes::from(vec![b'x'; limit + 1])));
    let batch = vec![
        Outgoing::to_topic(bench.envelope("a.b", "before")),
        Outgoing::to_topic(large.clone()),
        Outgoing::to_topic(bench.envelope("a.b", "behind")),
    ];
    let error = match bench.soon("publish", transport.publish(batch)).await {
        Ok(()) => panic!("{} bytes were taken, {limit} are allowed", limit + 1),
        Err(error) => error,
    };
    assert_eq!(error.kind(), TransportErrorKind::Invalid, "{}", msgkit::Chain(&error));
    assert!(error.rejected().iter().any(|rejected| rejected.message.envelope.id() == large.id()));
    let again: Vec<Outgoing> = error
        .into_rejected()
        .into_iter()
        .map(|rejected| rejected.message)
        .filter(|message| message.envelope.id() != large.id())
        .collect();
    bench.publish_all(&*transport, again).await;
    let mut came = reader.texts(2).await;
    came.sort();
    assert_eq!(
        came,
        ["before", "behind"],
        "what was given back can be published again, nothing else is missing"
    );
    reader.nothing("each was taken once").await;
    Proof::Proven
}

async fn an_id_may_repeat(bench: &Bench<'_>) -> Proof {
    let (transport, _) = bench.start().await;
    let mut reader = bench.group(&*transport, "g", "a.b").await;
    let first = bench.envelope("a.b", "first");
    let mut second = bench.envelope("a.b", "second");
    second.set_id(first.id().clone());
    bench.publish_all(&*transport, vec![Outgoing::to_topic(first), Outgoing::to_topic(second)]).await;
    let came = reader.take(2).await;
    assert_eq!(came.iter().map(text_of).collect::<Vec<_>>(), ["first", "second"]);
    came.into_iter().for_each(Delivery::ack);
    Proof::Proven
}

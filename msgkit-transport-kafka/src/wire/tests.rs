//! What is written comes back; what others write is kept whole.

use std::sync::LazyLock;

use msgkit::envelope::ContentType;
use msgkit::envelope::ingest::IngestRule;

use super::*;

fn envelope() -> Envelope {
    let mut envelope = Envelope::new(
        "tests",
        "orders.created",
        "orders.created".parse().unwrap(),
        ContentType::Json,
        Bytes::from_static(b"{}"),
        Timestamp::from_millis(1_767_225_600_000),
    );
    envelope.set_key(Some("k".into()));
    envelope
}

static ORDERS: LazyLock<Topic> = LazyLock::new(|| "orders.created".parse().unwrap());

fn raw<'a>(headers: &'a [Named<'a>], value: Option<&'a [u8]>) -> Raw<'a> {
    let position = Position { topic: "orders.created", partition: 0, offset: 7 };
    Raw { implied: &ORDERS, position, key: Some(b"k"), value, headers }
}

fn there_and_back(envelope: &Envelope, names_topic: bool, tombstones: bool) -> Incoming {
    let written = write(envelope, names_topic, tombstones);
    let headers = headers_of(written.headers.as_ref());
    read(raw(&headers, written.value.as_deref()), &Ingest::default(), Timestamp::now()).0
}

fn names(headers: &OwnedHeaders) -> Vec<String> {
    headers.iter().map(|header| header.key.to_owned()).collect()
}

#[test]
fn the_names_are_those_of_the_kafka_binding() {
    let written = write(&envelope(), false, true);
    let names = names(&written.headers.unwrap());
    for name in
        ["ce_specversion", "ce_id", "ce_source", "ce_type", "ce_time", "ce_partitionkey", "content-type"]
    {
        assert!(names.iter().any(|one| one == name), "{name}: {names:?}");
    }
    assert!(!names.iter().any(|name| name == "ce_topic" || name == "ce_datacontenttype"), "{names:?}");
}

#[test]
fn an_envelope_comes_back() {
    for (names_topic, tombstones) in [(true, true), (false, true), (true, false)] {
        let envelope = envelope();
        assert_eq!(there_and_back(&envelope, names_topic, tombstones).envelope(), Some(&envelope));
    }
}

#[test]
fn null_is_a_tombstone_and_empty_is_not() {
    let mut null = envelope();
    null.set_payload(None);
    assert_eq!(write(&null, false, true).value, None);
    assert_eq!(write(&null, false, false).value, Some(Bytes::new()), "where a tombstone would delete");
    let mut empty = envelope();
    empty.set_payload(Some(Bytes::new()));
    assert_eq!(write(&empty, false, true).value, Some(Bytes::new()));
    for tombstones in [true, false] {
        assert_eq!(there_and_back(&null, false, tombstones).envelope(), Some(&null));
        assert_eq!(there_and_back(&empty, false, tombstones).envelope(), Some(&empty));
    }
}

#[test]
fn foreign_headers_of_any_kind_come_back() {
    let mut native = NativeHeaders::new();
    native.push("null", NativeValue::Null);
    native.push("twice", "1");
    native.push("twice", "2");
    native.push("binary", Bytes::from_static(b"\xff"));
    native.push("", "no name");
    let mut plain = envelope();
    plain.set_native(native.clone());
    let written = write(&plain, false, true).headers.unwrap();
    assert!(!names(&written).iter().any(|name| name == "ce_nativeheaders"), "Kafka has them as they are");
    assert_eq!(there_and_back(&plain, false, true).envelope(), Some(&plain));
    // Types and names that Kafka does not have.
    native.push("number", 7_i64);
    native.push("text as bytes", Bytes::from_static(b"text"));
    native.push("ce_fake", "no attribute");
    native.push("with\0nul", "x");
    let mut typed = envelope();
    typed.set_native(native);
    assert_eq!(there_and_back(&typed, false, true).envelope(), Some(&typed));
}

#[test]
fn what_is_no_event_keeps_everything() {
    let headers = [("ce_id", None), ("x", Some(&b"\xff"[..])), ("x", None), (UNREADABLE, None)];
    let value = &b"\x00raw"[..];
    let Incoming::Malformed(malformed) =
        read(raw(&headers, Some(value)), &Ingest::default(), Timestamp::now()).0
    else {
        panic!("it is no event");
    };
    assert_eq!(malformed.payload.as_deref(), Some(value));
    assert_eq!(malformed.key.as_deref(), Some("k"));
    let expected: NativeHeaders = [
        ("ce_id", NativeValue::Null),
        ("x", NativeValue::Bytes(Bytes::from_static(b"\xff"))),
        ("x", NativeValue::Null),
        (UNREADABLE, NativeValue::Null),
    ]
    .into_iter()
    .collect();
    assert_eq!(malformed.native, expected);
}

#[test]
fn an_ingest_rule_makes_an_envelope_with_the_records_key_and_one_id() {
    let ingest = Ingest(vec![IngestRule::new("orders.*".parse().unwrap(), "legacy.order")]);
    let read = || read(raw(&[], Some(b"{}")), &ingest, Timestamp::now()).0;
    let (first, second) = (read(), read());
    let (first, second) = (first.envelope().unwrap(), second.envelope().unwrap());
    assert_eq!((first.kind(), first.key()), ("legacy.order", Some("k")));
    assert_eq!(first.id(), second.id());
}

#[test]
fn structured_events_and_plain_tracing_headers_are_read() {
    let event = br#"{"specversion":"1.0","id":"1","source":"s","type":"t","data":{"a":1}}"#;
    let headers = [(CONTENT_TYPE, Some(&b"application/cloudevents+json"[..]))];
    let incoming = read(raw(&headers, Some(event)), &Ingest::default(), Timestamp::now()).0;
    let envelope = incoming.envelope().unwrap();
    assert_eq!(
        (envelope.kind(), envelope.key(), envelope.topic().as_str()),
        ("t", Some("k"), "orders.created")
    );
    let parent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
    let headers = [
        ("ce_specversion", "1.0"),
        ("ce_id", "1"),
        ("ce_source", "s"),
        ("ce_type", "t"),
        ("traceparent", parent),
    ];
    let headers = headers.map(|(name, value)| (name, Some(value.as_bytes())));
    let incoming = read(raw(&headers, None), &Ingest::default(), Timestamp::now()).0;
    let envelope = incoming.envelope().unwrap();
    assert_eq!(envelope.trace().parent.to_string(), parent);
    assert!(envelope.is_null());
}

#[test]
fn a_key_that_is_no_text_is_kept_among_the_foreign_headers() {
    let key = &b"\xff\x00k"[..];
    let written = write(&envelope(), false, true);
    let headers = headers_of(written.headers.as_ref());
    let event = Raw { key: Some(key), ..raw(&headers, written.value.as_deref()) };
    let plain = Raw { key: Some(key), ..raw(&[], Some(b"x")) };
    for raw in [event, plain] {
        let native = match read(raw, &Ingest::default(), Timestamp::now()).0 {
            Incoming::Envelope(envelope) => envelope.native().clone(),
            Incoming::Malformed(malformed) => malformed.native.clone(),
        };
        let kept: Vec<_> = native.iter().collect();
        assert_eq!(kept, [("kafka:key", &NativeValue::Bytes(Bytes::from_static(key)))]);
    }
}

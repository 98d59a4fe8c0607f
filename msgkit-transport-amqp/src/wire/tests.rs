use bytes::Bytes;
use lapin::types::{DecimalValue, FieldArray};
use msgkit::envelope::ingest::{Ingest, IngestRule};
use msgkit::envelope::{ContentType, NativeValue};
use msgkit::transport::{Incoming, Malformed};
use msgkit::{Text, Timestamp};

use super::*;

fn raw(written: Written, key: &str) -> Raw {
    Raw { routing_key: key.to_owned(), properties: written.properties, payload: written.payload }
}

fn with_headers(headers: Vec<(&str, AMQPValue)>) -> Raw {
    let table: BTreeMap<ShortString, AMQPValue> =
        headers.into_iter().map(|(name, value)| (ShortString::from(name), value)).collect();
    Raw {
        routing_key: "a.b".to_owned(),
        properties: BasicProperties::default().with_headers(FieldTable::from(table)),
        payload: Bytes::from_static(b"{}"),
    }
}

fn read_plain(raw: Raw) -> Incoming {
    read(raw, &mut Topics::default(), &Ingest::default(), Timestamp::EPOCH)
}

fn envelope_of(incoming: Incoming) -> Envelope {
    match incoming {
        Incoming::Envelope(envelope) => envelope,
        Incoming::Malformed(malformed) => panic!("malformed: {malformed:?}"),
    }
}

fn malformed_of(incoming: Incoming) -> Malformed {
    match incoming {
        Incoming::Envelope(envelope) => panic!("an event: {envelope:?}"),
        Incoming::Malformed(malformed) => *malformed,
    }
}

fn envelope() -> Envelope {
    let mut envelope = Envelope::new(
        "tests",
        "tests.message",
        "a.b".parse().unwrap(),
        ContentType::Json,
        Bytes::from_static(b"{}"),
        Timestamp::from_millis(1_767_225_600_123),
    );
    envelope.set_key(Some("key".into()));
    envelope.headers_mut().insert("tenant".try_into().unwrap(), "t1").unwrap();
    envelope
}

/// A value of every type that AMQP has.
fn values() -> Vec<AMQPValue> {
    let inner = BTreeMap::from([(ShortString::from("inner"), AMQPValue::ShortInt(-3))]);
    vec![
        AMQPValue::Boolean(true),
        AMQPValue::ShortShortInt(-8),
        AMQPValue::ShortShortUInt(200),
        AMQPValue::ShortInt(-300),
        AMQPValue::ShortUInt(60_000),
        AMQPValue::LongInt(-70_000),
        AMQPValue::LongUInt(4_000_000_000),
        AMQPValue::LongLongInt(7),
        AMQPValue::LongLongInt(i64::MIN),
        AMQPValue::Float(0.1),
        AMQPValue::Double(f64::NEG_INFINITY),
        AMQPValue::DecimalValue(DecimalValue { scale: 2, value: 12_345 }),
        AMQPValue::LongString("text ä€".into()),
        AMQPValue::LongString(vec![0xff, 0x00].into()),
        AMQPValue::FieldArray(FieldArray::from(vec![AMQPValue::Void, AMQPValue::LongInt(1)])),
        AMQPValue::Timestamp(1_767_225_600),
        AMQPValue::FieldTable(FieldTable::from(inner)),
        AMQPValue::ByteArray(vec![0, 1, 255].into()),
        AMQPValue::Void,
    ]
}

#[test]
fn an_envelope_comes_back_under_every_prefix() {
    let sent = envelope();
    for prefix in AttributePrefix::ALL {
        let written = write(&sent, prefix, None);
        let headers = written.properties.headers().as_ref().unwrap();
        assert!(headers.contains_key(&format!("{}id", prefix.as_str())));
        assert_eq!(written.properties.content_type().as_ref().unwrap().as_str(), "application/json");
        assert_eq!(written.properties.delivery_mode(), &Some(PERSISTENT));
        assert_eq!(envelope_of(read_plain(raw(written, "somewhere.else"))), sent);
    }
}

#[test]
fn headers_of_every_type_survive_to_the_bit() {
    for value in values() {
        let native = values::to_native(&value);
        assert_eq!(values::from_native(&native), value, "{native:?}");
        // As a foreign message has it, on the dead letter that it becomes, and on what is read of that.
        let came = malformed_of(read_plain(with_headers(vec![("x-foreign", value.clone())])));
        let mut copy = envelope();
        copy.set_native(came.native.clone());
        let written = write(&copy, AttributePrefix::default(), Some(7));
        assert_eq!(written.properties.headers().as_ref().unwrap().inner().get("x-foreign"), Some(&value));
        assert_eq!(*envelope_of(read_plain(raw(written, "q"))).native(), came.native);
    }
}

#[test]
fn headers_that_amqp_cannot_have_are_carried_beside_it() {
    let mut native = NativeHeaders::new();
    native.push("z", "first");
    native.push("a", "second");
    native.push("a", NativeValue::Null);
    native.push("CC", NativeValue::List(vec!["others".into()]));
    native.push("x-death", "not the broker's");
    native.push("cloudEvents_id", "not this one");
    native.push("n".repeat(300), NativeValue::UInt(u64::MAX));
    native.push("later", NativeValue::Other(Text::from_static("kafka"), "?".into()));
    let mut sent = envelope();
    sent.set_native(native);
    let written = write(&sent, AttributePrefix::default(), None);
    let headers = written.properties.headers().as_ref().unwrap();
    assert!(!headers.contains_key("CC") && !headers.contains_key("x-death"), "the broker would obey them");
    assert_eq!(envelope_of(read_plain(raw(written, "a.b"))), sent);
}

#[test]
fn what_the_broker_adds_is_no_header_of_the_message() {
    let sent = envelope();
    let written = write(&sent, AttributePrefix::default(), Some(1));
    let mut table = written.properties.headers().as_ref().unwrap().inner().clone();
    table.insert("x-delivery-count".into(), AMQPValue::LongLongInt(3));
    table.insert("x-death".into(), AMQPValue::FieldArray(FieldArray::from(Vec::new())));
    table.insert("x-first-death-reason".into(), AMQPValue::LongString("expired".into()));
    table.insert("msgkit-later-3".into(), AMQPValue::LongString("0".into()));
    let properties = written.properties.with_headers(FieldTable::from(table));
    let raw = Raw { routing_key: "q".to_owned(), properties, payload: written.payload };
    assert_eq!(raw.count(), 4);
    assert_eq!(raw.text(LETTER).unwrap().len(), 32);
    assert_eq!(envelope_of(read_plain(raw)), sent);
}

#[test]
fn events_of_others_are_read() {
    let text = |text: &str| AMQPValue::LongString(text.into());
    let came = with_headers(vec![
        ("ce-specversion", text("1.0")),
        ("ce-id", text("7")),
        ("ce-source", text("/others")),
        ("ce-type", text("others.message")),
        ("ce-time", AMQPValue::Timestamp(1_767_225_600)),
        // As Python writes it: milliseconds.
        ("ce-expirytime", AMQPValue::LongLongInt(4_102_444_799_000)),
        ("ce-hop", AMQPValue::LongInt(3)),
        ("traceparent", text("00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01")),
        ("plain", AMQPValue::LongInt(5)),
    ]);
    let properties = came.properties.with_content_type("application/vnd.x+json".into());
    let envelope = envelope_of(read_plain(Raw { properties, ..came }));
    assert_eq!(
        (envelope.id().to_string().as_str(), envelope.kind(), envelope.hop()),
        ("7", "others.message", 3)
    );
    assert_eq!(envelope.time(), Some(Timestamp::from_millis(1_767_225_600_000)));
    assert_eq!(envelope.expires(), Some(Timestamp::from_millis(4_102_444_799_000)));
    assert_eq!(envelope.content_type().as_str(), "application/vnd.x+json");
    assert!(envelope.trace().parent.to_string().contains("4bf92f3577b34da6a3ce929d0e0e4736"));
    assert_eq!(envelope.native().iter().collect::<Vec<_>>(), [("plain", &NativeValue::Int(5))]);
}

#[test]
fn structured_events_are_read() {
    let body = br#"{"specversion":"1.0","id":"7","source":"/o","type":"t","data":{"a":1}}"#;
    let properties =
        BasicProperties::default().with_content_type("application/cloudevents+json; charset=utf-8".into());
    let raw = Raw { routing_key: "a.b".to_owned(), properties, payload: Bytes::from_static(body) };
    let envelope = envelope_of(read_plain(raw));
    assert_eq!((envelope.topic().as_str(), envelope.payload()), ("a.b", &br#"{"a":1}"#[..]));
}

#[test]
fn what_is_no_event_keeps_all_that_came_with_it() {
    let came = with_headers(vec![
        ("ce-id", AMQPValue::LongString("only an id".into())),
        ("b", AMQPValue::LongInt(1)),
    ]);
    let properties = came.properties.with_message_id("m1".into()).with_priority(4).with_type("t".into());
    let malformed = malformed_of(read_plain(Raw { properties: properties.clone(), ..came }));
    let names: Vec<_> = malformed.native.iter().map(|(name, _)| name).collect();
    assert_eq!(names, ["b", "ce-id", "amqp:message_id", "amqp:type", "amqp:priority"]);
    let mut copy = envelope();
    copy.set_native(malformed.native);
    let written = write(&copy, AttributePrefix::default(), None);
    assert_eq!(envelope_of(read_plain(raw(written, "q"))), copy);
    // The producer's id makes the envelope's the same however often the message comes.
    let ingest = Ingest(vec![IngestRule::new("a.*".parse().unwrap(), "device.reading")]);
    let ids = [0, 1].map(|_| {
        let raw =
            Raw { routing_key: "a.b".to_owned(), properties: properties.clone(), payload: Bytes::new() };
        envelope_of(read(raw, &mut Topics::default(), &ingest, Timestamp::EPOCH)).id().clone()
    });
    assert_eq!(ids[0], ids[1]);
}

#[test]
fn odd_routing_keys_are_topics_all_the_same() {
    for (key, topic) in [("a.b", "a.b"), ("a..b", "a.~.b"), ("a b", "a~20b"), ("", "~")] {
        let came = Raw { routing_key: key.to_owned(), ..with_headers(Vec::new()) };
        assert_eq!(malformed_of(read_plain(came)).topic.as_str(), topic);
    }
    let long = Raw { routing_key: "€".repeat(85), ..with_headers(Vec::new()) };
    assert_eq!(malformed_of(read_plain(long)).topic.as_str(), "msgkit.unknown");
}

#[test]
fn the_size_of_headers_is_known_before_they_are_sent() {
    let mut sent = envelope();
    for n in 0..60 {
        let name = format!("h{n}");
        sent.headers_mut().insert(name.as_str().try_into().unwrap(), "x".repeat(8000)).unwrap();
    }
    let head = write(&sent, AttributePrefix::default(), None).head;
    assert!((480_000..490_000).contains(&head), "{head}");
}

//! What is written comes back; what others write is kept whole.

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

fn back(message: Message) -> Incoming {
    let raw = Raw::new(message, "orders.created".parse().unwrap());
    read(&raw, &Ingest::default(), Timestamp::now()).0
}

#[test]
fn the_names_are_those_of_the_pubsub_binding() {
    let written = write(&envelope());
    for name in [
        "ce-specversion",
        "ce-id",
        "ce-source",
        "ce-type",
        "ce-topic",
        "ce-time",
        "ce-partitionkey",
        "content-type",
    ] {
        assert!(written.attributes.contains_key(name), "{name}: {:?}", written.attributes);
    }
    assert!(!written.attributes.contains_key("ce-datacontenttype"));
    assert_eq!(written.ordering_key, "k");
}

#[test]
fn an_envelope_comes_back() {
    let mut null = envelope();
    null.set_payload(None);
    let mut empty = envelope();
    empty.set_payload(Some(Bytes::new()));
    let mut bytes = envelope();
    bytes.set_payload(Some(Bytes::from_static(b"\xff\x00")));
    for envelope in [envelope(), null, empty, bytes] {
        assert_eq!(back(write(&envelope)).envelope(), Some(&envelope));
    }
}

#[test]
fn what_attributes_cannot_hold_is_written_as_structured_json() {
    let mut long = envelope();
    let inserted = "note".try_into().map(|name| long.headers_mut().insert(name, "ä".repeat(600)));
    assert!(matches!(inserted, Ok(Ok(_))));
    let mut many = envelope();
    let mut native = NativeHeaders::new();
    for n in 0..120 {
        native.push(format!("h{n:03}"), "1");
    }
    many.set_native(native);
    for envelope in [long, many] {
        let written = write(&envelope);
        assert_eq!(written.attributes.len(), 1);
        assert_eq!(written.attributes["content-type"], "application/cloudevents+json");
        assert_eq!(back(written).envelope(), Some(&envelope));
    }
}

#[test]
fn foreign_headers_of_any_kind_come_back() {
    let mut plain = NativeHeaders::new();
    plain.push("a", "1");
    plain.push("b", "2");
    let mut odd = plain.clone();
    odd.push("a", "again");
    odd.push("number", 7_i64);
    odd.push("ce-id", "not ours");
    odd.push("null", NativeValue::Null);
    odd.push("", "no name");
    for (native, exact) in [(plain, true), (odd, false)] {
        let mut envelope = envelope();
        envelope.set_native(native);
        let written = write(&envelope);
        assert_eq!(written.attributes.contains_key(NATIVE), !exact, "{written:?}");
        assert_eq!(back(written).envelope(), Some(&envelope));
    }
}

#[test]
fn what_others_write_is_read() {
    let attributes = |all: &[(&str, &str)]| -> HashMap<String, String> {
        all.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
    };
    let mut message = Message::new();
    message.attributes = attributes(&[
        ("ce-specversion", "1.0"),
        ("ce-id", "1"),
        ("ce-source", "/python"),
        ("ce-type", "t"),
        ("ce-datacontenttype", "text/plain"),
        ("traceparent", "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"),
        ("googclient_schemaencoding", "JSON"),
    ]);
    message.ordering_key = "their key".to_owned();
    let incoming = back(message);
    let envelope = incoming.envelope().unwrap();
    assert_eq!(
        (envelope.key(), envelope.content_type().to_string().as_str()),
        (Some("their key"), "text/plain")
    );
    assert_eq!(
        envelope.trace().parent.to_string(),
        "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
    );
    assert_eq!(
        envelope.native().get("googclient_schemaencoding").and_then(NativeValue::as_str),
        Some("JSON")
    );

    let mut message = Message::new();
    message.attributes = attributes(&[("content-type", "Application/CloudEvents+JSON; charset=utf-8")]);
    message.data =
        Bytes::from_static(br#"{"specversion":"1.0","id":"1","source":"/x","type":"t","data":{"a":1}}"#);
    assert_eq!(back(message).envelope().unwrap().payload(), br#"{"a":1}"#);
}

#[test]
fn what_is_no_event_is_malformed_and_untouched() {
    let mut message = Message::new();
    message.attributes.insert("b".to_owned(), "2".to_owned());
    message.attributes.insert("a".to_owned(), "1".to_owned());
    message.attributes.insert("content-type".to_owned(), "text/plain".to_owned());
    message.data = Bytes::from_static(b"\xff");
    message.ordering_key = "k".to_owned();
    let incoming = back(message.clone());
    let Incoming::Malformed(malformed) = incoming else { panic!("{incoming:?}") };
    assert_eq!(malformed.payload.as_deref(), Some(&b"\xff"[..]));
    assert_eq!(malformed.key.as_deref(), Some("k"));
    let names: Vec<&str> = malformed.native.iter().map(|(name, _)| name).collect();
    assert_eq!(names, ["a", "b", "content-type"]);
    let ingest = Ingest(vec![IngestRule::new("orders.>".parse().unwrap(), "order.raw")]);
    let raw = Raw::new(message, "orders.created".parse().unwrap());
    let (incoming, _) = read(&raw, &ingest, Timestamp::now());
    let envelope = incoming.envelope().unwrap();
    assert_eq!((envelope.kind(), envelope.key()), ("order.raw", Some("k")));
}

#[test]
fn a_long_key_is_cut_between_characters() {
    let mut envelope = envelope();
    envelope.set_key(Some("ä".repeat(800).into()));
    let written = write(&envelope);
    assert!(written.ordering_key.len() <= 1024 && written.ordering_key.chars().all(|c| c == 'ä'));
    assert_eq!(back(written).envelope(), Some(&envelope));
}

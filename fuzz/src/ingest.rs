//! Messages of others: lines with a pattern, a kind, a media type, a topic and a position; the rest is the payload.

use bytes::Bytes;
use msgkit::envelope::ingest::{Ingest, IngestRule};
use msgkit::envelope::{ContentType, NativeHeaders};
use msgkit::{Pattern, Timestamp, Topic};

use crate::envelope;

/// Panics where a promise does not hold for these bytes.
pub fn check(bytes: &[u8]) {
    // The ids of messages without a position.
    fastrand::seed(1);
    let mut parts = bytes.splitn(6, |&byte| byte == b'\n');
    let mut line = || parts.next().and_then(|line| std::str::from_utf8(line).ok());
    let (Some(from), Some(kind), Some(media_type), Some(topic), Some(position)) =
        (line(), line(), line(), line(), line())
    else {
        return;
    };
    let payload = parts.next().map(Bytes::copy_from_slice);
    let content_type = ContentType::parse(media_type);
    check_content_type(&content_type);
    let (Ok(from), Ok(topic)) = (Pattern::new(from), Topic::from_wire(topic)) else { return };
    // The kind is a developer's, and checked with the message type.
    if !(1..=200).contains(&kind.len()) || !(1..=200).contains(&media_type.len()) {
        return;
    }
    let mut rule = IngestRule::new(from.clone(), kind);
    rule.content_type = content_type;
    rule.key_segment = position.bytes().next().map(|byte| usize::from(byte % 8));
    let ingest = Ingest(vec![rule]);
    let mut native = NativeHeaders::new();
    native.push("x", Bytes::copy_from_slice(position.as_bytes()));
    let read = || {
        let (payload, native) = (payload.clone(), native.clone());
        ingest.envelope("system", &topic, Some(position), payload, native, Timestamp::EPOCH)
    };
    assert_eq!(read().is_some(), from.matches(&topic));
    if let (Some(one), Some(other)) = (read(), read()) {
        assert_eq!(one.id(), other.id(), "a redelivery has another id");
        assert_eq!((one.payload_bytes(), one.native(), one.topic()), (payload.clone(), &native, &topic));
        envelope::check(&one);
    }
}

fn check_content_type(content_type: &ContentType) {
    assert_eq!(ContentType::parse(content_type.as_str()), *content_type);
    assert!(!(content_type.is_json() && content_type.is_message_pack()));
    assert!(content_type.as_str().contains(content_type.essence()));
}

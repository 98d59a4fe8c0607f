//! What holds for every envelope that a decoder has accepted.

use std::collections::HashSet;

use msgkit::envelope::attributes::{self, Reader};
use msgkit::envelope::{
    ContentType, Envelope, HeaderName, MAX_ERROR, MAX_HEADERS, MAX_ID, MAX_VALUE, structured,
};
use msgkit::topic::MAX_RENDERED;
use msgkit::{Timestamp, Topic};

use crate::refusal;

/// The topic of what names none.
pub(crate) fn destination() -> Topic {
    topic("from.here")
}

pub(crate) fn topic(name: &'static str) -> Topic {
    match Topic::new(name) {
        Ok(topic) => topic,
        Err(error) => unreachable!("{name} is a topic: {error}"),
    }
}

/// Panics where `envelope`, or a message that comes of it, breaks a limit or does not survive a wire.
pub(crate) fn check(envelope: &Envelope) {
    for copy in [envelope, &caused_by(envelope), &envelope.replayed()] {
        keeps_its_limits(copy);
        survives_every_wire(copy);
    }
    let printed = format!("{envelope:?}");
    assert!(printed.len() < 16 * MAX_VALUE, "an envelope prints {} bytes", printed.len());
}

/// A message that its handler sends.
fn caused_by(envelope: &Envelope) -> Envelope {
    let (topic, bytes) = (topic("sent.on"), bytes::Bytes::from_static(b"{}"));
    let mut child = Envelope::new("service", "sent", topic, ContentType::Json, bytes, Timestamp::EPOCH);
    child.set_cause(envelope);
    assert!(child.hop() > envelope.hop() || envelope.hop() >= i32::MAX.unsigned_abs());
    assert_eq!(child.correlation_id(), envelope.correlation_id());
    assert_eq!(child.causation_id(), Some(envelope.id()));
    assert_eq!(child.trace().parent.trace_id(), envelope.trace().parent.trace_id());
    child
}

fn keeps_its_limits(envelope: &Envelope) {
    let id = envelope.id().to_string();
    assert!((1..=MAX_ID).contains(&id.len()), "an id of {} bytes", id.len());
    assert!((1..=MAX_RENDERED).contains(&envelope.topic().as_str().len()));
    assert_eq!(Topic::from_wire(envelope.topic().as_str()).as_ref().ok(), Some(envelope.topic()));
    assert!(!envelope.source().is_empty() && !envelope.kind().is_empty());
    assert_ne!(envelope.key(), Some(""), "an empty key is none");
    assert!(envelope.headers().len() <= MAX_HEADERS);
    for (name, value) in envelope.headers().iter() {
        assert!(HeaderName::new(name).is_ok(), "{name:?} is no header");
        assert!(!value.chars().any(char::is_control), "header {name} holds control characters");
    }
    if let Some(letter) = envelope.dead_letter() {
        assert!(letter.error.len() <= MAX_ERROR, "`dlerror` has {} bytes", letter.error.len());
        assert!(!letter.error.chars().any(char::is_control), "`dlerror` holds control characters");
    }
    // Of each name one, none of them longer than an attribute may be, the trace's state apart.
    let mut names = HashSet::new();
    attributes::visit(envelope, |name, value| {
        assert!(names.insert(name.to_owned()), "{name} is written twice");
        let most = if name == "tracestate" { 32 * 514 } else { MAX_VALUE };
        assert!(value.len() <= most, "{name} has {} bytes", value.len());
        assert!(
            name.len() <= 20 && name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit()),
            "{name:?}"
        );
    });
}

fn survives_every_wire(envelope: &Envelope) {
    let written = structured::to_vec(envelope);
    assert!(serde_json::from_slice::<serde::de::IgnoredAny>(&written).is_ok(), "what is written is no JSON");
    for (wire, read) in [
        ("structured", structured::from_slice(&written, &destination())),
        ("attributes", through_attributes(envelope)),
    ] {
        let read = match read {
            Ok(read) => read,
            Err(error) => panic!("{wire}: {} in {envelope:?}", refusal::check(&error)),
        };
        assert_eq!(attributes::list(&read), attributes::list(envelope), "{wire}");
        assert_eq!(read.native().to_json(), envelope.native().to_json(), "{wire}");
        assert_eq!(read.payload_bytes(), envelope.payload_bytes(), "{wire}");
        assert!(read == *envelope, "{wire}: equal in every part, and yet not equal");
        assert_eq!(read.dead_letter(), envelope.dead_letter(), "{wire}");
        assert_eq!(read.retry(), envelope.retry(), "{wire}");
        assert_eq!(structured::to_vec(&read), written, "{wire}: written again, it is another text");
    }
}

/// By way of the list of attributes, as a transport with headers does it.
fn through_attributes(envelope: &Envelope) -> Result<Envelope, msgkit::Error> {
    let mut reader = Reader::new(&destination());
    attributes::visit(envelope, |name, value| reader.attribute(name, value));
    for (name, value) in envelope.native().iter() {
        reader.native(name, value.clone());
    }
    assert!(reader.is_event());
    reader.finish(envelope.payload_bytes())
}

//! The binary form of an envelope: names and values, then a payload.
//!
//! The bytes are lines `name=value`, an empty line, the payload. In a value, `\x1f` stands for the end of a line. A line
//! without `=` is a header without a value, one that is no UTF-8 a header of bytes.

use std::collections::HashSet;

use bytes::Bytes;
use msgkit::envelope::attributes::{self, Reader};
use msgkit::envelope::{Envelope, NativeHeaders, NativeValue};

use crate::{envelope, refusal};

/// As many lines are looked at, more than there are places for headers.
const LINES: usize = 150;

/// Panics where a promise does not hold for these bytes.
pub fn check(bytes: &[u8]) {
    // The ids that a message without a trace gets.
    fastrand::seed(1);
    let (lines, payload) = split(bytes);
    let event = reader(&lines).is_event();
    match reader(&lines).finish(payload.clone()) {
        Ok(read) => {
            assert!(event, "finished, and yet no event");
            nothing_is_lost(&read, &lines);
            the_first_counts(&read, &lines, payload);
            envelope::check(&read);
        }
        Err(error) => drop(refusal::check(&error)),
    }
    let native = reader(&lines).into_native();
    for line in &lines {
        let kept = match line {
            Line::Text(name, value) if name == "nativeheaders" => NativeHeaders::from_json(value).is_some(),
            Line::Text(name, _) | Line::Null(name) => native.get(name).is_some(),
            Line::Bytes(_) => native.get("bytes").is_some(),
        };
        assert!(kept || native.get("nativeheaders").is_some(), "what is no event loses a header");
    }
}

fn reader(lines: &[Line]) -> Reader {
    let mut reader = Reader::new(&envelope::destination());
    for line in lines {
        match line {
            Line::Text(name, value) => reader.attribute(name, value),
            Line::Null(name) => reader.native(name.as_str(), NativeValue::Null),
            Line::Bytes(value) => reader.native("bytes", value.clone()),
        }
    }
    reader
}

enum Line {
    Text(String, String),
    Null(String),
    Bytes(Bytes),
}

fn split(bytes: &[u8]) -> (Vec<Line>, Option<Bytes>) {
    let end = bytes.windows(2).position(|pair| pair == b"\n\n");
    let (head, payload) = match end {
        Some(end) => (&bytes[..end], Some(Bytes::copy_from_slice(&bytes[end + 2..]))),
        None => (bytes, None),
    };
    let lines = head.split(|&byte| byte == b'\n').take(LINES).map(|line| match std::str::from_utf8(line) {
        Ok(text) => match text.split_once('=') {
            Some((name, value)) => Line::Text(name.to_owned(), value.replace('\x1f', "\n")),
            None => Line::Null(text.to_owned()),
        },
        Err(_) => Line::Bytes(Bytes::copy_from_slice(line)),
    });
    (lines.collect(), payload)
}

/// The first value of each name is in the envelope: as what it is, else among the foreign headers.
fn nothing_is_lost(envelope: &Envelope, lines: &[Line]) {
    let written: HashSet<String> = attributes::list(envelope).into_iter().map(|(name, _)| name).collect();
    let mut seen = HashSet::new();
    for line in lines {
        let Line::Text(name, value) = line else { continue };
        // A trace that cannot be read starts anew (W3C Trace Context, section 3.3); a flag that is not `true` is not set,
        // no attempt and an empty fact of a dead letter are none; foreign headers come back one by one.
        let kept = match name.as_str() {
            "traceparent" | "tracestate" | "payloadnull" | "retrylast" => true,
            "deliveryattempt" if value.parse() == Ok(0) => true,
            "nativeheaders" => {
                NativeHeaders::from_json(value).is_some() || envelope.native().get(name).is_some()
            }
            _ if name.starts_with("dl") && value.is_empty() => true,
            _ => written.contains(name) || envelope.native().get(name).is_some(),
        };
        let first = seen.insert(name);
        assert!(kept || !first, "{name} is lost");
    }
}

/// What comes again changes nothing, the trace apart, of which two are none.
fn the_first_counts(envelope: &Envelope, lines: &[Line], payload: Option<Bytes>) {
    let mut reader = reader(lines);
    let written = attributes::list(envelope);
    let flags = ["payloadnull", "retrylast"]
        .into_iter()
        .filter(|flag| lines.iter().any(|line| matches!(line, Line::Text(name, _) if name == flag)));
    for name in written.iter().map(|(name, _)| name.as_str()).chain(flags) {
        let sent = lines.iter().any(|line| matches!(line, Line::Text(sent, _) if sent == name));
        let unread = envelope.native().get(name).is_some();
        if sent && !unread && !matches!(name, "traceparent" | "tracestate") {
            reader.attribute(name, "true");
        }
    }
    // The ids of a trace that starts anew are random.
    let same = |list: Vec<(String, String)>| {
        list.into_iter().filter(|(name, _)| name != "traceparent").collect::<Vec<_>>()
    };
    let again = reader.finish(payload).map(|read| same(attributes::list(&read)));
    assert_eq!(again.ok(), Some(same(written)), "what comes again counts");
}

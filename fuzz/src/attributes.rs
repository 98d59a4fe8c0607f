//! The binary form of an envelope: names and values, then a payload.
//!
//! The bytes are lines `name=value`, an empty line, the payload. In a value, `\x1f` stands for the end of a line. A line
//! without `=` is a header without a value, one that is no UTF-8 a header of bytes.

use std::collections::HashSet;

use bytes::Bytes;
use msgkit::envelope::attributes::{self, Reader};
use msgkit::envelope::{Envelope, NativeHeaders, NativeValue};

use crate::{envelope, refusal};

/// Panics where a promise does not hold for these bytes.
pub fn check(bytes: &[u8]) {
    // The ids that a message without a trace gets.
    fastrand::seed(1);
    let (lines, payload) = split(bytes);
    let mut reader = Reader::new();
    let mut texts = Vec::new();
    for line in lines {
        match line {
            Line::Text(name, value) => {
                reader.attribute(&name, &value);
                texts.push((name, value));
            }
            Line::Null(name) => reader.native(name, NativeValue::Null),
            Line::Bytes(value) => reader.native("bytes", value),
        }
    }
    let event = reader.is_event();
    match reader.finish(&envelope::destination(), payload) {
        Ok(read) => {
            assert!(event, "finished, and yet no event");
            nothing_is_lost(&read, &texts);
            envelope::check(&read);
        }
        Err(error) => drop(refusal::check(&error)),
    }
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
    let lines = head.split(|&byte| byte == b'\n').map(|line| match std::str::from_utf8(line) {
        Ok(text) => match text.split_once('=') {
            Some((name, value)) => Line::Text(name.to_owned(), value.replace('\x1f', "\n")),
            None => Line::Null(text.to_owned()),
        },
        Err(_) => Line::Bytes(Bytes::copy_from_slice(line)),
    });
    (lines.collect(), payload)
}

/// The first value of each name is in the envelope: as what it is, else among the foreign headers.
fn nothing_is_lost(envelope: &Envelope, texts: &[(String, String)]) {
    let written: HashSet<String> = attributes::list(envelope).into_iter().map(|(name, _)| name).collect();
    let mut seen = HashSet::new();
    for (name, value) in texts {
        // A trace that cannot be read starts anew (W3C Trace Context, section 3.3); a flag that is not `true` is not set,
        // an empty fact of a dead letter is none; foreign headers come back one by one.
        let kept = match name.as_str() {
            "traceparent" | "tracestate" | "payloadnull" | "retrylast" => true,
            "nativeheaders" => {
                NativeHeaders::from_json(value).is_some() || envelope.native().get(name).is_some()
            }
            _ if name.starts_with("dl") && value.is_empty() => true,
            _ => written.contains(name) || envelope.native().get(name).is_some(),
        };
        assert!(kept || !seen.insert(name), "{name} is lost");
    }
}

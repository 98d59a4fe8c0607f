//! The envelope as a list of named texts: what every binary wire form is made of.
//!
//! A transport that has headers writes each pair of [`visit`] under its own prefix (`ce-`, `ce_`, none) and feeds what
//! it receives, prefix stripped, to a [`Reader`]. The structured form is built from the same two.

mod kept;
mod reader;

use std::fmt::Write as _;

pub use self::reader::Reader;
use super::{Envelope, Rare};

/// The CloudEvents version that is written.
pub const SPEC_VERSION: &str = "1.0";

/// Every name that is an attribute and so cannot be a user's header.
const NAMES: [&str; 40] = [
    "causationid",
    "correlationid",
    "data",
    "datacontenttype",
    "dataref",
    "dataschema",
    "deliveryattempt",
    "dlattempts",
    "dlerror",
    "dlfingerprint",
    "dlfirst",
    "dlgroup",
    "dlhandler",
    "dlkind",
    "dllast",
    "dlposition",
    "dlreplays",
    "dlservice",
    "dltopic",
    "expirytime",
    "hop",
    "id",
    "nativeheaders",
    "notbefore",
    "partitionkey",
    "payloadnull",
    "principal",
    "replyto",
    "retryfirst",
    "retrylast",
    "retryround",
    "sequence",
    "source",
    "specversion",
    "subject",
    "time",
    "topic",
    "traceparent",
    "tracestate",
    "type",
];

/// The largest number that an attribute may hold: the standard's integers have 32 bits and a sign.
pub(super) const MAX_NUMBER: u32 = i32::MAX.unsigned_abs();

/// Whether `name` is an attribute of the envelope, and so no user's header.
#[must_use]
pub fn is_attribute(name: &str) -> bool {
    NAMES.binary_search(&name).is_ok()
}

/// Calls `write` with each attribute and header, names without a prefix, values in their canonical text.
///
/// Not among them: the payload, and the foreign headers ([`Envelope::native`]), which each transport writes its own way.
pub fn visit(envelope: &Envelope, mut write: impl FnMut(&str, &str)) {
    let inner = &*envelope.0;
    let mut buffer = String::new();
    write("specversion", SPEC_VERSION);
    inner.id.with_str(|id| write("id", id));
    write("source", &inner.source);
    write("type", &inner.kind);
    write("topic", inner.topic.as_str());
    let mut written = |name: &str, value: &dyn std::fmt::Display, write: &mut dyn FnMut(&str, &str)| {
        buffer.clear();
        let _ = write!(buffer, "{value}");
        write(name, &buffer);
    };
    if let Some(time) = inner.time {
        written("time", &time, &mut write);
    }
    write("datacontenttype", inner.content_type.as_str());
    if let Some(key) = &inner.key {
        write("partitionkey", key);
    }
    envelope.correlation_id().with_str(|id| write("correlationid", id));
    if let Some(id) = &inner.causation_id {
        id.with_str(|id| write("causationid", id));
    }
    written("hop", &inner.hop.min(MAX_NUMBER), &mut write);
    written("traceparent", &inner.trace.parent, &mut write);
    if let Some(state) = &inner.trace.state {
        write("tracestate", state.as_str());
    }
    if inner.attempt > 0 {
        written("deliveryattempt", &inner.attempt.min(MAX_NUMBER), &mut write);
    }
    if inner.payload.is_none() {
        write("payloadnull", "true");
    }
    if let Some(rare) = &inner.rare {
        visit_rare(rare, &mut write, &mut written);
    }
    for (name, value) in inner.headers.iter() {
        write(name, value);
    }
}

/// Writes `value` under a name, by way of a buffer.
type Written<'a> = &'a mut dyn FnMut(&str, &dyn std::fmt::Display, &mut dyn FnMut(&str, &str));

fn visit_rare(rare: &Rare, write: &mut dyn FnMut(&str, &str), written: Written<'_>) {
    let texts = [
        ("subject", &rare.subject),
        ("dataschema", &rare.data_schema),
        ("sequence", &rare.sequence),
        ("principal", &rare.principal),
        ("dataref", &rare.data_ref),
    ];
    for (name, value) in texts {
        if let Some(value) = value {
            write(name, value);
        }
    }
    if let Some(topic) = &rare.reply_to {
        write("replyto", topic.as_str());
    }
    if let Some(at) = rare.not_before {
        written("notbefore", &at, write);
    }
    if let Some(at) = rare.expires {
        written("expirytime", &at, write);
    }
    if let Some(retry) = &rare.retry {
        written("retryround", &retry.round.min(MAX_NUMBER), write);
        written("retryfirst", &retry.first, write);
        if retry.last_start {
            write("retrylast", "true");
        }
    }
    if let Some(letter) = &rare.dead_letter {
        write("dlkind", letter.kind.as_str());
        let texts = [
            ("dlerror", &letter.error),
            ("dlfingerprint", &letter.fingerprint),
            ("dltopic", &letter.topic),
            ("dlgroup", &letter.group),
            ("dlservice", &letter.service),
            ("dlhandler", &letter.handler),
        ];
        for (name, value) in texts {
            if !value.is_empty() {
                write(name, value);
            }
        }
        written("dlattempts", &letter.attempts.min(MAX_NUMBER), write);
        written("dlfirst", &letter.first, write);
        written("dllast", &letter.last, write);
        if let Some(position) = &letter.position {
            write("dlposition", position);
        }
        written("dlreplays", &letter.replays.min(MAX_NUMBER), write);
    }
}

/// All that [`visit`] gives.
#[must_use]
pub fn list(envelope: &Envelope) -> Vec<(String, String)> {
    let mut all = Vec::new();
    visit(envelope, |name, value| all.push((name.to_owned(), value.to_owned())));
    all
}

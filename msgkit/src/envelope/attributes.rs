//! The envelope as a list of named texts: what every binary wire form is made of.
//!
//! A transport that has headers writes each pair of [`visit`] under its own prefix (`ce-`, `ce_`, none) and feeds what
//! it receives, prefix stripped, to a [`Reader`]. The structured form is built from the same two.

use std::fmt::Write as _;

use bytes::Bytes;

use super::trace::TraceContext;
use super::{
    ContentType, DeadLetter, DeadLetterKind, Envelope, HeaderName, Headers, Inner, MessageId, NativeHeaders,
    NativeValue, Payload, Rare, Retry, Timestamp, random_span_id, random_trace_id,
};
use crate::error::{Error, ErrorKind};
use crate::text::Text;
use crate::topic::Topic;

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

/// Builds an envelope from named texts that came off a wire.
///
/// Liberal where the standard lets it: the first of a repeated attribute counts, unknown legal names are headers, and
/// what cannot be read as what it should be is kept among the foreign headers instead of being lost. Only a missing or
/// unreadable `id`, `source`, `type` or `specversion` makes it no event.
#[derive(Default)]
pub struct Reader {
    spec_version: Option<Text>,
    id: Option<MessageId>,
    source: Option<Text>,
    kind: Option<Text>,
    topic: Option<Topic>,
    time: Option<Timestamp>,
    content_type: Option<ContentType>,
    key: Option<Text>,
    correlation_id: Option<MessageId>,
    causation_id: Option<MessageId>,
    hop: Option<u32>,
    trace_parents: Vec<Text>,
    trace_states: Vec<Text>,
    attempt: Option<u32>,
    null: Option<bool>,
    headers: Headers,
    rare: Rare,
    retry_round: Option<u32>,
    retry_first: Option<Timestamp>,
    retry_last: Option<bool>,
    dead: DeadAttributes,
    kept: NativeHeaders,
}

#[derive(Default)]
struct DeadAttributes {
    kind: Option<DeadLetterKind>,
    error: Option<Text>,
    fingerprint: Option<Text>,
    attempts: Option<u32>,
    first: Option<Timestamp>,
    last: Option<Timestamp>,
    topic: Option<Text>,
    group: Option<Text>,
    service: Option<Text>,
    handler: Option<Text>,
    position: Option<Text>,
    replays: Option<u32>,
}

/// Puts what `$read` gives into an empty `$slot`; tells whether the text was readable (or the slot was taken).
macro_rules! put {
    ($slot:expr, $read:expr) => {{
        if $slot.is_none() {
            $slot = $read;
            $slot.is_some()
        } else {
            true
        }
    }};
}

impl Reader {
    /// A reader that has read nothing.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Takes one attribute or header, its name without the transport's prefix.
    pub fn attribute(&mut self, name: &str, value: &str) {
        if !self.known(name, value) {
            self.kept.push(name, value);
        }
    }

    /// Takes one header that is not text, or whose name no attribute can have.
    pub fn native(&mut self, name: impl Into<Text>, value: impl Into<NativeValue>) {
        self.kept.push(name, value);
    }

    /// The payload's media type, where one was read.
    pub(super) fn content_type(&self) -> Option<&ContentType> {
        self.content_type.as_ref()
    }

    /// Whether the four attributes are there that every CloudEvents event has.
    #[must_use]
    pub fn is_event(&self) -> bool {
        self.spec_version.is_some() && self.id.is_some() && self.source.is_some() && self.kind.is_some()
    }

    /// Tells whether the attribute found its place; what did not is kept as a foreign header by the caller.
    fn known(&mut self, name: &str, value: &str) -> bool {
        let text = || (!value.is_empty() && value.len() <= super::MAX_VALUE).then(|| Text::from(value));
        let number = || value.parse::<i32>().ok().and_then(|number| u32::try_from(number).ok());
        let time = || value.parse::<Timestamp>().ok();
        match name {
            "specversion" => put!(self.spec_version, text()),
            "id" => put!(self.id, MessageId::parse(value).ok()),
            "source" => put!(self.source, text()),
            "type" => put!(self.kind, text()),
            "topic" => put!(self.topic, Topic::from_wire(value).ok()),
            "time" => put!(self.time, time()),
            "datacontenttype" => put!(self.content_type, text().map(|text| ContentType::parse(&text))),
            "partitionkey" => put!(self.key, text()),
            "correlationid" => put!(self.correlation_id, MessageId::parse(value).ok()),
            "causationid" => put!(self.causation_id, MessageId::parse(value).ok()),
            "hop" => put!(self.hop, number()),
            "traceparent" => {
                self.trace_parents.push(value.into());
                true
            }
            "tracestate" => {
                self.trace_states.push(value.into());
                true
            }
            "deliveryattempt" => put!(self.attempt, number()),
            "payloadnull" => {
                self.null.get_or_insert(value == "true");
                true
            }
            "subject" => put!(self.rare.subject, text()),
            "dataschema" => put!(self.rare.data_schema, text()),
            "sequence" => put!(self.rare.sequence, text()),
            "principal" => put!(self.rare.principal, text()),
            "dataref" => put!(self.rare.data_ref, text()),
            "replyto" => put!(self.rare.reply_to, Topic::from_wire(value).ok()),
            "notbefore" => put!(self.rare.not_before, time()),
            "expirytime" => put!(self.rare.expires, time()),
            "retryround" => put!(self.retry_round, number()),
            "retryfirst" => put!(self.retry_first, time()),
            "retrylast" => {
                self.retry_last.get_or_insert(value == "true");
                true
            }
            "nativeheaders" => match NativeHeaders::from_json(value) {
                Some(native) => {
                    for (name, value) in native.iter() {
                        self.kept.push(name, value.clone());
                    }
                    true
                }
                None => false,
            },
            _ if name.starts_with("dl") && is_attribute(name) => self.known_dead(name, value),
            _ => HeaderName::new(name).is_ok_and(|name| {
                self.headers.get(name.as_str()).is_none() && self.headers.insert(name, value).is_ok()
            }),
        }
    }

    fn known_dead(&mut self, name: &str, value: &str) -> bool {
        let text = || (value.len() <= super::MAX_VALUE).then(|| Text::from(value));
        let number = || value.parse::<i32>().ok().and_then(|number| u32::try_from(number).ok());
        let dead = &mut self.dead;
        match name {
            "dlkind" => put!(dead.kind, value.parse().ok()),
            "dlerror" => put!(dead.error, text()),
            "dlfingerprint" => put!(dead.fingerprint, text()),
            "dlattempts" => put!(dead.attempts, number()),
            "dlfirst" => put!(dead.first, value.parse().ok()),
            "dllast" => put!(dead.last, value.parse().ok()),
            "dltopic" => put!(dead.topic, text()),
            "dlgroup" => put!(dead.group, text()),
            "dlservice" => put!(dead.service, text()),
            "dlhandler" => put!(dead.handler, text()),
            "dlposition" => put!(dead.position, text()),
            "dlreplays" => put!(dead.replays, number()),
            _ => false,
        }
    }

    /// The envelope; `destination` is its topic where it names none, `payload` its data.
    ///
    /// # Errors
    /// [`ErrorKind::Decode`] naming the required attribute that is missing or unreadable.
    pub fn finish(self, destination: &Topic, payload: Option<Bytes>) -> Result<Envelope, Error> {
        let missing = |name: &str| {
            Error::new(
                ErrorKind::Decode,
                format!("attribute `{name}` is missing or unreadable, so this is no CloudEvents event"),
            )
        };
        let spec_version = self.spec_version.as_ref().ok_or_else(|| missing("specversion"))?;
        if !spec_version.starts_with("1.") {
            return Err(Error::new(
                ErrorKind::Decode,
                format!("CloudEvents version {:?} is unknown; 1.0 can be read", spec_version.as_str()),
            ));
        }
        let id = self.id.ok_or_else(|| missing("id"))?;
        let source = self.source.ok_or_else(|| missing("source"))?;
        let kind = self.kind.ok_or_else(|| missing("type"))?;
        let mut rare = self.rare;
        rare.native = self.kept;
        match self.retry_round {
            Some(round) => {
                let first = self.retry_first.or(self.time).unwrap_or(Timestamp::EPOCH);
                rare.retry = Some(Retry { round, first, last_start: self.retry_last == Some(true) });
            }
            None => {
                let (first, last) = (text_of(self.retry_first), text_of(self.retry_last));
                keep(&mut rare.native, [("retryfirst", first), ("retrylast", last)]);
            }
        }
        match self.dead.kind {
            Some(kind) => rare.dead_letter = Some(self.dead.into_dead_letter(kind)),
            None => self.dead.keep(&mut rare.native),
        }
        let trace = TraceContext::from_headers(
            self.trace_parents.iter().map(Text::as_str),
            self.trace_states.iter().map(Text::as_str),
        )
        .unwrap_or_else(|| TraceContext::root(random_trace_id(), random_span_id()));
        Ok(Envelope(std::sync::Arc::new(Inner {
            id,
            source,
            kind,
            topic: self.topic.unwrap_or_else(|| destination.clone()),
            time: self.time,
            content_type: self.content_type.unwrap_or(ContentType::Json),
            key: self.key,
            correlation_id: self.correlation_id,
            causation_id: self.causation_id,
            trace,
            hop: self.hop.unwrap_or(0),
            attempt: self.attempt.unwrap_or(0),
            payload: if self.null == Some(true) && payload.as_ref().is_none_or(Bytes::is_empty) {
                None
            } else {
                payload.map(Payload::from)
            },
            headers: self.headers,
            rare: (!rare.is_empty()).then(|| Box::new(rare)),
        })))
    }

    /// The foreign headers and whatever else was read, for a message that turned out to be no event.
    #[must_use]
    pub fn into_native(self) -> NativeHeaders {
        let Self { rare, dead, mut kept, .. } = self;
        let all = [
            ("specversion", self.spec_version),
            ("id", text_of(self.id)),
            ("source", self.source),
            ("type", self.kind),
            ("topic", text_of(self.topic)),
            ("time", text_of(self.time)),
            ("datacontenttype", text_of(self.content_type)),
            ("partitionkey", self.key),
            ("correlationid", text_of(self.correlation_id)),
            ("causationid", text_of(self.causation_id)),
            ("hop", text_of(self.hop)),
            ("deliveryattempt", text_of(self.attempt)),
            ("payloadnull", text_of(self.null)),
            ("subject", rare.subject),
            ("dataschema", rare.data_schema),
            ("sequence", rare.sequence),
            ("principal", rare.principal),
            ("dataref", rare.data_ref),
            ("replyto", text_of(rare.reply_to)),
            ("notbefore", text_of(rare.not_before)),
            ("expirytime", text_of(rare.expires)),
            ("retryround", text_of(self.retry_round)),
            ("retryfirst", text_of(self.retry_first)),
            ("retrylast", text_of(self.retry_last)),
            ("dlkind", text_of(dead.kind)),
        ];
        keep(&mut kept, all);
        dead.keep(&mut kept);
        for (name, values) in [("traceparent", self.trace_parents), ("tracestate", self.trace_states)] {
            values.into_iter().for_each(|value| kept.push(name, NativeValue::Text(value)));
        }
        for (name, value) in self.headers.iter() {
            kept.push(name, value);
        }
        kept
    }
}

fn text_of(value: Option<impl ToString>) -> Option<Text> {
    value.map(|value| value.to_string().into())
}

fn keep<const N: usize>(native: &mut NativeHeaders, all: [(&str, Option<Text>); N]) {
    for (name, value) in all {
        if let Some(value) = value {
            native.push(name, NativeValue::Text(value));
        }
    }
}

impl DeadAttributes {
    fn into_dead_letter(self, kind: DeadLetterKind) -> DeadLetter {
        let first = self.first.unwrap_or(Timestamp::EPOCH);
        // Its limits hold for what others wrote, too.
        let mut letter = DeadLetter::new(kind, &self.error.unwrap_or_default(), first);
        letter.fingerprint = self.fingerprint.unwrap_or_default();
        letter.attempts = self.attempts.unwrap_or(0);
        letter.last = self.last.unwrap_or(letter.first);
        letter.topic = self.topic.unwrap_or_default();
        letter.group = self.group.unwrap_or_default();
        letter.service = self.service.unwrap_or_default();
        letter.handler = self.handler.unwrap_or_default();
        letter.position = self.position;
        letter.replays = self.replays.unwrap_or(0);
        letter
    }

    /// Without a kind it is no dead letter, and what it has are foreign headers.
    fn keep(self, native: &mut NativeHeaders) {
        let all = [
            ("dlerror", self.error),
            ("dlfingerprint", self.fingerprint),
            ("dlattempts", text_of(self.attempts)),
            ("dlfirst", text_of(self.first)),
            ("dllast", text_of(self.last)),
            ("dltopic", self.topic),
            ("dlgroup", self.group),
            ("dlservice", self.service),
            ("dlhandler", self.handler),
            ("dlposition", self.position),
            ("dlreplays", text_of(self.replays)),
        ];
        keep(native, all);
    }
}

impl Rare {
    fn is_empty(&self) -> bool {
        self.subject.is_none()
            && self.data_schema.is_none()
            && self.sequence.is_none()
            && self.reply_to.is_none()
            && self.not_before.is_none()
            && self.expires.is_none()
            && self.principal.is_none()
            && self.data_ref.is_none()
            && self.retry.is_none()
            && self.dead_letter.is_none()
            && self.native.is_empty()
            && self.hints.is_empty()
    }
}

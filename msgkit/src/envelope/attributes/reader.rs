//! Reading the envelope from named texts that came off a wire.

use bytes::Bytes;

use super::super::trace::{TraceContext, TraceParent};
use super::super::{
    ContentType, DeadLetter, DeadLetterKind, Envelope, HeaderName, Headers, Inner, MAX_VALUE, MessageId,
    NativeHeaders, NativeValue, Payload, Rare, Retry, Timestamp, random_span_id, random_trace_id,
};
use super::kept::kept;
use super::{SPEC_VERSION, is_attribute};
use crate::error::{Error, ErrorKind};
use crate::text::Text;
use crate::topic::Topic;

/// Builds an envelope from named texts that came off a wire.
///
/// Liberal where the standard lets it: the first of a repeated attribute counts, unknown legal names are headers, and
/// what cannot be read as what it should be is kept among the foreign headers instead of being lost. Only a missing or
/// unreadable `id`, `source`, `type` or `specversion` makes it no event.
pub struct Reader {
    /// The topic where it names none.
    destination: Topic,
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
    /// Where there is one, in the form in which it is written here.
    trace_parent: Option<TraceParent>,
    attempt: Option<u32>,
    null: Option<bool>,
    headers: Headers,
    /// With what is kept among the foreign headers.
    rare: Option<Box<Rare>>,
    unusual: Option<Box<Unusual>>,
}

/// What is read of few messages, out of the way of the others.
#[derive(Default)]
struct Unusual {
    /// All of them, unless there is one in the usual form.
    trace_parents: Vec<Text>,
    trace_states: Vec<Text>,
    retry_round: Option<u32>,
    retry_first: Option<Timestamp>,
    retry_last: Option<bool>,
    dead: DeadAttributes,
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
    /// A reader that has read nothing of a message that came from `destination`.
    #[must_use]
    pub fn new(destination: &Topic) -> Self {
        Self {
            destination: destination.clone(),
            spec_version: None,
            id: None,
            source: None,
            kind: None,
            topic: None,
            time: None,
            content_type: None,
            key: None,
            correlation_id: None,
            causation_id: None,
            hop: None,
            trace_parent: None,
            attempt: None,
            null: None,
            headers: Headers::default(),
            rare: None,
            unusual: None,
        }
    }

    /// Takes one attribute or header, its name without the transport's prefix.
    pub fn attribute(&mut self, name: &str, value: &str) {
        if !self.known(name, value) {
            self.native(name, value);
        }
    }

    /// Takes one header that is not text, or whose name no attribute can have.
    pub fn native(&mut self, name: impl Into<Text>, value: impl Into<NativeValue>) {
        self.rare().native.push(name, value);
    }

    fn rare(&mut self) -> &mut Rare {
        self.rare.get_or_insert_default()
    }

    fn unusual(&mut self) -> &mut Unusual {
        self.unusual.get_or_insert_default()
    }

    /// The payload's media type, where one was read.
    pub(in crate::envelope) fn content_type(&self) -> Option<&ContentType> {
        self.content_type.as_ref()
    }

    /// Whether the four attributes are there that every CloudEvents event has.
    #[must_use]
    pub fn is_event(&self) -> bool {
        self.spec_version.is_some() && self.id.is_some() && self.source.is_some() && self.kind.is_some()
    }

    /// Tells whether the attribute found its place; what did not is kept as a foreign header by the caller.
    fn known(&mut self, name: &str, value: &str) -> bool {
        let text = || (!value.is_empty() && value.len() <= MAX_VALUE).then(|| Text::from(value));
        let shared = || (!value.is_empty() && value.len() <= MAX_VALUE).then(|| kept(value));
        let number = || value.parse::<i32>().ok().and_then(|number| u32::try_from(number).ok());
        let time = || value.parse::<Timestamp>().ok();
        match name {
            "specversion" if value == SPEC_VERSION => {
                self.spec_version.get_or_insert(Text::from_static(SPEC_VERSION));
                true
            }
            "specversion" => put!(self.spec_version, text()),
            "id" => put!(self.id, MessageId::parse(value).ok()),
            "source" => put!(self.source, shared()),
            "type" => put!(self.kind, shared()),
            // Mostly that from which the message came.
            "topic" if value == self.destination.as_str() => {
                self.topic.get_or_insert(self.destination.clone());
                true
            }
            "topic" => put!(self.topic, Topic::from_wire(value).ok()),
            "time" => put!(self.time, time()),
            "datacontenttype" => {
                let fits = !value.is_empty() && value.len() <= MAX_VALUE;
                put!(self.content_type, fits.then(|| ContentType::parse(value)))
            }
            "partitionkey" => put!(self.key, text()),
            "correlationid" => put!(self.correlation_id, MessageId::parse(value).ok()),
            "causationid" => put!(self.causation_id, MessageId::parse(value).ok()),
            "hop" => put!(self.hop, number()),
            "traceparent" => {
                self.take_trace_parent(value);
                true
            }
            "tracestate" => {
                self.unusual().trace_states.push(value.into());
                true
            }
            "deliveryattempt" => put!(self.attempt, number()),
            "payloadnull" => {
                self.null.get_or_insert(value == "true");
                true
            }
            "subject" => put!(self.rare().subject, text()),
            "dataschema" => put!(self.rare().data_schema, text()),
            "sequence" => put!(self.rare().sequence, text()),
            "principal" => put!(self.rare().principal, text()),
            "dataref" => put!(self.rare().data_ref, text()),
            "replyto" => put!(self.rare().reply_to, Topic::from_wire(value).ok()),
            "notbefore" => put!(self.rare().not_before, time()),
            "expirytime" => put!(self.rare().expires, time()),
            "retryround" => put!(self.unusual().retry_round, number()),
            "retryfirst" => put!(self.unusual().retry_first, time()),
            "retrylast" => {
                self.unusual().retry_last.get_or_insert(value == "true");
                true
            }
            "nativeheaders" => match NativeHeaders::from_json(value) {
                Some(native) => {
                    for (name, value) in native.iter() {
                        self.native(name, value.clone());
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

    fn take_trace_parent(&mut self, value: &str) {
        let first = self.trace_parent.is_none()
            && self.unusual.as_ref().is_none_or(|unusual| unusual.trace_parents.is_empty());
        if first && let Some(parent) = TraceParent::read_written(value) {
            self.trace_parent = Some(parent);
            return;
        }
        let before = text_of(self.trace_parent.take());
        self.unusual().trace_parents.extend(before.into_iter().chain([value.into()]));
    }

    fn known_dead(&mut self, name: &str, value: &str) -> bool {
        let text = || (value.len() <= MAX_VALUE).then(|| Text::from(value));
        let number = || value.parse::<i32>().ok().and_then(|number| u32::try_from(number).ok());
        let dead = &mut self.unusual().dead;
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

    /// The envelope, with `payload` as its data.
    ///
    /// # Errors
    /// [`ErrorKind::Decode`] naming the required attribute that is missing or unreadable.
    pub fn finish(self, payload: Option<Bytes>) -> Result<Envelope, Error> {
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
        let trace = match self.unusual {
            Some(unusual) => unusual.finish(self.trace_parent, self.time, rare.get_or_insert_default()),
            None => self.trace_parent.map(TraceContext::from),
        };
        Ok(Envelope(std::sync::Arc::new(Inner {
            id,
            source,
            kind,
            topic: self.topic.unwrap_or(self.destination),
            time: self.time,
            content_type: self.content_type.unwrap_or(ContentType::Json),
            key: self.key,
            correlation_id: self.correlation_id,
            causation_id: self.causation_id,
            trace: trace.unwrap_or_else(|| TraceContext::root(random_trace_id(), random_span_id())),
            hop: self.hop.unwrap_or(0),
            attempt: self.attempt.unwrap_or(0),
            payload: if self.null == Some(true) && payload.as_ref().is_none_or(Bytes::is_empty) {
                None
            } else {
                payload.map(Payload::from)
            },
            headers: self.headers,
            rare: rare.filter(|rare| !rare.is_empty()),
        })))
    }

    /// The foreign headers and whatever else was read, for a message that turned out to be no event.
    #[must_use]
    pub fn into_native(self) -> NativeHeaders {
        let mut rare = self.rare.unwrap_or_default();
        let mut kept = std::mem::take(&mut rare.native);
        let unusual = self.unusual.unwrap_or_default();
        let dead = unusual.dead;
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
            ("retryround", text_of(unusual.retry_round)),
            ("retryfirst", text_of(unusual.retry_first)),
            ("retrylast", text_of(unusual.retry_last)),
            ("dlkind", text_of(dead.kind)),
        ];
        keep(&mut kept, all);
        dead.keep(&mut kept);
        keep(&mut kept, [("traceparent", text_of(self.trace_parent))]);
        for (name, values) in [("traceparent", unusual.trace_parents), ("tracestate", unusual.trace_states)] {
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

impl Unusual {
    /// Adds what it has to `rare`. Gives the trace, or none where it begins anew.
    fn finish(
        self,
        parent: Option<TraceParent>,
        time: Option<Timestamp>,
        rare: &mut Rare,
    ) -> Option<TraceContext> {
        match self.retry_round {
            Some(round) => {
                let first = self.retry_first.or(time).unwrap_or(Timestamp::EPOCH);
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
        let states = self.trace_states.iter().map(Text::as_str);
        match parent {
            Some(parent) => Some(TraceContext::of(parent, states)),
            None => TraceContext::from_headers(self.trace_parents.iter().map(Text::as_str), states),
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

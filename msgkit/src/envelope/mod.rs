//! The envelope: everything that travels with a payload. It is a CloudEvents 1.0 event.
//!
//! [`Envelope`] is what handlers see and transports carry. Its wire forms are built here too, once for all
//! transports: [`structured`] JSON, and the list of named [`attributes`] that every binary form is made of.

pub mod attributes;
mod content_type;
mod dead_letter;
mod headers;
mod hex;
mod id;
pub mod ingest;
mod native;
mod payload;
pub mod structured;
#[cfg(test)]
mod tests;
mod time;
pub mod trace;

use std::fmt;
use std::sync::Arc;

use bytes::Bytes;

pub use self::content_type::ContentType;
pub use self::dead_letter::{DeadLetter, DeadLetterKind, MAX_ERROR};
pub use self::headers::{HeaderName, Headers, MAX_HEADERS, MAX_VALUE};
pub use self::id::{MAX_ID, MessageId};
pub use self::native::{Hint, NativeHeaders, NativeValue};
pub use self::payload::Payload;
pub use self::time::{Clock, Timestamp};
use self::trace::TraceContext;
use crate::text::Text;
use crate::topic::Topic;

/// Metadata, headers and payload of one message; cheap to clone, copied when changed.
#[derive(Clone)]
pub struct Envelope(Arc<Inner>);

#[derive(Clone)]
struct Inner {
    id: MessageId,
    source: Text,
    kind: Text,
    topic: Topic,
    time: Option<Timestamp>,
    content_type: ContentType,
    key: Option<Text>,
    correlation_id: Option<MessageId>,
    causation_id: Option<MessageId>,
    trace: TraceContext,
    hop: u32,
    attempt: u32,
    payload: Option<Payload>,
    headers: Headers,
    rare: Option<Box<Rare>>,
}

/// What most messages do not have, out of the way of those.
#[derive(Clone, Default)]
struct Rare {
    subject: Option<Text>,
    data_schema: Option<Text>,
    sequence: Option<Text>,
    reply_to: Option<Topic>,
    not_before: Option<Timestamp>,
    expires: Option<Timestamp>,
    principal: Option<Text>,
    data_ref: Option<Text>,
    retry: Option<Retry>,
    dead_letter: Option<DeadLetter>,
    native: NativeHeaders,
    hints: Vec<Hint>,
}

/// What a retry copy carries of the attempts before it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Retry {
    /// `retryround`: how many delayed retries there have been, this copy included.
    pub round: u32,
    /// `retryfirst`: when the message failed first.
    pub first: Timestamp,
    /// `retrylast`: whether this copy's next start is its last, alone, because starts before it killed the process.
    pub last_start: bool,
}

impl Envelope {
    /// A message at the source of a flow: a new id, a new trace, no cause.
    ///
    /// `source` is the service, `kind` the message's wire name.
    pub fn new(
        source: impl Into<Text>,
        kind: impl Into<Text>,
        topic: Topic,
        content_type: ContentType,
        payload: Bytes,
        now: Timestamp,
    ) -> Self {
        Self::with_payload(source.into(), kind.into(), topic, content_type, payload.into(), now)
    }

    /// As [`Envelope::new`], of a payload that was written here.
    pub(crate) fn with_payload(
        source: Text,
        kind: Text,
        topic: Topic,
        content_type: ContentType,
        payload: Payload,
        now: Timestamp,
    ) -> Self {
        let random = Random::new();
        Self(Arc::new(Inner {
            id: MessageId::random(now, random.id),
            source,
            kind,
            topic,
            time: Some(now),
            content_type,
            key: None,
            correlation_id: None,
            causation_id: None,
            trace: TraceContext::root(random.trace, random.span),
            hop: 0,
            attempt: 0,
            payload: Some(payload),
            headers: Headers::new(),
            rare: None,
        }))
    }

    /// The id, equal on every redelivery, retry copy and replay.
    #[must_use]
    pub fn id(&self) -> &MessageId {
        &self.0.id
    }

    /// The service that published it.
    #[must_use]
    pub fn source(&self) -> &str {
        &self.0.source
    }

    /// The message's wire name, CloudEvents' `type`.
    #[must_use]
    pub fn kind(&self) -> &str {
        &self.0.kind
    }

    /// The topic that it was published to; a retry copy and a dead letter keep it.
    #[must_use]
    pub fn topic(&self) -> &Topic {
        &self.0.topic
    }

    /// When it happened.
    #[must_use]
    pub fn time(&self) -> Option<Timestamp> {
        self.0.time
    }

    /// How the payload is written.
    #[must_use]
    pub fn content_type(&self) -> &ContentType {
        &self.0.content_type
    }

    /// The ordering key: messages of one key are handled in order where the policy asks for it.
    #[must_use]
    pub fn key(&self) -> Option<&str> {
        self.0.key.as_deref()
    }

    /// The id that all messages of one flow share: that of its first message.
    #[must_use]
    pub fn correlation_id(&self) -> &MessageId {
        self.0.correlation_id.as_ref().unwrap_or(&self.0.id)
    }

    /// The id of the message whose handling published this one.
    #[must_use]
    pub fn causation_id(&self) -> Option<&MessageId> {
        self.0.causation_id.as_ref()
    }

    /// How many messages lie between the source of the flow and this one: causal order without clocks.
    #[must_use]
    pub fn hop(&self) -> u32 {
        self.0.hop
    }

    /// The trace that it belongs to.
    #[must_use]
    pub fn trace(&self) -> &TraceContext {
        &self.0.trace
    }

    /// How often it has been handed to a handler before this copy was made.
    #[must_use]
    pub fn attempt(&self) -> u32 {
        self.0.attempt
    }

    /// The payload's bytes; empty where there are none, see [`Envelope::is_null`].
    #[must_use]
    pub fn payload(&self) -> &[u8] {
        self.0.payload.as_deref().unwrap_or_default()
    }

    /// The payload as a cheap clone, or as a copy where it is small; `None` where there is none at all (a tombstone).
    #[must_use]
    pub fn payload_bytes(&self) -> Option<Bytes> {
        self.0.payload.as_ref().map(Payload::to_bytes)
    }

    /// Whether there is no payload at all, which is not the same as an empty one.
    #[must_use]
    pub fn is_null(&self) -> bool {
        self.0.payload.is_none()
    }

    /// The user's headers.
    #[must_use]
    pub fn headers(&self) -> &Headers {
        &self.0.headers
    }

    /// What the message is about, within its source.
    #[must_use]
    pub fn subject(&self) -> Option<&str> {
        self.rare()?.subject.as_deref()
    }

    /// The address of the payload's schema.
    #[must_use]
    pub fn data_schema(&self) -> Option<&str> {
        self.rare()?.data_schema.as_deref()
    }

    /// The position in its source's order, comparable as text.
    #[must_use]
    pub fn sequence(&self) -> Option<&str> {
        self.rare()?.sequence.as_deref()
    }

    /// Where an answer is expected.
    #[must_use]
    pub fn reply_to(&self) -> Option<&Topic> {
        self.rare()?.reply_to.as_ref()
    }

    /// The time before which it must not be handled.
    #[must_use]
    pub fn not_before(&self) -> Option<Timestamp> {
        self.rare()?.not_before
    }

    /// The time after which nobody wants it any more.
    #[must_use]
    pub fn expires(&self) -> Option<Timestamp> {
        self.rare()?.expires
    }

    /// On whose behalf it was published.
    #[must_use]
    pub fn principal(&self) -> Option<&str> {
        self.rare()?.principal.as_deref()
    }

    /// Where the payload is kept, if not here.
    #[must_use]
    pub fn data_ref(&self) -> Option<&str> {
        self.rare()?.data_ref.as_deref()
    }

    /// What a retry copy carries of the attempts before it.
    #[must_use]
    pub fn retry(&self) -> Option<&Retry> {
        self.rare()?.retry.as_ref()
    }

    /// Why it is a dead letter, if it is one.
    #[must_use]
    pub fn dead_letter(&self) -> Option<&DeadLetter> {
        self.rare()?.dead_letter.as_ref()
    }

    /// Foreign headers that came with it.
    #[must_use]
    pub fn native(&self) -> &NativeHeaders {
        const NONE: &NativeHeaders = &NativeHeaders::new();
        self.rare().map_or(NONE, |rare| &rare.native)
    }

    /// Hints for `transport`.
    pub fn hints<'a>(&'a self, transport: &'a str) -> impl Iterator<Item = &'a Hint> {
        self.rare().into_iter().flat_map(|rare| &rare.hints).filter(move |hint| hint.transport == transport)
    }

    /// Whether it has no past and no schedule: no attempts, no retry, no time before or after which it is not wanted.
    pub(crate) fn is_plain(&self) -> bool {
        self.0.attempt == 0
            && self.rare().is_none_or(|rare| {
                rare.retry.is_none() && rare.not_before.is_none() && rare.expires.is_none()
            })
    }

    fn rare(&self) -> Option<&Rare> {
        self.0.rare.as_deref()
    }

    fn inner_mut(&mut self) -> &mut Inner {
        Arc::make_mut(&mut self.0)
    }

    fn rare_mut(&mut self) -> &mut Rare {
        self.inner_mut().rare.get_or_insert_default()
    }

    /// Makes it part of the flow of `cause`: same trace, correlation and principal, one hop more.
    ///
    /// The id stays what it is; see [`Envelope::set_id`].
    pub fn set_cause(&mut self, cause: &Envelope) {
        let inner = self.inner_mut();
        inner.causation_id = Some(cause.id().clone());
        inner.correlation_id = Some(cause.correlation_id().clone());
        inner.hop = cause.hop().saturating_add(1).min(attributes::MAX_NUMBER);
        inner.trace = cause.trace().child(random_span_id());
        if let Some(principal) = cause.rare().and_then(|rare| rare.principal.clone()) {
            self.rare_mut().principal.get_or_insert(principal);
        }
    }

    /// Sets the id.
    pub fn set_id(&mut self, id: MessageId) {
        self.inner_mut().id = id;
    }

    /// Sets the time at which it happened.
    pub fn set_time(&mut self, time: Option<Timestamp>) {
        self.inner_mut().time = time;
    }

    /// Sets the topic.
    pub fn set_topic(&mut self, topic: Topic) {
        self.inner_mut().topic = topic;
    }

    /// Sets the ordering key; an empty one counts as none.
    pub fn set_key(&mut self, key: Option<Text>) {
        self.inner_mut().key = key.filter(|key| !key.is_empty());
    }

    /// Sets the payload; `None` makes it a tombstone.
    pub fn set_payload(&mut self, payload: Option<Bytes>) {
        self.inner_mut().payload = payload.map(Payload::from);
    }

    /// Sets the trace that it belongs to.
    pub fn set_trace(&mut self, trace: TraceContext) {
        self.inner_mut().trace = trace;
    }

    /// Sets the id that all messages of its flow share.
    pub fn set_correlation_id(&mut self, id: MessageId) {
        self.inner_mut().correlation_id = Some(id);
    }

    /// The user's headers, to change.
    pub fn headers_mut(&mut self) -> &mut Headers {
        &mut self.inner_mut().headers
    }

    /// Sets what it is about.
    pub fn set_subject(&mut self, subject: Option<Text>) {
        self.rare_mut().subject = subject.filter(|subject| !subject.is_empty());
    }

    /// Sets the address of the payload's schema.
    pub fn set_data_schema(&mut self, schema: Option<Text>) {
        self.rare_mut().data_schema = schema;
    }

    /// Sets the position in its source's order.
    pub fn set_sequence(&mut self, sequence: Option<Text>) {
        self.rare_mut().sequence = sequence;
    }

    /// Sets where an answer is expected.
    pub fn set_reply_to(&mut self, topic: Option<Topic>) {
        self.rare_mut().reply_to = topic;
    }

    /// Sets the time before which it must not be handled.
    pub fn set_not_before(&mut self, at: Option<Timestamp>) {
        if at.is_some() || self.rare().is_some() {
            self.rare_mut().not_before = at;
        }
    }

    /// Sets the time after which nobody wants it any more.
    pub fn set_expires(&mut self, at: Option<Timestamp>) {
        self.rare_mut().expires = at;
    }

    /// Sets on whose behalf it is published.
    pub fn set_principal(&mut self, principal: Option<Text>) {
        self.rare_mut().principal = principal;
    }

    /// Sets where the payload is kept.
    pub fn set_data_ref(&mut self, reference: Option<Text>) {
        self.rare_mut().data_ref = reference;
    }

    /// Sets how often it has been handed to a handler.
    pub fn set_attempt(&mut self, attempt: u32) {
        self.inner_mut().attempt = attempt;
    }

    /// Sets what a retry copy carries of the attempts before it.
    pub fn set_retry(&mut self, retry: Option<Retry>) {
        if retry.is_some() || self.rare().is_some() {
            self.rare_mut().retry = retry;
        }
    }

    /// Sets why it is a dead letter.
    pub fn set_dead_letter(&mut self, dead_letter: Option<DeadLetter>) {
        if dead_letter.is_some() || self.rare().is_some() {
            self.rare_mut().dead_letter = dead_letter;
        }
    }

    /// Sets the foreign headers that came with it.
    pub fn set_native(&mut self, native: NativeHeaders) {
        if !native.is_empty() || self.rare().is_some() {
            self.rare_mut().native = native;
        }
    }

    /// Adds a hint for one transport; the others ignore it.
    pub fn add_hint(&mut self, hint: Hint) {
        self.rare_mut().hints.push(hint);
    }

    /// The message as it is published again after a person or a rule has put right what killed it: without attempts,
    /// without its death, which only leaves its count of replays.
    #[must_use]
    pub fn replayed(&self) -> Self {
        let mut copy = self.clone();
        let replays = copy.dead_letter().map_or(0, |letter| letter.replays);
        let replays = replays.saturating_add(1).min(attributes::MAX_NUMBER);
        let inner = copy.inner_mut();
        inner.attempt = 0;
        if let Some(rare) = &mut inner.rare {
            rare.retry = None;
            rare.not_before = None;
            if let Some(letter) = &mut rare.dead_letter {
                letter.replays = replays;
            }
        }
        copy
    }
}

/// What is random in a new envelope, drawn at once.
struct Random {
    id: u128,
    trace: u128,
    span: u64,
}

impl Random {
    fn new() -> Self {
        let mut bytes = [0; 40];
        fastrand::fill(&mut bytes);
        let (words, _) = bytes.as_chunks::<8>();
        let word = |at: usize| u64::from_ne_bytes(words[at]);
        let double = |at| u128::from(word(at)) << 64 | u128::from(word(at + 1));
        // Neither a trace id nor a span id may be zero.
        Self { id: double(0), trace: double(2).max(1), span: word(4).max(1) }
    }
}

/// A random id for a new trace, never zero.
pub(crate) fn random_trace_id() -> u128 {
    fastrand::u128(1..)
}

/// A random id for a new span, never zero.
pub(crate) fn random_span_id() -> u64 {
    fastrand::u64(1..)
}

impl PartialEq for Envelope {
    /// Equal in every attribute, header and byte that a wire carries.
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
            || (self.0.payload == other.0.payload
                && self.native() == other.native()
                && attributes::list(self) == attributes::list(other))
    }
}

impl fmt::Debug for Envelope {
    /// What identifies it; never the payload and never header values, which may hold what nobody may log.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Envelope")
            .field("id", &self.0.id)
            .field("type", &self.0.kind)
            .field("topic", &self.0.topic)
            .field("source", &self.0.source)
            .field("hop", &self.0.hop)
            .field("attempt", &self.0.attempt)
            .field("payload", &format_args!("{} bytes", self.payload().len()))
            .finish_non_exhaustive()
    }
}

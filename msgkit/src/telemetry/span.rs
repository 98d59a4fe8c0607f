//! Tracing spans, with OpenTelemetry's names for messaging.
//!
//! A span that nobody wants is one check. A `tracing-opentelemetry` layer makes OpenTelemetry spans of them: `otel.name`
//! and `otel.kind` are its fields. Every log line inside a handler is within `process`, and so carries the ids.

use tracing::Span;
use tracing::field::{Empty, display};

use crate::envelope::Envelope;
use crate::handler::HandlerIdentity;
use crate::transport::Destination;

/// One attempt of one message.
pub(crate) fn process(system: &str, identity: &HandlerIdentity, envelope: &Envelope, attempt: u32) -> Span {
    let span = tracing::info_span!(
        "process",
        otel.name = Empty,
        otel.kind = "consumer",
        otel.status_code = Empty,
        error.type = Empty,
        messaging.operation.name = "process",
        messaging.operation.type = "process",
        messaging.system = Empty,
        messaging.destination.name = Empty,
        messaging.consumer.group.name = Empty,
        messaging.message.id = Empty,
        messaging.message.conversation_id = Empty,
        messaging.message.body.size = Empty,
        handler = Empty,
        message_id = Empty,
        trace_id = Empty,
        parent_span_id = Empty,
        hop = Empty,
        attempt,
    );
    if !span.is_disabled() {
        let id = display(envelope.id());
        span.record("otel.name", display(format_args!("process {}", envelope.topic())));
        span.record("messaging.system", system);
        span.record("messaging.destination.name", envelope.topic().as_str());
        span.record("messaging.consumer.group.name", identity.group.as_str());
        span.record("messaging.message.id", &id);
        span.record("messaging.message.conversation_id", display(envelope.correlation_id()));
        span.record("messaging.message.body.size", envelope.payload().len());
        span.record("handler", identity.handler.as_str());
        span.record("message_id", &id);
        span.record("trace_id", display(envelope.trace().parent.trace_id()));
        span.record("parent_span_id", display(envelope.trace().parent.parent_id()));
        span.record("hop", envelope.hop());
    }
    span
}

/// One attempt of several messages at once. Their ids differ, so the span has those of the first, and how many there are.
pub(crate) fn process_batch(
    system: &str,
    identity: &HandlerIdentity,
    first: &Envelope,
    count: usize,
) -> Span {
    let span = tracing::info_span!(
        "process",
        otel.name = Empty,
        otel.kind = "consumer",
        messaging.operation.name = "process",
        messaging.operation.type = "process",
        messaging.system = Empty,
        messaging.destination.name = Empty,
        messaging.consumer.group.name = Empty,
        messaging.batch.message_count = count,
        handler = Empty,
        first_message_id = Empty,
        trace_id = Empty,
    );
    if !span.is_disabled() {
        span.record("otel.name", display(format_args!("process {}", first.topic())));
        span.record("messaging.system", system);
        span.record("messaging.destination.name", first.topic().as_str());
        span.record("messaging.consumer.group.name", identity.group.as_str());
        span.record("handler", identity.handler.as_str());
        span.record("first_message_id", display(first.id()));
        span.record("trace_id", display(first.trace().parent.trace_id()));
    }
    span
}

/// One publish of one or several messages.
pub(crate) fn send(system: &str, to: &Destination, first: &Envelope, count: usize) -> Span {
    let span = tracing::info_span!(
        "send",
        otel.name = Empty,
        otel.kind = "producer",
        messaging.operation.name = "send",
        messaging.operation.type = "send",
        messaging.system = Empty,
        messaging.destination.name = Empty,
        messaging.message.id = Empty,
        messaging.batch.message_count = Empty,
        trace_id = Empty,
    );
    if !span.is_disabled() {
        span.record("otel.name", display(format_args!("send {}", to.name())));
        span.record("messaging.system", system);
        span.record("messaging.destination.name", &*to.name());
        if count == 1 {
            span.record("messaging.message.id", display(first.id()));
        } else {
            span.record("messaging.batch.message_count", count);
        }
        span.record("trace_id", display(first.trace().parent.trace_id()));
    }
    span
}

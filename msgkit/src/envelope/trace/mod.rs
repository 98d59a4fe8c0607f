//! Where a message stands in a distributed trace: [W3C Trace Context Level 2][spec], read strictly.
//!
//! Every envelope carries a [`TraceContext`]: the `traceparent` that names the trace and the step in it
//! ([`TraceParent`]), and the `tracestate` that tracing vendors keep beside it ([`TraceState`]). A service reads both
//! with [`TraceContext::from_headers`] when a message comes in and hands [`TraceContext::child`] to each message it
//! sends because of it.
//!
//! Two operations, two sets of rules. **Continuing** a trace ([`TraceContext::child`]) writes a new parent id, and may
//! shorten a long `tracestate`. **Passing a message on** (a retry copy, a dead letter, a bridge) is a clone: the
//! parent id stays, so every member of the `tracestate` must stay as well, however long the list is.
//!
//! The types show W3C strings and plain integers. None of them is an OpenTelemetry type, so that a breaking release
//! there is not one here. They make no random numbers either: the caller passes ids in, which keeps tests repeatable.
//!
//! [spec]: https://www.w3.org/TR/trace-context-2/

use std::fmt;

mod parent;
mod state;
#[cfg(test)]
mod tests;

pub use parent::{SpanId, TraceId, TraceParent};
pub use state::TraceState;

/// Optional whitespace, which may surround a field value and the members of a list (RFC 9110, section 5.6.3).
const OWS: [char; 2] = [' ', '\t'];

/// A message's place in a trace, and what tracing vendors keep beside it.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct TraceContext {
    /// The trace and the step in it.
    pub parent: TraceParent,
    /// The vendors' own notes; `None` where there are none, since an empty `tracestate` should not be sent.
    pub state: Option<TraceState>,
}

impl TraceContext {
    /// Starts a trace: [`TraceParent::root`], without a state.
    #[must_use]
    pub fn root(trace_id: u128, span_id: u64) -> Self {
        TraceParent::root(trace_id, span_id).into()
    }

    /// Reads the values of all `traceparent` and all `tracestate` headers of a message; `None` means: start a trace.
    ///
    /// It never fails, because a foreign tracing header must not keep a message from its handler. As the standard
    /// has it:
    ///
    /// - No `traceparent`, a faulty one, or several: the trace starts anew and `tracestate` is not even looked at.
    /// - A faulty `tracestate` is dropped as a whole, and the trace goes on. Several of them are one list in order.
    ///
    /// Spaces and tabs around a value are no part of it: over HTTP the server has removed them already, over a broker
    /// nobody has.
    pub fn from_headers<'p, 's>(
        traceparent: impl IntoIterator<Item = &'p str>,
        tracestate: impl IntoIterator<Item = &'s str>,
    ) -> Option<Self> {
        let mut traceparent = traceparent.into_iter();
        let (Some(value), None) = (traceparent.next(), traceparent.next()) else {
            return None;
        };
        let parent = TraceParent::parse(value.trim_matches(OWS)).ok()?;
        Some(Self::of(parent, tracestate))
    }

    /// With the values of all `tracestate` headers; faulty ones are none.
    pub(super) fn of<'s>(parent: TraceParent, tracestate: impl IntoIterator<Item = &'s str>) -> Self {
        Self { parent, state: TraceState::combine(tracestate).ok().flatten() }
    }

    /// The context of a message that is sent from within this one: [`TraceParent::child`], and the state
    /// [shortened](TraceState::truncated) to [`TraceState::PROPAGATED`] characters, so that no foreign service can make
    /// this one carry, and outgrow a broker's limits with, any amount of text.
    #[must_use]
    pub fn child(&self, span_id: u64) -> Self {
        Self {
            parent: self.parent.child(span_id),
            state: self.state.as_ref().and_then(|state| state.truncated(TraceState::PROPAGATED)),
        }
    }
}

impl From<TraceParent> for TraceContext {
    fn from(parent: TraceParent) -> Self {
        Self { parent, state: None }
    }
}

/// Why a text is not a `traceparent` or not a `tracestate`; it names the first part at fault.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum InvalidTraceContext {
    /// A `traceparent` shorter than 55 characters, or one of version 00 that is longer.
    Length,
    /// The version is not two lower-case hex digits and a dash, or it is the forbidden `ff`.
    Version,
    /// The trace id is not 32 lower-case hex digits and a dash, or all of them are zero.
    TraceId,
    /// The parent id is not 16 lower-case hex digits and a dash, or all of them are zero.
    ParentId,
    /// The flags are not two lower-case hex digits, or (in a version after 00) more follows them without a dash.
    Flags,
    /// A `tracestate` without any member.
    NoMembers,
    /// A `tracestate` of more than 32 members.
    TooManyMembers,
    /// A `tracestate` key that is not 1 to 256 of `a-z 0-9 _ - * / @`, beginning with a letter or a digit.
    Key,
    /// A `tracestate` value that is missing, or not 1 to 256 printable ASCII characters without `,` and `=`.
    Value,
}

impl fmt::Display for InvalidTraceContext {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Length => "traceparent: not 55 characters long (only a version after 00 may be longer)",
            Self::Version => "traceparent: the version is not two lower-case hex digits and `-`, or is `ff`",
            Self::TraceId => "traceparent: the trace id is not 32 lower-case hex digits and `-`, or is zero",
            Self::ParentId => {
                "traceparent: the parent id is not 16 lower-case hex digits and `-`, or is zero"
            }
            Self::Flags => "traceparent: the flags are not two lower-case hex digits and the end (or `-`)",
            Self::NoMembers => "tracestate: the list has no members; leave it out instead",
            Self::TooManyMembers => "tracestate: the list has more than 32 members",
            Self::Key => "tracestate: a key is not 1 to 256 of `a-z 0-9 _ - * / @`, letter or digit first",
            Self::Value => "tracestate: a value is not 1 to 256 printable ASCII characters without `,` `=`",
        })
    }
}

impl std::error::Error for InvalidTraceContext {}

//! `traceparent`: the trace, the step in it that caused a message, and two flags.

use std::fmt;
use std::num::NonZero;
use std::ops::Range;
use std::str::FromStr;

use super::super::hex;
use super::InvalidTraceContext;

/// The caller may have recorded this step (Level 2, section "Sampled flag").
const SAMPLED: u8 = 1;
/// The right-most 7 bytes of the trace id are random (Level 2, section "Random Trace ID Flag").
const RANDOM: u8 = 2;

/// The id of a whole trace: 16 bytes, never all zero. `Display` writes its 32 lower-case hex digits.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TraceId(NonZero<u128>);

/// The id of one step (span) of a trace: 8 bytes, never all zero. `Display` writes its 16 lower-case hex digits.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SpanId(NonZero<u64>);

impl TraceId {
    /// Zero, which the standard forbids, becomes one: a generator that drew it once in 2^128 is no reason to fail.
    const fn from_random(id: u128) -> Self {
        Self(match NonZero::new(id) {
            Some(id) => id,
            None => NonZero::<u128>::MIN,
        })
    }

    /// The id as a number, most significant byte first in the text.
    #[must_use]
    pub const fn get(self) -> u128 {
        self.0.get()
    }
}

impl SpanId {
    /// As [`TraceId::from_random`].
    const fn from_random(id: u64) -> Self {
        Self(match NonZero::new(id) {
            Some(id) => id,
            None => NonZero::<u64>::MIN,
        })
    }

    /// The id as a number, most significant byte first in the text.
    #[must_use]
    pub const fn get(self) -> u64 {
        self.0.get()
    }
}

/// A valid `traceparent`: the trace id, the id of the step that a message comes from, and the flags.
///
/// It is read from any version and always written as version 00, the highest that this implementation knows. Flags
/// beyond *sampled* and *random* are dropped when it is read, because they must be zero when it is written.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct TraceParent {
    trace_id: TraceId,
    parent_id: SpanId,
    flags: u8,
}

impl TraceParent {
    /// The length in bytes of a `traceparent` of version 00, and of the known part of any later version.
    pub const LENGTH: usize = 55;

    /// Starts a trace. It is not sampled, which says that nobody decided on recording yet; see
    /// [`with_sampled`](Self::with_sampled).
    ///
    /// At least the 56 low bits of `trace_id` must be random, because the *random* flag, which is set, promises that to
    /// every service that samples or shards by them. An id of zero is illegal and becomes one.
    #[must_use]
    pub const fn root(trace_id: u128, span_id: u64) -> Self {
        Self {
            trace_id: TraceId::from_random(trace_id),
            parent_id: SpanId::from_random(span_id),
            flags: RANDOM,
        }
    }

    /// The same trace and flags, one step on. A `span_id` of zero is illegal and becomes one.
    #[must_use]
    pub const fn child(self, span_id: u64) -> Self {
        Self { parent_id: SpanId::from_random(span_id), ..self }
    }

    /// Says whether this step is recorded. Only for a value fresh from [`root`](Self::root) or [`child`](Self::child):
    /// the standard allows the flag to change only together with the parent id.
    #[must_use]
    pub const fn with_sampled(self, sampled: bool) -> Self {
        let flags = if sampled { self.flags | SAMPLED } else { self.flags & !SAMPLED };
        Self { flags, ..self }
    }

    /// Reads the text or the bytes of a `traceparent` by the letter of the grammar: lower-case hex only, no
    /// whitespace around it. Version 00 ends after 55 characters; in a later one, further fields may follow.
    ///
    /// # Errors
    /// [`InvalidTraceContext`] names the field at fault.
    pub fn parse(text: impl AsRef<[u8]>) -> Result<Self, InvalidTraceContext> {
        let text = text.as_ref();
        if text.len() < Self::LENGTH {
            return Err(InvalidTraceContext::Length);
        }
        let field = |at: Range<usize>| {
            let delimited = matches!(text.get(at.end), None | Some(b'-'));
            hex::read(&text[at]).filter(|_| delimited)
        };
        let version = field(0..2).filter(|&version| version != 0xff).ok_or(InvalidTraceContext::Version)?;
        if version == 0 && text.len() > Self::LENGTH {
            return Err(InvalidTraceContext::Length);
        }
        let trace_id = field(3..35).and_then(NonZero::new).ok_or(InvalidTraceContext::TraceId)?;
        let parent_id = field(36..52).and_then(|id| NonZero::new(id as u64));
        let flags = field(53..55).ok_or(InvalidTraceContext::Flags);
        Ok(Self {
            trace_id: TraceId(trace_id),
            parent_id: SpanId(parent_id.ok_or(InvalidTraceContext::ParentId)?),
            flags: flags? as u8 & (SAMPLED | RANDOM),
        })
    }

    /// Reads only what [`write_to`](Self::write_to) writes, to the letter.
    pub(in crate::envelope) fn read_written(text: &str) -> Option<Self> {
        let written = text.len() == Self::LENGTH
            && text.starts_with("00")
            && matches!(text.as_bytes()[53..], [b'0', b'0'..=b'3']);
        if written { Self::parse(text).ok() } else { None }
    }

    /// The id of the whole trace.
    #[must_use]
    pub const fn trace_id(self) -> TraceId {
        self.trace_id
    }

    /// The id of the step that the message comes from.
    #[must_use]
    pub const fn parent_id(self) -> SpanId {
        self.parent_id
    }

    /// Whether the sender may have recorded this step: a recommendation to record it as well, not an order.
    #[must_use]
    pub const fn sampled(self) -> bool {
        self.flags & SAMPLED != 0
    }

    /// Whether the 56 low bits of the trace id are random.
    #[must_use]
    pub const fn random(self) -> bool {
        self.flags & RANDOM != 0
    }

    /// Writes the `traceparent` into a buffer, without an allocation, and gives it back as text.
    pub fn write_to<'b>(&self, buffer: &'b mut [u8; Self::LENGTH]) -> &'b str {
        *buffer = *b"00-00000000000000000000000000000000-0000000000000000-00";
        hex::write(&mut buffer[3..35], &self.trace_id.get().to_be_bytes());
        hex::write(&mut buffer[36..52], &self.parent_id.get().to_be_bytes());
        hex::write(&mut buffer[53..55], &[self.flags]);
        // Digits and dashes are UTF-8, so this is never the default.
        str::from_utf8(buffer).unwrap_or_default()
    }
}

impl FromStr for TraceParent {
    type Err = InvalidTraceContext;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Self::parse(text)
    }
}

impl fmt::Display for TraceParent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.write_to(&mut [0; Self::LENGTH]))
    }
}

impl fmt::Display for TraceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", self.0)
    }
}

impl fmt::Display for SpanId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

// As in logs and other tools: hex, since nobody recognises an id in decimal.
impl fmt::Debug for TraceParent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "TraceParent({self})")
    }
}

impl fmt::Debug for TraceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "TraceId({self})")
    }
}

impl fmt::Debug for SpanId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SpanId({self})")
    }
}

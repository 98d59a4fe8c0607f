//! `tracestate`: the list in which each tracing vendor keeps its own notes on a trace.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use super::{InvalidTraceContext, OWS};

/// A valid, non-empty `tracestate`: 1 to 32 members `key=value`, the most recently written first, each key once.
///
/// It is kept as one text in normal form, members joined by `,` and nothing else, so that a clone costs a counter and
/// sending it costs nothing. What the normal form leaves out (whitespace around members, empty members, the seams
/// between several headers) has no meaning in the standard.
///
/// Faults are met as the standard allows and the W3C harness expects: a list with an illegal key, an illegal value or
/// too many members is refused as a whole; of a key that is there twice, the first (left, more recent) member stays.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct TraceState(Arc<str>);

impl TraceState {
    /// The most members that a list may have. Repeated ones count, empty ones do not.
    pub const MAX_MEMBERS: usize = 32;

    /// The length in characters that every vendor should propagate ("tracestate Limits"), and that
    /// [`TraceContext::child`](super::TraceContext::child) shortens to.
    pub const PROPAGATED: usize = 512;

    /// The most characters that a key may have, and a value.
    const MAX_FIELD: usize = 256;

    /// Members with more characters than this are the first to go when a list is too long.
    const OVERSIZED: usize = 128;

    /// Reads the values of all `tracestate` headers as one list, in order (RFC 9110, section 5.3); `Ok(None)` if they
    /// have no members, which is legal.
    ///
    /// # Errors
    /// [`InvalidTraceContext`] names the first fault.
    pub fn combine<'a>(
        values: impl IntoIterator<Item = &'a str>,
    ) -> Result<Option<Self>, InvalidTraceContext> {
        let mut keys = [""; Self::MAX_MEMBERS];
        let mut text = String::new();
        let members =
            values.into_iter().flat_map(|value| value.split(',')).map(|member| member.trim_matches(OWS));
        for (index, member) in members.filter(|member| !member.is_empty()).enumerate() {
            let key = key_of_valid(member)?;
            let repeated = keys.contains(&key);
            *keys.get_mut(index).ok_or(InvalidTraceContext::TooManyMembers)? = key;
            if repeated {
                continue;
            }
            if !text.is_empty() {
                text.push(',');
            }
            text.push_str(member);
        }
        Ok((!text.is_empty()).then(|| Self(text.into())))
    }

    /// The list in normal form, as it is sent.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The members as key and value, the most recently written first.
    pub fn members(&self) -> impl Iterator<Item = (&str, &str)> {
        self.0.split(',').filter_map(|member| member.split_once('='))
    }

    /// The value that a vendor keeps under its key. Spaces at its front are a part of it.
    #[must_use]
    pub fn get(&self, key: &str) -> Option<&str> {
        self.members().find_map(|(name, value)| (name == key).then_some(value))
    }

    /// The list without the members that make it longer than `limit` characters, `None` if none is left.
    ///
    /// Members go whole, and in the order that the standard prescribes: first those of more than 128 characters, then
    /// the others, both from the end (least recent first) and no more than it takes.
    ///
    /// Not for a message that is passed on with its `traceparent` unchanged: its `tracestate` must stay as it is.
    #[must_use]
    pub fn truncated(&self, limit: usize) -> Option<Self> {
        let mut excess = self.0.len().saturating_sub(limit);
        if excess == 0 {
            return Some(self.clone());
        }
        let mut members: Vec<&str> = self.0.split(',').collect();
        while excess > 0
            && let Some(last) = members.len().checked_sub(1)
        {
            let next = members.iter().rposition(|member| member.len() > Self::OVERSIZED).unwrap_or(last);
            // A member takes a comma along. (The only one left has none, and no excess can be longer than it.)
            excess = excess.saturating_sub(members.remove(next).len() + 1);
        }
        (!members.is_empty()).then(|| Self(members.join(",").into()))
    }
}

impl FromStr for TraceState {
    type Err = InvalidTraceContext;

    /// Reads one `tracestate`, as [`combine`](TraceState::combine) does, but has no value for an empty one.
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Self::combine([text])?.ok_or(InvalidTraceContext::NoMembers)
    }
}

impl fmt::Display for TraceState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl AsRef<str> for TraceState {
    fn as_ref(&self) -> &str {
        &self.0
    }
}

/// The key of a member whose surrounding whitespace is gone, if key and value are legal.
fn key_of_valid(member: &str) -> Result<&str, InvalidTraceContext> {
    let (key, value) = member.split_once('=').unwrap_or((member, ""));
    if !is_key(key.as_bytes()) {
        return Err(InvalidTraceContext::Key);
    }
    if !is_value(value.as_bytes()) {
        return Err(InvalidTraceContext::Value);
    }
    Ok(key)
}

/// `( lcalpha / DIGIT ) 0*255( lcalpha / DIGIT / "_" / "-" / "*" / "/" / "@" )`. Level 1 gave `@` a meaning, Level 2 does
/// not.
fn is_key(key: &[u8]) -> bool {
    let alphanumeric = |byte: &u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
    key.len() <= TraceState::MAX_FIELD
        && key.first().is_some_and(alphanumeric)
        && key.iter().all(|byte| alphanumeric(byte) || b"_-*/@".contains(byte))
}

/// `0*255(chr) nblk-chr`, that is 1 to 256 of `%x20-2B / %x2D-3C / %x3E-7E`, the last one not a space: trimming saw to
/// that.
fn is_value(value: &[u8]) -> bool {
    (1..=TraceState::MAX_FIELD).contains(&value.len())
        && value.iter().all(|byte| matches!(byte, b' '..=b'~' if !b",=".contains(byte)))
}

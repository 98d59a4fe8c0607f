//! Where messages go: [`Topic`] (one place), [`Pattern`] (many), [`TopicTemplate`] (a message's topic with
//! fields in it) and [`Namespace`] (who owns a part of the tree).
//!
//! The grammar is the largest that every supported broker can carry: dotted segments of `[A-Za-z0-9_-]`.
//! Whatever else a segment has to hold (a MAC address as a device id) is written as `~XX`, see [`Topic::render_segment`].

mod namespace;
mod pattern;
mod template;
#[cfg(test)]
mod tests;

use std::borrow::Cow;
use std::fmt;
use std::str::FromStr;

pub use self::namespace::{Namespace, NamespaceClass};
pub use self::pattern::Pattern;
pub use self::template::TopicTemplate;
use crate::error::Error;
use crate::text::Text;

/// The most bytes in a topic as a developer writes it.
pub const MAX_DECLARED: usize = 100;
/// The most bytes in a topic whose dynamic segments are filled in.
pub const MAX_RENDERED: usize = 255;

/// The segment that stands for every value of a dynamic segment in a destination's name.
pub const DYNAMIC: &str = "_";

/// A dotted name of one place that messages go to, `service_platform.auth.login_succeeded`.
///
/// ```
/// use msgkit::Topic;
/// let topic: Topic = "device.7.reading".parse()?;
/// assert_eq!(topic.segments().count(), 3);
/// assert!("device..reading".parse::<Topic>().is_err());
/// # Ok::<(), msgkit::Error>(())
/// ```
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Topic(Text);

impl Topic {
    /// Reads a topic.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidName`](crate::ErrorKind::InvalidName), naming the segment and the rule it breaks.
    pub fn new(name: impl Into<Text>) -> Result<Self, Error> {
        let name = name.into();
        check_length(&name, MAX_RENDERED)?;
        // The short way for nearly all; what is wrong with a name, the long one knows.
        if !is_plain_name(&name) {
            for segment in name.split('.') {
                check_segment(&name, segment, true)?;
            }
        }
        check_first(&name)?;
        Ok(Self(name))
    }

    /// A topic of segments that were checked or rendered before; only its length is left to check. For the derive.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidName`](crate::ErrorKind::InvalidName) where it is longer than 255 bytes.
    #[doc(hidden)]
    #[inline]
    pub fn from_checked(name: Text) -> Result<Self, Error> {
        check_length(&name, MAX_RENDERED)?;
        Ok(Self(name))
    }

    /// A topic that the caller has rendered from checked parts.
    pub(crate) const fn trusted(name: Text) -> Self {
        Self(name)
    }

    /// A topic below `msgkit.`, which only the framework may use.
    pub(crate) fn reserved(name: impl Into<Text>) -> Self {
        let name = name.into();
        debug_assert!(name.starts_with("msgkit."));
        Self(name)
    }

    /// Reads a topic that came off a wire, where the framework's own (`msgkit.…`) are legal too.
    ///
    /// # Errors
    /// As [`Topic::new`].
    pub fn from_wire(name: impl Into<Text>) -> Result<Self, Error> {
        let name = name.into();
        if name.starts_with("msgkit.") {
            check_length(&name, MAX_RENDERED)?;
            for segment in name.split('.') {
                check_segment(&name, segment, true)?;
            }
            return Ok(Self(name));
        }
        Self::new(name)
    }

    /// The whole name.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The name as a cheap clone.
    #[must_use]
    pub fn text(&self) -> &Text {
        &self.0
    }

    /// The segments, first to last.
    pub fn segments(&self) -> impl DoubleEndedIterator<Item = &str> {
        self.0.split('.')
    }

    /// Whether the topic belongs to the framework (`msgkit.…`).
    #[must_use]
    pub fn is_reserved(&self) -> bool {
        self.0.starts_with("msgkit.")
    }

    /// Writes any text as one segment: bytes outside `[A-Za-z0-9_-]` become `~XX` (upper-case hex), the lone `_`
    /// becomes `~5F` and the empty text `~`, so that the way back is always the same text.
    ///
    /// ```
    /// use msgkit::Topic;
    /// assert_eq!(Topic::render_segment("AA:BB"), "AA~3ABB");
    /// assert_eq!(Topic::read_segment("AA~3ABB").as_deref(), Some("AA:BB"));
    /// ```
    #[must_use]
    pub fn render_segment(value: &str) -> Cow<'_, str> {
        if value.is_empty() {
            return Cow::Borrowed("~");
        }
        if value == DYNAMIC {
            return Cow::Borrowed("~5F");
        }
        if value.bytes().all(is_plain) {
            return Cow::Borrowed(value);
        }
        let mut rendered = String::with_capacity(value.len() + 8);
        for byte in value.bytes() {
            if is_plain(byte) {
                rendered.push(char::from(byte));
            } else {
                const HEX: &[u8; 16] = b"0123456789ABCDEF";
                rendered.push('~');
                rendered.push(char::from(HEX[usize::from(byte >> 4)]));
                rendered.push(char::from(HEX[usize::from(byte & 15)]));
            }
        }
        Cow::Owned(rendered)
    }

    /// The text that [`Topic::render_segment`] wrote; `None` where the escapes are not whole or not UTF-8.
    #[must_use]
    pub fn read_segment(segment: &str) -> Option<Cow<'_, str>> {
        if !segment.contains('~') {
            return Some(Cow::Borrowed(segment));
        }
        if segment == "~" {
            return Some(Cow::Borrowed(""));
        }
        let mut bytes = Vec::with_capacity(segment.len());
        let mut rest = segment.bytes();
        while let Some(byte) = rest.next() {
            if byte == b'~' {
                let high = upper_hex(rest.next()?)?;
                let low = upper_hex(rest.next()?)?;
                bytes.push(high << 4 | low);
            } else {
                bytes.push(byte);
            }
        }
        String::from_utf8(bytes).ok().map(Cow::Owned)
    }
}

fn upper_hex(byte: u8) -> Option<u8> {
    match byte {
        b'0'..=b'9' => Some(byte - b'0'),
        b'A'..=b'F' => Some(byte - b'A' + 10),
        _ => None,
    }
}

const fn is_plain(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || byte == b'_' || byte == b'-'
}

/// Whether every segment is legal and without an escape.
fn is_plain_name(name: &str) -> bool {
    let legal = |segment: &[u8]| !segment.is_empty() && segment != DYNAMIC.as_bytes();
    let (bytes, mut start) = (name.as_bytes(), 0);
    for (at, byte) in bytes.iter().enumerate() {
        if *byte == b'.' {
            if !legal(&bytes[start..at]) {
                return false;
            }
            start = at + 1;
        } else if !is_plain(*byte) {
            return false;
        }
    }
    legal(&bytes[start..])
}

pub(crate) fn check_length(name: &str, most: usize) -> Result<(), Error> {
    if name.is_empty() {
        return Err(Error::invalid_name("a topic is empty; write at least one segment, like `orders`"));
    }
    if name.len() > most {
        return Err(Error::invalid_name(format!(
            "topic `{}…` has {} bytes, more than the {most} that every broker can carry; shorten its segments",
            name.chars().take(40).collect::<String>(),
            name.len(),
        )));
    }
    Ok(())
}

pub(crate) fn check_segment(name: &str, segment: &str, escapes: bool) -> Result<(), Error> {
    if segment.is_empty() {
        return Err(Error::invalid_name(format!(
            "topic `{name}` has an empty segment; put exactly one `.` between segments and none at the ends"
        )));
    }
    if escapes && segment.contains('~') && Topic::read_segment(segment).is_none() {
        return Err(Error::invalid_name(format!(
            "segment `{segment}` of topic `{name}` has a broken escape; `~` must be followed by two upper-case hex digits"
        )));
    }
    let legal = |c: char| c.is_ascii() && (is_plain(c as u8) || (escapes && c == '~'));
    if let Some(bad) = segment.chars().find(|c| !legal(*c)) {
        let hint = match bad {
            '/' => "; segments are separated by `.`, a transport turns it into its own separator",
            '*' | '>' | '#' | '+' => {
                "; wildcards belong to a pattern (`*` for one segment, `>` at the end for the rest)"
            }
            '{' | '}' => {
                "; fields in braces belong to a message's topic template, `#[message(topic = \"…\")]`"
            }
            _ => "",
        };
        return Err(Error::invalid_name(format!(
            "segment `{segment}` of topic `{name}` holds {bad:?}; a segment is made of A-Z a-z 0-9 _ -{hint}"
        )));
    }
    if segment == DYNAMIC {
        return Err(Error::invalid_name(format!(
            "topic `{name}` has the segment `_`, which is reserved for dynamic segments; use another name"
        )));
    }
    Ok(())
}

/// Refuses first segments that belong to the framework or to a broker.
pub(crate) fn check_first(name: &str) -> Result<(), Error> {
    let first = name.split('.').next().unwrap_or(name);
    if is_reserved_first(first) {
        return Err(Error::invalid_name(format!(
            "topic `{name}` begins with `{first}`, which is reserved; begin with a namespace of your own"
        )));
    }
    Ok(())
}

pub(crate) fn is_reserved_first(first: &str) -> bool {
    first == "msgkit" || first == "amq" || first.starts_with('$') || first.starts_with("__")
}

impl FromStr for Topic {
    type Err = Error;
    fn from_str(name: &str) -> Result<Self, Error> {
        Self::new(name)
    }
}

impl TryFrom<&str> for Topic {
    type Error = Error;
    fn try_from(name: &str) -> Result<Self, Error> {
        Self::new(name)
    }
}

impl TryFrom<String> for Topic {
    type Error = Error;
    fn try_from(name: String) -> Result<Self, Error> {
        Self::new(name)
    }
}

impl AsRef<str> for Topic {
    fn as_ref(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Topic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl fmt::Debug for Topic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Topic({})", self.0)
    }
}

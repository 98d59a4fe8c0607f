//! Sets of topics, in the only form that maps to every broker.

use std::fmt;
use std::str::FromStr;

use super::{DYNAMIC, MAX_DECLARED, Topic, check_first, check_length, check_segment, is_reserved_first};
use crate::error::Error;
use crate::text::Text;

/// A topic with `*` for exactly one segment and, at the end only, `>` for one or more.
///
/// A pattern that begins with a wildcard never matches a reserved first segment (`msgkit`, `amq`, `$…`, `__…`).
///
/// ```
/// use msgkit::{Pattern, Topic};
/// let pattern: Pattern = "device.*.reading".parse()?;
/// assert!(pattern.matches(&"device.7.reading".parse()?));
/// assert!(!pattern.matches(&"device.7.hw.reading".parse()?));
/// assert!("device.>.reading".parse::<Pattern>().is_err());
/// # Ok::<(), msgkit::Error>(())
/// ```
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Pattern(Text);

impl Pattern {
    /// Reads a pattern.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidName`](crate::ErrorKind::InvalidName), naming the segment and the rule it breaks.
    pub fn new(pattern: impl Into<Text>) -> Result<Self, Error> {
        let pattern = pattern.into();
        check_length(&pattern, MAX_DECLARED)?;
        let mut segments = pattern.split('.').peekable();
        while let Some(segment) = segments.next() {
            match segment {
                "*" => {}
                ">" if segments.peek().is_none() => {}
                ">" => {
                    return Err(Error::invalid_name(format!(
                        "pattern `{pattern}` has `>` before its end; `>` stands for the rest of a topic and is legal as the last segment only"
                    )));
                }
                "#" | "+" | "**" => {
                    return Err(Error::invalid_name(format!(
                        "pattern `{pattern}` has the wildcard `{segment}`; write `*` for one segment and a trailing `>` for one or more"
                    )));
                }
                _ => check_segment(&pattern, segment, true)?,
            }
        }
        check_first(&pattern)?;
        Ok(Self(pattern))
    }

    /// The pattern that matches just `topic`.
    #[must_use]
    pub fn exact(topic: &Topic) -> Self {
        Self(topic.text().clone())
    }

    pub(crate) const fn trusted(pattern: Text) -> Self {
        Self(pattern)
    }

    /// The pattern as it is written.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The segments, wildcards as they are written.
    pub fn segments(&self) -> impl DoubleEndedIterator<Item = &str> {
        self.0.split('.')
    }

    /// Whether there is no wildcard.
    #[must_use]
    pub fn is_exact(&self) -> bool {
        !self.segments().any(|segment| matches!(segment, "*" | ">"))
    }

    /// The one topic that an exact pattern matches.
    #[must_use]
    pub fn as_topic(&self) -> Option<Topic> {
        self.is_exact().then(|| Topic::trusted(self.0.clone()))
    }

    /// Whether `topic` is in the set.
    #[must_use]
    pub fn matches(&self, topic: &Topic) -> bool {
        self.matches_name(topic.as_str())
    }

    /// [`Pattern::matches`] for a name that is known to be a topic.
    pub(crate) fn matches_name(&self, topic: &str) -> bool {
        let mut segments = topic.split('.');
        for (index, wanted) in self.segments().enumerate() {
            let Some(segment) = segments.next() else { return false };
            match wanted {
                _ if index == 0 && matches!(wanted, "*" | ">") && is_reserved_first(segment) => return false,
                "*" => {}
                ">" => return true,
                _ if wanted == segment => {}
                _ => return false,
            }
        }
        segments.next().is_none()
    }

    /// Whether the pattern can match a message whose destination is `destination`, a topic in which the segment
    /// `_` stands for any value.
    #[must_use]
    pub fn may_match_destination(&self, destination: &str) -> bool {
        let mut segments = destination.split('.');
        for (index, wanted) in self.segments().enumerate() {
            let Some(segment) = segments.next() else { return false };
            match wanted {
                _ if index == 0 && matches!(wanted, "*" | ">") && is_reserved_first(segment) => return false,
                "*" => {}
                ">" => return true,
                _ if wanted == segment || segment == DYNAMIC => {}
                _ => return false,
            }
        }
        segments.next().is_none()
    }

    /// Whether some topic is in both sets, reserved first segments left aside.
    #[must_use]
    pub fn overlaps(&self, other: &Pattern) -> bool {
        let (mut mine, mut theirs) = (self.segments(), other.segments());
        loop {
            match (mine.next(), theirs.next()) {
                (None, None) => return true,
                (Some(">"), Some(_)) | (Some(_), Some(">")) => return true,
                (Some(a), Some(b)) if a == b || a == "*" || b == "*" => {}
                _ => return false,
            }
        }
    }

    /// Whether every topic of `other` is in this set too, reserved first segments left aside.
    #[must_use]
    pub fn contains(&self, other: &Pattern) -> bool {
        let (mut mine, mut theirs) = (self.segments(), other.segments());
        loop {
            match (mine.next(), theirs.next()) {
                (None, None) => return true,
                (Some(">"), Some(_)) => return true,
                (Some("*"), Some(b)) if b != ">" => {}
                (Some(a), Some(b)) if a == b => {}
                _ => return false,
            }
        }
    }
}

impl FromStr for Pattern {
    type Err = Error;
    fn from_str(pattern: &str) -> Result<Self, Error> {
        Self::new(pattern)
    }
}

impl TryFrom<&str> for Pattern {
    type Error = Error;
    fn try_from(pattern: &str) -> Result<Self, Error> {
        Self::new(pattern)
    }
}

impl From<&Topic> for Pattern {
    fn from(topic: &Topic) -> Self {
        Self::exact(topic)
    }
}

impl From<Topic> for Pattern {
    fn from(topic: Topic) -> Self {
        Self::exact(&topic)
    }
}

impl AsRef<str> for Pattern {
    fn as_ref(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Pattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl fmt::Debug for Pattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Pattern({})", self.0)
    }
}

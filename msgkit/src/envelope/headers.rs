//! The user's own headers: CloudEvents extensions, so that every transport and every other CloudEvents
//! implementation can carry them.

use std::fmt;

use crate::error::Error;
use crate::text::Text;

/// The most headers that one envelope takes.
pub const MAX_HEADERS: usize = 64;
/// The longest value of one header, in bytes.
pub const MAX_VALUE: usize = 8192;

/// A header's name: 1 to 20 of `a-z 0-9`, and none of the envelope's own attributes.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct HeaderName(Text);

impl HeaderName {
    /// Reads a name.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidName`](crate::ErrorKind::InvalidName), naming the rule it breaks.
    pub fn new(name: impl Into<Text>) -> Result<Self, Error> {
        let name = name.into();
        if name.is_empty()
            || name.len() > 20
            || !name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit())
        {
            return Err(Error::invalid_name(format!(
                "header name {:?} does not fit every broker; use 1 to 20 of a-z 0-9",
                name.chars().take(40).collect::<String>(),
            )));
        }
        if super::attributes::is_attribute(&name) {
            return Err(Error::invalid_name(format!(
                "header name `{name}` is an attribute of the envelope; set it there, or use another name"
            )));
        }
        Ok(Self(name))
    }

    /// The name.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl TryFrom<&str> for HeaderName {
    type Error = Error;
    fn try_from(name: &str) -> Result<Self, Error> {
        Self::new(name)
    }
}

impl fmt::Display for HeaderName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// The user's headers of one envelope, by name.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Headers(Vec<(HeaderName, Text)>);

impl Headers {
    /// No headers.
    #[must_use]
    pub const fn new() -> Self {
        Self(Vec::new())
    }

    /// The value of `name`.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<&str> {
        let at = self.find(name).ok()?;
        Some(&self.0[at].1)
    }

    /// Sets `name`, and gives what it was.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidName`](crate::ErrorKind::InvalidName) where the value holds control characters or more than
    /// 8 KiB, or where there are 64 headers already.
    pub fn insert(&mut self, name: HeaderName, value: impl Into<Text>) -> Result<Option<Text>, Error> {
        let value = value.into();
        if value.len() > MAX_VALUE {
            return Err(Error::invalid_name(format!(
                "the value of header `{name}` has {} bytes, more than {MAX_VALUE}; put it into the payload",
                value.len()
            )));
        }
        if value.chars().any(|c| c.is_control() || is_noncharacter(c)) {
            return Err(Error::invalid_name(format!(
                "the value of header `{name}` holds control characters, which not every broker carries"
            )));
        }
        match self.find(name.as_str()) {
            Ok(at) => Ok(Some(std::mem::replace(&mut self.0[at].1, value))),
            Err(_) if self.0.len() >= MAX_HEADERS => Err(Error::invalid_name(format!(
                "header `{name}` is one more than the {MAX_HEADERS} that an envelope takes"
            ))),
            Err(at) => {
                self.0.insert(at, (name, value));
                Ok(None)
            }
        }
    }

    /// Takes `name` away, and gives its value.
    pub fn remove(&mut self, name: &str) -> Option<Text> {
        let at = self.find(name).ok()?;
        Some(self.0.remove(at).1)
    }

    /// Names and values, by name.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = (&str, &str)> {
        self.0.iter().map(|(name, value)| (name.as_str(), value.as_str()))
    }

    /// How many there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    fn find(&self, name: &str) -> Result<usize, usize> {
        self.0.binary_search_by(|(key, _)| key.as_str().cmp(name))
    }
}

/// Characters that a CloudEvents string must not hold, besides the control characters.
fn is_noncharacter(c: char) -> bool {
    let code = u32::from(c);
    (0xFDD0..=0xFDEF).contains(&code) || code & 0xFFFE == 0xFFFE
}

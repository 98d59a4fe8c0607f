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

#[cfg(test)]
mod tests {
    use super::*;

    fn name(name: &str) -> HeaderName {
        HeaderName::new(name).unwrap()
    }

    #[test]
    fn headers_are_kept_by_name() {
        let mut headers = Headers::new();
        assert!(headers.is_empty());
        assert_eq!(headers.insert(name("tenant"), "a").unwrap(), None);
        assert_eq!(headers.insert(name("region"), "eu").unwrap(), None);
        assert_eq!(headers.insert(name("tenant"), "b").unwrap(), Some("a".into()));
        assert_eq!((headers.len(), headers.is_empty()), (2, false));
        assert_eq!(headers.iter().collect::<Vec<_>>(), [("region", "eu"), ("tenant", "b")]);
        assert_eq!(headers.remove("region"), Some("eu".into()));
        assert_eq!(headers.remove("region"), None);
        assert_eq!((headers.get("region"), headers.get("tenant")), (None, Some("b")));
        assert_eq!(name("tenant").to_string(), "tenant");
    }

    #[test]
    fn what_not_every_broker_carries_is_refused_and_says_why() {
        let mut headers = Headers::new();
        for allowed in ["", "t\"1\\ü", "\u{fdcf}\u{fdf0}\u{fffd}", &"x".repeat(MAX_VALUE)] {
            assert!(headers.insert(name("note"), allowed).is_ok(), "{allowed:.20}");
        }
        for (refused, why) in [
            ("a\nb", "control characters"),
            ("\u{fdd0}", "control characters"),
            ("\u{fdef}", "control characters"),
            ("\u{ffff}", "control characters"),
            ("\u{1fffe}", "control characters"),
            (&"x".repeat(MAX_VALUE + 1), "8193 bytes, more than 8192"),
        ] {
            let error = headers.insert(name("note"), refused).unwrap_err().to_string();
            assert!(error.contains(why) && error.contains("`note`"), "{error}");
        }
        for (refused, why) in [
            ("", "1 to 20"),
            ("abcdefghijklmnopqrstu", "1 to 20"),
            ("Tenant", "1 to 20"),
            ("ten-ant", "1 to 20"),
            ("subject", "an attribute"),
        ] {
            let error = HeaderName::new(refused).unwrap_err().to_string();
            assert!(error.contains(why), "{error}");
        }
        assert!(HeaderName::new("abcdefghijklmnopqrs7").is_ok());
    }

    #[test]
    fn there_are_64_at_most_and_those_can_be_changed() {
        let mut headers = Headers::new();
        for n in 0..MAX_HEADERS {
            headers.insert(name(&format!("h{n}")), "1").unwrap();
        }
        assert_eq!(headers.insert(name("h7"), "2").unwrap(), Some("1".into()));
        let error = headers.insert(name("one"), "1").unwrap_err().to_string();
        assert!(error.contains("`one` is one more than the 64"), "{error}");
        assert_eq!(headers.len(), MAX_HEADERS);
    }
}

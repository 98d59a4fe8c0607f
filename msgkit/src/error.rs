//! The error of everything that is built before the first message: names, configuration, checks, start.
//!
//! What happens to messages at run time has errors of its own, each beside its concept:
//! [`TransportError`](crate::transport::TransportError), [`PublishError`](crate::transport::PublishError),
//! [`HandlerError`](crate::handler::HandlerError).

use std::fmt;

/// Any error, boxed: what sources are kept as.
pub type BoxError = Box<dyn std::error::Error + Send + Sync + 'static>;

/// What kind of thing went wrong; the rest is in the error's text.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ErrorKind {
    /// A topic, pattern, group, header or other name breaks its grammar.
    InvalidName,
    /// A configuration key or value is unknown, missing or out of range.
    Config,
    /// The service, as put together, breaks a rule or asks a transport for what it cannot do.
    Refused,
    /// A payload could not be written in its codec.
    Encode,
    /// A payload or a wire form could not be read.
    Decode,
    /// A transport failed; [`Error::is_temporary`] says whether trying again may help.
    Transport,
}

/// Why something could not be built, checked or started.
///
/// The text names the thing, what is wrong with it and what to do; [`source`](std::error::Error::source) holds
/// the next level and is not repeated in the text. `{:?}` shows all levels on one line, for a `main` that returns it.
pub struct Error {
    kind: ErrorKind,
    context: Box<str>,
    temporary: bool,
    source: Option<BoxError>,
}

/// The most bytes of an error's own text: what it names may be a file's longest line.
const MAX_CONTEXT: usize = 1024;

impl Error {
    /// An error of `kind` that says `context`; of more than 1 KiB, the beginning and the end.
    pub fn new(kind: ErrorKind, context: impl Into<String>) -> Self {
        let mut context = context.into();
        if context.len() > MAX_CONTEXT {
            // What is wrong stands in front, what to do at the end.
            let half = MAX_CONTEXT / 2;
            let head = (0..=half).rev().find(|&at| context.is_char_boundary(at)).unwrap_or(0);
            let tail = context.len() - half + '…'.len_utf8();
            let tail = (tail..=context.len()).find(|&at| context.is_char_boundary(at)).unwrap_or(tail);
            context.replace_range(head..tail, "…");
        }
        Self { kind, context: context.into_boxed_str(), temporary: false, source: None }
    }

    /// The same error with what caused it.
    #[must_use]
    pub fn with_source(mut self, source: impl Into<BoxError>) -> Self {
        self.source = Some(source.into());
        self
    }

    /// The same error, told where it is: in a file.
    pub(crate) fn within(self, place: &str) -> Self {
        Self { context: Self::new(self.kind, format!("{place}: {}", self.context)).context, ..self }
    }

    /// The same error, marked as one that trying again may cure.
    #[must_use]
    pub fn temporary(mut self) -> Self {
        self.temporary = true;
        self
    }

    pub(crate) fn invalid_name(context: impl Into<String>) -> Self {
        Self::new(ErrorKind::InvalidName, context)
    }

    pub(crate) fn config(context: impl Into<String>) -> Self {
        Self::new(ErrorKind::Config, context)
    }

    pub(crate) fn refused(context: impl Into<String>) -> Self {
        Self::new(ErrorKind::Refused, context)
    }

    /// What kind of thing went wrong.
    #[must_use]
    pub fn kind(&self) -> ErrorKind {
        self.kind
    }

    /// Whether the same call may succeed later without a change.
    #[must_use]
    pub fn is_temporary(&self) -> bool {
        self.temporary
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.context)
    }
}

impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&Chain(self), f)
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.source.as_deref().map(|source| source as _)
    }
}

/// An error and its causes on one line, each level once: what logs and dead letters show.
#[derive(Debug)]
pub struct Chain<'a>(pub &'a (dyn std::error::Error + 'static));

impl fmt::Display for Chain<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut told = self.0.to_string();
        f.write_str(&told)?;
        let mut next = self.0.source();
        while let Some(error) = next {
            let text = error.to_string();
            // Some errors of libraries end with their cause already.
            if !told.ends_with(&text) {
                write!(f, ": {text}")?;
                told = text;
            }
            next = error.source();
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cause_is_told_once_though_an_error_ends_with_it() {
        let refused = || std::io::Error::other("connection refused");
        let told = Error::config("no broker: connection refused").with_source(refused());
        assert_eq!(Chain(&told).to_string(), "no broker: connection refused");
        let untold = Error::config("no broker").with_source(refused());
        assert_eq!(Chain(&untold).to_string(), "no broker: connection refused");
    }

    #[test]
    fn a_text_is_never_longer_than_1_kib() {
        for long in ["x".repeat(5000), "ü".repeat(5000), format!("a{}", "\u{1f980}".repeat(999))] {
            let text = Error::config(format!("bad `{long}`; do this")).to_string();
            assert!(text.len() <= MAX_CONTEXT && text.contains('…'), "{}", text.len());
            assert!(text.starts_with("bad `") && text.ends_with("; do this"), "{text}");
        }
        assert_eq!(Error::config("x".repeat(1024)).to_string().len(), 1024);
    }
}

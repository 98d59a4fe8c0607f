//! File names, and messages as files hold them.

use std::fmt;

use msgkit::Topic;
use msgkit::envelope::{NativeHeaders, Timestamp, structured};
use msgkit::transport::{Destination, Incoming, Malformed, Outgoing, Token};

/// The name of a message's file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Name {
    /// When it is due, in microseconds since 1970; only in `delayed/`.
    pub(crate) due: Option<u64>,
    /// Its place in the order, given once and never again in this directory.
    pub(crate) number: u64,
    /// How often it was started: in `in-hand/` this start included, elsewhere only those that ended with a process.
    pub(crate) starts: u64,
}

impl Name {
    pub(crate) fn new(number: u64, due: Option<u64>) -> Self {
        Self { due, number, starts: 0 }
    }

    /// Only what [`Name`] writes is read, to the letter: a file that is found by its name must be there under it.
    pub(crate) fn parse(file: &str) -> Option<Self> {
        let text = file.strip_suffix(".json")?;
        let (due, text) = match text.split_once('_') {
            Some((due, text)) => (Some(due.parse().ok()?), text),
            None => (None, text),
        };
        let (number, starts) = text.split_once('-')?;
        let name = Self { due, number: number.parse().ok()?, starts: starts.parse().ok()? };
        (name.to_string() == file).then_some(name)
    }

    /// Its name in `ready/` once it is due.
    pub(crate) fn ready(self) -> Self {
        Self { due: None, ..self }
    }

    /// Its name in `in-hand/`: the start counts before anybody sees the message, so it counts whatever happens then.
    pub(crate) fn started(self) -> Self {
        Self { starts: self.starts.saturating_add(1), ..self }
    }

    /// Its name in `ready/` after it was given back, which is no start.
    pub(crate) fn given_back(self) -> Self {
        Self { starts: self.starts.saturating_sub(1), ..self }
    }

    /// What a delivery is known by. The number of starts is its generation: a message that is taken from a dead process
    /// keeps its start, so that the next claim has another token, and a settlement of before finds no file.
    pub(crate) fn token(self) -> Token {
        Token { id: self.number, epoch: self.starts }
    }

    pub(crate) fn of(token: Token) -> Self {
        Self { due: None, number: token.id, starts: token.epoch }
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(due) = self.due {
            write!(f, "{due:020}_")?;
        }
        write!(f, "{:020}-{}.json", self.number, self.starts)
    }
}

/// A message ready to be written.
#[derive(Debug)]
pub(crate) struct Parcel {
    pub(crate) to: Destination,
    pub(crate) due: Option<u64>,
    pub(crate) body: Vec<u8>,
}

impl Parcel {
    pub(crate) fn of(message: &Outgoing) -> Self {
        Self {
            to: message.to.clone(),
            due: message.envelope.not_before().map(micros_up),
            body: structured::to_vec(&message.envelope),
        }
    }
}

/// Microseconds since 1970, rounded up: what waits for them is never early.
fn micros_up(at: Timestamp) -> u64 {
    u64::try_from(at.as_micros()).map_or(0, |micros| micros.saturating_add(1))
}

/// The message in a file. What cannot be read is no error of the transport: it goes down the pipeline as it is.
pub(crate) fn read(body: Vec<u8>) -> Incoming {
    let error = match structured::from_slice(&body, &unknown_topic()) {
        Ok(envelope) => return Incoming::Envelope(envelope),
        Err(error) => error,
    };
    let malformed =
        Malformed::new(unknown_topic(), Some(body.into()), NativeHeaders::new(), error.to_string());
    Incoming::Malformed(Box::new(malformed))
}

/// The topic of a file that tells none: structured JSON from this crate always does.
pub(crate) fn unknown_topic() -> Topic {
    match Topic::from_wire("msgkit.unknown") {
        Ok(topic) => topic,
        Err(_) => unreachable!("`msgkit.unknown` is a legal topic"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_says_what_it_was_made_of() {
        let name = Name::new(7, Some(12)).ready().started();
        assert_eq!(name.to_string(), "00000000000000000007-1.json");
        for name in [name, Name::new(u64::MAX, Some(3)), name.given_back()] {
            assert_eq!(Name::parse(&name.to_string()), Some(name));
        }
        assert_eq!(Name::of(name.token()), name);
        assert_ne!(name.given_back().started().started().token(), name.token());
        for other in ["", "7.json", "7-1", "7-1.json", "a-b.json", "x_7-1.json", "patterns"] {
            assert_eq!(Name::parse(other), None, "{other}");
        }
    }

    #[test]
    fn what_is_no_envelope_comes_as_it_is() {
        let Incoming::Malformed(malformed) = read(b"\xff no event".to_vec()) else { unreachable!() };
        assert_eq!(malformed.payload.as_deref(), Some(&b"\xff no event"[..]));
        assert!(!malformed.error.is_empty());
    }
}

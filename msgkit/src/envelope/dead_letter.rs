//! What a dead letter knows about its death.

use std::fmt;
use std::str::FromStr;

use super::time::Timestamp;
use crate::error::Error;
use crate::text::Text;

/// The most bytes of an error's text that a dead letter keeps.
pub const MAX_ERROR: usize = 1024;

/// Why the pipeline gave a message up.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[non_exhaustive]
pub enum DeadLetterKind {
    /// The handler returned an error, permanently or once too often.
    Handler,
    /// The bytes could not be read as the handler's message, or not as a message at all.
    Decode,
    /// The handler panicked.
    Panic,
    /// The handler took longer than the policy allows.
    Timeout,
    /// The message was older than its `expirytime`.
    Expired,
    /// The handler, or the subscription's rules, refused the message as such.
    Rejected,
    /// The process died each time that the message was started.
    Crash,
}

impl DeadLetterKind {
    /// Every kind.
    pub const ALL: [Self; 7] =
        [Self::Handler, Self::Decode, Self::Panic, Self::Timeout, Self::Expired, Self::Rejected, Self::Crash];

    /// The kind as `dlkind` writes it.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Handler => "handler",
            Self::Decode => "decode",
            Self::Panic => "panic",
            Self::Timeout => "timeout",
            Self::Expired => "expired",
            Self::Rejected => "rejected",
            Self::Crash => "crash",
        }
    }
}

impl fmt::Display for DeadLetterKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for DeadLetterKind {
    type Err = Error;
    fn from_str(kind: &str) -> Result<Self, Error> {
        Self::ALL
            .into_iter()
            .find(|known| known.as_str() == kind)
            .ok_or_else(|| Error::invalid_name(format!("`{kind:.40}` is no kind of dead letter")))
    }
}

/// Why, where, when and how often a message failed: the `dl…` attributes.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct DeadLetter {
    /// `dlkind`: why the pipeline gave up.
    pub kind: DeadLetterKind,
    /// `dlerror`: the last error, at most 1 KiB, control characters escaped.
    pub error: Text,
    /// `dlfingerprint`: equal for failures of one cause: 16 hex digits over kind, handler and the error without its numbers.
    pub fingerprint: Text,
    /// `dlattempts`: how often the message was handed to the handler.
    pub attempts: u32,
    /// `dlfirst`: when it failed first.
    pub first: Timestamp,
    /// `dllast`: when it failed last.
    pub last: Timestamp,
    /// `dltopic`: the topic that it was published to.
    pub topic: Text,
    /// `dlgroup`: the group that gave up.
    pub group: Text,
    /// `dlservice`: the service that gave up.
    pub service: Text,
    /// `dlhandler`: the handler that failed.
    pub handler: Text,
    /// `dlposition`: where the broker had it (partition and offset, stream sequence), where the transport tells.
    pub position: Option<Text>,
    /// `dlreplays`: how often it has been replayed before.
    pub replays: u32,
}

impl DeadLetter {
    /// A dead letter's facts; times and counts are set by the caller.
    #[must_use]
    pub fn new(kind: DeadLetterKind, error: &str, at: Timestamp) -> Self {
        Self {
            kind,
            error: clean(error),
            fingerprint: Text::default(),
            attempts: 0,
            first: at,
            last: at,
            topic: Text::default(),
            group: Text::default(),
            service: Text::default(),
            handler: Text::default(),
            position: None,
            replays: 0,
        }
    }

    /// Computes `fingerprint` from kind, handler and the error's text without its digits (FNV-1a, 64 bits).
    pub fn fingerprint(&mut self) {
        let mut hash = 0xcbf2_9ce4_8422_2325_u64;
        let mut eat = |byte: u8| hash = (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3);
        self.kind.as_str().bytes().for_each(&mut eat);
        eat(0);
        self.handler.bytes().for_each(&mut eat);
        eat(0);
        self.error.bytes().filter(|byte| !byte.is_ascii_digit()).for_each(&mut eat);
        self.fingerprint = format!("{hash:016x}").into();
    }
}

/// The error's text as an attribute may carry it: control characters escaped, cut to 1 KiB at a character.
fn clean(error: &str) -> Text {
    let mut cleaned = String::with_capacity(error.len().min(MAX_ERROR));
    for c in error.chars() {
        let before = cleaned.len();
        if c.is_control() {
            cleaned.extend(c.escape_default());
        } else {
            cleaned.push(c);
        }
        if cleaned.len() > MAX_ERROR {
            cleaned.truncate(before);
            while cleaned.len() > MAX_ERROR - '…'.len_utf8() {
                cleaned.pop();
            }
            cleaned.push('…');
            break;
        }
    }
    cleaned.into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_are_cleaned_and_cut() {
        let letter = DeadLetter::new(DeadLetterKind::Handler, "a\nb\u{7}", Timestamp::EPOCH);
        assert_eq!(letter.error, "a\\nb\\u{7}");
        let long = DeadLetter::new(DeadLetterKind::Handler, &"ü".repeat(2000), Timestamp::EPOCH);
        assert!(long.error.len() <= MAX_ERROR && long.error.ends_with('…'), "{}", long.error.len());
    }

    #[test]
    fn an_error_is_cut_only_where_it_is_too_long_and_never_within_a_character() {
        let of = |text: &str| {
            DeadLetter::new(DeadLetterKind::Handler, text, Timestamp::EPOCH).error.as_str().to_owned()
        };
        let x = |times| "x".repeat(times);
        assert_eq!(of(&x(MAX_ERROR)), x(MAX_ERROR));
        assert_eq!(of(&x(MAX_ERROR + 1)), format!("{}…", x(MAX_ERROR - 3)));
        assert_eq!(
            of(&format!("{}\n", x(MAX_ERROR - 1))),
            format!("{}…", x(MAX_ERROR - 3)),
            "an escape is whole"
        );
        assert_eq!(of(&"ü".repeat(MAX_ERROR)), format!("{}…", "ü".repeat(510)));
    }

    #[test]
    fn a_fingerprint_stays_the_same_in_every_version() {
        let mut letter = DeadLetter::new(DeadLetterKind::Handler, "row 17 is locked", Timestamp::EPOCH);
        letter.handler = "g".into();
        letter.fingerprint();
        assert_eq!(letter.fingerprint, "a25dffbcca060da4");
    }

    #[test]
    fn fingerprints_ignore_numbers_and_tell_kinds_apart() {
        let of = |kind, error: &str| {
            let mut letter = DeadLetter::new(kind, error, Timestamp::EPOCH);
            letter.fingerprint();
            letter.fingerprint
        };
        assert_eq!(
            of(DeadLetterKind::Handler, "row 17 is locked"),
            of(DeadLetterKind::Handler, "row 4 is locked")
        );
        assert_ne!(of(DeadLetterKind::Handler, "row is locked"), of(DeadLetterKind::Panic, "row is locked"));
    }

    #[test]
    fn kinds_round_trip() {
        for kind in DeadLetterKind::ALL {
            assert_eq!(kind.as_str().parse::<DeadLetterKind>().unwrap(), kind);
        }
        assert!("other".parse::<DeadLetterKind>().is_err());
    }
}

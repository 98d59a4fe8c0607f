//! What a group takes, as far as a member knows: what it takes itself, and what other members have declared.
//!
//! Members of several versions read the same subscriptions, and a topic of Pub/Sub may hold messages of several topics. So one that
//! a member does not know may be owed to its group all the same, and to skip it would lose it. Only the group's entries can tell,
//! read after the message had come: whoever declares a pattern later is not owed it.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use msgkit::transport::{Incoming, Subscription, TransportError};
use msgkit::{Pattern, Topic};

use crate::names::{Names, Reader};
use crate::places::Entries;

/// What a member knows of its reader.
pub(super) struct Known {
    /// `None` where it reads copies, which all belong to the group.
    reader: Option<Reader>,
    subscription: Arc<Subscription>,
    /// What the entries said when they were read last.
    declared: Mutex<Vec<Pattern>>,
    /// Whether the log has it that they say too little.
    told: AtomicBool,
}

/// Whose a message is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Whose {
    Ours,
    Foreign,
    /// As far as is known here it is nobody's; the entries may say more by now.
    Undecided,
}

impl Known {
    pub(super) fn new(reader: Option<Reader>, subscription: Arc<Subscription>) -> Self {
        Self { reader, subscription, declared: Mutex::default(), told: AtomicBool::new(false) }
    }

    /// Whose a message is that has come, and that may have `named` its topic. One that names none is ours, as is one that cannot
    /// be read: only who reads it can tell what it is for. So is what waits as a copy, since the group has had it before.
    pub(super) fn whose(&self, message: &Incoming, named: bool) -> Whose {
        match (message, &self.reader) {
            (Incoming::Envelope(envelope), Some(reader)) if named => {
                if self.takes(envelope.topic()) {
                    Whose::Ours
                } else if reader.as_group().is_some() {
                    Whose::Undecided
                } else {
                    // It has no other members.
                    Whose::Foreign
                }
            }
            _ => Whose::Ours,
        }
    }

    /// Whether messages of `topic` are known to be taken.
    pub(super) fn takes(&self, topic: &Topic) -> bool {
        self.subscription.matches(topic) || {
            let declared = self.declared.lock().unwrap_or_else(PoisonError::into_inner);
            declared.iter().any(|pattern| pattern.matches(topic))
        }
    }

    /// Notes what the entries say, and answers whether that is all that the group takes. It cannot be where they do not even say
    /// what is taken here, because somebody has deleted some, or never made them; nor where nobody may read them.
    pub(super) fn learn(&self, entries: Result<&Entries, &TransportError>, names: &Names) -> bool {
        let Some(reader) = &self.reader else { return true };
        let nothing = Vec::new();
        let declared = entries.map(|entries| entries.get(reader).unwrap_or(&nothing));
        let own = &self.subscription.patterns;
        let missing = declared.map(|declared| own.iter().find(|own| !declared.contains(own)));
        let complete = matches!(missing, Ok(None));
        if let Ok(declared) = declared {
            self.declared.lock().unwrap_or_else(PoisonError::into_inner).clone_from(declared);
        }
        if !self.told.swap(!complete, Ordering::Relaxed) && !complete {
            let why = match missing {
                Ok(Some(pattern)) => match names.entry(reader, pattern) {
                    Ok(entry) => format!("there is no entry `{entry}`"),
                    Err(error) => msgkit::Chain(&error).to_string(),
                },
                Ok(None) => String::new(),
                Err(error) => msgkit::Chain(error).to_string(),
            };
            tracing::warn!(
                %why,
                "what the group takes cannot be told from its entries; nothing is skipped that comes of topics which it shares"
            );
        }
        complete
    }
}

#[cfg(test)]
mod tests {
    use msgkit::transport::{Group, TransportErrorKind};

    use super::*;

    fn patterns(texts: &[&str]) -> Vec<Pattern> {
        texts.iter().map(|text| text.parse().unwrap()).collect()
    }

    #[test]
    fn entries_say_all_that_is_taken_only_where_they_say_what_is_taken_here() {
        let names = Names::new("p".to_owned(), "");
        let group: Group = "g".parse().unwrap();
        let reader = Reader::group(&group);
        let own = Arc::new(Subscription::group(group, patterns(&["device.7.raw", "a.b"])));
        let known = Known::new(Some(reader.clone()), own);
        let other = "device.8.raw".parse().unwrap();
        let of = |texts: &[&str]| Entries::from([(reader.clone(), patterns(texts))]);
        assert!(!known.takes(&other));
        assert!(known.learn(Ok(&of(&["a.b", "device.7.raw"])), &names));
        assert!(!known.takes(&other));
        assert!(known.learn(Ok(&of(&["a.b", "device.7.raw", "device.*.raw"])), &names));
        assert!(known.takes(&other), "others of the group take it");
        // One was deleted, all were, nobody may read them.
        assert!(!known.learn(Ok(&of(&["a.b", "device.*.raw"])), &names));
        assert!(!known.learn(Ok(&Entries::new()), &names));
        let denied = TransportError::new(TransportErrorKind::Refused, "not for you");
        assert!(!known.learn(Err(&denied), &names));
        assert!(known.takes(&"a.b".parse().unwrap()), "what it takes itself needs no entry");
    }
}

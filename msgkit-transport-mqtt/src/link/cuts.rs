//! Where in a keeper's session the members begin to get everything again; see [`super::keeper`].

use std::collections::BTreeSet;

use super::roll::Present;
use crate::connection::unique;

/// How many cuts are remembered that nobody has confirmed yet. One is made with each connection of a member.
const PASSED: usize = 1024;

/// What is known of the cuts in a keeper's session, on one connection.
#[derive(Debug, Default)]
pub(super) struct Cuts {
    /// What the keeper signs with on this connection.
    mark: String,
    /// Whether what comes now came to the session on this connection.
    begun: bool,
    /// Connections of members that stand, each of which gets or shares all that the keeper gets.
    standing: BTreeSet<String>,
    /// Connections whose cut has come, and of which it is not known whether they stand.
    passed: BTreeSet<String>,
}

/// What a cut that comes by tells.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Cut {
    /// From here on the members get everything.
    Counts,
    /// They do if the member that made it answers.
    Unproven,
    /// Nothing.
    Idle,
}

impl Cuts {
    /// On a new connection.
    pub(super) fn new() -> Self {
        Self { mark: unique(), ..Self::default() }
    }

    /// What members are called with.
    pub(super) fn mark(&self) -> &str {
        &self.mark
    }

    /// What the keeper puts into its session when its connection begins.
    pub(super) fn begins(&self) -> String {
        format!("begins {}", self.mark)
    }

    /// What the keeper puts there once it knows of a member that stands.
    pub(super) fn ends(&self) -> String {
        format!("ends {}", self.mark)
    }

    /// Whether a member has answered that stands.
    pub(super) fn stands(&self) -> bool {
        !self.standing.is_empty()
    }

    /// A member has answered. Whether the members get everything from here on, who want `plain`.
    pub(super) fn answered(&mut self, payload: &[u8], plain: &[String]) -> bool {
        match Present::read(payload) {
            Some(present) if present.call == self.mark && present.covers(plain) => {
                let passed = self.passed.contains(&present.connection);
                self.standing.insert(present.connection);
                passed
            }
            _ => false,
        }
    }

    /// A cut comes by, or a word of the keeper itself. The members want `plain`.
    pub(super) fn comes_by(&mut self, payload: &[u8], plain: &[String]) -> Cut {
        if payload == self.begins().as_bytes() {
            self.begun = true;
            return Cut::Idle;
        }
        if payload == self.ends().as_bytes() {
            return Cut::Counts;
        }
        let Some(cut) = Present::read(payload).filter(|cut| cut.covers(plain)) else { return Cut::Idle };
        if self.begun || self.standing.contains(&cut.connection) {
            return Cut::Counts;
        }
        if self.passed.len() < PASSED {
            self.passed.insert(cut.connection);
        }
        Cut::Unproven
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cuts() -> Cuts {
        Cuts { mark: "m".into(), ..Cuts::default() }
    }

    fn plain() -> Vec<String> {
        vec!["a/b".into(), "c/#".into()]
    }

    /// What a member says on `connection`, to `call`.
    fn says(call: &str, connection: &str, filters: &[&str]) -> Vec<u8> {
        let filters = filters.iter().map(ToString::to_string).collect();
        let (call, owner) = (call.to_owned(), "someone".to_owned());
        Present { call, owner, connection: connection.to_owned(), filters }.write().into_bytes()
    }

    const ALL: [&str; 2] = ["$share/g/a/b", "$share/g/c/#"];

    #[test]
    fn a_cut_counts_if_its_connection_stands_now() {
        let mut cuts = cuts();
        assert!(!cuts.answered(&says("m", "new", &ALL), &plain()));
        let old = cuts.comes_by(&says("", "old", &ALL), &plain());
        assert_eq!(old, Cut::Unproven, "it is of an earlier broker's time");
        assert_eq!(cuts.comes_by(&says("", "new", &ALL), &plain()), Cut::Counts);
    }

    #[test]
    fn an_answer_may_come_behind_its_cut() {
        let mut cuts = cuts();
        assert_eq!(cuts.comes_by(&says("", "new", &ALL), &plain()), Cut::Unproven);
        assert!(!cuts.answered(&says("another call", "new", &ALL), &plain()), "it is of an earlier time");
        assert!(!cuts.stands());
        assert!(cuts.answered(&says("m", "new", &ALL), &plain()));
        assert!(cuts.stands());
    }

    #[test]
    fn behind_the_keepers_own_word_every_cut_counts() {
        let mut cuts = cuts();
        assert_eq!(cuts.comes_by(b"begins earlier", &plain()), Cut::Idle);
        let unproven = cuts.comes_by(&says("", "unknown", &ALL), &plain());
        assert_eq!(unproven, Cut::Unproven, "the word was that of an earlier connection");
        assert_eq!(cuts.comes_by(b"begins m", &plain()), Cut::Idle);
        let less = cuts.comes_by(&says("", "unknown", &ALL[..1]), &plain());
        assert_eq!(less, Cut::Idle, "who wants less covers nothing");
        assert_eq!(cuts.comes_by(&says("", "unknown", &ALL), &plain()), Cut::Counts);
    }

    #[test]
    fn the_keepers_own_cut_counts_on_its_connection_only() {
        let mut cuts = cuts();
        for other in [&b""[..], b"\xff", b"ends earlier"] {
            assert_eq!(cuts.comes_by(other, &plain()), Cut::Idle);
        }
        assert_eq!(cuts.comes_by(b"ends m", &plain()), Cut::Counts);
    }
}

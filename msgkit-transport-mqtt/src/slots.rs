//! Who has which session of a group.
//!
//! A shared subscription spreads a group's messages over sessions, and a session's unacknowledged messages come back only to
//! its own client id. So the client ids of a group are numbered **slots**, and whoever receives for the group holds one.
//! Which are held, the broker cannot be asked; it is written beside them, retained, one **mark** a slot:
//! `msgkit/slots/<group>/<lane>/<slot>`. It says who holds the slot, or that nobody does, the filters that its session is
//! subscribed to, and the patterns that versions of the group take. A connection that breaks has its mark set to "nobody" by
//! the broker (last will).
//!
//! - Who joins takes the lowest slot that nobody holds, else a new one ([`claim`]). Two who want the same one find out:
//!   the later connection takes over, and the earlier one looks for another slot.
//! - Who leaves sets the mark to "nobody" and lets the session be: it is subscribed still, so the group misses nothing.
//! - A slot that nobody has held for a while, in a group that has members, is taken over by one of them, which hands out
//!   what its session holds and then dissolves it; see [`crate::link`].
//!
//! The session of a slot that is alone is subscribed plainly, because not every broker keeps shared subscriptions over its
//! restart; when another comes, it subscribes as a sharer first and takes the plain subscription back then, and the other
//! way round when it is left alone. What is published in the moment between may come twice. Where sessions share, a session
//! of its own beside them, the **keeper**, stays subscribed plainly; see [`crate::link::keeper`].
//!
//! What versions of the group take is written at `msgkit/slots/<group>/0/patterns` as well, like a mark of nobody, because marks
//! go with their sessions. It only grows: who declares or joins adds what is missing, and so does a member that sees that
//! somebody else has written less than it knows.
//!
//! Lane 0 is the group's topics, lane n its delay step n.

use std::collections::{BTreeMap, BTreeSet};

use msgkit::Pattern;
use msgkit::transport::{Group, TransportError};

use crate::connection::unique;
use crate::driver::{self, Client, Dial, Event, Filter};
use crate::error::no_answer;
use crate::names::{KEEPER, Names, PATTERNS, covers};
use crate::subscriber::SHARE;
use crate::wire::{Arrived, Parcel};

/// What is written at a slot.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Mark {
    /// Who holds it; nobody does where it is empty.
    pub(crate) owner: String,
    /// What its session is subscribed to.
    pub(crate) filters: Vec<String>,
    /// What versions of the group have declared to take, as far as its owner knows: a filter may match more than that.
    pub(crate) patterns: BTreeSet<Pattern>,
}

impl Mark {
    pub(crate) fn held(owner: &str, filters: &[String]) -> Self {
        Self { owner: owner.to_owned(), filters: filters.to_vec(), patterns: BTreeSet::new() }
    }

    /// The same, of a group that takes `patterns`.
    pub(crate) fn taking(self, patterns: BTreeSet<Pattern>) -> Self {
        Self { patterns, ..self }
    }

    pub(crate) fn vacant(filters: &[String]) -> Self {
        Self::held("", filters)
    }

    pub(crate) fn is_vacant(&self) -> bool {
        self.owner.is_empty()
    }

    /// Whether its session gets everything, whatever others get.
    pub(crate) fn is_plain(&self) -> bool {
        self.filters.iter().any(|filter| !filter.starts_with(SHARE))
    }

    /// Whether its session gets everything that `plain` matches.
    pub(crate) fn keeps(&self, plain: &[String]) -> bool {
        plain.iter().all(|wanted| self.filters.iter().any(|filter| covers(filter, wanted)))
    }

    /// One line for the owner, one for each filter; behind an empty one, one for each pattern.
    pub(crate) fn write(&self) -> String {
        let mut text = format!("1 {}", self.owner);
        for filter in &self.filters {
            text.push('\n');
            text.push_str(filter);
        }
        if !self.patterns.is_empty() {
            text.push('\n');
        }
        for pattern in &self.patterns {
            text.push('\n');
            text.push_str(pattern.as_str());
        }
        text
    }

    /// What [`Mark::write`] wrote; `None` for a slot that was dissolved.
    pub(crate) fn read(payload: &[u8]) -> Option<Self> {
        let text = std::str::from_utf8(payload).ok()?;
        let mut lines = text.split('\n');
        let owner = lines.next()?.strip_prefix("1 ")?.to_owned();
        let filters = lines.by_ref().take_while(|line| !line.is_empty()).map(str::to_owned).collect();
        let patterns = lines.filter_map(|line| line.parse().ok()).collect();
        Some(Self { owner, filters, patterns })
    }
}

/// The slots of one lane, by number.
pub(crate) type Slots = BTreeMap<u32, Mark>;

/// What is written of one lane.
#[derive(Debug, Default)]
pub(crate) struct Lane {
    pub(crate) slots: Slots,
    /// The mark of its keeper, where it has one.
    pub(crate) keeper: Option<Mark>,
    /// What the group takes.
    pub(crate) patterns: BTreeSet<Pattern>,
}

/// Every lane of a group.
pub(crate) type Lanes = BTreeMap<u32, Lane>;

/// The slot for `owner`: its own of before, also where the broker has just given it up, else the lowest that nobody holds,
/// else a new one.
pub(crate) fn choose(slots: &Slots, owner: &str, before: Option<u32>) -> u32 {
    // It may be written at two: at its own, and at one that it was taking over when the broker died.
    let still = before.and_then(|slot| slots.get_key_value(&slot)).filter(|(_, mark)| mark.owner == owner);
    let own = still.or_else(|| slots.iter().find(|(_, mark)| mark.owner == owner));
    let known = || before.and_then(|slot| slots.get_key_value(&slot)).filter(|(_, mark)| mark.is_vacant());
    let vacant = || slots.iter().find(|(_, mark)| mark.is_vacant());
    match own.or_else(known).or_else(vacant) {
        Some((slot, _)) => *slot,
        None => (0..).find(|slot| !slots.contains_key(slot)).unwrap_or(u32::MAX),
    }
}

/// Whether another session than that of `slot` is subscribed.
pub(crate) fn are_others(slots: &Slots, slot: u32) -> bool {
    slots.iter().any(|(other, mark)| *other != slot && !mark.filters.is_empty())
}

/// Whether somebody else than the member of `slot` sees to a keeper: who has everything to itself before those that share, and
/// of several that have, the one with the lowest slot, so that they do not wait for each other.
pub(crate) fn another_keeps(
    slots: &Slots,
    slot: Option<u32>,
    sharing: bool,
    is_free: impl Fn(&Mark) -> bool,
) -> bool {
    slots.iter().any(|(other, mark)| {
        let first = sharing || slot.is_none_or(|own| *other < own);
        slot != Some(*other) && mark.is_plain() && !is_free(mark) && first
    })
}

/// The client id of a slot, or of a keeper. No group has a colon, so no two have the same, whatever `prefix` is.
pub(crate) fn client_id(prefix: &str, group: &Group, lane: u32, slot: impl std::fmt::Display) -> String {
    format!("{prefix}:{group}:{lane}:{slot}")
}

/// Takes note of a mark that came.
pub(crate) fn note(names: &Names, group: &Group, lanes: &mut Lanes, arrived: &Arrived) {
    let Some((lane, slot)) = names.read_slot(group, &arrived.topic) else { return };
    let mark = Mark::read(&arrived.payload);
    let known = lanes.entry(lane).or_default();
    match (slot.parse(), mark) {
        (Ok(slot), Some(mark)) => drop(known.slots.insert(slot, mark)),
        (Ok(slot), None) => drop(known.slots.remove(&slot)),
        (Err(_), mark) if slot == KEEPER => known.keeper = mark,
        (Err(_), Some(mark)) if slot == PATTERNS => known.patterns = mark.patterns,
        (Err(_), _) => {}
    }
}

/// Reads the marks of `group`, on a connection of its own.
///
/// Behind the subscription goes a message that matches it as well: what comes before it is all that there is.
pub(crate) async fn survey(dial: &Dial, names: &Names, group: &Group) -> Result<Lanes, TransportError> {
    let dial = for_a_word(dial);
    let (client, mut connection) = driver::open(&dial);
    let last = format!("{}-{}", names.slot(group, 0, 0), unique());
    let looking = async {
        let mut lanes = Lanes::new();
        loop {
            match connection.next().await.map_err(|broken| broken.failure.to_error())? {
                Event::Connected(_) => {
                    client.subscribe(&[Filter {
                        name: names.slots(group),
                        confirmed: false,
                        retained: true,
                    }]);
                }
                Event::Subscribed(granted) => {
                    granted.map_err(|failure| failure.to_error())?;
                    let mut end = Parcel::own(last.clone(), String::new(), false);
                    end.confirmed = false;
                    client.publish(end);
                }
                Event::Arrived(arrived) if arrived.topic == last => return Ok(lanes),
                Event::Arrived(arrived) => note(names, group, &mut lanes, &arrived),
                _ => {}
            }
        }
    };
    let lanes = match tokio::time::timeout(dial.broker.connect_timeout, looking).await {
        Ok(lanes) => lanes?,
        Err(_) => {
            let what =
                format!("what is written at `{}`; may this client read and write there?", names.slots(group));
            return Err(no_answer(&dial.broker.address.to_string(), &what));
        }
    };
    goodbye(&client, &mut connection).await;
    Ok(lanes)
}

/// Writes what `group` takes, on a connection of its own.
pub(crate) async fn write_patterns(
    dial: &Dial,
    names: &Names,
    group: &Group,
    patterns: BTreeSet<Pattern>,
) -> Result<(), TransportError> {
    let (client, mut connection) = driver::open(&for_a_word(dial));
    let place = names.patterns(group);
    let text = Mark::vacant(&[]).taking(patterns).write();
    let writing = async {
        loop {
            match connection.next().await.map_err(|broken| broken.failure.to_error())? {
                Event::Connected(_) => drop(client.publish(Parcel::own(place.clone(), text.clone(), true))),
                Event::Confirmed(_, confirmation) => {
                    return confirmation.taken(&place).map_err(|failure| failure.to_error());
                }
                _ => {}
            }
        }
    };
    match tokio::time::timeout(dial.broker.connect_timeout, writing).await {
        Ok(written) => written?,
        Err(_) => {
            return Err(no_answer(
                &dial.broker.address.to_string(),
                &format!("what is written at `{place}`"),
            ));
        }
    }
    goodbye(&client, &mut connection).await;
    Ok(())
}

/// A connection without a session.
fn for_a_word(dial: &Dial) -> Dial {
    Dial {
        client_id: format!("{}-look-{}", dial.client_id, unique()),
        clean: true,
        expiry: std::time::Duration::ZERO,
        will: None,
        ..dial.clone()
    }
}

/// Leaves in good order, so that the broker publishes no will.
pub(crate) async fn goodbye(client: &Client, connection: &mut driver::Connection) {
    if !client.leave() {
        return;
    }
    let leaving = async { while !matches!(connection.next().await, Ok(Event::Left) | Err(_)) {} };
    let _ = tokio::time::timeout(std::time::Duration::from_secs(2), leaving).await;
}

#[cfg(test)]
mod tests {
    use super::*;

    fn slots(marks: &[(u32, &str)]) -> Slots {
        marks.iter().map(|(slot, owner)| (*slot, Mark::held(owner, &[]))).collect()
    }

    #[test]
    fn marks_come_back_as_they_were() {
        let filters = ["a/b".to_owned(), "$share/g/+/#".to_owned()];
        let patterns = BTreeSet::from(["a.b".parse().unwrap(), ">".parse().unwrap()]);
        for mark in [
            Mark::vacant(&[]),
            Mark::held("me", &filters),
            Mark::held("me", &filters).taking(patterns.clone()),
            Mark::vacant(&[]).taking(patterns),
        ] {
            assert_eq!(Mark::read(mark.write().as_bytes()), Some(mark));
        }
        for other in [&b""[..], b"2 me", b"\xff"] {
            assert_eq!(Mark::read(other), None);
        }
    }

    #[test]
    fn of_those_that_have_everything_to_themselves_exactly_one_keeps() {
        let (plain, shared) = (["a/b".to_owned()], ["$share/g/a/b".to_owned()]);
        let marks = Slots::from([
            (0, Mark::vacant(&plain)),
            (1, Mark::held("a", &shared)),
            (2, Mark::held("b", &plain)),
            (3, Mark::held("c", &plain)),
        ]);
        let waits = |slot, sharing| another_keeps(&marks, Some(slot), sharing, Mark::is_vacant);
        assert!(waits(1, true), "who shares gets nothing twice");
        assert!(!waits(2, false));
        assert!(waits(3, false));
        let sharers = Slots::from([(0, Mark::vacant(&plain)), (1, Mark::held("a", &shared))]);
        assert!(!another_keeps(&sharers, Some(1), true, Mark::is_vacant), "nobody else is there");
    }

    #[test]
    fn a_keeper_of_fewer_patterns_keeps_nothing_for_who_wants_more() {
        let (less, more) = (["a/b".to_owned()], ["a/b".to_owned(), "x".to_owned()]);
        let mark = Mark::held("me", &less);
        assert!(mark.keeps(&less) && !mark.keeps(&more));
        assert!(Mark::held("me", &more).keeps(&less));
        assert!(!Mark::held("me", &[]).keeps(&less), "it may miss something still");
        let joined = Mark::held("me", &["+/+".to_owned()]);
        assert!(joined.keeps(&less), "a version that takes more may do so by one filter");
        assert!(!joined.keeps(&more) && !joined.keeps(&["a/+/#".to_owned()]));
    }

    #[test]
    fn no_two_lanes_share_a_client_id() {
        let id = |prefix, group: &'static str, lane| client_id(prefix, &Group::new(group).unwrap(), lane, 0);
        let ids = [
            id("p", "orders", 1),
            id("p", "orders-retry1", 0),
            id("p", "orders-1", 0),
            id("p", "a-b", 0),
            id("p-a", "b", 0),
            id("p:a", "b", 0),
            id("p", "a", 0),
        ];
        let distinct: std::collections::BTreeSet<_> = ids.iter().collect();
        assert_eq!(distinct.len(), ids.len(), "{ids:?}");
    }

    #[test]
    fn the_lowest_free_slot_is_taken() {
        assert_eq!(choose(&slots(&[]), "me", None), 0);
        assert_eq!(choose(&slots(&[(0, "a"), (1, "")]), "me", None), 1);
        assert_eq!(choose(&slots(&[(0, ""), (1, "")]), "me", None), 0);
        assert_eq!(choose(&slots(&[(0, "a"), (2, "b")]), "me", None), 1);
        assert_eq!(choose(&slots(&[(0, ""), (3, "me")]), "me", None), 3, "its own, though another is free");
        assert_eq!(choose(&slots(&[(0, ""), (1, "")]), "me", Some(1)), 1, "what it had before");
        assert_eq!(choose(&slots(&[(0, ""), (1, "a")]), "me", Some(1)), 0);
        assert_eq!(choose(&slots(&[(0, "me"), (1, "me")]), "me", Some(1)), 1, "its own of two");
    }
}

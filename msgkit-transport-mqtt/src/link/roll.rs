//! Who is there: what a member says of itself to the others of its lane.
//!
//! Marks are retained, so one that a broker could not set free, because it was down itself when its owner died, reads as if the
//! owner were there still. Members therefore answer when somebody calls the roll, on the connection that they have:
//! nobody answers for a process that is dead, and no answer outlives the broker that passed it on.
//!
//! A member calls on each new connection, until it has heard of everybody who holds a mark. Who has said nothing for as long as
//! a living process can take to come back is taken for dead, and what it held is taken over. To be wrong costs duplicates and
//! loses nothing: whoever finds its slot taken takes another. The keeper calls to learn which members' connections are of its
//! own broker's time; see [`super::keeper`].

use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use super::{Control, Link, Said};
use crate::connection::LONGEST_PAUSE;
use crate::driver::Client;
use crate::names;
use crate::slots::Mark;
use crate::subscriber::SHARE;
use crate::wire::Parcel;

/// The longest call that is answered: what a keeper signs with is shorter.
const LONGEST_CALL: usize = 64;
/// The shortest time between two calls.
const BETWEEN: Duration = Duration::from_millis(200);

/// What a member says of itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Present {
    /// What it answers to; empty where nobody has asked.
    pub(super) call: String,
    pub(super) owner: String,
    /// Which of its connections says so: a name that no other connection has.
    pub(super) connection: String,
    /// What the broker has confirmed that it is subscribed to.
    pub(super) filters: Vec<String>,
}

impl Present {
    /// One line each.
    pub(super) fn write(&self) -> String {
        let mut text = format!("1 {}\n{}\n{}", self.call, self.owner, self.connection);
        for filter in &self.filters {
            text.push('\n');
            text.push_str(filter);
        }
        text
    }

    /// What [`Present::write`] wrote.
    pub(super) fn read(payload: &[u8]) -> Option<Self> {
        let mut lines = std::str::from_utf8(payload).ok()?.split('\n');
        let call = lines.next()?.strip_prefix("1 ")?.to_owned();
        let (owner, connection) = (lines.next()?.to_owned(), lines.next()?.to_owned());
        Some(Self { call, owner, connection, filters: lines.map(str::to_owned).collect() })
    }

    /// Whether its session gets, or shares, everything that `plain` matches.
    pub(super) fn covers(&self, plain: &[String]) -> bool {
        let covers = |filter: &str, wanted: &str| match filter.strip_prefix(SHARE) {
            Some(shared) => shared.split_once('/').is_some_and(|(_, name)| names::covers(name, wanted)),
            None => names::covers(filter, wanted),
        };
        plain.iter().all(|wanted| self.filters.iter().any(|filter| covers(filter, wanted)))
    }
}

impl Link {
    /// Says that it is there, where it is: to who called, or where the keeper's session keeps it in its place.
    pub(super) fn present(&self, control: &mut Control, client: &Client, call: Option<&[u8]>) {
        let membership = &self.membership;
        let too_long = call.is_some_and(|call| call.len() > LONGEST_CALL);
        if control.leaving || control.connection.is_empty() || too_long {
            return;
        }
        let present = Present {
            call: call.map(|call| String::from_utf8_lossy(call).into_owned()).unwrap_or_default(),
            owner: membership.owner.clone(),
            connection: control.connection.clone(),
            filters: membership.filters.those(control.sharing).to_vec(),
        };
        let (place, confirmed) = match call {
            Some(_) => (membership.here(), false),
            None => (membership.keeper_asks(super::keeper::CUT), true),
        };
        self.tell(control, client, place, present.write(), confirmed);
    }

    /// A word that nobody waits for.
    pub(super) fn tell(
        &self,
        control: &mut Control,
        client: &Client,
        place: String,
        text: String,
        confirmed: bool,
    ) {
        let parcel = Parcel { confirmed, ..Parcel::own(place, text, false) };
        control.publish(client, parcel, Said::Something);
    }

    /// The process of that name is there.
    pub(super) fn heard(&self, owner: &str) {
        let mut control = self.lock();
        if !control.heard.contains(owner) {
            control.heard.insert(owner.to_owned());
            drop(control);
            self.membership.is_there(owner);
        }
    }

    /// Who holds a mark of the lane, and has not been heard of on this connection.
    fn unheard(&self) -> Vec<String> {
        let control = self.lock();
        let owners = control.slots.values().chain(&control.kept).filter(|mark| !mark.is_vacant());
        let mut unheard: Vec<String> = owners
            .map(|mark| &mark.owner)
            .filter(|owner| **owner != self.membership.owner && !control.heard.contains(*owner))
            .cloned()
            .collect();
        unheard.sort();
        unheard.dedup();
        unheard
    }

    /// Calls until everybody is heard of, or must be dead.
    pub(super) fn call_the_roll(self: &Arc<Self>, client: &Client) {
        if self.unheard().is_empty() {
            return;
        }
        let (link, client, epoch) = (self.clone(), client.clone(), self.lock().epoch);
        tokio::spawn(async move {
            let membership = &link.membership;
            let patience =
                membership.config.takeover_after + membership.config.keep_alive * 2 + LONGEST_PAUSE;
            let begun = Instant::now();
            loop {
                let unheard = link.unheard();
                let here = {
                    let control = link.lock();
                    control.epoch == epoch && control.stands && !control.leaving
                };
                if unheard.is_empty() || !here {
                    return;
                }
                if begun.elapsed() > patience {
                    tracing::warn!(
                        subscription = %membership.title, members = ?unheard,
                        "members have not been heard of since this connection was made; what they held is taken over"
                    );
                    membership.are_gone(unheard);
                    return link.look(&client);
                }
                link.tell(&mut link.lock(), &client, membership.call(), String::new(), false);
                tokio::select! {
                    biased;
                    () = membership.ended() => return,
                    () = tokio::time::sleep(membership.config.takeover_after.max(BETWEEN)) => {}
                }
            }
        });
    }

    /// A mark came that says something of its owner: one that is not retained was written just now.
    pub(super) fn wrote(&self, mark: Option<&Mark>, retained: bool) {
        if let Some(mark) = mark.filter(|mark| !retained && !mark.is_vacant()) {
            self.heard(&mark.owner);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn present(filters: &[&str]) -> Present {
        let filters = filters.iter().map(ToString::to_string).collect();
        Present { call: "7".into(), owner: "me/0".into(), connection: "c".into(), filters }
    }

    #[test]
    fn what_a_member_says_comes_back_as_it_was() {
        for said in [present(&[]), present(&["a/b", "$share/g/+/#"])] {
            assert_eq!(Present::read(said.write().as_bytes()), Some(said));
        }
        let unasked = Present { call: String::new(), ..present(&["a"]) };
        assert_eq!(Present::read(unasked.write().as_bytes()), Some(unasked));
        for other in [&b""[..], b"1 7", b"2 7\nme\nc", b"\xff"] {
            assert_eq!(Present::read(other), None);
        }
    }

    #[test]
    fn a_member_covers_what_it_is_subscribed_to_and_no_more() {
        let plain = ["a/b".to_owned(), "c/+/#".to_owned()];
        assert!(present(&["$share/g/a/b", "$share/g/c/+/#"]).covers(&plain));
        assert!(present(&["c/+/#", "a/b", "x"]).covers(&plain), "alone, it gets everything");
        assert!(!present(&["$share/g/a/b"]).covers(&plain), "an older declaration had fewer patterns");
        assert!(!present(&[]).covers(&plain));
    }
}

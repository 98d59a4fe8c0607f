//! The keeper: the session that misses nothing when a broker forgets shared subscriptions.
//!
//! Some brokers (Mosquitto 2.0) forget every shared subscription when they restart, and keep the plain ones. What is published
//! before the first member of a group is back would then be for nobody. So where sessions share, one more session stays
//! subscribed plainly: its holder, one of the members, drops what comes there, because the members get it too, and hands out
//! what came while they could not.
//!
//! Which is which, it finds out by what it finds in its session and by two questions that it asks through the broker:
//!
//! - **Known?** A shared subscription of its own, to a topic of its own, exists for as long as the broker remembers shared
//!   subscriptions, because it is a part of the session. A message to that topic either comes back, or the broker has
//!   forgotten. It is made only when nothing is left in the session that the members did not get; so while it exists,
//!   everything in the session is a copy of theirs.
//! - **Cuts.** Whenever the broker has confirmed a member's subscription on a new connection, the member puts a message into the
//!   keeper's session: what comes behind it, the members get. So of what was published while the broker knew nobody, just
//!   that is handed out which came before the first member was back, however late the keeper itself comes.
//! - **Who is there?** A cut may be of the time before the broker forgot. It counts if the connection that it was made on stands
//!   now, because no connection outlives its broker: the members that stand answer to a call ([`super::roll`]). It counts as
//!   well if it comes behind a message that the keeper has put there itself, on the connection that it has. Where nobody has
//!   made such a cut, the keeper makes one of its own, once it knows of a member that stands.
//!
//! Wherever there is doubt, messages are handed out: they come twice then, under one id. There is doubt about what its session
//! held when the broker ended, which is what was on its way to it, and about what is published while a member learns that it
//! is subscribed.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc;

use super::roll::Present;
use super::{Link, Said};
use crate::connection::unique;
use crate::driver::{Client, Filter};
use crate::slots::Mark;
use crate::subscriber::{Membership, SHARE};
use crate::wire::{Arrived, Parcel};

/// How long an answer may take that the broker gives behind another one.
const GRACE: Duration = Duration::from_millis(500);
/// How often it looks whether what it handed out is settled.
const LOOK: Duration = Duration::from_millis(50);

/// How many cuts it remembers that nobody has confirmed yet. One is made with each connection of a member.
const PASSED: usize = 1024;

const KNOWN: &str = "known";
pub(super) const CUT: &str = "cut";

/// What its task waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Seen {
    /// The broker has confirmed a subscription.
    Subscribed,
    /// The broker has passed on the first question.
    Routed,
    /// The first question came back.
    Known,
    /// A member that stands has said so.
    Here,
    /// What comes from here on, the members get.
    Cut,
}

/// How it takes what comes.
#[derive(Debug, Default)]
enum Phase {
    /// It is not known yet whether the members get it as well.
    Asking(Vec<Arrived>),
    /// Perhaps nobody else got it.
    #[default]
    Handing,
    /// The members get it as well.
    Covered,
}

/// What the connection and its task share.
#[derive(Debug, Default)]
pub(super) struct Keeping {
    phase: Phase,
    /// The topics of the questions and answers.
    known: String,
    cut: String,
    here: String,
    /// What it signs with on this connection.
    mark: String,
    /// Whether what comes now came to the session on this connection.
    begun: bool,
    /// Connections of members that stand and get, together, all that it gets itself.
    standing: BTreeSet<String>,
    /// Connections whose cut has come, and of which it is not known whether they stand.
    passed: BTreeSet<String>,
    task: Option<mpsc::UnboundedSender<Seen>>,
    /// The member's connection that stood before this one was made.
    member: Option<(u64, u64)>,
    over: bool,
}

impl Keeping {
    pub(super) fn seen(&self, what: Seen) {
        if let Some(task) = &self.task {
            let _ = task.send(what);
        }
    }

    /// Takes note of a member's connection that stands before the keeper's is made.
    pub(super) fn begin_beside(&mut self, member: Option<(u64, u64)>) {
        self.member = member;
    }

    /// A member has answered.
    fn is_here(&mut self, payload: &[u8], plain: &[String]) {
        let Some(present) = Present::read(payload) else { return };
        if present.call != self.mark || !present.covers(plain) {
            return;
        }
        if self.passed.contains(&present.connection) {
            self.cover();
        }
        self.standing.insert(present.connection);
        self.seen(Seen::Here);
    }

    /// A cut comes by, or a mark of its own.
    fn comes_by(&mut self, payload: &[u8], plain: &[String]) {
        if payload == begins(&self.mark).as_bytes() {
            self.begun = true;
        } else if payload == ends(&self.mark).as_bytes() {
            self.cover();
        } else if let Some(cut) = Present::read(payload)
            && cut.covers(plain)
        {
            if self.begun || self.standing.contains(&cut.connection) {
                self.cover();
            } else if self.passed.len() < PASSED {
                self.passed.insert(cut.connection);
            }
        }
    }

    /// From here on the members get what it gets.
    fn cover(&mut self) {
        if matches!(self.phase, Phase::Handing) {
            self.phase = Phase::Covered;
            self.seen(Seen::Cut);
        }
    }

    /// Whether its session is needed no more.
    pub(super) fn is_over(&self) -> bool {
        self.over
    }
}

/// Everything plainly, and its own question.
pub(super) fn wanted(membership: &Membership) -> Vec<Filter> {
    let mut wanted: Vec<Filter> = membership.filters.plain.iter().cloned().map(filter).collect();
    wanted.push(filter(membership.keeper_asks(CUT)));
    // Not kept in the session: an answer is worth something only on the connection that it was asked on.
    wanted.push(Filter { confirmed: false, ..filter(membership.here()) });
    wanted
}

fn begins(mark: &str) -> String {
    format!("begins {mark}")
}

fn ends(mark: &str) -> String {
    format!("ends {mark}")
}

fn filter(name: String) -> Filter {
    Filter { name, confirmed: true, retained: false }
}

/// The task beside a keeper's connection; ends with it.
#[derive(Debug)]
pub(super) struct Watch(tokio::task::JoinHandle<()>);

impl Watch {
    /// `session` = the broker has kept the session.
    pub(super) fn begin(link: Arc<Link>, client: Client, session: bool) -> Self {
        let (sender, mut seen) = mpsc::unbounded_channel();
        {
            let mut control = link.lock();
            control.keeping = Keeping {
                phase: Phase::Asking(Vec::new()),
                known: link.membership.keeper_asks(KNOWN),
                cut: link.membership.keeper_asks(CUT),
                here: link.membership.here(),
                mark: unique(),
                task: Some(sender),
                member: control.keeping.member,
                ..Keeping::default()
            };
        }
        Self(tokio::spawn(async move {
            // Where it ends early, the connection has ended as well.
            let _ = link.keep_watch(&client, session, &mut seen).await;
        }))
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.0.abort();
    }
}

impl Link {
    async fn keep_watch(
        &self,
        client: &Client,
        session: bool,
        seen: &mut mpsc::UnboundedReceiver<Seen>,
    ) -> Option<()> {
        let membership = &self.membership;
        wait(seen, Seen::Subscribed).await?;
        self.claim(client, &[]);
        self.begin(client);
        let covered = match session {
            true => self.is_known(client, seen).await?,
            // All that is in it came after it was made: the member that was there before and is there still got it too.
            false => {
                let before = self.lock().keeping.member;
                before.is_some() && membership.stands().await && membership.member_that_stands() == before
            }
        };
        self.decide(covered);
        if !covered {
            tracing::info!(
                subscription = %membership.title,
                "the broker may have forgotten shared subscriptions; what it kept beside them is handed out"
            );
            self.find_the_cut(client, seen).await?;
            while !membership.inbox.has_nothing_of(self.id) {
                tokio::time::sleep(LOOK).await;
            }
            if membership.inbox.is_stopped() {
                // What came last was not taken, and is in the session still.
                return None;
            }
            membership.inbox.ask(self.id, &membership.names.nowhere())?.await.ok()?;
        }
        let group = membership.subscription.group.as_ref()?;
        let mut shared = filter(format!("{SHARE}{group}/{}", membership.keeper_asks(KNOWN)));
        // So that it can be told from a copy that comes by another filter, and does not wait in the session's queue.
        shared.confirmed = false;
        client.subscribe(&[shared]);
        wait(seen, Seen::Subscribed).await?;
        self.claim(client, &membership.filters.plain);
        membership.end_sharing().await;
        while !membership.stands().await {
            tokio::time::sleep(LOOK).await;
        }
        let mut control = self.lock();
        if !control.leaving {
            (control.leaving, control.keeping.over) = (true, true);
            client.leave();
        }
        Some(())
    }

    /// Says who has it, and what it is subscribed to once it misses nothing.
    fn claim(&self, client: &Client, filters: &[String]) {
        let mark = Mark::held(&self.membership.owner, filters);
        let mut control = self.lock();
        if !control.leaving {
            self.say(&mut control, client, self.membership.keeper_place(), &mark, Said::Held);
        }
    }

    /// Marks in its session where its own time begins, and asks who is there. In this order: who has no cut before the mark
    /// and stands too late to answer has one behind it.
    fn begin(&self, client: &Client) {
        let mut control = self.lock();
        let mark = control.keeping.mark.clone();
        self.tell(&mut control, client, self.membership.keeper_asks(CUT), begins(&mark), true);
        self.tell(&mut control, client, self.membership.call(), mark, false);
    }

    /// Returns once everything has come that the members did not get.
    async fn find_the_cut(&self, client: &Client, seen: &mut mpsc::UnboundedReceiver<Seen>) -> Option<()> {
        let membership = &self.membership;
        let mut made = false;
        loop {
            // Nobody may have made one, because the session is younger than the member's connection.
            let stands = !made && (!self.lock().keeping.standing.is_empty() || membership.stands().await);
            if stands {
                made = true;
                let mut control = self.lock();
                let text = ends(&control.keeping.mark);
                self.tell(&mut control, client, membership.keeper_asks(CUT), text, true);
            }
            match tokio::time::timeout(LOOK, wait_for_either(seen, Seen::Cut, Seen::Here)).await {
                Ok(Some(Seen::Cut)) => return Some(()),
                Ok(None) => return None,
                Ok(Some(_)) | Err(_) => {}
            }
        }
    }

    /// Whether the broker still knows the shared subscription of the session.
    async fn is_known(&self, client: &Client, seen: &mut mpsc::UnboundedReceiver<Seen>) -> Option<bool> {
        {
            let mut control = self.lock();
            let question =
                Parcel::own(self.membership.keeper_asks(KNOWN), control.keeping.mark.clone(), false);
            if client.publish(&question) {
                control.asked.push_back(Said::Known);
            }
        }
        if wait_for_either(seen, Seen::Known, Seen::Routed).await? == Seen::Known {
            return Some(true);
        }
        let membership = &self.membership;
        membership.inbox.ask(self.id, &membership.names.nowhere())?.await.ok()?;
        match tokio::time::timeout(GRACE, wait(seen, Seen::Known)).await {
            Ok(known) => known.map(|()| true),
            Err(_) => Some(false),
        }
    }

    /// It is known now what the messages are that came meanwhile.
    fn decide(&self, covered: bool) {
        let mut control = self.lock();
        let next = if covered { Phase::Covered } else { Phase::Handing };
        if let Phase::Asking(waiting) = std::mem::replace(&mut control.keeping.phase, next) {
            for arrived in waiting {
                self.sort(&mut control.keeping, arrived);
            }
        }
    }

    /// A message came to the keeper.
    pub(super) fn kept(&self, arrived: Arrived) {
        let mut control = self.lock();
        let keeping = &mut control.keeping;
        if arrived.topic == keeping.known && arrived.number == 0 {
            return keeping.seen(Seen::Known);
        }
        if arrived.topic == keeping.here && arrived.number == 0 {
            return keeping.is_here(&arrived.payload, &self.membership.filters.plain);
        }
        if arrived.number == 0 {
            // Nothing is owed of a message of quality of service 0.
            return;
        }
        match &mut keeping.phase {
            Phase::Asking(waiting) => waiting.push(arrived),
            _ => self.sort(keeping, arrived),
        }
    }

    /// What becomes of it, in the order of the session.
    fn sort(&self, keeping: &mut Keeping, arrived: Arrived) {
        let inbox = &self.membership.inbox;
        if arrived.topic == keeping.cut {
            keeping.comes_by(&arrived.payload, &self.membership.filters.plain);
            return inbox.skip(self.id, arrived.number);
        }
        match keeping.phase {
            Phase::Covered => inbox.skip(self.id, arrived.number),
            _ if arrived.topic == keeping.known => inbox.skip(self.id, arrived.number),
            _ => self.hand(arrived),
        }
    }

    fn hand(&self, arrived: Arrived) {
        let membership = &self.membership;
        let (number, topic) = (arrived.number, membership.names.read(&arrived.topic));
        if arrived.retained || !membership.wants(topic.as_ref()) {
            return membership.inbox.skip(self.id, number);
        }
        let message = arrived.read(topic, &membership.subscription.ingest, membership.clock.now());
        membership.inbox.put(self.id, number, message);
    }
}

/// Waits for `what`; `None` where the connection has ended.
async fn wait(seen: &mut mpsc::UnboundedReceiver<Seen>, what: Seen) -> Option<()> {
    wait_for_either(seen, what, what).await.map(|_| ())
}

async fn wait_for_either(seen: &mut mpsc::UnboundedReceiver<Seen>, one: Seen, other: Seen) -> Option<Seen> {
    loop {
        let came = seen.recv().await?;
        if came == one || came == other {
            return Some(came);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn keeping() -> Keeping {
        Keeping { phase: Phase::Handing, mark: "m".into(), ..Keeping::default() }
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

    fn is_covered(keeping: &Keeping) -> bool {
        matches!(keeping.phase, Phase::Covered)
    }

    #[test]
    fn a_cut_counts_if_its_connection_stands_now() {
        let mut keeping = keeping();
        keeping.is_here(&says("m", "new", &ALL), &plain());
        keeping.comes_by(&says("", "old", &ALL), &plain());
        assert!(!is_covered(&keeping), "the connection is of an earlier broker's time");
        keeping.comes_by(&says("", "new", &ALL), &plain());
        assert!(is_covered(&keeping));
    }

    #[test]
    fn an_answer_may_come_behind_its_cut() {
        let mut keeping = keeping();
        keeping.comes_by(&says("", "new", &ALL), &plain());
        keeping.is_here(&says("another call", "new", &ALL), &plain());
        assert!(!is_covered(&keeping), "that answer is kept from an earlier time");
        keeping.is_here(&says("m", "new", &ALL), &plain());
        assert!(is_covered(&keeping));
    }

    #[test]
    fn behind_its_own_mark_every_cut_counts() {
        let mut keeping = keeping();
        keeping.comes_by(begins("earlier").as_bytes(), &plain());
        keeping.comes_by(&says("", "unknown", &ALL), &plain());
        assert!(!is_covered(&keeping), "the mark of an earlier connection");
        keeping.comes_by(begins("m").as_bytes(), &plain());
        keeping.comes_by(&says("", "unknown", &ALL[..1]), &plain());
        assert!(!is_covered(&keeping), "who is subscribed to less covers nothing");
        keeping.comes_by(&says("", "unknown", &ALL), &plain());
        assert!(is_covered(&keeping));
    }

    #[test]
    fn its_own_cut_counts_and_that_of_an_earlier_connection_does_not() {
        let mut keeping = keeping();
        for other in [&b""[..], b"\xff", ends("earlier").as_bytes()] {
            keeping.comes_by(other, &plain());
        }
        assert!(!is_covered(&keeping));
        keeping.comes_by(ends("m").as_bytes(), &plain());
        assert!(is_covered(&keeping));
    }
}

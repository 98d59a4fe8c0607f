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

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::time::Instant;

use super::cuts::{Cut, Cuts};
use super::{Link, Said};
use crate::driver::{Client, Filter};
use crate::slots::Mark;
use crate::subscriber::{Membership, SHARE};
use crate::wire::{Arrived, Parcel};

/// How long an answer may take that the broker gives behind another one.
const GRACE: Duration = Duration::from_millis(500);
/// How long it waits for the answer of a member that has made a cut, which may be slow or dead.
const PATIENCE: Duration = Duration::from_secs(5);
/// How often it looks whether what it handed out is settled.
const LOOK: Duration = Duration::from_millis(50);

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
    /// A cut came by, and whether it counts depends on an answer.
    Unproven,
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
    cuts: Cuts,
    /// Whether it has waited for an answer as long as it may.
    waited: bool,
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
                cuts: Cuts::new(),
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
            control.say(client, self.membership.keeper_place(), &mark, Said::Held);
        }
    }

    /// Marks in its session where its own time begins, and asks who is there. In this order: who has no cut before the mark
    /// and stands too late to answer has one behind it.
    fn begin(&self, client: &Client) {
        let mut control = self.lock();
        let (begins, mark) = (control.keeping.cuts.begins(), control.keeping.cuts.mark().to_owned());
        self.tell(&mut control, client, self.membership.keeper_asks(CUT), begins, true);
        self.tell(&mut control, client, self.membership.call(), mark, false);
    }

    /// Returns once everything has come that the members did not get.
    async fn find_the_cut(&self, client: &Client, seen: &mut mpsc::UnboundedReceiver<Seen>) -> Option<()> {
        let membership = &self.membership;
        let mut made = false;
        loop {
            // Nobody may have made one, because the session is younger than the member's connection.
            let heard = self.lock().keeping.cuts.stands();
            let stands = !made && (heard || membership.stands().await);
            if stands {
                made = true;
                let mut control = self.lock();
                let text = control.keeping.cuts.ends();
                self.tell(&mut control, client, membership.keeper_asks(CUT), text, true);
            }
            match tokio::time::timeout(LOOK, seen.recv()).await {
                Ok(Some(Seen::Cut)) => return Some(()),
                Ok(Some(Seen::Unproven)) if self.is_proven(client, seen).await? => return Some(()),
                Ok(None) => return None,
                Ok(Some(_)) | Err(_) => {}
            }
        }
    }

    /// Waits for the answer of a member whose cut has come by.
    async fn is_proven(&self, client: &Client, seen: &mut mpsc::UnboundedReceiver<Seen>) -> Option<bool> {
        let begun = Instant::now();
        while begun.elapsed() < PATIENCE {
            if let Ok(proven) = tokio::time::timeout(GRACE, wait(seen, Seen::Cut)).await {
                return proven.map(|()| true);
            }
            // The call may have been lost, as may be what nobody confirms.
            let mut control = self.lock();
            let mark = control.keeping.cuts.mark().to_owned();
            self.tell(&mut control, client, self.membership.call(), mark, false);
        }
        self.lock().keeping.waited = true;
        self.decide(false);
        Some(false)
    }

    /// Whether the broker still knows the shared subscription of the session.
    async fn is_known(&self, client: &Client, seen: &mut mpsc::UnboundedReceiver<Seen>) -> Option<bool> {
        {
            let mut control = self.lock();
            let question = Parcel::own(
                self.membership.keeper_asks(KNOWN),
                control.keeping.cuts.mark().to_owned(),
                false,
            );
            control.publish(client, question, Said::Known);
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
        match covered {
            true => self.go_on(&mut control.keeping, Phase::Covered),
            false => self.go_on(&mut control.keeping, Phase::Handing),
        }
        drop(control);
        self.membership.inbox.tell();
    }

    /// What waits is sorted, and so is what comes.
    fn go_on(&self, keeping: &mut Keeping, next: Phase) {
        if let Phase::Asking(waiting) = std::mem::replace(&mut keeping.phase, next) {
            for arrived in waiting {
                self.take(keeping, arrived);
            }
        }
    }

    /// From here on the members get what it gets.
    fn cover(&self, keeping: &mut Keeping) {
        if !matches!(keeping.phase, Phase::Covered) {
            self.go_on(keeping, Phase::Covered);
            keeping.seen(Seen::Cut);
        }
    }

    fn take(&self, keeping: &mut Keeping, arrived: Arrived) {
        match &mut keeping.phase {
            Phase::Asking(waiting) => waiting.push(arrived),
            _ => self.sort(keeping, arrived),
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
            if keeping.cuts.answered(&arrived.payload, &self.membership.filters.plain) {
                self.cover(keeping);
            }
            return keeping.seen(Seen::Here);
        }
        if arrived.number == 0 {
            // Nothing is owed of a message of quality of service 0.
            return;
        }
        self.take(keeping, arrived);
    }

    /// What becomes of it, in the order of the session.
    fn sort(&self, keeping: &mut Keeping, arrived: Arrived) {
        let inbox = &self.membership.inbox;
        if arrived.topic == keeping.cut {
            inbox.skip(self.id, arrived.number);
            match keeping.cuts.comes_by(&arrived.payload, &self.membership.filters.plain) {
                Cut::Counts => self.cover(keeping),
                // What comes behind it waits for the answer.
                Cut::Unproven if matches!(keeping.phase, Phase::Handing) && !keeping.waited => {
                    keeping.phase = Phase::Asking(Vec::new());
                    keeping.seen(Seen::Unproven);
                }
                Cut::Unproven | Cut::Idle => {}
            }
            return;
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
        let message = arrived.read(topic, &membership.subscription.ingest, membership.clock);
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

//! The keeper: the session that misses nothing when a broker forgets shared subscriptions.
//!
//! Some brokers (Mosquitto 2.0) forget every shared subscription when they restart, and keep the plain ones. What is published
//! before the first member of a group is back would then be for nobody. So where sessions share, one more session stays
//! subscribed plainly: its holder, one of the members, drops what comes there, because the members get it too, and hands out
//! what came while they could not.
//!
//! Which is which, it finds out by two questions that it sends to itself through the broker:
//!
//! - **Known?** A shared subscription of its own, to a topic of its own, exists for as long as the broker remembers shared
//!   subscriptions, because it is a part of the session. A message to that topic either comes back, or the broker has
//!   forgotten. It is made only when nothing is left in the session that the members did not get; so while it exists,
//!   everything in the session is a copy of theirs.
//! - **Cut.** A message that is queued behind everything else in the session, sent once a member's subscription is confirmed:
//!   what comes after it, the members get.
//!
//! Wherever there is doubt, messages are handed out: they come twice then, under one id.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc;

use super::{Link, Said, number};
use crate::driver::{Client, Filter};
use crate::slots::Mark;
use crate::subscriber::{Membership, SHARE};
use crate::wire::{Arrived, Parcel};

/// How long an answer may take that the broker gives behind another one.
const GRACE: Duration = Duration::from_millis(500);
/// How often it looks whether what it handed out is settled.
const LOOK: Duration = Duration::from_millis(50);

const KNOWN: &str = "known";
const CUT: &str = "cut";

/// What its task waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Seen {
    /// The broker has confirmed a subscription.
    Subscribed,
    /// The broker has passed on the first question.
    Routed,
    /// The first question came back.
    Known,
    /// The second question came back.
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
    /// The topics of the questions.
    known: String,
    cut: String,
    /// What the second question of this connection says.
    mark: String,
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
                mark: number().to_string(),
                task: Some(sender),
                member: control.keeping.member,
                over: false,
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
            while !membership.stands().await {
                tokio::time::sleep(LOOK).await;
            }
            self.ask(client, CUT, Said::Cut);
            wait(seen, Seen::Cut).await?;
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

    fn ask(&self, client: &Client, question: &str, said: Said) {
        let mut control = self.lock();
        let text = control.keeping.mark.clone();
        if client.publish(&Parcel::own(self.membership.keeper_asks(question), text, false)) {
            control.asked.push_back(said);
        }
    }

    /// Whether the broker still knows the shared subscription of the session.
    async fn is_known(&self, client: &Client, seen: &mut mpsc::UnboundedReceiver<Seen>) -> Option<bool> {
        self.ask(client, KNOWN, Said::Known);
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
                match covered {
                    true => self.membership.inbox.skip(self.id, arrived.number),
                    false => self.hand(arrived),
                }
            }
        }
    }

    /// A message came to the keeper.
    pub(super) fn kept(&self, arrived: Arrived) {
        let (inbox, number) = (&self.membership.inbox, arrived.number);
        let mut control = self.lock();
        let keeping = &mut control.keeping;
        if arrived.topic == keeping.known {
            return if number == 0 { keeping.seen(Seen::Known) } else { inbox.skip(self.id, number) };
        }
        if number == 0 {
            // Nothing is owed of a message of quality of service 0.
            return;
        }
        if arrived.topic == keeping.cut {
            if arrived.payload == keeping.mark.as_bytes() {
                keeping.phase = Phase::Covered;
                keeping.seen(Seen::Cut);
            }
            return inbox.skip(self.id, number);
        }
        match &mut keeping.phase {
            Phase::Asking(waiting) => waiting.push(arrived),
            Phase::Handing => self.hand(arrived),
            Phase::Covered => inbox.skip(self.id, number),
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

//! The task of one subscription: owns those that read for it, looks for new topics, hears the service's word on settlements.

use std::panic::AssertUnwindSafe;
use std::pin::pin;
use std::sync::Arc;

use futures_util::StreamExt as _;
use futures_util::future::{BoxFuture, FutureExt as _};
use futures_util::stream::FuturesUnordered;
use msgkit::transport::{Settle as _, Subscription, TransportError, TransportErrorKind};
use tokio::task::JoinSet;
use tokio::time::{Instant, MissedTickBehavior, interval_at, timeout};

use super::LEAVE;
use super::known::Known;
use super::member::{Answer, Member, Phase};
use super::source::Source;
use crate::core::{Core, Refusal, closing};
use crate::names::Reader;
use crate::places::{Entries, Readable, Reads};
use crate::wire;

/// The most copies of a delay step that are fetched beyond those in hand.
const COPIES_AHEAD: u32 = 100;

/// Of so many looks for new topics one asks whether what is read still belongs to the topics that are there.
const CHECK: u32 = 10;

type Acks = FuturesUnordered<BoxFuture<'static, Vec<Answer>>>;
/// What the entries say, and the number before which all had come when they were asked for.
type Told = (u64, Result<Arc<Entries>, TransportError>);

/// What a look for new topics has found.
struct Looked {
    readable: Readable,
    /// Whether what was read before belongs to the topics that are there; `None` where that was not asked.
    checked: Option<Result<(), TransportError>>,
}

/// The task of one subscription.
pub(super) struct Driver {
    core: Arc<Core>,
    member: Arc<Member>,
    /// `None` where it reads copies.
    reader: Option<Reader>,
    subscription: Arc<Subscription>,
    known: Arc<Known>,
    /// What is read, with the topic of each.
    reads: Reads,
    /// Each answers what it has found to be gone.
    tasks: JoinSet<Option<String>>,
    /// How many there were.
    sources: usize,
    looks: u32,
    /// When its entries are to be asked for again, where they expire.
    renew_at: Instant,
    /// Of what cannot be read, and of what is read and belongs to another topic.
    refused: Option<Refusal>,
    strange: Option<Refusal>,
}

impl Driver {
    pub(super) fn new(
        core: &Arc<Core>,
        member: Arc<Member>,
        reader: Option<Reader>,
        subscription: Subscription,
        reads: Reads,
    ) -> Self {
        let subscription = Arc::new(subscription);
        let mut driver = Self {
            core: core.clone(),
            member,
            known: Arc::new(Known::new(reader.clone(), subscription.clone())),
            reader,
            subscription,
            reads: Reads::new(),
            tasks: JoinSet::new(),
            sources: 0,
            looks: 0,
            renew_at: Instant::now() + core.config.ephemeral_expiry / 4,
            refused: None,
            strange: None,
        };
        driver.read_also(reads);
        driver
    }

    /// Begins to read what is not read yet.
    fn read_also(&mut self, reads: Reads) {
        let ahead = self.core.config.fetch_ahead;
        for (name, topic) in reads {
            if self.reads.contains_key(&name) {
                continue;
            }
            let group = self.subscription.group.as_ref();
            let suspects =
                group.is_some_and(|group| self.core.names.suspects(group).is_ok_and(|name| name == topic));
            if suspects {
                self.member.suspects(self.sources);
            }
            let source = Source {
                core: self.core.clone(),
                member: self.member.clone(),
                number: self.sources,
                connection: 0,
                implied: self.core.names.implied(&topic),
                reader: self.reader.clone(),
                ahead: match self.reader {
                    // Whoever dies with a suspect fetched and not begun would condemn it.
                    _ if suspects => 0,
                    Some(_) => ahead,
                    None => ahead.min(COPIES_AHEAD),
                },
                subscription: self.subscription.clone(),
                known: self.known.clone(),
                name: name.clone(),
            };
            self.sources += 1;
            self.tasks.spawn(source.run());
            self.reads.insert(name, topic);
        }
    }

    /// Whether the service would soon remove the entries of this reader, which has no group.
    fn expires(&self) -> bool {
        let alone = self.reader.as_ref().is_some_and(|reader| reader.as_group().is_none());
        alone && Instant::now() >= self.renew_at
    }

    /// Looks for topics that have come since. Whatever it takes may be in one of them: where topics share a place, its name is
    /// not that of the topic.
    fn look(&mut self) -> Option<BoxFuture<'static, Result<Looked, TransportError>>> {
        let reader = self.reader.clone()?;
        let (core, subscription) = (self.core.clone(), self.subscription.clone());
        self.looks += 1;
        let reads = self.looks.is_multiple_of(CHECK).then(|| self.reads.clone());
        let expires = self.expires();
        if expires {
            self.renew_at = Instant::now() + core.config.ephemeral_expiry / 4;
        }
        Some(
            async move {
                if expires {
                    core.renew_entries(&reader, &subscription.patterns).await?;
                }
                let checked = match reads {
                    Some(reads) => match core.check_reads(&reader, &subscription.patterns, &reads).await {
                        Err(error) if error.is_temporary() => return Err(error),
                        checked => Some(checked),
                    },
                    None => None,
                };
                // A service that has lost everything has lost these as well, and no stream may notice: it goes on in the subscription
                // that is made again below.
                let entries = core.ensure_entries(&reader, &subscription.patterns).await;
                let mut readable = core.ensure_reads(&reader, &subscription.patterns, [].into()).await?;
                if let Err(error) = entries {
                    readable.refuse(error);
                }
                Ok(Looked { readable, checked })
            }
            .boxed(),
        )
    }

    /// What a look has found: that is read, and what cannot be is told.
    fn found(&mut self, found: Result<Looked, TransportError>) {
        let (refused, checked) = match found {
            Ok(Looked { readable: Readable { reads, made, refused }, checked }) => {
                for name in made.iter().filter(|name| self.reads.contains_key(*name)) {
                    self.core.note_gone(name, self.subscription.group.as_ref());
                }
                if self.member.phase() == Phase::Reads {
                    self.read_also(reads);
                }
                (refused, checked)
            }
            Err(error) => (Some(error), None),
        };
        if let Some(checked) = checked {
            self.strange = checked.err().map(|error| self.member.trouble(&error));
        }
        match refused {
            Some(error) if error.is_temporary() => {
                tracing::warn!(error = %msgkit::Chain(&error), "looking for new topics failed; they are looked for again");
            }
            refused => self.refused = refused.map(|error| self.member.trouble(&error)),
        }
    }

    /// Asks what the group takes, where something came of which nobody here knows.
    fn ask(&self) -> Option<BoxFuture<'static, Told>> {
        let before = self.member.undecided()?;
        let (core, since) = (self.core.clone(), Instant::now());
        Some(async move { (before, core.entries_since(since).await) }.boxed())
    }

    /// Decides by what the entries say.
    fn decide(&self, (before, told): Told) {
        let told = match told {
            Err(error) if error.is_temporary() => {
                tracing::warn!(error = %msgkit::Chain(&error), "asking what the group takes failed; it is asked again");
                return;
            }
            told => told,
        };
        let complete = self.known.learn(told.as_deref(), &self.core.names);
        self.member.decide(before, |topic| !complete || self.known.takes(topic));
    }

    /// Until the receiver leaves or the transport closes.
    pub(super) async fn run(mut self) {
        let mut acks = Acks::new();
        let mut made = self.core.made.subscribe();
        let refresh = self.core.config.topic_refresh;
        let mut looks = interval_at(Instant::now() + refresh, refresh);
        looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut looking: Option<BoxFuture<'static, Result<Looked, TransportError>>> = None;
        // A topic has come while one looks: that look may not see it.
        let mut again = false;
        let mut asking: Option<BoxFuture<'static, Told>> = None;
        let (core, member) = (self.core.clone(), self.member.clone());
        let mut closed = pin!(closing(&core));
        let mut left = pin!(member.reached(Phase::Left));
        loop {
            tokio::select! {
                biased;
                () = &mut closed => break,
                () = &mut left => break,
                () = self.member.settled.notified() => acks.extend(self.member.acks()),
                Some(answers) = acks.next() => self.member.answered(answers),
                () = self.member.unknown.notified(), if asking.is_none() => asking = self.ask(),
                told = answer(&mut asking) => {
                    self.decide(told);
                    // For what came meanwhile.
                    asking = self.ask();
                }
                found = answer(&mut looking) => {
                    self.found(found);
                    looking = if std::mem::take(&mut again) { self.look() } else { None };
                }
                Some(ended) = self.tasks.join_next() => {
                    match ended {
                        // It is found again when it is there again.
                        Ok(Some(gone)) => drop(self.reads.remove(&gone)),
                        Ok(None) => {}
                        Err(_) => self.member.fail(broken_off()),
                    }
                }
                Ok(()) = made.changed() => match looking {
                    Some(_) => again = true,
                    None => looking = self.look(),
                },
                _ = looks.tick(), if looking.is_none() => looking = self.look(),
            }
        }
        // Others may ask now.
        drop(asking);
        self.leave(acks).await;
    }

    /// Until the service has answered for all that is settled.
    async fn confirm(&self, acks: &mut Acks) {
        loop {
            acks.extend(self.member.acks());
            tokio::select! {
                answers = acks.next() => match answers {
                    Some(answers) => self.member.answered(answers),
                    None => return,
                },
                () = self.member.settled.notified() => {}
            }
        }
    }

    /// What goes back is counted as a start, of which a suspect has few. One that nobody can have started goes back as a copy,
    /// which has all of them.
    async fn renew_suspects(&self) {
        let Some(group) = &self.subscription.group else { return };
        let Ok(topic) = self.core.names.suspects(group) else { return };
        while let Some((token, envelope)) = self.member.unstarted() {
            if !self.core.send_apart(&topic, wire::write(&envelope)).await {
                return;
            }
            self.member.done(&mut vec![token]);
        }
    }

    /// Nothing more is fetched; what was settled is told, what is unsettled goes back.
    async fn leave(mut self, mut acks: Acks) {
        self.member.enter(Phase::Stopped);
        if timeout(LEAVE, self.confirm(&mut acks)).await.is_err() {
            tracing::warn!(
                "Pub/Sub did not confirm every settlement in time; what it has not taken comes again"
            );
        }
        self.core.round_trip().await;
        self.member.enter(Phase::Left);
        let _ = timeout(LEAVE / 4, self.renew_suspects()).await;
        // What was settled meanwhile.
        let _ = timeout(LEAVE / 4, self.confirm(&mut acks)).await;
        self.member.give_back();
        let leaving = async { while self.tasks.join_next().await.is_some() {} };
        if timeout(LEAVE / 2, leaving).await.is_err() {
            tracing::warn!("Pub/Sub could not be told what goes back; its leases run out by themselves");
        }
        if let Some(reader) = self.reader.as_ref().filter(|reader| reader.as_group().is_none()) {
            let entries = self
                .subscription
                .patterns
                .iter()
                .filter_map(|pattern| self.core.names.entry(reader, pattern).ok());
            let all: Vec<String> = entries.chain(self.reads.keys().cloned()).collect();
            let _ = timeout(LEAVE / 4, self.core.remove(all)).await;
        }
        self.member.end(None);
    }
}

/// Until `run` is over. Where it breaks off, so does the subscription, and its receiver is told.
pub(super) async fn guarded(run: impl Future<Output = ()>, member: Arc<Member>) {
    if AssertUnwindSafe(run).catch_unwind().await.is_err() {
        member.end(Some(broken_off()));
    }
}

fn broken_off() -> TransportError {
    TransportError::new(TransportErrorKind::Internal, "a task that reads from Pub/Sub broke off")
}

/// The answer to what is asked; where that is nothing, there is none.
async fn answer<T>(asked: &mut Option<BoxFuture<'static, T>>) -> T {
    match asked {
        Some(asked) => asked.await,
        None => std::future::pending().await,
    }
}

#[cfg(test)]
mod tests;

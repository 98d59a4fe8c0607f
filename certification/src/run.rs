//! One run: a broker, a publisher, members, and a scenario that breaks things while they work.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use fastrand::Rng;
use msgkit::transport::{Transport, TransportError};
use msgkit::{Group as GroupName, Message as _};
use msgkit_testing::brokers::FaultProxy;
use tempfile::TempDir;
use tokio::sync::watch;
use tokio::task::{AbortHandle, JoinHandle};
use tokio::time::sleep;

use crate::config::{self, Letters, Opened};
use crate::faults::Faults;
use crate::group::Group;
use crate::journal::Reader;
use crate::ledger::Evidence;
use crate::member::{Death, GROUP};
use crate::message::{Fate, Numbered};
use crate::publisher::{self, BATCH, Progress};
use crate::{Broker, Failure, Ledger, Place, Scenario};

/// How long nothing may move until what is missing counts as stuck. RabbitMQ passes a delayed copy on after three minutes
/// where it was interrupted at it.
const PATIENCE: Duration = Duration::from_secs(240);
/// The same, where the broker had confirmed what is missing and not written it when it was killed.
const QUIET: Duration = Duration::from_secs(60);
/// How often a batch more is published while somebody waits for a member to get to its death.
const TRICKLE: Duration = Duration::from_secs(3);
/// How often journals are read, and waits look around.
const LOOK: Duration = Duration::from_millis(20);

/// How large a run is.
#[derive(Debug, Clone)]
pub struct Plan {
    /// How many messages are published.
    pub messages: u64,
    /// How often the fault happens.
    pub times: u32,
    /// How long something that is away stays away.
    pub outage: Duration,
    /// What everything random comes from.
    pub seed: u64,
    /// The program whose `member` command is a member.
    pub program: PathBuf,
}

/// A run, as its scenario sees it.
#[derive(Debug)]
pub struct Run {
    plan: Plan,
    rng: Rng,
    broker: Arc<dyn Broker>,
    place: Place,
    /// Where dead letters are kept apart behind a network.
    letters: Option<Place>,
    group: Group,
    alone: bool,
    faults: Faults,
    unwritten: BTreeSet<u64>,
    /// Connections broke of which the broker may hear late.
    returns_late: bool,
    book: Arc<Book>,
    publisher: JoinHandle<Result<(), Failure>>,
    reader: AbortHandle,
    directory: TempDir,
}

/// What is known of the run's progress.
#[derive(Debug, Default)]
struct Book {
    journals: Mutex<Journals>,
    progress: watch::Sender<Progress>,
}

#[derive(Debug, Default)]
struct Journals {
    readers: Vec<Reader>,
    handled: BTreeSet<u64>,
}

/// Runs `scenario` on `broker`; dead letters that the scenario wants apart go to `letters`.
///
/// # Errors
/// [`Failure`] where the run could not be brought to its end. A loss is no failure: the [`Ledger`] shows it.
pub async fn certify(
    scenario: &dyn Scenario,
    broker: Arc<dyn Broker>,
    letters: Option<Arc<dyn Broker>>,
    plan: &Plan,
) -> Result<Ledger, Failure> {
    if let Some(why) = broker.cannot(scenario.name()) {
        return Err(Failure::impossible(why));
    }
    let begun = Instant::now();
    let version = broker.version();
    let directory = tempfile::Builder::new().prefix("msgkit-certify-").tempdir()?;
    let place = broker.place(scenario.name()).await?;
    let letters = match letters {
        Some(letters) => Some(letters.place("letters").await?),
        None => None,
    };
    let text = configuration(&place, letters.as_ref(), &directory)?;
    std::fs::write(directory.path().join("config.toml"), &text)?;
    let Opened { subject, letters: kept } = config::open(&text)?;

    let mut group = Group::new(&plan.program, directory.path());
    let book = Arc::new(Book::default());
    for _ in 0..scenario.members() {
        group.join(None).await?;
        book.open(&mut group);
    }
    let lead = publisher::lead(&*broker, scenario.members());
    let unasked = if broker.settles_in_intervals() { lead + BATCH } else { 0 };
    let publisher =
        tokio::spawn(publisher::publish(subject.clone(), plan.messages, lead, book.progress.clone()));
    let reader = tokio::spawn(read(book.clone())).abort_handle();
    let mut run = Run {
        plan: plan.clone(),
        rng: Rng::with_seed(plan.seed),
        broker,
        place,
        letters,
        alone: scenario.members() == 1,
        group,
        faults: Faults::new(unasked),
        unwritten: BTreeSet::new(),
        returns_late: false,
        book,
        publisher,
        reader,
        directory,
    };
    scenario.run(&mut run).await?;
    let evidence = run.rest(&*subject, &*kept).await?;
    if !Arc::ptr_eq(&subject, &kept) {
        kept.close().await?;
    }
    subject.close().await?;
    let mut ledger = Ledger::of(&evidence);
    ledger.title =
        format!("{} · {version} · {} messages · seed {}", scenario.name(), plan.messages, plan.seed);
    ledger.took = begun.elapsed();
    if !ledger.problems().is_empty() {
        run.directory.disable_cleanup(true);
        ledger.kept = Some(run.directory.path().to_owned());
    }
    Ok(ledger)
}

/// Dead letters stay at the broker where it keeps what nobody reads, else they go to a file.
fn configuration(place: &Place, letters: Option<&Place>, directory: &TempDir) -> Result<String, Failure> {
    if let Some(letters) = letters {
        return config::text(place, &Letters::Apart(letters.url.clone()));
    }
    let own = config::text(place, &Letters::Own)?;
    if config::open(&own)?.subject.capabilities().keeps_unread {
        return Ok(own);
    }
    let file = directory.path().join("letters.db");
    config::text(place, &Letters::Apart(format!("sqlite:{}", file.display())))
}

/// What scenarios are made of.
impl Run {
    /// The plan.
    #[must_use]
    pub fn plan(&self) -> &Plan {
        &self.plan
    }

    /// Everything random comes from here.
    pub fn rng(&mut self) -> &mut Rng {
        &mut self.rng
    }

    /// How many members there are.
    #[must_use]
    pub fn members(&self) -> usize {
        self.group.len()
    }

    /// When `times` faults are to happen: after so many confirmed messages each, spread over the run.
    pub fn moments(&mut self, times: u32) -> Vec<u64> {
        let (begin, end) = (self.plan.messages / 20, self.plan.messages * 3 / 4);
        let share = (end - begin) / u64::from(times.max(1));
        (0..u64::from(times)).map(|at| begin + share * at + self.rng.u64(0..share.max(1))).collect()
    }

    /// Lets the publisher go on to a tenth of the run beyond `confirmed`, and no further before the scenario is: whatever
    /// happens happens while messages flow, however slow the machine is.
    fn flow_beyond(&self, confirmed: u64) {
        let limit = confirmed + self.plan.messages / 10;
        self.book.progress.send_modify(|progress| progress.limit = progress.limit.max(limit));
    }

    /// Waits until so many messages are confirmed. More follow.
    ///
    /// # Errors
    /// [`Failure`] where the flow has come to a standstill, the publisher was refused, or a member has ended by itself.
    pub async fn reach(&mut self, confirmed: u64) -> Result<(), Failure> {
        self.flow_beyond(confirmed);
        let mut last = (self.confirmed(), Instant::now());
        while self.confirmed() < confirmed {
            self.look_around().await?;
            if self.confirmed() != last.0 {
                last = (self.confirmed(), Instant::now());
            } else if last.1.elapsed() > PATIENCE {
                let progress = *self.book.progress.borrow();
                let text = format!("nothing was confirmed for {PATIENCE:?}; {progress:?}");
                return Err(self.group.explain(&text));
            }
        }
        Ok(())
    }

    /// Waits until the broker may be killed.
    ///
    /// # Errors
    /// [`Failure`] where it does not answer.
    pub fn settle_broker(&self) -> Result<(), Failure> {
        tokio::task::block_in_place(|| self.broker.settle())
    }

    /// Ends the broker, and starts it again.
    ///
    /// # Errors
    /// [`Failure`] where it does not come back.
    pub fn restart_broker(&mut self, killed: bool) -> Result<(), Failure> {
        let confirmed = self.confirmed();
        let alone = !killed && self.broker.waits_for_callers();
        if alone {
            self.place.network.refuse();
            self.place.network.cut();
        }
        tokio::task::block_in_place(|| self.broker.restart(killed))?;
        if alone {
            self.place.network.heal();
        }
        self.faults.connections(if killed { "broker killed" } else { "broker restarted" }, self.members());
        if self.broker.copies_what_a_group_is_sent() && self.members() > 1 {
            self.faults.on_the_way(publisher::lead(&*self.broker, self.members()) + BATCH);
        }
        if killed && self.broker.confirms_before_it_writes() {
            // The batch that was confirmed last, and those that may have been before the kill came.
            self.unwritten.extend(confirmed.saturating_sub(BATCH)..confirmed + 2 * BATCH);
        }
        Ok(())
    }

    /// Splits a shard, and merges two others.
    ///
    /// # Errors
    /// [`Failure`] where the broker does not.
    pub fn reshard(&mut self) -> Result<(), Failure> {
        tokio::task::block_in_place(|| self.broker.reshard())?;
        self.faults.harmless("shard split and two merged");
        Ok(())
    }

    /// The network between everybody and the broker.
    #[must_use]
    pub fn network(&self) -> &FaultProxy {
        &self.place.network
    }

    /// Notes that every connection to the broker broke.
    pub fn broke_connections(&mut self, what: &str) {
        self.faults.connections(what, self.members());
        self.returns_late = true;
    }

    /// The network between the members and where their dead letters are kept.
    ///
    /// # Errors
    /// [`Failure`] where the scenario has not asked for it.
    pub fn letters(&mut self, what: &str) -> Result<&FaultProxy, Failure> {
        self.faults.connections(what, self.members());
        let missing = || Failure::broken("the scenario has no dead letters apart");
        self.letters.as_ref().map(|place| &place.network).ok_or_else(missing)
    }

    /// One more member.
    ///
    /// # Errors
    /// [`Failure`] where it does not come up.
    pub async fn join(&mut self, dies: Option<(Death, u64)>) -> Result<(), Failure> {
        let before = self.confirmed();
        self.group.join(dies).await?;
        self.book.open(&mut self.group);
        self.alone &= self.group.len() == 1;
        self.changed("member joined", before);
        Ok(())
    }

    /// One member leaves in good order.
    ///
    /// # Errors
    /// [`Failure`] where it does not.
    pub async fn leave(&mut self) -> Result<(), Failure> {
        let before = self.confirmed();
        let index = self.rng.usize(0..self.group.len());
        self.group.leave(index).await?;
        self.changed("member left", before);
        if self.broker.settles_in_intervals() {
            self.faults.given_back();
        }
        Ok(())
    }

    /// SIGKILL for one member, at no particular moment.
    ///
    /// # Errors
    /// What the operating system says against it.
    pub async fn kill(&mut self) -> Result<(), Failure> {
        let index = self.rng.usize(0..self.group.len());
        self.group.kill(index).await?;
        self.faults.member("member killed");
        Ok(())
    }

    /// One member stands still for so long while the others go on; it writes down itself that it did.
    ///
    /// # Errors
    /// [`Failure`] where it has ended.
    pub async fn stand_still(&mut self, time: Duration) -> Result<(), Failure> {
        self.flow_beyond(self.confirmed());
        let index = self.rng.usize(0..self.group.len());
        self.group.stand_still(index, time).await
    }

    /// Waits until the member that joined last has killed itself.
    ///
    /// # Errors
    /// [`Failure`] where it does not get there.
    pub async fn fallen(&mut self, what: &str) -> Result<(), Failure> {
        // One that comes late finds that the others have handled all that there was: it gets its share of what follows, which lasts,
        // in ever smaller parts.
        let (progress, messages) = (&self.book.progress, self.plan.messages);
        let trickle = async {
            loop {
                progress.send_if_modified(|progress| {
                    let waits = progress.confirmed >= progress.limit;
                    let share = (messages.saturating_sub(progress.limit) / 10).clamp(1, BATCH);
                    progress.limit += if waits { share } else { 0 };
                    waits
                });
                sleep(TRICKLE).await;
            }
        };
        tokio::select! {
            fallen = self.group.fallen() => fallen?,
            () = trickle => {}
        }
        self.faults.member(what);
        Ok(())
    }

    fn changed(&mut self, what: &str, before: u64) {
        self.faults.harmless(what);
        if self.broker.doubles_while_members_change() {
            self.faults.on_the_way(self.confirmed() - before + BATCH);
        }
    }

    fn confirmed(&self) -> u64 {
        self.book.progress.borrow().confirmed
    }

    async fn look_around(&mut self) -> Result<(), Failure> {
        sleep(LOOK).await;
        if let Some(failure) = self.group.deserter() {
            return Err(failure);
        }
        if self.publisher.is_finished() && self.confirmed() < self.plan.messages {
            return match (&mut self.publisher).await {
                Ok(Err(failure)) => Err(failure),
                other => Err(Failure::broken(format!("the publisher has ended early: {other:?}"))),
            };
        }
        Ok(())
    }
}

/// The end of a run.
impl Run {
    /// Lets everything come to rest, and gathers what is left.
    async fn rest(&mut self, subject: &dyn Transport, letters: &dyn Transport) -> Result<Evidence, Failure> {
        self.reach(self.plan.messages).await?;
        let mut late = BTreeSet::new();
        if !self.settled(letters).await? {
            let before = self.outcome(letters).await?;
            while !self.group.is_empty() {
                self.group.leave(0).await?;
            }
            self.group.join(None).await?;
            self.book.open(&mut self.group);
            self.settled(letters).await?;
            late = self.outcome(letters).await?.difference(&before).copied().collect();
        }
        // What was handled, and whose settlement was lost on its way, comes again to members: nobody else would take it.
        self.left(subject).await?;
        while !self.group.is_empty() {
            self.group.leave(0).await?;
        }
        let mut left = self.left(subject).await?;
        if left > 0 && self.returns_late {
            // Not every broker tells of what others hold: what lay in a half-open connection may come back after the last has left.
            self.group.join(None).await?;
            self.book.open(&mut self.group);
            self.left(subject).await?;
            self.group.leave(0).await?;
            left = self.left(subject).await?;
        }
        self.reader.abort();
        let dead = dead_letters(letters).await?;
        let (journals, pauses) = self.book.take()?;
        for _ in 0..pauses {
            self.faults.member("member stood still");
        }
        let order = subject.capabilities().key_order;
        Ok(Evidence {
            total: self.plan.messages,
            again: self.book.progress.borrow().again,
            journals,
            dead,
            late,
            left,
            unwritten: std::mem::take(&mut self.unwritten),
            order,
            alone: self.alone,
            faults: self.faults.clone(),
        })
    }

    /// Waits until every message has come to its end; false where nothing moves any more.
    async fn settled(&mut self, letters: &dyn Transport) -> Result<bool, Failure> {
        let condemned = Fate::condemned(self.plan.messages);
        let mut last = (0, Instant::now());
        loop {
            self.look_around().await?;
            let handled = self.book.progress.borrow().handled;
            // Asking a broker for its dead letters costs something, so it is asked when nothing else is missing.
            let dead = if handled + condemned < self.plan.messages {
                0
            } else {
                sleep(Duration::from_millis(500)).await;
                dead_letters(letters).await?.into_iter().map(|(n, _)| n).collect::<BTreeSet<_>>().len() as u64
            };
            if handled + dead >= self.plan.messages {
                return Ok(true);
            }
            if handled + dead != last.0 {
                last = (handled + dead, Instant::now());
            } else if last.1.elapsed() > PATIENCE
                || (last.1.elapsed() > QUIET && self.waits_for_the_unwritten())
            {
                return Ok(false);
            }
        }
    }

    /// Whether something is missing, and nothing that the broker cannot have forgotten when it was killed.
    fn waits_for_the_unwritten(&self) -> bool {
        let handled = &self.book.lock().handled;
        let comes = |n: &u64| Fate::of(*n) != Fate::Condemned && !handled.contains(n);
        let mut missing = (0..self.plan.messages).filter(comes).peekable();
        missing.peek().is_some() && missing.all(|n| self.unwritten.contains(&n))
    }

    /// What has come to its end.
    async fn outcome(&self, letters: &dyn Transport) -> Result<BTreeSet<u64>, Failure> {
        let mut all = self.book.lock().handled.clone();
        all.extend(dead_letters(letters).await?.into_iter().map(|(n, _)| n));
        Ok(all)
    }

    /// What the broker says that the group has left, where it tells, once its word has settled.
    async fn left(&self, subject: &dyn Transport) -> Result<u64, Failure> {
        let Some(operate) = subject.operate().filter(|_| subject.capabilities().lag) else { return Ok(0) };
        let begun = Instant::now();
        loop {
            let groups = answered(|| operate.groups()).await?;
            let left = groups.iter().map(|of| of.waiting + of.delayed + of.in_hand.unwrap_or_default()).sum();
            if left == 0 || begun.elapsed() > Duration::from_secs(30) {
                return Ok(left);
            }
            sleep(LOOK).await;
        }
    }
}

impl Drop for Run {
    fn drop(&mut self) {
        self.reader.abort();
        self.publisher.abort();
    }
}

impl Book {
    fn lock(&self) -> std::sync::MutexGuard<'_, Journals> {
        self.journals.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn open(&self, group: &mut Group) {
        self.lock().readers.extend(group.journals());
    }

    fn refresh(&self) -> std::io::Result<()> {
        let Journals { readers, handled } = &mut *self.lock();
        for reader in readers {
            let known = reader.entries.len();
            reader.refresh()?;
            handled.extend(reader.entries[known..].iter().map(|entry| entry.n));
        }
        let handled = handled.len() as u64;
        self.progress.send_if_modified(|progress| {
            let before = std::mem::replace(&mut progress.handled, handled);
            before != handled
        });
        Ok(())
    }

    /// Every journal to its end, after all members are gone; and how often one of them stood still.
    fn take(&self) -> std::io::Result<(Vec<Vec<crate::journal::Entry>>, u64)> {
        self.refresh()?;
        let readers = std::mem::take(&mut self.lock().readers);
        let pauses = readers.iter().map(|reader| reader.pauses).sum();
        Ok((readers.into_iter().map(|reader| reader.entries).collect(), pauses))
    }
}

/// Follows the journals for as long as the run lasts.
async fn read(book: Arc<Book>) {
    while book.refresh().is_ok() {
        sleep(LOOK).await;
    }
}

/// Asks until there is an answer: the fault may have met the connection that asks, too.
async fn answered<T, F>(mut ask: impl FnMut() -> F) -> Result<T, Failure>
where
    F: Future<Output = Result<T, TransportError>>,
{
    let begun = Instant::now();
    loop {
        match ask().await {
            Err(error) if error.is_temporary() && begun.elapsed() < PATIENCE => sleep(LOOK).await,
            answer => return Ok(answer?),
        }
    }
}

/// The numbers of all dead letters, and why each is one.
async fn dead_letters(letters: &dyn Transport) -> Result<Vec<(u64, String)>, Failure> {
    let unable = || Failure::broken("the transport that keeps the dead letters cannot list them");
    let operate = letters.operate().ok_or_else(unable)?;
    let group = GroupName::new(GROUP)?;
    let mut all = Vec::new();
    for letter in answered(|| operate.dead_letters(&group, None, 1_000_000)).await? {
        let envelope = letter.message.envelope();
        let number = envelope.and_then(|envelope| Some(Numbered::decode(envelope).ok()?.n));
        let why = envelope
            .and_then(|envelope| envelope.dead_letter())
            .map(|facts| format!("{} {}", facts.kind, facts.error));
        match number {
            Some(n) => all.push((n, why.unwrap_or_default())),
            None => return Err(Failure::broken(format!("a dead letter that nobody published: {letter:?}"))),
        }
    }
    Ok(all)
}

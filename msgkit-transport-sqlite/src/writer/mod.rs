//! The one task of a process that writes: whatever comes while a commit runs is the next commit (group commit).
//!
//! A *turn* is one transaction. It settles what was handled, answers what was asked, wakes what is due, publishes, and
//! claims for those who wait, in this order, so that a message can be published and claimed in one commit. Nothing is
//! answered before the commit; where it fails, everything stays as it was and is tried again or refused.

mod claims;
mod commit;
mod groups;
mod leases;
mod letters;
mod publish;

use std::collections::VecDeque;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use msgkit::envelope::{Clock, Timestamp};
use msgkit::transport::TransportError;
use sqlx::{Connection, Row, SqliteConnection};
use tokio::sync::{Notify, mpsc};
use tokio::time::{Instant, sleep_until, timeout_at};

use self::commit::Commit;
use self::groups::Groups;
use self::publish::Progress;
use crate::config::{SqliteConfig, Synchronous};
use crate::error::{Failure, keeps_connection};
use crate::member::{Claimed, Member, Settled};
use crate::schema;
use crate::store::{Command, Counters, Publication, Reply, Wanted, closed};
use crate::wire::json_list;

/// The most messages that one commit publishes: a longer one keeps other processes out for too long.
const MOST_PUBLISHED: usize = 4096;
/// The most bytes that one commit publishes, the last message not counted.
const MOST_BYTES: usize = 8 << 20;
/// The first pause after a failed commit; it doubles up to [`LONGEST_PAUSE`].
const FIRST_PAUSE: Duration = Duration::from_millis(20);
const LONGEST_PAUSE: Duration = Duration::from_secs(1);

/// A subscription that is served.
struct Seat {
    member: Arc<Member>,
    /// Its row; a process that was taken for dead gets new ones.
    id: i64,
    group: i64,
    wanted: Wanted,
    /// Whether the last claim found less than was wanted and nothing has changed since.
    dry: bool,
}

pub(crate) struct Writer {
    connection: Option<SqliteConnection>,
    file: PathBuf,
    config: SqliteConfig,
    clock: Clock,
    commands: mpsc::Receiver<Command>,
    wake: Arc<Notify>,
    counters: Arc<Counters>,
    /// This process' row, while it has subscriptions.
    process: Option<i64>,
    groups: Groups,
    seats: Vec<Seat>,
    publications: VecDeque<Publication>,
    asked: Vec<Command>,
    closing: Option<Option<Reply>>,
    /// `PRAGMA data_version` at the last look: changes when another connection commits.
    version: i64,
    /// Whether another process has changed something, so that publications in front of a full group are tried again.
    changed: bool,
    next_due: Option<i64>,
    next_beat: Instant,
    /// The last sign of life, and whether nobody was buried with it.
    last_beat: Option<Timestamp>,
    spared: bool,
    next_poll: Instant,
    synchronous: Option<Synchronous>,
    pause: Option<(Instant, Duration)>,
}

/// What a turn does, and what to tell whom once it is committed.
#[derive(Default)]
struct Turn {
    settled: Vec<(Arc<Member>, Settled)>,
    answers: Vec<(Reply, Result<(), TransportError>)>,
    joined: Vec<Seat>,
    left: Vec<i64>,
    progress: Vec<Progress>,
    claimed: Vec<(Arc<Member>, Vec<Claimed>)>,
    lost_leases: u64,
    /// This process' row, and its members' rows and groups, where the turn replaced them.
    before: Option<Before>,
    next_due: Option<i64>,
    beaten: bool,
    /// Nobody was buried, for this process stood still.
    spared: bool,
}

/// What was before this process took its place again.
struct Before {
    process: Option<i64>,
    seats: Vec<(Arc<Member>, i64, i64)>,
}

impl Writer {
    #[allow(clippy::too_many_arguments, reason = "called once; each is a part of the store")]
    pub(crate) fn new(
        connection: SqliteConnection,
        file: PathBuf,
        config: SqliteConfig,
        clock: Clock,
        commands: mpsc::Receiver<Command>,
        wake: Arc<Notify>,
        counters: Arc<Counters>,
    ) -> Self {
        Self {
            connection: Some(connection),
            file,
            config,
            clock,
            commands,
            wake,
            counters,
            process: None,
            groups: Groups::default(),
            seats: Vec::new(),
            publications: VecDeque::new(),
            asked: Vec::new(),
            closing: None,
            version: 0,
            changed: false,
            next_due: None,
            next_beat: Instant::now(),
            last_beat: None,
            spared: false,
            next_poll: Instant::now(),
            synchronous: None,
            pause: None,
        }
    }

    /// Runs until the transport is closed, or nobody holds it any more.
    pub(crate) async fn run(mut self) {
        loop {
            self.gather().await;
            if self.closing.is_some() {
                return self.finish().await;
            }
            self.expire();
            if self.has_work() {
                self.turn().await;
            } else {
                self.answer_flushes();
            }
        }
    }

    /// Takes what has come; waits where there is nothing to do.
    async fn gather(&mut self) {
        if let Some((until, _)) = self.pause {
            // What comes in the meantime waits in the channel, which is bounded.
            sleep_until(until).await;
        } else if !self.has_work() {
            let until = self.next_look();
            tokio::select! {
                biased;
                command = self.commands.recv() => match command {
                    Some(command) => self.accept(command),
                    None => self.closing = Some(None),
                },
                () = self.wake.notified() => {}
                () = sleep_until(until) => {}
            }
        }
        while self.closing.is_none() && self.waiting_parcels() < MOST_PUBLISHED {
            match self.commands.try_recv() {
                Ok(command) => self.accept(command),
                Err(mpsc::error::TryRecvError::Empty) => break,
                Err(mpsc::error::TryRecvError::Disconnected) => self.closing = Some(None),
            }
        }
        if Instant::now() >= self.next_poll && self.is_waiting() {
            self.poll().await;
        }
    }

    fn accept(&mut self, command: Command) {
        match command {
            Command::Publish(publication) => self.publications.push_back(publication),
            Command::Close { reply } => self.closing = Some(Some(reply)),
            other => self.asked.push(other),
        }
    }

    fn waiting_parcels(&self) -> usize {
        let new = self.publications.iter().filter(|publication| publication.full.is_none());
        new.map(|publication| publication.parcels.len() - publication.taken).sum()
    }

    /// Whether somebody waits for what another process does.
    fn is_waiting(&self) -> bool {
        !self.publications.is_empty() || self.seats.iter().any(|seat| seat.member.wanted() > 0)
    }

    /// When to look again though nothing came.
    fn next_look(&self) -> Instant {
        let mut next = Instant::now() + Duration::from_secs(3600);
        if self.is_waiting() {
            next = next.min(self.next_poll);
        }
        if self.beats() {
            next = next.min(self.next_beat);
        }
        if let Some(due) = self.next_due.filter(|_| !self.seats.is_empty()) {
            next = next.min(self.clock.instant_of(Timestamp::from_micros(due)));
        }
        self.publications.iter().fold(next, |next, publication| next.min(publication.deadline))
    }

    /// Whether this process gives signs of life, and looks for those of others.
    fn beats(&self) -> bool {
        !self.seats.is_empty() || !self.publications.is_empty()
    }

    fn is_due(&self) -> bool {
        !self.seats.is_empty() && self.next_due.is_some_and(|due| due <= self.clock.now().as_micros())
    }

    fn has_work(&self) -> bool {
        self.asked.iter().any(|command| !matches!(command, Command::Flush { .. }))
            || self.publications.iter().any(|publication| self.changed || publication.full.is_none())
            || self.seats.iter().any(|seat| {
                seat.member.has_settled() || seat.member.has_left() || (!seat.dry && seat.member.wanted() > 0)
            })
            || (self.beats() && Instant::now() >= self.next_beat)
            || self.is_due()
    }

    /// Refuses publications that waited for too long.
    fn expire(&mut self) {
        let now = Instant::now();
        let mut index = 0;
        while let Some(publication) = self.publications.get(index) {
            let late = publication.full.is_some() && publication.deadline <= now;
            if (late || !publication.is_wanted())
                && let Some(publication) = self.publications.remove(index)
            {
                let group = publication.full.clone().unwrap_or_default();
                let error = TransportError::full(&group, self.config.capacity, self.config.publish_timeout);
                publication.refuse(error);
            } else {
                index += 1;
            }
        }
    }

    /// Everything handed over before was committed.
    fn answer_flushes(&mut self) {
        for command in self.asked.drain(..) {
            if let Command::Flush { reply } = command {
                let _ = reply.send(Ok(()));
            }
        }
    }

    /// Looks whether another process has committed something that somebody here waits for. Takes no lock.
    async fn poll(&mut self) {
        self.next_poll = Instant::now() + self.config.poll_interval;
        let Some(connection) = &mut self.connection else { return };
        match look(connection, self.version, &mut self.seats).await {
            Ok(None) => {}
            Ok(Some((version, next_due))) => {
                self.version = version;
                self.next_due = next_due;
                self.changed = true;
            }
            // The next turn tells.
            Err(error) => tracing::debug!(error = %error, "looking for changes of other processes failed"),
        }
    }

    /// One transaction, and what follows from its end.
    async fn turn(&mut self) -> Option<Failure> {
        let mut turn = Turn::default();
        let committed = match self.connect().await {
            Ok(mut connection) => {
                let result = self.write(&mut connection, &mut turn).await;
                match &result {
                    Ok(()) => self.connection = Some(connection),
                    Err(error) if keeps_connection(error) => {
                        if sqlx::raw_sql("ROLLBACK").execute(&mut connection).await.is_ok()
                            || !is_in_transaction(error)
                        {
                            self.connection = Some(connection);
                        }
                    }
                    // Dropping a connection rolls back.
                    Err(_) => drop(connection),
                }
                result.map_err(|error| Failure::of(&self.file, error))
            }
            Err(failure) => Err(failure),
        };
        match committed {
            Ok(()) => {
                self.pause = None;
                self.apply(turn);
                None
            }
            Err(failure) => {
                self.undo(turn, &failure);
                Some(failure)
            }
        }
    }

    async fn connect(&mut self) -> Result<SqliteConnection, Failure> {
        match self.connection.take() {
            Some(connection) => Ok(connection),
            None => {
                self.synchronous = None;
                schema::open(&self.file, self.config.busy_timeout).await
            }
        }
    }

    async fn write(&mut self, connection: &mut SqliteConnection, turn: &mut Turn) -> Result<(), sqlx::Error> {
        // Settlements first: what was handed over before a flush was asked for is in this commit.
        for seat in &self.seats {
            let settled = seat.member.take_settled();
            if !settled.is_empty() {
                turn.settled.push((seat.member.clone(), settled));
            }
        }
        self.set_synchronous(connection).await?;
        let deadline = Instant::now() + self.config.busy_timeout;
        let now = self.clock.now().as_micros();
        let mut commit = Commit::begin(connection, deadline, now, self.process).await?;
        if commit.version != self.version {
            self.version = commit.version;
            self.seats.iter_mut().for_each(|seat| seat.dry = false);
        }
        self.groups.refresh(&mut commit).await?;
        if self.beats() && Instant::now() >= self.next_beat || commit.is_forgotten {
            self.beat(&mut commit, turn).await?;
            turn.beaten = true;
        }
        self.settle(&mut commit, turn).await?;
        self.leave(&mut commit, turn).await?;
        // First what has become due: a message that a new group finds retained must have its final number by then.
        if commit.next_due.is_some_and(|due| due <= now) {
            commit.wake_due().await?;
        }
        self.answer(&mut commit, turn).await?;
        self.publish(&mut commit, turn).await?;
        self.claim(&mut commit, turn).await?;
        turn.next_due = commit.next_due;
        commit.end().await
    }

    /// Only what was published has to be on the disk: a claim or a settlement that a power cut takes back costs a
    /// duplicate, and comes to the disk with the next commit that is synchronous.
    async fn set_synchronous(&mut self, connection: &mut SqliteConnection) -> Result<(), sqlx::Error> {
        let publishes = !self.publications.is_empty() || !self.asked.is_empty();
        let wanted = if publishes { self.config.synchronous } else { Synchronous::Normal };
        if self.synchronous != Some(wanted) {
            let pragma = match wanted {
                Synchronous::Full => "PRAGMA synchronous = FULL",
                Synchronous::Normal => "PRAGMA synchronous = NORMAL",
            };
            // Not prepared: it takes effect when it is compiled.
            sqlx::raw_sql(pragma).execute(connection).await?;
            self.synchronous = Some(wanted);
        }
        Ok(())
    }

    /// Answers what was asked; what it needs of other turns comes before it.
    async fn answer(&mut self, commit: &mut Commit<'_>, turn: &mut Turn) -> Result<(), sqlx::Error> {
        let process = match self.process {
            None if self.asked.iter().any(|command| matches!(command, Command::Subscribe { .. })) => {
                self.remember(turn);
                let process = commit.enter(self.config.lease).await?;
                self.process = Some(process);
                Some(process)
            }
            known => known,
        };
        let mut asked = std::mem::take(&mut self.asked).into_iter();
        let result = async {
            for command in asked.by_ref() {
                let (reply, answer) = match command {
                    Command::Declare { wanted, reply } => {
                        // The reply is told of a failure too, whatever happens from here on.
                        turn.answers.push((reply, Ok(())));
                        for wanted in &wanted {
                            self.groups.ensure(commit, wanted, process).await?;
                        }
                        continue;
                    }
                    Command::Subscribe { wanted, member, reply } => {
                        turn.answers.push((reply, Ok(())));
                        let group = self.groups.ensure(commit, &wanted, process).await?;
                        let id = commit.join(process, group).await?;
                        turn.joined.push(Seat { member, id, group, wanted, dry: false });
                        continue;
                    }
                    Command::Replay { group, position, reply } => {
                        turn.answers.push((reply, Ok(())));
                        let answer = commit.replay(self.groups.id_of(&group), &group, position).await?;
                        if let Some(last) = turn.answers.last_mut() {
                            last.1 = answer;
                        }
                        continue;
                    }
                    Command::Remove { group, position, reply } => {
                        turn.answers.push((reply, Ok(())));
                        let answer = commit.remove_dead_letter(&group, position).await?;
                        if let Some(last) = turn.answers.last_mut() {
                            last.1 = answer;
                        }
                        continue;
                    }
                    Command::Flush { reply } => (reply, Ok(())),
                    Command::Publish(_) | Command::Close { .. } => continue,
                };
                turn.answers.push((reply, answer));
            }
            Ok(())
        }
        .await;
        self.asked = asked.collect();
        result
    }

    /// Keeps what this turn is about to replace, for the case that it is rolled back.
    fn remember(&self, turn: &mut Turn) {
        turn.before.get_or_insert_with(|| Before {
            process: self.process,
            seats: self.seats.iter().map(|seat| (seat.member.clone(), seat.id, seat.group)).collect(),
        });
    }

    /// The turn is committed: everybody is told.
    fn apply(&mut self, turn: Turn) {
        self.changed = false;
        self.next_due = turn.next_due;
        if turn.beaten {
            self.next_beat = Instant::now() + self.config.lease / 3;
            (self.last_beat, self.spared) = (Some(Timestamp::now()), turn.spared);
        }
        self.counters.lost_leases.fetch_add(turn.lost_leases, Ordering::Relaxed);
        self.seats.retain(|seat| {
            let stays = !turn.left.contains(&seat.id);
            if !stays {
                seat.member.dismiss();
            }
            stays
        });
        self.seats.extend(turn.joined);
        for (reply, answer) in turn.answers {
            let _ = reply.send(answer);
        }
        self.confirm(turn.progress);
        for (member, claimed) in turn.claimed {
            member.give(claimed);
        }
        // Whoever joins gives a sign with that; of one that waits for nothing none is due.
        self.last_beat = if self.beats() { self.last_beat.or_else(|| Some(Timestamp::now())) } else { None };
    }

    /// The turn is rolled back: settlements are kept for the next, everybody else is told why.
    fn undo(&mut self, turn: Turn, failure: &Failure) {
        tracing::warn!(file = %self.file.display(), %failure, "a commit failed");
        self.groups.forget();
        for (member, settled) in turn.settled {
            member.put_settled_back(settled);
        }
        let asked = std::mem::take(&mut self.asked).into_iter().filter_map(|command| match command {
            Command::Declare { reply, .. }
            | Command::Subscribe { reply, .. }
            | Command::Replay { reply, .. }
            | Command::Remove { reply, .. }
            | Command::Flush { reply } => Some(reply),
            Command::Publish(_) | Command::Close { .. } => None,
        });
        for reply in turn.answers.into_iter().map(|(reply, _)| reply).chain(asked) {
            let _ = reply.send(Err(failure.to_error()));
        }
        for publication in self.publications.drain(..) {
            publication.refuse(failure.to_error());
        }
        if let Some(before) = turn.before {
            self.process = before.process;
            for (member, id, group) in before.seats {
                for seat in self.seats.iter_mut().filter(|seat| Arc::ptr_eq(&seat.member, &member)) {
                    (seat.id, seat.group) = (id, group);
                }
            }
        }
        for seat in &mut self.seats {
            // What this turn has learnt of empty queues is as void as the rest of it.
            seat.dry = false;
            seat.member.fail(failure);
        }
        let pause = self.pause.map_or(FIRST_PAUSE, |(_, pause)| LONGEST_PAUSE.min(pause * 2));
        self.pause = Some((Instant::now() + pause, pause));
    }

    /// Commits what was handed over, gives back what is in hand, and goes.
    async fn finish(mut self) {
        self.pause = None;
        let reply = self.closing.take().flatten();
        for seat in &self.seats {
            seat.member.close();
            seat.member.leave();
        }
        let mut failure = None;
        while failure.is_none() && self.has_work() {
            failure = self.turn().await;
        }
        for publication in self.publications.drain(..) {
            publication.refuse(closed());
        }
        if let Some(mut connection) = self.connection.take() {
            if let (None, Some(process)) = (&failure, self.process) {
                let gone = sqlx::query("DELETE FROM msgkit_process WHERE id = ?1");
                // Where this fails its lease runs out.
                let _ = gone.bind(process).execute(&mut connection).await;
            }
            // The last one out tidies the file up; somebody else who is slow must not hold this one.
            let _ = timeout_at(Instant::now() + self.config.busy_timeout, connection.close()).await;
        }
        if let Some(reply) = reply {
            let _ = reply.send(failure.map_or(Ok(()), |failure| Err(failure.to_error())));
        }
    }
}

/// Whether the failed statement can have left a transaction open: the one that begins it has not.
fn is_in_transaction(error: &sqlx::Error) -> bool {
    !crate::error::is_busy(error)
}

const LOOK: &str = "PRAGMA data_version";
const DUE: &str = "SELECT min(due) FROM msgkit_delayed";
const READY: &str = "
    SELECT value FROM json_each(?1)
    WHERE EXISTS (SELECT 1 FROM msgkit_queue WHERE grp = value AND member IS NULL)";

/// Reads what changed since `version`: the new version and when the next message is due.
async fn look(
    connection: &mut SqliteConnection,
    version: i64,
    seats: &mut [Seat],
) -> Result<Option<(i64, Option<i64>)>, sqlx::Error> {
    let now: i64 = sqlx::query(LOOK).fetch_one(&mut *connection).await?.try_get(0)?;
    if now == version {
        return Ok(None);
    }
    let due = sqlx::query(DUE).fetch_one(&mut *connection).await?.try_get(0)?;
    let waiting: Vec<i64> = seats.iter().filter(|seat| seat.dry).map(|seat| seat.group).collect();
    if !waiting.is_empty() {
        for row in sqlx::query(READY).bind(json_list(waiting)).fetch_all(&mut *connection).await? {
            let group: i64 = row.try_get(0)?;
            seats.iter_mut().filter(|seat| seat.group == group).for_each(|seat| seat.dry = false);
        }
    }
    Ok(Some((now, due)))
}

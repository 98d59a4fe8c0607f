//! The table of leases, as one member sees and changes it: signs of life, a look at the others, a fair share. What was handed
//! out and settled is written down by `writer.rs`; new shards are put into the table by `seeker.rs`.
//!
//! Who dies anywhere in here leaves rows that others understand: a lease without its owner's sign of life is taken by
//! somebody else, who begins at its checkpoint; a shard that is done and whose children are not in the table yet is found by
//! the next look for new shards.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt as _;
use futures_util::future::join_all;
use msgkit::transport::TransportErrorKind;
use tokio::task::JoinHandle;
use tokio::time::Instant;

use super::Member;
use super::others::Others;
use super::state::{Held, State, lost};
use crate::error::Failure;
use crate::group::patterns_of;
use crate::lease::{Change, Lease, LeaseRow};

pub(super) const MEMBER: &str = "member/";
/// The least time between two looks at the group's patterns where what they do not match has come.
const LOOK: Duration = Duration::from_secs(1);

/// For how many leases a shard stays that was to go and could not.
const STAYS: u32 = 4;

/// What the keeper knows that nobody else does.
pub(super) struct Keeper {
    pub(super) id: String,
    /// The version of its own row; 0 = not there.
    version: u64,
    pub(super) others: Others,
    readers: HashMap<u64, JoinHandle<()>>,
    seeker: JoinHandle<()>,
    pub(super) next_round: Instant,
    /// Not before then the group's patterns are looked at again, other than with a sign of life.
    next_look: Instant,
    pub(super) warned: bool,
}

/// A lease as the table has it.
struct Row {
    lease: Lease,
    version: u64,
}

impl Member {
    /// Keeps the leases until the member leaves. A panic in here is noticed: nobody else would say that nothing comes any more.
    pub(super) async fn keep(self: Arc<Self>) {
        if AssertUnwindSafe(self.clone().work()).catch_unwind().await.is_ok() {
            return;
        }
        let mut state = self.lock();
        state.lose_all();
        state.gone = true;
        drop(state);
        let text = "the task that keeps the leases has panicked: a bug; others take its shards when its leases have expired";
        tracing::error!(space = %self.space, "{text}");
        self.fail(TransportErrorKind::Internal, text.to_owned());
        self.room.notify_waiters();
        self.kept.notify_waiters();
        self.look.notify_one();
    }

    async fn work(self: Arc<Self>) {
        let now = Instant::now();
        let mut keeper = Keeper {
            id: new_id(),
            version: 0,
            others: Others::new(),
            readers: HashMap::new(),
            seeker: tokio::spawn(self.clone().seek()),
            next_round: now,
            next_look: now,
            warned: false,
        };
        loop {
            let (asked, quitting, doubt, flushes) = {
                let mut state = self.lock();
                let flushes = state.flush_asked;
                // Who cannot go on leaves what it has to others.
                let quitting = state.quitting || state.failure.is_some();
                (std::mem::take(&mut state.round_asked), quitting, state.is_in_doubt(), flushes)
            };
            let flush = flushes > self.lock().flush_done;
            let now = Instant::now();
            let round = asked || now >= keeper.next_round;
            // Whoever flushes or leaves would find what is settled behind something undecided again.
            if doubt && (flush || quitting || (!round && now >= keeper.next_look)) {
                self.look(&mut keeper).await;
            }
            self.write_down(&mut keeper, round || quitting, flushes).await;
            if quitting {
                self.leave(&mut keeper).await;
                return;
            }
            let worked = if round { self.round(&mut keeper).await } else { Ok(()) };
            if round {
                keeper.next_round = Instant::now() + self.core.config.heartbeat;
            }
            match worked {
                Ok(()) if round => {
                    keeper.warned = false;
                    let mut state = self.lock();
                    (state.kept, state.trouble) = (Instant::now(), None);
                }
                Ok(()) => {}
                Err(failure) => {
                    self.lock().trouble = Some(msgkit::Chain(&failure.error).to_string());
                    self.complain(&mut keeper.warned, &failure);
                }
            }
            self.kept.notify_waiters();
            let next = match self.lock().is_in_doubt() {
                true => keeper.next_round.min(keeper.next_look),
                false => keeper.next_round,
            };
            tokio::select! {
                () = self.due.notified() => {}
                () = tokio::time::sleep_until(next) => {}
            }
        }
    }

    /// Tells what does not work: the log once, the receiver where it does not pass by itself.
    pub(super) fn complain(&self, warned: &mut bool, failure: &Failure) {
        let text = msgkit::Chain(&failure.error).to_string();
        if failure.error.kind() == TransportErrorKind::Refused {
            self.fail(TransportErrorKind::Refused, text);
        } else if !std::mem::replace(warned, true) {
            tracing::warn!(space = %self.space, error = text, "the leases cannot be kept; trying again");
        }
    }

    /// Nothing comes any more, which does not pass by itself.
    pub(super) fn fail(&self, kind: TransportErrorKind, text: String) {
        self.lock().failure = Some((kind, text));
        self.arrived.notify_one();
        self.due.notify_one();
    }

    /// Somebody else has the lease: we were taken for dead.
    pub(super) fn lost(&self, keeper: &mut Keeper, generation: u64, lease: &Lease) {
        self.end_reader(keeper, generation);
        self.lock().lose(generation);
        tracing::warn!(stream = %lease.stream, shard = %lease.shard, "the lease is lost; its messages come again elsewhere");
    }

    pub(super) fn end_reader(&self, keeper: &mut Keeper, generation: u64) {
        if let Some(reader) = keeper.readers.remove(&generation) {
            reader.abort();
        }
    }

    /// Writes down everything, gives back every lease, and is a member no more.
    async fn leave(&self, keeper: &mut Keeper) {
        keeper.seeker.abort();
        for (_, reader) in keeper.readers.drain() {
            reader.abort();
        }
        let held: Vec<(Lease, u64, bool)> = {
            let mut state = self.lock();
            let all = state.held.values();
            let held = all.map(|held| (held.lease.clone(), held.version, held.owes())).collect();
            state.give_up_all();
            held
        };
        let given = held.into_iter().map(|(mut lease, version, owes)| async move {
            lease.release();
            let change = &lease.to_json();
            let given = self.store.swap(&self.space, Change::write(&lease.key(), version, change)).await;
            if owes && !matches!(given, Ok(true)) {
                self.lock().unflushed = Some(lost(&lease));
            }
            given
        });
        let mut error = join_all(given).await.into_iter().find_map(Result::err);
        if keeper.version > 0 {
            let key = format!("{MEMBER}{}", keeper.id);
            let removed = self.store.swap(&self.space, Change::remove(&key, keeper.version)).await;
            error = error.or(removed.err());
        }
        let mut state = self.lock();
        state.gone = true;
        let lost = state.unflushed.take();
        state.flush_error = error.map(|error| msgkit::Chain(&error).to_string()).or(lost);
        drop(state);
        self.kept.notify_waiters();
    }

    /// Looks which patterns the group has by now, because there are messages that the known ones do not match.
    async fn look(&self, keeper: &mut Keeper) {
        keeper.next_look = Instant::now() + LOOK;
        let look = self.lock().begin_look();
        match self.store.load(&self.space).await {
            Ok(rows) => self.looked(look, &rows),
            Err(error) => self.complain(&mut keeper.warned, &error.into()),
        }
    }

    fn looked(&self, look: u64, rows: &[LeaseRow]) {
        // A delay step has all that is in its stream.
        let patterns = if self.subscription.retry_step.is_some() { Vec::new() } else { patterns_of(rows) };
        self.lock().looked(look, patterns);
        self.arrived.notify_one();
        self.room.notify_waiters();
        self.due_if_leaving();
    }

    /// A sign of life, a look at the others, and a fair share.
    async fn round(self: &Arc<Self>, keeper: &mut Keeper) -> Result<(), Failure> {
        self.sign_of_life(keeper).await?;
        keeper.next_look = Instant::now() + LOOK;
        let look = self.lock().begin_look();
        let rows = self.store.load(&self.space).await?;
        self.looked(look, &rows);
        let alive = self.alive(keeper, &rows).await?;
        let table = table(&rows);
        self.compare(keeper, &table);
        self.revive(keeper);
        self.share(keeper, &alive, table).await
    }

    async fn sign_of_life(&self, keeper: &mut Keeper) -> Result<(), Failure> {
        let began = Instant::now();
        let (key, row) = (format!("{MEMBER}{}", keeper.id), self.own_row());
        let before = keeper.version;
        if !self.store.swap(&self.space, Change::write(&key, before, &row)).await? {
            if before > 0 {
                tracing::warn!(space = %self.space, "taken for dead: all leases are lost, their messages come again");
            }
            for (_, reader) in keeper.readers.drain() {
                reader.abort();
            }
            self.lock().lose_all();
            // Under another name, so that nobody takes what is left of the old one for alive.
            keeper.id = new_id();
            keeper.version = 0;
            let key = format!("{MEMBER}{}", keeper.id);
            if !self.store.swap(&self.space, Change::write(&key, 0, &row)).await? {
                return Ok(());
            }
        }
        keeper.version += 1;
        // A fifth less than the others wait, counted from before the call.
        self.lock().alive_until = began + self.core.config.lease.mul_f64(0.8);
        self.arrived.notify_one();
        Ok(())
    }

    /// What the table says of the leases held: those of others are lost.
    fn compare(&self, keeper: &mut Keeper, table: &BTreeMap<String, Row>) {
        let state = self.lock();
        let lost: Vec<(u64, Lease)> = state
            .held
            .iter()
            .filter(|(_, held)| {
                table.get(&held.lease.key()).is_none_or(|row| {
                    row.version > held.version || row.lease.owner.as_deref() != Some(keeper.id.as_str())
                })
            })
            .map(|(generation, held)| (*generation, held.lease.clone()))
            .collect();
        drop(state);
        for (generation, lease) in lost {
            self.lost(keeper, generation, &lease);
        }
    }

    /// Begins again what has panicked: a reader whose shard is neither lost nor at its end, and the seeker, who ends never.
    fn revive(self: &Arc<Self>, keeper: &mut Keeper) {
        if keeper.seeker.is_finished() {
            tracing::error!(space = %self.space, "looking for new shards has panicked: a bug; it begins again");
            keeper.seeker = tokio::spawn(self.clone().seek());
        }
        let mut state = self.lock();
        if state.stopped || state.failure.is_some() {
            return;
        }
        for (generation, reader) in keeper.readers.iter_mut().filter(|(_, reader)| reader.is_finished()) {
            let Some(held) = state.held.get_mut(generation).filter(|held| !held.ended) else { continue };
            held.unread = None;
            let (stream, shard) = (&held.lease.stream, &held.lease.shard);
            tracing::error!(%stream, %shard, "reading a shard has panicked: a bug; it begins again");
            *reader = tokio::spawn(self.clone().read(*generation));
        }
    }

    /// Takes what is free, gives what is too much.
    async fn share(
        self: &Arc<Self>,
        keeper: &mut Keeper,
        alive: &BTreeSet<String>,
        table: BTreeMap<String, Row>,
    ) -> Result<(), Failure> {
        let undone: BTreeSet<(&str, &str)> = table
            .values()
            .filter(|row| !row.lease.done)
            .map(|row| (row.lease.stream.as_str(), row.lease.shard.as_str()))
            .collect();
        // Children come after their parents.
        let may_begin = |lease: &Lease| {
            !lease.done
                && !lease
                    .parents
                    .iter()
                    .any(|parent| undone.contains(&(lease.stream.as_str(), parent.as_str())))
        };
        let active: Vec<&Row> = table.values().filter(|row| may_begin(&row.lease)).collect();
        let mut shares: BTreeMap<&str, usize> = alive.iter().map(|id| (id.as_str(), 0)).collect();
        let mut free: Vec<&Row> = Vec::new();
        let held_keys: BTreeSet<String> = self.lock().held.values().map(|held| held.lease.key()).collect();
        for row in &active {
            let owner = row.lease.owner.as_deref();
            let ours = owner == Some(keeper.id.as_str());
            match owner.and_then(|owner| shares.get_mut(owner)) {
                // One of ours that we do not hold: a write of which we never heard.
                Some(_) if ours && !held_keys.contains(&row.lease.key()) => free.push(row),
                Some(share) => *share += 1,
                None => free.push(row),
            }
        }
        let (least, rest) = (active.len() / alive.len(), active.len() % alive.len());
        let most = least + usize::from(rest > 0);
        let mut mine = shares.get(keeper.id.as_str()).copied().unwrap_or_default();
        let had = mine;
        let missed = free.len();
        fastrand::shuffle(&mut free);
        let mut taken = 0;
        for row in free {
            if mine >= most {
                break;
            }
            let mut lease = row.lease.clone();
            if lease.owner.as_deref() == Some(keeper.id.as_str()) {
                // Nobody has died with what it says was started.
                lease.release();
            }
            lease.take(&keeper.id);
            if self
                .store
                .swap(&self.space, Change::write(&lease.key(), row.version, &lease.to_json()))
                .await?
            {
                let generation = self.lock().hold(lease, row.version + 1);
                keeper.readers.insert(generation, tokio::spawn(self.clone().read(generation)));
                mine += 1;
                taken += 1;
            } else {
                // Somebody else was first: look again at once.
                keeper.next_round = Instant::now();
            }
        }
        let poorer = shares.iter().any(|(id, share)| *id != keeper.id && *share < least);
        let give = match mine {
            _ if mine > most => mine - most,
            _ if mine == most && rest > 0 && poorer && missed == taken && had == mine => 1,
            _ => 0,
        };
        let mut state = self.lock();
        give_away(&mut state, give, self.core.config.lease);
        state.has_share = mine >= least;
        drop(state);
        self.room.notify_waiters();
        self.arrived.notify_one();
        self.due_if_leaving();
        Ok(())
    }

    fn due_if_leaving(&self) {
        let leaves = self.lock().held.values().any(Held::goes);
        if leaves {
            self.due.notify_one();
        }
    }
}

/// Marks so many leases for others: those of which least is in hand. One that could not go for a `lease` stays for a while, and
/// another one is marked: nothing of a shard that goes is handed out, and one message may be in hand for hours.
fn give_away(state: &mut State, count: usize, lease: Duration) {
    let now = Instant::now();
    for held in state.held.values_mut() {
        if held.leaving.is_some_and(|since| now - since > lease) {
            (held.leaving, held.stays) = (None, Some(now + lease * STAYS));
        }
    }
    let may_go = |held: &Held| held.is_idle() || held.stays.is_none_or(|until| now >= until);
    let going = state.held.iter().filter(|(_, held)| may_go(held));
    let mut order: Vec<(usize, u64)> = going.map(|(at, held)| (held.in_hand.len(), *at)).collect();
    order.sort_unstable();
    order.truncate(count);
    for (generation, held) in &mut state.held {
        let goes = order.iter().any(|(_, at)| at == generation);
        held.leaving = goes.then(|| held.leaving.unwrap_or(now));
    }
}

fn table(rows: &[LeaseRow]) -> BTreeMap<String, Row> {
    rows.iter()
        .filter(|row| row.key.starts_with("lease/"))
        .filter_map(|row| match serde_json::from_str(&row.value) {
            Ok(lease) => Some((row.key.clone(), Row { lease, version: row.version })),
            Err(error) => {
                tracing::error!(key = %row.key, %error, "a lease cannot be read; its shard is not");
                None
            }
        })
        .collect()
}

fn new_id() -> String {
    format!("{:x}-{:016x}", std::process::id(), fastrand::u64(..))
}

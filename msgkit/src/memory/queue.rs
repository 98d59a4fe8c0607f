//! The queue of one group: what waits, what is kept back, what is in hand.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;

use crate::envelope::Timestamp;
use crate::text::Text;
use crate::transport::{Delivery, Incoming, Settle, Token};

/// A queue and what wakes those who wait for it.
#[derive(Debug)]
pub(super) struct Queue {
    /// The group's name, for errors.
    pub(super) name: Text,
    state: Mutex<State>,
    /// Messages waiting, kept back and in hand: what the capacity bounds.
    held: AtomicUsize,
    /// Wakes receivers: the only one, or all of several, because only they know which of them may take what came.
    pub(super) arrived: Notify,
    /// Wakes publishers that wait for room.
    pub(super) room: Notify,
    /// How many publishers wait for room.
    pub(super) waiting_publishers: AtomicUsize,
}

#[derive(Debug, Default)]
struct State {
    next: u64,
    /// Ascending by sequence.
    ready: VecDeque<Stored>,
    /// By when they are due, then by sequence.
    delayed: BTreeMap<(Timestamp, u64), Stored>,
    /// In hand; a token names the slot, its epoch the delivery that the slot holds now.
    in_hand: Vec<Option<InHand>>,
    free: Vec<usize>,
    members: HashMap<u64, Member>,
    /// Which member holds messages of a key, and how many; kept only while there are several members.
    holders: HashMap<Text, (u64, usize)>,
    deliveries: u64,
    lost_leases: u64,
}

#[derive(Debug, Clone)]
struct Stored {
    sequence: u64,
    message: Incoming,
    starts: u32,
    at: Timestamp,
}

#[derive(Debug)]
struct InHand {
    epoch: u64,
    member: u64,
    stored: Stored,
}

#[derive(Debug)]
struct Member {
    in_hand: usize,
    prefetch: usize,
}

/// Counts one waiting publisher for as long as it lives.
struct Waiting<'a>(&'a AtomicUsize);

impl<'a> Waiting<'a> {
    fn new(count: &'a AtomicUsize) -> Self {
        count.fetch_add(1, Ordering::AcqRel);
        Self(count)
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::AcqRel);
    }
}

/// What is in a queue.
#[derive(Debug, Clone, Copy)]
pub(super) struct Counts {
    pub(super) ready: usize,
    pub(super) delayed: usize,
    pub(super) in_hand: usize,
    pub(super) oldest: Option<Timestamp>,
}

impl Queue {
    pub(super) fn new(name: &str) -> Arc<Self> {
        Arc::new(Self {
            name: name.into(),
            state: Mutex::default(),
            held: AtomicUsize::new(0),
            arrived: Notify::new(),
            room: Notify::new(),
            waiting_publishers: AtomicUsize::new(0),
        })
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes one place of `bound`; false where there is none.
    pub(super) fn reserve(&self, bound: usize) -> bool {
        self.held
            .fetch_update(Ordering::AcqRel, Ordering::Acquire, |held| (held < bound).then_some(held + 1))
            .is_ok()
    }

    /// Whether a place of `bound` is free.
    pub(super) fn has_room(&self, bound: usize) -> bool {
        self.held.load(Ordering::Acquire) < bound
    }

    /// Waits until a place of `bound` is free; another publisher may take it first.
    pub(super) async fn wait_for_room(&self, bound: usize) {
        let _waiting = Waiting::new(&self.waiting_publishers);
        let mut room = std::pin::pin!(self.room.notified());
        room.as_mut().enable();
        if !self.has_room(bound) {
            room.await;
        }
    }

    /// Gives a reserved place back that was not used.
    pub(super) fn unreserve(&self) {
        self.held.fetch_sub(1, Ordering::AcqRel);
        self.made_room();
    }

    /// Takes a place whatever the bound: for copies, which take the place of a message that is settled next.
    pub(super) fn reserve_unbounded(&self) {
        self.held.fetch_add(1, Ordering::AcqRel);
    }

    fn made_room(&self) {
        if self.waiting_publishers.load(Ordering::Acquire) > 0 {
            self.room.notify_waiters();
        }
    }

    fn wake(&self, members: usize) {
        if members > 1 {
            self.arrived.notify_waiters();
        } else {
            self.arrived.notify_one();
        }
    }

    /// Adds a message whose place is reserved; `due` keeps it back.
    pub(super) fn push(&self, message: Incoming, at: Timestamp, due: Option<Timestamp>) {
        let mut state = self.lock();
        let sequence = state.next;
        state.next += 1;
        let stored = Stored { sequence, message, starts: 0, at };
        // One member that has not taken what came before was woken for it, or has its hands full and is woken when it settles.
        let news = match due {
            Some(due) if due > at => {
                state.delayed.insert((due, sequence), stored);
                true
            }
            _ => {
                state.ready.push_back(stored);
                state.ready.len() == 1
            }
        };
        let members = state.members.len();
        drop(state);
        if news || members > 1 {
            self.wake(members);
        }
    }

    pub(super) fn join(&self, member: u64, prefetch: usize) {
        let mut state = self.lock();
        state.members.insert(member, Member { in_hand: 0, prefetch });
        if state.members.len() == 2 {
            state.recount_holders();
        }
    }

    /// A member goes; what it holds unsettled goes back with its starts counted, unless it gave it back before.
    pub(super) fn leave(&self, member: u64) {
        let mut state = self.lock();
        state.members.remove(&member);
        state.take_back(|in_hand| in_hand.member == member);
        drop(state);
        // The one that leaves may wait too, and must find out.
        self.arrived.notify_waiters();
        self.arrived.notify_one();
    }

    /// All connections break: everything in hand goes back with its starts counted, later settlements come too late.
    pub(super) fn disconnect(&self) {
        let mut state = self.lock();
        state.take_back(|_| true);
        let members = state.members.len();
        drop(state);
        self.wake(members);
    }

    /// Hands out at most `max` messages to `member`. Tells when the next one is due that is kept back.
    pub(super) fn receive(
        &self,
        member: u64,
        max: usize,
        now: impl Fn() -> Timestamp,
        settler: &Arc<dyn Settle>,
        into: &mut VecDeque<Delivery>,
    ) -> Option<Timestamp> {
        let mut state = self.lock();
        if !state.delayed.is_empty() {
            state.wake_due(now());
        }
        let left =
            state.members.get(&member).map_or(0, |member| member.prefetch.saturating_sub(member.in_hand));
        let most = max.min(left);
        let mut taken = 0;
        let several = state.members.len() > 1;
        let mut at = 0;
        while taken < most && at < state.ready.len() {
            let stored = if several {
                if state.held_by_other(at, member) {
                    at += 1;
                    continue;
                }
                state.ready.remove(at)
            } else {
                state.ready.pop_front()
            };
            let Some(mut stored) = stored else { break };
            stored.starts += 1;
            into.push_back(state.hand_out(stored, member, several, settler));
            taken += 1;
        }
        if let Some(member) = state.members.get_mut(&member) {
            member.in_hand += taken;
        }
        state.delayed.keys().next().map(|(due, _)| *due)
    }

    /// Forgets messages; tells how many leases were lost.
    pub(super) fn done(&self, member: u64, tokens: &mut Vec<Token>) {
        let mut state = self.lock();
        let several = state.members.len() > 1;
        let mut settled = 0;
        for token in tokens.drain(..) {
            if several && let Some(in_hand) = state.release(token) {
                settled += 1;
                state.unhold(&in_hand);
            } else if !several && state.forget(token) {
                settled += 1;
            } else {
                state.lost_leases += 1;
            }
        }
        let blocked = state.members.get_mut(&member).is_some_and(|member| {
            let was = member.in_hand;
            member.in_hand = was.saturating_sub(settled);
            was >= member.prefetch
        });
        let wake = (blocked || several) && !state.ready.is_empty();
        let members = state.members.len();
        drop(state);
        self.held.fetch_sub(settled, Ordering::AcqRel);
        self.made_room();
        if wake {
            self.wake(members);
        }
    }

    /// Takes a message back at its old place; it was not started as far as the crash bound goes.
    pub(super) fn returned(&self, member: u64, token: Token) {
        let mut state = self.lock();
        let Some(mut in_hand) = state.release(token) else {
            state.lost_leases += 1;
            return;
        };
        if state.members.len() > 1 {
            state.unhold(&in_hand);
        }
        if let Some(member) = state.members.get_mut(&member) {
            member.in_hand = member.in_hand.saturating_sub(1);
        }
        in_hand.stored.starts = in_hand.stored.starts.saturating_sub(1);
        state.put_back(in_hand.stored);
        let members = state.members.len();
        drop(state);
        self.wake(members);
    }

    pub(super) fn counts(&self) -> Counts {
        let state = self.lock();
        Counts {
            ready: state.ready.len(),
            delayed: state.delayed.len(),
            in_hand: state.in_hand.iter().flatten().count(),
            oldest: state.ready.front().map(|stored| stored.at),
        }
    }

    /// Settlements that came too late.
    pub(super) fn lost_leases(&self) -> u64 {
        self.lock().lost_leases
    }

    /// The oldest waiting messages after the sequence `after`.
    pub(super) fn peek(&self, after: Option<u64>, limit: usize) -> Vec<(u64, Incoming)> {
        self.lock()
            .ready
            .iter()
            .filter(|stored| after.is_none_or(|after| stored.sequence > after))
            .take(limit)
            .map(|stored| (stored.sequence, stored.message.clone()))
            .collect()
    }
}

impl State {
    fn hand_out(
        &mut self,
        stored: Stored,
        member: u64,
        several: bool,
        settler: &Arc<dyn Settle>,
    ) -> Delivery {
        self.deliveries += 1;
        let epoch = self.deliveries;
        if several && let Some(key) = stored.message.key() {
            self.holders.entry(Text::from(key)).or_insert((member, 0)).1 += 1;
        }
        let (message, starts, sequence) = (stored.message.clone(), stored.starts, stored.sequence);
        let in_hand = Some(InHand { epoch, member, stored });
        let slot = match self.free.pop() {
            Some(slot) => {
                self.in_hand[slot] = in_hand;
                slot
            }
            None => {
                self.in_hand.push(in_hand);
                self.in_hand.len() - 1
            }
        };
        Delivery::new(message, Token { id: slot as u64, epoch }, settler.clone())
            .with_count(starts)
            .with_position(sequence)
    }

    /// The slot that `token` names, if its lease still holds.
    fn leased(&self, token: Token) -> Option<usize> {
        let slot = usize::try_from(token.id).ok()?;
        let in_hand = self.in_hand.get(slot)?.as_ref()?;
        (in_hand.epoch == token.epoch).then_some(slot)
    }

    fn release(&mut self, token: Token) -> Option<InHand> {
        let slot = self.leased(token)?;
        self.free.push(slot);
        self.in_hand[slot].take()
    }

    /// As `release`, of what nobody wants any more; tells whether the lease still held.
    fn forget(&mut self, token: Token) -> bool {
        let Some(slot) = self.leased(token) else { return false };
        self.free.push(slot);
        self.in_hand[slot] = None;
        true
    }

    fn held_by_other(&self, at: usize, member: u64) -> bool {
        self.ready
            .get(at)
            .and_then(|stored| stored.message.key())
            .and_then(|key| self.holders.get(key))
            .is_some_and(|(holder, _)| *holder != member)
    }

    fn unhold(&mut self, in_hand: &InHand) {
        if let Some(key) = in_hand.stored.message.key()
            && let Some((_, count)) = self.holders.get_mut(key)
        {
            *count -= 1;
            if *count == 0 {
                self.holders.remove(key);
            }
        }
    }

    fn recount_holders(&mut self) {
        self.holders.clear();
        for in_hand in self.in_hand.iter().flatten() {
            if let Some(key) = in_hand.stored.message.key() {
                self.holders.entry(Text::from(key)).or_insert((in_hand.member, 0)).1 += 1;
            }
        }
    }

    fn take_back(&mut self, which: impl Fn(&InHand) -> bool) {
        for slot in 0..self.in_hand.len() {
            if self.in_hand[slot].as_ref().is_some_and(&which)
                && let Some(in_hand) = self.in_hand[slot].take()
            {
                self.free.push(slot);
                if let Some(member) = self.members.get_mut(&in_hand.member) {
                    member.in_hand = member.in_hand.saturating_sub(1);
                }
                self.put_back(in_hand.stored);
            }
        }
        self.recount_holders();
    }

    fn put_back(&mut self, stored: Stored) {
        let at = self.ready.partition_point(|other| other.sequence < stored.sequence);
        self.ready.insert(at, stored);
    }

    /// Moves what is due to the end of what waits.
    fn wake_due(&mut self, now: Timestamp) {
        while let Some(entry) = self.delayed.first_entry() {
            if entry.key().0 > now {
                break;
            }
            let mut stored = entry.remove();
            stored.sequence = self.next;
            self.next += 1;
            self.ready.push_back(stored);
        }
    }
}

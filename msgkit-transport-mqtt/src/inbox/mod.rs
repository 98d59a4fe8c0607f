//! What a subscription holds: everything that its connections brought and that is not settled.
//!
//! A message that is given back is handed out again from here, at its old place: the broker knows nothing of it, and brings
//! it again only when the connection ends before it is acknowledged. Acknowledgements go out in the order in which the
//! messages came (MQTT 5, 4.6: a receiver must), so a message that is settled early waits for those before it; a crash in
//! between brings it again.
//!
//! How many that can be is the prefetch, whatever the broker sends: of what one connection brought, nothing is handed out that
//! lies further than the prefetch behind the oldest message that is not acknowledged. A broker that keeps to the receive
//! maximum never sends such a message; Mosquitto before 2.0.13 does (eclipse-mosquitto/mosquitto#2301), and it waits here. On a
//! connection that was seen to bring too many, an acknowledgement counts once the broker has answered something that was
//! asked behind it: what is on its way to the broker is lost when the connection breaks.
//!
//! When a connection ends, what it brought is unsettled at the broker. If the next one finds the session, the broker brings
//! it all again, so it is forgotten here, and settlements that come later are counted and dropped. If the session is lost,
//! nothing comes again, so it is kept: what is here is all that is left of it.

mod entries;
mod side;

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use msgkit::transport::{Delivery, Incoming, Settle, Token, TransportError, TransportErrorKind};
use tokio::sync::{Notify, oneshot};

use self::entries::{Entries, Entry, find};
use self::side::{LinkState, Question};
use crate::driver::Client;
use crate::error::Failure;

/// What all subscriptions of a transport count together.
#[derive(Debug, Default)]
pub(crate) struct Counters {
    /// Settlements that came after their connection had ended.
    pub(crate) late: AtomicU64,
    /// Messages of quality 0 for which there was no room.
    pub(crate) overflowed: AtomicU64,
    /// Published messages that nobody was subscribed to.
    pub(crate) unrouted: AtomicU64,
}

#[derive(Debug)]
pub(crate) struct Inbox {
    state: Mutex<State>,
    pub(crate) arrived: Notify,
    /// Whether something came that the receiver was not told of.
    untold: AtomicBool,
    prefetch: usize,
    /// The filter of a question that every broker answers in its order.
    nowhere: String,
    counters: Arc<Counters>,
}

#[derive(Debug, Default)]
struct State {
    next: u64,
    entries: Entries,
    /// The entries that can be handed out, by link, ascending.
    ready: BTreeMap<u64, VecDeque<u64>>,
    in_hand: usize,
    /// Whether something is ready that must wait for acknowledgements.
    held_back: bool,
    links: HashMap<u64, LinkState>,
    /// Why nothing comes by a link; one that does not pass stays, because its link has ended.
    failures: BTreeMap<u64, Failure>,
    /// Whether a link that does not come back ended with settlements that the broker may not have heard of, or something was
    /// settled that a later connection brings again.
    lost: bool,
    stopped: bool,
    closed: bool,
}

impl State {
    fn make_ready(&mut self, link: u64, at: u64) {
        let ready = self.ready.entry(link).or_default();
        // What comes is the last of all; what is given back has its old place.
        let place = if ready.back().is_none_or(|last| *last < at) {
            ready.len()
        } else {
            ready.partition_point(|other| *other < at)
        };
        if ready.get(place) != Some(&at) {
            ready.insert(place, at);
        }
    }

    fn not_ready(&mut self, link: u64, at: u64) {
        if let Some(ready) = self.ready.get_mut(&link)
            && let Ok(place) = ready.binary_search(&at)
        {
            ready.remove(place);
        }
    }

    /// Takes the oldest message that may be handed out.
    fn pop_ready(&mut self, prefetch: usize, nowhere: &str) -> Option<u64> {
        let oldest = self.ready.iter().filter_map(|(link, ready)| Some((*ready.front()?, *link)));
        let may = |(at, link): &(u64, u64)| {
            self.links.get(link).is_none_or(|known| known.may_hand_out(*at, prefetch))
        };
        let Some((at, link)) = oldest.filter(may).min() else {
            self.held_back = false;
            for (link, _) in self.ready.iter().filter(|(_, ready)| !ready.is_empty()) {
                self.held_back = true;
                if let Some(known) = self.links.get_mut(link) {
                    known.ask_for_word(1, nowhere);
                }
            }
            return None;
        };
        if let Some(ready) = self.ready.get_mut(&link) {
            ready.pop_front();
        }
        Some(at)
    }

    /// The broker need not bring it again; `true` where it was in hand.
    fn remove(&mut self, at: u64) -> bool {
        let Some(entry) = self.entries.remove(at) else { return false };
        if entry.message.is_some() {
            self.not_ready(entry.link, at);
        }
        entry.message.is_none()
    }
}

/// Tells the receiver where the task of a link panics: nothing comes by it any more.
#[derive(Debug)]
pub(crate) struct Watched {
    inbox: Arc<Inbox>,
    link: u64,
}

impl Drop for Watched {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.inbox.gone(self.link);
            let text =
                "a task that receives from the MQTT broker has panicked, which is a fault of this crate";
            self.inbox.fail(self.link, Failure::new(TransportErrorKind::Internal, text));
        }
    }
}

/// What a receiver finds.
pub(crate) enum Found {
    Messages,
    Nothing,
    End,
}

impl Inbox {
    pub(crate) fn new(prefetch: usize, nowhere: String, counters: Arc<Counters>) -> Self {
        Self {
            state: Mutex::default(),
            arrived: Notify::new(),
            untold: AtomicBool::new(false),
            prefetch: prefetch.max(1),
            nowhere,
            counters,
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// For a link: its connection stands. `session` = the broker has kept what it had not been acknowledged; `window` = how
    /// many messages it was told to send at most.
    pub(crate) fn connected(&self, link: u64, epoch: u64, session: bool, window: u16, client: Client) {
        let mut state = self.lock();
        let known = state.links.entry(link).or_default();
        known.epoch = epoch;
        known.client = Some(client);
        known.forget();
        (known.window, known.floods, known.asked) = (usize::from(window), false, false);
        (known.acknowledged, known.heard, known.settled, known.lost) = (0, 0, 0, false);
        let old: Vec<u64> = state
            .entries
            .iter()
            .filter(|(_, entry)| entry.link == link && entry.owed && entry.epoch != epoch)
            .map(|(at, _)| *at)
            .collect();
        for at in old {
            if session {
                if state.remove(at) {
                    state.in_hand -= 1;
                }
            } else if let Some(entry) = state.entries.get_mut(at) {
                entry.owed = false;
                if entry.message.is_some() {
                    state.make_ready(link, at);
                }
            }
        }
        state.failures.remove(&link);
        drop(state);
        self.arrived.notify_one();
    }

    /// For a link: its connection has ended. What it brought waits for what the next one finds.
    pub(crate) fn disconnected(&self, link: u64) {
        let mut state = self.lock();
        if let Some(known) = state.links.get_mut(&link) {
            known.lost |= known.is_behind();
            known.client = None;
            known.forget();
            (known.acknowledged, known.heard, known.settled) = (0, 0, 0);
            known.questions.clear();
        }
        let State { entries, ready, .. } = &mut *state;
        if let Some(ready) = ready.get_mut(&link) {
            ready.retain(|at| entries.get(*at).is_none_or(|entry| !entry.owed));
        }
    }

    /// For a link that will not come back: what it brought is another's to bring.
    pub(crate) fn gone(&self, link: u64) {
        self.disconnected(link);
        let mut state = self.lock();
        state.lost |= state.links.remove(&link).is_some_and(|known| known.lost);
        let old: Vec<u64> = state
            .entries
            .iter()
            .filter(|(_, entry)| entry.link == link && entry.owed)
            .map(|(at, _)| *at)
            .collect();
        for at in old {
            if state.remove(at) {
                state.in_hand -= 1;
            }
        }
        state.ready.retain(|_, ready| !ready.is_empty());
        drop(state);
        self.arrived.notify_one();
    }

    /// For a link: a message came under `number`; 0 = nothing is to be acknowledged. The receiver hears of it with
    /// [`Inbox::tell`].
    pub(crate) fn put(&self, link: u64, number: u16, message: Incoming) {
        let mut state = self.lock();
        if state.stopped || state.closed {
            // It stays with the broker.
            return;
        }
        if number == 0 && state.entries.0.len() >= self.prefetch.saturating_mul(8).max(1024) {
            drop(state);
            if self.counters.overflowed.fetch_add(1, Ordering::Relaxed) == 0 {
                tracing::warn!(
                    "messages of quality of service 0 come faster than they are handled; they are dropped"
                );
            }
            return;
        }
        let at = state.next;
        state.next += 1;
        let Some(known) = state.links.get_mut(&link) else { return };
        if number != 0 {
            if !known.brought(at, number, false) {
                return;
            }
            known.ask_for_word(self.prefetch / 2, &self.nowhere);
        }
        let epoch = known.epoch;
        state.entries.push(at, Entry { link, epoch, message: Some(message), owed: number != 0 });
        state.make_ready(link, at);
        self.untold.store(true, Ordering::Release);
    }

    /// For a link: the receiver is told of what has come.
    pub(crate) fn tell(&self) {
        if self.untold.swap(false, Ordering::AcqRel) {
            self.arrived.notify_one();
        }
    }

    /// For a link: a message came that is nobody's business here; the broker can forget it.
    pub(crate) fn skip(&self, link: u64, number: u16) {
        let mut state = self.lock();
        let at = state.next;
        state.next += 1;
        if number != 0
            && let Some(known) = state.links.get_mut(&link)
        {
            known.brought(at, number, true);
            known.acknowledge();
            known.ask_for_word(self.prefetch / 2, &self.nowhere);
        }
    }

    /// For a link: the broker has answered its oldest question.
    pub(crate) fn answered(&self, link: u64) {
        let mut state = self.lock();
        let Some(known) = state.links.get_mut(&link) else { return };
        match known.questions.pop_front() {
            Some(Question::Of(asked, many)) => {
                known.heard = many;
                let _ = asked.send(());
            }
            Some(Question::Heard(many)) => {
                (known.heard, known.asked) = (many, false);
                known.ask_for_word(self.prefetch / 2, &self.nowhere);
            }
            None => return,
        }
        drop(state);
        self.arrived.notify_one();
    }

    /// For a link: asks the broker something on its connection; answered in order.
    pub(crate) fn ask(&self, link: u64, filter: &str) -> Option<oneshot::Receiver<()>> {
        self.ask_where(link, filter, |_| true)
    }

    /// Asks only on a connection that is the right one.
    fn ask_where(
        &self,
        link: u64,
        filter: &str,
        is_right: impl Fn(&LinkState) -> bool,
    ) -> Option<oneshot::Receiver<()>> {
        let mut state = self.lock();
        let known = state.links.get_mut(&link).filter(|known| is_right(known))?;
        if !known.client.as_ref()?.unsubscribe(filter) {
            return None;
        }
        let (sender, receiver) = oneshot::channel();
        known.questions.push_back(Question::Of(sender, known.acknowledged));
        Some(receiver)
    }

    /// For a link: whether nothing that it brought is unsettled. Never where nothing is taken any more: what comes then is
    /// left with the broker, unseen.
    pub(crate) fn is_drained(&self, link: u64) -> bool {
        let state = self.lock();
        !state.stopped
            && !state.closed
            && state.links.get(&link).is_none_or(|known| known.unacknowledged.is_empty())
            && !state.entries.iter().any(|(_, entry)| entry.link == link)
    }

    /// For a link: whether the broker is known to have heard of all that was settled on its connection.
    pub(crate) fn is_heard(&self, link: u64) -> bool {
        self.lock().links.get(&link).is_none_or(|known| !known.is_behind())
    }

    /// For a link: whether everything is settled that it brought and that was taken.
    pub(crate) fn has_nothing_of(&self, link: u64) -> bool {
        !self.lock().entries.iter().any(|(_, entry)| entry.link == link)
    }

    /// Whether nothing is taken any more: what comes stays with the broker.
    pub(crate) fn is_stopped(&self) -> bool {
        let state = self.lock();
        state.stopped || state.closed
    }

    /// For a link: why nothing comes; told to the receiver where it does not pass by itself.
    pub(crate) fn fail(&self, link: u64, failure: Failure) {
        self.lock().failures.insert(link, failure);
        self.arrived.notify_one();
    }

    /// For the task of a link: held while it runs.
    pub(crate) fn watch(self: &Arc<Self>, link: u64) -> Watched {
        Watched { inbox: self.clone(), link }
    }

    /// For a link that ends: it is missed only where it has failed for good.
    pub(crate) fn ended(&self, link: u64) {
        self.gone(link);
        self.lock().failures.retain(|of, failure| *of != link || !failure.is_temporary());
    }

    /// Hands out what is there, as far as `max` and the prefetch go.
    pub(crate) fn take(
        self: &Arc<Self>,
        settler: &Arc<dyn Settle>,
        max: usize,
        into: &mut VecDeque<Delivery>,
    ) -> Result<Found, TransportError> {
        let mut guard = self.lock();
        let state = &mut *guard;
        if state.closed {
            return Err(TransportError::closed("mqtt"));
        }
        let mut taken = 0;
        while taken < max && state.in_hand < self.prefetch {
            let Some(at) = state.pop_ready(self.prefetch, &self.nowhere) else { break };
            let Some(entry) = state.entries.get_mut(at) else { continue };
            let Some(message) = entry.message.take() else { continue };
            state.in_hand += 1;
            taken += 1;
            let token = Token { id: at, epoch: entry.epoch };
            into.push_back(Delivery::new(message, token, settler.clone()));
        }
        if taken > 0 {
            return Ok(Found::Messages);
        }
        if state.stopped {
            return Ok(Found::End);
        }
        match state.failures.values().find(|failure| !failure.is_temporary()) {
            // Its link has ended, and does not come back, whatever the others do.
            Some(failure) => Err(failure.to_error()),
            None => Ok(Found::Nothing),
        }
    }

    /// Why nothing comes.
    pub(crate) fn failure(&self) -> Option<Failure> {
        let state = self.lock();
        let lasting = state.failures.values().find(|failure| !failure.is_temporary());
        lasting.or_else(|| state.failures.values().next()).filter(|_| !state.stopped).cloned()
    }

    pub(crate) fn stop(&self) {
        self.lock().stopped = true;
        self.arrived.notify_one();
    }

    /// The transport is closed: receiving ends.
    pub(crate) fn close(&self) {
        let mut state = self.lock();
        (state.closed, state.stopped) = (true, true);
        drop(state);
        self.arrived.notify_one();
    }

    /// Waits until the broker has answered a question that was asked behind everything that is acknowledged. An error also where
    /// a connection has ended before that, and the next one has not brought its messages again; once, where there is no next one.
    pub(crate) async fn flush(&self, nowhere: &str) -> Result<(), Unheard> {
        let behind: Vec<(u64, u64)> = {
            let mut state = self.lock();
            if std::mem::take(&mut state.lost) || state.links.values().any(|known| known.lost) {
                return Err(Unheard);
            }
            let behind = state.links.iter().filter(|(_, known)| known.settled > known.heard);
            behind.map(|(link, known)| (*link, known.epoch)).collect()
        };
        for (link, epoch) in behind {
            let asked = self.ask_where(link, nowhere, |known| known.epoch == epoch).ok_or(Unheard)?;
            asked.await.map_err(|_| Unheard)?;
        }
        Ok(())
    }
}

/// The connection ended before the broker had answered.
#[derive(Debug)]
pub(crate) struct Unheard;

impl Settle for Inbox {
    fn done(&self, tokens: &mut Vec<Token>) {
        let mut guard = self.lock();
        let state = &mut *guard;
        let blocked = state.in_hand >= self.prefetch || std::mem::take(&mut state.held_back);
        for token in tokens.drain(..) {
            let Some(entry) = state.entries.get(token.id) else {
                // Its connection has ended, and another one brings the message again, or has.
                state.lost = true;
                self.counters.late.fetch_add(1, Ordering::Relaxed);
                continue;
            };
            let (link, owed) = (entry.link, entry.owed && entry.epoch == token.epoch);
            if state.remove(token.id) {
                state.in_hand -= 1;
            }
            let Some(known) = state.links.get_mut(&link).filter(|_| owed) else { continue };
            if let Some(place) = find(&known.unacknowledged, token.id, |(at, _, _)| *at) {
                known.unacknowledged[place].2 = true;
                known.acknowledge();
                known.settled = known.acknowledged;
                known.ask_for_word(self.prefetch / 2, &self.nowhere);
            } else {
                // Its connection has ended: the next one brings the message again.
                known.lost = true;
                self.counters.late.fetch_add(1, Ordering::Relaxed);
            }
        }
        drop(guard);
        if blocked {
            self.arrived.notify_one();
        }
    }

    fn returned(&self, token: Token, message: Incoming) {
        let mut guard = self.lock();
        let state = &mut *guard;
        let Some(entry) = state.entries.get_mut(token.id) else { return };
        if entry.message.is_some() {
            return;
        }
        entry.message = Some(message);
        state.in_hand -= 1;
        let (link, owed) = (entry.link, entry.owed);
        let connected = state.links.get(&link).is_some_and(|known| known.client.is_some());
        if !owed || connected {
            state.make_ready(link, token.id);
        }
        drop(guard);
        self.arrived.notify_one();
    }
}

#[cfg(test)]
mod tests;

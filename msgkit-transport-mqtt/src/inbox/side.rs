//! One connection's side of what is held: what it brought, and what the broker is known to have heard of it.

use std::collections::{HashSet, VecDeque};

use tokio::sync::oneshot;

use crate::driver::Client;

/// One connection's side of it.
#[derive(Debug, Default)]
pub(super) struct LinkState {
    pub(super) epoch: u64,
    pub(super) client: Option<Client>,
    /// What the connection brought, in its order: the place here, the packet's number, whether it is settled.
    pub(super) unacknowledged: VecDeque<(u64, u16, bool)>,
    /// Their numbers.
    pub(super) numbers: HashSet<u16>,
    /// Whether it ended with settlements that the broker may not have heard of. The next connection brings their messages again.
    pub(super) lost: bool,
    /// What waits for the broker's answers to its questions, in order.
    pub(super) questions: VecDeque<Question>,
    /// How many messages the broker was told to send at most, and whether it has sent more.
    pub(super) window: usize,
    pub(super) floods: bool,
    /// How many were acknowledged on this connection, and how many of them the broker is known to have heard of.
    pub(super) acknowledged: u64,
    pub(super) heard: u64,
    /// How many there were with the last that somebody had settled: what is skipped is nobody's.
    pub(super) settled: u64,
    /// Whether it is asked.
    pub(super) asked: bool,
}

/// What the broker is asked for.
#[derive(Debug)]
pub(super) enum Question {
    /// Something that somebody waits for; asked behind so many acknowledgements.
    Of(oneshot::Sender<()>, u64),
    /// Whether it has heard of so many acknowledgements.
    Heard(u64),
}

impl LinkState {
    /// Whether something is settled that the broker is not known to have heard of.
    pub(super) fn is_behind(&self) -> bool {
        self.settled > self.heard || self.unacknowledged.iter().any(|(_, _, settled)| *settled)
    }

    /// How many acknowledgements the broker may not have heard of, where that matters.
    pub(super) fn unheard(&self) -> usize {
        let unheard = if self.floods { self.acknowledged - self.heard } else { 0 };
        usize::try_from(unheard).unwrap_or(usize::MAX)
    }

    /// Whether the message at `at` is among the oldest `prefetch` that may come again.
    pub(super) fn may_hand_out(&self, at: u64, prefetch: usize) -> bool {
        let room = prefetch.saturating_sub(self.unheard());
        self.unacknowledged.get(room).is_none_or(|(beyond, _, _)| at < *beyond)
    }

    /// Asks whether the broker has heard of the acknowledgements, where it matters for so many.
    pub(super) fn ask_for_word(&mut self, many: usize, nowhere: &str) {
        if self.asked || self.unheard() < many.max(1) {
            return;
        }
        if self.client.as_ref().is_some_and(|client| client.unsubscribe(nowhere)) {
            self.questions.push_back(Question::Heard(self.acknowledged));
            self.asked = true;
        }
    }

    /// The connection has brought one more; false where it was here already. A broker of 3.1.1 may send again what waits to be
    /// acknowledged, and would take a second acknowledgement for that of the next message under the number.
    pub(super) fn brought(&mut self, at: u64, number: u16, settled: bool) -> bool {
        let new = self.numbers.insert(number);
        if new {
            self.unacknowledged.push_back((at, number, settled));
            self.floods |= self.unacknowledged.len() > self.window;
        }
        new
    }

    /// Forgets what an earlier connection brought.
    pub(super) fn forget(&mut self) {
        self.unacknowledged.clear();
        self.numbers.clear();
    }

    /// Acknowledges what is settled with everything before it settled.
    pub(super) fn acknowledge(&mut self) {
        while let Some((_, number, true)) = self.unacknowledged.front().copied() {
            self.unacknowledged.pop_front();
            self.numbers.remove(&number);
            self.acknowledged += 1;
            if let Some(client) = &self.client {
                client.acknowledge(number);
            }
        }
    }
}

//! Writing down how far each shard is: what may be in hand, what is settled, what goes to somebody else.
//!
//! All shards are written at once, and each in one row with everything that is to be said of it, so a batch of messages costs
//! one round trip to the table however many they are and wherever they come from.

use futures_util::future::join_all;
use tokio::time::Instant;

use super::Member;
use super::keeper::Keeper;
use super::state::{Held, lost};
use crate::error::Failure;
use crate::lease::{Change, Lease};

/// A row on its way into the table.
struct Write {
    generation: u64,
    row: Lease,
    version: u64,
    /// Up to which number all is settled once it is written.
    mark: u64,
    /// Whether it says of something for the first time that it is settled.
    owes: bool,
    /// Up to which number messages may be handed out once it is written.
    start: Option<u64>,
    /// Whether the shard is not ours any more.
    goes: bool,
}

impl Member {
    /// Writes what has changed of the leases held: starts at once, checkpoints with them, when somebody waits for them or
    /// when it is time (`all`). Gives away, or ends, what is ready for it. Answers the flushes up to number `asked`, for which was
    /// looked what is decided: one that has come since has its turn.
    pub(super) async fn write_down(&self, keeper: &mut Keeper, all: bool, asked: u64) {
        let due = {
            let state = self.lock();
            let all = all || asked > state.flush_done;
            let is_due = |held: &Held| held.to_start().is_some() || held.goes() || (all && held.dirty);
            let due = state.held.iter().filter(|(_, held)| is_due(held));
            due.map(|(generation, _)| *generation).collect::<Vec<_>>()
        };
        let writes: Vec<Write> =
            due.into_iter().filter_map(|generation| self.prepare(keeper, generation)).collect();
        let written = join_all(writes.iter().map(|write| async {
            self.store
                .swap(&self.space, Change::write(&write.row.key(), write.version, &write.row.to_json()))
                .await
        }))
        .await;
        let mut error = None;
        for (write, written) in writes.into_iter().zip(written) {
            match written {
                Ok(written) => self.wrote(keeper, write, written),
                Err(failure) => {
                    if write.goes && write.owes {
                        self.lock().unflushed = Some(lost(&write.row));
                    }
                    error = Some(msgkit::Chain(&failure).to_string());
                    self.complain(&mut keeper.warned, &Failure::from(failure));
                }
            }
        }
        let mut state = self.lock();
        if asked > state.flush_done {
            state.flush_done = asked;
            let lost = state.unflushed.take();
            state.flush_error = error.or(lost);
        }
        drop(state);
        self.kept.notify_waiters();
    }

    /// The row as it is to be written. What goes is not held any more from now on: nothing more of it is handed out.
    fn prepare(&self, keeper: &mut Keeper, generation: u64) -> Option<Write> {
        let mut state = self.lock();
        let held = state.held.get(&generation)?;
        let (mut row, version, goes) = (held.lease.clone(), held.version, held.goes());
        let (mark, owes) = (held.mark(), held.owes());
        let start = held.to_start().map(|(number, sequence)| {
            row.started = Some(sequence);
            number
        });
        if goes {
            row.release();
            row.done = held.is_finished();
            state.give_up(generation);
            drop(state);
            self.end_reader(keeper, generation);
        }
        Some(Write { generation, row, version, mark, owes, start, goes })
    }

    fn wrote(&self, keeper: &mut Keeper, write: Write, written: bool) {
        let Write { generation, row, version, mark, owes, start, goes } = write;
        if goes {
            if !written && owes {
                self.lock().unflushed = Some(lost(&row));
            }
            if row.done {
                // Its children come now.
                self.look.notify_one();
            }
            // Others may take what was given.
            keeper.next_round = Instant::now();
            return;
        }
        if !written {
            self.lost(keeper, generation, &row);
            return;
        }
        let mut state = self.lock();
        if let Some(held) = state.held.get_mut(&generation) {
            held.version = version + 1;
            held.lease.started = row.started;
            held.stored_mark(mark);
            if let Some(number) = start {
                held.stored_start(number);
            }
            held.dirty = held.lease.at != row.at;
        }
        drop(state);
        self.arrived.notify_one();
    }
}

//! Looking for what is new: streams that came, shards that a resharding made. A task of its own, so that the keeper, who gives
//! the signs of life and writes down what is handed out, never waits for the service.

use std::collections::BTreeSet;
use std::sync::Arc;

use super::Member;
use crate::error::{Cause, Failure};
use crate::marker::marked;

/// With how many looks a stream is asked once whether it was made again. A reader that finds a place or a shard no more asks at
/// once; this is for those that have no reader.
const RARELY: u32 = 20;

impl Member {
    /// Looks every `discover`, and at once where a shard has come to its end, until the keeper ends it.
    pub(super) async fn seek(self: Arc<Self>) {
        let (discover, soon) = (self.core.config.discover, self.core.config.heartbeat);
        let mut pause = discover;
        let mut warned = false;
        let mut turn = fastrand::u32(..RARELY);
        loop {
            // Only a look that was asked for ends the pause early; one that is due is asked for by nobody.
            let _ = tokio::time::timeout(pause, self.look.notified()).await;
            if self.lock().gone {
                return;
            }
            turn = (turn + 1) % RARELY;
            match self.look_for_shards(turn).await {
                Ok(changed) => {
                    (pause, warned) = (discover, false);
                    if changed {
                        self.lock().round_asked = true;
                        self.due.notify_one();
                    }
                }
                Err(failure) => {
                    // The children of a shard may wait for it.
                    pause = soon.min(discover);
                    self.complain(&mut warned, &failure);
                }
            }
        }
    }

    /// Puts what is new into the table. Answers whether anything was.
    async fn look_for_shards(&self, turn: u32) -> Result<bool, Failure> {
        let rows = self.store.load(&self.space).await?;
        // Those too that only another version of the group names: whoever is there has their shards.
        let mut streams: BTreeSet<String> = marked(&rows).map(str::to_owned).collect();
        streams.extend(self.wanted.named.iter().cloned());
        if self.wanted.others {
            streams.extend(self.core.our_streams().await?);
        }
        let mut changed = false;
        for stream in streams {
            // Each stream in a turn of its own, so that they are not asked all at once.
            let ask = stream.bytes().map(u32::from).sum::<u32>() % RARELY == turn;
            match self.core.add_shards(&*self.store, &self.space, &stream, &rows, ask).await {
                Ok(more) => changed |= more,
                // It is gone; what it had is gone with it.
                Err(failure) if failure.cause == Cause::NotFound => self.core.forget(&stream),
                Err(failure) => return Err(failure),
            }
        }
        Ok(changed)
    }
}

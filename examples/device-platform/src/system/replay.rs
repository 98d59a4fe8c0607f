//! `device.hw`'s task: waits for each reading's moment and publishes it.

use std::time::Duration;

use msgkit::service::PublishHandle;
use msgkit::{MessageId, Text, Timestamp};
use tokio::time::Instant;

use crate::device_hw::Replay;

/// The most readings that are published in one go.
const BATCH: usize = 100;

/// Publishes the whole data set, each reading when it is due, under its own id: a replay after a restart repeats ids, and nothing is
/// stored twice.
pub(super) async fn run(replay: Replay, publisher: PublishHandle) {
    let start = Instant::now();
    let source = Text::from_static("device_hw");
    let mut replay = replay.peekable();
    while let Some(next) = replay.peek() {
        tokio::time::sleep_until(start + next.after).await;
        let now = start.elapsed();
        let mut batch = Vec::new();
        while batch.len() < BATCH
            && let Some(due) = replay.next_if(|due| due.after <= now)
        {
            match msgkit::envelope_of(&due.row.reading, &source, Timestamp::now()) {
                Ok(mut envelope) => {
                    if let Ok(id) = due.row.id.to_string().parse::<MessageId>() {
                        envelope.set_id(id);
                    }
                    batch.push(envelope);
                }
                Err(error) => {
                    tracing::error!(error = %msgkit::Chain(&error), "a reading cannot be published");
                }
            }
        }
        let mut pause = Duration::from_millis(100);
        while let Err(error) = publisher.publish_envelopes(batch.clone()).await {
            tracing::warn!(error = %msgkit::Chain(&error), "publishing failed; trying again in {pause:?}");
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(Duration::from_secs(10));
        }
    }
    tracing::info!("the replay is over");
}

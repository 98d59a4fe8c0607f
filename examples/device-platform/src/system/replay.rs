//! `device.hw`'s task: waits for each reading's moment and publishes it.

use std::time::Duration;

use msgkit::service::PublishHandle;
use msgkit::{MessageId, Text, Timestamp};
use tokio::time::Instant;

use super::transports::make_folder;
use crate::device_hw::{Position, Replay};
use crate::settings::Run;

/// The most readings that are published in one go.
const BATCH: usize = 100;

/// The replay where it is to go on, and how many readings lie before that.
pub(super) fn prepare(run: &Run) -> anyhow::Result<(Replay, Option<Position>, usize)> {
    let whole = Replay::new(run.speed)?;
    let mut replay = match run.readings {
        Some(readings) => whole.up_to(readings),
        None => whole,
    };
    let position = match &run.data {
        Some(folder) => {
            make_folder(folder)?;
            Some(Position::in_folder(folder))
        }
        None => None,
    };
    let mut before = 0;
    if let Some(position) = &position
        && let Some(id) = position.read()?
    {
        let wanted = replay.len();
        before = match replay.go_on_behind(id) {
            Some(before) => before,
            // It lies beyond the end where `--readings` is lower than the last time.
            None if Replay::new(run.speed)?.go_on_behind(id).is_some() => wanted,
            None => return Err(position.unknown().into()),
        };
    }
    Ok((replay, position, before))
}

/// Publishes what is left of the replay, each reading when it is due, under its own id, and notes how far it is.
pub(super) async fn run(replay: Replay, position: Option<Position>, publisher: PublishHandle) {
    let start = Instant::now();
    let source = Text::from_static("device_hw");
    let mut replay = replay.peekable();
    // What comes first is due now, however far the replay had come before.
    let begun = replay.peek().map_or(Duration::ZERO, |due| due.after);
    while let Some(next) = replay.peek() {
        tokio::time::sleep_until(start + (next.after - begun)).await;
        let now = begun + start.elapsed();
        let mut batch = Vec::new();
        let mut last = next.row.id;
        while batch.len() < BATCH
            && let Some(due) = replay.next_if(|due| due.after <= now)
        {
            last = due.row.id;
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
        // Only now: whoever dies before this publishes these readings again.
        if let Some(position) = position.clone() {
            let noted = tokio::task::spawn_blocking(move || position.note(last)).await;
            if let Ok(Err(error)) = noted {
                tracing::error!(%error, "the position of the replay cannot be noted; a restart repeats what follows");
            }
        }
    }
    tracing::info!("the replay is over");
}

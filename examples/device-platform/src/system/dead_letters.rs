//! Looks at the groups' dead letters without consuming them, and keeps what is shown of them.
//!
//! The transport holds the dead letters; the store holds a copy for the dashboard. Looking again after a crash repeats what was seen,
//! and storing is idempotent, so none can be missed.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Duration;

use msgkit::service::{CheckReport, PublishHandle};
use msgkit::transport::{Group, Peeked, Transport};
use msgkit::{BoxError, MessageId};

use crate::data_api::Store;
use crate::messages::DeadLetter;

/// How often to look.
const INTERVAL: Duration = Duration::from_millis(500);

/// Under which names the platform's handlers give up: their groups, and the services of those without one.
pub(super) fn groups(reports: &[CheckReport]) -> anyhow::Result<BTreeSet<Group>> {
    let names = reports.iter().flat_map(|report| {
        report.handlers.iter().map(|handler| handler.group.as_ref().unwrap_or(&report.service))
    });
    Ok(names.map(|name| Group::new(name.clone())).collect::<Result<_, _>>()?)
}

/// Looks until it is stopped.
pub(super) async fn watch(
    transports: Vec<Arc<dyn Transport>>,
    groups: BTreeSet<Group>,
    store: Store,
    publisher: PublishHandle,
) {
    let mut seen: HashMap<(usize, &Group), String> = HashMap::new();
    loop {
        for (at, transport) in transports.iter().enumerate() {
            let Some(operate) = transport.operate() else { continue };
            for group in &groups {
                let after = seen.get(&(at, group)).map(String::as_str);
                match operate.dead_letters(group, after, 100).await {
                    Ok(letters) => {
                        for letter in letters {
                            if !keep(&letter, &store, &publisher).await {
                                break;
                            }
                            seen.insert((at, group), letter.position.to_string());
                        }
                    }
                    Err(error) => {
                        tracing::warn!(%group, error = %msgkit::Chain(&error), "cannot look at the dead letters");
                    }
                }
            }
        }
        tokio::time::sleep(INTERVAL).await;
    }
}

/// Tells of one dead letter and stores it, where it is new; false where that has to be tried again.
///
/// Told first: dying in between tells of it twice, under the same id, and never not at all.
async fn keep(peeked: &Peeked, store: &Store, publisher: &PublishHandle) -> bool {
    let Some(letter) = shown(peeked) else { return true };
    let kept = async {
        if store.knows_dead_letter(&letter).await? {
            return Ok(());
        }
        let id = MessageId::derived(&[b"dead letter", letter.id.as_bytes(), letter.group.as_bytes()]);
        publisher.publish_with(&letter, |envelope| envelope.set_id(id)).await?;
        store.record_dead_letter(&letter).await?;
        Ok::<_, BoxError>(())
    };
    if let Err(error) = kept.await {
        tracing::warn!(error = %msgkit::Chain(&*error), "a dead letter could not be kept; trying again");
        return false;
    }
    true
}

fn shown(peeked: &Peeked) -> Option<DeadLetter> {
    let envelope = peeked.message.envelope()?;
    let facts = envelope.dead_letter()?;
    Some(DeadLetter {
        id: envelope.id().to_string(),
        trace_id: envelope.trace().parent.trace_id().to_string(),
        topic: facts.topic.to_string(),
        r#type: envelope.kind().to_owned(),
        group: facts.group.to_string(),
        kind: facts.kind.to_string(),
        error: facts.error.to_string(),
        attempts: facts.attempts,
        time: facts.last.to_string().parse().unwrap_or_default(),
        payload: String::from_utf8_lossy(envelope.payload()).into_owned(),
    })
}

//! The trace journal: an observer that tells `data_core.data_api` what became of every message.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use jiff::Timestamp;
use msgkit::service::PublishHandle;
use msgkit::telemetry::{Event, EventKind, Observer};
use tokio::sync::{mpsc, watch};

use crate::messages::{HopRecorded, HopsRecorded};

/// How many entries may wait to be published; more are counted and left out, as a journal must not stop the work.
const WAITING: usize = 50_000;
/// How many entries go into one message.
const BATCH: usize = 200;

/// Counts of events by kind and handler, for the metrics page.
pub type Counts = Arc<Mutex<BTreeMap<(&'static str, String), u64>>>;

/// Observes one component's service.
#[derive(Debug, Clone)]
pub struct Journal {
    component: &'static str,
    entries: mpsc::Sender<HopRecorded>,
    left_out: Arc<AtomicU64>,
    counts: Counts,
}

impl Journal {
    /// The journal of `component`, and the end from which [`write`] takes entries.
    #[must_use]
    pub fn new(component: &'static str, counts: Counts) -> (Self, mpsc::Receiver<HopRecorded>) {
        let (entries, receiver) = mpsc::channel(WAITING);
        (Self { component, entries, left_out: Arc::default(), counts }, receiver)
    }
}

/// Questions, answers, events for browsers and the journal itself say nothing of the data's way.
fn is_traced(kind: &str) -> bool {
    !(kind.ends_with(".query")
        || kind.ends_with(".answer")
        || kind.starts_with("data.journal")
        || kind.starts_with("notification."))
}

impl Observer for Journal {
    fn on(&self, event: &Event<'_>) {
        let handler = event.handler.map_or_else(String::new, |handler| handler.handler.to_string());
        let mut counts = self.counts.lock().unwrap_or_else(PoisonError::into_inner);
        *counts.entry((event.kind.name(), handler)).or_default() += 1;
        drop(counts);
        let Some(envelope) = event.envelope.filter(|envelope| is_traced(envelope.kind())) else { return };
        let (outcome, attempts) = match &event.kind {
            EventKind::Published { .. } => ("published", 0),
            EventKind::Succeeded { attempt, .. } => ("done", *attempt),
            EventKind::RetryScheduled { attempt, .. } => ("retried", *attempt),
            EventKind::DeadLettered(letter) => ("dead_lettered", letter.attempts),
            EventKind::Discarded { .. } => ("discarded", envelope.attempt() + 1),
            _ => return,
        };
        // Several handlers of one component may take one message: each is a place of its own in the journal.
        let component = match event.handler {
            Some(handler) if self.component == "data_core.data_api" => {
                format!("{}/{}", self.component, handler.handler)
            }
            _ => self.component.to_owned(),
        };
        let entry = HopRecorded {
            trace_id: envelope.trace().parent.trace_id().to_string(),
            id: envelope.id().to_string(),
            causation_id: envelope.causation_id().map(ToString::to_string),
            hop: envelope.hop(),
            topic: envelope.topic().to_string(),
            r#type: envelope.kind().to_owned(),
            component,
            time: Timestamp::now(),
            outcome: outcome.to_owned(),
            attempts,
        };
        if self.entries.try_send(entry).is_err() && self.left_out.fetch_add(1, Ordering::Relaxed) == 0 {
            tracing::warn!(component = self.component, "the journal cannot keep up; entries are left out");
        }
    }
}

/// Publishes what the journal collects; after `stop`, what is left, and ends.
pub(super) async fn write(
    mut entries: mpsc::Receiver<HopRecorded>,
    publisher: PublishHandle,
    mut stop: watch::Receiver<bool>,
) {
    let mut hops = Vec::with_capacity(BATCH);
    loop {
        // The publisher itself is observed and so keeps the sending end: that end never closes by itself.
        tokio::select! {
            biased;
            taken = entries.recv_many(&mut hops, BATCH) => {
                if taken == 0 {
                    return;
                }
            }
            _ = stop.wait_for(|stop| *stop), if !entries.is_closed() => {
                entries.close();
                continue;
            }
        }
        let message = HopsRecorded { hops: std::mem::take(&mut hops) };
        let mut pause = Duration::from_millis(50);
        for _ in 0..5 {
            match publisher.publish(&message).await {
                Ok(_) => break,
                Err(error) if error.is_temporary() => tokio::time::sleep(pause).await,
                Err(_) => break,
            }
            pause *= 2;
        }
    }
}

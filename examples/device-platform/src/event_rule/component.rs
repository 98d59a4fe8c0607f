//! The component: stored readings in, alerts out.

use std::sync::Arc;

use msgkit::{Context, Handle, Handler, HandlerError};
use tokio::sync::Mutex;

use super::{Engine, Rules};
use crate::messages::{
    AlertCleared, AlertRaised, AlertState, HistoryAnswer, HistoryQuery, ReadingEnriched, StoredReading,
};
use crate::system::Asker;

/// How many readings bring the rules' state on a device back.
const HISTORY: u32 = 10_000;

/// Feeds the rules with what is stored, in order: where the history of a device cannot be had, its later readings wait behind the one
/// that asks, since they would make it a late one.
#[derive(Debug, Handler)]
#[handler(message = StoredReading, group = "event_rule", order = "key_hold",
    publishes(AlertRaised, AlertCleared, HistoryQuery), component = "service_platform.core.event_rule")]
pub struct EventRule {
    engine: Mutex<Engine>,
    asker: Arc<Asker>,
}

impl EventRule {
    /// Applies `rules`; asks for a device's history once.
    #[must_use]
    pub fn new(rules: Rules, asker: Arc<Asker>) -> Self {
        Self { engine: Mutex::new(Engine::new(rules)), asker }
    }
}

impl Handle<StoredReading> for EventRule {
    async fn handle(&self, stored: StoredReading, cx: &Context) -> Result<(), HandlerError> {
        let mut engine = self.engine.lock().await;
        let reading = stored.to_enriched();
        if !engine.knows(&reading.device_id) {
            // A start, or a restart: the state of the rules follows from what is stored.
            let query = HistoryQuery {
                device_id: reading.device_id.clone(),
                at: reading.at,
                id: reading.reading_id.clone(),
                limit: HISTORY,
            };
            let history: HistoryAnswer = self.asker.ask(&query).await?;
            let history: Vec<ReadingEnriched> =
                history.readings.iter().map(StoredReading::to_enriched).collect();
            engine.seed(&history);
        }
        for transition in engine.observe(&reading).into_transitions() {
            let (device_id, rule, quantity) =
                (reading.device_id.clone(), transition.rule, transition.quantity);
            let (value, threshold, at) = (transition.value, transition.threshold, transition.at);
            match transition.state {
                AlertState::Raised => {
                    cx.publish(&AlertRaised { device_id, rule, quantity, value, threshold, at })?;
                }
                AlertState::Cleared => {
                    cx.publish(&AlertCleared { device_id, rule, quantity, value, threshold, at })?;
                }
            }
        }
        Ok(())
    }
}

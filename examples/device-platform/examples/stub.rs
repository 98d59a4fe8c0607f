//! The dashboard's platform without messages: everything in one process, in memory. For working on the dashboard only.
#![allow(clippy::unwrap_used, clippy::wildcard_imports, clippy::needless_pass_by_value)]

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use device_platform::api_gateway::metrics::Exposition;
use device_platform::api_gateway::{
    Accepted, Access, Gateway, Queries, ReadingSink, Status, Unavailable, router,
};
use device_platform::data_api::{Store, StoreError};
use device_platform::device_hw::{Replay, Speed};
use device_platform::event_rule::{Engine, Rules};
use device_platform::messages::*;
use device_platform::notification::Hub;
use device_platform::processing::enrich;
use device_platform::settings::Settings;
use jiff::Timestamp;
use tokio::sync::Mutex;
use uuid::Uuid;

#[derive(Clone)]
struct Stub {
    store: Store,
    hub: Hub,
    engine: Arc<Mutex<Engine>>,
}

fn failed(e: StoreError) -> Unavailable {
    Unavailable { reason: e.to_string(), retry_after: Duration::from_secs(1) }
}

impl Stub {
    async fn take(&self, id: String, reading: ReadingReported, from: &str) -> Result<Accepted, StoreError> {
        let trace_id = Uuid::new_v5(&Uuid::NAMESPACE_OID, id.as_bytes()).simple().to_string();
        let now = Timestamp::now();
        let topic = format!("device.{}.reading", reading.device_id);
        let hop = |message: &str,
                   cause: Option<&str>,
                   hop,
                   topic: &str,
                   r#type: &str,
                   component: &str,
                   outcome: &str| {
            HopRecorded {
                trace_id: trace_id.clone(),
                id: message.to_owned(),
                causation_id: cause.map(str::to_owned),
                hop,
                topic: topic.to_owned(),
                r#type: r#type.to_owned(),
                component: component.to_owned(),
                time: now + Duration::from_micros(u64::from(hop) * 730),
                outcome: outcome.to_owned(),
                attempts: u32::from(outcome != "published"),
            }
        };
        let mut hops = vec![hop(&id, None, 0, &topic, "device.reading.reported", from, "published")];
        let processing = "service_platform.container.processing";
        let payload = serde_json::to_string_pretty(&reading).unwrap_or_default();
        match enrich(id.clone(), reading) {
            Err(e) => {
                hops.push(hop(&id, None, 0, &topic, "device.reading.reported", processing, "dead_lettered"));
                let letter = DeadLetter {
                    id: id.clone(),
                    trace_id: trace_id.clone(),
                    topic,
                    r#type: "device.reading.reported".into(),
                    group: "processing".into(),
                    kind: "handler".into(),
                    error: e.to_string(),
                    attempts: 1,
                    time: now,
                    payload,
                };
                self.store.record_dead_letter(&letter).await?;
                self.hub.publish("dead_letter", serde_json::to_string(&letter).unwrap_or_default());
            }
            Ok(enriched) => {
                let (e_id, a_id) = (format!("{id}-e"), format!("{id}-a"));
                let e_topic = format!("device.{}.enriched", enriched.device_id);
                hops.push(hop(&id, None, 0, &topic, "device.reading.reported", processing, "done"));
                hops.push(hop(
                    &e_id,
                    Some(&id),
                    1,
                    &e_topic,
                    "device.reading.enriched",
                    processing,
                    "published",
                ));
                hops.push(hop(
                    &e_id,
                    Some(&id),
                    1,
                    &e_topic,
                    "device.reading.enriched",
                    "data_core.data_api",
                    "done",
                ));
                hops.push(hop(
                    &e_id,
                    Some(&id),
                    1,
                    &e_topic,
                    "device.reading.enriched",
                    "service_platform.core.event_rule",
                    "done",
                ));
                let stored = StoredReading::new(trace_id.clone(), &enriched);
                let recorded = self.store.record_readings(std::slice::from_ref(&stored)).await?;
                self.hub.publish("reading", serde_json::to_string(&stored).unwrap_or_default());
                for aggregate in &recorded[0].aggregates {
                    self.hub.publish("aggregate", serde_json::to_string(aggregate).unwrap_or_default());
                }
                let s_topic = "data_core.data_api.aggregate";
                hops.push(hop(
                    &a_id,
                    Some(&e_id),
                    2,
                    s_topic,
                    "data.aggregate.updated",
                    "data_core.data_api",
                    "published",
                ));
                hops.push(hop(
                    &a_id,
                    Some(&e_id),
                    2,
                    s_topic,
                    "data.aggregate.updated",
                    "service_platform.notification",
                    "done",
                ));
                for t in self.engine.lock().await.observe(&enriched).into_transitions() {
                    let alert = StoredAlert {
                        id: format!("{id}-{}-{}", t.rule, t.state.as_str()),
                        trace_id: trace_id.clone(),
                        state: t.state,
                        device_id: enriched.device_id.clone(),
                        rule: t.rule,
                        quantity: t.quantity,
                        value: t.value,
                        threshold: t.threshold,
                        at: t.at,
                    };
                    self.store.record_alert(&alert).await?;
                    self.hub.publish("alert", serde_json::to_string(&alert).unwrap_or_default());
                }
            }
        }
        self.store.record_hops(&hops).await?;
        Ok(Accepted { id, trace_id })
    }
}

#[async_trait]
impl ReadingSink for Stub {
    async fn accept(&self, reading: ReadingReported) -> Result<Accepted, Unavailable> {
        let id = Uuid::new_v5(&Uuid::NAMESPACE_OID, Timestamp::now().to_string().as_bytes()).to_string();
        self.take(id, reading, "service_platform.api_gateway").await.map_err(failed)
    }
}

#[async_trait]
impl Queries for Stub {
    async fn devices(&self, query: DevicesQuery) -> Result<DevicesAnswer, Unavailable> {
        self.store.devices(&query).await.map_err(failed)
    }
    async fn readings(&self, query: ReadingsQuery) -> Result<ReadingsAnswer, Unavailable> {
        self.store.readings(&query).await.map_err(failed)
    }
    async fn aggregates(&self, query: AggregatesQuery) -> Result<AggregatesAnswer, Unavailable> {
        self.store.aggregates(&query).await.map_err(failed)
    }
    async fn alerts(&self, query: AlertsQuery) -> Result<AlertsAnswer, Unavailable> {
        self.store.alerts(&query).await.map_err(failed)
    }
    async fn dead_letters(&self, query: DeadLettersQuery) -> Result<DeadLettersAnswer, Unavailable> {
        self.store.dead_letters(&query).await.map_err(failed)
    }
    async fn trace(&self, query: TraceQuery) -> Result<TraceAnswer, Unavailable> {
        self.store.trace(&query).await.map_err(failed)
    }
}

impl Status for Stub {
    fn not_ready(&self) -> Vec<String> {
        vec![]
    }
    fn metrics(&self, _: &mut Exposition) {}
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let settings = <Settings as clap::Parser>::parse();
    settings.run.check()?;
    let stub = Stub {
        store: Store::in_memory().await?,
        hub: Hub::for_process(512),
        engine: Arc::new(Mutex::new(Engine::new(Rules::default()))),
    };
    let listener = tokio::net::TcpListener::bind(settings.run.listen.0).await?;
    println!("http://{}", listener.local_addr()?);
    let replaying = stub.clone();
    tokio::spawn(async move {
        // What is already history when the page opens: as many readings as STUB_HISTORY says, at once.
        let history: usize = std::env::var("STUB_HISTORY").ok().and_then(|n| n.parse().ok()).unwrap_or(0);
        for due in Replay::new(Speed::MAX).unwrap().take(history) {
            replaying.take(due.row.id.to_string(), due.row.reading, "device.hw").await.unwrap();
        }
        println!("history");
        let start = tokio::time::Instant::now();
        let mut first = None;
        for due in Replay::new(settings.run.speed).unwrap().skip(history) {
            let first = *first.get_or_insert(due.after);
            tokio::time::sleep_until(start + (due.after - first)).await;
            replaying.take(due.row.id.to_string(), due.row.reading, "device.hw").await.unwrap();
        }
    });
    let access = Access::new(settings.run.listen, settings.run.token.clone()).ok_or("needs a token")?;
    let gateway = Gateway {
        sink: Arc::new(stub.clone()),
        queries: Arc::new(stub.clone()),
        hub: stub.hub.clone(),
        status: Arc::new(stub),
        access: Arc::new(access),
        http: Arc::default(),
    };
    axum::serve(listener, router(gateway)).await?;
    Ok(())
}

//! The component: what happens comes in, what browsers are told goes out.

use msgkit::{Context, Handle, Handler, HandlerError};
use serde::Serialize;

use super::Hub;
use crate::messages::{
    AggregateUpdated, AlertCleared, AlertRaised, DeadLetter, EventTold, StoredAlert, StoredReading,
};

fn told(name: &str, data: &impl Serialize) -> Result<EventTold, HandlerError> {
    Ok(EventTold { name: name.to_owned(), data: serde_json::to_string(data)? })
}

/// Turns what happens into events for dashboards.
#[derive(Debug, Handler)]
#[handler(
    messages(StoredReading, AggregateUpdated, AlertRaised, AlertCleared, DeadLetter),
    group = "notification",
    publishes(EventTold),
    component = "service_platform.notification"
)]
pub struct Notification;

impl Handle<StoredReading, EventTold> for Notification {
    async fn handle(&self, reading: StoredReading, _: &Context) -> Result<EventTold, HandlerError> {
        told("reading", &reading)
    }
}

impl Handle<AggregateUpdated, EventTold> for Notification {
    async fn handle(&self, aggregate: AggregateUpdated, _: &Context) -> Result<EventTold, HandlerError> {
        told("aggregate", &aggregate)
    }
}

impl Handle<AlertRaised, EventTold> for Notification {
    async fn handle(&self, alert: AlertRaised, cx: &Context) -> Result<EventTold, HandlerError> {
        let trace_id = cx.envelope().trace().parent.trace_id().to_string();
        told("alert", &StoredAlert::raised(cx.envelope().id().to_string(), trace_id, alert))
    }
}

impl Handle<AlertCleared, EventTold> for Notification {
    async fn handle(&self, alert: AlertCleared, cx: &Context) -> Result<EventTold, HandlerError> {
        let trace_id = cx.envelope().trace().parent.trace_id().to_string();
        told("alert", &StoredAlert::cleared(cx.envelope().id().to_string(), trace_id, alert))
    }
}

impl Handle<DeadLetter, EventTold> for Notification {
    async fn handle(&self, letter: DeadLetter, _: &Context) -> Result<EventTold, HandlerError> {
        told("dead_letter", &letter)
    }
}

/// Feeds the hub of the process that serves dashboards.
#[derive(Debug, Handler)]
#[handler(message = EventTold, ephemeral, name = "dashboard_events", component = "service_platform.api_gateway")]
pub struct FeedHub(pub Hub);

impl Handle<EventTold> for FeedHub {
    async fn handle(&self, event: EventTold, _: &Context) -> Result<(), HandlerError> {
        self.0.publish(&event.name, event.data);
        Ok(())
    }
}

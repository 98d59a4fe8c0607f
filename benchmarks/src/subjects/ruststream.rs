//! RustStream 0.7 with its in-memory broker, as its README and guides set a service up.

use std::convert::Infallible;

use ruststream::{
    Bytes,
    memory::{MemoryPublisher, PARTITION_KEY_HEADER, prelude::*},
    runtime::RunningApp,
};
use serde::{Deserialize, Serialize};

use crate::{
    payload,
    scenario::{Scenario, Variant},
    subject::Subject,
    work::Work,
};

#[derive(Debug, Serialize, Deserialize, Outgoing)]
#[outgoing(name = "orders")]
struct Order {
    id: u64,
    customer: u64,
}

#[derive(Debug, Serialize, Deserialize, Outgoing)]
#[outgoing(name = "orders")]
struct Document {
    id: u64,
    customer: u64,
    text: String,
}

#[derive(Debug, Serialize, Deserialize, Outgoing)]
#[outgoing(name = "orders")]
struct Created {
    id: u64,
    customer: u64,
}

#[derive(Debug, Serialize, Deserialize, Outgoing)]
#[outgoing(name = "orders")]
struct Changed {
    id: u64,
    customer: u64,
}

#[derive(Debug, Serialize, Deserialize, Outgoing)]
#[outgoing(name = "orders")]
struct Cancelled {
    id: u64,
    customer: u64,
}

#[derive(InMessages)]
#[in_messages(header = "event")]
enum Event {
    #[in_messages(value = "created")]
    Created(Created),
    #[in_messages(value = "changed")]
    Changed(Changed),
    #[in_messages(value = "cancelled")]
    Cancelled(Cancelled),
}

#[subscriber("orders")]
async fn on_order(order: &Order, ctx: &mut Context<'_, (), Work>) -> HandlerOutcome {
    ctx.state().handle(order.id, order.customer);
    HandlerOutcome::ack()
}

#[subscriber("orders")]
async fn on_document(document: &Document, ctx: &mut Context<'_, (), Work>) -> HandlerOutcome {
    std::hint::black_box(&document.text);
    ctx.state().handle(document.id, document.customer);
    HandlerOutcome::ack()
}

#[subscriber("orders")]
async fn on_event(event: &Event, ctx: &mut Context<'_, (), Work>) -> HandlerOutcome {
    let (id, customer) = match event {
        Event::Created(created) => (created.id, created.customer),
        Event::Changed(changed) => (changed.id, changed.customer),
        Event::Cancelled(cancelled) => (cancelled.id, cancelled.customer),
    };
    ctx.state().handle(id, customer);
    HandlerOutcome::ack()
}

/// Asks for the retry in so many words: a plain `Err` drops the message by default.
#[subscriber("orders")]
async fn on_fragile(order: &Order, ctx: &mut Context<'_, (), Work>) -> HandlerOutcome {
    match ctx.state().try_handle(order.id, order.customer) {
        Ok(()) => HandlerOutcome::ack(),
        Err(_unlucky) => HandlerOutcome::retry(),
    }
}

/// A running service and a publisher on its broker.
#[derive(Debug)]
pub struct Ruststream {
    variant: Variant,
    publisher: MemoryPublisher,
    app: RunningApp,
}

impl Subject for Ruststream {
    async fn start(scenario: Scenario, work: Work) -> anyhow::Result<Self> {
        let Scenario { variant, lanes, .. } = scenario;
        let broker = MemoryBroker::new();
        let publisher = broker.publisher();
        let app = RustStream::new(AppInfo::new("benchmarks", "0.1.0"))
            .on_startup(async move |()| Ok::<_, Infallible>(work))
            .with_broker(broker, |b| match variant {
                Variant::Json => drop(b.include(on_order.workers(lanes))),
                Variant::Key => drop(b.include(on_order.workers_by_key(lanes))),
                Variant::Kibibyte => drop(b.include(on_document.workers(lanes))),
                Variant::Types => drop(b.include(on_event.workers(lanes))),
                Variant::Retry => drop(b.include(on_fragile.workers(lanes))),
            })
            .start()
            .await?;
        Ok(Self { variant, publisher, app })
    }

    async fn publish(&self, index: u64) -> anyhow::Result<()> {
        let (id, customer) = (payload::id(index), payload::customer(index));
        let to = &self.publisher;
        match self.variant {
            Variant::Json | Variant::Retry => to.message(&Order { id, customer }).publish().await?,
            Variant::Key => {
                let key = header(PARTITION_KEY_HEADER, customer.to_string());
                to.message(&Order { id, customer }).with_headers(key).publish().await?;
            }
            Variant::Kibibyte => {
                let document = Document { id, customer, text: payload::TEXT.to_owned() };
                to.message(&document).publish().await?;
            }
            Variant::Types => match payload::kind(index) {
                0 => {
                    let created = Created { id, customer };
                    to.message(&created).with_headers(header("event", "created")).publish().await?;
                }
                1 => {
                    let changed = Changed { id, customer };
                    to.message(&changed).with_headers(header("event", "changed")).publish().await?;
                }
                _ => {
                    let cancelled = Cancelled { id, customer };
                    to.message(&cancelled).with_headers(header("event", "cancelled")).publish().await?;
                }
            },
        }
        Ok(())
    }

    async fn stop(self) -> anyhow::Result<()> {
        Ok(self.app.shutdown().await?)
    }
}

/// One header, which is all that any scenario sends.
fn header(name: &'static str, value: impl Into<Bytes>) -> HeaderMap {
    let mut headers = HeaderMap::new();
    headers.insert(Str::from_static(name), value);
    headers
}

#[cfg(test)]
mod tests {
    use super::{Document, Order, Variant, payload};

    #[test]
    fn the_messages_say_what_the_harness_says() {
        let (id, customer) = (payload::id(7), payload::customer(7));
        let order = serde_json::to_string(&Order { id, customer }).unwrap();
        assert_eq!(order, payload::json(Variant::Json, 7));
        let text = payload::TEXT.to_owned();
        let document = serde_json::to_string(&Document { id, customer, text }).unwrap();
        assert_eq!(document, payload::json(Variant::Kibibyte, 7));
    }
}

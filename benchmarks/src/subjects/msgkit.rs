//! msgkit with its memory transport, as its README sets a service up.

use msgkit::{
    Context, Error, Handle, HandlerError, Message, Service,
    handler::{Handler, HandlerSpec},
    policy::{OnFailure, Order as KeyOrder},
    service::{PublishHandle, Running},
};
use serde::{Deserialize, Serialize};

use crate::{
    payload,
    scenario::{Scenario, Variant},
    subject::Subject,
    work::{Unlucky, Work},
};

#[derive(Debug, Serialize, Deserialize, Message)]
#[message(name = "orders.order", topic = "orders")]
struct Order {
    id: u64,
    customer: u64,
}

#[derive(Debug, Serialize, Deserialize, Message)]
#[message(name = "orders.keyed", topic = "orders", key = customer)]
struct Keyed {
    id: u64,
    customer: u64,
}

#[derive(Debug, Serialize, Deserialize, Message)]
#[message(name = "orders.document", topic = "orders")]
struct Document {
    id: u64,
    customer: u64,
    text: String,
}

#[derive(Debug, Serialize, Deserialize, Message)]
#[message(name = "orders.created", topic = "orders")]
struct Created {
    id: u64,
    customer: u64,
}

#[derive(Debug, Serialize, Deserialize, Message)]
#[message(name = "orders.changed", topic = "orders")]
struct Changed {
    id: u64,
    customer: u64,
}

#[derive(Debug, Serialize, Deserialize, Message)]
#[message(name = "orders.cancelled", topic = "orders")]
struct Cancelled {
    id: u64,
    customer: u64,
}

struct Bench {
    work: Work,
    variant: Variant,
    lanes: usize,
}

/// What a handler of a message with an id and a customer does.
macro_rules! handle {
    ($($name:ident),+) => {
        $(impl Handle<$name> for Bench {
            async fn handle(&self, message: $name, _: &Context) -> Result<(), HandlerError> {
                self.work.handle(message.id, message.customer);
                Ok(())
            }
        })+
    };
}

handle!(Keyed, Created, Changed, Cancelled);

impl Handle<Document> for Bench {
    async fn handle(&self, document: Document, _: &Context) -> Result<(), HandlerError> {
        std::hint::black_box(&document.text);
        self.work.handle(document.id, document.customer);
        Ok(())
    }
}

impl Handle<Order, (), Unlucky> for Bench {
    async fn handle(&self, order: Order, _: &Context) -> Result<(), Unlucky> {
        if self.variant == Variant::Retry {
            return self.work.try_handle(order.id, order.customer);
        }
        self.work.handle(order.id, order.customer);
        Ok(())
    }
}

impl Handler for Bench {
    fn spec(self: std::sync::Arc<Self>) -> Result<HandlerSpec, Error> {
        let spec = HandlerSpec::new("bench", "bench")?.concurrency(self.lanes);
        Ok(match self.variant {
            Variant::Json | Variant::Retry => spec.handles::<Order, _, _, _>(&self),
            Variant::Key => spec.handles::<Keyed, _, _, _>(&self).order(KeyOrder::Key(OnFailure::Overtake)),
            Variant::Kibibyte => spec.handles::<Document, _, _, _>(&self),
            Variant::Types => spec
                .handles::<Created, _, _, _>(&self)
                .handles::<Changed, _, _, _>(&self)
                .handles::<Cancelled, _, _, _>(&self),
        })
    }
}

/// A running service and a handle to publish.
#[derive(Debug)]
pub struct Msgkit {
    variant: Variant,
    publisher: PublishHandle,
    running: Running,
}

impl Subject for Msgkit {
    async fn start(scenario: Scenario, work: Work) -> anyhow::Result<Self> {
        let Scenario { variant, lanes, .. } = scenario;
        let running =
            Service::new("benchmarks").handler(Bench { work, variant, lanes: lanes.into() }).start().await?;
        Ok(Self { variant, publisher: running.publisher(), running })
    }

    async fn publish(&self, index: u64) -> anyhow::Result<()> {
        let (id, customer) = (payload::id(index), payload::customer(index));
        let to = &self.publisher;
        match self.variant {
            Variant::Json | Variant::Retry => to.publish(&Order { id, customer }).await?,
            Variant::Key => to.publish(&Keyed { id, customer }).await?,
            Variant::Kibibyte => {
                to.publish(&Document { id, customer, text: payload::TEXT.to_owned() }).await?
            }
            Variant::Types => match payload::kind(index) {
                0 => to.publish(&Created { id, customer }).await?,
                1 => to.publish(&Changed { id, customer }).await?,
                _ => to.publish(&Cancelled { id, customer }).await?,
            },
        };
        Ok(())
    }

    async fn stop(self) -> anyhow::Result<()> {
        Ok(self.running.drain().await?)
    }
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

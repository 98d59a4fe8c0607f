//! msgkit with its memory transport, as its README sets a service up.

use std::sync::OnceLock;

use msgkit::{
    Context, Error, Handle, HandlerError, Message, Service, Topic,
    codec::Json,
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

/// What the derive writes for a message on the fixed topic `orders`.
macro_rules! message {
    ($(#[$key:ident])? $name:ident, $wire:literal) => {
        impl Message for $name {
            type Codec = Json;
            const NAME: &'static str = $wire;
            const TOPIC: &'static str = "orders";
            fn topic(&self) -> Result<Topic, Error> {
                static TOPIC: OnceLock<Topic> = OnceLock::new();
                match TOPIC.get() {
                    Some(topic) => Ok(topic.clone()),
                    None => Ok(TOPIC.get_or_init(|| Topic::new("orders").unwrap_or_else(|_| unreachable!())).clone()),
                }
            }
            $(fn $key(&self) -> Option<std::borrow::Cow<'_, str>> {
                Some(self.customer.to_string().into())
            })?
        }
    };
}

#[derive(Debug, Serialize, Deserialize)]
struct Order {
    id: u64,
    customer: u64,
}

#[derive(Debug, Serialize, Deserialize)]
struct Keyed {
    id: u64,
    customer: u64,
}

#[derive(Debug, Serialize, Deserialize)]
struct Document {
    id: u64,
    customer: u64,
    text: String,
}

#[derive(Debug, Serialize, Deserialize)]
struct Created {
    id: u64,
    customer: u64,
}

#[derive(Debug, Serialize, Deserialize)]
struct Changed {
    id: u64,
    customer: u64,
}

#[derive(Debug, Serialize, Deserialize)]
struct Cancelled {
    id: u64,
    customer: u64,
}

message!(Order, "orders.order");
message!(#[key] Keyed, "orders.keyed");
message!(Document, "orders.document");
message!(Created, "orders.created");
message!(Changed, "orders.changed");
message!(Cancelled, "orders.cancelled");

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
            Variant::Kibibyte => to.publish(&Document { id, customer, text: payload::TEXT.to_owned() }).await?,
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

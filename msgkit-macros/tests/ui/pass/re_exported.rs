//! msgkit under another name, as a framework on top of it would have it.

mod framework {
    pub use msgkit as messaging;
}

use framework::messaging::{Context, Handle, Handler, HandlerError, Message};
use serde::{Deserialize, Serialize};

#[derive(Serialize, Deserialize, Message)]
#[message(name = "orders.placed", key = id, crate = framework::messaging)]
struct Placed {
    id: u64,
}

#[derive(Handler)]
#[handler(message = Placed, group = "storage", publishes = Placed, batch(size = 10, wait = "1s"), crate = framework::messaging)]
struct Bulk;

#[derive(Handler)]
#[handler(message = Placed, group = "storage", crate = framework::messaging)]
struct Store;

impl Handle<Placed> for Store {
    async fn handle(&self, _: Placed, _: &Context) -> Result<(), HandlerError> {
        Ok(())
    }
}

impl messaging::handler::HandleBatch<Placed> for Bulk {
    async fn handle_batch(
        &self,
        batch: Vec<messaging::handler::Batch<Placed>>,
    ) -> Result<messaging::handler::BatchOutcome, HandlerError> {
        Ok(messaging::handler::BatchOutcome::all(batch.len()))
    }
}

use framework::messaging;

fn main() {}

//! A batch of several types.

use msgkit::{Context, Handle, Handler, HandlerError, Message};
use serde::{Deserialize, Serialize};

#[derive(Serialize, Deserialize, Message)]
#[message(name = "orders.placed")]
struct Placed;

#[derive(Serialize, Deserialize, Message)]
#[message(name = "orders.shipped")]
struct Shipped;

#[derive(Handler)]
#[handler(messages(Placed, Shipped), group = "storage", batch(size = 100, wait = "50ms"))]
struct Store;

impl Handle<Placed> for Store {
    async fn handle(&self, _: Placed, _: &Context) -> Result<(), HandlerError> {
        Ok(())
    }
}

fn main() {
    fn is_handler<H: Handler>() {}
    is_handler::<Store>();
}

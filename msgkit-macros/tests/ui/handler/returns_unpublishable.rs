//! What it returns cannot be published.

use msgkit::{Context, Handle, Handler, HandlerError, Message};
use serde::{Deserialize, Serialize};

#[derive(Serialize, Deserialize, Message)]
#[message(name = "orders.placed")]
struct Placed;

#[derive(Handler)]
#[handler(message = Placed, group = "storage")]
struct Store;

impl Handle<Placed, u64> for Store {
    async fn handle(&self, _: Placed, _: &Context) -> Result<u64, HandlerError> {
        Ok(7)
    }
}

fn main() {
    fn is_handler<H: Handler>() {}
    is_handler::<Store>();
}

//! The component holds what it may not.

use msgkit::{Context, Handle, Handler, HandlerError, Message};
use serde::{Deserialize, Serialize};

#[derive(Serialize, Deserialize, Message)]
#[message(name = "orders.placed")]
struct Placed;

#[derive(Handler)]
#[handler(message = Placed, group = "storage", component = "shop/storage")]
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

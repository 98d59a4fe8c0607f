//! What it handles is no message.

use msgkit::{Context, Handle, Handler, HandlerError, Message};
use serde::{Deserialize, Serialize};

#[derive(Serialize, Deserialize, Message)]
#[message(name = "orders.placed")]
struct Placed;

#[derive(Handler)]
#[handler(message = String, group = "storage")]
struct Store;

impl Handle<String> for Store {
    async fn handle(&self, _: String, _: &Context) -> Result<(), HandlerError> {
        Ok(())
    }
}

fn main() {
    fn is_handler<H: Handler>() {}
    is_handler::<Store>();
}

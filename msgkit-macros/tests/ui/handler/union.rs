//! A union is no handler.

use msgkit::{Context, Handle, Handler, HandlerError, Message};
use serde::{Deserialize, Serialize};

#[derive(Serialize, Deserialize, Message)]
#[message(name = "orders.placed")]
struct Placed;

#[derive(Handler)]
#[handler(message = Placed, group = "storage")]
union Store {
    number: u32,
    real: f32,
}

impl Handle<Placed> for Store {
    async fn handle(&self, _: Placed, _: &Context) -> Result<(), HandlerError> {
        Ok(())
    }
}

fn main() {
    fn is_handler<H: Handler>() {}
    is_handler::<Store>();
}

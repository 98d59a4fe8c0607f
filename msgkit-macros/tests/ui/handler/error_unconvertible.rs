//! Its error is no error.

use msgkit::{Context, Handle, Handler, Message};
use serde::{Deserialize, Serialize};

#[derive(Serialize, Deserialize, Message)]
#[message(name = "orders.placed")]
struct Placed;

struct NotAnError;

#[derive(Handler)]
#[handler(message = Placed, group = "storage")]
struct Store;

impl Handle<Placed, (), NotAnError> for Store {
    async fn handle(&self, _: Placed, _: &Context) -> Result<(), NotAnError> {
        Ok(())
    }
}

fn main() {
    fn is_handler<H: Handler>() {}
    is_handler::<Store>();
}

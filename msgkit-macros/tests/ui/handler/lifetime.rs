//! A handler borrows nothing.

use msgkit::{Context, Handle, Handler, HandlerError, Message};
use serde::{Deserialize, Serialize};

#[derive(Serialize, Deserialize, Message)]
#[message(name = "orders.placed")]
struct Placed;

#[derive(Handler)]
#[handler(message = Placed, group = "storage")]
struct Store<'a> {
    name: &'a str,
}

impl Handle<Placed> for Store<'static> {
    async fn handle(&self, _: Placed, _: &Context) -> Result<(), HandlerError> {
        Ok(())
    }
}

fn main() {}

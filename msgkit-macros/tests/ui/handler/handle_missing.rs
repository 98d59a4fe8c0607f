//! `impl Handle` is missing.

use msgkit::{Handler, Message};
use serde::{Deserialize, Serialize};

#[derive(Serialize, Deserialize, Message)]
#[message(name = "orders.placed")]
struct Placed;

#[derive(Handler)]
#[handler(message = Placed, group = "storage")]
struct Store;

fn main() {
    fn is_handler<H: Handler>() {}
    is_handler::<Store>();
}

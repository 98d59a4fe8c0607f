//! The key of a tuple struct is a number that exists.

use msgkit::Message;
use serde::{Deserialize, Serialize};

#[derive(Serialize, Deserialize, Message)]
#[message(name = "device.reported", key = 2)]
struct Reported(String, f64);

fn main() {
    fn is_message<M: Message>() {}
    is_message::<Reported>();
}

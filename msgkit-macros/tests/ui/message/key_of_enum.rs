//! An enum has no key.

use msgkit::Message;
use serde::{Deserialize, Serialize};

#[derive(Serialize, Deserialize, Message)]
#[message(name = "device.reported", key = device_id)]
enum Reported {
    Hot { device_id: String },
}

fn main() {
    fn is_message<M: Message>() {}
    is_message::<Reported>();
}

//! An enum has no fields.

use msgkit::Message;
use serde::{Deserialize, Serialize};

#[derive(Serialize, Deserialize, Message)]
#[message(name = "device.reported", topic = "device.{device_id}.telemetry")]
enum Reported {
    Hot { device_id: String },
    Cold { device_id: String },
}

fn main() {
    fn is_message<M: Message>() {}
    is_message::<Reported>();
}

//! A field in the topic that may be none; as a key it could be.

use msgkit::Message;
use serde::{Deserialize, Serialize};

#[derive(Serialize, Deserialize, Message)]
#[message(name = "device.reported", topic = "device.{device_id}.telemetry", key = device_id)]
struct Reported {
    device_id: Option<String>,
    temperature: f64,
}

fn main() {
    fn is_message<M: Message>() {}
    is_message::<Reported>();
}

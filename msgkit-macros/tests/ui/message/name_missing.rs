//! The name is missing.

use msgkit::Message;
use serde::{Deserialize, Serialize};

#[derive(Serialize, Deserialize, Message)]
#[message(topic = "device.telemetry")]
struct Reported {
    device_id: String,
    temperature: f64,
}

fn main() {
    fn is_message<M: Message>() {}
    is_message::<Reported>();
}

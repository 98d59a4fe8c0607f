//! Three mistakes are three errors.

use msgkit::Message;
use serde::{Deserialize, Serialize};

#[derive(Serialize, Deserialize, Message)]
#[message(name = 7, topic = "device..telemetry", kee = device_id)]
struct Reported {
    device_id: String,
    temperature: f64,
}

fn main() {
    fn is_message<M: Message>() {}
    is_message::<Reported>();
}

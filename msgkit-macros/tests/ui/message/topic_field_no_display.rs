//! A field of the topic is not `Display`.

use msgkit::Message;
use serde::{Deserialize, Serialize};

#[derive(Serialize, Deserialize)]
struct DeviceId(u64);

#[derive(Serialize, Deserialize, Message)]
#[message(name = "device.reported", topic = "device.{device_id}.telemetry")]
struct Reported {
    device_id: DeviceId,
}

fn main() {
    fn is_message<M: Message>() {}
    is_message::<Reported>();
}

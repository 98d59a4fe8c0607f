//! A field of the topic, which is the key and the subject too, is not `Display`.

use msgkit::Message;
use serde::{Deserialize, Serialize};

#[derive(Serialize, Deserialize)]
struct DeviceId(u64);

#[derive(Serialize, Deserialize, Message)]
#[message(name = "device.reported", topic = "device.{device_id}.telemetry", key = device_id, subject = device_id)]
struct Reported {
    device_id: DeviceId,
}

fn main() {
    fn is_message<M: Message>() {}
    is_message::<Reported>();
}

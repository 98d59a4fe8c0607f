//! The key is not `Display`.

use msgkit::Message;
use serde::{Deserialize, Serialize};

#[derive(Serialize, Deserialize)]
struct DeviceId(u64);

#[derive(Serialize, Deserialize, Message)]
#[message(name = "device.reported", key = device_id)]
struct Reported {
    device_id: DeviceId,
}

fn main() {
    fn is_message<M: Message>() {}
    is_message::<Reported>();
}

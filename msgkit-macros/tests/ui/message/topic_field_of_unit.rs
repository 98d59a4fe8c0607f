//! There are no fields.

use msgkit::Message;
use serde::{Deserialize, Serialize};

#[derive(Serialize, Deserialize, Message)]
#[message(name = "device.reported", topic = "device.{device_id}.telemetry")]
struct Reported;

fn main() {
    fn is_message<M: Message>() {}
    is_message::<Reported>();
}

//! `Deserialize` is not derived.

use msgkit::Message;
use serde::Serialize;

#[derive(Serialize, Message)]
#[message(name = "device.reported")]
struct Reported {
    device_id: String,
    temperature: f64,
}

fn main() {
    fn is_message<M: Message>() {}
    is_message::<Reported>();
}

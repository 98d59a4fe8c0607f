//! `Serialize` is not derived.

use msgkit::Message;
use serde::Deserialize;

#[derive(Deserialize, Message)]
#[message(name = "device.reported")]
struct Reported {
    device_id: String,
    temperature: f64,
}

fn main() {
    fn is_message<M: Message>() {}
    is_message::<Reported>();
}

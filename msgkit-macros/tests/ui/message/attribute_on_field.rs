//! The attribute is on a field.

use msgkit::Message;
use serde::{Deserialize, Serialize};

#[derive(Serialize, Deserialize, Message)]
#[message(name = "device.reported")]
struct Reported {
    #[message(key)]
    device_id: String,
}

fn main() {
    fn is_message<M: Message>() {}
    is_message::<Reported>();
}

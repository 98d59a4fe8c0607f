//! The attribute is on a variant.

use msgkit::Message;
use serde::{Deserialize, Serialize};

#[derive(Serialize, Deserialize, Message)]
#[message(name = "device.reported")]
enum Reported {
    #[message(name = "device.hot")]
    Hot,
}

fn main() {
    fn is_message<M: Message>() {}
    is_message::<Reported>();
}

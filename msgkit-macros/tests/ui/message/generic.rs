//! A message is not generic.

use msgkit::Message;
use serde::{Deserialize, Serialize};

#[derive(Serialize, Deserialize, Message)]
#[message(name = "device.reported")]
struct Reported<T> {
    value: T,
}

fn main() {}

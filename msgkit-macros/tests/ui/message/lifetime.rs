//! A message owns its fields.

use msgkit::Message;
use serde::Serialize;

#[derive(Serialize, Message)]
#[message(name = "device.reported")]
struct Reported<'a> {
    device_id: &'a str,
}

fn main() {}

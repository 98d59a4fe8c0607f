//! A union is no message.

use msgkit::Message;

#[derive(Message)]
#[message(name = "device.reported")]
union Reported {
    number: u32,
    real: f32,
}

fn main() {}

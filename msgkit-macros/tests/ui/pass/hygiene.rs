//! The expansion depends on no name of the place where it stands, and gives no warning there.

#![deny(warnings)]
#![allow(dead_code, non_camel_case_types)]

struct Result;
struct Option;
struct Some;
struct Ok;
struct ToString;
struct Arc;
struct Text;
struct Topic;

mod shop {
    #[derive(serde::Serialize, serde::Deserialize, msgkit::Message)]
    #[message(name = "shop.order.placed", topic = "shop.{topic}.{value}", key = value, subject = handler)]
    pub struct Placed {
        topic: std::string::String,
        value: u64,
        handler: std::string::String,
    }
}

#[derive(msgkit::Handler)]
#[handler(messages(shop::Placed,), group = "storage", timeout = "1s",)]
struct Store {
    handler: u8,
    spec: u8,
}

impl msgkit::Handle<shop::Placed> for Store {
    async fn handle(
        &self,
        _: shop::Placed,
        _: &msgkit::Context,
    ) -> std::result::Result<(), msgkit::HandlerError> {
        std::result::Result::Ok(())
    }
}

fn main() {}

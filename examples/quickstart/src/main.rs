//! The smallest service: one message, one handler, in memory. Ctrl-C drains it.
use msgkit::{Context, Message, Service};
#[derive(serde::Serialize, serde::Deserialize, Message)]
#[message(name = "greeting.requested")]
struct Greet {
    name: String,
}

#[tokio::main]
async fn main() -> Result<(), msgkit::Error> {
    let service = Service::new("quickstart").on("greeter", |greet: Greet, cx: Context| async move {
        println!("hello, {}! (message {}, attempt {})", greet.name, cx.envelope().id(), cx.attempt());
        Ok(())
    });
    let running = service.start().await?;
    running.publisher().publish(&Greet { name: "world".into() }).await?;
    running.until_shutdown().await
}

//! The smallest service: one message, one handler, in memory. Ctrl-C drains it.
use msgkit::{Context, HandlerError, Message, Service};
#[derive(serde::Serialize, serde::Deserialize, Message)]
#[message(name = "greeting.requested")]
struct Greet(String);
async fn greet(Greet(name): Greet, cx: Context) -> Result<(), HandlerError> {
    println!("hello, {name}! (message {}, attempt {})", cx.envelope().id(), cx.attempt());
    Ok(())
}
#[tokio::main]
async fn main() -> Result<(), msgkit::Error> {
    let running = Service::new("quickstart").on("greeter", greet).start().await?;
    running.publisher().publish(&Greet("world".into())).await?;
    running.until_shutdown().await
}

#[cfg(test)]
mod tests {
    #[tokio::test]
    async fn greets() -> Result<(), msgkit::Error> {
        let service = || msgkit::Service::new("quickstart").on("greeter", super::greet);
        let mut kit = msgkit_testing::TestKit::start(service).await?;
        let sent = kit.publish(&super::Greet("world".into())).await?;
        kit.settle().await;
        assert_eq!(kit.attempts("greeter", sent.id()), 1);
        assert!(kit.dead_letters("greeter").await.is_empty());
        kit.finish().await
    }
}

//! Publishes a few messages to RabbitMQ and handles them.
//!
//! `cargo run -p msgkit-transport-amqp --example hello -- amqp://guest:guest@localhost:5672/`

use std::collections::VecDeque;

use msgkit::envelope::{ContentType, Envelope};
use msgkit::transport::{Declaration, Outgoing, Subscription};
use msgkit::{Group, Registry, Timestamp};

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let url = std::env::args().nth(1).unwrap_or_else(|| "amqp://guest:guest@localhost:5672/".to_owned());
    let transport = Registry::new().with(msgkit_transport_amqp::scheme()).open(&url)?;

    let greetings = Subscription::group(Group::new("hello")?, ["greetings.*".parse()?]);
    let group =
        Declaration::Group { subscription: greetings.clone(), retry_steps: Vec::new(), dead_letters: true };
    transport.declare(&[group]).await?;

    let batch = ["world", "rabbit", "reader"].map(|name| {
        let topic = format!("greetings.{name}").parse()?;
        let payload = format!("\"hello, {name}\"").into();
        let envelope =
            Envelope::new("hello", "greetings.sent", topic, ContentType::Json, payload, Timestamp::now());
        Ok::<_, msgkit::Error>(Outgoing::to_topic(envelope))
    });
    transport.publish(batch.into_iter().collect::<Result<_, _>>()?).await?;
    println!("published 3 messages, confirmed");

    let mut deliveries = transport.subscribe(&greetings).await?;
    let mut came = VecDeque::new();
    let mut handled = 0;
    while handled < 3 {
        deliveries.receive(16, &mut came).await?;
        for delivery in came.drain(..) {
            if let Some(envelope) = delivery.message().envelope() {
                println!("{}: {}", envelope.topic().as_str(), String::from_utf8_lossy(envelope.payload()));
            }
            delivery.ack();
            handled += 1;
        }
    }
    deliveries.close().await?;
    transport.close().await?;
    println!("all settled");
    Ok(())
}

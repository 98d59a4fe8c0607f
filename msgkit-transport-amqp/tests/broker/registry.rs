//! The list of groups.

use std::collections::VecDeque;

use lapin::options::{BasicAckOptions, BasicGetOptions, BasicPublishOptions};
use lapin::{BasicProperties, Channel, Connection, ConnectionProperties};
use msgkit::transport::{Delivery, Subscriber as _, Transport as _};
use msgkit_testing::brokers::RabbitMq;

use super::bench::{PATIENCE, Tested, amqp, declare, publish_until_taken, there, until};

/// What lies in the registry, taken out of it.
async fn take(channel: &Channel) -> Result<Vec<u8>, Box<dyn std::error::Error>> {
    let taking = async {
        loop {
            let got = channel.basic_get("msgkit.registry".into(), BasicGetOptions::default()).await?;
            if let Some(got) = got {
                channel.basic_ack(got.delivery.delivery_tag, BasicAckOptions::default()).await?;
                return Ok(got.delivery.data.to_vec());
            }
            tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(PATIENCE, taking).await?
}

/// A list that this version cannot read.
const FOREIGN: &[u8] = br#"{"groups":["g"]}"#;

/// Puts such a list into the registry.
async fn spoil(channel: &Channel) -> Tested {
    let (options, properties) = (BasicPublishOptions::default(), BasicProperties::default());
    channel.basic_publish("".into(), "msgkit.registry".into(), options, FOREIGN, properties).await?;
    Ok(())
}

/// A list that another version has written, or somebody else, is refused by the name of its queue, and left where it is.
#[tokio::test(flavor = "multi_thread")]
async fn a_list_that_cannot_be_read_stays() -> Tested {
    let Some(rabbit) = there(RabbitMq::shared()) else { return Ok(()) };
    let vhost = rabbit.vhost("registry")?;
    let transport = amqp(vhost.url(), |_| {});
    declare(&transport, "g").await?;
    let operator = Connection::connect(vhost.url(), ConnectionProperties::default()).await?;
    let channel = operator.create_channel().await?;
    take(&channel).await?;
    spoil(&channel).await?;
    let declared = declare(&transport, "new").await;
    assert_eq!(take(&channel).await?, FOREIGN);
    let told = declared.err().ok_or("the list cannot be read")?.to_string();
    assert!(told.contains("msgkit.registry"), "{told}");
    transport.close().await?;
    Ok(())
}

/// The list is for operators: where it cannot be read, what consumes goes on, also after its connection broke.
#[tokio::test(flavor = "multi_thread")]
async fn members_go_on_without_the_list() -> Tested {
    let Some(rabbit) = there(RabbitMq::shared()) else { return Ok(()) };
    let vhost = rabbit.vhost("listless")?;
    let transport = amqp(vhost.url(), |_| {});
    let wanted = declare(&transport, "g").await?;
    let mut deliveries = transport.subscribe(&wanted).await?;
    let operator = Connection::connect(vhost.url(), ConnectionProperties::default()).await?;
    let channel = operator.create_channel().await?;
    take(&channel).await?;
    spoil(&channel).await?;
    until("the connections break", || vhost.close_connections().is_ok_and(|broken| broken >= 2)).await;
    publish_until_taken(&transport, "after").await;
    let mut came = VecDeque::new();
    while came.is_empty() {
        tokio::time::timeout(PATIENCE, deliveries.receive(1, &mut came)).await??;
    }
    came.drain(..).for_each(Delivery::ack);
    deliveries.flush().await?;
    deliveries.close().await?;
    transport.close().await?;
    Ok(())
}

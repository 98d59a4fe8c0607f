//! The list of groups.

use lapin::options::{BasicAckOptions, BasicGetOptions, BasicPublishOptions};
use lapin::{BasicProperties, Channel, Connection, ConnectionProperties};
use msgkit::transport::Transport as _;
use msgkit_testing::brokers::RabbitMq;

use super::bench::{PATIENCE, Tested, amqp, declare, there};

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
    let foreign: &[u8] = br#"{"groups":["g"]}"#;
    let options = BasicPublishOptions::default();
    let properties = BasicProperties::default();
    channel.basic_publish("".into(), "msgkit.registry".into(), options, foreign, properties).await?;
    let declared = declare(&transport, "new").await;
    assert_eq!(take(&channel).await?, foreign);
    let told = declared.err().ok_or("the list cannot be read")?.to_string();
    assert!(told.contains("msgkit.registry"), "{told}");
    transport.close().await?;
    Ok(())
}

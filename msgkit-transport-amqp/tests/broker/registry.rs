//! The list of groups.

use std::collections::VecDeque;

use lapin::options::{BasicAckOptions, BasicGetOptions, BasicPublishOptions, QueueDeleteOptions};
use lapin::{BasicProperties, Channel, Connection, ConnectionProperties};
use msgkit::transport::{Delivery, Operate, Subscriber as _, Transport as _};
use msgkit_testing::brokers::RabbitMq;

use super::bench::{
    PATIENCE, Tested, amqp, break_connections, counted, declare, handle, publish_until_taken, there, until,
};

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
    // So there is something to write down.
    assert!(declare(&transport, "new").await.is_err(), "the list cannot be read");
    break_connections(&vhost).await;
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

/// All services share the list, and whoever has it in hand keeps it from the others: where a connection breaks and nothing is
/// new, nobody takes it.
#[tokio::test(flavor = "multi_thread")]
async fn a_connection_that_breaks_leaves_the_list_alone() -> Tested {
    let Some(rabbit) = there(RabbitMq::shared()) else { return Ok(()) };
    let vhost = rabbit.vhost("alone")?;
    let transport = amqp(vhost.url(), |_| {});
    let wanted = declare(&transport, "g").await?;
    let (handled, task) = handle(transport.subscribe(&wanted).await?);
    break_connections(&vhost).await;
    publish_until_taken(&transport, "after").await;
    until("it is handled", || counted(&handled).contains_key("after")).await;
    transport.close().await?;
    task.await?;
    let operator = Connection::connect(vhost.url(), ConnectionProperties::default()).await?;
    let channel = operator.create_channel().await?;
    let list = channel.basic_get("msgkit.registry".into(), BasicGetOptions::default()).await?;
    assert!(!list.ok_or("the list")?.delivery.redelivered, "somebody had it in hand");
    Ok(())
}

/// A broker that has lost its queues has lost the list as well. Whoever comes back first begins a new one, and the others add to it
/// though it is there.
#[tokio::test(flavor = "multi_thread")]
async fn groups_that_the_broker_has_lost_are_written_down_again() -> Tested {
    let Some(rabbit) = there(RabbitMq::shared()) else { return Ok(()) };
    let vhost = rabbit.vhost("lost")?;
    let (one, two) = (amqp(vhost.url(), |_| {}), amqp(vhost.url(), |_| {}));
    let (_, first) = handle(one.subscribe(&declare(&one, "g").await?).await?);
    let (_, second) = handle(two.subscribe(&declare(&two, "h").await?).await?);
    let operator = Connection::connect(vhost.url(), ConnectionProperties::default()).await?;
    let channel = operator.create_channel().await?;
    let third = amqp(vhost.url(), |_| {});
    let operate = third.operate().ok_or("RabbitMQ can be asked")?;
    // The list first, and then one group after the other.
    for (queue, member) in [
        ("msgkit.registry", None),
        ("msgkit.group.g", Some((&one, "g"))),
        ("msgkit.group.h", Some((&two, "h"))),
    ] {
        channel.queue_delete(queue.into(), QueueDeleteOptions::default()).await?;
        let Some((member, group)) = member else { continue };
        until("its member notices", || member.cancelled() >= 1).await;
        let waiting = async {
            while !listed(operate).await?.contains(&group.to_owned()) {
                tokio::time::sleep(std::time::Duration::from_millis(20)).await;
            }
            Ok::<(), Box<dyn std::error::Error>>(())
        };
        tokio::time::timeout(PATIENCE, waiting).await??;
    }
    one.close().await?;
    two.close().await?;
    third.close().await?;
    first.await?;
    second.await?;
    Ok(())
}

/// The groups that are written down and have a queue.
async fn listed(operate: &dyn Operate) -> Result<Vec<String>, Box<dyn std::error::Error>> {
    Ok(operate.groups().await?.iter().map(|status| status.group.as_str().to_owned()).collect())
}

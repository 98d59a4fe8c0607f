//! An alarm of the broker, which stops those who publish.

use std::collections::VecDeque;
use std::time::Duration;

use lapin::options::{BasicGetOptions, BasicNackOptions, QueueDeclareOptions, QueueDeleteOptions};
use lapin::types::{AMQPValue, FieldTable};
use lapin::{Channel, Connection, ConnectionProperties};
use msgkit::Group;
use msgkit::transport::{Delivery, Health, Publisher as _, Subscriber as _, Transport as _};
use msgkit_testing::brokers::RabbitMq;

use super::bench::{PATIENCE, Tested, amqp, declare, message, text_of, there, until};

/// What settles goes on where only draining ends the alarm, also after somebody wanted something written down: a look, a new
/// group. Those are told why it cannot be.
#[tokio::test(flavor = "multi_thread")]
async fn an_alarm_stops_no_settlements() -> Tested {
    let Some(mut rabbit) = there(RabbitMq::launch()) else { return Ok(()) };
    let transport = amqp(rabbit.url(), |_| {});
    let wanted = declare(&transport, "g").await?.with_prefetch(2);
    transport.publish(["one", "two", "three"].map(message).into()).await?;
    transport.close().await?;
    rabbit.stop()?;
    let file = rabbit.directory().ok_or("its directory")?.join("rabbitmq.conf");
    let told = std::fs::read_to_string(&file)?;
    std::fs::write(
        &file,
        told.replace("disk_free_limit.absolute = 50MB", "disk_free_limit.absolute = 900000GB"),
    )?;
    rabbit.restart()?;
    let transport = amqp(rabbit.url(), |config| config.confirm_timeout = Duration::from_secs(5));
    let mut deliveries = transport.subscribe(&wanted).await?;
    let mut held = VecDeque::new();
    while held.len() < 2 {
        deliveries.receive(2, &mut held).await?;
    }
    let operate = transport.operate().ok_or("RabbitMQ can be asked")?;
    let looking = tokio::time::timeout(PATIENCE, operate.peek(&Group::new("g")?, None, 1)).await;
    held.drain(..).for_each(Delivery::ack);
    tokio::time::timeout(PATIENCE, deliveries.flush()).await??;
    while held.is_empty() {
        tokio::time::timeout(PATIENCE, deliveries.receive(1, &mut held)).await??;
    }
    assert_eq!(held.iter().map(text_of).collect::<Vec<_>>(), ["three"]);
    let told = looking?.err().ok_or("what was looked at is written down")?;
    assert!(told.is_temporary(), "{told}");
    let line = msgkit::Chain(&told).to_string();
    assert!(line.contains("msgkit.registry") && line.contains("alarm"), "{line}");
    let declared = tokio::time::timeout(PATIENCE, declare(&transport, "new")).await?;
    assert!(declared.is_err(), "the new group is written down");
    assert!(matches!(transport.health().await, Health::Down(why) if why.contains("alarm")));
    held.drain(..).for_each(Delivery::ack);
    deliveries.flush().await?;
    // The new group is still to be written down, and cannot be: nobody takes the list into the hand for that.
    let operator = Connection::connect(rabbit.url(), ConnectionProperties::default()).await?;
    let channel = operator.create_channel().await?;
    let before = starts_of_the_list(&channel).await?;
    channel.queue_delete("msgkit.group.g".into(), QueueDeleteOptions::default()).await?;
    until("its member notices", || transport.cancelled() >= 1).await;
    let consuming = async {
        loop {
            let options = QueueDeclareOptions { passive: true, ..QueueDeclareOptions::default() };
            let asking = operator.create_channel().await?;
            let queue = asking.queue_declare("msgkit.group.g".into(), options, FieldTable::default()).await;
            if queue.is_ok_and(|queue| queue.consumer_count() > 0) {
                return Ok::<(), lapin::Error>(());
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(PATIENCE, consuming).await??;
    transport.close().await?;
    assert_eq!(starts_of_the_list(&channel).await?, before + 1, "this look at it is the only one");
    Ok(())
}

/// How often the list of groups was taken into a hand and given back, this time not counted.
async fn starts_of_the_list(channel: &Channel) -> Result<i64, Box<dyn std::error::Error>> {
    let list = channel.basic_get("msgkit.registry".into(), BasicGetOptions::default()).await?;
    let list = list.ok_or("the list")?.delivery;
    let count =
        list.properties.headers().as_ref().and_then(|headers| headers.inner().get("x-delivery-count"));
    let count = count.and_then(AMQPValue::as_long_long_int);
    let options = BasicNackOptions { requeue: true, ..BasicNackOptions::default() };
    channel.basic_nack(list.delivery_tag, options).await?;
    Ok(count.unwrap_or(0))
}

//! What publishers are told.

use std::time::Duration;

use msgkit::transport::{Outgoing, Publisher as _, Subscriber as _, Transport as _, TransportErrorKind};
use msgkit_testing::brokers::RabbitMq;

use super::bench::{Handled, Tested, amqp, counted, declare, handle, host, message, there, until};
use super::frames::{Frame, between};

/// A message that several groups take is refused when one of them is full; published again, the others get it twice, under
/// one id, so that whoever remembers ids sees it once.
#[tokio::test(flavor = "multi_thread")]
async fn a_full_group_gives_the_others_the_same_ids_again() -> Tested {
    let Some(rabbit) = there(RabbitMq::shared()) else { return Ok(()) };
    let vhost = rabbit.vhost("full")?;
    let transport = amqp(vhost.url(), |config| {
        config.capacity = 2;
        config.publish_timeout = Duration::from_millis(300);
    });
    let reading = declare(&transport, "reading").await?;
    let away = declare(&transport, "away").await?;
    let (read, reader) = handle(transport.subscribe(&reading).await?);
    // Until the group that is away is full, which takes the broker a moment to notice.
    let mut sent = 0;
    let error = loop {
        let batch = (0..4).map(|n| message(&format!("{}", sent + n))).collect();
        match transport.publish(batch).await {
            Ok(()) => sent += 4,
            Err(error) => break error,
        }
        assert!(sent < 1000, "it is never full");
    };
    assert_eq!(error.rejected().first().map(|refused| refused.error.kind()), Some(TransportErrorKind::Full));
    assert!(msgkit::Chain(&error).to_string().contains("away"), "it names the full group: {error}");
    let again: Vec<Outgoing> = error.rejected().iter().map(|refused| refused.message.clone()).collect();
    let texts: Vec<String> =
        again.iter().map(|one| String::from_utf8_lossy(one.envelope.payload()).into_owned()).collect();
    until("the other group has them", || {
        let counted = counted(&read);
        texts.iter().all(|text| counted.contains_key(text))
    })
    .await;
    let (kept, keeper) = handle(transport.subscribe(&away).await?);
    let mut open = again;
    while !open.is_empty() {
        open = match transport.publish(open).await {
            Ok(()) => Vec::new(),
            Err(error) => error.rejected().iter().map(|refused| refused.message.clone()).collect(),
        };
    }
    let all = |handled: &Handled| texts.iter().all(|text| counted(handled).contains_key(text));
    until("both groups have everything", || all(&kept) && all(&read)).await;
    let repeated = || texts.iter().any(|text| counted(&read).get(text).is_some_and(|times| *times > 1));
    until("the group that had room has them twice", repeated).await;
    transport.close().await?;
    reader.await?;
    keeper.await?;
    Ok(())
}

/// The broker confirms a part of a large batch and falls silent: that part is not given back, though the rest finds no channel any
/// more.
#[tokio::test(flavor = "multi_thread")]
async fn what_was_confirmed_is_not_given_back() -> Tested {
    const ACK: (u8, u8) = (60, 80);
    let Some(rabbit) = there(RabbitMq::shared()) else { return Ok(()) };
    let vhost = rabbit.vhost("confirmed")?;
    let network = between(host(vhost.url()), || {
        let mut silent = false;
        Box::new(move |frame: Frame<'_>| {
            let heard = if silent { Vec::new() } else { frame.0.to_vec() };
            silent |= frame.arguments(ACK.0, ACK.1).is_some();
            heard
        })
    });
    let network = network.await?.to_string();
    let transport = amqp(&vhost.url().replace(host(vhost.url()), &network), |config| {
        config.confirm_timeout = Duration::from_secs(12);
        config.connect_timeout = Duration::from_secs(12);
    });
    declare(&amqp(vhost.url(), |_| {}), "g").await?;
    let batch: Vec<Outgoing> = (0..1000).map(|n| message(&n.to_string())).collect();
    let error = transport.publish(batch).await.err().ok_or("the broker has not confirmed all")?;
    assert!(error.rejected().len() < 1000, "the broker has confirmed the first");
    transport.close().await?;
    Ok(())
}

//! Brokers that die, connections and channels that are lost, queues that somebody deletes.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use lapin::options::{ExchangeDeleteOptions, QueueDeclareOptions, QueueDeleteOptions};
use lapin::types::FieldTable;
use lapin::{Channel, Connection, ConnectionProperties};
use msgkit::transport::{Delivery, Health, Outgoing, Publisher as _, Subscriber as _, Transport as _};
use msgkit_testing::brokers::{FaultProxy, RabbitMq};

use super::bench::{
    PATIENCE, Tested, amqp, break_connections, counted, declare, handle, host, message, publish_until_taken,
    text_of, there, until,
};
use super::frames::{Frame, between, method};

/// Restarts and SIGKILL in the middle of publishing and of consuming: what was confirmed is handled.
#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_lost_while_the_broker_dies() -> Tested {
    let Some(mut rabbit) = there(RabbitMq::launch()) else { return Ok(()) };
    let url = rabbit.url().to_owned();
    let open = |url: &str| amqp(url, |config| config.confirm_timeout = Duration::from_secs(15));
    let (publisher, consumer) = (open(&url), open(&url));
    let wanted = declare(&consumer, "g").await?;
    let (handled, task) = handle(consumer.subscribe(&wanted).await?);
    let (stop, sent) = (Arc::new(std::sync::atomic::AtomicBool::new(false)), Arc::new(Mutex::new(0_usize)));
    let publishing = {
        let (stop, sent) = (stop.clone(), sent.clone());
        tokio::spawn(async move {
            let mut next = 0;
            while !stop.load(std::sync::atomic::Ordering::Relaxed) {
                let mut open: Vec<Outgoing> = (next..next + 20).map(|n| message(&n.to_string())).collect();
                while !open.is_empty() {
                    // What was not confirmed is published again as it is, its id too.
                    open = match publisher.publish(open).await {
                        Ok(()) => Vec::new(),
                        Err(error) => {
                            error.rejected().iter().map(|refused| refused.message.clone()).collect()
                        }
                    };
                }
                next += 20;
                if let Ok(mut sent) = sent.lock() {
                    *sent = next;
                }
            }
            publisher.close().await
        })
    };
    let count = || sent.lock().map_or(0, |sent| *sent);
    for round in 0..3 {
        let before = count();
        until("publishing goes on", || count() > before + 200).await;
        // It writes the name of a new queue half a second after it has confirmed it, so it ends in good order first.
        if round == 0 {
            rabbit.stop()?;
        } else {
            rabbit.kill()?;
        }
        rabbit.restart()?;
    }
    let before = count();
    until("publishing goes on", || count() > before + 200).await;
    stop.store(true, std::sync::atomic::Ordering::Relaxed);
    publishing.await??;
    let total = count();
    until("all of it is handled", || counted(&handled).len() == total).await;
    let repeated = handled.lock().map_or(0, |handled| handled.len()) - total;
    eprintln!("{total} published over 2 kills and a restart: lost 0, {repeated} handled twice");
    consumer.close().await?;
    task.await?;
    Ok(())
}

/// The broker closes a channel for a mistake that somebody else has made; the connection lives on, so nobody else notices.
#[tokio::test(flavor = "multi_thread")]
async fn channels_that_the_broker_closes_are_opened_again() -> Tested {
    let Some(rabbit) = there(RabbitMq::shared()) else { return Ok(()) };
    let vhost = rabbit.vhost("channels")?;
    let transport = amqp(vhost.url(), |_| {});
    let wanted = declare(&transport, "g").await?;
    let (handled, task) = handle(transport.subscribe(&wanted).await?);
    transport.publish(vec![message("before")]).await?;
    until("it is handled", || counted(&handled).contains_key("before")).await;
    let operator = Connection::connect(vhost.url(), ConnectionProperties::default()).await?;
    let channel = operator.create_channel().await?;
    // Publishing to an exchange that is not there closes the channel (404).
    channel.exchange_delete("msgkit".into(), ExchangeDeleteOptions::default()).await?;
    let lost = publish_until_taken(&transport, "exchange").await;
    assert!(lost > 0, "the first try met the closed channel");
    // The bindings went with the exchange: declaring makes them again, as a restart of the service does.
    declare(&transport, "g").await?;
    publish_until_taken(&transport, "bound").await;
    until("the group gets messages again", || counted(&handled).contains_key("bound")).await;
    transport.close().await?;
    task.await?;
    Ok(())
}

/// A broker that never answers: whoever waits for the connection gets the outcome of one attempt, not a turn of its own.
#[tokio::test(flavor = "multi_thread")]
async fn all_who_wait_for_a_connection_wait_once() -> Tested {
    let silent = std::net::TcpListener::bind("127.0.0.1:0")?;
    let patience = Duration::from_secs(6);
    let transport =
        amqp(&format!("amqp://{}", silent.local_addr()?), |config| config.connect_timeout = patience);
    let began = std::time::Instant::now();
    let publishers = (0..8).map(|n| {
        let transport = transport.clone();
        async move { transport.publish(vec![message(&n.to_string())]).await }
    });
    let (published, health) = tokio::join!(futures_util::future::join_all(publishers), transport.health());
    let waited = began.elapsed();
    for outcome in published {
        let error = outcome.err().ok_or("it was taken")?;
        let line = msgkit::Chain(&error).to_string();
        assert_eq!(error.rejected().len(), 1, "it is given back: {line}");
        assert!(line.contains("connecting to") && line.contains("connect_timeout"), "{line}");
    }
    assert!(matches!(health, Health::Down(_)), "{health:?}");
    assert!(waited < 3 * patience, "they waited {waited:?}");
    transport.close().await?;
    Ok(())
}

/// What was settled went down with its connection: the next flush says so, once, though the next channel owes nothing.
#[tokio::test(flavor = "multi_thread")]
async fn flush_tells_of_settlements_that_were_lost() -> Tested {
    let Some(rabbit) = there(RabbitMq::shared()) else { return Ok(()) };
    let vhost = rabbit.vhost("flush")?;
    let proxy = FaultProxy::start(host(vhost.url())).await?;
    let transport = amqp(&vhost.url().replace(host(vhost.url()), &proxy.address().to_string()), |_| {});
    let wanted = declare(&transport, "g").await?;
    let mut deliveries = transport.subscribe(&wanted).await?;
    transport.publish(vec![message("one"), message("two")]).await?;
    let mut held = VecDeque::new();
    while held.len() < 2 {
        deliveries.receive(2, &mut held).await?;
    }
    proxy.cut();
    let mut again = VecDeque::new();
    while again.is_empty() {
        deliveries.receive(1, &mut again).await?;
    }
    // The broker hands both out again, so it has taken neither.
    held.drain(..).for_each(Delivery::ack);
    let lost = deliveries.flush().await.err().ok_or("the broker has not taken them")?;
    assert!(lost.is_temporary() && lost.to_string().contains("comes again"), "{lost}");
    while again.len() < 2 {
        deliveries.receive(1, &mut again).await?;
    }
    again.drain(..).for_each(Delivery::ack);
    deliveries.flush().await?;
    // Told to the broker, which nobody has asked for its word: what it has taken of that is not known.
    for text in ["three", "four"] {
        publish_until_taken(&transport, text).await;
        deliveries.receive(1, &mut held).await?;
        held.drain(..).for_each(Delivery::ack);
    }
    proxy.cut();
    publish_until_taken(&transport, "five").await;
    while held.back().is_none_or(|last| text_of(last) != "five") {
        deliveries.receive(1, &mut held).await?;
    }
    assert!(deliveries.flush().await.is_err(), "the broker has not confirmed them");
    deliveries.flush().await?;
    held.clear();
    deliveries.close().await?;
    transport.close().await?;
    Ok(())
}

/// How many consume a queue; none where it is not there, which closes the channel.
async fn consumers(operator: &Connection, queue: &str) -> Result<u32, Box<dyn std::error::Error>> {
    let channel: Channel = operator.create_channel().await?;
    let options = QueueDeclareOptions { passive: true, ..QueueDeclareOptions::default() };
    let declared = channel.queue_declare(queue.into(), options, FieldTable::default()).await;
    Ok(declared.map_or(0, |queue| queue.consumer_count()))
}

/// An operator deletes a queue, and its exchange too, under the members of its group: each of them notices, says so, and goes on with
/// a new one, though nobody declares anything.
#[tokio::test]
async fn a_queue_that_is_deleted_under_its_members_is_made_again() -> Tested {
    let Some(rabbit) = there(RabbitMq::shared()) else { return Ok(()) };
    let said = Said::default();
    let words = said.clone();
    let subscriber = tracing_subscriber::fmt().with_writer(move || words.clone()).with_ansi(false).finish();
    // With one subscriber alone `tracing` asks that of the thread that comes to a line first, and keeps the answer for all threads: the
    // thread of another test has none. Of several it asks each.
    let _second = tracing::Dispatch::new(tracing_subscriber::fmt().with_writer(std::io::sink).finish());
    // The tasks of the transport run on this thread.
    let _guard = tracing::subscriber::set_default(subscriber);
    let vhost = rabbit.vhost("gone")?;
    let (one, two) = (amqp(vhost.url(), |_| {}), amqp(vhost.url(), |_| {}));
    let wanted = declare(&one, "g").await?;
    let (handled, first) = handle(one.subscribe(&wanted).await?);
    let (too, second) = handle(two.subscribe(&wanted).await?);
    let both = |text: &str| counted(&handled).contains_key(text) || counted(&too).contains_key(text);
    one.publish(vec![message("before")]).await?;
    until("it is handled", || both("before")).await;
    let operator = Connection::connect(vhost.url(), ConnectionProperties::default()).await?;
    for (round, exchange) in [(1, false), (2, true)] {
        let channel = operator.create_channel().await?;
        if exchange {
            channel.exchange_delete("msgkit".into(), ExchangeDeleteOptions::default()).await?;
        }
        channel.queue_delete("msgkit.group.g".into(), QueueDeleteOptions::default()).await?;
        until("both members notice", || one.cancelled() >= round && two.cancelled() >= round).await;
        let again = async {
            while consumers(&operator, "msgkit.group.g").await? < 2 {
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
            Ok::<(), Box<dyn std::error::Error>>(())
        };
        tokio::time::timeout(PATIENCE, again).await??;
        let text = format!("round {round}");
        publish_until_taken(&one, &text).await;
        until("the group gets messages again", || both(&text)).await;
    }
    let Some(operate) = one.operate() else { panic!("RabbitMQ can be asked") };
    let status = operate.groups().await?;
    assert_eq!(status.iter().map(|status| status.broken_off).collect::<Vec<_>>(), [one.cancelled()]);
    let lines = said.lines();
    let names = |line: &&String| line.contains("msgkit.group.g") && line.contains("has ended the consumer");
    let named = lines.iter().filter(names).count();
    assert_eq!(named as u64, one.cancelled() + two.cancelled(), "a line each: {lines:?}");
    one.close().await?;
    two.close().await?;
    first.await?;
    second.await?;
    Ok(())
}

/// Somebody deletes the exchange, and then the connection breaks, of a service that publishes nothing: its members make it again.
#[tokio::test(flavor = "multi_thread")]
async fn an_exchange_is_made_again_by_those_who_only_consume() -> Tested {
    let Some(rabbit) = there(RabbitMq::shared()) else { return Ok(()) };
    let vhost = rabbit.vhost("exchange")?;
    let transport = amqp(vhost.url(), |_| {});
    let wanted = declare(&transport, "g").await?;
    let (handled, task) = handle(transport.subscribe(&wanted).await?);
    let operator = Connection::connect(vhost.url(), ConnectionProperties::default()).await?;
    let channel = operator.create_channel().await?;
    channel.exchange_delete("msgkit".into(), ExchangeDeleteOptions::default()).await?;
    break_connections(&vhost).await;
    let bindings = format!("/api/exchanges/{}/msgkit/bindings/source", vhost.name());
    until("the group is bound again", || {
        let bound = rabbit.api("GET", &bindings, None);
        bound.is_ok_and(|bound| bound.as_array().is_some_and(|bound| !bound.is_empty()))
    })
    .await;
    publish_until_taken(&transport, "after").await;
    until("it is handled", || counted(&handled).contains_key("after")).await;
    transport.close().await?;
    task.await?;
    Ok(())
}

/// Somebody else has the queue's name: the connection is there, but nothing can be consumed, and health says so.
#[tokio::test(flavor = "multi_thread")]
async fn health_knows_a_subscription_without_its_queue() -> Tested {
    let Some(rabbit) = there(RabbitMq::shared()) else { return Ok(()) };
    let vhost = rabbit.vhost("health")?;
    let transport = amqp(vhost.url(), |_| {});
    let wanted = declare(&transport, "g").await?;
    let (handled, task) = handle(transport.subscribe(&wanted).await?);
    assert!(matches!(transport.health().await, Health::Up));
    let operator = Connection::connect(vhost.url(), ConnectionProperties::default()).await?;
    let take = async || {
        let channel = operator.create_channel().await?;
        channel.queue_delete("msgkit.group.g".into(), QueueDeleteOptions::default()).await?;
        let options = QueueDeclareOptions { exclusive: true, ..QueueDeclareOptions::default() };
        channel.queue_declare("msgkit.group.g".into(), options, FieldTable::default()).await
    };
    let taking = async {
        // The member may have been the first, and a channel that was refused something may be closing still.
        while take().await.is_err() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(PATIENCE, taking).await?;
    let waiting = async {
        loop {
            match transport.health().await {
                Health::Down(why) => return why,
                _ => tokio::time::sleep(Duration::from_millis(20)).await,
            }
        }
    };
    let why = tokio::time::timeout(PATIENCE, waiting).await?;
    assert!(why.contains("msgkit.group.g"), "{why}");
    // Its queue goes with it.
    operator.close(200, "done".into()).await?;
    let waiting = async {
        while !matches!(transport.health().await, Health::Up) {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(PATIENCE, waiting).await?;
    publish_until_taken(&transport, "after").await;
    until("it is handled", || counted(&handled).contains_key("after")).await;
    transport.close().await?;
    task.await?;
    Ok(())
}

/// The broker is there and answers nothing: who waits for its word on settlements is told, and what it has not taken comes again.
#[tokio::test(flavor = "multi_thread")]
async fn a_broker_that_falls_silent_holds_up_nobody() -> Tested {
    let Some(rabbit) = there(RabbitMq::shared()) else { return Ok(()) };
    let vhost = rabbit.vhost("silent")?;
    let proxy = FaultProxy::start(host(vhost.url())).await?;
    let transport = amqp(&vhost.url().replace(host(vhost.url()), &proxy.address().to_string()), |config| {
        // Nothing but the answers tells.
        config.heartbeat = Duration::ZERO;
        config.confirm_timeout = Duration::from_secs(5);
        config.connect_timeout = Duration::from_secs(5);
    });
    let wanted = declare(&transport, "g").await?;
    let mut deliveries = transport.subscribe(&wanted).await?;
    transport.publish(vec![message("one")]).await?;
    let mut held = VecDeque::new();
    deliveries.receive(1, &mut held).await?;
    proxy.half_open();
    held.drain(..).for_each(Delivery::ack);
    let told = tokio::time::timeout(PATIENCE, deliveries.flush()).await?;
    assert!(told.is_err(), "the broker has said nothing");
    proxy.heal();
    while held.is_empty() {
        tokio::time::timeout(PATIENCE, deliveries.receive(1, &mut held)).await??;
    }
    assert_eq!(held.iter().map(text_of).collect::<Vec<_>>(), ["one"]);
    held.drain(..).for_each(Delivery::ack);
    deliveries.flush().await?;
    deliveries.close().await?;
    transport.close().await?;
    Ok(())
}

/// The broker ends a consumer whose queue is still there: what was in hand comes again before what waits behind it.
#[tokio::test(flavor = "multi_thread")]
async fn a_consumer_that_the_broker_ends_keeps_the_order() -> Tested {
    const CONSUME_OK: (u8, u8) = (60, 21);
    const CANCEL: (u8, u8) = (60, 30);
    let Some(rabbit) = there(RabbitMq::shared()) else { return Ok(()) };
    let vhost = rabbit.vhost("ended")?;
    let ends = Arc::new(AtomicBool::new(false));
    let end = ends.clone();
    let network = between(host(vhost.url()), move || {
        let (end, mut consumer) = (end.clone(), None);
        Box::new(move |frame: Frame<'_>| {
            let mut heard = frame.0.to_vec();
            if let Some(tag) = frame.arguments(CONSUME_OK.0, CONSUME_OK.1) {
                consumer = Some((frame.channel(), tag.to_vec()));
            }
            if let Some((channel, tag)) = consumer.take_if(|_| end.swap(false, Ordering::Relaxed)) {
                // No answer is awaited.
                heard.extend(method(channel, CANCEL.0, CANCEL.1, &[&tag[..], &[1]].concat()));
            }
            heard
        })
    });
    let network = network.await?.to_string();
    let transport = amqp(&vhost.url().replace(host(vhost.url()), &network), |_| {});
    let wanted = declare(&transport, "g").await?.with_prefetch(2);
    let sent = ["one", "two", "three", "four"];
    transport.publish(sent.map(message).into()).await?;
    let mut deliveries = transport.subscribe(&wanted).await?;
    let mut held = VecDeque::new();
    while held.len() < 2 {
        deliveries.receive(2, &mut held).await?;
    }
    ends.store(true, Ordering::Relaxed);
    // Whatever the broker says next on that connection, the end of the consumer comes behind it.
    transport.operate().ok_or("RabbitMQ can be asked")?.groups().await?;
    until("the consumer is ended", || transport.cancelled() >= 1).await;
    let (mut again, mut came) = (Vec::new(), VecDeque::new());
    while again.len() < sent.len() {
        tokio::time::timeout(PATIENCE, deliveries.receive(1, &mut came)).await??;
        again.extend(came.iter().map(text_of));
        came.drain(..).for_each(Delivery::ack);
    }
    assert_eq!(again, sent);
    held.clear();
    deliveries.close().await?;
    transport.close().await?;
    Ok(())
}

/// What was logged.
#[derive(Clone, Default)]
struct Said(Arc<Mutex<Vec<u8>>>);

impl Said {
    fn lines(&self) -> Vec<String> {
        let text = self.0.lock().map(|text| String::from_utf8_lossy(&text).into_owned()).unwrap_or_default();
        text.lines().map(str::to_owned).collect()
    }
}

impl std::io::Write for Said {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        if let Ok(mut text) = self.0.lock() {
            text.extend_from_slice(bytes);
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

//! The known faults of the MQTT client, each brought about, and none of them to be seen.

#[path = "support/scripted.rs"]
mod scripted;
mod support;

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use msgkit::envelope::NativeHeaders;
use msgkit::transport::{Publisher as _, Subscriber as _, Subscription, Transport as _, TransportErrorKind};
use msgkit_testing::brokers::{FaultProxy, Mosquitto};
use msgkit_transport_mqtt::Version;
use rumqttc::v5::mqttbytes::v5::Packet;
use scripted::{Do, Scripted, confirm, polite, send, send_old};
use support::{
    all, declaration, group, message, mqtt, nothing, numbered, publish, reader, take, text, until,
};

type Tested = Result<(), Box<dyn std::error::Error>>;

/// A broker and a proxy in front of it; `None`, and a word, where Mosquitto is not installed.
async fn broker(test: &str) -> Option<(FaultProxy, String)> {
    match Mosquitto::shared() {
        Ok(broker) => {
            let proxy = FaultProxy::start(format!("127.0.0.1:{}", broker.port()?)).await.ok()?;
            Some((proxy, broker.prefix(test)))
        }
        Err(error) if std::env::var("MSGKIT_REQUIRE_BROKERS").is_ok_and(|value| value == "1") => {
            panic!("not run: {error}")
        }
        Err(error) => {
            eprintln!("not run: {error}");
            None
        }
    }
}

/// The client takes a publish for done when it is queued. Ours is done when the broker says so, and unknown until then.
#[tokio::test(flavor = "multi_thread")]
async fn a_publish_is_done_when_the_broker_says_so() -> Tested {
    let Some((proxy, prefix)) = broker("done").await else { return Ok(()) };
    let transport = mqtt(&proxy.address().to_string(), &prefix, |config| {
        config.publish_timeout = Duration::from_millis(400);
    });
    until_taken(&transport).await;
    proxy.stall();
    let error = transport.publish(vec![message("a.b", "lost in the network")]).await.unwrap_err();
    assert!(error.is_temporary());
    let said = msgkit::Chain(&error).to_string();
    assert!(said.contains("unknown"), "whether the broker has it is unknown: {said}");
    assert_eq!(error.rejected().len(), 1, "it is given back");
    proxy.heal();
    until_taken(&transport).await;
    Ok(())
}

/// Publishes one message, as often as it takes.
async fn until_taken(transport: &msgkit_transport_mqtt::Mqtt) {
    let trying = async {
        while let Err(error) = transport.publish(vec![message("a.b", "1")]).await {
            assert!(error.is_temporary(), "{}", msgkit::Chain(&error));
        }
    };
    assert!(tokio::time::timeout(support::PATIENCE, trying).await.is_ok(), "it is never taken");
}

/// A broker ends the connection for a text that MQTT cannot carry, and the client writes longer ones than can be read. Nobody's
/// messages wait behind such a one.
#[tokio::test(flavor = "multi_thread")]
async fn what_no_text_of_mqtt_can_carry_travels_all_the_same() -> Tested {
    let Some((proxy, prefix)) = broker("texts").await else { return Ok(()) };
    for version in [Version::V5, Version::V311] {
        let transport = mqtt(&proxy.address().to_string(), &prefix, |config| config.version = version);
        let mut deliveries = reader(&transport, &group("g", "a.>")).await;
        for (topic, key, header) in [
            ("a.b", "a\nb", 1),
            ("a.b", "\u{fffe}", 1),
            ("a.b", "plain", 70_000),
            ("a.b~0Ac", "plain", 1),
            ("a.b~C2~85c", "plain", 1),
        ] {
            let mut sent = message(topic, "odd");
            sent.envelope.set_key(Some(key.into()));
            sent.envelope.set_native(NativeHeaders::from_iter([("X-Long", "x".repeat(header).as_str())]));
            transport.publish(vec![sent.clone()]).await?;
            let came = take(&mut *deliveries, 1).await.remove(0);
            assert_eq!(came.message().envelope(), Some(&sent.envelope), "every attribute");
            came.ack();
        }
        assert_eq!(transport.resent(), 0, "no connection broke");
        deliveries.close().await?;
    }
    Ok(())
}

/// Who waits for the broker's word on what is settled does not get it from a connection that is gone, nor from having given up
/// waiting.
#[tokio::test(flavor = "multi_thread")]
async fn a_flush_is_the_brokers_word() -> Tested {
    let Some((proxy, prefix)) = broker("word").await else { return Ok(()) };
    let transport = mqtt(&proxy.address().to_string(), &prefix, |_| {});
    let mut deliveries = reader(&transport, &group("g", "a.b")).await;
    publish(&transport, "a.b", &numbered(2)).await;
    let mut came = take(&mut *deliveries, 2).await;
    came.remove(0).ack();
    deliveries.flush().await?;
    proxy.stall();
    came.remove(0).ack();
    for _ in 0..2 {
        let flushed = tokio::time::timeout(Duration::from_millis(100), deliveries.flush()).await;
        assert!(flushed.is_err(), "nobody has answered, yet {flushed:?}");
    }
    proxy.refuse();
    proxy.reset();
    tokio::time::sleep(Duration::from_millis(200)).await;
    let error = deliveries.flush().await.unwrap_err();
    assert!(error.to_string().contains("may come again"), "{error}");
    proxy.heal();
    let again = take(&mut *deliveries, 1).await.remove(0);
    assert_eq!(text(&again), "00001", "the broker had not heard of it");
    again.ack();
    deliveries.flush().await?;
    Ok(())
}

/// Nor does who settles what was in hand when the connection ended, with nothing behind it: the broker hears of none of it.
#[tokio::test(flavor = "multi_thread")]
async fn a_flush_knows_of_what_was_settled_behind_the_end_of_its_connection() -> Tested {
    let Some((proxy, prefix)) = broker("behind").await else { return Ok(()) };
    let transport = mqtt(&proxy.address().to_string(), &prefix, |_| {});
    let mut deliveries = reader(&transport, &group("g", "a.b")).await;
    let member = proxy.connections();
    publish(&transport, "a.b", &numbered(2)).await;
    let came = take(&mut *deliveries, 2).await;
    proxy.refuse();
    // The one that publishes goes on: health tells of it first.
    member.iter().for_each(msgkit_testing::brokers::Connection::reset);
    let down = async {
        while !matches!(transport.health().await, msgkit::transport::Health::Down(why) if why.contains("group `g`"))
        {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(support::PATIENCE, down).await?;
    came.into_iter().for_each(msgkit::transport::Delivery::ack);
    assert_eq!(transport.late_settlements(), 2, "they are counted");
    let error = deliveries.flush().await.unwrap_err();
    assert!(error.to_string().contains("may come again"), "{error}");
    proxy.heal();
    let again = take(&mut *deliveries, 2).await;
    again.into_iter().for_each(msgkit::transport::Delivery::ack);
    deliveries.flush().await?;
    Ok(())
}

/// What is given back is not kept: while a broker is away, memory does not grow with what is tried.
#[tokio::test(flavor = "multi_thread")]
async fn what_is_given_back_is_not_kept() -> Tested {
    let transport = mqtt("127.0.0.1:9", "away", |config| {
        config.publish_timeout = Duration::from_millis(50);
    });
    for _ in 0..3 {
        let error = transport.publish(vec![message("a.b", "1"), message("a.b", "2")]).await.unwrap_err();
        assert!(error.is_temporary());
    }
    // Nobody waits for anything any more, so there is nothing to say.
    transport.close().await?;
    Ok(())
}

/// The client forgets what it had queued and sent when it comes back without a session, subscriptions too.
#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_forgotten_when_connections_break() -> Tested {
    let Some((proxy, prefix)) = broker("forgotten").await else { return Ok(()) };
    let address = proxy.address().to_string();
    let receiver = mqtt(&address, &prefix, |_| {});
    let mut deliveries = reader(&receiver, &group("g", "a.b")).await;
    let publisher = mqtt(&address, &prefix, |_| {});
    let publishing = {
        let publisher = publisher.clone();
        tokio::spawn(async move {
            let mut sent = Vec::new();
            while sent.len() < 1500 || (publisher.resent() == 0 && sent.len() < 30_000) {
                let texts: Vec<String> = (sent.len()..sent.len() + 300).map(|n| format!("{n:05}")).collect();
                publish(&publisher, "a.b", &texts).await;
                sent.extend(texts);
            }
            sent
        })
    };
    let cutting = tokio::spawn(async move {
        // Later each time, so that a slow client is back in between.
        for n in 1..=10 {
            tokio::time::sleep(Duration::from_millis(60) * n).await;
            proxy.reset();
        }
        proxy
    });
    let sent = publishing.await?;
    let came = all(&mut *deliveries, &sent).await;
    cutting.await?;
    assert!(came.len() < sent.len() * 3, "what was in flight came again, not everything: {}", came.len());
    assert!(publisher.resent() > 0, "some were sent again");
    Ok(())
}

/// What is published while there is no connection at all waits for one.
#[tokio::test(flavor = "multi_thread")]
async fn what_is_published_without_a_connection_goes_out_with_the_next() -> Tested {
    let Some((proxy, prefix)) = broker("outage").await else { return Ok(()) };
    let transport = mqtt(&proxy.address().to_string(), &prefix, |_| {});
    let mut deliveries = reader(&transport, &group("g", "a.b")).await;
    proxy.refuse();
    proxy.cut();
    let sent = numbered(20);
    let publishing = {
        let (transport, sent) = (transport.clone(), sent.clone());
        tokio::spawn(async move { publish(&transport, "a.b", &sent).await })
    };
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert!(!publishing.is_finished());
    proxy.heal();
    publishing.await?;
    assert_eq!(all(&mut *deliveries, &sent).await, sent, "in their order");
    Ok(())
}

/// A collision of packet numbers outlives the client's connection and stops all publishing for good.
#[tokio::test(flavor = "multi_thread")]
async fn a_collision_ends_with_its_connection() -> Tested {
    let published: Arc<Mutex<Vec<(u32, u16)>>> = Arc::default();
    let log = published.clone();
    let broker = Scripted::start(Box::new(move |connection, packet| {
        let Packet::Publish(publish) = packet else { return polite(packet, 2) };
        let mut log = log.lock().unwrap();
        log.push((connection, publish.pkid));
        match (connection, log.len()) {
            // The second is confirmed, the first is not: the third gets the number of the first, and has to wait.
            (1, 2) => vec![confirm(publish.pkid)],
            (1, _) => Vec::new(),
            _ => vec![confirm(publish.pkid)],
        }
    }))
    .await;
    let transport = mqtt(&broker.address, "collision", |config| {
        config.keep_alive = Duration::from_secs(5);
        config.publish_timeout = Duration::from_secs(25);
    });
    let sent = numbered(6);
    // The client notices that nothing goes on when it has pinged twice.
    publish(&transport, "a.b", &sent).await;
    assert!(broker.count() >= 2, "the stuck connection was given up");
    publish(&transport, "a.b", &sent).await;
    Ok(())
}

/// The client takes no packet over 10 KiB, and a broker sends it one again and again.
#[tokio::test(flavor = "multi_thread")]
async fn large_messages_come() -> Tested {
    let Some((proxy, prefix)) = broker("large").await else { return Ok(()) };
    let transport = mqtt(&proxy.address().to_string(), &prefix, |_| {});
    let mut deliveries = reader(&transport, &group("g", "a.b")).await;
    // Mosquitto 2.1 takes no more than 2,000,000 bytes unless told.
    let large = vec!["x".repeat(3 << 19)];
    publish(&transport, "a.b", &large).await;
    assert_eq!(all(&mut *deliveries, &large).await, large);
    Ok(())
}

/// A packet over the limit that the broker sends all the same ends the subscription with a word, not in a loop.
#[tokio::test(flavor = "multi_thread")]
async fn a_packet_over_the_limit_is_told_and_no_loop() -> Tested {
    let broker = Scripted::start(Box::new(|_, packet| {
        let mut answers = polite(packet, 10);
        if matches!(packet, Packet::Subscribe(_)) {
            answers.push(send("large/a/b", 1, vec![b'x'; 20 << 10]));
        }
        answers
    }))
    .await;
    let transport = mqtt(&broker.address, "large", |config| config.max_packet = 10 << 10);
    let wanted = Subscription::ephemeral(["a.b".parse()?]);
    let mut deliveries = transport.subscribe(&wanted).await?;
    let mut came = VecDeque::new();
    let error = deliveries.receive(1, &mut came).await.unwrap_err();
    assert_eq!(error.kind(), TransportErrorKind::Invalid);
    assert!(error.to_string().contains("`max_packet`"), "{error}");
    let before = broker.count();
    tokio::time::sleep(Duration::from_millis(500)).await;
    assert_eq!(broker.count(), before, "it does not connect again by itself");
    assert!(deliveries.receive(1, &mut came).await.is_err(), "and says so as often as it is asked");
    Ok(())
}

/// Packet numbers belong to a connection: an acknowledgement of an earlier one would settle another message.
#[tokio::test(flavor = "multi_thread")]
async fn no_acknowledgement_goes_out_on_a_later_connection() -> Tested {
    let acknowledged: Arc<Mutex<Vec<(u32, u16)>>> = Arc::default();
    let log = acknowledged.clone();
    let broker = Scripted::start(Box::new(move |connection, packet| match packet {
        Packet::Connect(..) => vec![Do::Answer(Box::new(scripted::welcome(connection > 1, 10)))],
        Packet::Subscribe(_) => {
            let mut answers = polite(packet, 10);
            // The second connection brings another message under the number of the first's.
            answers.push(send("stale/a/b", 7, format!("\"{connection}\"").into_bytes()));
            answers
        }
        Packet::PubAck(ack) => {
            log.lock().unwrap().push((connection, ack.pkid));
            Vec::new()
        }
        _ => polite(packet, 10),
    }))
    .await;
    let transport = mqtt(&broker.address, "stale", |_| {});
    let mut wanted = Subscription::ephemeral(["a.b".parse()?]);
    let rule = msgkit::envelope::ingest::IngestRule::new("a.b".parse()?, "test.text");
    wanted.ingest = msgkit::envelope::ingest::Ingest(vec![rule]);
    let mut deliveries = transport.subscribe(&wanted).await?;
    let mut first = take(&mut *deliveries, 1).await;
    // Ends the connection without settling anything.
    broker.hang_up();
    let second = take(&mut *deliveries, 1).await;
    assert_eq!((text(&first[0]), text(&second[0])), ("1".to_owned(), "2".to_owned()));
    first.remove(0).ack();
    tokio::time::sleep(Duration::from_millis(200)).await;
    assert!(acknowledged.lock().unwrap().is_empty(), "the message of the second connection is not settled");
    assert_eq!(transport.late_settlements(), 1, "it is counted");
    second.into_iter().for_each(msgkit::transport::Delivery::ack);
    until("the second is settled", || *acknowledged.lock().unwrap() == [(2, 7)]).await;
    Ok(())
}

/// Mosquitto before 2.0.13 sends more than the receive maximum. What is handed out and may come again is bounded nevertheless.
#[tokio::test(flavor = "multi_thread")]
async fn no_more_than_the_prefetch_waits_to_be_acknowledged() -> Tested {
    let acknowledged: Arc<Mutex<Vec<u16>>> = Arc::default();
    let log = acknowledged.clone();
    let deaf = Arc::new(AtomicBool::new(true));
    let hears = deaf.clone();
    let broker = Scripted::start(Box::new(move |connection, packet| match packet {
        Packet::Connect(..) => vec![Do::Answer(Box::new(scripted::welcome(connection > 1, 10)))],
        Packet::Unsubscribe(_) if hears.load(Ordering::SeqCst) => Vec::new(),
        Packet::Subscribe(_) => {
            let mut answers = polite(packet, 10);
            answers.extend((1..=9).map(|n| send("more/a/b", n, format!("\"{n}\"").into_bytes())));
            answers
        }
        Packet::PubAck(ack) => {
            log.lock().unwrap().push(ack.pkid);
            Vec::new()
        }
        _ => polite(packet, 10),
    }))
    .await;
    let transport = mqtt(&broker.address, "more", |_| {});
    let mut wanted = Subscription::ephemeral(["a.b".parse()?]);
    let rule = msgkit::envelope::ingest::IngestRule::new("a.b".parse()?, "test.text");
    wanted.ingest = msgkit::envelope::ingest::Ingest(vec![rule]);
    wanted.prefetch = 4;
    let mut deliveries = transport.subscribe(&wanted).await?;
    let mut came = take(&mut *deliveries, 4).await;
    let oldest = came.remove(0);
    came.into_iter().for_each(msgkit::transport::Delivery::ack);
    nothing(&mut *deliveries, "three that are settled wait behind one that is not").await;
    assert!(acknowledged.lock().unwrap().is_empty(), "a receiver acknowledges in order");
    // Given back, it is the first again.
    drop(oldest);
    take(&mut *deliveries, 1).await.remove(0).ack();
    until("four are acknowledged", || *acknowledged.lock().unwrap() == [1, 2, 3, 4]).await;
    nothing(&mut *deliveries, "whether the broker has heard of it is not known").await;
    deaf.store(false, Ordering::SeqCst);
    broker.hang_up();
    // Of a broker that answers, they come in their order, one for each that is settled.
    let mut next = take(&mut *deliveries, 4).await;
    assert_eq!(next.iter().map(text).collect::<Vec<_>>(), ["1", "2", "3", "4"], "on the next connection");
    for n in 5..=9 {
        next.remove(0).ack();
        next.extend(take(&mut *deliveries, 1).await);
        assert_eq!(text(&next[3]), n.to_string());
    }
    next.into_iter().for_each(msgkit::transport::Delivery::ack);
    until("all are settled", || acknowledged.lock().unwrap().ends_with(&[1, 2, 3, 4, 5, 6, 7, 8, 9])).await;
    Ok(())
}

/// The client reads faster than it acknowledges, and Mosquitto before 2.0.13 sends all that it has.
#[tokio::test(flavor = "multi_thread")]
async fn no_acknowledgement_is_dropped_however_many_wait() -> Tested {
    const MANY: u16 = 10_000;
    let acknowledged: Arc<Mutex<Vec<u16>>> = Arc::default();
    let log = acknowledged.clone();
    let broker = Scripted::start(Box::new(move |_, packet| match packet {
        Packet::Subscribe(_) => {
            let mut answers = polite(packet, 10);
            answers.extend((1..=MANY).map(|n| send_old("many/a/b", n)));
            answers
        }
        Packet::PubAck(ack) => {
            log.lock().unwrap().push(ack.pkid);
            Vec::new()
        }
        _ => polite(packet, 10),
    }))
    .await;
    let transport = mqtt(&broker.address, "many", |_| {});
    let _deliveries = transport.subscribe(&Subscription::ephemeral(["a.b".parse()?])).await?;
    until("all are acknowledged", || acknowledged.lock().unwrap().len() == usize::from(MANY)).await;
    assert!(acknowledged.lock().unwrap().iter().copied().eq(1..=MANY), "in their order");
    Ok(())
}

/// The client notices a network that swallows everything after two keep-alives, a minute by default.
#[tokio::test(flavor = "multi_thread")]
async fn a_half_open_connection_is_left_before_the_publisher_is_told() -> Tested {
    let Some((proxy, prefix)) = broker("half").await else { return Ok(()) };
    let transport = mqtt(&proxy.address().to_string(), &prefix, |config| {
        config.publish_timeout = Duration::from_secs(24);
    });
    publish(&transport, "a.b", &numbered(1)).await;
    // Only the connection that is there; the next one works.
    proxy.connections()[0].half_open();
    publish(&transport, "a.b", &numbered(3)).await;
    assert!(transport.resent() >= 3);
    Ok(())
}

/// The client sends no acknowledgements while its window of publishes is full.
#[tokio::test(flavor = "multi_thread")]
async fn acknowledgements_pass_a_full_window() -> Tested {
    let Some((proxy, prefix)) = broker("window").await else { return Ok(()) };
    let transport = mqtt(&proxy.address().to_string(), &prefix, |config| {
        config.in_flight = 1;
        config.publish_timeout = support::PATIENCE * 2;
    });
    publish(&transport, "nobody.home", &numbered(1)).await;
    let stuck = proxy.connections();
    assert_eq!(stuck.len(), 1, "the one that publishes");
    let wanted = group("g", "a.b");
    let mut deliveries = reader(&transport, &wanted).await;
    let other = mqtt(&proxy.address().to_string(), &prefix, |_| {});
    let sent = numbered(50);
    publish(&other, "a.b", &sent).await;
    stuck[0].stall();
    let waiting = {
        let transport = transport.clone();
        tokio::spawn(async move { transport.publish(vec![message("a.b", "stuck")]).await.is_ok() })
    };
    assert_eq!(all(&mut *deliveries, &sent).await, sent);
    tokio::time::timeout(support::PATIENCE, deliveries.flush()).await??;
    assert!(!waiting.is_finished(), "the window is full all the while");
    stuck[0].heal();
    let _ = waiting.await?;
    Ok(())
}

/// The client connects again at once and forever.
#[tokio::test(flavor = "multi_thread")]
async fn a_broker_that_is_down_is_not_beaten() -> Tested {
    let broker = Scripted::start(Box::new(|_, _| vec![Do::HangUp])).await;
    let transport = mqtt(&broker.address, "beaten", |config| config.publish_timeout = Duration::from_secs(2));
    assert!(transport.publish(vec![message("a.b", "1")]).await.is_err());
    assert!(broker.count() <= 10, "{} tries in two seconds", broker.count());
    until("it tries again", || broker.count() >= 2).await;
    Ok(())
}

/// A session that the broker has lost brings nothing again: what was received already is all that is left.
#[tokio::test(flavor = "multi_thread")]
async fn what_was_received_outlives_a_lost_session() -> Tested {
    let broker = Scripted::start(Box::new(|connection, packet| {
        let mut answers = polite(packet, 10);
        if matches!(packet, Packet::Subscribe(_)) && connection == 1 {
            answers.push(send("lost/a/b", 1, b"\"1\"".to_vec()));
            answers.push(send("lost/a/b", 2, b"\"2\"".to_vec()));
            answers.push(Do::HangUp);
        }
        answers
    }))
    .await;
    let transport = mqtt(&broker.address, "lost", |_| {});
    let mut wanted = Subscription::ephemeral(["a.b".parse()?]);
    let rule = msgkit::envelope::ingest::IngestRule::new("a.b".parse()?, "test.text");
    wanted.ingest = msgkit::envelope::ingest::Ingest(vec![rule]);
    let mut deliveries = transport.subscribe(&wanted).await?;
    let came = take(&mut *deliveries, 2).await;
    until("it is connected again", || broker.count() >= 2).await;
    assert_eq!(came.iter().map(text).collect::<Vec<_>>(), ["1", "2"]);
    drop(came);
    let again = take(&mut *deliveries, 2).await;
    assert_eq!(
        again.iter().map(text).collect::<Vec<_>>(),
        ["1", "2"],
        "given back, they come again from here"
    );
    again.into_iter().for_each(msgkit::transport::Delivery::ack);
    nothing(&mut *deliveries, "they are settled").await;
    Ok(())
}

/// A declaration is refused by name where it cannot be kept.
#[tokio::test]
async fn dead_letters_are_refused_with_the_key_to_set() -> Tested {
    let transport = mqtt("127.0.0.1:9", "letters", |_| {});
    let mut wanted = declaration(&group("g", "a.b"));
    if let msgkit::transport::Declaration::Group { dead_letters, .. } = &mut wanted[0] {
        *dead_letters = true;
    }
    let error = transport.declare(&wanted).await.unwrap_err();
    assert_eq!(error.kind(), TransportErrorKind::Unsupported);
    assert!(error.to_string().contains("`dead_letters = "), "{error}");
    Ok(())
}

//! Sessions: what a group is owed survives whatever happens to its members and to the broker.

mod support;
#[path = "sessions/versions.rs"]
mod versions;

use std::time::Duration;

use msgkit::transport::{
    Delivery, Publisher as _, Subscriber as _, Subscription, Transport as _, TransportErrorKind,
};
use msgkit_testing::brokers::{BrokerError, FaultProxy, Mosquitto};
use msgkit_transport_mqtt::{Format, OnUnrouted, Version};
use support::{all, declaration, group, message, mqtt, nothing, numbered, publish, reader, take, text};

type Tested = Result<(), Box<dyn std::error::Error>>;

/// What `start` gave; `None`, and a word, where Mosquitto is not installed.
fn there<T>(started: Result<T, BrokerError>) -> Option<T> {
    match started {
        Ok(broker) => Some(broker),
        Err(error) if std::env::var("MSGKIT_REQUIRE_BROKERS").is_ok_and(|value| value == "1") => {
            panic!("not run: {error}")
        }
        Err(error) => {
            eprintln!("not run: {error}");
            None
        }
    }
}

fn shared(test: &str) -> Option<(String, String)> {
    let broker = there(Mosquitto::shared())?;
    Some((broker.url().to_owned(), broker.prefix(test)))
}

/// The backlog of a group that is away, and the work of one that is there, survive the death of the broker.
#[tokio::test(flavor = "multi_thread")]
async fn a_killed_broker_loses_nothing() -> Tested {
    let Some(mut broker) = there(Mosquitto::options().start()) else { return Ok(()) };
    for version in [Version::V5, Version::V311] {
        let prefix = broker.prefix("killed");
        let transport = mqtt(broker.url(), &prefix, |config| {
            (config.version, config.publish_timeout) = (version, Duration::from_secs(120));
        });
        let away = group("away", "a.b");
        transport.declare(&declaration(&away)).await?;
        let mut present = reader(&transport, &group("present", "a.b")).await;
        let before = numbered(50);
        publish(&transport, "a.b", &before).await;
        let held = take(&mut *present, 5).await;
        // Mosquitto confirms a message before it writes it, and writes it before it reads the next: the last one that it
        // has confirmed dies with it.
        publish(&transport, "a.b", &["perhaps lost".to_owned()]).await;
        broker.kill()?;
        broker.restart()?;
        drop(held);
        all(&mut *present, &before).await;
        let after: Vec<String> = numbered(20).iter().map(|text| format!("after {text}")).collect();
        publish(&transport, "a.b", &after).await;
        all(&mut *present, &after).await;
        let mut deliveries = transport.subscribe(&away).await?;
        let owed: Vec<String> = before.into_iter().chain(after).collect();
        all(&mut *deliveries, &owed).await;
        transport.close().await?;
    }
    Ok(())
}

/// A member that dies has messages in its session; another member of the group takes the session over.
#[tokio::test(flavor = "multi_thread")]
async fn what_a_dead_member_held_goes_to_another() -> Tested {
    let Some(broker) = there(Mosquitto::shared()) else { return Ok(()) };
    let proxy = FaultProxy::start(format!("127.0.0.1:{}", broker.port().unwrap_or(1883))).await?;
    let prefix = broker.prefix("dead");
    let wanted = group("g", "a.b").with_prefetch(8);
    let dying = mqtt(&proxy.address().to_string(), &prefix, |_| {});
    let mut first = reader(&dying, &wanted).await;
    let living = mqtt(broker.url(), &prefix, |_| {});
    let mut second = reader(&living, &wanted).await;
    let sent = numbered(40);
    publish(&living, "a.b", &sent).await;
    let held: Vec<String> = take(&mut *first, 8).await.iter().map(text).collect();
    // It is gone without a word, with eight in hand and more in its session.
    proxy.refuse();
    proxy.reset();
    all(&mut *second, &sent).await;
    assert_eq!(held.len(), 8);
    // Its slot is dissolved: nothing is sent there any more.
    let more: Vec<String> = numbered(40).iter().map(|text| format!("more {text}")).collect();
    publish(&living, "a.b", &more).await;
    all(&mut *second, &more).await;
    Ok(())
}

/// A member that has stopped leaves with the broker what comes, so it cannot know that a session has nothing left.
#[tokio::test(flavor = "multi_thread")]
async fn who_has_stopped_dissolves_no_session() -> Tested {
    let Some(broker) = there(Mosquitto::shared()) else { return Ok(()) };
    let proxy = FaultProxy::start(format!("127.0.0.1:{}", broker.port().unwrap_or(1883))).await?;
    let prefix = broker.prefix("stopped");
    let wanted = group("g", "a.b").with_prefetch(4);
    let dying = mqtt(&proxy.address().to_string(), &prefix, |_| {});
    let mut first = reader(&dying, &wanted).await;
    let living = mqtt(broker.url(), &prefix, |_| {});
    let mut second = reader(&living, &wanted).await;
    let sent = numbered(80);
    publish(&living, "a.b", &sent).await;
    let held: Vec<String> = take(&mut *first, 4).await.iter().map(text).collect();
    proxy.refuse();
    proxy.reset();
    let (mut settled, mut in_hand) = (Vec::new(), Vec::new());
    while in_hand.len() < 4 {
        let next = take(&mut *second, 1).await.remove(0);
        settled.push(text(&next));
        if held.contains(&text(&next)) { in_hand.push(next) } else { next.ack() }
    }
    second.stop();
    in_hand.into_iter().for_each(Delivery::ack);
    // Longer than a session must have been silent.
    tokio::time::sleep(Duration::from_secs(4)).await;
    second.close().await?;
    let mut third = reader(&living, &wanted).await;
    let owed: Vec<String> = sent.into_iter().filter(|text| !settled.contains(text)).collect();
    all(&mut *third, &owed).await;
    Ok(())
}

/// Whatever groups are called, the copies of one do not come to another.
#[tokio::test(flavor = "multi_thread")]
async fn a_group_has_its_sessions_to_itself() -> Tested {
    let Some((url, prefix)) = shared("names") else { return Ok(()) };
    let transport = mqtt(&url, &prefix, |_| {});
    let mut copy = message("a.b", "again");
    copy.to = msgkit::transport::Destination::Retry {
        group: msgkit::Group::new("orders")?,
        step: 1,
        delay: Duration::from_secs(1),
    };
    transport.publish(vec![copy]).await?;
    let mut other = reader(&transport, &group("orders-retry1", "a.b")).await;
    nothing(&mut *other, "it is another's").await;
    other.close().await?;
    let mut wanted = group("orders", "a.b").with_prefetch(1);
    wanted.retry_step = Some(1);
    let mut deliveries = transport.subscribe(&wanted).await?;
    assert_eq!(text(&take(&mut *deliveries, 1).await[0]), "again");
    Ok(())
}

/// A process that has a name takes up its own sessions at once, also where the broker has not noticed its death.
#[tokio::test(flavor = "multi_thread")]
async fn an_instance_takes_up_its_own_session() -> Tested {
    let Some(broker) = there(Mosquitto::shared()) else { return Ok(()) };
    let proxy = FaultProxy::start(format!("127.0.0.1:{}", broker.port().unwrap_or(1883))).await?;
    let prefix = broker.prefix("instance");
    let named = |address: &str| {
        mqtt(address, &prefix, |config| {
            config.instance = Some("one".to_owned());
            config.takeover_after = Duration::from_secs(3600);
        })
    };
    let wanted = group("g", "a.b");
    let hung = named(&proxy.address().to_string());
    let mut deliveries = reader(&hung, &wanted).await;
    let publisher = mqtt(broker.url(), &prefix, |_| {});
    let sent = numbered(10);
    publish(&publisher, "a.b", &sent).await;
    let held = take(&mut *deliveries, 4).await;
    // The host is gone; the broker still believes in it.
    proxy.half_open();
    let again = named(broker.url());
    let mut deliveries = reader(&again, &wanted).await;
    assert_eq!(all(&mut *deliveries, &sent).await, sent);
    drop(held);
    Ok(())
}

/// Members come and go; nobody's messages get stuck.
#[tokio::test(flavor = "multi_thread")]
async fn members_come_and_go() -> Tested {
    let Some((url, prefix)) = shared("members") else { return Ok(()) };
    let wanted = group("g", "a.b").with_prefetch(4);
    // Longer than all rounds take: who comes has its slot before `stays` thinks of taking it over.
    let member = || mqtt(&url, &prefix, |config| config.takeover_after = Duration::from_secs(20));
    let publisher = member();
    let mut stays = reader(&publisher, &wanted).await;
    let mut owed = Vec::new();
    for round in 0..4 {
        let comes = member();
        let mut deliveries = reader(&comes, &wanted).await;
        let sent: Vec<String> = numbered(20).iter().map(|text| format!("{round} {text}")).collect();
        publish(&publisher, "a.b", &sent).await;
        let mut came = take(&mut *deliveries, 3).await;
        let settled = text(&came[0]);
        came.remove(0).ack();
        drop(came);
        deliveries.close().await?;
        owed.extend(sent);
        // It may be one of an earlier round: who comes takes up what who left had not settled.
        owed.retain(|text| *text != settled);
    }
    let came = all(&mut *stays, &owed).await;
    let mut distinct = came.clone();
    distinct.sort();
    distinct.dedup();
    assert_eq!(distinct.len(), came.len(), "everybody left in good order, so nothing came twice");
    nothing(&mut *stays, "all is settled").await;
    Ok(())
}

/// 3.1.1 has no headers; where it is spoken, everybody writes structured events, and reads both.
#[tokio::test(flavor = "multi_thread")]
async fn mixed_fleets_understand_each_other() -> Tested {
    let Some((url, prefix)) = shared("mixed") else { return Ok(()) };
    let old = mqtt(&url, &prefix, |config| config.version = Version::V311);
    let new = mqtt(&url, &prefix, |config| config.format = Some(Format::Structured));
    let binary = mqtt(&url, &prefix, |_| {});
    let mut by_old = reader(&old, &group("old", "a.b")).await;
    let mut by_new = reader(&binary, &group("new", "a.b")).await;
    for (from, name) in [(&old, "old"), (&new, "new")] {
        let sent = vec![name.to_owned()];
        publish(from, "a.b", &sent).await;
        assert_eq!(all(&mut *by_old, &sent).await, sent);
        assert_eq!(all(&mut *by_new, &sent).await, sent);
    }
    let mut rich = message("a.b", "rich");
    rich.envelope.set_key(Some("k".into()));
    new.publish(vec![rich.clone()]).await?;
    let came = take(&mut *by_old, 1).await;
    assert_eq!(came[0].message().envelope(), Some(&rich.envelope), "every attribute");
    Ok(())
}

/// Quality of service 0: sent is done; what comes with it needs no acknowledgement, and can be given back all the same.
#[tokio::test(flavor = "multi_thread")]
async fn quality_of_service_0_works_and_claims_less() -> Tested {
    let Some((url, prefix)) = shared("qos") else { return Ok(()) };
    let transport = mqtt(&url, &prefix, |config| config.qos = 0);
    assert!(!transport.capabilities().durable && !transport.capabilities().backlog);
    let mut deliveries = reader(&transport, &group("g", "a.b")).await;
    let sent = numbered(30);
    publish(&transport, "a.b", &sent).await;
    let held = take(&mut *deliveries, 3).await;
    drop(held);
    assert_eq!(all(&mut *deliveries, &sent).await, sent);
    deliveries.flush().await?;
    Ok(())
}

/// What a broker retains is not news; who asks for it gets it.
#[tokio::test(flavor = "multi_thread")]
async fn retained_messages_come_to_those_who_ask() -> Tested {
    let Some((url, prefix)) = shared("retained") else { return Ok(()) };
    for version in [Version::V5, Version::V311] {
        let topic = format!("state.{version:?}").to_lowercase();
        let transport = mqtt(&url, &prefix, |config| config.version = version);
        let mut state = message(&topic, "the state");
        state.envelope.add_hint(msgkit::envelope::Hint {
            transport: "mqtt".into(),
            name: "retain".into(),
            value: true.into(),
        });
        transport.publish(vec![state]).await?;
        let wanted = Subscription::ephemeral([topic.parse()?]);
        let mut news = transport.subscribe(&wanted).await?;
        nothing(&mut *news, "it was published before").await;
        let asking = mqtt(&url, &prefix, |config| {
            config.version = version;
            config.retained = true;
        });
        let mut told = asking.subscribe(&wanted).await?;
        assert_eq!(text(&take(&mut *told, 1).await[0]), "the state");
    }
    Ok(())
}

/// What was retained and not handled yet when a connection broke comes on the next one.
#[tokio::test(flavor = "multi_thread")]
async fn retained_messages_outlive_a_connection() -> Tested {
    let Some(broker) = there(Mosquitto::shared()) else { return Ok(()) };
    let proxy = FaultProxy::start(format!("127.0.0.1:{}", broker.port().unwrap_or(1883))).await?;
    let transport = mqtt(&proxy.address().to_string(), &broker.prefix("owed"), |config| {
        config.retained = true;
    });
    let states = numbered(5);
    for state in &states {
        let mut message = message(&format!("state.{state}"), state);
        message.envelope.add_hint(msgkit::envelope::Hint {
            transport: "mqtt".into(),
            name: "retain".into(),
            value: true.into(),
        });
        transport.publish(vec![message]).await?;
    }
    let mut told = transport.subscribe(&Subscription::ephemeral(["state.*".parse()?])).await?;
    proxy.reset();
    all(&mut *told, &states).await;
    Ok(())
}

/// A broker that grants less than was asked for gives no guarantee, and is not taken for one that does.
#[tokio::test(flavor = "multi_thread")]
async fn a_broker_without_quality_of_service_1_is_refused() -> Tested {
    let Some(broker) = there(Mosquitto::options().setting("max_qos 0").start()) else { return Ok(()) };
    for version in [Version::V5, Version::V311] {
        let transport = mqtt(broker.url(), "low", |config| config.version = version);
        let Err(refused) = transport.subscribe(&Subscription::ephemeral(["a.b".parse()?])).await else {
            panic!("it subscribes")
        };
        assert_eq!(refused.kind(), TransportErrorKind::Refused, "{refused}");
        let said = msgkit::Chain(&refused).to_string();
        assert!(said.contains("max_qos") && said.contains("low/a/b"), "{said}");
    }
    let transport = mqtt(broker.url(), "low", |_| {});
    let refused = transport.publish(vec![message("a.b", "1")]).await.unwrap_err();
    assert_eq!(refused.kind(), TransportErrorKind::Refused);
    assert!(msgkit::Chain(&refused).to_string().contains("max_qos"));
    let fast = mqtt(broker.url(), "low", |config| config.qos = 0);
    publish(&fast, "a.b", &numbered(1)).await;
    Ok(())
}

/// A retry copy is held by somebody, whoever has declared what.
#[tokio::test(flavor = "multi_thread")]
async fn a_retry_copy_makes_the_session_that_holds_it() -> Tested {
    let Some((url, prefix)) = shared("step") else { return Ok(()) };
    let transport = mqtt(&url, &prefix, |config| config.on_unrouted = OnUnrouted::Error);
    let mut copy = message("a.b", "again");
    copy.to = msgkit::transport::Destination::Retry {
        group: msgkit::Group::new("g")?,
        step: 3,
        delay: Duration::from_secs(1),
    };
    transport.publish(vec![copy]).await?;
    let mut wanted = group("g", "a.b").with_prefetch(1);
    wanted.retry_step = Some(3);
    let mut deliveries = transport.subscribe(&wanted).await?;
    assert_eq!(text(&take(&mut *deliveries, 1).await[0]), "again");
    let unread = transport.publish(vec![message("nobody.home", "1")]).await.unwrap_err();
    assert_eq!(unread.kind(), TransportErrorKind::Unrouted);
    Ok(())
}

/// Wrong password, refused topic: each one line that names what to look at.
#[tokio::test(flavor = "multi_thread")]
async fn refusals_name_what_to_look_at() -> Tested {
    let options = Mosquitto::options().user("svc", "svcpw").acl("user svc\ntopic readwrite ok/#\n");
    let Some(broker) = there(options.start()) else { return Ok(()) };
    let right = mqtt(broker.url(), "ok", |_| {});
    publish(&right, "a.b", &numbered(1)).await;
    let elsewhere = mqtt(broker.url(), "forbidden", |_| {});
    let error = elsewhere.publish(vec![message("a.b", "1")]).await.unwrap_err();
    let said = msgkit::Chain(&error).to_string();
    assert!(
        !error.is_temporary() && said.contains("forbidden/a/b") && said.contains("access rules"),
        "{said}"
    );
    let address = format!("127.0.0.1:{}", broker.port().unwrap_or(1883));
    let wrong = mqtt(&address, "ok", |config| {
        config.user = Some("svc".to_owned());
        config.password = Some("5ecr3t-w0rd".to_owned());
    });
    let error = wrong.publish(vec![message("a.b", "1")]).await.unwrap_err();
    let said = msgkit::Chain(&error).to_string();
    assert_eq!(error.kind(), TransportErrorKind::Refused, "{said}");
    assert!(said.contains("`password`") && !said.contains("5ecr3t"), "{said}");
    let Err(error) = wrong.subscribe(&group("g", "a.b")).await else { panic!("the password is wrong") };
    assert_eq!(error.kind(), TransportErrorKind::Refused, "{error}");
    Ok(())
}

/// What is in hand is bounded by the prefetch, on whatever connection it came.
#[tokio::test(flavor = "multi_thread")]
async fn the_order_of_acknowledgements_is_that_of_arrival() -> Tested {
    let Some((url, prefix)) = shared("acks") else { return Ok(()) };
    let transport = mqtt(&url, &prefix, |_| {});
    let wanted = group("g", "a.b").with_prefetch(4);
    let mut deliveries = reader(&transport, &wanted).await;
    publish(&transport, "a.b", &numbered(8)).await;
    let mut held = take(&mut *deliveries, 4).await;
    held.drain(1..).for_each(Delivery::ack);
    nothing(&mut *deliveries, "the first is not settled, so nothing behind it is acknowledged").await;
    held.into_iter().for_each(Delivery::ack);
    assert_eq!(all(&mut *deliveries, &numbered(8)[4..]).await, numbered(8)[4..]);
    Ok(())
}

/// A device says with its last will that it is gone; one that leaves in good order does not.
#[tokio::test(flavor = "multi_thread")]
async fn the_broker_tells_of_a_process_that_is_gone() -> Tested {
    use msgkit::envelope::ingest::{Ingest, IngestRule};

    let Some(broker) = there(Mosquitto::shared()) else { return Ok(()) };
    for version in [Version::V5, Version::V311] {
        let proxy = FaultProxy::start(format!("127.0.0.1:{}", broker.port().unwrap_or(1883))).await?;
        let prefix = broker.prefix("will");
        let watching = mqtt(broker.url(), &prefix, |config| {
            config.version = version;
            config.retained = true;
        });
        let mut wanted = Subscription::ephemeral(["device.7.state".parse()?]);
        wanted.ingest = Ingest(vec![IngestRule::new("device.*.state".parse()?, "test.text")]);
        let mut state = watching.subscribe(&wanted).await?;
        let device = || {
            mqtt(&proxy.address().to_string(), &prefix, |config| {
                config.version = version;
                let mut will = msgkit_transport_mqtt::Will::new("device.7.state", "\"gone\"");
                will.retain = true;
                config.will = Some(will);
            })
        };
        let leaving = device();
        publish(&leaving, "a.b", &numbered(1)).await;
        leaving.close().await?;
        nothing(&mut *state, "it left in good order").await;
        let dying = device();
        publish(&dying, "a.b", &numbered(1)).await;
        proxy.refuse();
        proxy.reset();
        assert_eq!(all(&mut *state, &["gone".to_owned()]).await, ["gone"]);
        let mut later = watching.subscribe(&wanted).await?;
        assert_eq!(
            all(&mut *later, &["gone".to_owned()]).await,
            ["gone"],
            "retained for those who come later"
        );
    }
    Ok(())
}

/// A transport whose subscription has no connection is not ready, though it could publish.
#[tokio::test(flavor = "multi_thread")]
async fn a_subscription_that_is_down_is_not_ready() -> Tested {
    use msgkit::transport::Health;

    let Some(broker) = there(Mosquitto::shared()) else { return Ok(()) };
    let proxy = FaultProxy::start(format!("127.0.0.1:{}", broker.port().unwrap_or(1883))).await?;
    let transport = mqtt(&proxy.address().to_string(), &broker.prefix("ready"), |_| {});
    let _deliveries = reader(&transport, &group("g", "a.b")).await;
    let member = proxy.connections();
    assert_eq!(transport.health().await, Health::Up);
    // The one that publishes goes on.
    proxy.refuse();
    for connection in &member {
        connection.reset();
    }
    let mut said = String::new();
    for _ in 0..500 {
        if let Health::Down(why) = transport.health().await {
            said = why;
            break;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    assert!(said.contains("group `g`"), "it names the subscription: {said:?}");
    proxy.heal();
    for _ in 0..1000 {
        if transport.health().await == Health::Up {
            return Ok(());
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    Err("it is never ready again".into())
}

/// A service whose dead letters would go to MQTT is refused, with the key to set; with another place for them it runs.
#[tokio::test(flavor = "multi_thread")]
async fn a_service_needs_a_place_for_its_dead_letters() -> Tested {
    use msgkit::memory::{Memory, MemoryConfig};
    use msgkit::{Context, HandlerError, Service};

    let Some((url, prefix)) = shared("letters") else { return Ok(()) };
    let service = |transport| {
        Service::new("test").transport("edge", transport).on("group", |_: Reading, _: Context| async {
            Err::<(), _>(HandlerError::permanent("it is bad"))
        })
    };
    let Err(error) = service(mqtt(&url, &prefix, |_| {})).start().await else { panic!("it was not refused") };
    let said = msgkit::Chain(&error).to_string();
    assert!(said.contains("`[transports.edge] dead_letters = "), "{said}");
    let letters = Memory::with(MemoryConfig::default(), msgkit::Clock::system());
    let running = service(mqtt(&url, &prefix, |_| {}))
        .transport("letters", letters.clone())
        .route(">".parse()?, "edge")
        .dead_letters("edge", "letters")
        .start()
        .await?;
    running.publisher().publish(&Reading { value: 7 }).await?;
    let operate = letters.operate().ok_or("memory can be asked")?;
    let wanted = msgkit::Group::new("group")?;
    let mut buried = Vec::new();
    for _ in 0..500 {
        buried = operate.dead_letters(&wanted, None, 10).await?;
        if !buried.is_empty() {
            break;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert_eq!(buried.len(), 1);
    running.drain().await?;
    Ok(())
}

#[derive(serde::Serialize, serde::Deserialize)]
struct Reading {
    value: u32,
}

impl msgkit::Message for Reading {
    type Codec = msgkit::codec::Json;
    const NAME: &'static str = "test.reading";
    const TOPIC: &'static str = "test.readings";
    fn topic(&self) -> Result<msgkit::Topic, msgkit::Error> {
        Self::template()?.render(&[])
    }
    fn key(&self) -> Option<std::borrow::Cow<'_, str>> {
        None
    }
}

#[cfg(feature = "websocket")]
#[tokio::test(flavor = "multi_thread")]
async fn a_websocket_carries_it_all() -> Tested {
    let Some(broker) = there(Mosquitto::options().websocket().start()) else { return Ok(()) };
    let url = broker.websocket_url().ok_or("it has one")?.replace("ws://", "mqtt+ws://");
    for version in [Version::V5, Version::V311] {
        let transport = mqtt(&url, &broker.prefix("ws"), |config| config.version = version);
        let mut deliveries = reader(&transport, &group("g", "a.b")).await;
        let sent = numbered(20);
        publish(&transport, "a.b", &sent).await;
        assert_eq!(all(&mut *deliveries, &sent).await, sent);
    }
    Ok(())
}

#[cfg(feature = "tls")]
#[tokio::test(flavor = "multi_thread")]
async fn tls_checks_the_brokers_certificate() -> Tested {
    let Some(broker) = there(Mosquitto::options().tls().start()) else { return Ok(()) };
    let Some(other) = there(Mosquitto::options().tls().start()) else { return Ok(()) };
    let url = broker.tls_url().ok_or("it has one")?;
    for version in [Version::V5, Version::V311] {
        let transport = mqtt(&url, "tls", |config| {
            config.version = version;
            config.ca_file = broker.authority().map(Into::into);
        });
        publish(&transport, "a.b", &numbered(3)).await;
        let stranger = mqtt(&url, "tls", |config| {
            config.version = version;
            config.ca_file = other.authority().map(Into::into);
        });
        let error = stranger.publish(vec![message("a.b", "1")]).await.unwrap_err();
        assert_eq!(error.kind(), TransportErrorKind::Refused, "{}", msgkit::Chain(&error));
        assert!(msgkit::Chain(&error).to_string().contains("`ca_file`"), "{}", msgkit::Chain(&error));
    }
    Ok(())
}

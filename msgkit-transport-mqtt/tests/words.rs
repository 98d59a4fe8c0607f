//! What a transport asks of the broker for itself, and writes there: nothing is taken for done that the broker has refused.

#![allow(clippy::unwrap_used, reason = "a panic is how a test fails")]

#[path = "support/scripted.rs"]
mod scripted;
mod support;

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use msgkit::transport::{Health, Subscriber as _, Subscription, Transport as _, TransportErrorKind};
use rumqttc::v5::mqttbytes::v5::{
    ConnAck, ConnectReturnCode, Packet, PubAck, PubAckReason, UnsubAck, UnsubAckReason,
};
use scripted::{Do, Scripted, mark, polite, refuse, with_marks};
use support::{PATIENCE, declaration, group, mqtt, until};

type Tested = Result<(), Box<dyn std::error::Error>>;

/// What is unsubscribed, but for what asks the broker whether it is there.
fn taken_back(packet: &Packet) -> Vec<String> {
    match packet {
        Packet::Unsubscribe(packet) => {
            packet.filters.iter().filter(|name| !name.ends_with("/nowhere")).cloned().collect()
        }
        _ => Vec::new(),
    }
}

/// Whether `packet` subscribes to `name`.
fn subscribes(packet: &Packet, name: &str) -> bool {
    matches!(packet, Packet::Subscribe(packet) if packet.filters.iter().any(|filter| filter.path == name))
}

/// A session that is subscribed to what was wanted before is the only one that misses nothing.
#[tokio::test(flavor = "multi_thread")]
async fn a_subscription_that_is_refused_leaves_the_earlier_one() -> Tested {
    let log: Arc<Mutex<Vec<String>>> = Arc::default();
    let gone = log.clone();
    let broker = Scripted::start(Box::new(move |_, packet| {
        gone.lock().unwrap().extend(taken_back(packet));
        match packet {
            Packet::Subscribe(wider) if subscribes(packet, "new/a/+") => refuse(wider),
            _ => with_marks(packet, &[("new/msgkit/slots/g/0/0", "1 \nnew/a/b")]),
        }
    }))
    .await;
    let transport = mqtt(&broker.address, "new", |_| {});
    let wider = group("g", "a.*");
    let refused = transport.declare(&declaration(&wider)).await.unwrap_err();
    assert!(refused.to_string().contains("`new/a/+`"), "{refused}");
    let Err(refused) = transport.subscribe(&wider).await else { panic!("it is refused") };
    assert_eq!(refused.kind(), TransportErrorKind::Refused, "{refused}");
    tokio::time::sleep(Duration::from_millis(200)).await;
    assert!(log.lock().unwrap().is_empty(), "{log:?}");
    Ok(())
}

/// Also where a member has to share what it had to itself.
#[tokio::test(flavor = "multi_thread")]
async fn a_share_that_is_refused_leaves_the_plain_subscription() -> Tested {
    let log: Arc<Mutex<Vec<String>>> = Arc::default();
    let gone = log.clone();
    let broker = Scripted::start(Box::new(move |_, packet| {
        gone.lock().unwrap().extend(taken_back(packet));
        match packet {
            Packet::Subscribe(shared) if subscribes(packet, "$share/g/share/a/b") => refuse(shared),
            Packet::Publish(own) if own.pkid != 0 => {
                let mut answers = with_marks(packet, &[]);
                let other = "1 other\n$share/g/share/a/b";
                answers.push(mark("share/msgkit/slots/g/0/1", other, false));
                answers
            }
            _ => with_marks(packet, &[]),
        }
    }))
    .await;
    let transport = mqtt(&broker.address, "share", |config| config.keeper = false);
    let mut deliveries = transport.subscribe(&group("g", "a.b")).await?;
    let received = tokio::time::timeout(PATIENCE, deliveries.receive(1, &mut VecDeque::new())).await?;
    let refused = received.unwrap_err();
    assert!(refused.to_string().contains("`$share/g/share/a/b`"), "{refused}");
    tokio::time::sleep(Duration::from_millis(200)).await;
    let gone: Vec<String> = log.lock().unwrap().iter().filter(|name| *name == "share/a/b").cloned().collect();
    assert!(gone.is_empty(), "{gone:?}");
    Ok(())
}

/// A mark that the broker does not take is told, with its place: others would know nothing of the member.
#[tokio::test(flavor = "multi_thread")]
async fn a_mark_that_is_refused_is_named() -> Tested {
    let broker = Scripted::start(Box::new(|_, packet| match packet {
        Packet::Publish(own) if own.topic == "told/msgkit/slots/g/0/0" => {
            let mut refused = PubAck::new(own.pkid, None);
            refused.reason = PubAckReason::NotAuthorized;
            vec![Do::Answer(Box::new(Packet::PubAck(refused)))]
        }
        _ => with_marks(packet, &[]),
    }))
    .await;
    let transport = mqtt(&broker.address, "told", |_| {});
    let wanted = group("g", "a.b");
    let declared = transport.declare(&declaration(&wanted)).await.unwrap_err();
    let Err(subscribed) = transport.subscribe(&wanted).await else { panic!("it is refused") };
    for refused in [declared, subscribed] {
        assert_eq!(refused.kind(), TransportErrorKind::Refused, "{refused}");
        assert!(refused.to_string().contains("`told/msgkit/slots/g/0/0`"), "{refused}");
    }
    Ok(())
}

/// A session that is subscribed still, because the broker refuses to end that, goes on getting a share: nobody may forget it.
#[tokio::test(flavor = "multi_thread")]
async fn a_session_that_is_subscribed_still_is_not_dissolved() -> Tested {
    const LEFT: &str = "left/msgkit/slots/g/0/1";
    let (heirs, tries) = (Arc::new(Mutex::new(Vec::new())), Arc::new(AtomicU32::new(0)));
    let dissolved = Arc::new(AtomicBool::new(false));
    let (count, forgot) = (tries.clone(), dissolved.clone());
    let broker = Scripted::start(Box::new(move |connection, packet| {
        let mut heirs = heirs.lock().unwrap();
        match packet {
            Packet::Connect(connect, ..) if connect.client_id == "left:g:0:1" => {
                count.fetch_add(1, Ordering::SeqCst);
                heirs.push(connection);
                return vec![Do::Answer(Box::new(scripted::welcome(true, 10)))];
            }
            Packet::Unsubscribe(asked) if heirs.contains(&connection) && !taken_back(packet).is_empty() => {
                let reasons = vec![UnsubAckReason::NotAuthorized];
                let refused = UnsubAck { pkid: asked.pkid, reasons, properties: None };
                return vec![Do::Answer(Box::new(Packet::UnsubAck(refused)))];
            }
            Packet::Publish(own) if own.topic == LEFT && own.payload.is_empty() => {
                forgot.store(true, Ordering::SeqCst);
            }
            _ => {}
        }
        with_marks(packet, &[("left/msgkit/slots/g/0/0", "1 \nleft/a/b"), (LEFT, "1 \n$share/g/left/a/b")])
    }))
    .await;
    let transport = mqtt(&broker.address, "left", |_| {});
    let _deliveries = transport.subscribe(&group("g", "a.b")).await?;
    let gone = || dissolved.load(Ordering::SeqCst);
    until("it is tried again", || gone() || tries.load(Ordering::SeqCst) >= 2).await;
    assert!(!gone());
    Ok(())
}

/// Who stays in a session that gets more than it has to misses nothing: it goes on, and its mark says so to who comes after it.
#[tokio::test(flavor = "multi_thread")]
async fn a_subscription_that_cannot_be_ended_stays_in_the_mark() -> Tested {
    const PLACE: &str = "stays/msgkit/slots/g/0/0";
    let marks: Arc<Mutex<Vec<String>>> = Arc::default();
    let log = marks.clone();
    let broker = Scripted::start(Box::new(move |_, packet| {
        match packet {
            Packet::Unsubscribe(asked) if !taken_back(packet).is_empty() => {
                let reasons = vec![UnsubAckReason::NotAuthorized];
                let refused = UnsubAck { pkid: asked.pkid, reasons, properties: None };
                return vec![Do::Answer(Box::new(Packet::UnsubAck(refused)))];
            }
            Packet::Publish(own) if own.topic == PLACE => {
                log.lock().unwrap().push(String::from_utf8_lossy(&own.payload).into_owned());
            }
            _ => {}
        }
        with_marks(packet, &[(PLACE, "1 \nstays/old")])
    }))
    .await;
    let transport = mqtt(&broker.address, "stays", |_| {});
    let wanted = group("g", "a.b");
    transport.declare(&declaration(&wanted)).await?;
    let said = |owned: bool| {
        let marks = marks.lock().unwrap();
        marks
            .iter()
            .any(|mark| mark.starts_with("1 \n") != owned && mark.lines().any(|line| line == "stays/old"))
    };
    assert!(said(false), "{marks:?}");
    let _deliveries = transport.subscribe(&wanted).await?;
    until("its own mark says so", || said(true)).await;
    Ok(())
}

/// Who is refused once may be let in later, also where nobody publishes.
#[tokio::test(flavor = "multi_thread")]
async fn a_refusal_that_ends_is_noticed_by_who_asks_for_health() -> Tested {
    let broker = Scripted::start(Box::new(|connection, packet| match packet {
        Packet::Connect(..) if connection == 1 => {
            let code = ConnectReturnCode::NotAuthorized;
            let refused = ConnAck { session_present: false, code, properties: None };
            vec![Do::Answer(Box::new(Packet::ConnAck(refused)))]
        }
        _ => polite(packet, 10),
    }))
    .await;
    let transport = mqtt(&broker.address, "later", |_| {});
    assert!(matches!(transport.health().await, Health::Down(_)));
    let asking = async {
        while transport.health().await != Health::Up {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(PATIENCE, asking).await?;
    Ok(())
}

/// A broker that takes the connection and then says nothing does not hold up who subscribes.
#[tokio::test(flavor = "multi_thread")]
async fn a_broker_that_never_answers_a_subscription_is_told() -> Tested {
    let broker = Scripted::start(Box::new(|_, packet| match packet {
        Packet::Subscribe(_) if subscribes(packet, "mute/a/b") => Vec::new(),
        Packet::Publish(own) if own.pkid != 0 => Vec::new(),
        _ => with_marks(packet, &[]),
    }))
    .await;
    let transport = mqtt(&broker.address, "mute", |config| config.connect_timeout = Duration::from_secs(1));
    // One waits for its subscription, the other for its mark.
    for wanted in [Subscription::ephemeral(["a.b".parse()?]), group("g", "x.y")] {
        let Err(error) = tokio::time::timeout(PATIENCE, transport.subscribe(&wanted)).await? else {
            panic!("it was not answered")
        };
        assert!(error.is_temporary(), "{error}");
        assert!(error.to_string().contains("did not answer"), "{error}");
    }
    Ok(())
}

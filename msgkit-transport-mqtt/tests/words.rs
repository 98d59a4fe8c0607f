//! What a transport asks of the broker for itself, and writes there: nothing is taken for done that the broker has refused.

#![allow(clippy::unwrap_used, reason = "a panic is how a test fails")]

#[path = "support/scripted.rs"]
mod scripted;
mod support;

use std::collections::VecDeque;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use msgkit::transport::{Subscriber as _, Transport as _, TransportErrorKind};
use rumqttc::v5::mqttbytes::v5::Packet;
use scripted::{Scripted, mark, refuse, with_marks};
use support::{PATIENCE, declaration, group, mqtt};

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

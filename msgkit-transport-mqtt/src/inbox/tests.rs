use bytes::Bytes;
use msgkit::envelope::NativeHeaders;
use msgkit::transport::{Malformed, TransportUrl};

use super::*;
use crate::config::{Address, MqttConfig};
use crate::driver::{Broker, Connection, Dial, open};

fn inbox() -> Arc<Inbox> {
    Arc::new(Inbox::new(8, "nowhere".to_owned(), Arc::default()))
}

/// A client that nobody answers; its connection has to be kept.
fn client() -> (Client, Connection) {
    let url = TransportUrl::parse("mqtt://127.0.0.1:9").unwrap();
    let broker = Broker::new(Address::of(&url).unwrap(), &MqttConfig::default()).unwrap();
    open(&Dial {
        broker: Arc::new(broker),
        client_id: "test".to_owned(),
        clean: true,
        expiry: std::time::Duration::ZERO,
        receive: 8,
        will: None,
    })
}

/// Brings a message.
fn bring(inbox: &Inbox, link: u64, number: u16) {
    let topic = "a.b".parse().unwrap();
    let message = Malformed::new(topic, Some(Bytes::from_static(b"x")), NativeHeaders::default(), "x");
    inbox.put(link, number, Incoming::Malformed(Box::new(message)));
}

fn take(inbox: &Arc<Inbox>) -> Result<Vec<Delivery>, TransportError> {
    let settler: Arc<dyn Settle> = inbox.clone();
    let mut came = VecDeque::new();
    inbox.take(&settler, 8, &mut came)?;
    Ok(came.into())
}

fn settle_all(inbox: &Arc<Inbox>) {
    take(inbox).unwrap().into_iter().for_each(Delivery::ack);
}

fn failure(kind: TransportErrorKind) -> Failure {
    Failure::new(kind, "it is down")
}

#[test]
fn a_link_that_failed_for_good_stays_failed_whoever_else_connects() {
    let (inbox, (client, _connection)) = (inbox(), client());
    inbox.fail(1, failure(TransportErrorKind::Refused));
    inbox.ended(1);
    inbox.connected(2, 1, true, 8, client);
    assert!(inbox.failure().is_some());
    for _ in 0..2 {
        assert_eq!(take(&inbox).unwrap_err().kind(), TransportErrorKind::Refused);
    }
}

#[test]
fn a_link_that_fails_for_a_while_is_missed_until_it_is_back_or_ends() {
    let (inbox, (client, _connection)) = (inbox(), client());
    for link in [1, 2] {
        inbox.fail(link, failure(TransportErrorKind::Unavailable));
    }
    inbox.connected(2, 1, true, 8, client.clone());
    assert!(inbox.failure().is_some(), "the first is still away");
    assert!(take(&inbox).unwrap().is_empty());
    inbox.connected(1, 2, true, 8, client);
    assert!(inbox.failure().is_none());
    inbox.fail(1, failure(TransportErrorKind::Unavailable));
    inbox.ended(1);
    assert!(inbox.failure().is_none(), "nobody waits for it");
}

#[tokio::test]
async fn a_flush_tells_once_of_a_link_that_does_not_come_back() {
    let (inbox, (client, _connection)) = (inbox(), client());
    inbox.connected(1, 1, true, 8, client);
    bring(&inbox, 1, 7);
    settle_all(&inbox);
    inbox.disconnected(1);
    inbox.gone(1);
    inbox.flush("nowhere").await.unwrap_err();
    inbox.flush("nowhere").await.unwrap();
}

#[tokio::test]
async fn a_flush_has_nothing_to_tell_of_a_link_that_ended_in_good_order() {
    let (inbox, (client, _connection)) = (inbox(), client());
    inbox.connected(1, 1, true, 8, client);
    bring(&inbox, 1, 7);
    settle_all(&inbox);
    // As whoever dissolves a session asks before it leaves; a copy that a keeper drops is nobody's settlement.
    let asked = inbox.ask(1, "nowhere").unwrap();
    inbox.answered(1);
    asked.await.unwrap();
    inbox.skip(1, 8);
    inbox.ended(1);
    inbox.flush("nowhere").await.unwrap();
}

#[tokio::test]
async fn a_flush_tells_of_what_was_settled_once_the_next_connection_was_there() {
    let (inbox, (client, _connection)) = (inbox(), client());
    inbox.connected(1, 1, true, 8, client.clone());
    bring(&inbox, 1, 7);
    let in_hand = take(&inbox).unwrap();
    inbox.disconnected(1);
    inbox.connected(1, 2, true, 8, client);
    in_hand.into_iter().for_each(Delivery::ack);
    inbox.flush("nowhere").await.unwrap_err();
    inbox.flush("nowhere").await.unwrap();
}

#[tokio::test]
async fn a_flush_takes_no_word_of_a_later_connection() {
    let (inbox, (client, _connection)) = (inbox(), client());
    for link in [1, 2] {
        inbox.connected(link, link, true, 8, client.clone());
        bring(&inbox, link, 7);
    }
    settle_all(&inbox);
    let flushing = {
        let inbox = inbox.clone();
        tokio::spawn(async move { inbox.flush("nowhere").await })
    };
    tokio::task::yield_now().await;
    // The one that is asked answers; the other has come back meanwhile.
    let asked = if inbox.lock().links[&1].questions.is_empty() { 2 } else { 1 };
    let other = 3 - asked;
    inbox.disconnected(other);
    inbox.connected(other, 3, true, 8, client);
    inbox.answered(asked);
    tokio::task::yield_now().await;
    inbox.answered(other);
    flushing.await.unwrap().unwrap_err();
}

#[tokio::test]
async fn a_task_that_panics_is_told() {
    let inbox = inbox();
    let watched = inbox.watch(1);
    let task = tokio::spawn(async move {
        let _watched = watched;
        panic!("as a fault of this crate would");
    });
    assert!(task.await.is_err());
    assert_eq!(take(&inbox).unwrap_err().kind(), TransportErrorKind::Internal);
    drop(inbox.watch(2));
    assert!(inbox.lock().failures.keys().eq(&[1]), "who ends in good order has not failed");
}

#[test]
fn what_the_broker_repeats_on_a_connection_is_there_once() {
    let (inbox, (client, _connection)) = (inbox(), client());
    inbox.connected(1, 1, true, 8, client);
    bring(&inbox, 1, 7);
    bring(&inbox, 1, 7);
    let came = take(&inbox).unwrap();
    assert_eq!(came.len(), 1);
    came.into_iter().for_each(Delivery::ack);
    bring(&inbox, 1, 7);
    assert_eq!(take(&inbox).unwrap().len(), 1, "the number is free again, and the next message has it");
}

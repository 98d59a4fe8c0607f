//! What one process sees.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a panic is how a test fails")]

mod ending;
#[path = "../support/mod.rs"]
mod support;

use std::collections::VecDeque;
use std::task::Poll;
use std::time::Duration;

use msgkit::envelope::NativeHeaders;
use msgkit::transport::{
    Destination, Health, Incoming, Operate, Outgoing, Publisher, Start, Subscriber, Subscription, Transport,
    TransportErrorKind,
};
use msgkit::{Registry, Timestamp};
use support::{
    DEADLINE, declaration, envelope, group, keyed, message, open, receive, retry, subscription, text, texts,
};

/// A transport in a directory of its own.
fn fresh(options: &str) -> (tempfile::TempDir, msgkit_transport_sqlite::Sqlite) {
    let directory = tempfile::tempdir().unwrap();
    let sqlite = open(&directory.path().join("m.db"), options);
    (directory, sqlite)
}

/// A connection as another program would open it.
async fn sqlite_connection(file: &std::path::Path) -> sqlx::SqliteConnection {
    use sqlx::ConnectOptions as _;
    sqlx::sqlite::SqliteConnectOptions::new().filename(file).connect().await.unwrap()
}

#[tokio::test]
async fn what_is_published_comes_in_order_and_once() {
    let (_directory, sqlite) = fresh("");
    let mut deliveries = sqlite.subscribe(&subscription("g", "a.*")).await.unwrap();
    let batch = (0..300).map(|n| message("a.b", &n.to_string())).collect();
    sqlite.publish(batch).await.unwrap();
    let mut seen = Vec::new();
    while seen.len() < 300 {
        let (mut some, received) = texts(&mut *deliveries, 100).await;
        assert!(received.iter().all(|delivery| delivery.count() == 1));
        received.into_iter().for_each(msgkit::transport::Delivery::ack);
        seen.append(&mut some);
    }
    assert_eq!(seen, (0..300).map(|n| n.to_string()).collect::<Vec<_>>());
    deliveries.flush().await.unwrap();
    let groups = sqlite.groups().await.unwrap();
    assert_eq!((groups[0].waiting, groups[0].in_hand), (0, Some(0)));
}

#[tokio::test]
async fn envelopes_survive_whole() {
    let (_directory, sqlite) = fresh("");
    let mut deliveries = sqlite.subscribe(&subscription("g", ">")).await.unwrap();
    let mut binary = keyed("a.b", "k", "x");
    binary.set_payload(Some(vec![0_u8, 255, 10].into()));
    let mut null = envelope("a.b", "x");
    null.set_payload(None);
    let mut empty = envelope("a.b", "x");
    empty.set_payload(Some(bytes::Bytes::new()));
    let large = envelope("a.b", &"y".repeat(3 << 20));
    let sent = [binary, null, empty, large];
    sqlite.publish(sent.iter().cloned().map(Outgoing::to_topic).collect()).await.unwrap();
    let received = receive(&mut *deliveries, 4).await;
    for (delivery, sent) in received.iter().zip(&sent) {
        assert_eq!(delivery.message().envelope(), Some(sent));
    }
}

#[tokio::test]
async fn each_group_gets_each_message_once_whatever_patterns_match() {
    let (_directory, sqlite) = fresh("");
    let mut both = subscription("one", "a.*");
    both.patterns.push("a.b".parse().unwrap());
    let mut one = sqlite.subscribe(&both).await.unwrap();
    let mut two = sqlite.subscribe(&subscription("two", ">")).await.unwrap();
    let mut alone = sqlite.subscribe(&Subscription::ephemeral(["a.>".parse().unwrap()])).await.unwrap();
    sqlite.publish(vec![message("a.b", "1"), message("c", "2"), message("a.b", "3")]).await.unwrap();
    assert_eq!(texts(&mut *one, 2).await.0, ["1", "3"]);
    assert_eq!(texts(&mut *two, 3).await.0, ["1", "2", "3"]);
    assert_eq!(texts(&mut *alone, 2).await.0, ["1", "3"]);
    assert_eq!(sqlite.unrouted().await.unwrap(), 0);
}

#[tokio::test]
async fn a_declared_group_that_is_away_misses_nothing_even_across_a_restart() {
    let (directory, sqlite) = fresh("");
    sqlite.declare(&[declaration(subscription("g", "a"))]).await.unwrap();
    sqlite.publish(vec![message("a", "1"), message("b", "nobody")]).await.unwrap();
    assert_eq!(sqlite.unrouted().await.unwrap(), 1);
    sqlite.close().await.unwrap();
    let sqlite = open(&directory.path().join("m.db"), "");
    let mut deliveries = sqlite.subscribe(&subscription("g", "a")).await.unwrap();
    assert_eq!(texts(&mut *deliveries, 1).await.0, ["1"]);
}

#[tokio::test]
async fn what_is_given_back_comes_again_at_its_old_place_and_costs_no_start() {
    let (_directory, sqlite) = fresh("");
    let mut deliveries = sqlite.subscribe(&subscription("g", "a")).await.unwrap();
    sqlite.publish((0..4).map(|n| message("a", &n.to_string())).collect()).await.unwrap();
    let mut received = receive(&mut *deliveries, 3).await;
    received.remove(1).ack();
    drop(received);
    deliveries.flush().await.unwrap();
    let (texts, received) = texts(&mut *deliveries, 3).await;
    assert_eq!(texts, ["0", "2", "3"]);
    assert!(received.iter().all(|delivery| delivery.count() == 1));
}

#[tokio::test]
async fn a_subscription_that_goes_gives_everything_back_and_keeps_the_starts_of_what_was_handed_out() {
    let (_directory, sqlite) = fresh("");
    let mut first = sqlite.subscribe(&subscription("g", "a")).await.unwrap();
    sqlite.publish(vec![message("a", "1")]).await.unwrap();
    let mut held = receive(&mut *first, 1).await;
    first.close().await.unwrap();
    let mut second = sqlite.subscribe(&subscription("g", "a")).await.unwrap();
    let again = receive(&mut *second, 1).await;
    assert_eq!(again[0].count(), 2);
    // Too late: it is counted, and the other one's claim stands.
    held.remove(0).ack();
    second.flush().await.unwrap();
    assert_eq!(sqlite.lost_leases(), 1);
    assert_eq!(sqlite.groups().await.unwrap()[0].in_hand, Some(1));
}

#[tokio::test]
async fn a_key_is_in_one_members_hand_at_a_time() {
    let (_directory, sqlite) = fresh("");
    let mut first = sqlite.subscribe(&subscription("g", "a")).await.unwrap();
    let mut second = sqlite.subscribe(&subscription("g", "a")).await.unwrap();
    let batch = [("k", "k1"), ("k", "k2"), ("l", "l1"), ("k", "k3")];
    let batch = batch.map(|(key, text)| Outgoing::to_topic(keyed("a", key, text)));
    sqlite.publish(batch.into()).await.unwrap();
    let (found, mut held) = texts(&mut *first, 1).await;
    assert_eq!(found, ["k1"]);
    // Neither k2 nor k3: their key is in the first one's hand.
    let (found, l1) = texts(&mut *second, 1).await;
    assert_eq!(found, ["l1"]);
    // Given back, k1 comes before k2, to whoever asks.
    held.clear();
    first.flush().await.unwrap();
    let (found, k) = texts(&mut *second, 3).await;
    assert_eq!(found, ["k1", "k2", "k3"]);
    drop((l1, k));
}

#[tokio::test]
async fn prefetch_bounds_what_is_in_hand() {
    let (_directory, sqlite) = fresh("");
    let mut deliveries = sqlite.subscribe(&subscription("g", "a").with_prefetch(2)).await.unwrap();
    sqlite.publish((0..5).map(|n| message("a", &n.to_string())).collect()).await.unwrap();
    let mut held = VecDeque::new();
    while held.len() < 2 {
        deliveries.receive(10, &mut held).await.unwrap();
    }
    assert_eq!(held.len(), 2);
    assert_eq!(sqlite.groups().await.unwrap()[0].in_hand, Some(2));
    {
        let mut blocked = std::pin::pin!(deliveries.receive(10, &mut held));
        assert!(std::future::poll_fn(|cx| Poll::Ready(blocked.as_mut().poll(cx).is_pending())).await);
    }
    held.pop_front().unwrap().ack();
    let (found, _received) = texts(&mut *deliveries, 1).await;
    assert_eq!(found, ["2"]);
}

#[tokio::test]
async fn a_receive_that_is_dropped_loses_nothing() {
    let (_directory, sqlite) = fresh("");
    let mut deliveries = sqlite.subscribe(&subscription("g", "a")).await.unwrap();
    for n in 0..50 {
        let mut into = VecDeque::new();
        let mut receiving = deliveries.receive(1, &mut into);
        // Polled once, then dropped at a place that differs from run to run.
        let publishing = sqlite.publish(vec![message("a", &n.to_string())]);
        tokio::select! {
            biased;
            _ = &mut receiving => {}
            published = publishing => published.unwrap(),
        }
        drop(receiving);
        let (found, received) = if into.is_empty() {
            texts(&mut *deliveries, 1).await
        } else {
            (into.iter().map(text).collect(), into.into())
        };
        assert_eq!(found, [n.to_string()]);
        received.into_iter().for_each(msgkit::transport::Delivery::ack);
    }
}

#[tokio::test]
async fn who_waits_no_more_takes_nothing_from_others() {
    let (_directory, sqlite) = fresh("");
    let mut first = sqlite.subscribe(&subscription("g", "a")).await.unwrap();
    let mut second = sqlite.subscribe(&subscription("g", "a")).await.unwrap();
    {
        let mut into = VecDeque::new();
        let mut receiving = first.receive(1, &mut into);
        assert!(std::future::poll_fn(|cx| Poll::Ready(receiving.as_mut().poll(cx).is_pending())).await);
    }
    sqlite.publish(vec![message("a", "1")]).await.unwrap();
    assert_eq!(texts(&mut *second, 1).await.0, ["1"]);
}

#[tokio::test]
async fn what_was_claimed_and_never_received_goes_back_without_a_start() {
    let (_directory, sqlite) = fresh("");
    let mut first = sqlite.subscribe(&subscription("g", "a")).await.unwrap();
    {
        let mut into = VecDeque::new();
        let mut receiving = first.receive(1, &mut into);
        assert!(std::future::poll_fn(|cx| Poll::Ready(receiving.as_mut().poll(cx).is_pending())).await);
        sqlite.publish(vec![message("a", "1")]).await.unwrap();
        let claimed = async {
            while sqlite.groups().await.unwrap()[0].in_hand != Some(1) {
                tokio::task::yield_now().await;
            }
        };
        tokio::time::timeout(DEADLINE, claimed).await.expect("the message is claimed");
    }
    first.close().await.unwrap();
    let mut second = sqlite.subscribe(&subscription("g", "a")).await.unwrap();
    assert_eq!(receive(&mut *second, 1).await[0].count(), 1);
}

#[tokio::test]
async fn a_group_that_another_process_declares_is_known_at_the_next_publish() {
    let (directory, sqlite) = fresh("");
    sqlite.publish(vec![message("a", "nobody")]).await.unwrap();
    let other = open(&directory.path().join("m.db"), "");
    other.declare(&[declaration(subscription("g", "a"))]).await.unwrap();
    sqlite.publish(vec![message("a", "1")]).await.unwrap();
    let mut deliveries = other.subscribe(&subscription("g", "a")).await.unwrap();
    assert_eq!(texts(&mut *deliveries, 1).await.0, ["1"]);
}

#[tokio::test]
async fn what_another_process_does_is_seen_without_a_sign_in_this_one() {
    // No sign of life is due for twenty minutes: only looking at the file wakes anybody.
    let (directory, sqlite) = fresh("lease = \"1h\"\ncapacity = 1\npublish_timeout = \"1h\"");
    let other =
        open(&directory.path().join("m.db"), "lease = \"1h\"\ncapacity = 1\npublish_timeout = \"1h\"");
    let mut deliveries = sqlite.subscribe(&subscription("g", "a")).await.unwrap();
    let (received, ()) = tokio::join!(texts(&mut *deliveries, 1), async {
        tokio::task::yield_now().await;
        other.publish(vec![message("a", "1")]).await.unwrap();
    });
    assert_eq!(received.0, ["1"]);
    // And the other way round: room that is made here is seen there.
    let publishing = async { other.publish(vec![message("a", "2")]).await.unwrap() };
    let (again, ()) = tokio::join!(
        async {
            tokio::task::yield_now().await;
            received.1.into_iter().for_each(msgkit::transport::Delivery::ack);
            texts(&mut *deliveries, 1).await
        },
        async { tokio::time::timeout(DEADLINE, publishing).await.expect("room is seen") },
    );
    assert_eq!(again.0, ["2"]);
}

#[tokio::test]
async fn retries_come_to_their_group_alone_never_early_and_do_not_block_each_other() {
    let (_directory, sqlite) = fresh("");
    let mut group = sqlite.subscribe(&subscription("g", "a")).await.unwrap();
    let mut other = sqlite.subscribe(&subscription("other", "a")).await.unwrap();
    let late = retry("g", envelope("a", "late"), Duration::from_secs(45));
    let soon = retry("g", envelope("a", "soon"), Duration::from_millis(150));
    let due = soon.envelope.not_before().unwrap();
    sqlite.publish(vec![late, soon]).await.unwrap();
    let destination = Destination::Retry { group: support::group("g"), step: 1, delay: Duration::ZERO };
    let depth = sqlite.depth(&destination).await.unwrap();
    assert!(depth == Some(2) || Timestamp::now() >= due, "{depth:?}");
    let (found, received) = texts(&mut *group, 1).await;
    assert_eq!(found, ["soon"]);
    assert!(Timestamp::now() >= due);
    received.into_iter().for_each(msgkit::transport::Delivery::ack);
    group.flush().await.unwrap();
    assert_eq!(sqlite.depth(&destination).await.unwrap(), Some(1));
    assert_eq!(sqlite.groups().await.unwrap()[0].waiting, 0, "what is not due does not wait with the others");
    sqlite.publish(vec![message("a", "for all")]).await.unwrap();
    assert_eq!(texts(&mut *other, 1).await.0, ["for all"]);
}

#[tokio::test]
async fn what_is_published_for_later_has_its_place_when_it_is_due() {
    let (_directory, sqlite) = fresh("");
    let mut one = sqlite.subscribe(&subscription("one", "a")).await.unwrap();
    let mut two = sqlite.subscribe(&subscription("two", "a")).await.unwrap();
    let mut later = envelope("a", "later");
    let due = Timestamp::now().after(Duration::from_secs(1));
    later.set_not_before(Some(due));
    sqlite.publish(vec![Outgoing::to_topic(later), message("a", "now")]).await.unwrap();
    // Where the machine stood still it was due before it was there.
    let in_time = Timestamp::now() < due;
    for deliveries in [&mut one, &mut two] {
        let (found, received) = texts(&mut **deliveries, 2).await;
        assert!(found == ["now", "later"] || !in_time, "{found:?}");
        received.into_iter().for_each(msgkit::transport::Delivery::ack);
        deliveries.flush().await.unwrap();
    }
    assert!(sqlite.groups().await.unwrap().iter().all(|group| group.waiting + group.delayed == 0));
}

#[tokio::test]
async fn a_dead_letter_is_kept_paged_and_replayed_to_its_group_alone() {
    let (_directory, sqlite) = fresh("");
    let mut deliveries = sqlite.subscribe(&subscription("g", "a")).await.unwrap();
    let mut other = sqlite.subscribe(&subscription("other", "a")).await.unwrap();
    let g = group("g");
    let letters =
        ["1", "2", "3"].map(|text| Outgoing::new(Destination::DeadLetter(g.clone()), envelope("a", text)));
    sqlite.publish(letters.into()).await.unwrap();
    let first = sqlite.dead_letters(&g, None, 2).await.unwrap();
    let rest = sqlite.dead_letters(&g, Some(&first[1].position), 2).await.unwrap();
    assert_eq!((first.len(), rest.len()), (2, 1));
    sqlite.replay(&g, &first[0].position).await.unwrap();
    assert_eq!(texts(&mut *deliveries, 1).await.0, ["1"]);
    sqlite.remove_dead_letter(&g, &first[1].position).await.unwrap();
    for again in [sqlite.replay(&g, &first[0].position).await, sqlite.remove_dead_letter(&g, "17").await] {
        assert_eq!(again.unwrap_err().kind(), TransportErrorKind::Invalid);
    }
    assert_eq!(sqlite.depth(&Destination::DeadLetter(g)).await.unwrap(), Some(1));
    sqlite.publish(vec![message("a", "4")]).await.unwrap();
    assert_eq!(texts(&mut *other, 1).await.0, ["4"]);
}

#[tokio::test]
async fn peek_shows_what_waits_and_takes_nothing() {
    let (_directory, sqlite) = fresh("");
    sqlite.declare(&[declaration(subscription("g", "a"))]).await.unwrap();
    sqlite.publish((0..3).map(|n| message("a", &n.to_string())).collect()).await.unwrap();
    let g = group("g");
    let first = sqlite.peek(&g, None, 2).await.unwrap();
    let rest = sqlite.peek(&g, Some(&first[1].position), 9).await.unwrap();
    let ids: Vec<_> = first.iter().chain(&rest).filter_map(|peeked| peeked.message.envelope()).collect();
    assert_eq!(ids.iter().map(|e| e.payload()).collect::<Vec<_>>(), [b"\"0\"", b"\"1\"", b"\"2\""]);
    assert_eq!(sqlite.groups().await.unwrap()[0].waiting, 3);
    assert!(sqlite.peek(&group("unknown"), None, 1).await.is_err());
}

#[tokio::test]
async fn a_publisher_waits_in_front_of_a_full_group_then_is_told() {
    let (_directory, sqlite) = fresh("capacity = 3\npublish_timeout = \"100ms\"");
    let mut deliveries = sqlite.subscribe(&subscription("g", "a")).await.unwrap();
    let error = sqlite.publish((0..5).map(|n| message("a", &n.to_string())).collect()).await.unwrap_err();
    assert_eq!(error.kind(), TransportErrorKind::Full);
    assert!(error.is_temporary());
    let rejected: Vec<_> = error.rejected().iter().map(|r| r.message.envelope.payload().to_vec()).collect();
    assert_eq!(rejected, [b"\"3\"", b"\"4\""]);
    assert!(error.rejected()[0].error.to_string().contains("`g`"), "{error:?}");
    // What follows from a message in hand may use the reserve, copies go in whatever is there.
    let mut caused = envelope("a", "caused");
    caused.set_cause(&envelope("b", "cause"));
    sqlite
        .publish(vec![Outgoing::to_topic(caused), retry("g", envelope("a", "copy"), Duration::ZERO)])
        .await
        .unwrap();
    let (found, received) = texts(&mut *deliveries, 5).await;
    assert_eq!(found, ["0", "1", "2", "caused", "copy"]);
    // Room is made while somebody waits for it.
    let sqlite = &sqlite;
    let waiting = sqlite.publish(vec![message("a", "waited")]);
    let acking = async { received.into_iter().for_each(msgkit::transport::Delivery::ack) };
    tokio::join!(async { waiting.await.unwrap() }, acking);
    assert_eq!(texts(&mut *deliveries, 1).await.0, ["waited"]);
}

#[tokio::test]
async fn a_message_that_is_too_large_is_refused_and_the_others_are_taken() {
    let (_directory, sqlite) = fresh("max_payload = 10");
    let mut deliveries = sqlite.subscribe(&subscription("g", "a")).await.unwrap();
    let error =
        sqlite.publish(vec![message("a", "longer than ten"), message("a", "short")]).await.unwrap_err();
    assert_eq!((error.rejected().len(), error.kind()), (1, TransportErrorKind::Invalid));
    assert!(error.rejected()[0].error.to_string().contains("max_payload"));
    assert_eq!(texts(&mut *deliveries, 1).await.0, ["short"]);
}

#[tokio::test]
async fn a_new_group_starts_where_it_asks_to() {
    let (_directory, sqlite) = fresh("retain = \"1h\"");
    assert!(sqlite.capabilities().start.earliest && sqlite.capabilities().start.time);
    let mut reader = sqlite.subscribe(&subscription("reader", "a")).await.unwrap();
    sqlite.publish(vec![message("a", "1"), message("b", "other")]).await.unwrap();
    // Handled, and kept all the same.
    receive(&mut *reader, 1).await.remove(0).ack();
    reader.flush().await.unwrap();
    let middle = Timestamp::now();
    sqlite.publish(vec![message("a", "2")]).await.unwrap();
    for (name, start, expected) in [
        ("earliest", Start::Earliest, vec!["1", "2"]),
        ("time", Start::At(middle), vec!["2"]),
        ("latest", Start::Latest, vec![]),
    ] {
        let mut new = sqlite.subscribe(&subscription(name, "a").with_start(start)).await.unwrap();
        let (found, _received) = texts(&mut *new, expected.len()).await;
        assert_eq!(found, expected, "{name}");
        assert_eq!(sqlite.peek(&group(name), None, 9).await.unwrap().len(), 0, "{name}");
    }
}

#[tokio::test]
async fn a_new_group_finds_a_message_that_became_due_while_nobody_was_there() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("m.db");
    let sqlite = open(&file, "retain = \"1h\"");
    sqlite.declare(&[declaration(subscription("old", "a"))]).await.unwrap();
    let mut later = envelope("a", "for later");
    let due = Timestamp::now().after(Duration::from_millis(300));
    later.set_not_before(Some(due));
    sqlite.publish(vec![Outgoing::to_topic(later)]).await.unwrap();
    sqlite.close().await.unwrap();
    tokio::time::sleep(Duration::from_millis(400)).await;
    // The first turn of this process makes the group and wakes the message.
    let sqlite = open(&file, "retain = \"1h\"");
    let earliest = subscription("new", "a").with_start(Start::Earliest);
    let mut new = tokio::time::timeout(DEADLINE, sqlite.subscribe(&earliest)).await.unwrap().unwrap();
    let mut old = sqlite.subscribe(&subscription("old", "a")).await.unwrap();
    for reader in [&mut new, &mut old] {
        let (found, received) = texts(&mut **reader, 1).await;
        assert_eq!(found, ["for later"]);
        received.into_iter().for_each(msgkit::transport::Delivery::ack);
        reader.flush().await.unwrap();
    }
    sqlite.publish(vec![message("a", "next")]).await.unwrap();
    assert_eq!(texts(&mut *new, 1).await.0, ["next"]);
}

#[tokio::test]
async fn what_cannot_be_done_is_refused() {
    let (_directory, sqlite) = fresh("on_unrouted = \"error\"");
    let earliest = subscription("g", "a").with_start(Start::Earliest);
    let error = sqlite.subscribe(&earliest).await.unwrap_err();
    assert_eq!(error.kind(), TransportErrorKind::Unsupported);
    assert!(error.to_string().contains("`retain`"));
    let error = sqlite.publish(vec![message("a", "1")]).await.unwrap_err();
    assert_eq!(error.kind(), TransportErrorKind::Unrouted);
    let copy = retry("unknown", envelope("a", "x"), Duration::ZERO);
    assert_eq!(sqlite.publish(vec![copy]).await.unwrap_err().kind(), TransportErrorKind::Invalid);
}

#[tokio::test]
async fn foreign_bytes_come_untouched() {
    let (_directory, sqlite) = fresh("");
    let mut deliveries = sqlite.subscribe(&subscription("g", "a.>")).await.unwrap();
    let mut headers = NativeHeaders::new();
    headers.push("x", bytes::Bytes::from_static(&[255]));
    sqlite.publish_foreign(&"a.b".parse().unwrap(), b"{\"t\": 1 }", &headers).await.unwrap();
    let received = receive(&mut *deliveries, 1).await;
    let Incoming::Malformed(malformed) = received[0].message() else { panic!("no envelope was sent") };
    assert_eq!(malformed.payload.as_deref(), Some(&b"{\"t\": 1 }"[..]));
    assert_eq!((malformed.topic.as_str(), &malformed.native), ("a.b", &headers));
}

#[tokio::test]
async fn an_ephemeral_subscription_takes_its_queue_with_it() {
    let (directory, sqlite) = fresh("");
    let alone = sqlite.subscribe(&Subscription::ephemeral(["a".parse().unwrap()])).await.unwrap();
    sqlite.publish(vec![message("a", "1")]).await.unwrap();
    drop(alone);
    sqlite.close().await.unwrap();
    let mut connection = sqlite_connection(&directory.path().join("m.db")).await;
    for table in ["message", "queue", "group", "member", "process"] {
        let count: i64 =
            sqlx::query_scalar(sqlx::AssertSqlSafe(format!("SELECT count(*) FROM msgkit_{table}")))
                .fetch_one(&mut connection)
                .await
                .unwrap();
        assert_eq!(count, 0, "{table}");
    }
}

#[tokio::test]
async fn a_message_goes_when_its_last_group_is_done_with_it() {
    let (directory, sqlite) = fresh("");
    let mut one = sqlite.subscribe(&subscription("one", "a")).await.unwrap();
    let mut two = sqlite.subscribe(&subscription("two", "a")).await.unwrap();
    sqlite.publish(vec![message("a", "1")]).await.unwrap();
    let mut connection = sqlite_connection(&directory.path().join("m.db")).await;
    for (deliveries, left) in [(&mut one, 1), (&mut two, 0)] {
        receive(&mut **deliveries, 1).await.remove(0).ack();
        deliveries.flush().await.unwrap();
        let count: i64 = sqlx::query_scalar("SELECT count(*) FROM msgkit_message")
            .fetch_one(&mut connection)
            .await
            .unwrap();
        assert_eq!(count, left);
    }
}

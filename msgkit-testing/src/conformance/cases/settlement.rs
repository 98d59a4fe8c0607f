//! The duty to settle: what is settled is gone, everything else comes again.

use std::collections::{BTreeSet, VecDeque};
use std::time::Duration;

use msgkit::transport::Delivery;

use super::case;
use crate::conformance::bench::{Bench, numbered, subscription, text_of};
use crate::conformance::{Case, Fault, Proof};

const CHAPTER: &str = "Settlement (promise 1)";

pub(super) const CASES: &[Case] = &[
    case!(
        CHAPTER,
        what_is_settled_does_not_come_again,
        "What was settled and flushed never comes again, on any connection"
    ),
    case!(
        CHAPTER,
        a_delivery_that_is_dropped_comes_back,
        "A delivery that is dropped comes back at its old place, and costs no start"
    ),
    case!(
        CHAPTER,
        what_is_given_back_keeps_its_order,
        "Many deliveries that are given back come again in their order"
    ),
    case!(
        CHAPTER,
        settling_out_of_order_loses_nothing,
        "Whatever order handlers finish in, no unsettled message is lost"
    ),
    case!(
        CHAPTER,
        what_is_in_hand_when_a_subscription_ends_comes_again,
        "What is in hand when a subscription ends without a word comes again"
    ),
    case!(
        CHAPTER,
        what_is_in_hand_when_a_connection_breaks_comes_again,
        "What is in hand when a connection breaks comes again, its start counted"
    ),
    case!(
        CHAPTER,
        a_settlement_that_comes_too_late_is_harmless,
        "A settlement after the connection broke is harmless: the message comes again"
    ),
    case!(
        CHAPTER,
        flush_waits_for_the_brokers_word,
        "After a flush, what was settled stays settled though the connection breaks"
    ),
    case!(
        CHAPTER,
        prefetch_bounds_what_is_in_hand,
        "No more messages are in hand unsettled than the subscription says"
    ),
    case!(
        CHAPTER,
        receive_is_cancel_safe,
        "A receive that is dropped at any time loses nothing and doubles nothing"
    ),
    case!(
        CHAPTER,
        stop_fetches_no_more,
        "After stop nothing more is fetched, and what was fetched can be settled"
    ),
    case!(
        CHAPTER,
        settling_from_another_task_works,
        "A delivery can be settled from any task, after its subscription went on"
    ),
];

async fn what_is_settled_does_not_come_again(bench: &Bench<'_>) -> Proof {
    let (transport, _) = bench.start().await;
    let mut reader = bench.group(&*transport, "g", "a.b").await;
    bench.publish(&*transport, "a.b", &["1", "2", "3"]).await;
    assert_eq!(reader.texts(3).await, ["1", "2", "3"]);
    reader.flush().await;
    reader.close().await;
    let mut again = bench.group(&*bench.connect().await, "g", "a.b").await;
    again.nothing("all was settled").await;
    bench.publish(&*transport, "a.b", &["4"]).await;
    assert_eq!(again.texts(1).await, ["4"]);
    Proof::Proven
}

async fn a_delivery_that_is_dropped_comes_back(bench: &Bench<'_>) -> Proof {
    let (transport, can) = bench.start().await;
    let mut reader = bench.reader(&*transport, &subscription("g", "a.b").with_prefetch(2)).await;
    bench.publish(&*transport, "a.b", &["1", "2", "3"]).await;
    let mut held = reader.take(2).await;
    assert_eq!(held.iter().map(text_of).collect::<Vec<_>>(), ["1", "2"]);
    let starts = held[0].count();
    drop(held.remove(0));
    if !can.nack {
        return Proof::absent("no nack: a dropped delivery comes again on the next connection");
    }
    let again = reader.next().await;
    assert_eq!(text_of(&again), "1", "it has its old place, before what was not handed out");
    if can.delivery_count {
        assert_eq!(again.count(), starts, "giving back is no start");
    }
    again.ack();
    held.remove(0).ack();
    assert_eq!(reader.texts(1).await, ["3"]);
    reader.nothing("each came until it was settled, and no more").await;
    Proof::Proven
}

async fn what_is_given_back_keeps_its_order(bench: &Bench<'_>) -> Proof {
    let (transport, can) = bench.start().await;
    if !can.nack {
        return Proof::absent("no nack: what is dropped comes again on the next connection");
    }
    let mut reader = bench.reader(&*transport, &subscription("g", "a.b").with_prefetch(16)).await;
    let sent = numbered("m", 20);
    let batch = sent.iter().map(|text| msgkit::transport::Outgoing::to_topic(bench.keyed("a.b", "k", text)));
    bench.publish_all(&*transport, batch.collect()).await;
    for round in 0..3 {
        let mut held = reader.take(10).await;
        assert_eq!(held.iter().map(text_of).collect::<Vec<_>>(), sent[..10], "round {round}");
        // Given back in the order in which a lane drops what it has: first in, first out, then from the other end.
        if round == 1 {
            held.reverse();
        }
        for delivery in held {
            delivery.give_back();
        }
    }
    assert_eq!(reader.texts(20).await, sent);
    Proof::Proven
}

async fn settling_out_of_order_loses_nothing(bench: &Bench<'_>) -> Proof {
    let (transport, _) = bench.start().await;
    let mut reader = bench.group(&*transport, "g", "a.b").await;
    let sent = numbered("m", 10);
    let texts: Vec<&str> = sent.iter().map(String::as_str).collect();
    bench.publish(&*transport, "a.b", &texts).await;
    let mut held: Vec<Option<Delivery>> = reader.take(10).await.into_iter().map(Some).collect();
    for at in [9, 0, 4, 2, 8] {
        if let Some(delivery) = held[at].take() {
            delivery.ack();
        }
    }
    reader.flush().await;
    drop(reader);
    drop(held);
    let mut again = bench.group(&*bench.connect().await, "g", "a.b").await;
    let unsettled: BTreeSet<String> = [1, 3, 5, 6, 7].map(|at| sent[at].clone()).into();
    let mut came = Vec::new();
    while !unsettled.iter().all(|text| came.contains(text)) {
        came.extend(again.texts(1).await);
    }
    assert!(!came.contains(&sent[0]), "the first one was settled with nothing unsettled before it");
    let unique: Vec<&String> = came.iter().filter(|text| unsettled.contains(*text)).collect();
    assert_eq!(unique, unsettled.iter().collect::<Vec<_>>(), "in their order");
    Proof::Proven
}

async fn what_is_in_hand_when_a_subscription_ends_comes_again(bench: &Bench<'_>) -> Proof {
    let (transport, _) = bench.start().await;
    let mut reader = bench.group(&*transport, "g", "a.b").await;
    bench.publish(&*transport, "a.b", &["1", "2"]).await;
    let held = reader.take(2).await;
    drop(reader);
    drop(held);
    let mut again = bench.group(&*bench.connect().await, "g", "a.b").await;
    assert_eq!(again.texts(2).await, ["1", "2"]);
    Proof::Proven
}

async fn what_is_in_hand_when_a_connection_breaks_comes_again(bench: &Bench<'_>) -> Proof {
    let (transport, can) = bench.start().await;
    let mut reader = bench.group(&*transport, "g", "a.b").await;
    bench.publish(&*transport, "a.b", &["1", "2"]).await;
    let held = reader.take(2).await;
    let starts: Vec<u32> = held.iter().map(Delivery::count).collect();
    if let Fault::Impossible(why) = bench.broker().await.disconnect().await {
        return Proof::not_proven(why);
    }
    // The same subscription repairs itself.
    let again = reader.take(2).await;
    assert_eq!(again.iter().map(text_of).collect::<Vec<_>>(), ["1", "2"]);
    if can.delivery_count {
        let more: Vec<u32> = again.iter().map(Delivery::count).collect();
        assert!(more.iter().zip(&starts).all(|(more, before)| more > before), "{starts:?} → {more:?}");
    }
    drop(held);
    again.into_iter().for_each(Delivery::ack);
    reader.flush().await;
    reader.nothing("all is settled now").await;
    if can.delivery_count {
        Proof::Proven
    } else {
        Proof::absent("starts are not counted: a message that kills the process is not bounded")
    }
}

async fn a_settlement_that_comes_too_late_is_harmless(bench: &Bench<'_>) -> Proof {
    let (transport, _) = bench.start().await;
    let mut reader = bench.group(&*transport, "g", "a.b").await;
    bench.publish(&*transport, "a.b", &["1", "2", "3"]).await;
    let held = reader.take(3).await;
    if let Fault::Impossible(why) = bench.broker().await.disconnect().await {
        return Proof::not_proven(why);
    }
    let mut again = reader.take(1).await;
    assert_eq!(text_of(&again[0]), "1");
    // The settlements of the lost connection: neither may settle what was handed out anew, nor what waits.
    held.into_iter().for_each(Delivery::ack);
    let _ = reader.inner().flush().await;
    again.extend(reader.take(2).await);
    assert_eq!(again.iter().map(text_of).collect::<Vec<_>>(), ["1", "2", "3"]);
    drop(again);
    let mut third = reader.take(3).await;
    assert_eq!(third.iter().map(text_of).collect::<Vec<_>>(), ["1", "2", "3"], "they are unsettled still");
    third.drain(..).for_each(Delivery::ack);
    reader.flush().await;
    reader.nothing("all is settled now").await;
    Proof::Proven
}

async fn flush_waits_for_the_brokers_word(bench: &Bench<'_>) -> Proof {
    let (transport, _) = bench.start().await;
    let mut reader = bench.group(&*transport, "g", "a.b").await;
    bench.publish(&*transport, "a.b", &["1", "2", "3"]).await;
    let mut held = reader.take(3).await;
    held.remove(0).ack();
    held.remove(0).ack();
    reader.flush().await;
    if let Fault::Impossible(why) = bench.broker().await.disconnect().await {
        return Proof::not_proven(why);
    }
    assert_eq!(reader.texts(1).await, ["3"], "the first two are settled for good");
    reader.nothing("the first two are settled for good").await;
    drop(held);
    Proof::Proven
}

async fn prefetch_bounds_what_is_in_hand(bench: &Bench<'_>) -> Proof {
    let (transport, _) = bench.start().await;
    let mut reader = bench.reader(&*transport, &subscription("g", "a.b").with_prefetch(3)).await;
    bench.publish(&*transport, "a.b", &["1", "2", "3", "4", "5"]).await;
    let mut held = VecDeque::new();
    while held.len() < 3 {
        held.extend(reader.take(1).await);
    }
    reader.nothing("three are in hand, as many as may be").await;
    if let Some(first) = held.pop_front() {
        first.ack();
    }
    let next = reader.next().await;
    assert_eq!(text_of(&next), "4", "a settlement makes room for one");
    reader.nothing("three are in hand again").await;
    if bench.connect().await.capabilities().nack {
        drop(next);
        assert_eq!(text_of(&reader.next().await), "4", "giving back makes room too");
    }
    Proof::Proven
}

async fn receive_is_cancel_safe(bench: &Bench<'_>) -> Proof {
    let (transport, _) = bench.start().await;
    let mut reader = bench.reader(&*transport, &subscription("g", "a.b").with_prefetch(8)).await;
    let sent = numbered("m", 100);
    let mut came = Vec::new();
    let mut received = VecDeque::new();
    let mut give_up = 0_u64;
    let mut texts = sent.iter();
    loop {
        if let Some(text) = texts.next() {
            bench.publish(&*transport, "a.b", &[text]).await;
        }
        give_up = (give_up * 7 + 3) % 11;
        // Dropped after a few polls, or after a moment: at whatever point it has reached.
        let receiving = reader.inner().receive(3, &mut received);
        let _ = match give_up {
            0..4 => futures_util::future::FutureExt::now_or_never(receiving).is_some(),
            _ => tokio::time::timeout(Duration::from_millis(give_up), receiving).await.is_ok(),
        };
        for delivery in received.drain(..) {
            came.push(text_of(&delivery));
            delivery.ack();
        }
        if texts.len() == 0 {
            break;
        }
    }
    while came.len() < sent.len() {
        came.extend(reader.texts(1).await);
    }
    assert_eq!(came, sent);
    // The same while much waits: what an abandoned receive had begun to fetch must not be overtaken by the next one.
    let backlog = numbered("b", 100);
    let texts: Vec<&str> = backlog.iter().map(String::as_str).collect();
    bench.publish(&*transport, "a.b", &texts).await;
    let mut came = Vec::new();
    while came.len() < backlog.len() {
        for wait in 0..4 {
            let receiving = reader.inner().receive(3, &mut received);
            let _ = tokio::time::timeout(Duration::from_micros(wait * 100), receiving).await;
        }
        came.extend(received.drain(..).map(|delivery| {
            let text = text_of(&delivery);
            delivery.ack();
            text
        }));
        if came.len() < backlog.len() {
            came.extend(reader.texts(1).await);
        }
    }
    assert_eq!(came, backlog);
    reader.nothing("each came once").await;
    Proof::Proven
}

async fn stop_fetches_no_more(bench: &Bench<'_>) -> Proof {
    let (transport, _) = bench.start().await;
    let mut reader = bench.group(&*transport, "g", "a.b").await;
    bench.publish(&*transport, "a.b", &["1"]).await;
    let held = reader.next().await;
    reader.inner().stop();
    bench.publish(&*transport, "a.b", &["2"]).await;
    let mut more = VecDeque::new();
    let received = bench.soon("receive returns after stop", reader.inner().receive(8, &mut more)).await;
    assert!(received.is_ok(), "{received:?}");
    // What had been fetched before may still come; the second one was not.
    assert!(more.iter().all(|delivery| text_of(delivery) != "2"), "nothing is fetched after stop: {more:?}");
    held.ack();
    reader.flush().await;
    reader.close().await;
    let mut again = bench.group(&*bench.connect().await, "g", "a.b").await;
    if again_claims_backlog(bench).await {
        assert_eq!(again.texts(1).await, ["2"], "what was in hand could be settled, the rest is still there");
    }
    again.nothing("nothing else is left").await;
    Proof::Proven
}

async fn again_claims_backlog(bench: &Bench<'_>) -> bool {
    bench.connect().await.capabilities().backlog
}

async fn settling_from_another_task_works(bench: &Bench<'_>) -> Proof {
    let (transport, _) = bench.start().await;
    let mut reader = bench.reader(&*transport, &subscription("g", "a.b").with_prefetch(1)).await;
    let sent = numbered("m", 20);
    let texts: Vec<&str> = sent.iter().map(String::as_str).collect();
    bench.publish(&*transport, "a.b", &texts).await;
    let mut came = Vec::new();
    for _ in 0..sent.len() {
        // Only one may be in hand, so the next one comes when the other task has settled this one.
        let delivery = reader.next().await;
        came.push(text_of(&delivery));
        tokio::spawn(async move {
            tokio::task::yield_now().await;
            delivery.ack();
        });
    }
    assert_eq!(came, sent);
    Proof::Proven
}

//! Order by key.

use std::collections::HashMap;

use msgkit::transport::{Delivery, KeyOrder, Outgoing};

use super::case;
use crate::conformance::bench::{Bench, Reader, subscription, text_of};
use crate::conformance::{Case, Proof};

const CHAPTER: &str = "Order";

pub(super) const CASES: &[Case] = &[
    case!(
        CHAPTER,
        one_member_gets_each_key_in_order,
        "One member gets the messages of each key in order, also after giving some back"
    ),
    case!(
        CHAPTER,
        a_key_is_in_one_members_hand,
        "While one member holds a message of a key, no other gets the next one"
    ),
    case!(
        CHAPTER,
        a_key_moves_on_when_its_member_leaves,
        "A key whose member leaves goes on, in order, with another"
    ),
];

fn messages(bench: &Bench<'_>, keys: &[&str], each: usize) -> Vec<Outgoing> {
    (0..each)
        .flat_map(|n| keys.iter().map(move |key| (key, n)))
        .map(|(key, n)| Outgoing::to_topic(bench.keyed("a.b", key, &format!("{key}-{n:03}"))))
        .collect()
}

fn key_of(delivery: &Delivery) -> String {
    delivery.message().key().unwrap_or_default().to_owned()
}

async fn one_member_gets_each_key_in_order(bench: &Bench<'_>) -> Proof {
    let (transport, can) = bench.start().await;
    if can.key_order == KeyOrder::None {
        return Proof::absent("no order by key");
    }
    let mut reader = bench.reader(&*transport, &subscription("g", "a.b").with_prefetch(32)).await;
    let keys = ["k1", "k2", "k3"];
    bench.publish_all(&*transport, messages(bench, &keys, 20)).await;
    if can.nack {
        drop(reader.take(17).await);
    }
    let mut seen: HashMap<String, Vec<String>> = HashMap::new();
    // In portions that every broker lets be in hand: some have a window of their own that no subscription can widen.
    for _ in 0..4 {
        for delivery in reader.take(15).await {
            seen.entry(key_of(&delivery)).or_default().push(text_of(&delivery));
            delivery.ack();
        }
    }
    for key in keys {
        let expected: Vec<String> = (0..20).map(|n| format!("{key}-{n:03}")).collect();
        assert_eq!(seen.get(key), Some(&expected), "{key}");
    }
    Proof::Proven
}

async fn a_key_is_in_one_members_hand(bench: &Bench<'_>) -> Proof {
    let (transport, can) = bench.start().await;
    if can.key_order != KeyOrder::Group {
        return Proof::absent("two members of a group may hold messages of one key at once");
    }
    let few = subscription("g", "a.b").with_prefetch(2);
    let mut first = bench.reader(&*transport, &few).await;
    let mut second = bench.reader(&*bench.connect().await, &few).await;
    let one = |text: &str| Outgoing::to_topic(bench.keyed("a.b", "k", text));
    bench.publish_all(&*transport, vec![one("1"), one("2"), one("3"), one("4"), one("5")]).await;
    // Whoever is first holds the key.
    let (holder, other, held) = either(&mut first, &mut second).await;
    assert_eq!(text_of(&held), "1");
    other.nothing("the other member holds a message of this key").await;
    held.ack();
    let next = holder.next().await;
    assert_eq!(text_of(&next), "2");
    next.ack();
    assert_eq!(holder.share(other, 3).await, ["3", "4", "5"]);
    Proof::Proven
}

/// The reader that gets the first message, the other one, and the message.
async fn either<'a>(
    first: &'a mut Reader,
    second: &'a mut Reader,
) -> (&'a mut Reader, &'a mut Reader, Delivery) {
    let got = {
        let (one, two) = (first.next(), second.next());
        let (one, two) = (std::pin::pin!(one), std::pin::pin!(two));
        match futures_util::future::select(one, two).await {
            futures_util::future::Either::Left((delivery, _)) => Ok(delivery),
            futures_util::future::Either::Right((delivery, _)) => Err(delivery),
        }
    };
    match got {
        Ok(delivery) => (first, second, delivery),
        Err(delivery) => (second, first, delivery),
    }
}

async fn a_key_moves_on_when_its_member_leaves(bench: &Bench<'_>) -> Proof {
    let (transport, can) = bench.start().await;
    if can.key_order != KeyOrder::Group {
        return Proof::absent("two members of a group may hold messages of one key at once");
    }
    let few = subscription("g", "a.b").with_prefetch(2);
    let mut first = bench.reader(&*transport, &few).await;
    let one = |text: &str| Outgoing::to_topic(bench.keyed("a.b", "k", text));
    bench.publish_all(&*transport, vec![one("1"), one("2"), one("3")]).await;
    let held = first.take(2).await;
    let mut second = bench.reader(&*bench.connect().await, &few).await;
    second.nothing("the first member holds messages of this key").await;
    drop(first);
    drop(held);
    assert_eq!(second.texts(3).await, ["1", "2", "3"]);
    Proof::Proven
}

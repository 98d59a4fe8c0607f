//! Who gets a message.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use msgkit::transport::{Start, Subscription, Transport, TransportErrorKind};

use super::case;
use crate::conformance::bench::{Bench, connect, numbered, pattern_of, subscription, text_of};
use crate::conformance::{Case, Proof};

const CHAPTER: &str = "Groups and subscriptions";

pub(super) const CASES: &[Case] = &[
    case!(
        CHAPTER,
        members_of_a_group_compete,
        "Members of one group share its messages; each message goes to one of them"
    ),
    case!(CHAPTER, groups_are_independent, "Each group gets every message, whatever others settle"),
    case!(
        CHAPTER,
        a_member_that_leaves_hands_over,
        "A member that leaves hands what it has not settled to the others"
    ),
    case!(
        CHAPTER,
        an_ephemeral_subscription_gets_everything_from_now_on,
        "An ephemeral subscription gets everything from now on, each instance for itself"
    ),
    case!(
        CHAPTER,
        an_ephemeral_subscription_leaves_nothing_behind,
        "An ephemeral subscription that ends leaves nothing behind"
    ),
    case!(
        CHAPTER,
        a_new_group_begins_with_what_comes,
        "A new group begins with what is published after its declaration"
    ),
    case!(
        CHAPTER,
        a_new_group_begins_at_the_earliest,
        "A new group can begin with the oldest message that is kept"
    ),
    case!(CHAPTER, a_new_group_begins_at_a_time, "A new group can begin at a point in time"),
    case!(
        CHAPTER,
        a_group_that_exists_goes_on_where_it_was,
        "A group that exists goes on where it was, whatever start it asks for"
    ),
    case!(CHAPTER, declaring_again_changes_nothing, "Declaring again loses nothing and doubles nothing"),
    case!(
        CHAPTER,
        a_group_can_take_more,
        "A group that is declared with more patterns keeps its backlog and takes more at once"
    ),
];

async fn members_of_a_group_compete(bench: &Bench<'_>) -> Proof {
    let (transport, can) = bench.start().await;
    if !can.groups {
        return refused(bench, &transport, &subscription("g", "a.b"), "groups").await;
    }
    let few = subscription("g", "a.b").with_prefetch(4);
    let mut first = bench.reader(&*transport, &few).await;
    let mut second = bench.reader(&*bench.connect().await, &few).await;
    let sent = numbered("m", 60);
    let batch = sent.iter().map(|text| msgkit::transport::Outgoing::to_topic(bench.keyed("a.b", text, text)));
    bench.publish_all(&*transport, batch.collect()).await;
    // Each holds as much as it may, so the other must get the rest.
    let (one, two) = (first.take(1).await, second.take(1).await);
    let mut came: Vec<String> = one.iter().chain(&two).map(text_of).collect();
    one.into_iter().chain(two).for_each(msgkit::transport::Delivery::ack);
    came.extend(first.share(&mut second, sent.len() - came.len()).await);
    came.sort();
    assert_eq!(came, sent, "every message goes to one member, once");
    Proof::Proven
}

async fn groups_are_independent(bench: &Bench<'_>) -> Proof {
    let (transport, can) = bench.start().await;
    if !can.groups {
        return refused(bench, &transport, &subscription("g", "a.b"), "groups").await;
    }
    let mut first = bench.group(&*transport, "first", "a.b").await;
    let mut second = bench.group(&*transport, "second", "a.>").await;
    bench.publish(&*transport, "a.b", &["1", "2", "3"]).await;
    assert_eq!(first.texts(3).await, ["1", "2", "3"]);
    first.flush().await;
    first.close().await;
    assert_eq!(second.texts(3).await, ["1", "2", "3"], "what one group settles stays for the other");
    second.nothing("nothing comes twice").await;
    Proof::Proven
}

async fn a_member_that_leaves_hands_over(bench: &Bench<'_>) -> Proof {
    let (transport, can) = bench.start().await;
    if !can.groups {
        return refused(bench, &transport, &subscription("g", "a.b"), "groups").await;
    }
    let mut first = bench.group(&*transport, "g", "a.b").await;
    bench.publish(&*transport, "a.b", &["1", "2", "3"]).await;
    let mut held = first.take(3).await;
    held.remove(0).ack();
    first.flush().await;
    drop(held);
    first.close().await;
    let mut second = bench.group(&*bench.connect().await, "g", "a.b").await;
    assert_eq!(second.texts(2).await, ["2", "3"]);
    second.nothing("what the first has settled does not come again").await;
    Proof::Proven
}

async fn an_ephemeral_subscription_gets_everything_from_now_on(bench: &Bench<'_>) -> Proof {
    let (transport, can) = bench.start().await;
    let wanted = Subscription::ephemeral([pattern_of("a.b")]);
    if !can.ephemeral {
        return refused(bench, &transport, &wanted, "ephemeral subscriptions").await;
    }
    bench.publish(&*transport, "a.b", &["before"]).await;
    let mut first = bench.reader(&*transport, &wanted).await;
    let mut second = bench.reader(&*bench.connect().await, &wanted).await;
    bench.publish(&*transport, "a.b", &["1", "2"]).await;
    assert_eq!(first.texts(2).await, ["1", "2"]);
    assert_eq!(second.texts(2).await, ["1", "2"], "each instance gets everything");
    first.nothing("nothing of before, nothing twice").await;
    Proof::Proven
}

async fn an_ephemeral_subscription_leaves_nothing_behind(bench: &Bench<'_>) -> Proof {
    let (transport, can) = bench.start().await;
    let wanted = Subscription::ephemeral([pattern_of("a.b")]);
    if !can.ephemeral {
        return refused(bench, &transport, &wanted, "ephemeral subscriptions").await;
    }
    let mut reader = bench.reader(&*transport, &wanted).await;
    bench.publish(&*transport, "a.b", &["1", "2"]).await;
    let held = reader.take(1).await;
    reader.close().await;
    drop(held);
    bench.publish(&*transport, "a.b", &["3"]).await;
    let mut again = bench.reader(&*transport, &wanted).await;
    again.nothing("the earlier subscription is gone with all that it had").await;
    bench.publish(&*transport, "a.b", &["4"]).await;
    assert_eq!(again.texts(1).await, ["4"]);
    Proof::Proven
}

async fn a_new_group_begins_with_what_comes(bench: &Bench<'_>) -> Proof {
    let mut setup = bench.setup();
    setup.retains = true;
    let broker = bench.broker_with(&setup).await;
    let transport = connect(&*broker).await;
    bench.publish(&*transport, "a.b", &["before"]).await;
    let mut reader = bench.group(&*transport, "g", "a.b").await;
    bench.publish(&*transport, "a.b", &["after"]).await;
    assert_eq!(reader.texts(1).await, ["after"]);
    Proof::Proven
}

/// A connection to a broker that keeps messages, and one to a broker that was not asked to.
async fn keeping_and_plain(bench: &Bench<'_>) -> [Arc<dyn Transport>; 2] {
    let mut setup = bench.setup();
    setup.retains = true;
    [connect(&*bench.broker_with(&setup).await).await, bench.connect().await]
}

async fn a_new_group_begins_at_the_earliest(bench: &Bench<'_>) -> Proof {
    let wanted = subscription("new", "a.b").with_start(Start::Earliest);
    let mut absent = None;
    let mut proven = false;
    // Claimed or not, with this option or without it: it works, or it is refused.
    for transport in keeping_and_plain(bench).await {
        if !transport.capabilities().start.earliest {
            absent = Some(refused(bench, &transport, &wanted, "a start at the earliest message").await);
            continue;
        }
        let mut old = bench.group(&*transport, "old", "a.b").await;
        bench.publish(&*transport, "a.b", &["1", "2"]).await;
        bench.publish(&*transport, "a.c", &["other"]).await;
        assert_eq!(old.texts(2).await, ["1", "2"]);
        old.flush().await;
        let mut new = bench.reader(&*transport, &wanted).await;
        bench.publish(&*transport, "a.b", &["3"]).await;
        assert_eq!(new.texts(3).await, ["1", "2", "3"], "the oldest first, settled by others or not");
        proven = true;
    }
    absent.filter(|_| !proven).unwrap_or(Proof::Proven)
}

async fn a_new_group_begins_at_a_time(bench: &Bench<'_>) -> Proof {
    let mut absent = None;
    let mut proven = false;
    for transport in keeping_and_plain(bench).await {
        let wanted = subscription("new", "a.b").with_start(Start::At(bench.clock().now()));
        if !transport.capabilities().start.time {
            absent = Some(refused(bench, &transport, &wanted, "a start at a point in time").await);
            continue;
        }
        bench.publish(&*transport, "a.b", &["before"]).await;
        tokio::time::sleep(Duration::from_millis(50)).await;
        let wanted = wanted.with_start(Start::At(bench.clock().now()));
        tokio::time::sleep(Duration::from_millis(50)).await;
        bench.publish(&*transport, "a.b", &["1", "2"]).await;
        let mut new = bench.reader(&*transport, &wanted).await;
        assert_eq!(new.texts(2).await, ["1", "2"]);
        new.nothing("what came before that time does not").await;
        proven = true;
    }
    absent.filter(|_| !proven).unwrap_or(Proof::Proven)
}

async fn a_group_that_exists_goes_on_where_it_was(bench: &Bench<'_>) -> Proof {
    let mut setup = bench.setup();
    setup.retains = true;
    let transport = connect(&*bench.broker_with(&setup).await).await;
    let can = transport.capabilities();
    if !can.backlog {
        return Proof::absent("a group that is away gets nothing");
    }
    let start = if can.start.earliest { Start::Earliest } else { Start::Latest };
    let mut reader = bench.group(&*transport, "g", "a.b").await;
    bench.publish(&*transport, "a.b", &["1", "2"]).await;
    assert_eq!(reader.texts(1).await, ["1"]);
    reader.close().await;
    let mut reader = bench.reader(&*transport, &subscription("g", "a.b").with_start(start)).await;
    assert_eq!(reader.texts(1).await, ["2"], "it neither begins again nor leaves anything out");
    reader.nothing("nothing else is left").await;
    Proof::Proven
}

async fn declaring_again_changes_nothing(bench: &Bench<'_>) -> Proof {
    let (transport, can) = bench.start().await;
    let wanted = subscription("g", "a.b");
    let mut reader = bench.reader(&*transport, &wanted).await;
    bench.publish(&*transport, "a.b", &["1", "2"]).await;
    if can.backlog {
        bench.declare(&*bench.connect().await, &wanted).await;
    }
    bench.declare(&*transport, &wanted).await;
    bench.publish(&*transport, "a.b", &["3"]).await;
    assert_eq!(reader.texts(3).await, ["1", "2", "3"]);
    reader.nothing("nothing is doubled").await;
    Proof::Proven
}

async fn a_group_can_take_more(bench: &Bench<'_>) -> Proof {
    let (transport, can) = bench.start().await;
    if !can.backlog {
        return Proof::absent("no backlog: a group takes more once it subscribes to more");
    }
    bench.declare(&*transport, &subscription("g", "a.b")).await;
    bench.publish(&*transport, "a.b", &["1"]).await;
    bench.publish(&*transport, "x.y", &["nobody wants it yet"]).await;
    let mut more = subscription("g", "a.b");
    more.patterns.push(pattern_of("x.*"));
    bench.declare(&*transport, &more).await;
    bench.publish(&*transport, "x.y", &["2"]).await;
    bench.publish(&*transport, "a.b", &["3"]).await;
    let mut reader = bench.reader(&*transport, &more).await;
    let came: BTreeSet<String> = reader.texts(3).await.into_iter().collect();
    assert_eq!(came, ["1", "2", "3"].map(String::from).into());
    Proof::Proven
}

/// What is not claimed must be refused, for good and at once, when it is declared or subscribed to.
async fn refused(
    bench: &Bench<'_>,
    transport: &Arc<dyn Transport>,
    wanted: &Subscription,
    what: &str,
) -> Proof {
    let declaration = msgkit::transport::Declaration::Group {
        subscription: wanted.clone(),
        retry_steps: Vec::new(),
        dead_letters: false,
    };
    let declared = match wanted.group {
        Some(_) => bench.soon("declare", transport.declare(&[declaration])).await,
        None => Ok(()),
    };
    let error = match declared {
        Err(error) => error,
        Ok(()) => match bench.soon("subscribe", transport.subscribe(wanted)).await {
            Err(error) => error,
            Ok(_) => panic!("the transport does not claim {what}, yet takes a subscription that asks for it"),
        },
    };
    assert_eq!(
        error.kind(),
        TransportErrorKind::Unsupported,
        "the refusal says that it is unsupported: {}",
        msgkit::Chain(&error)
    );
    Proof::absent(format!("{what}: refused at start"))
}

//! What is published arrives.

use msgkit::transport::Outgoing;

use super::case;
use crate::conformance::bench::{Bench, numbered, subscription};
use crate::conformance::{Case, Proof};

const CHAPTER: &str = "Delivery";

pub(super) const CASES: &[Case] = &[
    case!(
        CHAPTER,
        messages_come_in_the_order_they_were_published,
        "Messages of one publisher, key and topic come in order, each once"
    ),
    case!(CHAPTER, a_large_batch_is_taken_whole, "A batch of 1,000 messages is taken whole"),
    case!(
        CHAPTER,
        a_message_comes_once_though_several_patterns_match,
        "A message that several patterns of a subscription match comes once"
    ),
    case!(
        CHAPTER,
        what_is_published_before_the_subscription_comes,
        "A declared group gets what was published before it subscribed"
    ),
    case!(
        CHAPTER,
        a_group_that_is_away_gets_its_backlog,
        "A declared group that is away gets its backlog, in order"
    ),
    case!(
        CHAPTER,
        a_message_is_there_for_a_reader_that_waits,
        "A reader that waits is woken by a publish, without polling by the caller"
    ),
    case!(
        CHAPTER,
        each_publisher_keeps_its_order,
        "Concurrent publishers each keep their order; nothing is lost or doubled"
    ),
];

async fn messages_come_in_the_order_they_were_published(bench: &Bench<'_>) -> Proof {
    let (transport, _) = bench.start().await;
    let mut reader = bench.group(&*transport, "g", "a.b").await;
    let sent = numbered("m", 200);
    for texts in sent.chunks(17) {
        let batch =
            texts.iter().map(|text| msgkit::transport::Outgoing::to_topic(bench.keyed("a.b", "k", text)));
        bench.publish_all(&*transport, batch.collect()).await;
    }
    assert_eq!(reader.texts(200).await, sent);
    reader.nothing("every message has come once").await;
    Proof::Proven
}

async fn a_large_batch_is_taken_whole(bench: &Bench<'_>) -> Proof {
    let (transport, _) = bench.start().await;
    let mut reader = bench.group(&*transport, "g", "a.b").await;
    let sent = numbered("m", 1000);
    // Without a key, so in any order.
    let batch = sent.iter().map(|text| Outgoing::to_topic(bench.envelope("a.b", text)));
    bench.publish_all(&*transport, batch.collect()).await;
    let mut came = Vec::new();
    while came.len() < sent.len() {
        came.extend(reader.texts(50).await);
    }
    came.sort();
    assert_eq!(came, sent);
    Proof::Proven
}

async fn a_message_comes_once_though_several_patterns_match(bench: &Bench<'_>) -> Proof {
    let (transport, _) = bench.start().await;
    let mut several = subscription("g", "a.>");
    several
        .patterns
        .extend(["a.*", "a.b", "*.b"].iter().map(|pattern| crate::conformance::bench::pattern_of(pattern)));
    let mut reader = bench.reader(&*transport, &several).await;
    bench.publish(&*transport, "a.b", &["1", "2"]).await;
    let mut came = reader.texts(2).await;
    came.sort();
    assert_eq!(came, ["1", "2"]);
    reader.nothing("each message comes once, however many patterns match it").await;
    Proof::Proven
}

async fn what_is_published_before_the_subscription_comes(bench: &Bench<'_>) -> Proof {
    let (transport, can) = bench.start().await;
    let wanted = subscription("g", "a.b");
    bench.declare(&*transport, &wanted).await;
    bench.publish(&*transport, "a.b", &["before"]).await;
    let mut reader = bench.reader(&*transport, &wanted).await;
    if can.backlog {
        assert_eq!(reader.texts(1).await, ["before"]);
        return Proof::Proven;
    }
    bench.publish(&*transport, "a.b", &["after"]).await;
    assert_eq!(reader.texts(1).await, ["after"], "no backlog is claimed, so none may come");
    Proof::absent("no backlog: publishers must come after their readers")
}

async fn a_group_that_is_away_gets_its_backlog(bench: &Bench<'_>) -> Proof {
    let (transport, can) = bench.start().await;
    let mut reader = bench.group(&*transport, "g", "a.b").await;
    bench.publish(&*transport, "a.b", &["1"]).await;
    assert_eq!(reader.texts(1).await, ["1"]);
    reader.close().await;
    let sent = numbered("m", 50);
    let texts: Vec<&str> = sent.iter().map(String::as_str).collect();
    bench.publish(&*transport, "a.b", &texts).await;
    let mut reader = bench.group(&*bench.connect().await, "g", "a.b").await;
    if can.backlog {
        assert_eq!(reader.texts(50).await, sent);
        reader.nothing("what was settled does not come again").await;
        return Proof::Proven;
    }
    bench.publish(&*transport, "a.b", &["after"]).await;
    assert_eq!(reader.texts(1).await, ["after"], "no backlog is claimed, so none may come");
    Proof::absent("no backlog: what is published while a group is away is gone")
}

async fn a_message_is_there_for_a_reader_that_waits(bench: &Bench<'_>) -> Proof {
    let (transport, _) = bench.start().await;
    let mut reader = bench.group(&*transport, "g", "a.b").await;
    let waiting = tokio::spawn(async move {
        let text = reader.texts(1).await;
        (text, reader)
    });
    tokio::time::sleep(bench.time().tick()).await;
    assert!(!waiting.is_finished(), "nothing was published yet");
    bench.publish(&*transport, "a.b", &["now"]).await;
    let (text, _reader) = match bench.soon("the reader wakes", waiting).await {
        Ok(read) => read,
        Err(error) => panic!("the reader broke: {error}"),
    };
    assert_eq!(text, ["now"]);
    Proof::Proven
}

async fn each_publisher_keeps_its_order(bench: &Bench<'_>) -> Proof {
    let (transport, _) = bench.start().await;
    let mut reader = bench.group(&*transport, "g", "a.b").await;
    let publishing = (0..8).map(|publisher| {
        let transport = transport.clone();
        async move {
            for n in 0..25 {
                let message = bench.keyed("a.b", &format!("p{publisher}"), &format!("p{publisher}-{n:03}"));
                bench.publish_all(&*transport, vec![msgkit::transport::Outgoing::to_topic(message)]).await;
            }
        }
    });
    let (_, came) =
        futures_util::future::join(futures_util::future::join_all(publishing), reader.texts(200)).await;
    for publisher in 0..8 {
        let own: Vec<&String> =
            came.iter().filter(|text| text.starts_with(&format!("p{publisher}-"))).collect();
        let expected: Vec<String> = (0..25).map(|n| format!("p{publisher}-{n:03}")).collect();
        assert_eq!(own, expected.iter().collect::<Vec<_>>(), "publisher {publisher}");
    }
    Proof::Proven
}

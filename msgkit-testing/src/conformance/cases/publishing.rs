//! The publisher's side: confirmation, refusal, back-pressure, close.

use std::time::Duration;

use msgkit::transport::{Outgoing, PublishError, TransportErrorKind};

use super::case;
use crate::conformance::bench::{Bench, connect, subscription, text_of};
use crate::conformance::{Case, Proof};

const CHAPTER: &str = "Publishing and closing";

pub(super) const CASES: &[Case] = &[
    case!(
        CHAPTER,
        a_publish_that_nobody_reads_is_taken,
        "A publish that nobody consumes is taken, and disturbs nothing"
    ),
    case!(
        CHAPTER,
        a_publish_that_nobody_reads_can_be_refused,
        "`on_unrouted = \"error\"` refuses a publish that nobody consumes, by name"
    ),
    case!(
        CHAPTER,
        a_full_queue_holds_its_publisher,
        "A publisher before a full queue waits, then gets a temporary error that names the group"
    ),
    case!(
        CHAPTER,
        room_lets_a_waiting_publisher_go_on,
        "A settlement lets a waiting publisher go on; nothing is lost or doubled"
    ),
    case!(
        CHAPTER,
        a_publish_after_close_is_refused,
        "A publish after close is refused as closed, and gives its messages back"
    ),
    case!(CHAPTER, a_subscribe_after_close_is_refused, "A subscription after close is refused as closed"),
    case!(CHAPTER, close_ends_a_receive_that_waits, "Close ends a receive that waits, as closed"),
    case!(CHAPTER, close_ends_a_publish_that_waits, "Close ends a publish that waits before a full queue"),
    case!(
        CHAPTER,
        close_keeps_what_was_confirmed,
        "What was confirmed before close is there afterwards; what was settled is gone"
    ),
    case!(CHAPTER, close_twice_is_harmless, "Closing twice is harmless, and hurts no other connection"),
    case!(CHAPTER, health_tells, "Health says up while it works, and down once it is closed"),
];

fn ids(error: &PublishError) -> Vec<String> {
    error.rejected().iter().map(|rejected| rejected.message.envelope.id().to_string()).collect()
}

async fn a_publish_that_nobody_reads_is_taken(bench: &Bench<'_>) -> Proof {
    let (transport, _) = bench.start().await;
    bench.publish(&*transport, "nobody.home", &["1"]).await;
    let mut reader = bench.group(&*transport, "g", "a.b").await;
    bench.publish(&*transport, "nobody.home", &["2"]).await;
    bench.publish(&*transport, "a.b", &["3"]).await;
    assert_eq!(reader.texts(1).await, ["3"]);
    Proof::Proven
}

async fn a_publish_that_nobody_reads_can_be_refused(bench: &Bench<'_>) -> Proof {
    let mut setup = bench.setup();
    setup.refuses_unrouted = true;
    let transport = connect(&*bench.broker_with(&setup).await).await;
    if !transport.capabilities().detects_unrouted {
        return Proof::absent("a publish without a reader is not noticed");
    }
    let mut reader = bench.group(&*transport, "g", "a.b").await;
    let unrouted = bench.envelope("nobody.home", "1");
    let batch = vec![Outgoing::to_topic(unrouted.clone())];
    let error = match bench.soon("publish", transport.publish(batch)).await {
        Ok(()) => panic!("nobody reads it, yet it was taken"),
        Err(error) => error,
    };
    assert_eq!(error.kind(), TransportErrorKind::Unrouted);
    assert!(msgkit::Chain(&error).to_string().contains("nobody.home"), "{}", msgkit::Chain(&error));
    assert_eq!(ids(&error), [unrouted.id().to_string()]);
    bench.publish(&*transport, "a.b", &["2"]).await;
    assert_eq!(reader.texts(1).await, ["2"]);
    Proof::Proven
}

/// A transport that takes four messages per group and lets a publisher wait that long.
async fn small(bench: &Bench<'_>, wait: Duration) -> std::sync::Arc<dyn msgkit::transport::Transport> {
    let mut setup = bench.setup();
    setup.capacity = Some(4);
    setup.publish_timeout = Some(wait);
    connect(&*bench.broker_with(&setup).await).await
}

async fn a_full_queue_holds_its_publisher(bench: &Bench<'_>) -> Proof {
    let wait = bench.time().tick();
    let transport = small(bench, wait).await;
    if !transport.capabilities().back_pressure {
        return Proof::absent("a queue has no bound that a publisher feels");
    }
    let mut reader = bench.reader(&*transport, &subscription("slow", "a.b").with_prefetch(2)).await;
    let held = {
        bench.publish(&*transport, "a.b", &["1", "2", "3", "4"]).await;
        reader.take(2).await
    };
    // Two are in hand: whether they count is the transport's affair, four waiting ones do.
    let mut last = 5;
    let (began, refused, error) = loop {
        let began = tokio::time::Instant::now();
        let next = bench.envelope("a.b", &last.to_string());
        let batch = vec![Outgoing::to_topic(next.clone())];
        match bench.soon("the publisher is told", transport.publish(batch)).await {
            Ok(()) if last < 7 => last += 1,
            Ok(()) => panic!("the queue holds four, yet took a fifth beside the two in hand"),
            Err(error) => break (began, next, error),
        }
    };
    assert!(began.elapsed() >= wait.mul_f64(0.9), "it waited {:?}, not {wait:?}", began.elapsed());
    assert_eq!(error.kind(), TransportErrorKind::Full);
    assert!(error.is_temporary());
    assert!(
        msgkit::Chain(&error).to_string().contains("slow"),
        "it names the group: {}",
        msgkit::Chain(&error)
    );
    assert_eq!(ids(&error), [refused.id().to_string()], "it gives the message back");
    held.into_iter().for_each(msgkit::transport::Delivery::ack);
    bench.publish_all(&*transport, error.into_rejected().into_iter().map(|r| r.message).collect()).await;
    let rest: Vec<String> = (3..=last).map(|n| n.to_string()).collect();
    assert_eq!(reader.texts(rest.len()).await, rest);
    Proof::Proven
}

async fn room_lets_a_waiting_publisher_go_on(bench: &Bench<'_>) -> Proof {
    let transport = small(bench, Duration::from_secs(30)).await;
    if !transport.capabilities().back_pressure {
        return Proof::absent("a queue has no bound that a publisher feels");
    }
    let mut reader = bench.reader(&*transport, &subscription("slow", "a.b").with_prefetch(1)).await;
    let publisher = transport.clone();
    let envelopes: Vec<_> = (0..40).map(|n| bench.envelope("a.b", &format!("{n:03}"))).collect();
    let publishing = tokio::spawn(async move {
        for envelope in envelopes {
            if let Err(error) = publisher.publish(vec![Outgoing::to_topic(envelope)]).await {
                return Err(msgkit::Chain(&error).to_string());
            }
        }
        Ok(())
    });
    let mut came = Vec::new();
    for _ in 0..40 {
        let delivery = reader.next().await;
        came.push(text_of(&delivery));
        tokio::time::sleep(Duration::from_millis(1)).await;
        delivery.ack();
    }
    let expected: Vec<String> = (0..40).map(|n| format!("{n:03}")).collect();
    assert_eq!(came, expected);
    assert!(matches!(bench.soon("publishing ends", publishing).await, Ok(Ok(()))));
    Proof::Proven
}

async fn a_publish_after_close_is_refused(bench: &Bench<'_>) -> Proof {
    let (transport, _) = bench.start().await;
    bench.publish(&*transport, "a.b", &["1"]).await;
    close(bench, &*transport).await;
    let batch: Vec<Outgoing> =
        ["2", "3"].iter().map(|t| Outgoing::to_topic(bench.envelope("a.b", t))).collect();
    let expected: Vec<String> = batch.iter().map(|message| message.envelope.id().to_string()).collect();
    match bench.soon("publish", transport.publish(batch)).await {
        Ok(()) => panic!("a closed transport took messages"),
        Err(error) => {
            assert_eq!(error.kind(), TransportErrorKind::Closed);
            assert_eq!(ids(&error), expected, "every message is given back");
        }
    }
    Proof::Proven
}

async fn a_subscribe_after_close_is_refused(bench: &Bench<'_>) -> Proof {
    let (transport, _) = bench.start().await;
    bench.declare(&*transport, &subscription("g", "a.b")).await;
    close(bench, &*transport).await;
    match bench.soon("subscribe", transport.subscribe(&subscription("g", "a.b"))).await {
        Ok(_) => panic!("a closed transport took a subscription"),
        Err(error) => assert_eq!(error.kind(), TransportErrorKind::Closed, "{}", msgkit::Chain(&error)),
    }
    Proof::Proven
}

async fn close_ends_a_receive_that_waits(bench: &Bench<'_>) -> Proof {
    let (transport, _) = bench.start().await;
    let mut reader = bench.group(&*transport, "g", "a.b").await;
    let waiting = tokio::spawn(async move {
        let mut came = std::collections::VecDeque::new();
        let result = reader.inner().receive(1, &mut came).await;
        (result, came.len())
    });
    for _ in 0..20 {
        tokio::task::yield_now().await;
    }
    close(bench, &*transport).await;
    match bench.soon("the receive ends", waiting).await {
        Ok((Ok(()), 0)) => {}
        Ok((Err(error), _)) => {
            assert_eq!(error.kind(), TransportErrorKind::Closed, "{}", msgkit::Chain(&error));
        }
        other => panic!("nothing was published, yet {other:?}"),
    }
    Proof::Proven
}

async fn close_ends_a_publish_that_waits(bench: &Bench<'_>) -> Proof {
    let transport = small(bench, Duration::from_secs(3600)).await;
    if !transport.capabilities().back_pressure {
        return Proof::absent("a publisher never waits before a full queue");
    }
    bench.declare(&*transport, &subscription("slow", "a.b")).await;
    bench.publish(&*transport, "a.b", &["1", "2", "3", "4"]).await;
    let (publisher, fifth) = (transport.clone(), bench.envelope("a.b", "5"));
    let waiting = tokio::spawn(async move { publisher.publish(vec![Outgoing::to_topic(fifth)]).await });
    tokio::time::sleep(Duration::from_millis(50)).await;
    assert!(!waiting.is_finished(), "it waits for room");
    let began = tokio::time::Instant::now();
    close(bench, &*transport).await;
    match bench.soon("the publish ends", waiting).await {
        Ok(Err(error)) => {
            assert!(began.elapsed() < Duration::from_secs(60), "close ends it, not its deadline");
            assert_eq!(error.kind(), TransportErrorKind::Closed, "{}", msgkit::Chain(&error));
            assert_eq!(error.rejected().len(), 1);
        }
        other => panic!("it was not taken, so it must be given back: {other:?}"),
    }
    Proof::Proven
}

async fn close_keeps_what_was_confirmed(bench: &Bench<'_>) -> Proof {
    let (transport, can) = bench.start().await;
    let mut reader = bench.group(&*transport, "g", "a.b").await;
    bench.publish(&*transport, "a.b", &["1", "2", "3"]).await;
    reader.next().await.ack();
    close(bench, &*transport).await;
    drop(reader);
    let mut again = bench.group(&*bench.connect().await, "g", "a.b").await;
    if !can.backlog {
        return Proof::absent("no backlog: what nobody reads at once is gone");
    }
    assert_eq!(again.texts(2).await, ["2", "3"], "the first was settled, and close flushes");
    again.nothing("the first was settled").await;
    Proof::Proven
}

async fn close_twice_is_harmless(bench: &Bench<'_>) -> Proof {
    let (transport, _) = bench.start().await;
    let other = bench.connect().await;
    let mut reader = bench.group(&*other, "g", "a.b").await;
    bench.publish(&*transport, "a.b", &["1"]).await;
    close(bench, &*transport).await;
    let second = bench.soon("close", transport.close()).await;
    assert!(
        second.as_ref().err().is_none_or(|error| error.kind() == TransportErrorKind::Closed),
        "{second:?}"
    );
    bench.publish(&*other, "a.b", &["2"]).await;
    assert_eq!(reader.texts(2).await, ["1", "2"], "other connections go on");
    Proof::Proven
}

async fn health_tells(bench: &Bench<'_>) -> Proof {
    use msgkit::transport::Health;
    let (transport, _) = bench.start().await;
    bench.publish(&*transport, "a.b", &["1"]).await;
    // A busy machine may be late with the answer.
    let up = async {
        while transport.health().await != Health::Up {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    bench.soon("health is up", up).await;
    close(bench, &*transport).await;
    match bench.soon("health", transport.health()).await {
        Health::Down(why) => assert!(!why.is_empty(), "it says why"),
        up => panic!("it is closed, yet {up:?}"),
    }
    Proof::Proven
}

async fn close(bench: &Bench<'_>, transport: &dyn msgkit::transport::Transport) {
    if let Err(error) = bench.soon("close", transport.close()).await {
        panic!("closing failed: {}", msgkit::Chain(&error));
    }
}

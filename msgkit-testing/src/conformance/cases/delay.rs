//! Delayed retries and scheduled messages, as copies in the transport's custody.

use std::time::Duration;

use msgkit::transport::{Delay, Delivery, Outgoing};

use super::case;
use crate::conformance::bench::{Bench, Reader, subscription, text_of};
use crate::conformance::{Case, Proof};

const CHAPTER: &str = "Delays (promise 1)";

pub(super) const CASES: &[Case] = &[
    case!(
        CHAPTER,
        a_retry_copy_goes_to_its_group_alone,
        "A retry copy goes to the group that failed and to no other"
    ),
    case!(CHAPTER, a_retry_copy_is_never_early, "A retry copy never comes before it is due"),
    case!(CHAPTER, delay_steps_do_not_block_each_other, "A long delay does not hold back a short one"),
    case!(
        CHAPTER,
        a_retry_copy_outlives_its_reader,
        "A retry copy is the broker's: it comes though every reader was away meanwhile"
    ),
    case!(
        CHAPTER,
        a_retry_copy_keeps_everything,
        "A retry copy brings back the whole envelope with its attempts"
    ),
    case!(CHAPTER, a_scheduled_message_is_never_early, "A message published for later never comes before"),
];

/// Reads the group's retry copies: from its own subscription where the transport keeps delays, else from the step's.
async fn retries(
    bench: &Bench<'_>,
    transport: &dyn msgkit::transport::Transport,
    group: &str,
    step: u32,
) -> Reader {
    let mut wanted = subscription(group, "a.b");
    if transport.capabilities().delay == Delay::RetryTopics {
        bench.declare(transport, &wanted).await;
        wanted.retry_step = Some(step);
        wanted.prefetch = 1;
    }
    bench.reader(transport, &wanted).await
}

async fn a_retry_copy_goes_to_its_group_alone(bench: &Bench<'_>) -> Proof {
    let (transport, can) = bench.start().await;
    let mut other = bench.group(&*transport, "other", "a.b").await;
    let mut everything = bench.reader(&*transport, &subscription("all", ">")).await;
    let mut group = retries(bench, &*transport, "g", 1).await;
    let copy = bench.retry("g", 1, bench.time().tick(), bench.envelope("a.b", "again"));
    bench.publish_all(&*transport, vec![copy]).await;
    assert_eq!(group.texts(1).await, ["again"]);
    other.nothing("the copy is for the group that failed").await;
    everything.nothing("a subscription to everything sees no retry copies").await;
    emulated(can.delay)
}

async fn a_retry_copy_is_never_early(bench: &Bench<'_>) -> Proof {
    let (transport, can) = bench.start().await;
    let mut group = retries(bench, &*transport, "g", 1).await;
    let delay = bench.time().tick() * 2;
    let due = bench.clock().now().after(delay);
    bench.publish_all(&*transport, vec![bench.retry("g", 1, delay, bench.envelope("a.b", "later"))]).await;
    let delivery = group.next().await;
    if can.delay == Delay::Native {
        let now = bench.clock().now();
        assert!(now >= due, "it came {:?} early", due.since(now));
    } else {
        // The core holds it back, by what the envelope says.
        let said = delivery.message().envelope().and_then(msgkit::Envelope::not_before);
        assert!(said.is_some_and(|said| said >= due), "`notbefore` travels on the copy: {said:?}");
    }
    delivery.ack();
    emulated(can.delay)
}

async fn delay_steps_do_not_block_each_other(bench: &Bench<'_>) -> Proof {
    let (transport, can) = bench.start().await;
    let tick = bench.time().tick();
    let batch = |tick: Duration| {
        vec![
            bench.retry("g", 3, tick * 6, bench.envelope("a.b", "late")),
            bench.retry("g", 2, tick * 3, bench.envelope("a.b", "middle")),
            bench.retry("g", 1, tick, bench.envelope("a.b", "soon")),
        ]
    };
    if can.delay == Delay::RetryTopics {
        // Each step has a place of its own, with its own head.
        for (step, text) in [(1, "soon"), (2, "middle"), (3, "late")] {
            let mut reader = retries(bench, &*transport, "g", step).await;
            if step == 1 {
                bench.publish_all(&*transport, batch(tick)).await;
            }
            assert_eq!(reader.texts(1).await, [text]);
        }
        return emulated(can.delay);
    }
    let mut group = retries(bench, &*transport, "g", 1).await;
    // A broker that has to make the places of the steps may take longer for that than the first copy has to wait: then their order
    // says nothing.
    for tick in [1, 2, 4, 8].map(|times| tick * times) {
        let due = bench.clock().now().after(tick);
        bench.publish_all(&*transport, batch(tick)).await;
        bench.publish(&*transport, "a.b", &["at once"]).await;
        let mut in_time = bench.clock().now() < due;
        let mut came: Vec<String> = Vec::new();
        while came.len() < 4 {
            let text = group.texts(1).await.remove(0);
            let delayed = came.iter().filter(|text| *text != "at once").count();
            // Where the machine stood still several are due at once, which have no order.
            in_time &= text == "at once"
                || [2, 5].get(delayed).is_none_or(|ticks| bench.clock().now() < due.after(tick * *ticks));
            came.push(text);
        }
        if in_time {
            let delayed: Vec<&String> = came.iter().filter(|text| *text != "at once").collect();
            assert_eq!(delayed, ["soon", "middle", "late"]);
            assert_ne!(came[3], "at once", "what is due at once does not wait for what is not");
            return Proof::Proven;
        }
    }
    panic!(
        "three copies were not confirmed before the first of them was due, or did not come before the next one was, though those were \
         eight times as far away as at first"
    );
}

async fn a_retry_copy_outlives_its_reader(bench: &Bench<'_>) -> Proof {
    let (transport, can) = bench.start().await;
    let group = retries(bench, &*transport, "g", 1).await;
    let tick = bench.time().tick();
    bench.publish_all(&*transport, vec![bench.retry("g", 1, tick, bench.envelope("a.b", "again"))]).await;
    group.close().await;
    tokio::time::sleep(tick * 2).await;
    let mut group = retries(bench, &*bench.connect().await, "g", 1).await;
    assert_eq!(group.texts(1).await, ["again"]);
    group.nothing("it came once").await;
    emulated(can.delay)
}

async fn a_retry_copy_keeps_everything(bench: &Bench<'_>) -> Proof {
    let (transport, can) = bench.start().await;
    let mut group = retries(bench, &*transport, "g", 1).await;
    let mut envelope = super::support::full_envelope(bench, "a.b");
    envelope.set_attempt(3);
    envelope.set_retry(Some(msgkit::envelope::Retry {
        round: 2,
        first: bench.clock().now(),
        last_start: false,
    }));
    let copy = bench.retry("g", 1, bench.time().tick(), envelope);
    let sent = copy.envelope.clone();
    bench.publish_all(&*transport, vec![copy]).await;
    let delivery = group.next().await;
    super::support::assert_same(&sent, &delivery);
    delivery.ack();
    emulated(can.delay)
}

async fn a_scheduled_message_is_never_early(bench: &Bench<'_>) -> Proof {
    let (transport, can) = bench.start().await;
    let mut reader = bench.group(&*transport, "g", "a.b").await;
    let mut envelope = bench.envelope("a.b", "later");
    let due = bench.clock().now().after(bench.time().tick() * 2);
    envelope.set_not_before(Some(due));
    bench.publish_all(&*transport, vec![Outgoing::to_topic(envelope)]).await;
    bench.publish(&*transport, "a.b", &["now"]).await;
    if can.delay == Delay::RetryTopics {
        // It comes at once, and the core sends it to the step that fits.
        let both = reader.take(2).await;
        assert!(both.iter().any(|delivery| text_of(delivery) == "later"
            && delivery.message().envelope().and_then(msgkit::Envelope::not_before) == Some(due)));
        both.into_iter().for_each(Delivery::ack);
        return emulated(can.delay);
    }
    assert_eq!(reader.texts(1).await, ["now"]);
    assert_eq!(reader.texts(1).await, ["later"]);
    assert!(bench.clock().now() >= due);
    Proof::Proven
}

fn emulated(delay: Delay) -> Proof {
    match delay {
        Delay::RetryTopics => Proof::Emulated("by retry topics, one per delay step".to_owned()),
        _ => Proof::Proven,
    }
}

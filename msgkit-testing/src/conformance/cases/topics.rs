//! Names and wildcards.

use std::collections::BTreeSet;

use msgkit::transport::{Declaration, Destination, Outgoing, Subscription, TransportErrorKind};

use super::case;
use crate::conformance::bench::{Bench, group_of, pattern_of, subscription, text_of, topic_of};
use crate::conformance::{Case, Proof};

const CHAPTER: &str = "Topics";

pub(super) const CASES: &[Case] = &[
    case!(
        CHAPTER,
        wildcards_mean_the_same_everywhere,
        "The wildcard table: each pattern gets exactly its topics"
    ),
    case!(
        CHAPTER,
        dynamic_segments_come_back_whole,
        "A topic with dynamic segments comes back whole, through its shared destination"
    ),
    case!(
        CHAPTER,
        names_that_look_alike_stay_apart,
        "Names that differ by case, `_`, `-`, `.` or escapes are different topics"
    ),
    case!(CHAPTER, the_longest_names_work, "The longest legal topic and group names work"),
    case!(
        CHAPTER,
        a_pattern_sees_topics_that_come_later,
        "A pattern matches topics that did not exist when it was subscribed"
    ),
    case!(
        CHAPTER,
        reserved_topics_are_out_of_reach,
        "A subscription to everything sees no reserved topic: no retry copies, no dead letters"
    ),
];

const TOPICS: [&str; 8] = ["a", "a.b", "a.b.c", "a.b.c.d", "x", "x.b", "3rd_party.app", "a-b.c_d"];

/// Pattern and what it must match, by the table of wildcards.
const TABLE: [(&str, &[&str]); 10] = [
    ("a", &["a"]),
    ("a.*", &["a.b"]),
    ("a.>", &["a.b", "a.b.c", "a.b.c.d"]),
    ("*.b", &["a.b", "x.b"]),
    ("*", &["a", "x"]),
    (">", &TOPICS),
    ("a.*.c", &["a.b.c"]),
    ("*.*", &["a.b", "x.b", "3rd_party.app", "a-b.c_d"]),
    ("*.b.>", &["a.b.c", "a.b.c.d"]),
    ("a.b.*", &["a.b.c"]),
];

async fn wildcards_mean_the_same_everywhere(bench: &Bench<'_>) -> Proof {
    let (transport, _) = bench.start().await;
    let mut readers = Vec::new();
    for (at, (pattern, matched)) in TABLE.iter().enumerate() {
        readers.push((bench.group(&*transport, &format!("g{at}"), pattern).await, pattern, matched));
    }
    let batch = TOPICS.iter().map(|topic| Outgoing::to_topic(bench.envelope(topic, topic))).collect();
    bench.publish_all(&*transport, batch).await;
    for (reader, pattern, matched) in &mut readers {
        let came: BTreeSet<String> = reader.texts(matched.len()).await.into_iter().collect();
        let expected: BTreeSet<String> = matched.iter().map(|topic| (*topic).to_owned()).collect();
        assert_eq!(came, expected, "pattern `{pattern}`");
    }
    for (mut reader, pattern, _) in readers {
        reader.nothing(&format!("pattern `{pattern}` matches nothing else, and each once")).await;
    }
    Proof::Proven
}

/// The destination of a template's topics on a log broker; its reserved segment `_` is the core's to write.
fn place_of(template: &str) -> msgkit::Topic {
    let place = msgkit::TopicTemplate::new(template).map(|template| template.destination());
    match place.and_then(msgkit::Topic::from_checked) {
        Ok(place) => place,
        Err(error) => panic!("{error}"),
    }
}

async fn dynamic_segments_come_back_whole(bench: &Bench<'_>) -> Proof {
    let (transport, _) = bench.start().await;
    let place = place_of("device.{id}.telemetry");
    let mut all = subscription("all", "device.*.telemetry");
    all.places = vec![place.clone()];
    let mut all = bench.reader(&*transport, &all).await;
    let mut one = subscription("one", "device.7.telemetry");
    one.places = vec![place.clone()];
    let mut one = bench.reader(&*transport, &one).await;
    let names = ["device.7.telemetry", "device.AA~3ABB.telemetry", "device.8.telemetry"];
    let batch = names
        .iter()
        .map(|name| {
            let to = Destination::Topic { topic: topic_of(name), place: Some(place.clone()) };
            Outgoing::new(to, bench.envelope(name, name))
        })
        .collect();
    bench.publish_all(&*transport, batch).await;
    let mut came = BTreeSet::new();
    for delivery in all.take(3).await {
        assert_eq!(delivery.message().topic().as_str(), text_of(&delivery), "the whole topic comes back");
        came.insert(text_of(&delivery));
        delivery.ack();
    }
    assert_eq!(came, names.map(String::from).into());
    assert_eq!(one.texts(1).await, ["device.7.telemetry"]);
    one.nothing("what shares the destination is filtered on the whole topic").await;
    Proof::Proven
}

async fn names_that_look_alike_stay_apart(bench: &Bench<'_>) -> Proof {
    let (transport, _) = bench.start().await;
    let names = ["a.b_c", "a_b.c", "a.b-c", "A.b_c", "a.b.c", "a.B_c", "a_b_c", "a.b~5Fc"];
    let (mut readers, mut refused) = (Vec::new(), 0);
    for (at, name) in names.iter().enumerate() {
        // Where two names are one to the broker, the second is refused before anything is published.
        let declared = Declaration::Group {
            subscription: subscription(&format!("g{at}"), name),
            retry_steps: Vec::new(),
            dead_letters: false,
        };
        match bench.soon("declare", transport.declare(&[declared])).await {
            Ok(()) => readers.push((bench.group(&*transport, &format!("g{at}"), name).await, *name)),
            Err(error) => {
                assert_eq!(error.kind(), TransportErrorKind::Invalid, "{}", msgkit::Chain(&error));
                let text = error.to_string();
                let other = readers.iter().find(|(_, other)| text.contains(*other));
                assert!(text.contains(name) && other.is_some(), "the refusal names both topics: {text}");
                refused += 1;
            }
        }
    }
    let batch = readers.iter().map(|(_, name)| Outgoing::to_topic(bench.envelope(name, name))).collect();
    bench.publish_all(&*transport, batch).await;
    for (mut reader, name) in readers {
        assert_eq!(reader.texts(1).await, [name]);
        reader.nothing(&format!("`{name}` has its own messages alone")).await;
    }
    if refused > 0 {
        return Proof::absent("names that are one to the broker: the second is refused when it is declared");
    }
    Proof::Proven
}

async fn the_longest_names_work(bench: &Bench<'_>) -> Proof {
    let (transport, _) = bench.start().await;
    let declared = format!("a.{}", "b".repeat(98));
    let group = "g".repeat(48);
    let mut reader = bench.group(&*transport, &group, &declared).await;
    bench.publish(&*transport, &declared, &["declared"]).await;
    assert_eq!(reader.texts(1).await, ["declared"]);
    let rendered = format!("device.{}", "x".repeat(255 - 7));
    let topic = match msgkit::TopicTemplate::new("device.{id}") {
        Ok(template) => match template.render(&[&"x".repeat(255 - 7)]) {
            Ok(topic) => topic,
            Err(error) => panic!("255 bytes are legal once rendered: {error}"),
        },
        Err(error) => panic!("{error}"),
    };
    let place = Some(place_of("device.{id}"));
    let mut wanted = Subscription::group(group_of("rendered"), [pattern_of("device.*")]);
    wanted.places.extend(place.clone());
    let mut reader = bench.reader(&*transport, &wanted).await;
    let mut envelope = bench.envelope("a.b", "rendered");
    envelope.set_topic(topic.clone());
    bench.publish_all(&*transport, vec![Outgoing::new(Destination::Topic { topic, place }, envelope)]).await;
    let delivery = reader.next().await;
    assert_eq!(delivery.message().topic().as_str(), rendered);
    delivery.ack();
    Proof::Proven
}

async fn a_pattern_sees_topics_that_come_later(bench: &Bench<'_>) -> Proof {
    let (transport, can) = bench.start().await;
    let mut reader = bench.group(&*transport, "g", "later.>").await;
    bench.publish(&*transport, "later.first", &["1"]).await;
    if !can.live_patterns {
        return Proof::absent("a pattern matches the topics that exist when it is subscribed");
    }
    assert_eq!(reader.texts(1).await, ["1"]);
    bench.publish(&*bench.connect().await, "later.second.level", &["2"]).await;
    assert_eq!(reader.texts(1).await, ["2"]);
    Proof::Proven
}

async fn reserved_topics_are_out_of_reach(bench: &Bench<'_>) -> Proof {
    let (transport, can) = bench.start().await;
    let mut everything = bench.group(&*transport, "everything", ">").await;
    let mut first_level = bench.group(&*transport, "levels", "*.>").await;
    bench.declare(&*transport, &subscription("g", "a.b")).await;
    let tick = bench.time().tick();
    let mut batch = vec![bench.retry("g", 1, tick, bench.envelope("a.b", "a retry"))];
    if can.keeps_unread {
        let to = Destination::DeadLetter(group_of("g"));
        batch.push(Outgoing::new(to, bench.envelope("a.b", "a dead letter")));
    }
    bench.publish_all(&*transport, batch).await;
    tokio::time::sleep(tick * 2).await;
    bench.publish(&*transport, "a.c", &["user data"]).await;
    assert_eq!(everything.texts(1).await, ["user data"]);
    assert_eq!(first_level.texts(1).await, ["user data"]);
    everything.nothing("copies are not user data").await;
    first_level.nothing("copies are not user data").await;
    Proof::Proven
}

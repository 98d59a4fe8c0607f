//! What operators ask, and what must never be told.

use msgkit::transport::{Declaration, Destination, Outgoing, TransportErrorKind};

use super::case;
use super::support::full_envelope;
use crate::conformance::bench::{Bench, group_of, subscription};
use crate::conformance::{Case, Proof};

const CHAPTER: &str = "Operating";

pub(super) const CASES: &[Case] = &[
    case!(
        CHAPTER,
        lag_is_told_and_consumes_nothing,
        "How much a group has left is told, and consumes nothing"
    ),
    case!(CHAPTER, peek_shows_and_consumes_nothing, "What waits can be looked at, page by page, and stays"),
    case!(
        CHAPTER,
        dead_letters_are_kept_and_paged,
        "Dead letters are kept with no reader, whole, and listed page by page"
    ),
    case!(CHAPTER, dead_letters_of_groups_stay_apart, "Dead letters of two groups stay apart"),
    case!(
        CHAPTER,
        a_replay_goes_to_its_group_alone,
        "A replayed dead letter goes to its group alone, at once, and is no dead letter any more"
    ),
    case!(
        CHAPTER,
        a_dead_letter_can_be_removed,
        "A dead letter can be removed; one that is gone is an error that says so"
    ),
    case!(CHAPTER, secrets_are_never_printed, "No secret of an address is in any Debug, Display or error"),
    case!(
        CHAPTER,
        unknown_options_are_refused,
        "An unknown option is refused before connecting, with the nearest known one"
    ),
];

async fn lag_is_told_and_consumes_nothing(bench: &Bench<'_>) -> Proof {
    let (transport, can) = bench.start().await;
    let (true, Some(operate)) = (can.lag, transport.operate()) else {
        assert!(!can.lag, "lag is claimed, yet nobody can be asked");
        return Proof::absent("lag cannot be asked");
    };
    let mut reader = bench.reader(&*transport, &subscription("g", "a.b").with_prefetch(2)).await;
    let status = |groups: Vec<msgkit::transport::GroupStatus>| {
        groups
            .into_iter()
            .find(|status| status.group.as_str() == "g")
            .map(|status| (status.waiting, status.in_hand, status.delayed))
    };
    let ask = || async {
        match bench.soon("groups", operate.groups()).await {
            Ok(groups) => status(groups),
            Err(error) => panic!("the groups cannot be asked: {}", msgkit::Chain(&error)),
        }
    };
    assert_eq!(ask().await.map(|(waiting, _, delayed)| (waiting, delayed)), Some((0, 0)));
    bench.publish(&*transport, "a.b", &["1", "2", "3", "4", "5"]).await;
    let held = reader.take(2).await;
    let told = ask().await;
    assert_eq!(told.map(|(waiting, _, _)| waiting), Some(3), "three wait, two are in hand");
    assert!(told.and_then(|(_, in_hand, _)| in_hand).is_none_or(|in_hand| in_hand == 2));
    held.into_iter().for_each(msgkit::transport::Delivery::ack);
    assert_eq!(reader.texts(3).await, ["3", "4", "5"], "asking consumes nothing");
    reader.flush().await;
    assert_eq!(ask().await.map(|(waiting, _, _)| waiting), Some(0));
    Proof::Proven
}

async fn peek_shows_and_consumes_nothing(bench: &Bench<'_>) -> Proof {
    let (transport, can) = bench.start().await;
    let (true, Some(operate)) = (can.peek, transport.operate()) else {
        assert!(!can.peek, "peek is claimed, yet nobody can be asked");
        return Proof::absent("what waits cannot be looked at");
    };
    let wanted = subscription("g", "a.b");
    bench.declare(&*transport, &wanted).await;
    let envelope = full_envelope(bench, "a.b");
    bench.publish_all(&*transport, vec![Outgoing::to_topic(envelope.clone())]).await;
    bench.publish(&*transport, "a.b", &["2", "3"]).await;
    let group = group_of("g");
    let first = match bench.soon("peek", operate.peek(&group, None, 2)).await {
        Ok(page) => page,
        Err(error) => panic!("peek failed: {}", msgkit::Chain(&error)),
    };
    assert_eq!(first.len(), 2);
    assert_eq!(first[0].message.envelope(), Some(&envelope), "it is shown whole");
    let after = first[1].position.clone();
    let second = match bench.soon("peek", operate.peek(&group, Some(&after), 2)).await {
        Ok(page) => page,
        Err(error) => panic!("peek failed: {}", msgkit::Chain(&error)),
    };
    assert_eq!(second.len(), 1, "the second page goes on behind the first");
    let mut reader = bench.reader(&*transport, &wanted).await;
    let came = reader.take(3).await;
    if can.delivery_count {
        assert!(came.iter().all(|delivery| delivery.count() == 1), "looking is no start");
    }
    came.into_iter().for_each(msgkit::transport::Delivery::ack);
    let unknown = bench.soon("peek", operate.peek(&group_of("nobody"), None, 2)).await;
    match unknown {
        Ok(page) => assert!(page.is_empty()),
        Err(error) => assert!(error.to_string().contains("nobody"), "the error names the group: {error}"),
    }
    Proof::Proven
}

/// A dead letter of `group` with `text`, sent.
async fn bury(
    bench: &Bench<'_>,
    transport: &dyn msgkit::transport::Transport,
    group: &str,
    text: &str,
) -> msgkit::Envelope {
    let mut envelope = full_envelope(bench, "a.b");
    envelope.set_id(msgkit::MessageId::derived(&[text.as_bytes()]));
    envelope.set_payload(Some(bytes::Bytes::from(format!("\"{text}\""))));
    let mut letter = msgkit::envelope::DeadLetter::new(
        msgkit::envelope::DeadLetterKind::Handler,
        "it failed",
        bench.clock().now(),
    );
    letter.group = group.to_owned().into();
    letter.attempts = 6;
    letter.fingerprint();
    envelope.set_dead_letter(Some(letter));
    envelope.set_attempt(6);
    let to = Destination::DeadLetter(group_of(group));
    bench.publish_all(transport, vec![Outgoing::new(to, envelope.clone())]).await;
    envelope
}

async fn letters(
    bench: &Bench<'_>,
    transport: &dyn msgkit::transport::Transport,
    group: &str,
    after: Option<&str>,
    limit: usize,
) -> Vec<(msgkit::Envelope, String)> {
    let Some(operate) = transport.operate() else { panic!("dead letters are kept, yet nobody can be asked") };
    match bench.soon("dead letters", operate.dead_letters(&group_of(group), after, limit)).await {
        Ok(page) => page
            .iter()
            .filter_map(|letter| Some((letter.message.envelope()?.clone(), letter.position.to_string())))
            .collect(),
        Err(error) => panic!("the dead letters cannot be listed: {}", msgkit::Chain(&error)),
    }
}

async fn dead_letters_are_kept_and_paged(bench: &Bench<'_>) -> Proof {
    let (transport, can) = bench.start().await;
    if !can.keeps_unread {
        return Proof::absent("what nobody reads is not kept: dead letters must live on another transport");
    }
    bench.declare(&*transport, &subscription("g", "a.b")).await;
    let mut sent = Vec::new();
    for n in 0..5 {
        sent.push(bury(bench, &*transport, "g", &format!("letter {n}")).await);
    }
    if transport.operate().is_none() {
        return Proof::not_proven("nobody can be asked for dead letters");
    }
    let other = bench.connect().await;
    let first = letters(bench, &*other, "g", None, 3).await;
    assert_eq!(
        first.iter().map(|(envelope, _)| envelope).collect::<Vec<_>>(),
        sent[..3].iter().collect::<Vec<_>>()
    );
    let second = letters(bench, &*other, "g", Some(&first[2].1), 3).await;
    assert_eq!(
        second.iter().map(|(envelope, _)| envelope).collect::<Vec<_>>(),
        sent[3..].iter().collect::<Vec<_>>()
    );
    assert_eq!(letters(bench, &*other, "g", None, 100).await.len(), 5, "looking consumes nothing");
    Proof::Proven
}

async fn dead_letters_of_groups_stay_apart(bench: &Bench<'_>) -> Proof {
    let (transport, can) = bench.start().await;
    if !can.keeps_unread || transport.operate().is_none() {
        return Proof::absent("no dead letters here");
    }
    for group in ["g", "g2", "G"] {
        bench.declare(&*transport, &subscription(group, "a.b")).await;
    }
    bury(bench, &*transport, "g", "one").await;
    bury(bench, &*transport, "g2", "two").await;
    assert_eq!(letters(bench, &*transport, "g", None, 10).await.len(), 1);
    assert_eq!(letters(bench, &*transport, "g2", None, 10).await[0].0.payload(), b"\"two\"");
    assert!(letters(bench, &*transport, "G", None, 10).await.is_empty());
    Proof::Proven
}

async fn a_replay_goes_to_its_group_alone(bench: &Bench<'_>) -> Proof {
    let (transport, can) = bench.start().await;
    let (true, Some(operate)) = (can.keeps_unread, transport.operate()) else {
        return Proof::absent("no dead letters here");
    };
    let wanted = subscription("g", "a.b");
    let mut own = if can.delay == msgkit::transport::Delay::RetryTopics {
        bench.declare(&*transport, &wanted).await;
        let mut step = wanted.clone();
        step.retry_step = Some(1);
        bench.reader(&*transport, &step).await
    } else {
        bench.reader(&*transport, &wanted).await
    };
    let mut other = bench.group(&*transport, "other", "a.b").await;
    let first = bury(bench, &*transport, "g", "first").await;
    bury(bench, &*transport, "g", "second").await;
    let position = letters(bench, &*transport, "g", None, 10).await[0].1.clone();
    if let Err(error) = bench.soon("replay", operate.replay(&group_of("g"), &position)).await {
        panic!("the replay failed: {}", msgkit::Chain(&error));
    }
    let delivery = own.next().await;
    let envelope = match delivery.message().envelope() {
        Some(envelope) => envelope.clone(),
        None => panic!("it came malformed"),
    };
    assert_eq!((envelope.id(), envelope.payload()), (first.id(), first.payload()));
    assert_eq!(
        (envelope.attempt(), envelope.retry(), envelope.not_before()),
        (0, None, None),
        "its attempts begin anew"
    );
    assert_eq!(envelope.dead_letter().map(|letter| letter.replays), Some(1), "its replays are counted");
    assert_eq!(envelope.correlation_id(), first.correlation_id());
    delivery.ack();
    other.nothing("a replay goes to the group that gave up").await;
    own.nothing("it comes once").await;
    let left = letters(bench, &*transport, "g", None, 10).await;
    assert_eq!(left.len(), 1, "the one that was replayed is gone, the other is not");
    assert_eq!(left[0].0.payload(), b"\"second\"");
    // Kept here for a group of another transport: nobody would handle here what is published again.
    let elsewhere = group_of("elsewhere");
    let kept = [Declaration::DeadLetters(elsewhere.clone())];
    if let Err(error) = bench.soon("declare", transport.declare(&kept)).await {
        panic!("dead letters of another transport's group cannot be kept: {}", msgkit::Chain(&error));
    }
    bury(bench, &*transport, "elsewhere", "third").await;
    let position = letters(bench, &*transport, "elsewhere", None, 10).await[0].1.clone();
    match bench.soon("replay", operate.replay(&elsewhere, &position)).await {
        Ok(()) => panic!("nobody handles the group here, yet its dead letter was replayed"),
        Err(error) => assert!(
            msgkit::Chain(&error).to_string().contains("elsewhere"),
            "the error names the group: {}",
            msgkit::Chain(&error)
        ),
    }
    assert_eq!(letters(bench, &*transport, "elsewhere", None, 10).await.len(), 1, "it stays");
    Proof::Proven
}

async fn a_dead_letter_can_be_removed(bench: &Bench<'_>) -> Proof {
    let (transport, can) = bench.start().await;
    let (true, Some(operate)) = (can.keeps_unread, transport.operate()) else {
        return Proof::absent("no dead letters here");
    };
    bench.declare(&*transport, &subscription("g", "a.b")).await;
    bury(bench, &*transport, "g", "one").await;
    bury(bench, &*transport, "g", "two").await;
    let position = letters(bench, &*transport, "g", None, 10).await[0].1.clone();
    let group = group_of("g");
    if let Err(error) = bench.soon("remove", operate.remove_dead_letter(&group, &position)).await {
        panic!("it cannot be removed: {}", msgkit::Chain(&error));
    }
    assert_eq!(letters(bench, &*transport, "g", None, 10).await[0].0.payload(), b"\"two\"");
    for wrong in [position.as_str(), "not a position"] {
        match bench.soon("replay", operate.replay(&group, wrong)).await {
            Ok(()) => panic!("`{wrong}` is no dead letter, yet it was replayed"),
            Err(error) => assert_eq!(error.kind(), TransportErrorKind::Invalid, "{}", msgkit::Chain(&error)),
        }
        assert!(bench.soon("remove", operate.remove_dead_letter(&group, wrong)).await.is_err());
    }
    assert_eq!(letters(bench, &*transport, "g", None, 10).await.len(), 1);
    Proof::Proven
}

async fn secrets_are_never_printed(bench: &Bench<'_>) -> Proof {
    let Some((registry, url, secrets)) = bench.subject().secrets() else {
        return Proof::not_proven("the subject has no address with secrets");
    };
    let mut printed = Vec::new();
    match msgkit::transport::TransportUrl::parse(&url) {
        Ok(parsed) => printed.extend([format!("{parsed:?}"), parsed.to_string()]),
        Err(error) => printed.push(format!("{error:?} {error}")),
    }
    match registry.open(&url) {
        Ok(transport) => {
            printed.push(format!("{transport:?} {transport:#?}"));
            printed.push(format!("{:?}", transport.health().await));
            if let Err(error) = transport.publish(vec![Outgoing::to_topic(bench.envelope("a.b", "x"))]).await
            {
                printed.push(format!("{error:?} {}", msgkit::Chain(&error)));
            }
            let _ = transport.close().await;
        }
        Err(error) => printed.push(format!("{error:?} {}", msgkit::Chain(&error))),
    }
    let wrong = format!("{url}{}wrong_option=1", if url.contains('?') { '&' } else { '?' });
    match registry.open(&wrong) {
        Ok(_) => panic!("an unknown option was taken"),
        Err(error) => printed.push(format!("{error:?} {}", msgkit::Chain(&error))),
    }
    for text in printed {
        for secret in &secrets {
            assert!(!text.contains(secret.as_str()), "a secret is printed: {text}");
        }
    }
    Proof::Proven
}

async fn unknown_options_are_refused(bench: &Bench<'_>) -> Proof {
    let Some((registry, url, _)) = bench.subject().secrets() else {
        return Proof::not_proven("the subject has no address to build from");
    };
    let (scheme, rest) = url.split_once("://").unwrap_or((&url, ""));
    let place = rest.split('?').next().unwrap_or_default().rsplit('@').next().unwrap_or_default();
    match registry.open(&format!("{scheme}://{place}?no_such_option=1")) {
        Ok(transport) => panic!("`no_such_option` was taken: {transport:?}"),
        Err(error) => {
            let text = msgkit::Chain(&error).to_string();
            assert_eq!(error.kind(), msgkit::ErrorKind::Config);
            assert!(text.contains("no_such_option"), "the error names the option: {text}");
        }
    }
    Proof::Proven
}

//! This grammar against msgkit's own.

use msgkit::transport::Group;
use msgkit::{Pattern, Topic, TopicTemplate};

use super::*;

/// What a developer may write where a topic, a template, a pattern or a group is wanted, good and bad.
fn table() -> Vec<String> {
    let mut table: Vec<String> = [
        "",
        ".",
        "a",
        "a.",
        ".a",
        "a..b",
        "a.b.c",
        "a b",
        "a/b",
        "ä",
        "a.ü",
        "a\u{0}b",
        "a._.b",
        "_",
        "_x.y",
        "a.__b",
        "A-b.C_d",
        "3rd_party.app",
        "-",
        "msgkit",
        "msgkit.x",
        "msgkits.x",
        "x.msgkit",
        "amq",
        "amq.direct",
        "amqp.x",
        "$SYS.x",
        "x.$y",
        "__x.y",
        "__",
        "*",
        ">",
        "*.b",
        "a.*",
        "a.>",
        "a.>.b",
        "a.*.>",
        "a.#",
        "a.+",
        "a.**",
        "#",
        "a.x*",
        "a.b>",
        "a.{id}",
        "a.{id}.b",
        "{id}",
        "{id}.b",
        "a.{}",
        "a.{b.c}",
        "a.{b c}",
        "a.{b-c}",
        "a.{0}",
        "a.{ü}",
        "a.{id",
        "a.id}",
        "a.x{id}",
        "a.{{id}}",
        "a.{id}{id}",
        "a.{a}.{b}",
        "*.{id}",
        "a.~",
        "a.~3",
        "a.~3A",
        "a.~3a",
        "a.~FF",
        "a.~C3~BC",
        "AA~3ABB.t",
        "a.~~41",
    ]
    .map(str::to_owned)
    .into();
    for length in [47, 48, 49, 99, 100, 101, 255, 256] {
        table.push("a".repeat(length));
        table.push(format!("b.{}", "ä".repeat(length / 2)));
    }
    table
}

#[test]
fn templates_are_those_of_msgkit() {
    for text in table() {
        let (ours, theirs) = (template(&text), TopicTemplate::new(text.as_str()));
        assert_eq!(ours.is_ok(), theirs.is_ok(), "{text:?}: {ours:?}, {theirs:?}");
        if let (Ok(ours), Ok(theirs)) = (ours, theirs) {
            let ours: Vec<_> = ours
                .iter()
                .filter_map(|segment| match segment {
                    Segment::Field(name) => Some(name.as_str()),
                    Segment::Fixed(_) => None,
                })
                .collect();
            assert_eq!(ours, theirs.fields().collect::<Vec<_>>(), "{text:?}");
        }
    }
}

#[test]
fn patterns_and_groups_are_those_of_msgkit() {
    for text in table() {
        let (ours, theirs) = (pattern(&text), Pattern::new(text.as_str()));
        assert_eq!(ours.is_ok(), theirs.is_ok(), "pattern {text:?}: {ours:?}, {theirs:?}");
        let (ours, theirs) = (group("group", &text), Group::new(text.as_str()));
        assert_eq!(ours.is_ok(), theirs.is_ok(), "group {text:?}: {ours:?}, {theirs:?}");
    }
}

#[test]
fn a_static_template_is_a_topic() {
    for text in table() {
        let Ok(segments) = template(&text) else { continue };
        if !segments.iter().any(|segment| matches!(segment, Segment::Field(_))) {
            assert!(Topic::new(text.as_str()).is_ok(), "{text:?}");
        }
    }
}

#[test]
fn durations_are_those_of_msgkit() {
    for text in ["250ms", "1s", "5m", "1h", "1h 30m", "1h30m", "0s", " 2s ", "1m 1s 1ms", "90m"] {
        let theirs = msgkit::config::duration::parse(text).unwrap();
        assert_eq!(duration(text), Some(theirs), "{text}");
    }
    for text in ["", "5", "-1s", "soon", "s", "1m 1h", "1s 1s", "1 fortnight", "99999999999999999999h"] {
        assert_eq!(duration(text), None, "{text}");
        assert!(msgkit::config::duration::parse(text).is_err(), "{text}");
    }
}

#[test]
fn a_version_is_recognized() {
    assert!(is_versioned("crm.customer.created.v2"));
    assert!(!is_versioned("crm.v2.created"));
    assert!(!is_versioned("crm.v"));
    assert!(!is_versioned("crm.vx"));
}

#[test]
fn suggestions_are_near() {
    assert_eq!(nearest("grop", &["name", "group"]), Some("group"));
    assert_eq!(nearest("zzz", &["name", "group"]), None);
}

use super::*;

fn topic(name: &str) -> Topic {
    name.parse().unwrap()
}

fn pattern(name: &str) -> Pattern {
    name.parse().unwrap()
}

#[test]
fn topics_take_the_documented_grammar() {
    for good in [
        "a",
        "service_platform.auth.login_succeeded",
        "3rd_party.app",
        "A-b.C_d",
        "_x.y",
        "device.AA~3ABB.t",
        "x.~",
    ] {
        assert!(good.parse::<Topic>().is_ok(), "{good}");
    }
    for bad in [
        "",
        ".",
        "a.",
        ".a",
        "a..b",
        "a b",
        "a/b",
        "a.*",
        "a.>",
        "ä",
        "a._.b",
        "msgkit.x",
        "msgkit",
        "amq.direct",
        "$SYS.x",
        "__x.y",
        "a.~3",
        "a.~3a",
        "a.~FF",
        "a\u{0}b",
        "a.{id}",
        "a/b~41",
        "a b~41",
    ] {
        assert!(bad.parse::<Topic>().is_err(), "{bad:?}");
    }
}

#[test]
fn the_framework_reads_its_own_topics_from_a_wire() {
    assert!(Topic::from_wire("msgkit.dead_letter.storage").is_ok());
    assert!(Topic::from_wire("msgkit..x").is_err());
}

#[test]
fn errors_name_the_segment_and_the_fix() {
    let message = "device/1".parse::<Topic>().unwrap_err().to_string();
    assert!(message.contains("'/'") && message.contains("separated by `.`"), "{message}");
    let message = "a.>.b".parse::<Pattern>().unwrap_err().to_string();
    assert!(message.contains("last segment only"), "{message}");
    let message = "a.#".parse::<Pattern>().unwrap_err().to_string();
    assert!(message.contains("trailing `>`"), "{message}");
}

#[test]
fn lengths_are_limited() {
    assert!(Topic::new("a".repeat(255)).is_ok());
    assert!(Topic::new("a".repeat(256)).is_err());
    assert!(Pattern::new("a".repeat(101)).is_err());
    assert!(TopicTemplate::new("a".repeat(101)).is_err());
}

/// The table of wildcards measured on MQTT, AMQP and NATS brokers; `>` is one or more, reserved names stay out.
#[test]
fn the_wildcard_table() {
    let topics = ["a", "a.b", "a.b.c", "a.b.c.d", "x", "3rd_party.app"];
    let table: &[(&str, &[&str])] = &[
        ("a", &["a"]),
        ("a.*", &["a.b"]),
        ("a.>", &["a.b", "a.b.c", "a.b.c.d"]),
        ("*.b", &["a.b"]),
        ("*", &["a", "x"]),
        (">", &["a", "a.b", "a.b.c", "a.b.c.d", "x", "3rd_party.app"]),
        ("a.*.c", &["a.b.c"]),
        ("a.*.>", &["a.b.c", "a.b.c.d"]),
        ("*.*", &["a.b", "3rd_party.app"]),
        ("3rd_party.*", &["3rd_party.app"]),
    ];
    for (wanted, expected) in table {
        let matched: Vec<_> = topics.iter().copied().filter(|t| pattern(wanted).matches(&topic(t))).collect();
        assert_eq!(&matched, expected, "{wanted}");
    }
}

#[test]
fn a_leading_wildcard_never_matches_reserved_names() {
    for reserved in ["msgkit.retry.g.1", "amq.x", "$SYS.x", "__a.b"] {
        assert!(!pattern(">").matches_name(reserved));
        assert!(!pattern("*.*").matches_name(reserved));
        assert!(!pattern(">").may_match_destination(reserved));
    }
}

#[test]
fn destinations_with_dynamic_segments_may_match() {
    assert!(pattern("device.7.reading").may_match_destination("device._.reading"));
    assert!(pattern("device.>").may_match_destination("device._.reading"));
    assert!(!pattern("device.7.alert").may_match_destination("device._.reading"));
}

#[test]
fn overlap_and_containment() {
    assert!(pattern("a.*").overlaps(&pattern("*.b")));
    assert!(pattern("a.>").overlaps(&pattern("a.b.c")));
    assert!(!pattern("a.>").overlaps(&pattern("a")));
    assert!(!pattern("a.*").overlaps(&pattern("a.b.c")));
    assert!(pattern("a.>").contains(&pattern("a.*.c")));
    assert!(pattern("a.>").contains(&pattern("a.b.>")));
    assert!(!pattern("a.*").contains(&pattern("a.>")));
    assert!(!pattern("a.b").contains(&pattern("a.*")));
}

#[test]
fn templates_render_escape_and_read_back() {
    let template = TopicTemplate::new("device.{device_id}.telemetry").unwrap();
    assert_eq!(template.pattern().as_str(), "device.*.telemetry");
    assert_eq!(template.destination(), "device._.telemetry");
    assert_eq!(template.fields().collect::<Vec<_>>(), ["device_id"]);
    assert_eq!(template.render(&["AA:BB"]).unwrap().as_str(), "device.AA~3ABB.telemetry");
    assert_eq!(template.render(&["_"]).unwrap().as_str(), "device.~5F.telemetry");
    assert_eq!(template.render(&[""]).unwrap().as_str(), "device.~.telemetry");
    assert!(template.render(&[]).is_err());
    assert!(template.render(&["a", "b"]).is_err());
    assert!(template.render(&[&"x".repeat(300)]).is_err());
    assert!(TopicTemplate::new("{tenant}.x").is_err());
    assert!(TopicTemplate::new("a.{}").is_err());
    assert!(TopicTemplate::new("a.{b.c}").is_err());
}

#[test]
fn rendered_segments_round_trip() {
    for value in ["", "_", "__", "a", "AA:BB", "ü/1.5", "~", "~~41", "a b", "\u{0}"] {
        let rendered = Topic::render_segment(value);
        assert!(Topic::new(format!("x.{rendered}")).is_ok(), "{value:?} → {rendered}");
        assert_eq!(Topic::read_segment(&rendered).as_deref(), Some(value));
    }
}

#[test]
fn namespaces_hold_whole_segments() {
    let namespace =
        Namespace::new("crm.customer", "crm", "customers", NamespaceClass::BusinessProcess).unwrap();
    assert!(namespace.contains("crm.customer.created"));
    assert!(namespace.contains("crm.customer"));
    assert!(!namespace.contains("crm.customers"));
    assert!(namespace.pattern().matches(&topic("crm.customer.created")));
}

proptest::proptest! {
    /// The short way takes nothing that the long one refuses, and of what has no escape all that it takes.
    #[test]
    fn both_ways_of_reading_a_name_agree(name in "([a-b_.~-]|[A-F0-9]|[ü/ ]){0,8}") {
        let checked = name.split('.').all(|segment| super::check_segment(&name, segment, true).is_ok());
        let plain = super::is_plain_name(&name);
        proptest::prop_assert!(checked || !plain, "{name:?}");
        proptest::prop_assert!(plain || !checked || name.contains('~'), "{name:?}");
    }
}

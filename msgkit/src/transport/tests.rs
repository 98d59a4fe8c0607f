use std::collections::BTreeSet;

use proptest::prelude::*;

use super::*;

proptest! {
    /// Whatever order handlers finish in, the mark never passes an unsettled message, and reaches the last in the end.
    #[test]
    fn the_watermark_never_passes_what_is_unsettled(order in Just((0..40_u64).map(|n| n * 3).collect::<Vec<_>>()).prop_shuffle()) {
        let mut watermark = Watermark::new();
        let mut open: BTreeSet<u64> = (0..40).map(|n| n * 3).collect();
        for position in &open {
            watermark.received(*position).unwrap();
        }
        for position in order {
            let moved = watermark.settled(position).unwrap();
            open.remove(&position);
            if let Some(mark) = moved {
                prop_assert!(open.first().is_none_or(|unsettled| mark < *unsettled));
                prop_assert_eq!(watermark.mark(), Some(mark));
            }
            prop_assert_eq!(watermark.held_by(), open.first().copied());
            let above = (0..40).filter(|n| watermark.mark().is_none_or(|mark| n * 3 > mark)).count();
            prop_assert_eq!(watermark.open(), above);
        }
        prop_assert_eq!((watermark.mark(), watermark.open()), (Some(117), 0));
    }
}

#[test]
fn the_watermark_refuses_what_makes_no_sense() {
    let mut watermark = Watermark::new();
    watermark.received(5).unwrap();
    assert_eq!(watermark.received(5), Err(WatermarkError::NotAscending { position: 5, last: 5 }));
    assert_eq!(watermark.settled(4), Err(WatermarkError::Unknown { position: 4 }));
    assert_eq!(watermark.settled(5), Ok(Some(5)));
    assert_eq!(watermark.settled(5), Err(WatermarkError::Unknown { position: 5 }));
    let errors = [watermark.received(3).unwrap_err(), watermark.settled(4).unwrap_err()];
    assert_eq!(errors.map(|error| error.to_string()), ["position 3 came after 5", "position 4 is not open"]);
}

#[test]
fn addresses_are_read_and_never_tell_their_password() {
    let url = TransportUrl::parse("AMQP://us%40er:p%3Aw@host:5672/vhost?heartbeat=5&x").unwrap();
    assert_eq!((url.scheme(), url.user(), url.password()), ("amqp", Some("us@er"), Some("p:w")));
    assert_eq!(
        (url.address(), url.query().collect::<Vec<_>>()),
        ("host:5672/vhost", vec![("heartbeat", "5"), ("x", "")])
    );
    assert!(!format!("{url:?} {url}").contains("p:w"));
    assert_eq!(TransportUrl::parse("sqlite:a/b.db").unwrap().address(), "a/b.db");
    for bad in ["", "memory", "://x", "a b://x", "x://a:%zz@h"] {
        assert!(TransportUrl::parse(bad).is_err(), "{bad}");
    }
}

#[test]
fn a_password_in_the_wrong_place_is_not_told() {
    for wrong in ["mqtt:user:hunter2@host/p", "a:b://user:hunter2@host/p"] {
        let url = TransportUrl::parse(wrong).unwrap();
        assert!(!format!("{url} {url:?}").contains("hunt"), "{url}");
        assert!(url.to_string().ends_with("://…@host/p"), "{url}");
    }
    for wrong in [
        "mqtt://user:hunt/er2@host/p",
        "mqtt://user:hunt@er2/x@host/p",
        "mqtt://tenant/user:hunter2@host",
        "mqtt:///:guest:hunter2@host",
        "mqtt:user:hunter2@host",
        "mqtt://user:12/hunt@host",
        "kafka://user:hunt?er2=1@a:1,b:2",
    ] {
        let url = TransportUrl::parse(wrong).unwrap();
        let error = url.broker().unwrap_err().to_string();
        assert!(error.contains("%2F") && !error.contains("hunt") && !error.contains("er2"), "{error}");
    }
    let error = TransportUrl::parse("mqtt://user:hunt?er2@host").unwrap_err().to_string();
    assert!(error.contains("%3F") && !error.contains("hunt"), "{error}");
    for right in [
        "kafka://a:1,[::1]:2?user=me@home",
        "mqtt://u:p%40%2F@host:1/x%40y",
        "amqp://us@er:p@ss@host:1",
        "pubsub://123456789012/plant",
    ] {
        assert!(TransportUrl::parse(right).unwrap().broker().is_ok(), "{right}");
    }
    for file in [
        "sqlite:///data/me@home.db",
        "sqlite://data/me@home.db",
        "sqlite:2024/messages.db",
        "sqlite://C:/me@home.db",
    ] {
        assert!(TransportUrl::parse(file).is_ok(), "{file}");
    }
}

#[test]
fn a_wrong_option_names_its_key_and_not_its_value() {
    #[derive(Debug, serde::Deserialize)]
    #[serde(deny_unknown_fields)]
    #[allow(dead_code, reason = "only read")]
    struct Config {
        password: String,
    }
    let read = |toml: &str, url: &str| {
        let options = Options::from_toml("[transports.a.mqtt]", toml)?;
        options.read::<Config>(&TransportUrl::parse(url)?)
    };
    for (toml, url, wanted) in [
        ("password = 7222", "mqtt://h", "`password`: invalid type, expected a text in quotes"),
        (
            "password = [\"7222, expected x\"]",
            "mqtt://h",
            "`password`: invalid type, expected a text in quotes",
        ),
        ("password = \"7222", "mqtt://h", "no legal TOML"),
    ] {
        let error = crate::Chain(&read(toml, url).unwrap_err()).to_string();
        assert!(error.contains(wanted) && !error.contains("7222"), "{error}");
    }
}

#[test]
fn destinations_of_a_group_share_no_place_with_user_data() {
    let group = Group::new("g").unwrap();
    let retry =
        Destination::Retry { group: group.clone(), step: 2, delay: std::time::Duration::from_secs(1) };
    assert_eq!(retry.name(), "msgkit.retry.g.2");
    assert_eq!(Destination::DeadLetter(group).as_topic().as_str(), "msgkit.dead_letter.g");
    assert!(crate::Topic::new("msgkit.retry.g.2").is_err());
    for bad in ["", "a.b", "a b", &"x".repeat(49)] {
        assert!(Group::new(bad.to_owned()).is_err(), "{bad}");
    }
}

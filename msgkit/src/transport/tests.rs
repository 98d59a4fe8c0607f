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

//! `device.hw` killed in the middle of its replay goes on where it was.

use std::collections::BTreeSet;

use device_platform::device_hw::{Replay, Speed};
use msgkit::transport::{Group, Transport};

use crate::platform::{Launch, now};
use crate::story::until;

const READINGS: usize = 2_000;
const KILLS: usize = 3;

/// The ids of all messages that wait for `processing`, oldest first.
fn published(transport: &dyn Transport) -> Vec<String> {
    let operate = transport.operate().unwrap();
    let group = Group::new("processing").unwrap();
    let (mut ids, mut after) = (Vec::new(), None::<String>);
    loop {
        let page = now(operate.peek(&group, after.as_deref(), 500)).unwrap();
        let Some(last) = page.last() else { return ids };
        after = Some(last.position.to_string());
        ids.extend(page.iter().map(|peeked| peeked.message.envelope().unwrap().id().to_string()));
    }
}

#[test]
fn a_killed_replay_goes_on_where_it_was_and_skips_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().to_str().unwrap();
    let launch = Launch::default().with(&["--data", data, "--only", "device.hw", "--speed", "10000"]);
    let launch = launch.with(&["--readings", &READINGS.to_string()]);
    let wanted: Vec<String> =
        Replay::new(Speed::MAX).unwrap().up_to(READINGS).map(|due| due.row.id.to_string()).collect();
    let note = folder.path().join("device_hw.position");
    let noted = || std::fs::read_to_string(&note).unwrap_or_default();
    for kill in 1..=KILLS {
        let platform = launch.start();
        // So far that beginning anew would publish far more than a batch twice.
        until("it is further", || {
            let at = wanted.iter().position(|id| id == noted().trim());
            if at >= Some(kill * READINGS / 5) { Ok(()) } else { Err(format!("{at:?}")) }
        });
        platform.kill();
    }
    let platform = launch.start();
    assert!(platform.said.iter().any(|line| line.contains("on from where it was")), "{:?}", platform.said);
    until(
        "the replay is over",
        || if noted().trim() == wanted[READINGS - 1] { Ok(()) } else { Err(noted()) },
    );
    platform.kill();
    let transport = msgkit::Registry::new()
        .with(msgkit_transport_sqlite::scheme())
        .open(&format!("sqlite:{data}/messages.db"))
        .unwrap();
    let ids = published(&*transport);
    now(transport.close()).unwrap();
    assert_eq!(ids.iter().collect::<BTreeSet<_>>(), wanted.iter().collect(), "something was skipped");
    let most = READINGS + KILLS * 100;
    assert!(ids.len() <= most, "{} were published, at most a batch for each kill may be repeated", ids.len());
}

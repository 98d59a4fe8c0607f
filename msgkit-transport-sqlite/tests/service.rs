//! A service in a process of its own, killed at every point of a message's way.
//!
//! The observer of a child says each event, and stands still at the one at which it is to be killed: nothing of the
//! process runs between that point and the SIGKILL but what the transport does in the background.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a panic is how a test fails")]

mod process;
mod support;

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use msgkit::envelope::DeadLetterKind;
use msgkit::handler::{HandlerSpec, closure};
use msgkit::service::Shutdown;
use msgkit::telemetry::Event;
use msgkit::transport::{Operate, Publisher, Transport};
use msgkit::{Context, HandlerError, Message, Service};
use msgkit_transport_sqlite::Sqlite;
use process::{Process, say};
use serde::{Deserialize, Serialize};
use support::{DEADLINE, declaration, group, message, open, subscription};

/// Short, so that the dead are found soon; long for a machine under load that lets no process run.
const OPTIONS: &str = "lease = \"2s\"";
const GROUP: &str = "workers";
/// `event:n`: the event at whose n-th time the process stands still.
const STOP: &str = "MSGKIT_SQLITE_TEST_STOP";

#[derive(Debug, Serialize, Deserialize, Message)]
#[message(name = "test.said", topic = "a")]
struct Said(String);

/// Not a test of its own: what the children run.
#[tokio::test]
async fn child() {
    let Some((role, file)) = process::role() else { return };
    assert_eq!(role, "serve");
    let stop = std::env::var(STOP).ok();
    let stop = stop.as_deref().and_then(|stop| stop.split_once(':'));
    let stop = stop.map(|(event, times)| (event.to_owned(), times.parse::<u32>().unwrap()));
    let times = AtomicU32::new(0);
    let observer = move |event: &Event<'_>| {
        let Some((point, left)) = &stop else { return };
        if event.kind.name() == point && times.fetch_add(1, Ordering::SeqCst) + 1 == *left {
            say("stopped");
            loop {
                std::thread::park();
            }
        }
    };
    let spec = HandlerSpec::new(GROUP, GROUP)
        .unwrap()
        .with(closure(|said: Said, cx: Context| async move {
            let Said(name) = said;
            say(&format!("begun {name}"));
            match name.split('-').next().unwrap() {
                "flaky" if cx.attempt() == 1 => return Err("not yet".into()),
                "bad" => return Err(HandlerError::permanent("never")),
                // Only where it is to be killed.
                "slow" if std::env::var_os(STOP).is_some() => std::future::pending().await,
                "poison" => std::process::abort(),
                _ => {}
            }
            say(&format!("handled {name}"));
            Ok(())
        }))
        .retry(0, 2)
        .overrides(|policy| policy.breaker = Some(None));
    let mut shutdown = Shutdown::listen();
    let service = Service::new("shop").transport("sqlite", open(&file, OPTIONS)).spec(spec).observe(observer);
    let running = service.start().await.unwrap();
    shutdown.requested().await;
    say("draining");
    running.drain().await.unwrap();
    say("left");
}

/// A file with a group and its messages.
async fn prepared(names: &[&str]) -> (tempfile::TempDir, PathBuf, Sqlite) {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("m.db");
    let sqlite = open(&file, OPTIONS);
    sqlite.declare(&[declaration(subscription(GROUP, "a"))]).await.unwrap();
    sqlite.publish(names.iter().map(|name| message("a", name)).collect()).await.unwrap();
    (directory, file, sqlite)
}

/// Waits until nothing waits, is held, or is delayed.
async fn until_idle(sqlite: &Sqlite) {
    loop {
        let group = &sqlite.groups().await.unwrap()[0];
        if group.waiting == 0 && group.in_hand == Some(0) && group.delayed == 0 {
            return;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// The dead letters: what each says, its kind, and its attempts.
async fn letters(sqlite: &Sqlite) -> Vec<(String, DeadLetterKind, u32)> {
    let letters = sqlite.dead_letters(&group(GROUP), None, 100).await.unwrap();
    letters
        .iter()
        .map(|letter| {
            let envelope = letter.message.envelope().unwrap();
            let name = String::from_utf8_lossy(envelope.payload()).trim_matches('"').to_owned();
            let why = envelope.dead_letter().unwrap();
            (name, why.kind, why.attempts)
        })
        .collect()
}

/// How often each message was handled, as the processes tell.
#[derive(Debug, Default)]
struct Ledger(BTreeMap<String, u32>);

impl Ledger {
    fn take(&mut self, lines: impl IntoIterator<Item = String>) {
        for line in lines {
            if let Some(name) = line.strip_prefix("handled ") {
                *self.0.entry(name.to_owned()).or_default() += 1;
            }
        }
    }

    /// Each message is handled, at most `spare` of them twice; what fails for good is a dead letter.
    async fn check(&self, names: &[&str], sqlite: &Sqlite, spare: usize, point: &str) {
        let (bad, good): (BTreeSet<_>, BTreeSet<_>) = names.iter().partition(|name| name.starts_with("bad"));
        let handled: BTreeSet<_> = self.0.keys().map(String::as_str).collect();
        assert_eq!(handled, good, "{point}: what was handled");
        let twice = self.0.values().filter(|count| **count > 1).count();
        assert!(twice <= spare, "{point}: {twice} handled twice, {:?}", self.0);
        let letters = letters(sqlite).await;
        let dead: BTreeSet<_> = letters.iter().map(|(name, ..)| name.as_str()).collect();
        assert_eq!(dead, bad, "{point}: dead letters");
        assert!(letters.len() <= bad.len() + spare, "{point}: {letters:?}");
        let innocent =
            letters.iter().all(|(_, kind, attempts)| (*kind, *attempts) == (DeadLetterKind::Rejected, 1));
        assert!(innocent, "{point}: {letters:?}");
    }
}

/// Lets a process without a fault finish what is left, and drain.
async fn finish(sqlite: &Sqlite, file: &Path, ledger: &mut Ledger) {
    let mut last = Process::start("serve", file);
    tokio::time::timeout(DEADLINE, until_idle(sqlite)).await.expect("what is left is handled");
    last.terminate();
    let lines: Vec<_> = std::iter::from_fn(|| last.next()).collect();
    assert_eq!(lines.last().map(String::as_str), Some("left"));
    ledger.take(lines);
}

const NAMES: [&str; 8] = ["ok-1", "flaky-1", "bad-1", "ok-2", "flaky-2", "bad-2", "ok-3", "ok-4"];

#[tokio::test]
async fn a_kill_at_any_point_of_a_messages_way_loses_nothing() {
    // Before handling, in it, after it and before the ack, after the ack was handed over; after a failure, and between
    // a copy and the settlement of its original.
    for point in ["received", "started", "succeeded", "settled", "failed", "retry_scheduled", "dead_lettered"]
    {
        let (_directory, file, sqlite) = prepared(&NAMES).await;
        let mut ledger = Ledger::default();
        let mut victim = Process::start_with("serve", &file, &[(STOP, &format!("{point}:2"))]);
        let until_there = std::iter::from_fn(|| victim.next().filter(|line| line != "stopped"));
        ledger.take(until_there.collect::<Vec<_>>());
        assert!(victim.child.try_wait().unwrap().is_none(), "{point}: it stands still");
        ledger.take(victim.kill());
        finish(&sqlite, &file, &mut ledger).await;
        // One lane: one message was under way, and what was handed over before it may not have been committed.
        ledger.check(&NAMES, &sqlite, 3, point).await;
    }
}

#[tokio::test]
async fn a_kill_in_the_middle_of_a_drain_loses_nothing() {
    let names = ["ok-1", "slow-1", "ok-2", "ok-3", "ok-4"];
    let (_directory, file, sqlite) = prepared(&names).await;
    let mut ledger = Ledger::default();
    let mut victim = Process::start_with("serve", &file, &[(STOP, "never:1")]);
    let before = std::iter::from_fn(|| victim.next().filter(|line| line != "begun slow-1"));
    ledger.take(before.collect::<Vec<_>>());
    victim.terminate();
    // The drain waits for the slow one, which is never done.
    assert_eq!(victim.next().as_deref(), Some("draining"));
    ledger.take(victim.kill());
    assert_eq!(ledger.0.len(), 1, "{ledger:?}");
    finish(&sqlite, &file, &mut ledger).await;
    ledger.check(&names, &sqlite, 1, "drain").await;
}

#[tokio::test]
async fn a_message_that_aborts_its_process_is_condemned_while_the_others_go_on() {
    let names: Vec<String> =
        (0..40).map(|n| if n == 7 { "poison".to_owned() } else { format!("ok-{n}") }).collect();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    let (_directory, file, sqlite) = prepared(&names).await;
    let mut ledger = Ledger::default();
    let mut members: Vec<_> = (0..2).map(|_| Process::start("serve", &file)).collect();
    let mut deaths = 0;
    let condemned = async {
        while letters(&sqlite).await.is_empty() {
            for member in &mut members {
                if member.child.try_wait().unwrap().is_some() {
                    deaths += 1;
                    let dead = std::mem::replace(member, Process::start("serve", &file));
                    ledger.take(dead.kill());
                }
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        until_idle(&sqlite).await;
    };
    tokio::time::timeout(DEADLINE * 2, condemned).await.expect("the poison is found");
    for mut member in members {
        member.terminate();
        ledger.take(std::iter::from_fn(|| member.next()));
    }
    let letters = letters(&sqlite).await;
    assert_eq!(
        letters.iter().map(|(name, kind, _)| (name.as_str(), *kind)).collect::<Vec<_>>(),
        [("poison", DeadLetterKind::Crash)]
    );
    let handled: BTreeSet<_> = ledger.0.keys().map(String::as_str).collect();
    let innocent: BTreeSet<_> = names.iter().copied().filter(|name| *name != "poison").collect();
    assert_eq!(handled, innocent);
    assert!((2..=8).contains(&deaths), "{deaths} processes died of it");
}

#[test]
fn the_files_in_the_readme_are_taken() {
    let registry = msgkit::Registry::new().with(msgkit_transport_sqlite::scheme());
    msgkit_testing::options::check_examples(
        concat!(env!("CARGO_MANIFEST_DIR"), "/README.md"),
        &registry,
        &[],
    );
}

//! What the conformance suite cannot see from outside: real deaths of a process, files that somebody else broke.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a panic is how a test fails")]

use std::collections::VecDeque;
use std::fs::{self, File};
use std::future::Future;
use std::io::{BufRead as _, BufReader};
use std::path::Path;
use std::pin::pin;
use std::process::{Command, Stdio};
use std::task::{Context, Waker};
use std::time::Duration;

use msgkit::envelope::{Clock, ContentType};
use msgkit::transport::{
    Deliveries, Delivery, Incoming, Outgoing, Publisher as _, Subscriber as _, Subscription, Transport as _,
    TransportErrorKind,
};
use msgkit::{Envelope, Group, Timestamp};
use transport_guide::{Files, FilesConfig};

/// Set for the child that is going to be killed: its directory.
const DOOMED: &str = "TRANSPORT_GUIDE_DOOMED";

fn open(directory: &Path) -> Files {
    Files::with(directory, FilesConfig::default(), Clock::system()).unwrap()
}

fn message(topic: &str, text: &str) -> Outgoing {
    let topic = topic.parse().unwrap();
    let payload = format!("\"{text}\"").into();
    Outgoing::to_topic(Envelope::new(
        "tests",
        "tests.text",
        topic,
        ContentType::Json,
        payload,
        Timestamp::now(),
    ))
}

async fn reader(files: &Files, group: &str, pattern: &str) -> Box<dyn Deliveries> {
    let group = Group::new(group.to_owned()).unwrap();
    files.subscribe(&Subscription::group(group, [pattern.parse().unwrap()])).await.unwrap()
}

async fn next(reader: &mut dyn Deliveries) -> Delivery {
    let mut came = VecDeque::new();
    let receiving = reader.receive(1, &mut came);
    tokio::time::timeout(Duration::from_secs(30), receiving).await.expect("a message comes").unwrap();
    came.pop_front().unwrap()
}

fn text(delivery: &Delivery) -> String {
    String::from_utf8_lossy(delivery.message().envelope().unwrap().payload()).trim_matches('"').to_owned()
}

fn count(directory: &Path, room: &str) -> usize {
    fs::read_dir(directory.join("groups/g").join(room)).unwrap().count()
}

/// Takes a message in hand and waits to be killed. Only as the child of the next test.
#[tokio::test]
#[ignore = "the child of another test"]
async fn doomed() {
    let Ok(directory) = std::env::var(DOOMED) else { return };
    let files = open(Path::new(&directory));
    let mut reader = reader(&files, "g", "a.b").await;
    files.publish(vec![message("a.b", "settled"), message("a.b", "in hand")]).await.unwrap();
    next(&mut *reader).await.ack();
    let held = next(&mut *reader).await;
    println!("ready to die with `{}`", text(&held));
    std::future::pending::<()>().await;
}

#[tokio::test]
async fn what_a_killed_process_had_in_hand_comes_again_with_its_start_counted() {
    let directory = tempfile::tempdir().unwrap();
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["--ignored", "--exact", "doomed", "--nocapture"])
        .env(DOOMED, directory.path())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let said = BufReader::new(child.stdout.take().unwrap())
        .lines()
        .map_while(Result::ok)
        .find(|line| line.contains("ready to die with"));
    assert!(said.is_some_and(|line| line.contains("in hand")));

    // While the child lives, its message is its own.
    let early = open(directory.path());
    reader(&early, "g", "a.b").await.close().await.unwrap();
    assert_eq!((count(directory.path(), "ready"), count(directory.path(), "in-hand")), (0, 1));
    early.close().await.unwrap();

    child.kill().unwrap();
    child.wait().unwrap();
    let files = open(directory.path());
    let mut reader = reader(&files, "g", "a.b").await;
    let delivery = next(&mut *reader).await;
    assert_eq!((text(&delivery).as_str(), delivery.count()), ("in hand", 2));
    delivery.ack();
    assert_eq!((count(directory.path(), "ready"), count(directory.path(), "in-hand")), (0, 0));
}

#[tokio::test]
async fn what_was_not_taken_is_named_and_can_be_published_again() {
    let directory = tempfile::tempdir().unwrap();
    let files = open(directory.path());
    let mut healthy = reader(&files, "g", "a.b").await;
    let mut broken = reader(&files, "broken", "x.y").await;
    let room = directory.path().join("groups/broken/ready");
    fs::remove_dir(&room).unwrap();
    let batch = ["1", "2", "3"].map(|text| message(if text == "2" { "x.y" } else { "a.b" }, text));
    let error = files.publish(batch.to_vec()).await.unwrap_err();
    assert!(error.is_temporary());
    let rejected: Vec<_> = error.into_rejected().into_iter().map(|rejected| rejected.message).collect();
    let ids: Vec<_> = rejected.iter().map(|message| message.envelope.id().clone()).collect();
    assert_eq!(ids, [batch[1].envelope.id().clone(), batch[2].envelope.id().clone()], "nothing overtakes it");

    fs::create_dir(&room).unwrap();
    files.publish(rejected).await.unwrap();
    assert_eq!(text(&next(&mut *broken).await), "2");
    let (one, three) = (next(&mut *healthy).await, next(&mut *healthy).await);
    assert_eq!([text(&one), text(&three)], ["1", "3"]);
}

#[tokio::test]
async fn a_write_that_broke_off_is_no_message() {
    let directory = tempfile::tempdir().unwrap();
    let files = open(directory.path());
    let mut reader = reader(&files, "g", "a.b").await;
    fs::write(
        directory.path().join("new"),
        "{\"specversion\":\"1.0\",\"id\":\"half, and longer than what comes now",
    )
    .unwrap();
    files.publish(vec![message("a.b", "whole")]).await.unwrap();
    let delivery = next(&mut *reader).await;
    assert_eq!(text(&delivery), "whole");
    assert_eq!(count(directory.path(), "ready"), 0);
}

#[tokio::test]
async fn a_file_that_is_no_envelope_comes_malformed_and_can_be_settled() {
    let directory = tempfile::tempdir().unwrap();
    let files = open(directory.path());
    let mut reader = reader(&files, "g", "a.b").await;
    fs::write(directory.path().join("groups/g/ready/00000000000000000007-0.json"), b"\xff no event").unwrap();
    let delivery = next(&mut *reader).await;
    let Incoming::Malformed(malformed) = delivery.message() else { panic!("{delivery:?}") };
    assert_eq!(malformed.payload.as_deref(), Some(&b"\xff no event"[..]));
    delivery.ack();
    assert_eq!((count(directory.path(), "ready"), count(directory.path(), "in-hand")), (0, 0));
}

#[tokio::test]
async fn a_receive_that_is_dropped_before_its_turn_takes_nothing() {
    let directory = tempfile::tempdir().unwrap();
    let files = open(directory.path());
    let mut first = reader(&files, "g", "a.b").await;
    files.publish(vec![message("a.b", "1")]).await.unwrap();
    let turn = File::options().write(true).open(directory.path().join("lock")).unwrap();
    turn.lock().unwrap();
    {
        let mut came = VecDeque::new();
        let receiving = pin!(first.receive(8, &mut came));
        assert!(receiving.poll(&mut Context::from_waker(Waker::noop())).is_pending());
    }
    turn.unlock().unwrap();
    // It is there for another member of the group, though the first one never settles or leaves.
    assert_eq!(text(&next(&mut *reader(&files, "g", "a.b").await).await), "1");
}

#[tokio::test]
async fn a_file_in_place_of_the_directory_is_refused_for_good() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("a file");
    fs::write(&path, "").unwrap();
    let error = open(&path).publish(vec![message("a.b", "1")]).await.unwrap_err();
    assert_eq!((error.kind(), error.rejected().len()), (TransportErrorKind::Refused, 1));
}

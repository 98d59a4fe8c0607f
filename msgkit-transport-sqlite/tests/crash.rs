//! Several processes on one file, and what is left when one of them is killed.
//!
//! The test kills a child of its own with SIGKILL at the chosen point (`process`).
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a panic is how a test fails")]

mod process;
mod support;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::path::Path;
use std::time::Duration;

use msgkit::transport::{Acks, Deliveries, Delivery, Operate, Publisher, Subscriber, Transport};
use msgkit_transport_sqlite::Sqlite;
use process::{Process, say};
use support::{declaration, message, open, receive, subscription, text};

/// Short, so that the dead are found soon; long for a machine under load that lets no process run.
const OPTIONS: &str = "lease = \"2s\"";
const GROUP: &str = "workers";

/// Not a test of its own: what the children run.
#[tokio::test]
async fn child() {
    let Some((role, file)) = process::role() else { return };
    // Nobody dies where two compete.
    let sqlite = open(&file, if role == "compete" { "lease = \"60s\"" } else { OPTIONS });
    match role.as_str() {
        "publish" => publish_for_ever(&sqlite).await,
        "hold" => hold(&sqlite).await,
        "claim" => claim_for_ever(&sqlite).await,
        "compete" => compete(&sqlite).await,
        other => panic!("no role {other}"),
    }
}

/// Publishes batches from four tasks and tells of each one that is confirmed.
async fn publish_for_ever(sqlite: &Sqlite) {
    let publish = async |task: usize| {
        for batch in 0.. {
            let names: Vec<_> = (0..20).map(|n| format!("{task}-{batch}-{n}")).collect();
            sqlite.publish(names.iter().map(|name| message("a", name)).collect()).await.unwrap();
            say(&names.join(" "));
        }
    };
    tokio::join!(publish(0), publish(1), publish(2), publish(3));
}

/// Receives five messages, settles the first two, but dies before it knows more than its hand-over of the third.
async fn hold(sqlite: &Sqlite) {
    let mut deliveries = sqlite.subscribe(&subscription(GROUP, "a")).await.unwrap();
    let mut received = VecDeque::from(receive(&mut *deliveries, 5).await);
    for _ in 0..2 {
        received.pop_front().unwrap().ack();
    }
    deliveries.flush().await.unwrap();
    // Handled, and handed over; nothing runs between here and the kill that could commit it.
    received.pop_front().unwrap().ack();
    say("holding");
    std::thread::park();
}

/// Claims and gives back as fast as it goes.
async fn claim_for_ever(sqlite: &Sqlite) {
    let mut deliveries = sqlite.subscribe(&subscription(GROUP, "a")).await.unwrap();
    loop {
        let received = receive(&mut *deliveries, 7).await;
        say(&received.len().to_string());
    }
}

/// Handles what it gets, and tells, until there is nothing left and its standard input ends.
async fn compete(sqlite: &Sqlite) {
    let mut deliveries = sqlite.subscribe(&subscription(GROUP, "a").with_prefetch(8)).await.unwrap();
    say("ready");
    let mut received = VecDeque::new();
    let ended = tokio::task::spawn_blocking(|| std::io::stdin().read_line(&mut String::new()));
    let mut ended = std::pin::pin!(ended);
    loop {
        tokio::select! {
            result = deliveries.receive(8, &mut received) => result.unwrap(),
            _ = &mut ended => break,
        }
        let mut acks = Acks::new();
        for delivery in received.drain(..) {
            say(&text(&delivery));
            delivery.ack_into(&mut acks);
        }
    }
    deliveries.close().await.unwrap();
    sqlite.close().await.unwrap();
    say("left");
}

/// Everything that lies in the group, with its count of starts; settled.
async fn drain(sqlite: &Sqlite, deliveries: &mut dyn Deliveries) -> BTreeMap<String, u32> {
    let mut all = BTreeMap::new();
    loop {
        let group = &sqlite.groups().await.unwrap()[0];
        if group.waiting == 0 && group.in_hand == Some(0) {
            return all;
        }
        for delivery in receive(deliveries, 1).await {
            all.insert(text(&delivery), delivery.count());
            delivery.ack();
        }
        deliveries.flush().await.unwrap();
    }
}

async fn prepared(messages: usize) -> (tempfile::TempDir, std::path::PathBuf, Sqlite) {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("m.db");
    let sqlite = open(&file, OPTIONS);
    sqlite.declare(&[declaration(subscription(GROUP, "a"))]).await.unwrap();
    sqlite.publish((0..messages).map(|n| message("a", &n.to_string())).collect()).await.unwrap();
    (directory, file, sqlite)
}

#[tokio::test]
async fn what_a_killed_process_held_comes_again_with_its_starts_counted() {
    let (_directory, file, sqlite) = prepared(6).await;
    let mut holder = Process::start("hold", &file);
    assert_eq!(holder.next().as_deref(), Some("holding"));
    holder.kill();
    let mut deliveries = sqlite.subscribe(&subscription(GROUP, "a")).await.unwrap();
    let found = drain(&sqlite, &mut *deliveries).await;
    // 0 and 1 were settled, 5 was never claimed; 2 was handled and its settlement lost.
    let expected = [("2", 2), ("3", 2), ("4", 2), ("5", 1)].map(|(name, count)| (name.to_owned(), count));
    assert_eq!(found, BTreeMap::from(expected));
}

#[tokio::test]
async fn what_was_confirmed_survives_a_kill_in_the_middle_of_a_commit() {
    let (_directory, file, sqlite) = prepared(0).await;
    let mut confirmed = BTreeSet::new();
    for round in 0..5 {
        let mut publisher = Process::start("publish", &file);
        let mut mine: Vec<String> = (0..20 * (round + 1)).map(|_| publisher.next().unwrap()).collect();
        mine.extend(publisher.kill());
        // A line that the kill has cut names nothing that was published whole.
        let names = mine.iter().filter(|line| line.split(' ').count() == 20).flat_map(|line| line.split(' '));
        confirmed.extend(names.map(str::to_owned));
    }
    let mut deliveries = sqlite.subscribe(&subscription(GROUP, "a")).await.unwrap();
    let mut found = BTreeSet::new();
    loop {
        let left = sqlite.groups().await.unwrap()[0].waiting;
        if left == 0 {
            break;
        }
        let some = receive(&mut *deliveries, usize::try_from(left.min(100)).unwrap()).await;
        found.extend(some.iter().map(text));
        some.into_iter().for_each(Delivery::ack);
        deliveries.flush().await.unwrap();
    }
    assert!(confirmed.len() >= 20 * 20 * 5, "{}", confirmed.len());
    let lost: Vec<_> = confirmed.difference(&found).collect();
    assert!(lost.is_empty(), "lost {lost:?}");
}

#[tokio::test]
async fn a_kill_in_the_middle_of_claims_loses_nothing() {
    let (_directory, file, sqlite) = prepared(40).await;
    for round in 0..3 {
        let mut claimer = Process::start("claim", &file);
        for _ in 0..20 * (round + 1) {
            claimer.next().unwrap();
        }
        claimer.kill();
    }
    let mut deliveries = sqlite.subscribe(&subscription(GROUP, "a")).await.unwrap();
    let found = drain(&sqlite, &mut *deliveries).await;
    assert_eq!(found.len(), 40);
    // Seven messages at most were in the hand of each of the three.
    let starts: u32 = found.values().sum();
    assert!((40..=40 + 3 * 7).contains(&starts), "{found:?}");
}

#[tokio::test]
async fn two_processes_share_a_group_and_each_message_comes_once() {
    let (_directory, file, sqlite) = prepared(0).await;
    let mut processes = [Process::start("compete", &file), Process::start("compete", &file)];
    for process in &mut processes {
        assert_eq!(process.next().as_deref(), Some("ready"));
    }
    for n in 0..100 {
        sqlite.publish((0..5).map(|m| message("a", &format!("{n}-{m}"))).collect()).await.unwrap();
        // So that the slower one has its turn as well.
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let empty = async {
        loop {
            let group = &sqlite.groups().await.unwrap()[0];
            if group.waiting == 0 && group.in_hand == Some(0) {
                return;
            }
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(support::DEADLINE, empty).await.expect("the two handle everything");
    let mut all = Vec::new();
    for process in &mut processes {
        drop(process.input.take());
        let mut mine: Vec<_> = std::iter::from_fn(|| process.next()).collect();
        assert_eq!(mine.pop().as_deref(), Some("left"));
        assert!(!mine.is_empty(), "both take part");
        all.append(&mut mine);
    }
    assert_eq!(all.len(), 500);
    assert_eq!(all.iter().collect::<BTreeSet<_>>().len(), 500);
}

/// A machine that stands still, or sleeps, ages the leases of all: who wakes first takes nobody for dead.
#[tokio::test]
async fn who_stood_still_buries_nobody() {
    let (_directory, file, one) = prepared(2).await;
    let two = open(&file, OPTIONS);
    let wanted = subscription(GROUP, "a").with_prefetch(1);
    let (mut first, mut second) =
        (one.subscribe(&wanted).await.unwrap(), two.subscribe(&wanted).await.unwrap());
    let held = [receive(&mut *first, 1).await, receive(&mut *second, 1).await];
    // Nothing of either runs meanwhile.
    std::thread::sleep(Duration::from_secs(3));
    // Both have given signs of life since.
    tokio::time::sleep(Duration::from_secs(2)).await;
    held.into_iter().flatten().for_each(Delivery::ack);
    for deliveries in [&mut first, &mut second] {
        deliveries.flush().await.unwrap();
    }
    assert_eq!((one.lost_leases(), two.lost_leases()), (0, 0));
    assert_eq!(one.groups().await.unwrap()[0].waiting, 0);
}

#[tokio::test]
async fn an_ephemeral_subscription_goes_with_its_process() {
    let (_directory, file, sqlite) = prepared(0).await;
    // It gives one sign of life when it begins, and then none for twenty minutes.
    let dead = open(&file, "lease = \"1h\"");
    let patterns = ["b".parse().unwrap()];
    let alone = dead.subscribe(&msgkit::transport::Subscription::ephemeral(patterns)).await.unwrap();
    let mut connection = connect(&file).await;
    let _living = sqlite.subscribe(&subscription(GROUP, "a")).await.unwrap();
    let gone = async {
        loop {
            // A process that is stopped in its tracks, as far as the file can tell. More than once: its one sign of
            // life may come after the first.
            let stop = "UPDATE msgkit_process SET lease = 0 WHERE id = 1";
            sqlx::raw_sql(stop).execute(&mut connection).await.unwrap();
            sqlite.publish(vec![message("a", "x")]).await.unwrap();
            let groups: i64 =
                sqlx::query_scalar("SELECT count(*) FROM msgkit_group WHERE name IS NULL AND process = 1")
                    .fetch_one(&mut connection)
                    .await
                    .unwrap();
            if groups == 0 {
                return;
            }
        }
    };
    tokio::time::timeout(support::DEADLINE, gone).await.expect("the dead are found");
    drop(alone);
}

#[tokio::test]
async fn a_process_that_was_taken_for_dead_takes_its_place_again() {
    let (_directory, file, published) = prepared(1).await;
    // No sign of life is due for twenty minutes: the settlement tells it.
    let sqlite = open(&file, "lease = \"1h\"");
    published.close().await.unwrap();
    let mut deliveries = sqlite.subscribe(&subscription(GROUP, "a")).await.unwrap();
    let held = receive(&mut *deliveries, 1).await;
    // What another process does that finds this one's lease at its end.
    let mut connection = connect(&file).await;
    let bury =
        "UPDATE msgkit_queue SET member = NULL; DELETE FROM msgkit_member; DELETE FROM msgkit_process;";
    sqlx::raw_sql(bury).execute(&mut connection).await.unwrap();
    held.into_iter().for_each(Delivery::ack);
    deliveries.flush().await.unwrap();
    assert_eq!(sqlite.lost_leases(), 1);
    let again = receive(&mut *deliveries, 1).await;
    assert_eq!((text(&again[0]).as_str(), again[0].count()), ("0", 2));
}

async fn connect(file: &Path) -> sqlx::SqliteConnection {
    use sqlx::ConnectOptions as _;
    sqlx::sqlite::SqliteConnectOptions::new()
        .filename(file)
        .busy_timeout(support::DEADLINE)
        .connect()
        .await
        .unwrap()
}

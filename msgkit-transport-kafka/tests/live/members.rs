//! Members of a group that join, leave and are killed while handlers run. The test starts itself again as a child, which
//! writes what it handles into a ledger that all members share, and reads from its standard input when to leave.

use std::collections::{BTreeMap, VecDeque};
use std::fs::{File, OpenOptions};
use std::io::{BufRead as _, BufReader, Lines, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::time::{Duration, Instant};

use msgkit::transport::{Acks, Operate as _, Publisher as _, Transport as _};
use msgkit::{Context, HandlerError, Message, Service};
use msgkit_transport_kafka::{Kafka, KafkaConfig};

use super::bench::{PATIENCE, declaration, group, message, reader, shared, take, text};
use crate::support;

const ROLE: &str = "MSGKIT_KAFKA_TEST_ROLE";
const PLACE: &str = "MSGKIT_KAFKA_TEST_PLACE";
pub(super) const GROUP: &str = "workers";
const PARTITIONS: u16 = 8;
const KEYS: usize = 40;

pub(super) fn config(prefix: &str) -> KafkaConfig {
    let mut config = support::quick(prefix);
    config.partitions = PARTITIONS;
    // Short, so that the dead are found soon; long for a machine under load that lets no process run.
    config.session_timeout = Duration::from_secs(4);
    config
}

/// The same where nobody dies.
fn patient(prefix: &str) -> KafkaConfig {
    let mut config = config(prefix);
    config.session_timeout = Duration::from_secs(30);
    config
}

/// Not a test of its own: what the children run.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn child() {
    let (Ok(role), Ok(place)) = (std::env::var(ROLE), std::env::var(PLACE)) else { return };
    support::show_logs();
    let mut place = place.splitn(3, ' ');
    let (url, prefix, ledger) = (place.next().unwrap(), place.next().unwrap(), place.next().unwrap());
    let config = if role == "scale" { patient(prefix) } else { config(prefix) };
    let kafka = support::kafka(url, config).unwrap();
    match role.as_str() {
        "work" => work(&kafka, Path::new(ledger)).await,
        "service" => service(kafka, Path::new(ledger)).await,
        "scale" => super::scale::member(kafka, Path::new(ledger)).await,
        other => panic!("no role {other}"),
    }
}

pub(super) fn say(line: &str) {
    let mut out = std::io::stdout().lock();
    writeln!(out, "> {line}").and_then(|()| out.flush()).expect("the test listens");
}

/// A line in the ledger; appending one is one step for all processes.
fn note(ledger: &mut File, line: &str) {
    ledger.write_all(format!("{line}\n").as_bytes()).unwrap();
}

fn open_ledger(path: &Path) -> File {
    OpenOptions::new().create(true).append(true).open(path).unwrap()
}

/// Handles what it gets until its standard input ends.
async fn work(kafka: &Kafka, ledger: &Path) {
    let mut ledger = open_ledger(ledger);
    let mut deliveries = reader(kafka, &group(GROUP, "work.>").with_prefetch(64)).await;
    say("ready");
    let mut received = VecDeque::new();
    let ended = tokio::task::spawn_blocking(|| std::io::stdin().read_line(&mut String::new()));
    let mut ended = std::pin::pin!(ended);
    loop {
        tokio::select! {
            result = deliveries.receive(16, &mut received) => result.unwrap(),
            _ = &mut ended => break,
        }
        let mut acks = Acks::new();
        for delivery in received.drain(..) {
            note(&mut ledger, &text(&delivery));
            delivery.ack_into(&mut acks);
        }
    }
    deliveries.close().await.unwrap();
    kafka.close().await.unwrap();
    say("left");
}

#[derive(serde::Serialize, serde::Deserialize, Message)]
#[message(name = "work.done", topic = "work.service", key = key)]
struct Work {
    key: String,
    kills: bool,
}

/// A whole service, whose handler kills the process on one message.
async fn service(kafka: Kafka, ledger: &Path) {
    let ledger = ledger.to_owned();
    let handler = move |work: Work, _: Context| {
        let ledger = ledger.clone();
        async move {
            note(&mut open_ledger(&ledger), &work.key);
            if work.kills {
                std::process::abort();
            }
            Ok::<(), HandlerError>(())
        }
    };
    let mut policy = msgkit::Policy::default();
    policy.max_starts = 2;
    let service =
        Service::new("victim").transport("kafka", kafka).policy("default", policy).on(GROUP, handler);
    let running = service.start().await.unwrap();
    say("ready");
    let _ = tokio::task::spawn_blocking(|| std::io::stdin().read_line(&mut String::new())).await;
    running.drain().await.unwrap();
    say("left");
}

/// A child, killed when it is dropped.
pub(super) struct Process {
    child: Child,
    lines: Lines<BufReader<ChildStdout>>,
    input: Option<ChildStdin>,
}

impl Process {
    pub(super) fn start(role: &str, place: &str) -> Self {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["live::members::child", "--exact", "--nocapture", "--test-threads=1"])
            .env(ROLE, role)
            .env(PLACE, place)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::inherit())
            .spawn()
            .unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let input = child.stdin.take();
        Self { child, lines, input }
    }

    /// What it says next; `None` where it is dead.
    pub(super) fn next(&mut self) -> Option<String> {
        self.lines.by_ref().find_map(|line| match line {
            Ok(line) => line.split_once("> ").map(|(_, said)| Some(said.to_owned())),
            Err(_) => Some(None),
        })?
    }

    /// Lets it leave in good order.
    pub(super) fn leave(mut self) {
        self.input = None;
        while self.next().is_some_and(|said| said != "left") {}
        self.child.wait().unwrap();
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// What the members have handled, in order.
pub(super) fn handled(ledger: &Path) -> Vec<String> {
    std::fs::read_to_string(ledger).unwrap_or_default().lines().map(str::to_owned).collect()
}

/// Waits until the ledger has so many lines.
fn reached(ledger: &Path, wanted: usize) {
    let until = Instant::now() + PATIENCE;
    while handled(ledger).len() < wanted {
        assert!(Instant::now() < until, "{} of {wanted} were handled", handled(ledger).len());
        std::thread::sleep(Duration::from_millis(20));
    }
}

fn messages(from: usize, to: usize) -> Vec<msgkit::transport::Outgoing> {
    (from..to)
        .flat_map(|n| (0..KEYS).map(move |key| (n, key)))
        .map(|(n, key)| message("work.items", Some(&format!("k{key}")), &format!("k{key} {n}")))
        .collect()
}

pub(super) fn places(test: &str) -> Option<(String, String, tempfile::TempDir, PathBuf)> {
    let (url, prefix) = shared(test)?;
    let directory = tempfile::tempdir().unwrap();
    let ledger = directory.path().join("ledger");
    let place = format!("{url} {prefix} {}", ledger.display());
    Some((place, prefix, directory, ledger))
}

/// Two members, one more, one killed, one that leaves: nothing is lost, and no message of a key is begun before the one
/// before it was.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn members_join_leave_and_die_while_handlers_run() {
    let Some((place, prefix, _directory, ledger)) = places("members") else { return };
    // 50,000 in the recorded run.
    let total =
        std::env::var("MSGKIT_KAFKA_MESSAGES").ok().and_then(|text| text.parse().ok()).unwrap_or(6_000_usize);
    let rounds = total / KEYS;
    let kafka = support::kafka(place.split(' ').next().unwrap(), config(&prefix)).unwrap();
    kafka.declare(&declaration(&group(GROUP, "work.>"))).await.unwrap();
    let publishing = {
        let kafka = kafka.clone();
        tokio::spawn(async move {
            for n in (0..rounds).step_by(5) {
                kafka.publish(messages(n, (n + 5).min(rounds))).await.unwrap();
            }
        })
    };
    let share = total / 8;
    let first = Process::start("work", &place);
    let ledger_of = ledger.clone();
    let acting = tokio::task::spawn_blocking(move || {
        reached(&ledger_of, share);
        let second = Process::start("work", &place);
        reached(&ledger_of, 2 * share);
        let third = Process::start("work", &place);
        reached(&ledger_of, 3 * share);
        // SIGKILL, in the middle of whatever it does.
        drop(first);
        reached(&ledger_of, 4 * share);
        second.leave();
        let fourth = Process::start("work", &place);
        [third, fourth]
    });
    publishing.await.unwrap();
    let left = acting.await.unwrap();
    let until = Instant::now() + PATIENCE;
    loop {
        let groups = kafka.groups().await.unwrap();
        if groups.iter().all(|group| group.waiting == 0) {
            break;
        }
        assert!(Instant::now() < until, "never done: {groups:?}");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    for member in left {
        tokio::task::spawn_blocking(move || member.leave()).await.unwrap();
    }
    kafka.close().await.unwrap();

    let handled = handled(&ledger);
    let mut next: BTreeMap<&str, usize> = BTreeMap::new();
    let mut repeated = 0;
    for line in &handled {
        let (key, n) = line.split_once(' ').unwrap();
        let n: usize = n.parse().unwrap();
        let expected = next.entry(key).or_default();
        assert!(n <= *expected, "{key} {n} was begun before {key} {expected}");
        repeated += usize::from(n < *expected);
        *expected = (*expected).max(n + 1);
    }
    let lost: Vec<_> = next.iter().filter(|(_, count)| **count != rounds).collect();
    assert!(next.len() == KEYS && lost.is_empty(), "lost: {lost:?}");
    println!("{} messages, 0 lost, {repeated} repeated, the order of {KEYS} keys kept", rounds * KEYS);
}

/// A message that kills the process is a dead letter after a bounded number of starts, and those around it are handled.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_message_that_kills_the_process_is_bounded() {
    let Some((place, prefix, _directory, ledger)) = places("crash") else { return };
    let kafka = support::kafka(place.split(' ').next().unwrap(), config(&prefix)).unwrap();
    let wanted = group(GROUP, "work.service");
    kafka.declare(&declaration(&wanted)).await.unwrap();
    let keys: Vec<String> = (0..20).map(|n| format!("k{n}")).collect();
    let batch = keys.iter().map(|key| {
        let work = Work { key: key.clone(), kills: key == "k7" };
        let mut envelope = super::bench::envelope("work.service", Some(key), "");
        envelope.set_payload(Some(serde_json::to_vec(&work).unwrap().into()));
        let mut typed = msgkit::Envelope::new(
            "tests",
            Work::NAME,
            envelope.topic().clone(),
            msgkit::envelope::ContentType::Json,
            envelope.payload_bytes().unwrap(),
            msgkit::Timestamp::now(),
        );
        typed.set_key(Some(key.as_str().into()));
        msgkit::transport::Outgoing::to_topic(typed)
    });
    kafka.publish(batch.collect()).await.unwrap();
    let mut deaths = 0;
    let group = wanted.group.clone().unwrap();
    let until = Instant::now() + PATIENCE;
    let mut victim: Option<Process> = None;
    let letters = loop {
        let dead = victim.as_mut().is_none_or(|victim| victim.child.try_wait().unwrap().is_some());
        if dead {
            deaths += usize::from(victim.is_some());
            victim = Some(Process::start("service", &place));
        }
        let letters = kafka.dead_letters(&group, None, 10).await.unwrap();
        if !letters.is_empty() {
            break letters;
        }
        assert!(Instant::now() < until && deaths < 12, "{deaths} deaths, and no dead letter");
        tokio::time::sleep(Duration::from_millis(200)).await;
    };
    assert_eq!(letters.len(), 1);
    let letter = letters[0].message.envelope().unwrap();
    assert_eq!(letter.key(), Some("k7"));
    let kind = letter.dead_letter().map(|letter| letter.kind);
    assert_eq!(kind, Some(msgkit::envelope::DeadLetterKind::Crash));
    let begun = handled(&ledger);
    let starts = begun.iter().filter(|key| *key == "k7").count();
    assert_eq!(starts, deaths, "each start of the message killed its process");
    assert!(starts <= 5, "{starts} starts: two, and two alone, with one more for what is not told in time");
    // Everybody else is handled, in the end.
    let until = Instant::now() + PATIENCE;
    while !keys.iter().all(|key| handled(&ledger).contains(key)) {
        assert!(Instant::now() < until, "never: {:?}", handled(&ledger));
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    println!(
        "{starts} starts of the message that kills, then a dead letter; {} others handled",
        keys.len() - 1
    );
    tokio::task::spawn_blocking(move || victim.take().map(Process::leave)).await.unwrap();
}

/// What one slow message holds is bounded, and what was settled behind it is not lost, only repeated.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_slow_message_holds_the_mark_and_not_the_others() {
    let Some((url, prefix)) = shared("slow") else { return };
    let mut config = patient(&prefix);
    config.partitions = 1;
    let kafka = support::kafka(&url, config.clone()).unwrap();
    let wanted = group(GROUP, "a.b").with_prefetch(16);
    let mut deliveries = reader(&kafka, &wanted).await;
    let sent: Vec<String> = (0..20_000).map(|n| n.to_string()).collect();
    kafka.publish(sent.iter().map(|text| message("a.b", None, text)).collect()).await.unwrap();
    let slow = take(&mut *deliveries, 1).await.remove(0);
    assert_eq!(text(&slow), "0");
    let mut others = 0_usize;
    // Those behind it go on, until as many are settled above it as may be remembered.
    loop {
        let mut next = VecDeque::new();
        let receiving = deliveries.receive(16, &mut next);
        // Fewer have not filled it yet.
        let quiet = if others < 10_000 { PATIENCE } else { Duration::from_secs(5) };
        if tokio::time::timeout(quiet, receiving).await.is_err() {
            break;
        }
        others += next.len();
        next.into_iter().for_each(msgkit::transport::Delivery::ack);
    }
    assert!((10_000..19_999).contains(&others), "{others} went on while one was held");
    assert_eq!(kafka.groups().await.unwrap()[0].waiting, 19_999, "nothing is committed above the slow one");
    slow.ack();
    for _ in others..19_999 {
        take(&mut *deliveries, 1).await.remove(0).ack();
    }
    deliveries.flush().await.unwrap();
    assert_eq!(kafka.groups().await.unwrap()[0].waiting, 0);
    deliveries.close().await.unwrap();
    kafka.close().await.unwrap();
}

/// What is in hand does not look like nothing to do: who has it tells it, and to everybody else it waits.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_in_hand_is_told_where_it_is_known() {
    let Some((url, prefix)) = shared("hand") else { return };
    let (kafka, elsewhere) = [(); 2].map(|()| support::kafka(&url, patient(&prefix)).unwrap()).into();
    let stands = async |kafka: &Kafka| {
        let status = kafka.groups().await.unwrap().remove(0);
        (status.waiting, status.in_hand)
    };
    let mut deliveries = reader(&kafka, &group(GROUP, "a.b")).await;
    let sent: Vec<String> = (0..12).map(|n| n.to_string()).collect();
    kafka.publish(sent.iter().map(|text| message("a.b", Some(text), text)).collect()).await.unwrap();
    let held = take(&mut *deliveries, 7).await;
    assert_eq!(stands(&kafka).await, (5, Some(7)));
    assert_eq!(stands(&elsewhere).await, (12, None));
    held.into_iter().for_each(msgkit::transport::Delivery::ack);
    for delivery in take(&mut *deliveries, 5).await {
        delivery.ack();
    }
    deliveries.flush().await.unwrap();
    assert_eq!(stands(&kafka).await, (0, Some(0)));
    deliveries.close().await.unwrap();
    assert_eq!(stands(&kafka).await, (0, None), "it is no member any more");
    for kafka in [kafka, elsewhere] {
        kafka.close().await.unwrap();
    }
}

/// What a member still has in hand when its partitions go to another settles to no effect.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_taken_away_never_commits() {
    let Some((url, prefix)) = shared("away") else { return };
    let mut config = patient(&prefix);
    config.partitions = 2;
    config.revoke_grace = Duration::ZERO;
    let kafka = support::kafka(&url, config.clone()).unwrap();
    let wanted = group(GROUP, "a.b").with_prefetch(100);
    let mut first = reader(&kafka, &wanted).await;
    let sent: Vec<String> = (0..40).map(|n| n.to_string()).collect();
    kafka.publish(sent.iter().map(|text| message("a.b", Some(text), text)).collect()).await.unwrap();
    let held = take(&mut *first, 40).await;
    let other = support::kafka(&url, config).unwrap();
    let mut second = reader(&other, &wanted).await;
    // Half of the messages are the second's now, with nobody's settlement.
    let again = take(&mut *second, 1).await;
    held.into_iter().for_each(msgkit::transport::Delivery::ack);
    first.flush().await.unwrap();
    assert!(kafka.lost_leases() > 0, "settlements of what was taken away are counted");
    let kept = 40 - usize::try_from(kafka.lost_leases()).unwrap();
    let more = take(&mut *second, 40 - kept - 1).await;
    drop((again, more));
    second.close().await.unwrap();
    first.close().await.unwrap();
    let mut third = reader(&kafka, &wanted).await;
    let left = take(&mut *third, 40 - kept).await;
    assert_eq!(left.len(), 40 - kept, "none of them was committed");
    drop(left);
    third.close().await.unwrap();
}

/// What was settled is told to the broker before its partition goes to another member, however rarely it is told otherwise.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_settled_goes_with_its_partition() {
    let Some((url, prefix)) = shared("settled") else { return };
    let mut config = patient(&prefix);
    config.partitions = 2;
    config.commit_interval = Duration::from_secs(60);
    let kafka = support::kafka(&url, config.clone()).unwrap();
    let wanted = group(GROUP, "a.b").with_prefetch(100);
    let mut first = reader(&kafka, &wanted).await;
    let batch = |word: &'static str| (0..40).map(|n| message("a.b", Some(&n.to_string()), word)).collect();
    kafka.publish(batch("old")).await.unwrap();
    take(&mut *first, 40).await.into_iter().for_each(msgkit::transport::Delivery::ack);
    let other = support::kafka(&url, config).unwrap();
    let mut second = reader(&other, &wanted).await;
    kafka.publish(batch("new")).await.unwrap();
    let came = take(&mut *second, 5).await;
    assert!(
        came.iter().all(|delivery| text(delivery) == "new"),
        "{:?}",
        came.iter().map(text).collect::<Vec<_>>()
    );
    drop(came);
    for (mut deliveries, kafka) in [(first, kafka), (second, other)] {
        deliveries.close().await.unwrap();
        kafka.close().await.unwrap();
    }
}

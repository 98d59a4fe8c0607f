//! More members do more: one, two and four processes of a group over eight partitions, with a handler that waits for something
//! else, as most do.

use std::collections::BTreeMap;
use std::fs::OpenOptions;
use std::io::Write as _;
use std::path::Path;
use std::time::{Duration, Instant};

use msgkit::transport::{Operate as _, Outgoing, Publisher as _, Transport as _};
use msgkit::{Context, HandlerError, Message, Service};
use msgkit_transport_kafka::Kafka;

use super::bench::{PATIENCE, declaration, group};
use super::members::{GROUP, Process, config, handled, places, say};
use crate::support;

/// What each message waits for: a database, a service of others.
const WAITS: Duration = Duration::from_millis(4);
const KEYS: usize = 64;

#[derive(serde::Serialize, serde::Deserialize, Message)]
#[message(name = "work.waited", topic = "work.waits", key = key)]
pub(super) struct Wait {
    key: String,
    n: usize,
}

/// A member: one message at a time, and a line for each.
pub(super) async fn member(kafka: Kafka, ledger: &Path) {
    let file = OpenOptions::new().create(true).append(true).open(ledger).unwrap();
    let file = std::sync::Arc::new(file);
    let handler = move |wait: Wait, _: Context| {
        let file = file.clone();
        async move {
            tokio::time::sleep(WAITS).await;
            let line = format!("{} {} {}\n", std::process::id(), wait.key, wait.n);
            (&*file).write_all(line.as_bytes())?;
            Ok::<(), HandlerError>(())
        }
    };
    let service = Service::new("waiting").transport("kafka", kafka).on(GROUP, handler);
    let running = service.start().await.unwrap();
    say("ready");
    let _ = tokio::task::spawn_blocking(|| std::io::stdin().read_line(&mut String::new())).await;
    running.drain().await.unwrap();
    say("left");
}

fn messages(count: usize) -> Vec<Outgoing> {
    let clock = msgkit::Clock::system();
    let source = msgkit::Text::from_static("tests");
    (0..count)
        .map(|n| {
            let wait = Wait { key: format!("k{}", n % KEYS), n };
            Outgoing::to_topic(msgkit::envelope_of(&wait, &source, clock.now()).unwrap())
        })
        .collect()
}

/// The figures are for reading: nothing here depends on how fast the machine is. What must be so is that every member has
/// work, each message is handled, and keys stay in order.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn more_members_share_the_partitions() {
    // 4,000 in the recorded run.
    let total =
        std::env::var("MSGKIT_KAFKA_SCALE").ok().and_then(|text| text.parse().ok()).unwrap_or(1_000_usize);
    for members in [1, 2, 4] {
        let Some((place, prefix, _directory, ledger)) = places(&format!("scale{members}")) else { return };
        let kafka = support::kafka(place.split(' ').next().unwrap(), config(&prefix)).unwrap();
        kafka.declare(&declaration(&group(GROUP, "work.waits"))).await.unwrap();
        let mut running: Vec<Process> = (0..members).map(|_| Process::start("scale", &place)).collect();
        for process in &mut running {
            assert_eq!(tokio::task::block_in_place(|| process.next()).as_deref(), Some("ready"));
        }
        // Every member has its share before there is something to do.
        let spread = async {
            for round in 0.. {
                let probes = (0..KEYS).map(|at| (at, round));
                let batch = probes.map(|(at, round)| Wait { key: format!("p{at}"), n: round });
                let source = msgkit::Text::from_static("tests");
                let now = msgkit::Clock::system().now();
                let batch =
                    batch.map(|wait| Outgoing::to_topic(msgkit::envelope_of(&wait, &source, now).unwrap()));
                kafka.publish(batch.collect()).await.unwrap();
                while kafka.groups().await.unwrap().iter().any(|group| group.waiting > 0) {
                    tokio::time::sleep(Duration::from_millis(20)).await;
                }
                let last: std::collections::BTreeSet<String> = handled(&ledger)
                    .iter()
                    .filter(|line| line.ends_with(&format!(" {round}")))
                    .filter_map(|line| line.split(' ').next().map(str::to_owned))
                    .collect();
                if last.len() == members {
                    break;
                }
            }
        };
        tokio::time::timeout(PATIENCE, spread).await.expect("every member has a partition");
        let before = handled(&ledger).len();
        let begun = Instant::now();
        for batch in messages(total).chunks(500) {
            kafka.publish(batch.to_vec()).await.unwrap();
        }
        while handled(&ledger).len() < before + total {
            assert!(begun.elapsed() < PATIENCE * 2, "{} of {total}", handled(&ledger).len() - before);
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        let took = begun.elapsed();
        let mut shares: BTreeMap<String, usize> = BTreeMap::new();
        let mut next: BTreeMap<String, usize> = BTreeMap::new();
        for line in &handled(&ledger)[before..] {
            let mut words = line.split(' ').map(str::to_owned);
            let (who, key) = (words.next().unwrap(), words.next().unwrap());
            let n: usize = words.next().unwrap().parse().unwrap();
            *shares.entry(who).or_default() += 1;
            let last = next.insert(key.clone(), n + 1).unwrap_or_default();
            assert!(n >= last, "{key}: {n} after {}", last - 1);
        }
        assert_eq!((shares.len(), next.len()), (members, KEYS), "everybody has work: {shares:?}");
        println!(
            "{members} members: {:.0} messages/s, {:?} each",
            total as f64 / took.as_secs_f64(),
            shares.values().collect::<Vec<_>>()
        );
        for process in running {
            tokio::task::spawn_blocking(move || process.leave()).await.unwrap();
        }
        kafka.close().await.unwrap();
    }
}

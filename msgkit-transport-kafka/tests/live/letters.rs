//! A group with more dead letters than memory holds: whoever looks at some of them must not load them all.

use std::process::Command;

use msgkit::Group;
use msgkit::envelope::{DeadLetter, DeadLetterKind};
use msgkit::transport::{Destination, Operate as _, Outgoing, Publisher as _, Transport as _};
use msgkit_transport_kafka::{Kafka, KafkaConfig};

use super::bench::{declaration, envelope, group, shared};
use crate::support;

const PLACE: &str = "MSGKIT_KAFKA_TEST_LETTERS";
const LETTERS: usize = 160;
const BYTES: usize = 500_000;

fn config(prefix: &str) -> KafkaConfig {
    let mut config = support::quick(prefix);
    config.fetch_buffer = 1 << 20;
    config
}

/// A line of `/proc/self/status`, in KiB.
fn memory(name: &str) -> usize {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with(name)).unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}

/// Not a test of its own: what the next one runs in a process with nothing else in its memory.
#[tokio::test]
async fn looks_at_letters() {
    let Ok(place) = std::env::var(PLACE) else { return };
    let (url, prefix) = place.split_once(' ').unwrap();
    let (kafka, name) = (support::kafka(url, config(prefix)).unwrap(), Group::new("g").unwrap());
    let before = memory("VmRSS:");
    let page = kafka.dead_letters(&name, None, 2).await.unwrap();
    assert_eq!(page.len(), 2);
    let next = kafka.dead_letters(&name, Some(&page[1].position), 2).await.unwrap();
    assert_eq!(
        next.iter().filter(|one| page.iter().all(|before| before.position != one.position)).count(),
        2
    );
    assert_eq!(kafka.depth(&Destination::DeadLetter(name.clone())).await.unwrap(), Some(LETTERS as u64));
    kafka.remove_dead_letter(&name, &page[0].position).await.unwrap();
    kafka.replay(&name, &page[1].position).await.unwrap();
    let left = kafka.dead_letters(&name, None, 1).await.unwrap();
    assert_eq!(left[0].position, next[0].position);
    kafka.close().await.unwrap();
    let grown = memory("VmHWM:") - before;
    assert!((grown << 10) < LETTERS * BYTES / 2, "{grown} KiB for a page of {} KiB", (2 * BYTES) >> 10);
}

#[cfg(target_os = "linux")]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_page_of_dead_letters_does_not_load_them_all() {
    let Some((url, prefix)) = shared("letters") else { return };
    let kafka: Kafka = support::kafka(&url, config(&prefix)).unwrap();
    kafka.declare(&declaration(&group("g", "a.b"))).await.unwrap();
    let text = "x".repeat(BYTES);
    for _ in 0..LETTERS / 16 {
        let batch = (0..16).map(|_| {
            let mut dead = envelope("a.b", None, &text);
            let now = msgkit::Timestamp::now();
            dead.set_dead_letter(Some(DeadLetter::new(DeadLetterKind::Handler, "it failed", now)));
            Outgoing::new(Destination::DeadLetter(Group::new("g").unwrap()), dead)
        });
        kafka.publish(batch.collect()).await.unwrap();
    }
    kafka.close().await.unwrap();
    let alone = ["--exact", "live::letters::looks_at_letters", "--nocapture"];
    let looked = tokio::task::spawn_blocking(move || {
        Command::new(std::env::current_exe().unwrap())
            .args(alone)
            .env(PLACE, format!("{url} {prefix}"))
            .output()
    });
    let looked = looked.await.unwrap().unwrap();
    let said =
        String::from_utf8_lossy(&looked.stderr).into_owned() + &String::from_utf8_lossy(&looked.stdout);
    assert!(looked.status.success(), "{said}");
    assert!(said.contains("1 passed"), "{said}");
}

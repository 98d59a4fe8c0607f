//! Messages per second that are confirmed and handled: `throughput [messages] [payload bytes] [full|normal]`.
//!
//! Runs with 1 and with 4 processes on one file. Every process publishes its share in batches and handles whatever its
//! group's queue gives it, at the same time; the clock stops when all are confirmed, handled and settled.

use std::collections::VecDeque;
use std::error::Error;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Instant;

use bytes::Bytes;
use msgkit::envelope::ContentType;
use msgkit::transport::{Acks, Outgoing, Publisher, Subscriber, Subscription, Transport};
use msgkit::{Envelope, Group, Registry, Timestamp, Topic};

type Outcome<T = ()> = Result<T, Box<dyn Error + Send + Sync>>;

const BATCH: usize = 256;
const TASKS: usize = 4;

fn main() -> Outcome {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let number = |at: usize, default| arguments.get(at).map_or(Ok(default), |text| text.parse::<usize>());
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    if let Some(url) = std::env::var("THROUGHPUT_URL").ok().filter(|url| !url.is_empty()) {
        return runtime.block_on(member(&url, number(0, 0)?, number(1, 0)?));
    }
    let (messages, bytes) = (number(0, 100_000)?, number(1, 100)?);
    let synchronous = arguments.get(2).map_or("full", String::as_str);
    for processes in [1, 4] {
        let directory = tempdir()?;
        let url = format!(
            "sqlite:{}?synchronous={synchronous}&capacity=1000000000",
            directory.0.join("m.db").display()
        );
        runtime.block_on(declare(&url))?;
        let start = Instant::now();
        let share = messages / processes;
        let children: Vec<_> = (0..processes)
            .map(|_| {
                Command::new(std::env::current_exe()?)
                    .args([share.to_string(), bytes.to_string()])
                    .env("THROUGHPUT_URL", &url)
                    .stdout(Stdio::null())
                    .spawn()
            })
            .collect::<Result<_, _>>()?;
        for mut child in children {
            if !child.wait()?.success() {
                return Err("a process failed".into());
            }
        }
        let seconds = start.elapsed().as_secs_f64();
        let rate = (share * processes) as f64 / seconds;
        println!(
            "{processes} process(es), {bytes} bytes, synchronous={synchronous}: {rate:.0} messages/s confirmed and handled ({seconds:.2} s)"
        );
    }
    Ok(())
}

fn group() -> Outcome<Subscription> {
    Ok(Subscription::group(Group::new("throughput")?, ["load.>".parse()?]).with_prefetch(2 * BATCH))
}

async fn declare(url: &str) -> Outcome {
    let transport = Registry::new().with(msgkit_transport_sqlite::scheme()).open(url)?;
    let deliveries = transport.subscribe(&group()?).await?;
    drop(deliveries);
    transport.close().await?;
    Ok(())
}

/// Publishes `share` messages while it handles what comes, until the queue is empty and all are published.
async fn member(url: &str, share: usize, bytes: usize) -> Outcome {
    let transport = Registry::new().with(msgkit_transport_sqlite::scheme()).open(url)?;
    let topic: Topic = "load.point".parse()?;
    let payload = Bytes::from(format!("\"{}\"", "x".repeat(bytes.saturating_sub(2))));
    let publishing: Vec<_> = (0..TASKS)
        .map(|task| {
            let (transport, topic, payload) = (transport.clone(), topic.clone(), payload.clone());
            let mine = share / TASKS + usize::from(task < share % TASKS);
            tokio::spawn(async move {
                let mut left = mine;
                while left > 0 {
                    let count = left.min(BATCH);
                    let batch = (0..count).map(|_| {
                        let now = Timestamp::now();
                        let json = ContentType::Json;
                        Outgoing::to_topic(Envelope::new(
                            "load",
                            "load.point",
                            topic.clone(),
                            json,
                            payload.clone(),
                            now,
                        ))
                    });
                    transport.publish(batch.collect()).await?;
                    left -= count;
                }
                Outcome::Ok(())
            })
        })
        .collect();
    let mut deliveries = transport.subscribe(&group()?).await?;
    let published = async {
        for task in publishing {
            task.await??;
        }
        Outcome::Ok(())
    };
    let mut published = std::pin::pin!(published);
    let mut all_published = false;
    let mut received = VecDeque::new();
    loop {
        let idle = tokio::time::sleep(std::time::Duration::from_millis(200));
        tokio::select! {
            done = &mut published, if !all_published => { done?; all_published = true; }
            result = deliveries.receive(BATCH, &mut received) => result?,
            () = idle, if all_published => {
                let operate = transport.operate().ok_or("sqlite answers operators")?;
                if operate.groups().await?.iter().all(|group| group.waiting == 0 && group.in_hand == Some(0)) {
                    break;
                }
            }
        }
        let mut acks = Acks::new();
        received.drain(..).for_each(|delivery| delivery.ack_into(&mut acks));
        acks.hand_over();
    }
    deliveries.close().await?;
    transport.close().await?;
    Ok(())
}

/// A directory that goes with the run.
struct Directory(PathBuf);

impl Drop for Directory {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

fn tempdir() -> Outcome<Directory> {
    let base: &Path = &std::env::temp_dir();
    let name = format!("msgkit-throughput-{}-{}", std::process::id(), Timestamp::now().as_micros());
    let directory = base.join(name);
    std::fs::create_dir_all(&directory)?;
    Ok(Directory(directory))
}

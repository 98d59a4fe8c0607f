//! More members do more; and one message that takes long holds its shard's checkpoint, not the others.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use msgkit::Group;
use msgkit::transport::{Publisher as _, Subscriber as _, Transport as _};
use msgkit_transport_kinesis::Kinesis;
use tokio::sync::Semaphore;

use super::{PATIENCE, declared, kinesis, local, memory, message, subscription, take, text, within};

/// What each message waits for: a database, a service of others.
const WAITS: Duration = Duration::from_millis(4);
const KEYS: usize = 64;
const SHARDS: usize = 8;

/// Who handled which message of which key, in the order of all.
type Handled = Arc<Mutex<Vec<(usize, String, usize)>>>;

/// One message in hand at a time, once it may begin.
async fn member(
    who: usize,
    transport: Kinesis,
    handled: Handled,
    begin: Arc<Semaphore>,
    leave: Arc<AtomicBool>,
) {
    let mut reader = transport.subscribe(&subscription().with_prefetch(1)).await.unwrap();
    let _began = begin.acquire().await.unwrap();
    while !leave.load(Ordering::Acquire) {
        let mut came = VecDeque::new();
        // Looks now and then whether it is over.
        let _ = tokio::time::timeout(Duration::from_millis(200), reader.receive(1, &mut came)).await;
        for delivery in came {
            tokio::time::sleep(WAITS).await;
            let key = delivery.message().key().unwrap_or_default().to_owned();
            handled.lock().unwrap().push((who, key, text(&delivery).parse().unwrap()));
            delivery.ack();
        }
    }
    reader.stop();
    reader.flush().await.unwrap();
    reader.close().await.unwrap();
    transport.close().await.unwrap();
}

/// The figures are for reading: nothing here depends on how fast the machine is. What must be so is that every member has
/// work, each message is handled once, and keys stay in order.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn more_members_share_the_shards() {
    let Some(local) = local() else { return };
    // 4,000 in the recorded run.
    let total =
        std::env::var("MSGKIT_KINESIS_SCALE").ok().and_then(|text| text.parse().ok()).unwrap_or(400_usize);
    for members in [1, 2, 4] {
        let (account, leases) = (local.account(), memory());
        let open = || {
            kinesis(local.endpoint(), &account, &leases, |config| {
                config.shards = u32::try_from(SHARDS).unwrap();
                // Nobody dies here, however long the machine stands still.
                config.lease = PATIENCE;
            })
        };
        let publisher = open();
        publisher.declare(&[declared()]).await.unwrap();
        let (handled, leave) = (Handled::default(), Arc::new(AtomicBool::new(false)));
        let begin = Arc::new(Semaphore::new(0));
        let running: Vec<_> = (0..members)
            .map(|who| tokio::spawn(member(who, open(), handled.clone(), begin.clone(), leave.clone())))
            .collect();
        // Every member has its share before there is something to do.
        within("every member has its shards", async {
            let share = SHARDS / members;
            loop {
                let mut owners: BTreeMap<String, usize> = BTreeMap::new();
                for row in leases.load("app/group/g").await.unwrap() {
                    let row: serde_json::Value = serde_json::from_str(&row.value).unwrap();
                    if let Some(owner) = row["owner"].as_str() {
                        *owners.entry(owner.to_owned()).or_default() += 1;
                    }
                }
                if owners.len() == members && owners.values().all(|count| *count == share) {
                    return;
                }
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        })
        .await;
        let all: Vec<usize> = (0..total).collect();
        for batch in all.chunks(KEYS) {
            let batch = batch.iter().map(|n| message(&format!("key {}", n % KEYS), &n.to_string()));
            within("the publish", publisher.publish(batch.collect())).await.unwrap();
        }
        // The stand-in takes longer for what is published than members for what they handle.
        let begun = Instant::now();
        begin.add_permits(members);
        within("all messages", async {
            while handled.lock().unwrap().len() < total {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        })
        .await;
        let took = begun.elapsed();
        leave.store(true, Ordering::Release);
        for member in running {
            within("a member leaves", member).await.unwrap();
        }
        publisher.close().await.unwrap();
        let mut shares = vec![0; members];
        let mut of_key: BTreeMap<String, Vec<usize>> = BTreeMap::new();
        for (who, key, n) in handled.lock().unwrap().drain(..) {
            shares[who] += 1;
            of_key.entry(key).or_default().push(n);
        }
        for (key, numbers) in &of_key {
            assert!(numbers.is_sorted_by(|a, b| a < b), "{key}: each once, in order: {numbers:?}");
        }
        assert_eq!(of_key.values().map(Vec::len).sum::<usize>(), total);
        assert!(shares.iter().all(|share| *share > 0), "everybody has work: {shares:?}");
        println!("{members} members: {:.0} messages/s, {shares:?} each", total as f64 / took.as_secs_f64());
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_slow_message_holds_the_checkpoint_and_the_others_go_on() {
    const OTHERS: usize = 500;
    let Some(local) = local() else { return };
    let (account, leases) = (local.account(), memory());
    let transport = kinesis(local.endpoint(), &account, &leases, |config| config.shards = 1);
    let mut reader = transport.subscribe(&subscription().with_prefetch(50)).await.unwrap();
    let others = (0..OTHERS).map(|n| message(&format!("key {}", n % KEYS), &n.to_string()));
    let batch = std::iter::once(message("slow", "slow")).chain(others).collect();
    within("the publish", transport.publish(batch)).await.unwrap();
    let slow = take(&mut *reader, 1).await.remove(0);
    assert_eq!(text(&slow), "slow");
    let mut seen = BTreeSet::new();
    for _ in 0..OTHERS {
        for delivery in take(&mut *reader, 1).await {
            assert!(seen.insert(text(&delivery)), "twice");
            delivery.ack();
        }
    }
    // Where whoever takes the shard now begins.
    let checkpoint = || async {
        let rows = leases.load("app/group/g").await.unwrap();
        let lease = rows.iter().find(|row| row.key.starts_with("lease/")).unwrap();
        serde_json::from_str::<serde_json::Value>(&lease.value).unwrap()["at"].clone()
    };
    within("the flush", reader.flush()).await.unwrap();
    assert_eq!(checkpoint().await, "oldest", "it is before the slow one");
    slow.ack();
    within("the flush", reader.flush()).await.unwrap();
    assert_ne!(checkpoint().await, "oldest", "it is behind all of them");
    let group = Group::new("g").unwrap();
    let lag = within("the lag", transport.lag(&group)).await.unwrap();
    assert_eq!(lag.iter().map(|lag| lag.records).sum::<u64>(), 0);
    transport.close().await.unwrap();
}

//! More members do more.

use std::collections::{BTreeMap, VecDeque};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use msgkit::transport::{Declaration, Publisher as _, Subscriber as _, Subscription, Transport as _};
use msgkit_transport_pubsub::Pubsub;
use tokio::sync::Semaphore;

use super::{PATIENCE, message, pubsub, stand_in, support, text};

/// What each message waits for: a database, a service of others.
const WAITS: Duration = Duration::from_millis(4);
const KEYS: usize = 64;
/// Settlements are told ten times a second: more than a member handles between two of them.
const AHEAD: u32 = 50;

/// Who handled which message of which key, in the order of all.
type Handled = Arc<Mutex<Vec<(usize, String, usize)>>>;

fn taking() -> Subscription {
    Subscription::group("g".parse().unwrap(), ["a.b".parse().unwrap()]).with_prefetch(1)
}

/// One message in hand at a time, once it may begin.
async fn member(who: usize, pubsub: Pubsub, handled: Handled, begin: Arc<Semaphore>, leave: Arc<AtomicBool>) {
    let mut reader = pubsub.subscribe(&taking()).await.unwrap();
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
    pubsub.close().await.unwrap();
}

/// The figures are for reading: nothing here depends on how fast the machine is. What must be so is that every member has
/// work, each message is handled once, and keys stay in order.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn more_members_share_the_keys() {
    let Some(stand_in) = stand_in() else { return };
    let total =
        std::env::var("MSGKIT_PUBSUB_SCALE").ok().and_then(|text| text.parse().ok()).unwrap_or(400_usize);
    for members in [1, 2, 4] {
        let project = format!("scale-{members}");
        let open = || {
            let mut config = support::config(stand_in.address());
            config.fetch_ahead = AHEAD;
            pubsub(&project, config)
        };
        let publisher = open();
        let (handled, leave) = (Handled::default(), Arc::new(AtomicBool::new(false)));
        let begin = Arc::new(Semaphore::new(0));
        let declared =
            Declaration::Group { subscription: taking(), retry_steps: Vec::new(), dead_letters: false };
        publisher.declare(&[declared]).await.unwrap();
        let running: Vec<_> = (0..members)
            .map(|who| tokio::spawn(member(who, open(), handled.clone(), begin.clone(), leave.clone())))
            .collect();
        // Every member reads before there is something to do.
        let reading = async {
            while stand_in.streams(&project).unwrap() < members {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        tokio::time::timeout(PATIENCE, reading).await.expect("every member reads");
        let all: Vec<usize> = (0..total).collect();
        for batch in all.chunks(KEYS) {
            let batch = batch.iter().map(|n| message("a.b", &format!("key {}", n % KEYS), &n.to_string()));
            publisher.publish(batch.collect()).await.unwrap();
        }
        let begun = Instant::now();
        begin.add_permits(members);
        let done = async {
            while handled.lock().unwrap().len() < total {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        tokio::time::timeout(PATIENCE, done).await.expect("all messages");
        let took = begun.elapsed();
        leave.store(true, Ordering::Release);
        for member in running {
            tokio::time::timeout(PATIENCE, member).await.expect("a member leaves").unwrap();
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

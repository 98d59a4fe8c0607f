//! What a group takes changes while its members run, and most of what is in its streams is not its own.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use async_trait::async_trait;
use msgkit::Group;
use msgkit::transport::{
    Deliveries, Delivery, Publisher as _, Start, Subscriber as _, Subscription, Transport as _,
    TransportError,
};
use msgkit_testing::brokers::KinesisFaults;
use msgkit_transport_kinesis::{Change, Kinesis, LeaseRow, LeaseStore, MemoryLeases};

use super::{
    PATIENCE, by_key, declaration, kinesis, local, memory, message, of_topic, subscription, take, text,
    within,
};

/// A table of leases that counts how often it is read.
#[derive(Debug, Default)]
struct Counted {
    rows: MemoryLeases,
    loads: AtomicUsize,
}

#[async_trait]
impl LeaseStore for Counted {
    fn is_durable(&self) -> bool {
        self.rows.is_durable()
    }

    async fn load(&self, space: &str) -> Result<Vec<LeaseRow>, TransportError> {
        self.loads.fetch_add(1, Ordering::Relaxed);
        self.rows.load(space).await
    }

    async fn swap(&self, space: &str, change: Change<'_>) -> Result<bool, TransportError> {
        self.rows.swap(space, change).await
    }
}

async fn left(transport: &Kinesis) -> u64 {
    let lag = within("the lag", transport.lag(&Group::new("g").unwrap())).await.unwrap();
    lag.iter().map(|lag| lag.records).sum()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_declared_while_a_member_runs_comes_from_then_on() {
    const ALL: usize = 20;
    let Some(local) = local() else { return };
    let (account, leases) = (local.account(), memory());
    let open = || {
        kinesis(local.endpoint(), &account, &leases, |config| {
            // No sign of life, with which the table is read anyway, while the messages come.
            config.heartbeat = PATIENCE;
            config.lease = PATIENCE * 3;
            config.discover = PATIENCE;
        })
    };
    let (old, new) = (open(), open());
    let mut reader = within("the subscription", old.subscribe(&subscription())).await.unwrap();
    let more = Subscription::group(Group::new("g").unwrap(), ["a.c".parse().unwrap()]);
    for round in 0..3 {
        if round == 1 {
            within("the declaration", new.declare(&[declaration(more.clone().with_start(Start::Earliest))]))
                .await
                .unwrap();
        }
        // Of the first round only what it took then is its own; what nobody takes is among all of it.
        let topics = ["a.b", "a.c", "a.d"];
        // Its own come last, so that what is before them was read, and decided by the flush, before more is declared.
        let of =
            |n: usize| topics.map(|topic| of_topic(topic, "k", &format!("{round} {topic} {n}"))).into_iter();
        let batch = (0..ALL).flat_map(|n| of(n).rev());
        within("the publish", new.publish(batch.collect())).await.unwrap();
        let wanted = if round == 0 { 1 } else { 2 };
        let mut came: BTreeMap<String, Vec<String>> = BTreeMap::new();
        for _ in 0..ALL * wanted {
            let delivery = tokio::time::timeout(Duration::from_secs(60), take(&mut *reader, 1)).await;
            let Ok(mut delivery) = delivery else { panic!("only these came in round {round}: {came:?}") };
            let delivery = delivery.remove(0);
            let topic = delivery.message().topic().to_string();
            came.entry(topic).or_default().push(text(&delivery));
            delivery.ack();
        }
        for topic in &topics[..wanted] {
            let expected: Vec<String> = (0..ALL).map(|n| format!("{round} {topic} {n}")).collect();
            assert_eq!(came[*topic], expected, "in order");
        }
        assert_eq!(came.len(), wanted);
        // What is not the group's does not hold the checkpoint either.
        within("the flush", reader.flush()).await.unwrap();
        assert_eq!(left(&new).await, 0);
    }
    within("the close", reader.close()).await.unwrap();
    let mut reader = within("the subscription", new.subscribe(&subscription())).await.unwrap();
    within("the publish", new.publish(vec![message("k", "last")])).await.unwrap();
    assert_eq!(text(&take(&mut *reader, 1).await[0]), "last", "nothing comes again");
    old.close().await.unwrap();
    new.close().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stream_that_only_a_newer_version_names_is_followed_over_its_resharding() {
    let Some(local) = local() else { return };
    let (account, leases) = (local.account(), memory());
    let open =
        || kinesis(local.endpoint(), &account, &leases, |config| config.discover = Duration::from_secs(1));
    let (old, new) = (open(), open());
    let group = || Group::new("g").unwrap();
    let more = Subscription::group(group(), ["x.b".parse().unwrap()]).with_start(Start::Earliest);
    within("the declaration", new.declare(&[declaration(more)])).await.unwrap();
    // The newer version has gone again; the older one has its shards.
    let mut reader = within("the subscription", old.subscribe(&subscription())).await.unwrap();
    for (round, text) in ["before", "after"].into_iter().enumerate() {
        let batch = (0..20).map(|n| of_topic("x.b", &format!("key {n}"), text));
        within("the publish", new.publish(batch.collect())).await.unwrap();
        let came = tokio::time::timeout(Duration::from_secs(60), by_key(&mut *reader, 20)).await;
        assert_eq!(came.expect("the children never began").len(), 20);
        if round == 0 {
            local.reshard(&account, "app.x").unwrap();
        }
    }
    old.close().await.unwrap();
    new.close().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_table_is_read_again_only_for_what_the_known_patterns_do_not_match() {
    let Some(local) = local() else { return };
    let counted = Arc::new(Counted::default());
    let leases: Arc<dyn LeaseStore> = counted.clone();
    let transport = kinesis(local.endpoint(), &local.account(), &leases, |config| {
        config.heartbeat = PATIENCE;
        config.lease = PATIENCE * 3;
        config.discover = PATIENCE;
    });
    let mut reader = within("the subscription", transport.subscribe(&subscription())).await.unwrap();
    let handle = async |reader: &mut dyn Deliveries, topics: &[&str]| {
        for n in 0..40 {
            let batch = topics.iter().map(|topic| of_topic(topic, "", &n.to_string()));
            within("the publish", transport.publish(batch.collect())).await.unwrap();
            take(reader, 1).await.into_iter().for_each(Delivery::ack);
        }
    };
    let before = counted.loads.load(Ordering::Relaxed);
    handle(&mut *reader, &["a.b"]).await;
    assert_eq!(counted.loads.load(Ordering::Relaxed), before);
    let began = Instant::now();
    handle(&mut *reader, &["a.c", "a.b"]).await;
    let (looks, seconds) = (counted.loads.load(Ordering::Relaxed) - before, began.elapsed().as_secs());
    println!("{looks} looks in {seconds} s");
    assert!(looks > 0 && looks as u64 <= seconds + 2, "{looks} looks in {seconds} s");
    transport.close().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_not_the_groups_is_not_read_without_end_behind_a_message_that_is_not_settled() {
    const OTHERS: usize = 11_000;
    let Some(local) = local() else { return };
    let account = local.account();
    let faults = KinesisFaults::start(local.address()).unwrap();
    let leases = memory();
    let one = |config: &mut msgkit_transport_kinesis::KinesisConfig| {
        config.shards = 1;
        config.publish_timeout = PATIENCE;
    };
    let transport = kinesis(&faults.endpoint(), &account, &leases, one);
    // Its calls are not counted.
    let publisher = kinesis(local.endpoint(), &account, &leases, one);
    let mut reader = within("the subscription", transport.subscribe(&subscription())).await.unwrap();
    within("the publish", publisher.publish(vec![message("k", "slow")])).await.unwrap();
    let slow = take(&mut *reader, 1).await.remove(0);
    let others = (0..OTHERS).map(|n| of_topic("a.c", "", &n.to_string()));
    within("the publish", publisher.publish(others.collect())).await.unwrap();
    within("the publish", publisher.publish(vec![message("k", "last")])).await.unwrap();
    let reads = || faults.calls().iter().filter(|call| call.operation == "GetRecords").count();
    // A shard that has nothing more is read again after 200 ms. One quiet period may be that of a machine that stands still.
    let mut quiet = 0;
    let began = Instant::now();
    while quiet < 2 {
        let _ = reads();
        tokio::time::sleep(Duration::from_secs(5)).await;
        quiet = if reads() == 0 { quiet + 1 } else { 0 };
        assert!(began.elapsed() < PATIENCE, "it reads and reads");
    }
    slow.ack();
    let last = take(&mut *reader, 1).await.remove(0);
    assert_eq!(text(&last), "last", "now the rest goes on");
    last.ack();
    within("the flush", reader.flush()).await.unwrap();
    assert_eq!(left(&publisher).await, 0);
    publisher.close().await.unwrap();
    transport.close().await.unwrap();
}

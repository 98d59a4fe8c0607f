//! A table of leases that does not answer, answers too late, or belongs to members of other settings.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use msgkit::transport::{
    Delivery, Health, Publisher as _, Subscriber as _, Transport as _, TransportError, TransportErrorKind,
};
use msgkit_transport_kinesis::{Change, LeaseRow, LeaseStore, MemoryLeases};

use super::{
    PATIENCE, by_key, declared, kinesis, local, memory, message, subscription, take, text, up, within,
};

const SPACE: &str = "app/group/g";

/// A table that can be away, forget to answer, or panic.
#[derive(Debug, Default)]
struct Moody {
    rows: MemoryLeases,
    away: AtomicBool,
    panics: AtomicBool,
    /// Whether a member has wished to have its row removed.
    left: AtomicBool,
    /// How many of the next writes that say what was started are done, and not answered.
    unanswered: AtomicUsize,
}

impl Moody {
    fn there(&self) -> Result<(), TransportError> {
        assert!(!self.panics.load(Ordering::Acquire), "by the test");
        match self.away.load(Ordering::Acquire) {
            true => Err(TransportError::new(TransportErrorKind::Unavailable, "the table `moody` is away")),
            false => Ok(()),
        }
    }

    /// How often each member has given a sign of life.
    async fn signs(&self) -> BTreeMap<String, u64> {
        let rows = self.rows.load(SPACE).await.unwrap();
        let members = rows.into_iter().filter(|row| row.key.starts_with("member/"));
        members.map(|row| (row.key, row.version)).collect()
    }
}

#[async_trait]
impl LeaseStore for Moody {
    fn is_durable(&self) -> bool {
        self.rows.is_durable()
    }

    async fn load(&self, space: &str) -> Result<Vec<LeaseRow>, TransportError> {
        self.there()?;
        self.rows.load(space).await
    }

    async fn swap(&self, space: &str, change: Change<'_>) -> Result<bool, TransportError> {
        if change.value.is_none() && change.key.starts_with("member/") {
            self.left.store(true, Ordering::Release);
        }
        self.there()?;
        let written = self.rows.swap(space, change).await?;
        let started = change.value.is_some_and(|value| value.contains("\"started\""));
        let one_less = |left: usize| left.checked_sub(1);
        if started && self.unanswered.fetch_update(Ordering::AcqRel, Ordering::Acquire, one_less).is_ok() {
            return Err(TransportError::new(
                TransportErrorKind::Timeout,
                "the table `moody` has not answered",
            ));
        }
        Ok(written)
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pause_in_which_nobody_could_look_buries_nobody() {
    let Some(local) = local() else { return };
    let moody = Arc::new(Moody::default());
    let leases: Arc<dyn LeaseStore> = moody.clone();
    let lease = Duration::from_secs(3);
    let account = local.account();
    let open = || kinesis(local.endpoint(), &account, &leases, |config| config.lease = lease);
    let (one, two) = (open(), open());
    let mut readers = [
        within("the subscription", one.subscribe(&subscription())).await.unwrap(),
        within("the subscription", two.subscribe(&subscription())).await.unwrap(),
    ];
    let before = within("both are there", async {
        loop {
            let signs = moody.signs().await;
            if signs.len() == 2 {
                return signs;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    })
    .await;
    moody.away.store(true, Ordering::Release);
    tokio::time::sleep(lease * 2).await;
    moody.away.store(false, Ordering::Release);
    within("signs of life of both", async {
        while moody.signs().await.values().zip(before.values()).any(|(now, before)| *now < before + 5) {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    })
    .await;
    assert!(moody.signs().await.keys().eq(before.keys()), "nobody was taken for dead");
    let batch = (0..20).map(|n| message(&format!("key {n}"), "x")).collect();
    within("the publish", one.publish(batch)).await.unwrap();
    let mut counts = Vec::new();
    within("all messages", async {
        while counts.len() < 20 {
            for reader in &mut readers {
                let mut came = VecDeque::new();
                let receiving = reader.receive(20, &mut came);
                if let Ok(Err(error)) = tokio::time::timeout(Duration::from_millis(200), receiving).await {
                    assert!(error.is_temporary(), "{}", msgkit::Chain(&error));
                }
                for delivery in came {
                    counts.push(delivery.count());
                    delivery.ack();
                }
            }
        }
    })
    .await;
    assert_eq!(counts, [1; 20]);
    assert_eq!((one.lost_leases(), two.lost_leases()), (0, 0));
    one.close().await.unwrap();
    two.close().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_table_that_does_not_answer_is_told() {
    let Some(local) = local() else { return };
    let moody = Arc::new(Moody::default());
    let leases: Arc<dyn LeaseStore> = moody.clone();
    let transport = kinesis(local.endpoint(), &local.account(), &leases, |config| {
        config.lease = Duration::from_secs(3);
    });
    let mut reader = within("the subscription", transport.subscribe(&subscription())).await.unwrap();
    within("the health is up", up(&transport)).await;
    moody.away.store(true, Ordering::Release);
    let mut came = VecDeque::new();
    let mut told = 0;
    while told < 2 {
        let answer = tokio::time::timeout(Duration::from_secs(60), reader.receive(1, &mut came)).await;
        let error = answer.expect("nothing was told").unwrap_err();
        let text = msgkit::Chain(&error).to_string();
        assert!(error.is_temporary() && text.contains(SPACE), "{text}");
        // Where the machine stood still, the member may not know yet why the table is silent.
        told += usize::from(text.contains("`moody`"));
    }
    within("the health is down", async {
        while !matches!(transport.health().await, Health::Down(why) if why.contains("`moody`")) {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    })
    .await;
    moody.away.store(false, Ordering::Release);
    within("the publish", transport.publish(vec![message("k", "x")])).await.unwrap();
    assert_eq!(text(&take(&mut *reader, 1).await[0]), "x");
    // A busy machine may stand still between two signs of life.
    within("the health is up", up(&transport)).await;
    transport.close().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_write_whose_answer_was_lost_is_no_crash() {
    let Some(local) = local() else { return };
    let moody = Arc::new(Moody::default());
    let leases: Arc<dyn LeaseStore> = moody.clone();
    let transport = kinesis(local.endpoint(), &local.account(), &leases, |config| config.shards = 1);
    let mut reader = within("the subscription", transport.subscribe(&subscription())).await.unwrap();
    moody.unanswered.store(1, Ordering::Release);
    within("the publish", transport.publish(vec![message("k", "x")])).await.unwrap();
    let came = take(&mut *reader, 1).await;
    assert_eq!((moody.unanswered.load(Ordering::Acquire), came[0].count()), (0, 1));
    transport.close().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_keeper_that_panics_ends_the_subscription_with_an_error() {
    let Some(local) = local() else { return };
    let moody = Arc::new(Moody::default());
    let leases: Arc<dyn LeaseStore> = moody.clone();
    let transport = kinesis(local.endpoint(), &local.account(), &leases, |config| {
        (config.heartbeat, config.lease) = (PATIENCE, PATIENCE * 3);
    });
    let mut reader = within("the subscription", transport.subscribe(&subscription())).await.unwrap();
    within("the publish", transport.publish(vec![message("k", "x")])).await.unwrap();
    take(&mut *reader, 1).await.into_iter().for_each(Delivery::ack);
    moody.panics.store(true, Ordering::Release);
    let error = within("the flush", reader.flush()).await.expect_err("nothing was written");
    assert!(error.is_temporary(), "{}", msgkit::Chain(&error));
    let mut came = VecDeque::new();
    let told = tokio::time::timeout(Duration::from_secs(60), reader.receive(1, &mut came)).await;
    let error = told.expect("nothing was told").unwrap_err();
    assert_eq!(error.kind(), TransportErrorKind::Internal, "{}", msgkit::Chain(&error));
    transport.close().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_member_that_is_refused_could_not_write_is_told() {
    use msgkit_testing::brokers::KinesisFaults;
    let Some(local) = local() else { return };
    let faults = KinesisFaults::start(local.address()).unwrap();
    let moody = Arc::new(Moody::default());
    let leases: Arc<dyn LeaseStore> = moody.clone();
    let transport = kinesis(&faults.endpoint(), &local.account(), &leases, |config| {
        (config.heartbeat, config.lease) = (Duration::from_secs(5), Duration::from_secs(60));
    });
    let mut reader = within("the subscription", transport.subscribe(&subscription())).await.unwrap();
    within("the publish", transport.publish(vec![message("k", "x")])).await.unwrap();
    take(&mut *reader, 1).await.into_iter().for_each(Delivery::ack);
    moody.away.store(true, Ordering::Release);
    faults.fail("GetRecords", "AccessDeniedException", 10_000);
    within("it has left", async {
        while !moody.left.load(Ordering::Acquire) {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        // The rest of leaving waits for nothing.
        tokio::time::sleep(Duration::from_millis(100)).await;
    })
    .await;
    let error = within("the flush", reader.flush()).await.expect_err("nothing was written");
    assert!(msgkit::Chain(&error).to_string().contains("`moody`"), "{}", msgkit::Chain(&error));
    transport.close().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn members_with_longer_leases_are_waited_for() {
    let Some(local) = local() else { return };
    let (account, leases) = (local.account(), memory());
    // The older settings give a sign of life less often than the newer ones wait for.
    let slow = kinesis(local.endpoint(), &account, &leases, |config| {
        config.heartbeat = Duration::from_secs(5);
        config.lease = Duration::from_secs(60);
    });
    within("the declaration", slow.declare(&[declared()])).await.unwrap();
    let mut reader = within("the subscription", slow.subscribe(&subscription())).await.unwrap();
    let batch = (0..20).map(|n| message(&format!("key {n}"), "x")).collect();
    within("the publish", slow.publish(batch)).await.unwrap();
    let held = take(&mut *reader, 20).await;
    let fast = kinesis(local.endpoint(), &account, &leases, |config| {
        config.lease = Duration::from_secs(2);
    });
    let mut other = within("the subscription", fast.subscribe(&subscription())).await.unwrap();
    let mut came = VecDeque::new();
    let receiving = other.receive(1, &mut came);
    let _ = tokio::time::timeout(Duration::from_secs(8), receiving).await;
    assert_eq!(came.len(), 0, "they are in the hand of a member that lives");
    held.into_iter().for_each(Delivery::ack);
    within("the flush", reader.flush()).await.unwrap();
    assert_eq!((slow.lost_leases(), fast.lost_leases()), (0, 0));
    slow.close().await.unwrap();
    fast.close().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_message_that_is_not_settled_does_not_stop_a_shard_that_is_to_be_given_away() {
    let Some(local) = local() else { return };
    let (account, leases) = (local.account(), memory());
    let open =
        || kinesis(local.endpoint(), &account, &leases, |config| config.lease = Duration::from_secs(3));
    let (first, second) = (open(), open());
    let mut reader = within("the subscription", first.subscribe(&subscription())).await.unwrap();
    let batch = |text: &str| (0..20).map(|n| message(&format!("key {n}"), text)).collect();
    within("the publish", first.publish(batch("held"))).await.unwrap();
    // Of both shards there is something in hand, for as long as it takes.
    let held = take(&mut *reader, 20).await;
    let mut other = within("the subscription", second.subscribe(&subscription())).await.unwrap();
    within("the publish", first.publish(batch("behind"))).await.unwrap();
    let came = tokio::time::timeout(Duration::from_secs(60), by_key(&mut *reader, 20)).await;
    assert_eq!(came.expect("a shard stood still").len(), 20);
    held.into_iter().for_each(Delivery::ack);
    // With nothing in hand one of them goes.
    within("the second has a shard", async {
        loop {
            within("the publish", first.publish(batch("more"))).await.unwrap();
            let mut came = VecDeque::new();
            let _ = tokio::time::timeout(Duration::from_millis(300), reader.receive(100, &mut came)).await;
            came.drain(..).for_each(Delivery::ack);
            let _ = tokio::time::timeout(Duration::from_millis(300), other.receive(1, &mut came)).await;
            if !came.is_empty() {
                break;
            }
        }
    })
    .await;
    first.close().await.unwrap();
    second.close().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_member_that_is_refused_leaves_its_shards_to_others() {
    use msgkit_testing::brokers::KinesisFaults;
    let Some(local) = local() else { return };
    let faults = KinesisFaults::start(local.address()).unwrap();
    let (account, leases) = (local.account(), memory());
    let refused = kinesis(&faults.endpoint(), &account, &leases, |_| {});
    let _reader = within("the subscription", refused.subscribe(&subscription())).await.unwrap();
    faults.fail("GetRecords", "AccessDeniedException", 1000);
    faults.fail("GetShardIterator", "AccessDeniedException", 1000);
    let other = kinesis(local.endpoint(), &account, &leases, |_| {});
    let mut reader = within("the subscription", other.subscribe(&subscription())).await.unwrap();
    let batch = (0..20).map(|n| message(&format!("key {n}"), "x")).collect();
    within("the publish", other.publish(batch)).await.unwrap();
    let came = tokio::time::timeout(Duration::from_secs(60), by_key(&mut *reader, 20)).await;
    assert_eq!(came.expect("the refused member kept its shards").len(), 20);
    other.close().await.unwrap();
    refused.close().await.unwrap();
}

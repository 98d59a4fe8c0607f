//! What the suite cannot ask: refusals by record, throttling, resharding while messages flow, members that come, go and die.

#![allow(clippy::unwrap_used, clippy::expect_used)] // A panic is how a test fails.

#[path = "support/mod.rs"]
mod support;

#[path = "shards/begin.rs"]
mod begin;
#[path = "shards/fan_out.rs"]
mod fan_out;
#[path = "shards/health.rs"]
mod health;
#[path = "shards/lost.rs"]
mod lost;
#[path = "shards/poison.rs"]
mod poison;
#[path = "shards/roll_out.rs"]
mod roll_out;
#[path = "shards/scale.rs"]
mod scale;
#[path = "shards/table.rs"]
mod table;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::future::Future;
use std::io::{BufRead as _, BufReader};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use msgkit::envelope::{Clock, ContentType};
use msgkit::transport::{
    Declaration, Deliveries, Delivery, Health, Outgoing, Publisher as _, Start, Subscriber as _,
    Subscription, Transport as _, TransportErrorKind,
};
use msgkit::{Envelope, Group};
use msgkit_testing::brokers::{HangUp, KinesisFaults, KinesisLocal};
use msgkit_transport_kinesis::{Kinesis, KinesisConfig, LeaseStore, MemoryLeases, SqliteLeases};

/// How long a test waits for what must come; the machine may be busy.
const PATIENCE: Duration = Duration::from_secs(240);

/// The stand-in, where it is installed.
fn local() -> Option<&'static KinesisLocal> {
    match KinesisLocal::shared() {
        Ok(local) => Some(local),
        Err(error) if std::env::var("MSGKIT_REQUIRE_BROKERS").is_ok_and(|value| value == "1") => {
            panic!("{error}")
        }
        Err(error) => {
            println!("not run: {error}");
            None
        }
    }
}

fn kinesis(
    endpoint: &str,
    account: &str,
    leases: &Arc<dyn LeaseStore>,
    change: impl FnOnce(&mut KinesisConfig),
) -> Kinesis {
    let mut config = support::config();
    config.endpoint = Some(endpoint.to_owned());
    config.poll_interval = Duration::from_millis(200);
    change(&mut config);
    Kinesis::with_leases(&support::url(account), config, Clock::system(), leases.clone()).unwrap()
}

fn memory() -> Arc<dyn LeaseStore> {
    Arc::new(MemoryLeases::new())
}

fn message(key: &str, text: &str) -> Outgoing {
    of_topic("a.b", key, text)
}

fn of_topic(topic: &str, key: &str, text: &str) -> Outgoing {
    let payload = Bytes::from(format!("\"{text}\""));
    let topic = topic.parse().unwrap();
    let mut envelope =
        Envelope::new("test", "test.text", topic, ContentType::Json, payload, Clock::system().now());
    envelope.set_key((!key.is_empty()).then(|| key.into()));
    Outgoing::to_topic(envelope)
}

fn subscription() -> Subscription {
    Subscription::group(Group::new("g").unwrap(), ["a.b".parse().unwrap()]).with_start(Start::Earliest)
}

fn declared() -> Declaration {
    declaration(subscription())
}

fn declaration(subscription: Subscription) -> Declaration {
    Declaration::Group { subscription, retry_steps: Vec::new(), dead_letters: false }
}

fn text(delivery: &Delivery) -> String {
    String::from_utf8_lossy(delivery.message().envelope().unwrap().payload()).trim_matches('"').to_owned()
}

async fn within<T>(what: &str, future: impl Future<Output = T>) -> T {
    tokio::time::timeout(PATIENCE, future).await.unwrap_or_else(|_| panic!("never: {what}"))
}

/// Returns when health is up.
async fn up(transport: &Kinesis) {
    while transport.health().await != Health::Up {
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

async fn take(reader: &mut dyn Deliveries, count: usize) -> Vec<Delivery> {
    let mut came = VecDeque::new();
    within("messages", async {
        while came.len() < count {
            if let Err(error) = reader.receive(count - came.len(), &mut came).await {
                assert!(error.is_temporary(), "{}", msgkit::Chain(&error));
            }
        }
    })
    .await;
    came.into()
}

/// The texts of `count` messages, by key, in the order in which they came; settled.
async fn by_key(reader: &mut dyn Deliveries, count: usize) -> BTreeMap<String, Vec<String>> {
    let mut seen: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for _ in 0..count {
        for delivery in take(reader, 1).await {
            seen.entry(delivery.message().key().unwrap_or_default().to_owned())
                .or_default()
                .push(text(&delivery));
            delivery.ack();
        }
    }
    seen
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn records_that_are_refused_go_again_in_the_order_of_their_key() {
    let Some(local) = local() else { return };
    let faults = KinesisFaults::start(local.address()).unwrap();
    let transport = kinesis(&faults.endpoint(), &local.account(), &memory(), |_| {});
    let mut reader = transport.subscribe(&subscription()).await.unwrap();
    let keys = ["k0", "k1", "k2"];
    let batch = (0..12).flat_map(|n| keys.map(|key| message(key, &format!("{key}-{n:02}"))));
    let _ = faults.calls();
    // The first of each request is refused, then all but the first: each key has to wait while others go on.
    faults.refuse_records("ProvisionedThroughputExceededException", 3, |at, _| at == 0);
    faults.refuse_records("InternalFailure", 2, |at, _| at > 0);
    within("the publish", transport.publish(batch.collect())).await.unwrap();
    assert!(transport.throttled() >= 3, "{}", transport.throttled());
    let puts: Vec<_> = faults.calls().into_iter().filter(|call| call.operation == "PutRecords").collect();
    for put in &puts {
        assert_eq!(
            put.keys.iter().collect::<BTreeSet<_>>().len(),
            put.keys.len(),
            "one of each key: {put:?}"
        );
    }
    assert!(puts.len() > 12, "some went again: {}", puts.len());
    let seen = by_key(&mut *reader, 36).await;
    for key in keys {
        assert_eq!(seen[key], (0..12).map(|n| format!("{key}-{n:02}")).collect::<Vec<_>>());
    }
    transport.close().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_never_taken_is_named_and_holds_back_its_key_alone() {
    let Some(local) = local() else { return };
    let faults = KinesisFaults::start(local.address()).unwrap();
    let transport = kinesis(&faults.endpoint(), &local.account(), &memory(), |config| {
        config.publish_timeout = Duration::from_secs(20);
    });
    let mut reader = transport.subscribe(&subscription()).await.unwrap();
    faults.refuse_records("ProvisionedThroughputExceededException", 1000, |_, key| key == "bad");
    let batch =
        ["bad 1", "good 1", "bad 2", "good 2"].map(|text| message(text.split(' ').next().unwrap(), text));
    let error = within("the publish", transport.publish(batch.into())).await.unwrap_err();
    assert!(error.is_temporary());
    assert!(msgkit::Chain(&error).to_string().contains("publish_timeout"), "{}", msgkit::Chain(&error));
    let named: Vec<String> = error
        .rejected()
        .iter()
        .map(|rejected| String::from_utf8_lossy(rejected.message.envelope.payload()).into_owned())
        .collect();
    assert_eq!(named, ["\"bad 1\"", "\"bad 2\""], "in their order, to be published again");
    assert_eq!(by_key(&mut *reader, 2).await["good"], ["good 1", "good 2"]);
    transport.close().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_record_that_cannot_be_taken_holds_back_its_key_alone() {
    let Some(local) = local() else { return };
    let faults = KinesisFaults::start(local.address()).unwrap();
    let transport = kinesis(&faults.endpoint(), &local.account(), &memory(), |_| {});
    let mut reader = transport.subscribe(&subscription()).await.unwrap();
    // The request of all, and the first of it by itself.
    faults.fail("PutRecords", "InvalidArgumentException", 2);
    let keys = ["bad", "k0", "k1", "bad", "k0"];
    let batch = keys.iter().enumerate().map(|(n, key)| message(key, &n.to_string())).collect();
    let error = within("the publish", transport.publish(batch)).await.unwrap_err();
    let named: Vec<_> = error.rejected().iter().map(|one| one.message.envelope.key().unwrap()).collect();
    assert_eq!((error.kind(), named), (TransportErrorKind::Invalid, vec!["bad", "bad"]));
    let came = by_key(&mut *reader, 3).await;
    assert_eq!((&came["k0"], &came["k1"]), (&vec!["1".to_owned(), "4".to_owned()], &vec!["2".to_owned()]));
    transport.close().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn throttling_and_lost_iterators_cost_time_and_nothing_else() {
    let Some(local) = local() else { return };
    let faults = KinesisFaults::start(local.address()).unwrap();
    let throttled = "ProvisionedThroughputExceededException";
    faults.fail("CreateStream", "LimitExceededException", 2);
    faults.fail("ListShards", "LimitExceededException", 2);
    faults.fail("GetShardIterator", throttled, 2);
    let transport = kinesis(&faults.endpoint(), &local.account(), &memory(), |_| {});
    let mut reader = within("the subscription", transport.subscribe(&subscription())).await.unwrap();
    faults.fail("PutRecords", throttled, 3);
    within("the publish", transport.publish((0..5).map(|n| message("k", &n.to_string())).collect()))
        .await
        .unwrap();
    faults.fail("GetRecords", throttled, 4);
    faults.fail("GetRecords", "ExpiredIteratorException", 2);
    faults.fail("GetRecords", "InternalFailure", 1);
    assert_eq!(by_key(&mut *reader, 5).await["k"], ["0", "1", "2", "3", "4"]);
    faults.fail("GetRecords", "ExpiredIteratorException", 2);
    within("the publish", transport.publish((5..9).map(|n| message("k", &n.to_string())).collect()))
        .await
        .unwrap();
    assert_eq!(by_key(&mut *reader, 4).await["k"], ["5", "6", "7", "8"], "each once, behind what was read");
    within("each is counted", async {
        while transport.throttled() < 7 {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    })
    .await;
    faults.fail("PutRecords", "AccessDeniedException", 1);
    let error = transport.publish(vec![message("k", "9")]).await.unwrap_err();
    assert_eq!(error.kind(), TransportErrorKind::Refused, "not tried again: {}", msgkit::Chain(&error));
    transport.close().await.unwrap();
}

/// What a service that is killed does to its callers: the stand-in itself cannot be killed, since it gives numbers twice then.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn connections_that_end_in_the_middle_of_calls_lose_nothing() {
    const ROUNDS: usize = 12;
    let Some(local) = local() else { return };
    let faults = KinesisFaults::start(local.address()).unwrap();
    let transport = kinesis(&faults.endpoint(), &local.account(), &memory(), |_| {});
    let mut reader = transport.subscribe(&subscription()).await.unwrap();
    let keys = ["k0", "k1", "k2"];
    let mut lost_answers = 0;
    for n in 0..ROUNDS {
        // Before and after the records are taken, once or twice in a row; reading breaks off all the while.
        let (when, times) =
            [(HangUp::Before, 1), (HangUp::After, 1), (HangUp::Before, 2), (HangUp::After, 2)][n % 4];
        lost_answers += if when == HangUp::After { times } else { 0 };
        faults.hang_up("PutRecords", when, times);
        faults.hang_up("GetRecords", when, 1);
        faults.hang_up("GetShardIterator", when, 1);
        let batch = keys.map(|key| message(key, &format!("{n:02}")));
        within("the publish", transport.publish(batch.into())).await.unwrap();
    }
    let mut seen: BTreeMap<String, Vec<String>> = BTreeMap::new();
    let mut count = 0;
    while seen.values().map(|of| of.iter().collect::<BTreeSet<_>>().len()).sum::<usize>()
        < ROUNDS * keys.len()
    {
        for (key, texts) in by_key(&mut *reader, 1).await {
            count += texts.len();
            seen.entry(key).or_default().extend(texts);
        }
    }
    for (key, mut texts) in seen {
        let mut known = BTreeSet::new();
        texts.retain(|text| known.insert(text.clone()));
        assert!(texts.is_sorted(), "{key}: for the first time in order: {texts:?}");
    }
    let doubled = count - ROUNDS * keys.len();
    println!("{lost_answers} answers lost, {doubled} doubled, lost 0");
    assert!(doubled <= lost_answers * keys.len(), "{doubled} doubled by {lost_answers} lost answers");
    transport.close().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_message_waits_for_a_look_at_the_shards() {
    let Some(local) = local() else { return };
    let faults = KinesisFaults::start(local.address()).unwrap();
    let transport = kinesis(&faults.endpoint(), &local.account(), &memory(), |config| {
        config.discover = Duration::from_millis(50);
    });
    let mut reader = within("the subscription", transport.subscribe(&subscription())).await.unwrap();
    faults.hold("ListShards");
    let looks = || faults.calls().iter().filter(|call| call.operation == "ListShards").count();
    let _ = looks();
    within("a look that gets no answer", async {
        while looks() == 0 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    })
    .await;
    // One after the other, so that each costs a write to the table of leases of its own.
    for n in 0..5 {
        within("the publish", transport.publish(vec![message("k", &n.to_string())])).await.unwrap();
        assert_eq!(by_key(&mut *reader, 1).await["k"], [n.to_string()]);
    }
    within("the flush", reader.flush()).await.unwrap();
    // Else they have come though each waited for it: a look is given up after half a minute, and the next one begins.
    assert!(looks() < 3, "each of five would have waited for a look of its own");
    faults.release();
    within("the close", reader.close()).await.unwrap();
    transport.close().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn requests_keep_the_limits_of_the_service() {
    let Some(local) = local() else { return };
    let faults = KinesisFaults::start(local.address()).unwrap();
    let account = local.account();
    let patient = |config: &mut KinesisConfig| config.publish_timeout = PATIENCE;
    let transport = kinesis(&faults.endpoint(), &account, &memory(), patient);
    within("the publish", transport.publish((0..1_201).map(|n| message("", &n.to_string())).collect()))
        .await
        .unwrap();
    // One without an answer for half a minute is sent again.
    let records = || -> Vec<(usize, usize)> {
        let puts = faults.calls().into_iter().filter(|call| call.operation == "PutRecords");
        puts.map(|put| (put.keys.len(), put.bytes)).collect()
    };
    let counts: Vec<usize> = records().iter().map(|(count, _)| *count).collect();
    let all: usize = counts.iter().sum();
    assert!(counts.iter().all(|count| *count <= 500) && all >= 1201, "{counts:?}");
    // Large ones do not reach the stand-in, which takes ten seconds for each on a busy machine: refused for good, and by the stub.
    faults.refuse_records("AccessDeniedException", 1000, |_, _| true);
    let large = "x".repeat(900 << 10);
    let error = within("the publish", transport.publish((0..8).map(|_| message("", &large)).collect()))
        .await
        .unwrap_err();
    assert_eq!(error.rejected().len(), 8);
    let puts = records();
    assert!(
        !puts.is_empty() && puts.iter().all(|(count, bytes)| *count == 5 && *bytes <= 5 << 20),
        "{puts:?}"
    );
    let error = transport.publish(vec![message("k", &"x".repeat(1 << 20))]).await.unwrap_err();
    assert_eq!(error.kind(), TransportErrorKind::Invalid);
    assert!(
        msgkit::Chain(&error).to_string().contains("1048576"),
        "it names the limit: {}",
        msgkit::Chain(&error)
    );
    transport.close().await.unwrap();
}

/// What all members of a group have seen, in order.
type Ledger = Arc<std::sync::Mutex<Vec<(String, u32)>>>;

/// A member that works in a task of its own.
struct Worker {
    task: tokio::task::JoinHandle<()>,
    leave: Arc<AtomicBool>,
    /// How many messages it has had.
    had: Arc<AtomicUsize>,
}

impl Worker {
    fn start(transport: Kinesis, ledger: Ledger) -> Self {
        let (leave, had) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
        let task = tokio::spawn(work(transport, ledger, leave.clone(), had.clone()));
        Self { task, leave, had }
    }

    fn had(&self) -> usize {
        self.had.load(Ordering::Acquire)
    }

    async fn leave(self) -> usize {
        self.leave.store(true, Ordering::Release);
        within("it leaves", self.task).await.unwrap();
        self.had.load(Ordering::Acquire)
    }
}

/// Reads until told to leave, then leaves in good order.
async fn work(transport: Kinesis, ledger: Ledger, leave: Arc<AtomicBool>, had: Arc<AtomicUsize>) {
    let mut reader = transport.subscribe(&subscription().with_prefetch(8)).await.unwrap();
    while !leave.load(Ordering::Acquire) {
        let mut came = VecDeque::new();
        let receiving = reader.receive(4, &mut came);
        let _ = tokio::time::timeout(Duration::from_millis(100), receiving).await;
        for delivery in came {
            let number = text(&delivery).parse().unwrap();
            ledger.lock().unwrap().push((delivery.message().key().unwrap().to_owned(), number));
            had.fetch_add(1, Ordering::AcqRel);
            delivery.ack();
        }
    }
    reader.stop();
    reader.flush().await.unwrap();
    reader.close().await.unwrap();
    transport.close().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn resharding_under_load_keeps_every_message_and_the_order_of_each_key() {
    const KEYS: u32 = 40;
    const EACH: u32 = 60;
    let Some(local) = local() else { return };
    let (account, leases) = (local.account(), memory());
    // Nobody dies here, however long the machine stands still.
    let patient = |config: &mut KinesisConfig| config.lease = PATIENCE;
    let publisher = kinesis(local.endpoint(), &account, &leases, |_| {});
    let ledger = Ledger::default();
    let member = || Worker::start(kinesis(local.endpoint(), &account, &leases, patient), ledger.clone());
    let first = member();
    let (mut second, mut third) = (None, None);
    let (mut seconds, mut rounds) = (0, 0);
    let began = std::time::Instant::now();
    // Until each has had its share, however late it came.
    while rounds < EACH || second.is_some() || third.as_ref().is_none_or(|it: &Worker| it.had() == 0) {
        assert!(began.elapsed() < PATIENCE, "somebody never had a share");
        let batch = (0..KEYS).map(|key| message(&format!("key {key}"), &rounds.to_string()));
        within("the publish", publisher.publish(batch.collect())).await.unwrap();
        match rounds {
            5 => second = Some(member()),
            10 | 35 => local.reshard(&account, "app.a").unwrap(),
            20 => third = Some(member()),
            _ => {}
        }
        if rounds >= 45
            && let Some(member) = second.take_if(|it: &mut Worker| it.had() > 0)
        {
            seconds = member.leave().await;
        }
        rounds += 1;
    }
    let all = (KEYS * rounds) as usize;
    within("all messages", async {
        while ledger.lock().unwrap().iter().collect::<BTreeSet<_>>().len() < all {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    })
    .await;
    let mut counts = vec![seconds];
    for member in [first, third.unwrap()] {
        counts.push(member.leave().await);
    }
    let seen = ledger.lock().unwrap().clone();
    let mut of_key: BTreeMap<&str, Vec<u32>> = BTreeMap::new();
    for (key, number) in seen.iter() {
        of_key.entry(key).or_default().push(*number);
    }
    let expected: Vec<u32> = (0..rounds).collect();
    for (key, numbers) in &of_key {
        assert_eq!(numbers, &expected, "{key}: each once, in order, across shards and members");
    }
    println!("{all} messages, 2 splits, 2 merges, members had {counts:?}: lost 0, doubled 0, out of order 0");
    publisher.close().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_killed_member_is_followed_by_another_and_its_starts_count() {
    if let Ok(wanted) = std::env::var("MSGKIT_KINESIS_CHILD") {
        return child(&wanted).await;
    }
    let Some(local) = local() else { return };
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("leases.db");
    let account = local.account();
    let leases: Arc<dyn LeaseStore> = Arc::new(SqliteLeases::new(&file));
    let transport =
        kinesis(local.endpoint(), &account, &leases, |config| config.lease = Duration::from_secs(3));
    transport.declare(&[declared()]).await.unwrap();
    within("the publish", transport.publish((0..6).map(|n| message("k", &n.to_string())).collect()))
        .await
        .unwrap();
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "a_killed_member_is_followed_by_another_and_its_starts_count", "--nocapture"])
        .env("MSGKIT_KINESIS_CHILD", format!("{} {account} {}", local.endpoint(), file.display()))
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let held = tokio::task::spawn_blocking(move || {
        lines
            .map_while(Result::ok)
            .find_map(|line| line.split_once("in hand: ").map(|(_, held)| held.to_owned()))
    });
    let held = within("the child has some in hand", held).await.unwrap();
    child.kill().unwrap();
    child.wait().unwrap();
    assert_eq!(held.as_deref(), Some("1 2 3"), "0 was settled and flushed");
    let mut reader = transport.subscribe(&subscription()).await.unwrap();
    let came = take(&mut *reader, 5).await;
    let told: Vec<(String, u32)> = came.iter().map(|delivery| (text(delivery), delivery.count())).collect();
    let expected = [("1", 2), ("2", 2), ("3", 2), ("4", 1), ("5", 1)];
    assert_eq!(
        told,
        expected.map(|(text, count)| (text.to_owned(), count)),
        "what it had in hand was started"
    );
    came.into_iter().for_each(Delivery::ack);
    reader.flush().await.unwrap();
    let lag = transport.lag(&Group::new("g").unwrap()).await.unwrap();
    assert_eq!(lag.iter().map(|lag| lag.records).sum::<u64>(), 0);
    transport.close().await.unwrap();
}

/// Settles the first message, takes three into its hand, and says so; then it waits to be killed.
async fn child(wanted: &str) {
    let mut parts = wanted.splitn(3, ' ').map(str::to_owned);
    let (endpoint, account, file) = (parts.next().unwrap(), parts.next().unwrap(), parts.next().unwrap());
    let leases: Arc<dyn LeaseStore> = Arc::new(SqliteLeases::new(file));
    let transport = kinesis(&endpoint, &account, &leases, |config| config.lease = Duration::from_secs(3));
    let mut reader = transport.subscribe(&subscription().with_prefetch(3)).await.unwrap();
    take(&mut *reader, 1).await.remove(0).ack();
    reader.flush().await.unwrap();
    let held = take(&mut *reader, 3).await;
    println!("in hand: {}", held.iter().map(text).collect::<Vec<_>>().join(" "));
    std::future::pending::<()>().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn lag_is_told_by_shard_and_a_new_group_begins_behind_what_is_there() {
    let Some(local) = local() else { return };
    let transport = kinesis(local.endpoint(), &local.account(), &memory(), |_| {});
    let keys: Vec<String> = (0..20).map(|n| format!("key {n}")).collect();
    let batch = || keys.iter().map(|key| message(key, "before")).collect::<Vec<_>>();
    within("the publish", transport.publish(batch())).await.unwrap();
    let latest = subscription().with_start(Start::Latest);
    transport.declare(&[declaration(latest.clone())]).await.unwrap();
    let group = Group::new("g").unwrap();
    let total = |lag: &[msgkit_transport_kinesis::ShardLag]| lag.iter().map(|lag| lag.records).sum::<u64>();
    assert_eq!(total(&transport.lag(&group).await.unwrap()), 0, "what was there before is not its own");
    within("the publish", transport.publish(batch())).await.unwrap();
    let lag = transport.lag(&group).await.unwrap();
    assert_eq!((lag.len(), total(&lag)), (2, 20), "{lag:?}");
    assert!(lag.iter().all(|lag| lag.records > 0 && lag.stream == "app.a"), "over both shards: {lag:?}");
    // Whoever comes much later reads just these.
    let mut reader = transport.subscribe(&latest).await.unwrap();
    let seen = by_key(&mut *reader, 20).await;
    assert_eq!(seen.len(), 20);
    transport.close().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn other_consumers_can_read_what_is_published() {
    let Some(local) = local() else { return };
    let account = local.account();
    let transport = kinesis(local.endpoint(), &account, &memory(), |config| config.shards = 1);
    within("the publish", transport.publish(vec![message("customer 7", "hello")])).await.unwrap();
    let client = support::client(local.endpoint(), &account);
    let shards = client.list_shards().stream_name("app.a").send().await.unwrap().shards.unwrap();
    let iterator = client
        .get_shard_iterator()
        .stream_name("app.a")
        .shard_id(&shards[0].shard_id)
        .shard_iterator_type(aws_sdk_kinesis::types::ShardIteratorType::TrimHorizon)
        .send()
        .await
        .unwrap();
    let got = client.get_records().shard_iterator(iterator.shard_iterator.unwrap()).send().await.unwrap();
    let record = &got.records[0];
    assert_eq!(record.partition_key.as_deref(), Some("customer 7"));
    let event: serde_json::Value = serde_json::from_slice(record.data.as_ref()).unwrap();
    assert_eq!(
        (&event["specversion"], &event["type"], &event["data"]),
        (&"1.0".into(), &"test.text".into(), &"hello".into())
    );
    assert_eq!((&event["topic"], &event["partitionkey"]), (&"a.b".into(), &"customer 7".into()));
    transport.close().await.unwrap();
}

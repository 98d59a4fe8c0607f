//! Where a group begins in what is new: streams that came after it, streams that were made again, streams that keep less than
//! wished.

use std::collections::BTreeSet;
use std::time::Duration;

use msgkit::Group;
use msgkit::envelope::Clock;
use msgkit::transport::{
    Declaration, Deliveries, Destination, Operate as _, Publisher as _, Start, Subscriber as _, Subscription,
    Transport as _, TransportErrorKind, TransportUrl,
};
use msgkit_testing::brokers::KinesisFaults;
use msgkit_transport_kinesis::{Change, Kinesis};

use super::{
    PATIENCE, by_key, declaration, kinesis, local, memory, message, of_topic, subscription, support, take,
    text, within,
};

/// How long what must come may take, where it would else never come.
const SOON: Duration = Duration::from_secs(60);

fn every_b() -> Subscription {
    Subscription::group(Group::new("g").unwrap(), ["*.b".parse().unwrap()]).with_start(Start::Latest)
}

/// Deletes the stream of topic `a.b`.
async fn delete(endpoint: &str, account: &str) {
    let client = support::client(endpoint, account);
    client.delete_stream().stream_name("app.a").send().await.unwrap();
    within("it is gone", async {
        while client.describe_stream_summary().stream_name("app.a").send().await.is_ok() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    })
    .await;
}

async fn next(reader: &mut dyn Deliveries) -> String {
    let came = tokio::time::timeout(SOON, take(reader, 1)).await.expect("the message never came");
    let delivery = came.into_iter().next().unwrap();
    let text = text(&delivery);
    delivery.ack();
    text
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stream_that_came_while_a_group_of_a_wildcard_was_away_is_read_from_its_beginning() {
    let Some(local) = local() else { return };
    let (account, leases) = (local.account(), memory());
    let transport = kinesis(local.endpoint(), &account, &leases, |_| {});
    within("an older stream", transport.publish(vec![of_topic("a.b", "k", "before")])).await.unwrap();
    within("the declaration", transport.declare(&[declaration(every_b())])).await.unwrap();
    within("a new stream", transport.publish(vec![of_topic("x.b", "k", "of a new stream")])).await.unwrap();
    let mut reader = within("the subscription", transport.subscribe(&every_b())).await.unwrap();
    assert_eq!(next(&mut *reader).await, "of a new stream");
    transport.close().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_declares_a_group_takes_no_new_stream_from_its_members() {
    let Some(local) = local() else { return };
    let (account, leases) = (local.account(), memory());
    // The member would find the stream itself much later.
    let transport = kinesis(local.endpoint(), &account, &leases, |config| config.discover = PATIENCE);
    let mut reader = within("the subscription", transport.subscribe(&every_b())).await.unwrap();
    within("a new stream", transport.publish(vec![of_topic("x.b", "k", "of a new stream")])).await.unwrap();
    let other = kinesis(local.endpoint(), &account, &leases, |_| {});
    within("the declaration", other.declare(&[declaration(every_b())])).await.unwrap();
    assert_eq!(next(&mut *reader).await, "of a new stream");
    transport.close().await.unwrap();
    other.close().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stream_that_was_made_again_is_read_from_its_beginning() {
    let Some(local) = local() else { return };
    let (account, leases) = (local.account(), memory());
    // Who reads finds it; a look at what streams are comes much later.
    let transport = kinesis(local.endpoint(), &account, &leases, |config| config.discover = PATIENCE);
    let mut reader = within("the subscription", transport.subscribe(&subscription())).await.unwrap();
    // The shards of the beginning are read to their end, others have followed.
    let publish = async |text: &str| {
        let batch = (0..20).map(|n| message(&format!("key {n}"), text));
        within("the publish", transport.publish(batch.collect())).await.unwrap();
    };
    publish("before").await;
    local.reshard(&account, "app.a").unwrap();
    publish("before").await;
    assert_eq!(by_key(&mut *reader, 40).await.len(), 20);
    within("the parents are done", async {
        let done = async || {
            let rows = leases.load("app/group/g").await.unwrap();
            rows.iter().filter(|row| row.value.contains("\"done\":true")).count()
        };
        while done().await < 3 {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    })
    .await;
    // What is settled and not written down when a stream goes is told by the flush: the next test.
    within("the flush", reader.flush()).await.unwrap();
    delete(local.endpoint(), &account).await;
    publish("after").await;
    let came = tokio::time::timeout(SOON, by_key(&mut *reader, 20)).await.expect("the messages never came");
    assert!(came.len() == 20 && came.values().all(|texts| texts == &["after"]), "{came:?}");
    assert_eq!(transport.remade_streams(), 1);
    within("the flush", reader.flush()).await.unwrap();
    transport.close().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_flush_tells_once_of_what_went_with_a_stream_that_was_made_again() {
    let Some(local) = local() else { return };
    let (account, leases) = (local.account(), memory());
    let faults = KinesisFaults::start(local.address()).unwrap();
    // No sign of life writes down what is settled.
    let transport = kinesis(&faults.endpoint(), &account, &leases, |config| {
        (config.shards, config.discover) = (1, PATIENCE);
        (config.heartbeat, config.lease) = (PATIENCE, PATIENCE * 3);
    });
    let mut reader = within("the subscription", transport.subscribe(&subscription())).await.unwrap();
    within("the publish", transport.publish(vec![message("k", "before")])).await.unwrap();
    assert_eq!(next(&mut *reader).await, "before");
    delete(local.endpoint(), &account).await;
    let _ = faults.calls();
    // Whoever reads has found nothing there: what is there next may be another stream, whose shards have the old names.
    let asked = async {
        while faults.calls().iter().all(|call| call.operation != "DescribeStreamSummary") {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(SOON, asked).await.expect("nobody asks for the stream");
    within("the publish", transport.publish(vec![message("k", "after")])).await.unwrap();
    assert_eq!(next(&mut *reader).await, "after");
    let error = within("the flush", reader.flush()).await.expect_err("the lease went with the stream");
    let text = msgkit::Chain(&error).to_string();
    assert!(error.is_temporary() && text.contains("unless its stream was deleted"), "{text}");
    within("the flush", reader.flush()).await.expect("it was told");
    transport.close().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stream_that_was_made_again_is_found_though_nobody_reads_it() {
    let Some(local) = local() else { return };
    let (account, leases) = (local.account(), memory());
    let transport = kinesis(local.endpoint(), &account, &leases, |config| {
        config.discover = Duration::from_millis(200);
    });
    within("the declaration", transport.declare(&[declaration(subscription())])).await.unwrap();
    // As where all shards of the old one were read to their end.
    for row in leases.load("app/group/g").await.unwrap() {
        if row.key.starts_with("lease/") {
            let done = row.value.replace("\"done\":false", "\"done\":true");
            assert!(leases.swap("app/group/g", Change::write(&row.key, row.version, &done)).await.unwrap());
        }
    }
    delete(local.endpoint(), &account).await;
    within("the publish", transport.publish(vec![message("k", "after")])).await.unwrap();
    let mut reader = within("the subscription", transport.subscribe(&subscription())).await.unwrap();
    assert_eq!(next(&mut *reader).await, "after");
    assert_eq!(transport.remade_streams(), 1);
    transport.close().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_place_that_the_service_never_takes_is_an_error() {
    let Some(local) = local() else { return };
    let faults = KinesisFaults::start(local.address()).unwrap();
    let transport = kinesis(&faults.endpoint(), &local.account(), &memory(), |config| {
        config.discover = Duration::from_secs(1);
    });
    within("the declaration", transport.declare(&[declaration(subscription())])).await.unwrap();
    faults.fail("GetShardIterator", "InvalidArgumentException", 1000);
    let mut reader = within("the subscription", transport.subscribe(&subscription())).await.unwrap();
    let mut came = std::collections::VecDeque::new();
    // A machine that stands still is told as a table that does not answer.
    let told = async {
        loop {
            match reader.receive(1, &mut came).await {
                Err(error) if error.is_temporary() => {}
                told => return told,
            }
        }
    };
    let error = tokio::time::timeout(SOON, told).await.expect("nothing was told").unwrap_err();
    let text = msgkit::Chain(&error).to_string();
    assert!(error.kind() == TransportErrorKind::Invalid && text.contains("app.a/"), "{text}");
    transport.close().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_copy_in_hand_of_a_member_that_died_counts() {
    let Some(local) = local() else { return };
    let (account, leases) = (local.account(), memory());
    let transport = kinesis(local.endpoint(), &account, &leases, |_| {});
    let declared = Declaration::Group {
        subscription: subscription(),
        retry_steps: vec![Duration::from_secs(1); 2],
        dead_letters: false,
    };
    within("the declaration", transport.declare(&[declared])).await.unwrap();
    let step = Destination::Retry { group: Group::new("g").unwrap(), step: 2, delay: Duration::from_secs(1) };
    let mut copy = message("k", "a copy");
    copy.to = step.clone();
    within("the publish", transport.publish(vec![copy])).await.unwrap();
    let client = support::client(local.endpoint(), &account);
    let shards =
        client.list_shards().stream_name("app.msgkit.retry.g.2").send().await.unwrap().shards.unwrap();
    let iterator = client
        .get_shard_iterator()
        .stream_name("app.msgkit.retry.g.2")
        .shard_id(&shards[0].shard_id)
        .shard_iterator_type(aws_sdk_kinesis::types::ShardIteratorType::TrimHorizon)
        .send()
        .await
        .unwrap();
    let got = client.get_records().shard_iterator(iterator.shard_iterator.unwrap()).send().await.unwrap();
    // As whoever died with it in hand has left the lease.
    let rows = leases.load("app/retry/g/2").await.unwrap();
    let row = rows.iter().find(|row| row.key.starts_with("lease/")).unwrap();
    let mut lease: serde_json::Value = serde_json::from_str(&row.value).unwrap();
    lease["owner"] = "dead".into();
    lease["started"] = got.records[0].sequence_number.trim_start_matches('0').into();
    let change = lease.to_string();
    assert!(leases.swap("app/retry/g/2", Change::write(&row.key, row.version, &change)).await.unwrap());
    assert_eq!(within("the depth", transport.depth(&step)).await.unwrap(), Some(1));
    transport.close().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn dead_letters_are_kept_as_long_as_wished_in_a_stream_that_is_there() {
    let Some(local) = local() else { return };
    let (account, leases) = (local.account(), memory());
    let client = support::client(local.endpoint(), &account);
    let kept = async || {
        let told = client.describe_stream_summary().stream_name("app.msgkit.dead_letter.g").send().await;
        told.unwrap().stream_description_summary.unwrap().retention_period_hours
    };
    client.create_stream().stream_name("app.msgkit.dead_letter.g").shard_count(1).send().await.unwrap();
    let declared = Declaration::DeadLetters(Group::new("g").unwrap());
    // Who may not make streams may not change them either.
    let careful = kinesis(local.endpoint(), &account, &leases, |config| config.create = false);
    let error = within("the refusal", careful.declare(std::slice::from_ref(&declared))).await.unwrap_err();
    let text = msgkit::Chain(&error).to_string();
    assert!(!error.is_temporary() && text.contains("dead_letter.g") && text.contains("168 h"), "{text}");
    assert_eq!(kept().await, 24);
    let transport = kinesis(local.endpoint(), &account, &leases, |_| {});
    within("the declaration", transport.declare(&[declared])).await.unwrap();
    assert_eq!(kept().await, 168);
    transport.close().await.unwrap();
    careful.close().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stream_that_is_being_changed_is_raised_afterwards() {
    let Some(local) = local() else { return };
    let faults = KinesisFaults::start(local.address()).unwrap();
    let account = local.account();
    let client = support::client(local.endpoint(), &account);
    let kept = async |stream: &str| {
        let told = client.describe_stream_summary().stream_name(stream).send().await;
        told.unwrap().stream_description_summary.unwrap().retention_period_hours
    };
    let transport = kinesis(&faults.endpoint(), &account, &memory(), |config| {
        config.retention = Duration::from_secs(48 * 3600);
        config.discover = Duration::from_secs(1);
    });
    // As while another process raises it. Copies wait for it.
    faults.fail("IncreaseStreamRetentionPeriod", "ResourceInUseException", 2);
    let letters = Declaration::DeadLetters(Group::new("g").unwrap());
    within("the declaration", transport.declare(&[letters])).await.unwrap();
    assert_eq!(kept("app.msgkit.dead_letter.g").await, 168);
    // Others do not; the stream is raised when it is used again.
    faults.fail("IncreaseStreamRetentionPeriod", "ResourceInUseException", 1);
    within("the publish", transport.publish(vec![message("k", "x")])).await.unwrap();
    assert_eq!(kept("app.a").await, 24);
    tokio::time::timeout(SOON, async {
        while kept("app.a").await < 48 {
            transport.publish(vec![message("k", "x")]).await.unwrap();
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
    })
    .await
    .expect("it was never raised");
    transport.close().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_service_is_not_asked_what_a_stream_is_with_every_look() {
    let Some(local) = local() else { return };
    let faults = KinesisFaults::start(local.address()).unwrap();
    let (account, leases) = (local.account(), memory());
    let open = || {
        kinesis(&faults.endpoint(), &account, &leases, |config| config.discover = Duration::from_millis(200))
    };
    let first = open();
    within("the declaration", first.declare(&[declaration(subscription())])).await.unwrap();
    first.close().await.unwrap();
    let transport = open();
    let _ = faults.calls();
    let _reader = within("the subscription", transport.subscribe(&subscription())).await.unwrap();
    let (mut looks, mut asked) = (0, 0);
    within("looks for new shards", async {
        while looks < 12 {
            tokio::time::sleep(Duration::from_millis(100)).await;
            let calls = faults.calls();
            let count = |operation: &str| calls.iter().filter(|call| call.operation == operation).count();
            looks += count("ListShards");
            asked += count("DescribeStreamSummary");
        }
    })
    .await;
    // Once to see that it is there, once to see where it is, and now and then to see whether it was made again.
    assert!(asked <= 4, "{asked} times in {looks} looks");
    transport.close().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_group_of_a_wildcard_reads_streams_that_it_may_not_ask_for() {
    let Some(local) = local() else { return };
    let faults = KinesisFaults::start(local.address()).unwrap();
    let (account, leases) = (local.account(), memory());
    let other = kinesis(local.endpoint(), &account, &leases, |_| {});
    within("an older stream", other.publish(vec![of_topic("a.b", "k", "before")])).await.unwrap();
    faults.fail("DescribeStreamSummary", "AccessDeniedException", 10_000);
    let transport = kinesis(&faults.endpoint(), &account, &leases, |config| {
        config.discover = Duration::from_secs(1);
    });
    let mut reader = within("the subscription", transport.subscribe(&every_b())).await.unwrap();
    within("an older stream", other.publish(vec![of_topic("a.b", "k", "of an older stream")])).await.unwrap();
    assert_eq!(next(&mut *reader).await, "of an older stream");
    within("a new stream", other.publish(vec![of_topic("x.b", "k", "of a new stream")])).await.unwrap();
    assert_eq!(next(&mut *reader).await, "of a new stream");
    transport.close().await.unwrap();
    other.close().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_shard_whose_place_the_service_never_takes_is_read_from_its_beginning() {
    let Some(local) = local() else { return };
    let faults = KinesisFaults::start(local.address()).unwrap();
    let (account, leases) = (local.account(), memory());
    let open = |endpoint: &str| kinesis(endpoint, &account, &leases, |config| config.shards = 1);
    let first = open(local.endpoint());
    let mut reader = within("the subscription", first.subscribe(&subscription())).await.unwrap();
    within("the publish", first.publish(vec![message("k", "before")])).await.unwrap();
    assert_eq!(next(&mut *reader).await, "before");
    within("the flush", reader.flush()).await.unwrap();
    first.close().await.unwrap();
    let transport = open(&faults.endpoint());
    faults.fail("GetShardIterator", "InvalidArgumentException", 5);
    let mut reader = within("the subscription", transport.subscribe(&subscription())).await.unwrap();
    within("the publish", transport.publish(vec![message("k", "after")])).await.unwrap();
    assert_eq!(next(&mut *reader).await, "before", "from its beginning");
    assert_eq!(next(&mut *reader).await, "after");
    assert_eq!(transport.remade_streams(), 1);
    transport.close().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_table_of_leases_is_for_one_region() {
    let Some(local) = local() else { return };
    let (account, leases) = (local.account(), memory());
    let transport = kinesis(local.endpoint(), &account, &leases, |_| {});
    within("the declaration", transport.declare(&[declaration(subscription())])).await.unwrap();
    let url = TransportUrl::parse(&format!("kinesis://{account}:none@us-east-1/app")).unwrap();
    let mut config = support::config();
    config.endpoint = Some(local.endpoint().to_owned());
    let elsewhere = Kinesis::with_leases(&url, config, Clock::system(), leases.clone()).unwrap();
    let error = within("the refusal", elsewhere.declare(&[declaration(subscription())]))
        .await
        .expect_err("it is taken");
    let text = msgkit::Chain(&error).to_string();
    assert!(error.kind() == TransportErrorKind::Invalid && text.contains("`leases`"), "{text}");
    assert!(text.contains("eu-west-1") && text.contains("us-east-1"), "{text}");
    transport.close().await.unwrap();
    elsewhere.close().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_noted_of_dead_letters_goes_with_them() {
    const LETTERS: &str = "app/letters/g";
    let Some(local) = local() else { return };
    let (account, leases) = (local.account(), memory());
    let transport = kinesis(local.endpoint(), &account, &leases, |_| {});
    let group = Group::new("g").unwrap();
    let declared = Declaration::DeadLetters(group.clone());
    within("the declaration", transport.declare(&[declared])).await.unwrap();
    let mut letter = message("k", "a letter");
    letter.to = Destination::DeadLetter(group.clone());
    within("the publish", transport.publish(vec![letter.clone(), letter])).await.unwrap();
    let letters = within("the letters", transport.dead_letters(&group, None, 10)).await.unwrap();
    let places: Vec<String> = letters.into_iter().map(|letter| letter.position.to_string()).collect();
    // As one is noted that the stream has dropped since.
    let (shard, _) = places[0].split_once('/').unwrap();
    let dropped = format!("{shard}/7");
    assert!(leases.swap(LETTERS, Change::write(&dropped, 0, "{}")).await.unwrap());
    for place in &places {
        within("the removal", transport.remove_dead_letter(&group, place)).await.unwrap();
    }
    let noted: Vec<String> = leases.load(LETTERS).await.unwrap().into_iter().map(|row| row.key).collect();
    assert_eq!(noted.iter().collect::<BTreeSet<_>>(), places.iter().collect::<BTreeSet<_>>());
    transport.close().await.unwrap();
}

//! What is gone: shards whose retention has ended, leases that others have taken.

use std::collections::BTreeSet;
use std::time::Duration;

use msgkit::Group;
use msgkit::transport::{Declaration, Publisher as _, Subscriber as _, Transport as _, TransportErrorKind};
use msgkit_transport_kinesis::{Change, LeaseStore};

use super::{PATIENCE, by_key, declared, kinesis, local, memory, message, subscription, take, within};

const SPACE: &str = "app/group/g";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_parent_whose_retention_has_ended_does_not_hold_its_children() {
    let Some(local) = local() else { return };
    for fan_out in [false, true] {
        let (account, leases) = (local.account(), memory());
        let transport = kinesis(local.endpoint(), &account, &leases, |config| {
            config.fan_out = fan_out;
            config.discover = Duration::from_secs(1);
        });
        within("the declaration", transport.declare(&[declared()])).await.unwrap();
        // As the table is of a group that was away for longer than the retention, over a resharding: it has not read the parent
        // to its end, and the service knows the children alone.
        let parent = "shardId-000000000777";
        for row in leases.load(SPACE).await.unwrap() {
            if !row.key.starts_with("lease/") {
                continue;
            }
            let mut lease: serde_json::Value = serde_json::from_str(&row.value).unwrap();
            lease["parents"] = [parent].as_slice().into();
            assert!(
                leases.swap(SPACE, Change::write(&row.key, row.version, &lease.to_string())).await.unwrap()
            );
            lease["shard"] = parent.into();
            lease["parents"] = serde_json::Value::Array(Vec::new());
            let key = format!("lease/app.a/{parent}");
            // Both children have it; it is written once.
            leases.swap(SPACE, Change::write(&key, 0, &lease.to_string())).await.unwrap();
        }
        let batch = (0..20).map(|n| message(&format!("key {n}"), "of the children"));
        within("the publish", transport.publish(batch.collect())).await.unwrap();
        let mut reader = within("the subscription", transport.subscribe(&subscription())).await.unwrap();
        let came = tokio::time::timeout(Duration::from_secs(60), by_key(&mut *reader, 20)).await;
        assert_eq!(came.expect("the children never began").len(), 20);
        within("the lease of the parent goes", async {
            let known = async || leases.load(SPACE).await.unwrap().iter().any(|row| row.key.contains(parent));
            while known().await {
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        })
        .await;
        assert_eq!(transport.expired_shards(), 1);
        transport.close().await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_delay_that_outlasts_its_copy_is_refused() {
    let Some(local) = local() else { return };
    let (account, leases) = (local.account(), memory());
    let transport = kinesis(local.endpoint(), &account, &leases, |_| {});
    let hours = |hours: u64| Duration::from_secs(hours * 3600);
    let declared = |steps: &[Duration]| Declaration::Group {
        subscription: subscription(),
        retry_steps: steps.to_vec(),
        dead_letters: false,
    };
    let steps = [Duration::from_secs(1), hours(13)];
    let error = within("the refusal", transport.declare(&[declared(&steps)])).await.unwrap_err();
    let text = msgkit::Chain(&error).to_string();
    assert_eq!(error.kind(), TransportErrorKind::Invalid, "{text}");
    assert!(text.contains("`g`") && text.contains("`retention`"), "{text}");
    assert!(leases.load(SPACE).await.unwrap().is_empty(), "nothing was made");
    let longer = kinesis(local.endpoint(), &account, &leases, |config| config.retention = hours(26));
    within("the declaration", longer.declare(&[declared(&steps)])).await.unwrap();
    within("the declaration", transport.declare(&[declared(&[hours(12)])])).await.unwrap();
}

async fn members(leases: &dyn LeaseStore) -> BTreeSet<String> {
    let rows = leases.load(SPACE).await.unwrap();
    rows.into_iter().map(|row| row.key).filter(|key| key.starts_with("member/")).collect()
}

/// Writes every row of `prefix` once, or removes it. Its owner may write it at the same moment.
async fn changed(leases: &dyn LeaseStore, prefix: &str, remove: bool) {
    let keys: Vec<String> = leases.load(SPACE).await.unwrap().into_iter().map(|row| row.key).collect();
    for key in keys.iter().filter(|key| key.starts_with(prefix)) {
        loop {
            let rows = leases.load(SPACE).await.unwrap();
            let Some(row) = rows.iter().find(|row| row.key == *key) else { break };
            let change = match remove {
                true => Change::remove(&row.key, row.version),
                false => Change::write(&row.key, row.version, &row.value),
            };
            if leases.swap(SPACE, change).await.unwrap() {
                break;
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_flush_tells_of_what_went_with_a_lease() {
    let Some(local) = local() else { return };
    let (account, leases) = (local.account(), memory());
    // Somebody else has written the lease; nothing tells but the write of the flush itself.
    let transport = kinesis(local.endpoint(), &account, &leases, |config| {
        config.shards = 1;
        config.heartbeat = PATIENCE;
        config.lease = PATIENCE * 3;
    });
    let mut reader = within("the subscription", transport.subscribe(&subscription())).await.unwrap();
    let batch = || (0..3).map(|n| message("k", &n.to_string())).collect();
    within("the publish", transport.publish(batch())).await.unwrap();
    take(&mut *reader, 1).await.remove(0).ack();
    within("the flush", reader.flush()).await.expect("it is written");
    take(&mut *reader, 1).await.remove(0).ack();
    changed(&*leases, "lease/", false).await;
    let error = within("the flush", reader.flush()).await.expect_err("the lease went with it");
    assert!(
        error.is_temporary() && msgkit::Chain(&error).to_string().contains("app.a"),
        "{}",
        msgkit::Chain(&error)
    );
    within("the flush", reader.flush()).await.expect("it was told");
    transport.close().await.unwrap();
    // Taken for dead: the sign of life finds it, before anybody flushes. The first is in hand, and what is behind it is not written.
    let (account, leases) = (local.account(), memory());
    let transport = kinesis(local.endpoint(), &account, &leases, |config| config.shards = 1);
    let mut reader = within("the subscription", transport.subscribe(&subscription())).await.unwrap();
    within("the publish", transport.publish(batch())).await.unwrap();
    let mut came = take(&mut *reader, 2).await;
    came.remove(1).ack();
    within("the flush", reader.flush()).await.expect("its lease is held");
    let before = members(&*leases).await;
    changed(&*leases, "member/", true).await;
    within("it lives on under another name", async {
        while members(&*leases).await.is_empty() || !members(&*leases).await.is_disjoint(&before) {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    })
    .await;
    let error = within("the flush", reader.flush()).await.expect_err("all leases went");
    assert!(error.is_temporary(), "{}", msgkit::Chain(&error));
    // They come again, and are settled now.
    drop(came);
    take(&mut *reader, 3).await.into_iter().for_each(msgkit::transport::Delivery::ack);
    within("the flush", reader.flush()).await.expect("they are written");
    let lag = within("the lag", transport.lag(&Group::new("g").unwrap())).await.unwrap();
    assert_eq!(lag.iter().map(|lag| lag.records).sum::<u64>(), 0);
    transport.close().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn close_tells_of_what_went_with_a_lease() {
    let Some(local) = local() else { return };
    let (account, leases) = (local.account(), memory());
    // No sign of life finds it before.
    let transport = kinesis(local.endpoint(), &account, &leases, |config| {
        config.heartbeat = PATIENCE;
        config.lease = PATIENCE * 3;
    });
    let mut reader = within("the subscription", transport.subscribe(&subscription())).await.unwrap();
    within("the publish", transport.publish(vec![message("k", "x")])).await.unwrap();
    take(&mut *reader, 1).await.remove(0).ack();
    changed(&*leases, "lease/", false).await;
    let error = within("the close", reader.close()).await.expect_err("the lease went with it");
    let text = msgkit::Chain(&error).to_string();
    assert!(error.is_temporary() && text.contains("app.a"), "{text}");
    transport.close().await.unwrap();
}

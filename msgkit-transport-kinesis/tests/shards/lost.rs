//! What is gone: shards whose retention has ended, leases that others have taken.

use std::time::Duration;

use msgkit::transport::{Declaration, Publisher as _, Subscriber as _, Transport as _, TransportErrorKind};
use msgkit_transport_kinesis::Change;

use super::{by_key, declared, kinesis, local, memory, message, subscription, within};

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

//! Enhanced fan-out: what is pushed comes, in order, over broken connections and resharding; each group is a consumer of its own.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use aws_sdk_kinesis::types::ConsumerStatus;
use msgkit::Group;
use msgkit::transport::{Deliveries, Publisher as _, Start, Subscriber as _, Subscription, Transport as _};
use msgkit_testing::brokers::FaultProxy;

use super::{kinesis, local, memory, message, take, text, within};
use crate::support;

const KEYS: [&str; 3] = ["k0", "k1", "k2"];

/// Reads until every key has come up to `last`; looks that nothing is missing or out of order. What was published twice, because
/// the answer of a publish was lost, may come twice.
async fn up_to(reader: &mut dyn Deliveries, seen: &mut BTreeMap<String, BTreeSet<u32>>, last: u32) {
    while KEYS.iter().any(|key| seen.get(*key).and_then(BTreeSet::last) != Some(&last)) {
        for delivery in take(reader, 1).await {
            let key = delivery.message().key().unwrap().to_owned();
            let n: u32 = text(&delivery).parse().unwrap();
            let of_key = seen.entry(key.clone()).or_default();
            let next = of_key.last().map_or(0, |last| last + 1);
            assert!(n == next || of_key.contains(&n), "{key}: {n} where {next} is next");
            of_key.insert(n);
            delivery.ack();
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_pushed_comes_in_order_whatever_breaks() {
    let Some(local) = local() else { return };
    let (account, leases) = (local.account(), memory());
    let proxy = FaultProxy::start(local.address().to_owned()).await.unwrap();
    let endpoint = format!("http://{}", proxy.address());
    // Whoever polled would look again in minutes: what comes was pushed.
    let transport = kinesis(&endpoint, &account, &leases, |config| {
        config.fan_out = true;
        config.poll_interval = Duration::from_secs(24 * 3600);
        config.discover = Duration::from_secs(1);
    });
    let publisher = kinesis(local.endpoint(), &account, &leases, |_| {});
    let publish = |from: u32, to: u32| {
        let publisher = &publisher;
        async move {
            for n in from..to {
                let batch = KEYS.map(|key| message(key, &n.to_string()));
                within("the publish", publisher.publish(batch.into())).await.unwrap();
            }
        }
    };
    let group = |name: &str| {
        let group = Group::new(name).unwrap();
        Subscription::group(group, ["a.b".parse().unwrap()]).with_start(Start::Earliest)
    };
    let mut reader = within("the subscription", transport.subscribe(&group("g"))).await.unwrap();
    let mut other = within("the subscription", transport.subscribe(&group("h"))).await.unwrap();
    let (mut seen, mut others) = (BTreeMap::new(), BTreeMap::new());
    publish(0, 5).await;
    up_to(&mut *reader, &mut seen, 4).await;
    // Every connection breaks while more is on its way.
    proxy.cut();
    publish(5, 10).await;
    proxy.heal();
    up_to(&mut *reader, &mut seen, 9).await;
    // A shard is split, and two are merged: parents end, and children follow. The stand-in does not say in what it pushes that a shard
    // has ended, as the service does, so it shows with the next subscription.
    local.reshard(&account, "app.a").unwrap();
    publish(10, 15).await;
    proxy.cut();
    up_to(&mut *reader, &mut seen, 14).await;
    up_to(&mut *other, &mut others, 14).await;
    let client = support::client(local.endpoint(), &account);
    let told = client.describe_stream_summary().stream_name("app.a").send().await.unwrap();
    let arn = told.stream_description_summary.unwrap().stream_arn;
    let consumers = client.list_stream_consumers().stream_arn(arn).send().await.unwrap().consumers.unwrap();
    let mut names: Vec<&str> = consumers
        .iter()
        .filter(|consumer| consumer.consumer_status == ConsumerStatus::Active)
        .map(|consumer| consumer.consumer_name.as_str())
        .collect();
    names.sort_unstable();
    assert_eq!(names, ["app.g", "app.h"]);
    // A member that comes later goes on where this one was.
    within("the close", reader.close()).await.unwrap();
    let mut second = within("the subscription", transport.subscribe(&group("g"))).await.unwrap();
    publish(15, 20).await;
    up_to(&mut *second, &mut seen, 19).await;
    transport.close().await.unwrap();
    publisher.close().await.unwrap();
}

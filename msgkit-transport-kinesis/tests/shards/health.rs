//! A shard that is not read for long is told by `health`, with the cause.

use std::time::Duration;

use msgkit::transport::{Health, Publisher as _, Subscriber as _, Transport as _};
use msgkit_testing::brokers::KinesisFaults;
use msgkit_transport_kinesis::Kinesis;

use super::{by_key, kinesis, local, memory, message, subscription, up, within};

/// What `health` says when it is down for that: a busy machine may be late with an answer, or with a sign of life.
async fn down(transport: &Kinesis, says: &str) -> String {
    within("health is down", async {
        loop {
            if let Health::Down(why) = transport.health().await
                && why.contains(says)
            {
                return why;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    })
    .await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_shard_that_is_throttled_for_long_is_named_until_it_is_read_again() {
    let Some(local) = local() else { return };
    let faults = KinesisFaults::start(local.address()).unwrap();
    let transport = kinesis(&faults.endpoint(), &local.account(), &memory(), |config| config.shards = 1);
    let mut reader = within("the subscription", transport.subscribe(&subscription())).await.unwrap();
    within("the publish", transport.publish(vec![message("k", "0")])).await.unwrap();
    assert_eq!(by_key(&mut *reader, 1).await["k"], ["0"]);
    within("health is up", up(&transport)).await;
    // Some are over before it is worth a word.
    faults.fail("GetRecords", "ProvisionedThroughputExceededException", 8);
    let why = down(&transport, "`app.a/shardId-000000000000` is not read").await;
    assert!(why.contains("more than the shards take"), "{why}");
    within("the publish", transport.publish(vec![message("k", "1")])).await.unwrap();
    assert_eq!(by_key(&mut *reader, 1).await["k"], ["1"], "it goes on");
    within("health is up", up(&transport)).await;
    transport.close().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_consumer_more_than_the_stream_takes_is_told() {
    let Some(local) = local() else { return };
    let faults = KinesisFaults::start(local.address()).unwrap();
    let transport = kinesis(&faults.endpoint(), &local.account(), &memory(), |config| {
        (config.fan_out, config.shards) = (true, 1);
    });
    faults.fail("RegisterStreamConsumer", "LimitExceededException", 1000);
    let mut reader = within("the subscription", transport.subscribe(&subscription())).await.unwrap();
    within("the publish", transport.publish(vec![message("k", "0")])).await.unwrap();
    let why = down(&transport, "registering `app.g` as a consumer of stream `app.a`").await;
    assert!(why.contains("a stream takes 20 consumers"), "{why}");
    // Not lost meanwhile: each try reads what is there.
    assert_eq!(by_key(&mut *reader, 1).await["k"], ["0"]);
    transport.close().await.unwrap();
}

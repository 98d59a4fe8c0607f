//! A broker that ends, and one that is killed.

use msgkit::transport::{Operate as _, Transport as _};
use msgkit_testing::brokers::Kafka;

use super::bench::{all, declaration, group, message, numbered, publish, reader, take, there};
use crate::support;

/// What was confirmed is there, what was not is given back and published again; the members go on by themselves.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_broker_that_dies_loses_nothing() {
    crate::support::show_logs();
    let Some(mut broker) = there(Kafka::options().start()) else { return };
    let kafka = support::kafka(broker.url(), support::quick("t.")).unwrap();
    let away = group("away", "a.b");
    kafka.declare(&declaration(&away)).await.unwrap();
    let mut present = reader(&kafka, &group("present", "a.b")).await;
    let mut owed = Vec::new();
    for (round, kills) in [true, false].into_iter().enumerate() {
        let before = numbered(&format!("{round} before "), 200);
        publish(&kafka, before.iter().map(|text| message("a.b", Some("k"), text)).collect()).await;
        let held = take(&mut *present, 5).await;
        let during = numbered(&format!("{round} during "), 200);
        let publishing = {
            let (kafka, during) = (kafka.clone(), during.clone());
            tokio::spawn(async move {
                for text in during.chunks(20) {
                    publish(&kafka, text.iter().map(|text| message("a.b", Some("k"), text)).collect()).await;
                }
            })
        };
        broker = tokio::task::spawn_blocking(move || {
            if kills {
                broker.kill().unwrap();
            }
            broker.restart().unwrap();
            broker
        })
        .await
        .unwrap();
        drop(held);
        publishing.await.unwrap();
        let expected: Vec<String> = before.into_iter().chain(during).collect();
        all(&mut *present, &expected).await;
        owed.extend(expected);
    }
    present.flush().await.unwrap();
    let status = kafka.groups().await.unwrap();
    assert!(status.iter().any(|group| group.group.as_str() == "present" && group.waiting == 0), "{status:?}");
    present.close().await.unwrap();
    let mut deliveries = reader(&kafka, &away).await;
    let came = all(&mut *deliveries, &owed).await;
    println!("{} messages over two ends of the broker, {} repeated", owed.len(), came.len() - owed.len());
    deliveries.close().await.unwrap();
    kafka.close().await.unwrap();
}

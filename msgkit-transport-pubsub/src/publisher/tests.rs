//! On the stand-in, because the client is made for a service.

use std::time::Duration;

use msgkit::envelope::Clock;

use super::*;
use crate::client::Clients;
use crate::config::PubsubConfig;
use crate::names::Names;
use crate::testing::stand_in;

const PATIENCE: Duration = Duration::from_secs(120);
const PUBLISHERS: usize = 8;
const ROUNDS: usize = 25;

/// A client that has seen too many keys is exchanged when nothing of it is on its way, and whoever comes then waits: two calls that
/// hold one topic each and wait for the other's would wait for ever.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn calls_that_publish_to_the_same_topics_never_wait_for_each_other() {
    let Some(stand_in) = stand_in() else { return };
    let endpoint = Some(format!("http://{}", stand_in.address()));
    let config = PubsubConfig { endpoint, ..PubsubConfig::default() };
    let clients = Clients::new(&config).unwrap();
    let mut core = Core::new(clients, Names::new("lanes".to_owned(), "app"), config, Clock::system());
    // It is 10,000, for which a test would take long.
    core.sender.most_keys = 2;
    let core = Arc::new(core);
    let topics = ["a.one", "a.two"].map(|topic| core.names.topic_of(topic).unwrap());
    core.ensure_topics(topics.clone().into(), None).await.unwrap();
    let publisher = |who: usize| {
        let (core, mut topics) = (core.clone(), topics.clone());
        if who.is_multiple_of(2) {
            topics.reverse();
        }
        async move {
            for round in 0..ROUNDS {
                let parcel = |(at, topic): (usize, &String)| {
                    let mut message = Message::new();
                    message.data = bytes::Bytes::from_static(b"1");
                    message.ordering_key = format!("{who}-{round}");
                    (at, topic.clone(), message)
                };
                let refused = core.send(topics.iter().enumerate().map(parcel).collect()).await;
                assert!(refused.is_empty(), "{refused:?}");
            }
        }
    };
    let all: Vec<_> = (0..PUBLISHERS).map(|who| tokio::spawn(publisher(who))).collect();
    for one in all {
        tokio::time::timeout(PATIENCE, one).await.expect("nobody waits for ever").unwrap();
    }
}

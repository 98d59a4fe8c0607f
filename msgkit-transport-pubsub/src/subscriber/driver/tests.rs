//! On the stand-in, because what is seen is what the service has.

use std::time::Duration;

use msgkit::envelope::Clock;

use super::*;
use crate::client::Clients;
use crate::config::PubsubConfig;
use crate::names::Names;
use crate::testing::stand_in;

const PATIENCE: Duration = Duration::from_secs(90);

/// A reader that asks for one topic alone has as much to lose as one with wildcards: who makes a topic again looks for entries.
#[tokio::test(flavor = "multi_thread")]
async fn entries_of_readers_without_a_group_are_made_again_before_they_expire() {
    let Some(stand_in) = stand_in() else { return };
    let endpoint = Some(format!("http://{}", stand_in.address()));
    let topic_refresh = Duration::from_millis(100);
    let config = PubsubConfig { endpoint, topic_refresh, ..PubsubConfig::default() };
    let clients = Clients::new(&config).unwrap();
    let core = Arc::new(Core::new(clients, Names::new("renewed".to_owned(), "app"), config, Clock::system()));
    for pattern in ["a.>", "a.b"] {
        let pattern: msgkit::Pattern = pattern.parse().unwrap();
        let (reader, subscription) = (Reader::alone(), Subscription::ephemeral([pattern.clone()]));
        let reads = core.ensure_reader(&reader, &subscription).await.unwrap();
        let member = Arc::new(Member::new(&core, 1));
        let mut driver = Driver::new(&core, member.clone(), Some(reader.clone()), subscription, reads);
        // What the service does with one that nobody has asked for.
        core.remove([core.names.entry(&reader, &pattern).unwrap()]).await;
        assert!(!core.entries().await.unwrap().contains_key(&reader));
        // Not yet when it begins, and nothing else wakes it.
        driver.renew_at = Instant::now() + Duration::from_millis(500);
        let running = tokio::spawn(driver.run());
        let back = async {
            while !core.entries().await.unwrap().contains_key(&reader) {
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        };
        timeout(PATIENCE, back).await.unwrap_or_else(|_| panic!("the entry for {pattern} never came back"));
        member.enter(Phase::Left);
        running.await.unwrap();
    }
}

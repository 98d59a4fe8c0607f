//! Dead letters: looked at, removed one by one, by one reader at a time.

use std::time::Duration;

use msgkit::envelope::{DeadLetter, DeadLetterKind};
use msgkit::transport::{Destination, Operate as _, Outgoing, Publisher as _, Transport as _};
use msgkit::{Group, Timestamp};
use msgkit_testing::brokers::{Connection, FaultProxy};
use msgkit_transport_pubsub::Pubsub;

use super::{PATIENCE, message, pubsub, stand_in, support};

pub(super) fn letter(text: &str) -> Outgoing {
    let mut envelope = message("a.b", "k", text).envelope;
    envelope.set_dead_letter(Some(DeadLetter::new(DeadLetterKind::Handler, "it failed", Timestamp::now())));
    Outgoing::new(Destination::DeadLetter(group()), envelope)
}

pub(super) fn group() -> Group {
    "g".parse().unwrap()
}

/// The texts of all letters, and where they are.
async fn all(pubsub: &Pubsub) -> Result<Vec<(String, String)>, msgkit::transport::TransportError> {
    let letters = pubsub.dead_letters(&group(), None, 10).await?;
    let text = |letter: &msgkit::transport::Peeked| {
        String::from_utf8_lossy(letter.message.envelope().unwrap().payload()).trim_matches('"').to_owned()
    };
    Ok(letters.iter().map(|letter| (text(letter), letter.position.to_string())).collect())
}

fn texts(letters: &[(String, String)]) -> Vec<&str> {
    letters.iter().map(|(text, _)| text.as_str()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn any_dead_letter_can_be_removed() {
    let Some(stand_in) = stand_in() else { return };
    let pubsub = pubsub("any", support::config(stand_in.address()));
    for text in ["1", "2", "3"] {
        pubsub.publish(vec![letter(text)]).await.unwrap();
    }
    let letters = all(&pubsub).await.unwrap();
    assert_eq!(texts(&letters), ["1", "2", "3"], "the oldest first");
    pubsub.remove_dead_letter(&group(), &letters[1].1).await.unwrap();
    let letters = all(&pubsub).await.unwrap();
    assert_eq!(texts(&letters), ["1", "3"]);
    pubsub.remove_dead_letter(&group(), &letters[1].1).await.unwrap();
    assert_eq!(texts(&all(&pubsub).await.unwrap()), ["1"]);
    pubsub.close().await.unwrap();
}

/// Of two who look at once each gets all, or an error that says so.
#[tokio::test(flavor = "multi_thread")]
async fn who_looks_while_somebody_else_does_misses_nothing() {
    let Some(stand_in) = stand_in() else { return };
    let open = || pubsub("two", support::config(stand_in.address()));
    let (first, second) = (open(), open());
    for n in 0..5 {
        first.publish(vec![letter(&n.to_string())]).await.unwrap();
    }
    for _ in 0..3 {
        let (one, other) = tokio::join!(all(&first), all(&second));
        for looked in [one, other] {
            match looked {
                Ok(letters) => assert_eq!(texts(&letters), ["0", "1", "2", "3", "4"]),
                Err(error) => assert!(error.is_temporary(), "{}", msgkit::Chain(&error)),
            }
        }
    }
    let quiet = async {
        loop {
            if let Ok(letters) = all(&second).await {
                return letters;
            }
        }
    };
    let letters = tokio::time::timeout(PATIENCE, quiet).await.expect("nobody is in the way any more");
    assert_eq!(texts(&letters), ["0", "1", "2", "3", "4"]);
    for pubsub in [first, second] {
        pubsub.close().await.unwrap();
    }
}

/// What waits for an answer must not keep the next one waiting.
#[tokio::test(flavor = "multi_thread")]
async fn a_look_by_a_silent_connection_returns() {
    let Some(stand_in) = stand_in() else { return };
    let proxy = FaultProxy::start(stand_in.address()).await.unwrap();
    let mut config = support::config(proxy.address());
    config.lease = Duration::from_secs(10);
    config.connect_timeout = Duration::from_secs(2);
    config.publish_timeout = Duration::from_secs(2);
    let patient = self::pubsub("silent-look", support::config(stand_in.address()));
    patient.publish(vec![letter("1")]).await.unwrap();
    assert_eq!(texts(&all(&patient).await.unwrap()), ["1"]);
    patient.close().await.unwrap();
    let pubsub = pubsub("silent-look", config);
    let looking = tokio::spawn({
        let pubsub = pubsub.clone();
        async move { all(&pubsub).await }
    });
    // Its stream is there; it waits for the letters, or has them already.
    tokio::time::timeout(PATIENCE, async {
        while stand_in.streams("silent-look").unwrap() == 0 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    })
    .await
    .expect("a stream");
    proxy.connections().iter().for_each(Connection::half_open);
    let _ = tokio::time::timeout(PATIENCE, looking).await.expect("it returns").unwrap();
    let again = async {
        loop {
            match all(&pubsub).await {
                Ok(letters) if texts(&letters) == ["1"] => return,
                Ok(letters) => assert!(letters.is_empty(), "{letters:?}"),
                Err(error) => assert!(error.is_temporary(), "{}", msgkit::Chain(&error)),
            }
        }
    };
    tokio::time::timeout(PATIENCE * 2, again).await.expect("and so does a second one, by another connection");
    pubsub.close().await.unwrap();
}

//! What others publish, as it comes: handled or a dead letter, never stuck.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use msgkit::envelope::{ContentType, DeadLetterKind, NativeHeaders};
use msgkit::transport::{Operate as _, Outgoing, Publisher as _, Transport as _};
use msgkit::{Context, Envelope, Group, HandlerError, Message, Service, Timestamp};

use super::{PATIENCE, pubsub, stand_in, support};

#[derive(Debug, serde::Serialize, serde::Deserialize, Message)]
#[message(name = "tests.order", topic = "a.b", key = id)]
struct Order {
    id: String,
}

/// As much as the service takes, less what a copy of it has more than it.
const LARGE: usize = 9_985_000;

fn event(payload: Option<Bytes>) -> Outgoing {
    let topic = "a.b".parse().unwrap();
    let mut event =
        Envelope::new("others", "tests.order", topic, ContentType::Json, Bytes::new(), Timestamp::now());
    event.set_payload(payload);
    event.set_key(Some("good".into()));
    Outgoing::to_topic(event)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_cannot_be_read_is_a_dead_letter_and_holds_up_nothing() {
    let Some(stand_in) = stand_in() else { return };
    let pubsub = pubsub("poison", support::config(stand_in.address()));
    let handled: Arc<Mutex<Vec<String>>> = Arc::default();
    let noted = handled.clone();
    let handler = move |order: Order, _: Context| {
        let noted = noted.clone();
        async move {
            noted.lock().unwrap().push(order.id);
            Ok::<(), HandlerError>(())
        }
    };
    let service = Service::new("orders").transport("pubsub", pubsub.clone()).on("g", handler);
    let running = service.start().await.unwrap();
    let topic = "a.b".parse().unwrap();
    // No event: nothing, no text, JSON of nothing, plain text, as much as may be.
    let large = Bytes::from(vec![0xfe; LARGE]);
    let no_events = [&b""[..], b"\xff\xfe\x00 no text", b"null", b"plain text"].map(Bytes::from_static);
    for payload in no_events.iter().chain([&large]) {
        pubsub.publish_foreign(&topic, payload.clone(), &NativeHeaders::new()).await.unwrap();
    }
    // Events whose data is missing, empty, and no JSON; and what is right, behind them in the order of their key.
    let events = [None, Some(Bytes::new()), Some(Bytes::from_static(b"{\"id\": 7"))];
    let good = Some(Bytes::from_static(b"{\"id\": \"good\"}"));
    pubsub.publish(events.iter().cloned().chain([good]).map(event).collect()).await.unwrap();
    let group = Group::new("g").unwrap();
    let mut wanted: Vec<Option<Bytes>> =
        no_events.into_iter().chain([large]).map(Some).chain(events).collect();
    wanted.sort();
    let shown = |all: &[Option<Bytes>]| -> Vec<String> {
        all.iter()
            .map(|one| {
                format!("{:.40}", format!("{:?}", one.as_ref().map(|one| one.slice(..one.len().min(20)))))
            })
            .collect()
    };
    let mut seen: Vec<Option<Bytes>> = Vec::new();
    let all = async {
        loop {
            // Somebody else may be looking, as one that was broken off.
            if let Ok(letters) = pubsub.dead_letters(&group, None, 100).await {
                // What takes longer than its lease comes again, and is a letter again.
                let letters: BTreeMap<_, _> = letters
                    .iter()
                    .map(|letter| {
                        let envelope = letter.message.envelope().unwrap();
                        assert_eq!(
                            envelope.dead_letter().map(|facts| facts.kind),
                            Some(DeadLetterKind::Decode)
                        );
                        (envelope.id().to_owned(), envelope.payload_bytes())
                    })
                    .collect();
                seen = letters.into_values().collect();
                seen.sort();
                if seen.len() >= wanted.len() && !handled.lock().unwrap().is_empty() {
                    return;
                }
            }
            tokio::time::sleep(std::time::Duration::from_millis(100)).await;
        }
    };
    let came = tokio::time::timeout(PATIENCE * 2, all).await;
    assert!(came.is_ok() && seen == wanted, "{:?} for {:?}", shown(&seen), shown(&wanted));
    assert!(handled.lock().unwrap().iter().all(|id| id == "good"));
    running.drain().await.unwrap();
    pubsub.close().await.unwrap();
}

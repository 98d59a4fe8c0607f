//! What others publish, as it comes: handled or a dead letter, never stuck.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use aws_sdk_kinesis::primitives::Blob;
use bytes::Bytes;
use msgkit::envelope::{ContentType, DeadLetterKind};
use msgkit::transport::{Operate as _, Outgoing, Publisher as _, Transport as _};
use msgkit::{Context, Envelope, Group, HandlerError, Message, Service, Timestamp};

use super::{PATIENCE, kinesis, local, memory, support, within};

#[derive(Debug, serde::Serialize, serde::Deserialize, Message)]
#[message(name = "tests.order", topic = "a.b", key = id)]
struct Order {
    id: String,
}

/// Within what a stream takes, and as base64 more than it.
const LARGE: usize = 800 << 10;

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
    let Some(local) = local() else { return };
    let account = local.account();
    // Everything behind the poison is behind it in the same shard.
    let transport = kinesis(local.endpoint(), &account, &memory(), |config| {
        config.shards = 1;
        // The stand-in takes many seconds for a large record on a busy machine.
        config.publish_timeout = PATIENCE;
    });
    let handled: Arc<Mutex<Vec<String>>> = Arc::default();
    let noted = handled.clone();
    let handler = move |order: Order, _: Context| {
        let noted = noted.clone();
        async move {
            noted.lock().unwrap().push(order.id);
            Ok::<(), HandlerError>(())
        }
    };
    let service = Service::new("orders").transport("kinesis", transport.clone()).on("g", handler);
    let running = service.start().await.unwrap();
    let client = support::client(local.endpoint(), &account);
    // No event: nothing, no text, JSON of nothing, plain text, as much as may be.
    let large = Bytes::from(vec![0xfe; LARGE]);
    let no_events = [&b""[..], b"\xff\xfe\x00 no text", b"null", b"plain text"].map(Bytes::from_static);
    for payload in no_events.iter().chain([&large]) {
        let put =
            client.put_record().stream_name("app.a").partition_key("p").data(Blob::new(payload.clone()));
        within("a foreign record", put.send()).await.unwrap();
    }
    // Events whose data is missing, empty, and no JSON; and what is right, behind them.
    let events = [None, Some(Bytes::new()), Some(Bytes::from_static(b"{\"id\": 7"))];
    let good = Some(Bytes::from_static(b"{\"id\": \"good\"}"));
    let batch = events.iter().cloned().chain([good]).map(event).collect();
    within("the publish", transport.publish(batch)).await.unwrap();
    let group = Group::new("g").unwrap();
    // It is the last in the shard, so each one before it has come to its end.
    within("the one behind them all", async {
        while handled.lock().unwrap().is_empty() {
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
    })
    .await;
    // The stand-in takes long for large records on a busy machine.
    let letters = within("the dead letters", async {
        loop {
            match transport.dead_letters(&group, None, 100).await {
                Ok(letters) => return letters,
                Err(error) => assert!(error.is_temporary(), "{}", msgkit::Chain(&error)),
            }
        }
    })
    .await;
    // Published again where the service took longer to answer than a call may.
    assert!(handled.lock().unwrap().iter().all(|id| id == "good"));
    let mut seen: Vec<Option<Bytes>> = letters
        .iter()
        .map(|letter| {
            let envelope = letter.message.envelope().unwrap();
            assert_eq!(envelope.dead_letter().map(|facts| facts.kind), Some(DeadLetterKind::Decode));
            envelope.payload_bytes()
        })
        .collect();
    let mut wanted: Vec<Option<Bytes>> =
        no_events.into_iter().chain([large]).map(Some).chain(events).collect();
    // A copy whose confirmation did not come in time may be there twice.
    for all in [&mut seen, &mut wanted] {
        all.sort();
        all.dedup();
    }
    let sizes = |all: &[Option<Bytes>]| -> Vec<Option<usize>> {
        all.iter().map(|one| one.as_ref().map(Bytes::len)).collect()
    };
    assert!(seen == wanted, "{:?} for {:?}", sizes(&seen), sizes(&wanted));
    within("the drain", running.drain()).await.unwrap();
    transport.close().await.unwrap();
}

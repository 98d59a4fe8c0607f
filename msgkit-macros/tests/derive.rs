//! What the derives write does what the hand-written impls of msgkit's documentation do.

use std::borrow::Cow;
use std::sync::Arc;
use std::time::Duration;

use msgkit::codec::{Codec, Json, MessagePack};
use msgkit::handler::{Batch, BatchOutcome, HandleBatch, HandlerSpec, batch, register};
use msgkit::policy::{OnFailure, Order, Unhandled};
use msgkit::transport::Start;
use msgkit::{Context, Error, Handle, Handler, HandlerError, Message, Pattern, Topic};
use serde::{Deserialize, Serialize};

/// What a message says of itself.
#[derive(Debug, PartialEq)]
struct Facts<'a> {
    name: &'a str,
    template: &'a str,
    topic: String,
    key: Option<Cow<'a, str>>,
    subject: Option<Cow<'a, str>>,
    media_type: String,
}

fn facts<M: Message>(message: &M) -> Result<Facts<'_>, Error> {
    Ok(Facts {
        name: M::NAME,
        template: M::TOPIC,
        topic: message.topic()?.to_string(),
        key: message.key(),
        subject: message.subject(),
        media_type: M::Codec::CONTENT_TYPE.to_string(),
    })
}

mod by_hand {
    use super::*;

    #[derive(Serialize, Deserialize)]
    pub(super) struct TelemetryReported {
        pub(super) device_id: String,
        pub(super) line: u32,
    }

    impl Message for TelemetryReported {
        type Codec = MessagePack;
        const NAME: &'static str = "device.telemetry.reported.v2";
        const TOPIC: &'static str = "device.{device_id}.telemetry.{line}";
        fn topic(&self) -> Result<Topic, Error> {
            Self::template()?.render(&[&self.device_id, &self.line.to_string()])
        }
        fn key(&self) -> Option<Cow<'_, str>> {
            Some(self.device_id.as_str().into())
        }
        fn subject(&self) -> Option<Cow<'_, str>> {
            Some(self.line.to_string().into())
        }
    }
}

#[derive(Serialize, Deserialize, Message)]
#[message(name = "device.telemetry.reported", version = 2, topic = "device.{device_id}.telemetry.{line}")]
#[message(key = device_id, subject = line, codec = MessagePack)]
struct TelemetryReported {
    device_id: String,
    line: u32,
}

#[test]
fn a_message_is_the_one_written_by_hand() {
    for device in ["7", "AA:BB", "_", "", "a.b/c"] {
        let derived = TelemetryReported { device_id: device.into(), line: 3 };
        let by_hand = by_hand::TelemetryReported { device_id: device.into(), line: 3 };
        assert_eq!(facts(&derived).unwrap(), facts(&by_hand).unwrap());
        assert_eq!(derived.encode().unwrap(), by_hand.encode().unwrap());
    }
    assert_eq!(
        TelemetryReported { device_id: "7".into(), line: 3 }.topic().unwrap().as_str(),
        "device.7.telemetry.3"
    );
}

#[test]
fn a_topic_that_grows_too_long_is_refused() {
    let device_id = "x".repeat(300);
    let derived = TelemetryReported { device_id: device_id.clone(), line: 3 }.topic().unwrap_err();
    let by_hand = by_hand::TelemetryReported { device_id, line: 3 }.topic().unwrap_err();
    assert_eq!((derived.kind(), derived.to_string()), (by_hand.kind(), by_hand.to_string()));
}

#[test]
fn a_borrowed_key_is_not_copied() {
    let message = TelemetryReported { device_id: "7".into(), line: 3 };
    assert!(
        matches!(message.key(), Some(Cow::Borrowed(key)) if std::ptr::eq(key, message.device_id.as_str()))
    );
}

#[derive(Serialize, Deserialize, Message)]
#[message(name = "user.renamed", topic = "user.{0}.renamed", key = 1)]
struct Renamed(u64, Box<str>);

#[derive(Serialize, Deserialize, Message)]
#[message(name = "system.tick")]
struct Tick;

#[derive(Serialize, Deserialize, Message)]
#[message(name = "door.moved", version = 3)]
enum DoorMoved {
    Opened,
    Closed { by: String },
}

#[derive(Serialize, Deserialize, Message)]
#[message(name = "https://example.com/alert", topic = "alerts.{type}", key = owner, subject = count)]
struct Alert {
    r#type: Cow<'static, str>,
    owner: Option<String>,
    count: Option<u8>,
}

#[test]
fn every_shape_of_a_message() {
    let plain = |name, topic: &'static str| Facts {
        name,
        template: topic,
        topic: topic.into(),
        key: None,
        subject: None,
        media_type: Json::CONTENT_TYPE.to_string(),
    };
    let renamed = Facts {
        topic: "user.7.renamed".into(),
        key: Some("ann".into()),
        ..plain("user.renamed", "user.{0}.renamed")
    };
    assert_eq!(facts(&Renamed(7, "ann".into())).unwrap(), renamed);
    assert_eq!(facts(&Tick).unwrap(), plain("system.tick", "system.tick"));
    for moved in [DoorMoved::Opened, DoorMoved::Closed { by: "ann".into() }] {
        assert_eq!(facts(&moved).unwrap(), plain("door.moved.v3", "door.moved"));
    }
    let mut alert = Alert { r#type: "fire".into(), owner: None, count: None };
    assert_eq!((alert.topic().unwrap().as_str(), alert.key(), alert.subject()), ("alerts.fire", None, None));
    alert.owner = Some("bob".into());
    alert.count = Some(2);
    assert_eq!((alert.key().as_deref(), alert.subject().as_deref()), (Some("bob"), Some("2")));
}

macro_rules! handles {
    ($handler:ty: $($message:ty),+) => {
        $(impl Handle<$message> for $handler {
            async fn handle(&self, _: $message, _: &Context) -> Result<(), HandlerError> {
                Ok(())
            }
        })+
    };
}

/// What a handler says of itself, but for the addresses of its coroutines.
fn spec<H: Handler>(handler: H) -> Result<String, Error> {
    Ok(format!("{:#?}", Arc::new(handler).spec()?))
}

#[derive(Handler)]
#[handler(
    messages(TelemetryReported, Tick),
    group = "storage",
    name = "keeper",
    concurrency = 8,
    order = "key_hold",
    retry(immediate = 1, delayed = 7),
    timeout = "1m 30s",
    policy = "slow",
    start = "earliest",
    subscribes = "device.*.telemetry.*",
    subscribes("system.>", "user.*"),
    publishes(Renamed, DoorMoved),
    unhandled = "dead_letter",
    component = "data_core.storage"
)]
struct Everything;

struct EverythingByHand;

handles!(Everything: TelemetryReported, Tick);
handles!(EverythingByHand: TelemetryReported, Tick);

impl Handler for EverythingByHand {
    fn spec(self: Arc<Self>) -> Result<HandlerSpec, Error> {
        Ok(HandlerSpec::new("keeper", "storage")?
            .with(register::<_, TelemetryReported, _, _>(&self))
            .with(register::<_, Tick, _, _>(&self))
            .concurrency(8)
            .order(Order::Key(OnFailure::Hold))
            .retry(1, 7)
            .timeout(Duration::from_secs(90))
            .policy("slow")
            .start(Start::Earliest)
            .subscribes(Pattern::new("device.*.telemetry.*")?)
            .subscribes(Pattern::new("system.>")?)
            .subscribes(Pattern::new("user.*")?)
            .publishes::<Renamed>()
            .publishes::<DoorMoved>()
            .unhandled(Unhandled::DeadLetter)
            .component("data_core.storage"))
    }
}

#[test]
fn a_handler_is_the_one_written_by_hand() {
    let derived = spec(Everything).unwrap();
    assert_eq!(derived, spec(EverythingByHand).unwrap());
    assert!(derived.contains("device.telemetry.reported.v2"), "{derived}");
}

#[derive(Handler)]
#[handler(message = Tick, ephemeral, retry(delayed = 0), order = "none", unhandled = "skip")]
struct ShowTicks<T: Send + Sync + 'static>(T);

impl<T: Send + Sync + 'static> Handle<Tick, Option<Tick>, std::io::Error> for ShowTicks<T> {
    async fn handle(&self, _: Tick, _: &Context) -> Result<Option<Tick>, std::io::Error> {
        Ok(None)
    }
}

struct ShowTicksByHand;

handles!(ShowTicksByHand: Tick);

impl Handler for ShowTicksByHand {
    fn spec(self: Arc<Self>) -> Result<HandlerSpec, Error> {
        Ok(HandlerSpec::ephemeral("show_ticks")?
            .with(register::<_, Tick, _, _>(&self))
            .overrides(|policy| policy.delayed_rounds = Some(0))
            .order(Order::None)
            .unhandled(Unhandled::Skip))
    }
}

#[test]
fn an_ephemeral_and_generic_handler() {
    assert_eq!(spec(ShowTicks(7_u8)).unwrap(), spec(ShowTicksByHand).unwrap());
}

#[derive(Handler)]
#[handler(message = Tick, group = "bulk", order = "key", start = "latest", batch(size = 100, wait = "50ms"))]
enum InsertTicks {
    Always,
}

impl HandleBatch<Tick> for InsertTicks {
    async fn handle_batch(&self, batch: Vec<Batch<Tick>>) -> Result<BatchOutcome, HandlerError> {
        let Self::Always = self;
        Ok(BatchOutcome::all(batch.len()))
    }
}

struct InsertTicksByHand;

impl HandleBatch<Tick> for InsertTicksByHand {
    async fn handle_batch(&self, batch: Vec<Batch<Tick>>) -> Result<BatchOutcome, HandlerError> {
        Ok(BatchOutcome::all(batch.len()))
    }
}

impl Handler for InsertTicksByHand {
    fn spec(self: Arc<Self>) -> Result<HandlerSpec, Error> {
        Ok(HandlerSpec::new("insert_ticks", "bulk")?
            .with(batch::<_, Tick>(&self, 100, Duration::from_millis(50)))
            .order(Order::Key(OnFailure::Overtake)))
    }
}

#[test]
fn a_batch_handler() {
    assert_eq!(spec(InsertTicks::Always).unwrap(), spec(InsertTicksByHand).unwrap());
}

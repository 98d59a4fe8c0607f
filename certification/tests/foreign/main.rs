//! Foreign clients, both ways: what msgkit publishes they read, what they publish a msgkit handler gets. Every attribute
//! and every byte is compared. The programs are in `foreign/`; `make foreign` installs their libraries.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a panic is how a test fails")]

mod client;
mod event;

use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use client::{Client, NotInstalled};
use event::{Event, Mode};
use libtest_mimic::{Arguments, Completion, Failed, Trial};
use msgkit::codec::Json;
use msgkit::handler::{HandlerSpec, closure};
use msgkit::transport::{Declaration, Outgoing, TransportUrl};
use msgkit::{Context, Envelope, Error, Group, Message, Service, Topic};
use msgkit_testing::brokers::{
    BrokerError, BrokerErrorKind, Kafka, KinesisLocal, Mosquitto, Pubsub, RabbitMq,
};
use serde::{Deserialize, Serialize};
use tokio::sync::mpsc;

/// How long anything may take.
const PATIENCE: Duration = Duration::from_secs(60);

/// How long nothing may come.
const SILENCE: Duration = Duration::from_secs(20);

fn main() -> ExitCode {
    let all = [
        ("rabbitmq::cloudevents_and_pika_read", Case::reads(Client::Pika, "")),
        ("rabbitmq::cloudevents_and_pika_read_knative", Case::reads(Client::Pika, "attribute_prefix=ce-")),
        ("rabbitmq::cloudevents_and_pika_write", Case::writes(Client::Pika)),
        ("mosquitto::paho_reads_binary", Case::reads(Client::Paho, "format=binary")),
        ("mosquitto::paho_reads_structured", Case::reads(Client::Paho, "format=structured")),
        ("mosquitto::paho_writes", Case::writes(Client::Paho)),
        ("mosquitto::npm_reads_binary", Case::reads(Client::Npm, "format=binary")),
        ("mosquitto::npm_reads_structured", Case::reads(Client::Npm, "format=structured")),
        ("mosquitto::npm_writes", Case::writes(Client::Npm)),
        ("kafka::cloudevents_and_confluent_read", Case::reads(Client::Confluent, "")),
        ("kafka::cloudevents_and_confluent_write", Case::writes(Client::Confluent)),
        ("kinesis::cloudevents_and_boto3_read", Case::reads(Client::Boto, "")),
        ("kinesis::cloudevents_and_boto3_write", Case::writes(Client::Boto)),
        ("pubsub::cloudevents_and_google_read", Case::reads(Client::Google, "")),
        ("pubsub::cloudevents_and_google_write", Case::writes(Client::Google)),
    ];
    let trials = all.into_iter().map(|(name, case)| Trial::ignorable_test(name, move || case.run()));
    libtest_mimic::run(&Arguments::from_args(), trials.collect()).exit_code()
}

struct Case {
    client: Client,
    direction: Direction,
}

enum Direction {
    /// msgkit publishes, with these options of its transport.
    Reads(&'static str),
    /// The foreign client publishes.
    Writes,
}

impl Case {
    fn reads(client: Client, options: &'static str) -> Self {
        Self { client, direction: Direction::Reads(options) }
    }

    fn writes(client: Client) -> Self {
        Self { client, direction: Direction::Writes }
    }

    fn run(&self) -> Result<Completion, Failed> {
        let required = std::env::var("MSGKIT_REQUIRE_BROKERS").is_ok_and(|value| value == "1");
        let missing = |why: String| match required {
            true => Err(Failed::from(format!("not run, though MSGKIT_REQUIRE_BROKERS=1: {why}"))),
            false => Ok(Completion::ignored_with(format!("not run: {why}"))),
        };
        if let Err(NotInstalled(what)) = self.client.installed() {
            return missing(format!("{what} is not there; `make foreign` installs it"));
        }
        let place = match Place::of(self.client) {
            Ok(place) => place,
            Err(error) if error.kind() == BrokerErrorKind::Missing => return missing(error.to_string()),
            Err(error) => return Err(error.into()),
        };
        let runtime = tokio::runtime::Runtime::new()?;
        runtime.block_on(async {
            let case = async {
                match self.direction {
                    Direction::Reads(options) => reads(self.client, &place, options).await,
                    Direction::Writes => writes(self.client, &place).await,
                }
            };
            tokio::time::timeout(PATIENCE, case).await.expect("it takes too long");
        });
        Ok(Completion::Completed)
    }
}

/// A place at a broker, as msgkit and as a foreign client name it.
struct Place {
    /// The address of msgkit's transport, without options.
    url: String,
    /// Options that every such transport needs.
    options: Vec<String>,
    /// The foreign client's address, and its name of the topic.
    address: String,
    topic: String,
    _keeps: Option<msgkit_testing::brokers::VirtualHost>,
}

impl Place {
    fn of(client: Client) -> Result<Self, BrokerError> {
        let address_of =
            |url: &str| TransportUrl::parse(url).expect("a broker's own address").address().to_owned();
        if client.speaks_amqp() {
            let host = RabbitMq::shared()?.vhost("foreign")?;
            let (url, address) = (host.url().to_owned(), address_of(host.url()));
            let topic = AnyEvent::TOPIC.to_owned();
            return Ok(Self { url, options: Vec::new(), address, topic, _keeps: Some(host) });
        }
        if client.speaks_kafka() {
            let broker = Kafka::shared()?;
            let prefix = broker.prefix("foreign");
            return Ok(Self {
                url: broker.url().to_owned(),
                options: vec![format!("prefix={prefix}"), "partitions=1".to_owned()],
                address: address_of(broker.url()),
                topic: format!("{prefix}{}", AnyEvent::TOPIC),
                _keeps: None,
            });
        }
        if client.speaks_kinesis() {
            let broker = KinesisLocal::shared()?;
            let account = broker.account();
            let endpoint = broker.endpoint().replace('/', "%2F");
            return Ok(Self {
                url: format!("kinesis://{account}:none@eu-west-1/foreign"),
                options: vec![format!("endpoint={endpoint}"), "leases=memory".to_owned()],
                address: format!("{}/{account}", broker.address()),
                topic: "foreign.certification".to_owned(),
                _keeps: None,
            });
        }
        if client.speaks_pubsub() {
            let broker = Pubsub::shared()?;
            let project = broker.project("foreign");
            return Ok(Self {
                url: format!("pubsub://{project}/foreign"),
                options: vec![format!("endpoint=http:%2F%2F{}", broker.address())],
                address: broker.address().to_owned(),
                topic: format!("projects/{project}/topics/foreign.{}", AnyEvent::TOPIC),
                _keeps: None,
            });
        }
        let broker = Mosquitto::shared()?;
        let prefix = broker.prefix("foreign");
        Ok(Self {
            url: broker.url().to_owned(),
            options: vec![format!("prefix={prefix}"), format!("client_id={prefix}")],
            address: address_of(broker.url()),
            topic: format!("{prefix}.{}", AnyEvent::TOPIC),
            _keeps: None,
        })
    }

    fn transport(&self, option: &str) -> Arc<dyn msgkit::transport::Transport> {
        let mut options = self.options.clone();
        options.extend((!option.is_empty()).then(|| option.to_owned()));
        let query = if options.is_empty() { String::new() } else { format!("?{}", options.join("&")) };
        msgkit_certification::registry().open(&format!("{}{query}", self.url)).unwrap()
    }
}

/// Whatever comes.
#[derive(Debug, Serialize, Deserialize)]
struct AnyEvent;

impl Message for AnyEvent {
    type Codec = Json;
    const NAME: &'static str = "certification.foreign";
    const TOPIC: &'static str = "certification.foreign";

    fn topic(&self) -> Result<Topic, Error> {
        Self::template()?.render(&[])
    }

    /// The test looks at the envelope, and not every payload is JSON.
    fn decode(_: &Envelope) -> Result<Self, Error> {
        Ok(Self)
    }
}

/// msgkit publishes every event, and the foreign client tells what it has read.
async fn reads(client: Client, place: &Place, options: &str) {
    let transport = place.transport(options);
    // Makes what the client binds its own queue to, or reads.
    transport.declare(&[Declaration::Topic(AnyEvent.topic().unwrap())]).await.unwrap();
    let mut reader = client.start("read", &place.address, &place.topic);
    assert_eq!(reader.line().await, "ready");
    for event in Event::all(AnyEvent::NAME, AnyEvent::TOPIC) {
        let envelope = event.envelope();
        transport.publish(vec![Outgoing::to_topic(envelope)]).await.unwrap();
        event.assert_read(&reader.line().await, client.is_not_told());
    }
    reader.end().await;
    transport.close().await.unwrap();
}

/// The foreign client publishes every event in every form, and a handler gets it.
async fn writes(client: Client, place: &Place) {
    let (sender, mut came) = mpsc::unbounded_channel();
    let handler = move |_: AnyEvent, cx: Context| {
        let sender = sender.clone();
        async move { Ok(sender.send(cx.envelope().clone())?) }
    };
    let directory = tempfile::tempdir().unwrap();
    let letters = format!("sqlite:{}", directory.path().join("letters.db").display());
    let letters = msgkit_certification::registry().open(&letters).unwrap();
    let service = Service::new("foreign")
        .share("subject", place.transport(""))
        .share("letters", letters.clone())
        .dead_letters("subject", "letters")
        .spec(HandlerSpec::new("foreign", "foreign").unwrap().with(closure(handler)));
    let running = service.start().await.unwrap();
    let mut writer = client.start("write", &place.address, &place.topic);
    let mut sent = Vec::new();
    for event in Event::all(AnyEvent::NAME, AnyEvent::TOPIC) {
        for form in client.forms() {
            let event = event.as_producers_write_it();
            writer.write(&event.line(form)).await;
            sent.push((event, form));
        }
    }
    assert_eq!(writer.finish().await, "done");
    for (event, form) in sent {
        match tokio::time::timeout(SILENCE, came.recv()).await {
            Ok(envelope) => event.assert_handled(&envelope.expect("the handler lives"), form),
            Err(_) => {
                let group = Group::new("foreign").unwrap();
                let letters = letters.operate().unwrap().dead_letters(&group, None, 10).await.unwrap();
                panic!("nothing came as {form:?}; dead letters: {letters:#?}");
            }
        }
    }
    running.drain().await.unwrap();
}

/// How a foreign client writes an event: the mode, and where there are several bindings, which.
#[derive(Debug, Clone, Copy)]
struct Form {
    mode: Mode,
    binding: Option<&'static str>,
}

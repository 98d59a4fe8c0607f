//! The conformance suite on a real broker: every case has topics and client ids of its own, every connection goes through
//! a wire that can be cut.

use std::process::ExitCode;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use msgkit::envelope::NativeHeaders;
use msgkit::transport::{Transport, TransportError, TransportErrorKind, TransportUrl};
use msgkit::{Registry, Topic};
use msgkit_testing::brokers::{BrokerError, FaultProxy, Mosquitto};
use msgkit_testing::conformance::{self, Broker, Fault, NotRun, Setup, Subject, Wrapped, Wrapping};
use msgkit_transport_mqtt::{Mqtt, MqttConfig, OnUnrouted, Version};
use rumqttc::v5::mqttbytes::QoS;
use rumqttc::v5::mqttbytes::v5::{Packet, PublishProperties};
use rumqttc::v5::{AsyncClient, Event, MqttOptions};

fn main() -> ExitCode {
    let mut subjects: Vec<Box<dyn Subject>> =
        vec![Box::new(MqttSubject::new(Version::V5)), Box::new(MqttSubject::new(Version::V311))];
    // Five runs of the suite take long, and wrapping is proven on the transports that need no broker.
    let wrapped = std::env::var_os("MSGKIT_WRAPPED").is_some();
    for wrapping in Wrapping::ALL.into_iter().filter(|_| wrapped) {
        subjects.push(Box::new(Wrapped(MqttSubject::new(Version::V5), wrapping)));
    }
    conformance::main(subjects)
}

/// The broker of all cases. Nothing here restarts it, so it need not write its whole data with every message: with eight
/// cases at once that takes longer than the delays that some of them measure.
fn mosquitto() -> Result<&'static Mosquitto, BrokerError> {
    static BROKER: OnceLock<Result<Mosquitto, BrokerError>> = OnceLock::new();
    if std::env::var("MSGKIT_MOSQUITTO_URL").is_ok() {
        return Mosquitto::shared();
    }
    let start = || Mosquitto::options().setting("autosave_on_changes false").start();
    BROKER.get_or_init(start).as_ref().map_err(Clone::clone)
}

#[derive(Debug)]
struct MqttSubject {
    version: Version,
    /// They live as long as the suite: a case may drop its broker and keep its connections.
    proxies: Mutex<Vec<Arc<FaultProxy>>>,
}

impl MqttSubject {
    fn new(version: Version) -> Self {
        Self { version, proxies: Mutex::default() }
    }
}

#[async_trait]
impl Subject for MqttSubject {
    fn name(&self) -> String {
        match self.version {
            Version::V311 => "mqtt_3_1_1".to_owned(),
            _ => "mqtt".to_owned(),
        }
    }

    fn version(&self) -> String {
        let broker = mosquitto().map_or_else(|_| "Mosquitto".to_owned(), Mosquitto::version);
        match self.version {
            Version::V311 => format!("{broker}, MQTT 3.1.1"),
            _ => format!("{broker}, MQTT 5"),
        }
    }

    async fn broker(&self, setup: &Setup) -> Result<Box<dyn Broker>, NotRun> {
        let broker = mosquitto()?;
        let url = TransportUrl::parse(broker.url()).map_err(|error| NotRun(error.to_string()))?;
        let target = url.address().to_owned();
        let proxy = FaultProxy::start(target.clone()).await.map_err(|error| NotRun(error.to_string()))?;
        let proxy = Arc::new(proxy);
        self.proxies.lock().unwrap_or_else(PoisonError::into_inner).push(proxy.clone());
        let mut config = MqttConfig::default();
        config.version = self.version;
        config.prefix = broker.prefix("case");
        config.client_id = config.prefix.clone();
        config.takeover_after = Duration::from_millis(300);
        // The machine may stand still for a while.
        config.connect_timeout = Duration::from_secs(30);
        config.publish_timeout = setup.publish_timeout.unwrap_or(config.publish_timeout);
        if setup.refuses_unrouted && self.version == Version::V5 {
            config.on_unrouted = OnUnrouted::Error;
        }
        Ok(Box::new(Place { proxy, target, config, setup: setup.clone() }))
    }

    fn secrets(&self) -> Option<(Registry, String, Vec<String>)> {
        let registry = Registry::new().with(msgkit_transport_mqtt::scheme());
        // Nobody listens there; what cannot be reached must not print its secrets either.
        let url = "mqtt://keeper:5ecr3t-w0rd@127.0.0.1:9?publish_timeout=200ms".to_owned();
        Some((registry, url, vec!["5ecr3t-w0rd".to_owned()]))
    }
}

/// A place of its own at the broker.
struct Place {
    proxy: Arc<FaultProxy>,
    target: String,
    config: MqttConfig,
    setup: Setup,
}

#[async_trait]
impl Broker for Place {
    async fn connect(&self) -> Result<Arc<dyn Transport>, TransportError> {
        let invalid =
            |error: msgkit::Error| TransportError::new(TransportErrorKind::Invalid, error.to_string());
        let url = TransportUrl::parse(&format!("mqtt://{}", self.proxy.address())).map_err(invalid)?;
        let mqtt = Mqtt::with(&url, self.config.clone(), self.setup.clock).map_err(invalid)?;
        Ok(Arc::new(mqtt))
    }

    async fn disconnect(&self) -> Fault {
        self.proxy.cut();
        Fault::Done
    }

    /// MQTT's own headers are texts; what is none travels as it does behind a bridge that had received it elsewhere.
    async fn publish_foreign(&self, topic: &Topic, payload: Bytes, headers: &NativeHeaders) -> Fault {
        let Some((host, port)) = self.target.rsplit_once(':') else { panic!("no port: {}", self.target) };
        let mut options =
            MqttOptions::new(format!("{}-device", self.config.prefix), host, port.parse().unwrap_or(1883));
        options.set_max_packet_size(Some(1 << 20));
        let (client, mut events) = AsyncClient::new(options, 4);
        let mut properties = PublishProperties::default();
        properties.user_properties.push(("nativeheaders".to_owned(), headers.to_json()));
        let name = format!("{}/{}", self.config.prefix, topic.as_str().replace('.', "/"));
        let sent = client.publish_with_properties(name, QoS::AtLeastOnce, false, payload, properties).await;
        assert!(sent.is_ok(), "{sent:?}");
        loop {
            match events.poll().await {
                Ok(Event::Incoming(Packet::PubAck(_))) => return Fault::Done,
                Ok(_) => {}
                Err(error) => panic!("the foreign publish failed: {error}"),
            }
        }
    }
}

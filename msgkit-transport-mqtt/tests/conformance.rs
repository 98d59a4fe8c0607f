//! The conformance suite on a real broker: every case has topics and client ids of its own, every connection goes through
//! a wire that can be cut.

mod support;

use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use msgkit::envelope::NativeHeaders;
use msgkit::transport::{Transport, TransportError, TransportErrorKind, TransportUrl};
use msgkit::{Registry, Topic};
use msgkit_testing::conformance::{self, Broker, Fault, NotRun, Setup, Subject};
use msgkit_transport_mqtt::{Mqtt, MqttConfig, OnUnrouted, Version};
use rumqttc::v5::mqttbytes::QoS;
use rumqttc::v5::mqttbytes::v5::{Packet, PublishProperties};
use rumqttc::v5::{AsyncClient, Event, MqttOptions};
use support::{Wire, unique};

fn main() -> ExitCode {
    conformance::main(vec![
        Box::new(MqttSubject { version: Version::V5 }),
        Box::new(MqttSubject { version: Version::V311 }),
    ])
}

#[derive(Debug)]
struct MqttSubject {
    version: Version,
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
        std::env::var("MSGKIT_MQTT_VERSION").unwrap_or_else(|_| "Mosquitto".to_owned())
    }

    async fn broker(&self, setup: &Setup) -> Result<Box<dyn Broker>, NotRun> {
        let Some(target) = support::broker() else {
            return Err(NotRun(format!("no broker: set {}", support::URL)));
        };
        let wire = Wire::before(target.clone()).await.map_err(|error| NotRun(error.to_string()))?;
        let mut config = MqttConfig::default();
        config.version = self.version;
        config.prefix = unique("case");
        config.client_id = config.prefix.clone();
        config.takeover_after = Duration::from_millis(300);
        config.publish_timeout = setup.publish_timeout.unwrap_or(config.publish_timeout);
        if setup.refuses_unrouted && self.version == Version::V5 {
            config.on_unrouted = OnUnrouted::Error;
        }
        Ok(Box::new(Place { wire, target, config, setup: setup.clone() }))
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
    wire: Wire,
    target: String,
    config: MqttConfig,
    setup: Setup,
}

#[async_trait]
impl Broker for Place {
    async fn connect(&self) -> Result<Arc<dyn Transport>, TransportError> {
        let invalid =
            |error: msgkit::Error| TransportError::new(TransportErrorKind::Invalid, error.to_string());
        let url = TransportUrl::parse(&format!("mqtt://{}", self.wire.address())).map_err(invalid)?;
        let mqtt = Mqtt::with(&url, self.config.clone(), self.setup.clock).map_err(invalid)?;
        Ok(Arc::new(mqtt))
    }

    async fn disconnect(&self) -> Fault {
        self.wire.cut();
        Fault::Done
    }

    /// MQTT's own headers are texts; what is none travels as it does behind a bridge that had received it elsewhere.
    async fn publish_foreign(&self, topic: &Topic, payload: Bytes, headers: &NativeHeaders) -> Fault {
        let Some((host, port)) = self.target.rsplit_once(':') else { panic!("no port: {}", self.target) };
        let mut options = MqttOptions::new(unique("device"), host, port.parse().unwrap_or(1883));
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

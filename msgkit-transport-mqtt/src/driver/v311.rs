//! MQTT 3.1.1: no headers, no reasons, no limits told.

use msgkit::transport::TransportErrorKind;
use rumqttc::mqttbytes::Error as CodecError;
use rumqttc::{
    AsyncClient, ConnectReturnCode as Code, ConnectionError, Event as RawEvent, EventLoop, LastWill,
    MqttOptions, Outgoing, Packet, Publish, QoS, StateError, SubscribeFilter, SubscribeReasonCode,
};

use super::{Asked, Broken, Broker, Confirmation, Dial, Event, Filter, Refusal, Welcome, refused, too_large};
use crate::wire::{Arrived, Parcel};

#[derive(Debug, Clone)]
pub(crate) struct Client(AsyncClient, Asked);

pub(crate) struct Connection {
    events: EventLoop,
    broker: std::sync::Arc<Broker>,
    connected: bool,
    /// Why it ended, while there is something left that came before.
    failed: Option<Broken>,
    asked: Asked,
}

pub(super) fn open(dial: &Dial) -> (Client, Connection) {
    let broker = dial.broker.clone();
    let mut options = MqttOptions::new(dial.client_id.as_str(), broker.host(), broker.address.port);
    options
        .set_transport(broker.transport.clone())
        .set_keep_alive(broker.keep_alive)
        .set_clean_session(dial.clean)
        // What the broker sends is read, whatever its size: it would send it again and again.
        .set_max_packet_size(
            super::super::config::MOST_PACKET as usize,
            super::super::config::MOST_PACKET as usize,
        )
        .set_manual_acks(true)
        .set_inflight(broker.in_flight);
    if let Some((user, password)) = &broker.credentials {
        options.set_credentials(user, password);
    }
    if let Some(will) = &dial.will {
        let payload = will.payload.clone();
        options.set_last_will(LastWill::new(will.topic.as_str(), payload, QoS::AtLeastOnce, will.retain));
    }
    let (client, mut events) = AsyncClient::new(options, super::ROOM);
    let mut network = events.network_options();
    network.set_tcp_nodelay(true);
    network.set_connection_timeout(super::whole_seconds(broker.connect_timeout));
    events.set_network_options(network);
    let asked = Asked::default();
    (Client(client, asked.clone()), Connection { events, broker, connected: false, failed: None, asked })
}

const fn qos(confirmed: bool) -> QoS {
    if confirmed { QoS::AtLeastOnce } else { QoS::AtMostOnce }
}

impl Client {
    pub(super) fn publish(&self, parcel: Parcel) -> bool {
        let payload: Vec<u8> = parcel.payload.into();
        self.0.try_publish(parcel.topic, qos(parcel.confirmed), parcel.retain, payload).is_ok()
    }

    #[allow(clippy::unused_self)]
    pub(super) fn size_of(&self, parcel: &Parcel) -> usize {
        // Fixed header, length of the topic, number.
        parcel.topic.len() + parcel.payload.len() + 9
    }

    pub(super) fn subscribe(&self, filters: &[Filter]) -> bool {
        // Retained messages come always; they are told apart on arrival.
        let raw =
            filters.iter().map(|filter| SubscribeFilter::new(filter.name.clone(), qos(filter.confirmed)));
        self.1.expect(filters, || self.0.try_subscribe_many(raw).is_ok())
    }

    pub(super) fn unsubscribe(&self, filter: &str) -> bool {
        self.1.expect_end(filter, || self.0.try_unsubscribe(filter).is_ok())
    }

    pub(super) fn acknowledge(&self, number: u16) -> bool {
        let mut publish = Publish::new("", QoS::AtLeastOnce, Vec::new());
        publish.pkid = number;
        self.0.try_ack(&publish).is_ok()
    }

    pub(super) fn leave(&self) -> bool {
        self.0.try_disconnect().is_ok()
    }
}

impl Connection {
    pub(super) async fn next(&mut self) -> Result<Event, Broken> {
        loop {
            let event = match &self.failed {
                None => match self.events.poll().await {
                    Ok(event) => event,
                    Err(error) => {
                        self.failed = Some(self.broken(error));
                        continue;
                    }
                },
                // The client drops what it had read when it fails in the same breath.
                Some(broken) => match self.events.state.events.pop_front() {
                    Some(RawEvent::Incoming(packet)) => RawEvent::Incoming(packet),
                    Some(RawEvent::Outgoing(_)) => continue,
                    None => return Err(broken.clone()),
                },
            };
            if let Some(event) = self.read(event) {
                return Ok(event);
            }
        }
    }

    pub(super) fn has_message(&self) -> bool {
        matches!(self.events.state.events.front(), Some(RawEvent::Incoming(Packet::Publish(_))))
    }

    fn read(&mut self, event: RawEvent) -> Option<Event> {
        Some(match event {
            RawEvent::Incoming(Packet::ConnAck(ack)) => {
                self.connected = true;
                let window = self.events.mqtt_options.inflight().max(1);
                Event::Connected(Welcome {
                    session: ack.session_present,
                    window,
                    largest: None,
                    confirms: true,
                })
            }
            RawEvent::Incoming(Packet::Publish(publish)) => Event::Arrived(Arrived {
                topic: publish.topic,
                payload: publish.payload,
                number: publish.pkid,
                retained: publish.retain,
                content_type: None,
                user: Vec::new(),
            }),
            RawEvent::Incoming(Packet::PubAck(ack)) => Event::Confirmed(ack.pkid, Confirmation::Taken),
            RawEvent::Incoming(Packet::SubAck(ack)) => {
                let granted = ack.return_codes.iter().map(|code| match code {
                    SubscribeReasonCode::Success(granted) => Ok(*granted != QoS::AtMostOnce),
                    SubscribeReasonCode::Failure => Err("refused".to_owned()),
                });
                Event::Subscribed(self.asked.answered(granted))
            }
            RawEvent::Incoming(Packet::UnsubAck(_)) => Event::Unsubscribed(self.asked.ended(), None),
            RawEvent::Outgoing(Outgoing::Publish(number)) => Event::Sent(number),
            RawEvent::Outgoing(Outgoing::AwaitAck(number)) => Event::Waiting(number),
            RawEvent::Outgoing(Outgoing::Disconnect) => Event::Left,
            _ => return None,
        })
    }

    fn broken(&self, error: ConnectionError) -> Broken {
        let broker = &*self.broker;
        let failure = match &error {
            ConnectionError::ConnectionRefused(code) => refused(
                broker,
                match code {
                    Code::BadUserNamePassword => Refusal::Credentials,
                    Code::NotAuthorized => Refusal::NotAuthorized,
                    Code::BadClientId => Refusal::ClientId,
                    Code::RefusedProtocolVersion => Refusal::Version,
                    other => Refusal::Other(format!("{other:?}")),
                },
            ),
            ConnectionError::MqttState(StateError::Deserialization(
                CodecError::PayloadSizeLimitExceeded(size),
            )) => too_large(broker, *size),
            #[cfg(feature = "tls")]
            ConnectionError::Tls(error) => super::tls_failure(broker, error),
            _ if self.connected => broker.failure(TransportErrorKind::Unavailable, "the connection broke"),
            error => super::unreached(broker, error),
        };
        Broken { failure: failure.with_source(error), taken_over: false }
    }
}

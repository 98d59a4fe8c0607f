//! MQTT 5.

use bytes::Bytes;
use msgkit::transport::TransportErrorKind;
use rumqttc::Outgoing;
use rumqttc::v5::mqttbytes::v5::{
    ConnectReturnCode as Code, DisconnectReasonCode, Filter as RawFilter, LastWill, Packet, PubAckReason,
    Publish, PublishProperties, RetainForwardRule, SubscribeReasonCode, UnsubAckReason,
};
use rumqttc::v5::mqttbytes::{Error as CodecError, QoS};
use rumqttc::v5::{AsyncClient, ConnectionError, Event as RawEvent, EventLoop, MqttOptions, StateError};

use super::{
    Asked, Broken, Broker, Confirmation, Dial, Event, Filter, Refusal, Welcome, refused, seconds, text_of,
    too_large, whole_seconds,
};
use crate::wire::{Arrived, Parcel, Properties};

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
        .set_clean_start(dial.clean)
        .set_session_expiry_interval(Some(seconds(dial.expiry)))
        .set_receive_maximum(Some(dial.receive.max(1)))
        .set_max_packet_size(Some(broker.max_packet))
        .set_manual_acks(true)
        .set_outgoing_inflight_upper_limit(broker.in_flight)
        .set_connection_timeout(whole_seconds(broker.connect_timeout));
    let mut network = options.network_options();
    network.set_tcp_nodelay(true);
    network.set_connection_timeout(whole_seconds(broker.connect_timeout));
    options.set_network_options(network);
    if let Some((user, password)) = &broker.credentials {
        options.set_credentials(user, password);
    }
    if let Some(will) = &dial.will {
        let payload = will.payload.clone();
        options.set_last_will(LastWill::new(
            will.topic.as_str(),
            payload,
            QoS::AtLeastOnce,
            will.retain,
            None,
        ));
    }
    let (client, events) = AsyncClient::new(options, super::ROOM);
    let asked = Asked::default();
    (Client(client, asked.clone()), Connection { events, broker, connected: false, failed: None, asked })
}

const fn qos(confirmed: bool) -> QoS {
    if confirmed { QoS::AtLeastOnce } else { QoS::AtMostOnce }
}

fn raw(properties: Properties) -> PublishProperties {
    PublishProperties {
        payload_format_indicator: properties.is_text.then_some(1),
        content_type: properties.content_type,
        response_topic: properties.response_topic,
        correlation_data: properties.correlation,
        user_properties: properties.user,
        ..PublishProperties::default()
    }
}

/// The bytes of `parcel` on the wire. The client tells it only of what it has been given.
fn size(parcel: &Parcel) -> usize {
    let Properties { content_type, is_text, response_topic, correlation, user } = &parcel.properties;
    // One byte says what a property is, two how long a text is (MQTT 5, 2.2.2.2 and 1.5.4).
    let text = |length: Option<usize>| length.map_or(0, |length| 3 + length);
    let properties = if *is_text { 2 } else { 0 }
        + text(content_type.as_ref().map(String::len))
        + text(response_topic.as_ref().map(String::len))
        + text(correlation.as_ref().map(Bytes::len))
        + user.iter().map(|(name, value)| 5 + name.len() + value.len()).sum::<usize>();
    let number = if parcel.confirmed { 2 } else { 0 };
    let rest = 2 + parcel.topic.len() + number + length_of(properties) + properties + parcel.payload.len();
    1 + length_of(rest) + rest
}

/// How many bytes the number `length` takes (MQTT 5, 1.5.5).
const fn length_of(length: usize) -> usize {
    match length {
        0..0x80 => 1,
        0x80..0x4000 => 2,
        0x4000..0x20_0000 => 3,
        _ => 4,
    }
}

impl Client {
    pub(super) fn publish(&self, parcel: Parcel) -> bool {
        let Parcel { topic, payload, confirmed, retain, properties } = parcel;
        let properties = raw(properties);
        self.0.try_publish_with_properties(topic, qos(confirmed), retain, payload, properties).is_ok()
    }

    #[allow(clippy::unused_self)]
    pub(super) fn size_of(&self, parcel: &Parcel) -> usize {
        size(parcel)
    }

    pub(super) fn subscribe(&self, filters: &[Filter]) -> bool {
        let raw = filters.iter().map(|filter| RawFilter {
            retain_forward_rule: match filter.retained {
                true => RetainForwardRule::OnEverySubscribe,
                false => RetainForwardRule::Never,
            },
            ..RawFilter::new(filter.name.as_str(), qos(filter.confirmed))
        });
        self.1.expect(filters, || self.0.try_subscribe_many(raw).is_ok())
    }

    pub(super) fn unsubscribe(&self, filter: &str) -> bool {
        self.1.expect_end(filter, || self.0.try_unsubscribe(filter).is_ok())
    }

    pub(super) fn acknowledge(&self, number: u16) -> bool {
        let publish = Publish { qos: QoS::AtLeastOnce, pkid: number, ..Publish::default() };
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
                let told = ack.properties.as_ref();
                let window = told.and_then(|told| told.receive_max).unwrap_or(u16::MAX);
                Event::Connected(Welcome {
                    session: ack.session_present,
                    window: window.min(self.broker.in_flight).max(1),
                    largest: told.and_then(|told| told.max_packet_size),
                    confirms: told.and_then(|told| told.max_qos) != Some(0),
                })
            }
            RawEvent::Incoming(Packet::Publish(publish)) => {
                let properties = publish.properties.unwrap_or_default();
                Event::Arrived(Arrived {
                    topic: text_of(&publish.topic),
                    payload: publish.payload,
                    number: publish.pkid,
                    retained: publish.retain,
                    content_type: properties.content_type,
                    user: properties.user_properties,
                })
            }
            RawEvent::Incoming(Packet::PubAck(ack)) => Event::Confirmed(ack.pkid, confirmation(ack.reason)),
            RawEvent::Incoming(Packet::SubAck(ack)) => {
                let granted = ack.return_codes.iter().map(|code| match code {
                    SubscribeReasonCode::Success(granted) => Ok(*granted != QoS::AtMostOnce),
                    refused => Err(format!("{refused:?}")),
                });
                Event::Subscribed(self.asked.answered(granted))
            }
            RawEvent::Incoming(Packet::UnsubAck(ack)) => {
                let is_over = |reason: &&UnsubAckReason| {
                    matches!(reason, UnsubAckReason::Success | UnsubAckReason::NoSubscriptionExisted)
                };
                let refused = ack.reasons.iter().find(|reason| !is_over(reason));
                Event::Unsubscribed(self.asked.ended(), refused.map(|reason| format!("{reason:?}")))
            }
            RawEvent::Outgoing(Outgoing::Publish(number)) => Event::Sent(number),
            RawEvent::Outgoing(Outgoing::AwaitAck(number)) => Event::Waiting(number),
            RawEvent::Outgoing(Outgoing::Disconnect) => Event::Left,
            _ => return None,
        })
    }

    fn broken(&self, error: ConnectionError) -> Broken {
        let broker = &*self.broker;
        let mut taken_over = false;
        let failure = match &error {
            ConnectionError::ConnectionRefused(code) => refused(
                broker,
                match code {
                    Code::BadUserNamePassword => Refusal::Credentials,
                    Code::NotAuthorized | Code::Banned | Code::BadAuthenticationMethod => {
                        Refusal::NotAuthorized
                    }
                    Code::BadClientId | Code::ClientIdentifierNotValid => Refusal::ClientId,
                    Code::RefusedProtocolVersion | Code::UnsupportedProtocolVersion => Refusal::Version,
                    other => Refusal::Other(format!("{other:?}")),
                },
            ),
            ConnectionError::MqttState(StateError::Deserialization(
                CodecError::PayloadSizeLimitExceeded { pkt_size, .. },
            )) => too_large(broker, *pkt_size),
            ConnectionError::MqttState(StateError::ServerDisconnect { reason_code, .. }) => {
                taken_over = *reason_code == DisconnectReasonCode::SessionTakenOver;
                broker.failure(
                    TransportErrorKind::Unavailable,
                    &format!("it ended the connection ({reason_code:?})"),
                )
            }
            #[cfg(feature = "tls")]
            ConnectionError::Tls(error) => super::tls_failure(broker, error),
            _ if self.connected => broker.failure(TransportErrorKind::Unavailable, "the connection broke"),
            error => super::unreached(broker, error),
        };
        Broken { failure: failure.with_source(error), taken_over }
    }
}

fn confirmation(reason: PubAckReason) -> Confirmation {
    use TransportErrorKind::{Full, Invalid, Refused, Unavailable};
    match reason {
        PubAckReason::Success => Confirmation::Taken,
        PubAckReason::NoMatchingSubscribers => Confirmation::Unrouted,
        PubAckReason::NotAuthorized => Confirmation::Refused(
            Refused,
            "is not authorized to publish there; look at the broker's access rules",
        ),
        PubAckReason::TopicNameInvalid => {
            Confirmation::Refused(Invalid, "may not use that topic at this broker")
        }
        PubAckReason::PayloadFormatInvalid => {
            Confirmation::Refused(Invalid, "sent a payload that the broker takes for no text")
        }
        PubAckReason::QuotaExceeded => Confirmation::Refused(Full, "has used up what the broker allows it"),
        PubAckReason::PacketIdentifierInUse
        | PubAckReason::UnspecifiedError
        | PubAckReason::ImplementationSpecificError => {
            Confirmation::Refused(Unavailable, "was refused without a reason")
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_size_is_what_the_client_would_say() {
        for (payload, value, confirmed) in
            [(0, 0, true), (90, 1, false), (120, 127, true), (16_300, 128, true), (1 << 21, 16_384, true)]
        {
            let parcel = || Parcel {
                topic: "a/b".to_owned(),
                payload: vec![0; payload].into(),
                confirmed,
                retain: false,
                properties: Properties {
                    content_type: (value != 1).then(|| "application/json".to_owned()),
                    is_text: value == 0,
                    response_topic: Some("a/reply".to_owned()),
                    correlation: Some(Bytes::from_static(b"1234")),
                    user: vec![("id".to_owned(), "x".repeat(value)), ("type".to_owned(), "t".to_owned())],
                },
            };
            let Parcel { topic, payload, properties, .. } = parcel();
            let mut publish = Publish::new(topic, qos(confirmed), payload, Some(raw(properties)));
            publish.pkid = 1;
            assert_eq!(size(&parcel()), publish.size(), "{value}");
        }
    }
}

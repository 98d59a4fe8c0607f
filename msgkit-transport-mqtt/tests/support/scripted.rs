//! A broker that does what a test tells it, also what no good one does.

#![allow(dead_code, clippy::unwrap_used)] // Each test binary uses a part of it; a panic is how a test fails.

use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};

use bytes::BytesMut;
use rumqttc::v5::mqttbytes::Error;
use rumqttc::v5::mqttbytes::QoS;
use rumqttc::v5::mqttbytes::v5::PingResp;
use rumqttc::v5::mqttbytes::v5::{
    ConnAck, ConnAckProperties, ConnectReturnCode, Packet, PubAck, Publish, SubAck, Subscribe,
    SubscribeReasonCode, UnsubAck, UnsubAckReason,
};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

/// What the broker does next.
pub(crate) enum Do {
    Answer(Box<Packet>),
    /// Ends the connection.
    HangUp,
}

/// What a test says to each packet: the number of the connection (from 1), the packet.
pub(crate) type Script = Box<dyn FnMut(u32, &Packet) -> Vec<Do> + Send>;

pub(crate) struct Scripted {
    pub(crate) address: String,
    /// How many connections there have been.
    pub(crate) connections: Arc<AtomicU32>,
    ends: Arc<watch::Sender<u32>>,
}

impl Scripted {
    pub(crate) async fn start(script: Script) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let connections = Arc::new(AtomicU32::new(0));
        let ends = Arc::new(watch::Sender::new(0));
        let (counter, script, signal) = (connections.clone(), Arc::new(Mutex::new(script)), ends.clone());
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let number = counter.fetch_add(1, Ordering::SeqCst) + 1;
                let (script, mut end) = (script.clone(), signal.subscribe());
                tokio::spawn(async move {
                    tokio::select! {
                        () = serve(stream, number, script) => {}
                        _ = end.changed() => {}
                    }
                });
            }
        });
        Self { address, connections, ends }
    }

    /// Ends every connection that there is.
    pub(crate) fn hang_up(&self) {
        self.ends.send_modify(|ends| *ends += 1);
    }

    pub(crate) fn count(&self) -> u32 {
        self.connections.load(Ordering::SeqCst)
    }
}

async fn serve(mut stream: TcpStream, number: u32, script: Arc<Mutex<Script>>) {
    let mut buffer = BytesMut::new();
    loop {
        let packet = match Packet::read(&mut buffer, None) {
            Ok(packet) => packet,
            Err(Error::InsufficientBytes(_)) => {
                if stream.read_buf(&mut buffer).await.unwrap_or(0) == 0 {
                    return;
                }
                continue;
            }
            Err(_) => return,
        };
        let orders = script.lock().unwrap()(number, &packet);
        let mut out = BytesMut::new();
        for order in orders {
            match order {
                Do::Answer(packet) => {
                    packet.write(&mut out, None).unwrap();
                }
                Do::HangUp => {
                    let _ = stream.write_all(&out).await;
                    return;
                }
            }
        }
        if stream.write_all(&out).await.is_err() {
            return;
        }
    }
}

/// What a good broker says, publishes apart.
pub(crate) fn polite(packet: &Packet, window: u16) -> Vec<Do> {
    let answer = match packet {
        Packet::Connect(..) => welcome(false, window),
        Packet::Subscribe(subscribe) => Packet::SubAck(SubAck {
            pkid: subscribe.pkid,
            return_codes: subscribe
                .filters
                .iter()
                .map(|_| SubscribeReasonCode::Success(QoS::AtLeastOnce))
                .collect(),
            properties: None,
        }),
        Packet::Unsubscribe(unsubscribe) => Packet::UnsubAck(UnsubAck {
            pkid: unsubscribe.pkid,
            reasons: vec![UnsubAckReason::Success],
            properties: None,
        }),
        Packet::PingReq(_) => Packet::PingResp(PingResp),
        Packet::Disconnect(_) => return vec![Do::HangUp],
        _ => return Vec::new(),
    };
    vec![Do::Answer(Box::new(answer))]
}

/// What a good broker says that has these marks retained: place and text.
pub(crate) fn with_marks(packet: &Packet, marks: &[(&str, &str)]) -> Vec<Do> {
    match packet {
        Packet::Subscribe(subscribe) => {
            let asks = subscribe.filters.iter().any(|filter| filter.path.contains("/msgkit/slots/"));
            let marks = marks.iter().filter(|_| asks).map(|(place, text)| mark(place, text, true));
            polite(packet, 10).into_iter().chain(marks).collect()
        }
        // Who looks at marks says where they end.
        Packet::Publish(publish) if publish.pkid == 0 => vec![Do::Answer(Box::new(packet.clone()))],
        Packet::Publish(publish) => vec![confirm(publish.pkid)],
        _ => polite(packet, 10),
    }
}

/// A mark, retained from earlier or written now.
pub(crate) fn mark(place: &str, text: &str, retained: bool) -> Do {
    let mut publish = Publish::new(place, QoS::AtMostOnce, text.to_owned(), None);
    publish.retain = retained;
    Do::Answer(Box::new(Packet::Publish(publish)))
}

/// Refuses every filter of a subscribe.
pub(crate) fn refuse(subscribe: &Subscribe) -> Vec<Do> {
    let return_codes = subscribe.filters.iter().map(|_| SubscribeReasonCode::NotAuthorized).collect();
    let refused = SubAck { pkid: subscribe.pkid, return_codes, properties: None };
    vec![Do::Answer(Box::new(Packet::SubAck(refused)))]
}

pub(crate) fn welcome(session: bool, window: u16) -> Packet {
    let properties = ConnAckProperties {
        session_expiry_interval: None,
        receive_max: Some(window),
        max_qos: None,
        retain_available: None,
        max_packet_size: None,
        assigned_client_identifier: None,
        topic_alias_max: None,
        reason_string: None,
        user_properties: Vec::new(),
        wildcard_subscription_available: None,
        subscription_identifiers_available: None,
        shared_subscription_available: None,
        server_keep_alive: None,
        response_information: None,
        server_reference: None,
        authentication_method: None,
        authentication_data: None,
    };
    Packet::ConnAck(ConnAck {
        session_present: session,
        code: ConnectReturnCode::Success,
        properties: Some(properties),
    })
}

pub(crate) fn confirm(number: u16) -> Do {
    Do::Answer(Box::new(Packet::PubAck(PubAck::new(number, None))))
}

/// A message to the client.
pub(crate) fn send(topic: &str, number: u16, payload: Vec<u8>) -> Do {
    let qos = if number == 0 { QoS::AtMostOnce } else { QoS::AtLeastOnce };
    let mut publish = Publish::new(topic, qos, payload, None);
    publish.pkid = number;
    Do::Answer(Box::new(Packet::Publish(publish)))
}

/// A message that was there before the subscription, which no subscription takes that has not asked for it.
pub(crate) fn send_old(topic: &str, number: u16) -> Do {
    let mut publish = Publish::new(topic, QoS::AtLeastOnce, "old", None);
    (publish.pkid, publish.retain) = (number, true);
    Do::Answer(Box::new(Packet::Publish(publish)))
}

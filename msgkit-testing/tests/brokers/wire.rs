//! The first bytes of MQTT 3.1.1, AMQP 0-9-1 and Kafka's protocol, written by hand so that the launchers are not tested by themselves.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::Duration;

/// A connection to a loopback port.
pub(crate) fn connect(port: u16) -> TcpStream {
    let stream = TcpStream::connect(("127.0.0.1", port)).expect("a broker listens");
    stream.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
    stream
}

/// Connects as `client` and answers the CONNACK: whether a session was there, and the return code.
pub(crate) fn mqtt(
    stream: &mut TcpStream,
    client: &str,
    user: Option<(&str, &str)>,
    clean: bool,
) -> (bool, u8) {
    let mut body = b"\x00\x04MQTT\x04".to_vec();
    body.push(u8::from(clean) << 1 | if user.is_some() { 0xc0 } else { 0 });
    body.extend([0, 60]);
    field(&mut body, client);
    if let Some((name, password)) = user {
        field(&mut body, name);
        field(&mut body, password);
    }
    packet(stream, 0x10, &body);
    let answer = read_packet(stream);
    assert_eq!(answer.0, 0x20, "no CONNACK");
    (answer.1[0] & 1 == 1, answer.1[1])
}

/// Publishes with QoS 1, and waits until the broker has it.
pub(crate) fn mqtt_publish(stream: &mut TcpStream, topic: &str, payload: &str, retain: bool) {
    let mut body = Vec::new();
    field(&mut body, topic);
    body.extend([0, 7]);
    body.extend(payload.as_bytes());
    packet(stream, 0x32 | u8::from(retain), &body);
    assert_eq!(read_packet(stream), (0x40, vec![0, 7]));
}

/// Waits until the broker has done everything before, which is more than its acks say: it writes to disk after them.
pub(crate) fn mqtt_ping(stream: &mut TcpStream) {
    packet(stream, 0xc0, &[]);
    assert_eq!(read_packet(stream), (0xd0, vec![]));
}

/// Subscribes with QoS 1.
pub(crate) fn mqtt_subscribe(stream: &mut TcpStream, topic: &str) {
    let mut body = vec![0, 9];
    field(&mut body, topic);
    body.push(1);
    packet(stream, 0x82, &body);
    assert_eq!(read_packet(stream), (0x90, vec![0, 9, 1]));
}

/// The payload of the next message, which has QoS 1.
pub(crate) fn mqtt_receive(stream: &mut TcpStream) -> String {
    let (kind, body) = read_packet(stream);
    assert_eq!(kind & 0xf6, 0x32, "no PUBLISH with QoS 1");
    let topic = usize::from(u16::from_be_bytes([body[0], body[1]]));
    String::from_utf8(body[2 + topic + 2..].to_vec()).unwrap()
}

fn field(body: &mut Vec<u8>, text: &str) {
    body.extend(u16::try_from(text.len()).unwrap().to_be_bytes());
    body.extend(text.as_bytes());
}

fn packet(stream: &mut TcpStream, kind: u8, body: &[u8]) {
    let length = u8::try_from(body.len()).unwrap();
    assert!(length < 128);
    stream.write_all(&[&[kind, length], body].concat()).unwrap();
}

fn read_packet(stream: &mut TcpStream) -> (u8, Vec<u8>) {
    let mut head = [0; 2];
    stream.read_exact(&mut head).expect("a packet");
    assert!(head[1] < 128);
    let mut body = vec![0; usize::from(head[1])];
    stream.read_exact(&mut body).unwrap();
    (head[0], body)
}

/// Opens an AMQP connection as `guest` on a virtual host. The answer is what `connection.open` got: 41 is open-ok, 50 is
/// close.
pub(crate) fn amqp(stream: &mut TcpStream, vhost: &str) -> u16 {
    stream.write_all(b"AMQP\x00\x00\x09\x01").unwrap();
    assert_eq!(method(&amqp_frame(stream)), (10, 10), "no connection.start");
    // start-ok: no properties, PLAIN, locale
    let mut body = vec![0, 10, 0, 11, 0, 0, 0, 0];
    body.extend(b"\x05PLAIN\x00\x00\x00\x0c\x00guest\x00guest\x05en_US");
    send(stream, &body);
    let tune = amqp_frame(stream);
    assert_eq!(method(&tune), (10, 30), "no connection.tune");
    // tune-ok: the broker's channels and frame size, no heartbeat
    send(stream, &[&[0, 10, 0, 31], &tune[4..10], &[0, 0][..]].concat());
    let mut body = vec![0, 10, 0, 40, u8::try_from(vhost.len()).unwrap()];
    body.extend(vhost.as_bytes());
    body.extend([0, 0]);
    send(stream, &body);
    method(&amqp_frame(stream)).1
}

/// The payload of the next frame.
pub(crate) fn amqp_frame(stream: &mut TcpStream) -> Vec<u8> {
    let mut head = [0; 7];
    stream.read_exact(&mut head).expect("a frame");
    let length = u32::from_be_bytes([head[3], head[4], head[5], head[6]]);
    let mut body = vec![0; usize::try_from(length).unwrap() + 1];
    stream.read_exact(&mut body).unwrap();
    assert_eq!(body.pop(), Some(0xce));
    body
}

/// Class and method of a frame.
pub(crate) fn method(frame: &[u8]) -> (u16, u16) {
    (u16::from_be_bytes([frame[0], frame[1]]), u16::from_be_bytes([frame[2], frame[3]]))
}

fn send(stream: &mut TcpStream, body: &[u8]) {
    let mut frame = vec![1, 0, 0];
    frame.extend(u32::try_from(body.len()).unwrap().to_be_bytes());
    frame.extend(body);
    frame.push(0xce);
    stream.write_all(&frame).unwrap();
}

/// Creates a topic of one partition (CreateTopics, version 2); the error code, 0 for none.
pub(crate) fn kafka_create(stream: &mut TcpStream, topic: &str) -> u16 {
    let mut request = vec![0, 19, 0, 2, 0, 0, 0, 1, 0xff, 0xff];
    request.extend(1_u32.to_be_bytes());
    field(&mut request, topic);
    request.extend(1_u32.to_be_bytes());
    request.extend(1_u16.to_be_bytes());
    // No assignment, no settings; then how long it may take, and that it is meant.
    request.extend([0; 8]);
    request.extend(10_000_u32.to_be_bytes());
    request.push(0);
    stream.write_all(&u32::try_from(request.len()).unwrap().to_be_bytes()).unwrap();
    stream.write_all(&request).unwrap();
    let mut length = [0; 4];
    stream.read_exact(&mut length).unwrap();
    let mut answer = vec![0; u32::from_be_bytes(length) as usize];
    stream.read_exact(&mut answer).unwrap();
    // Correlation, throttle time, how many topics, then the first one's name and error.
    let name = usize::from(u16::from_be_bytes([answer[12], answer[13]]));
    u16::from_be_bytes([answer[14 + name], answer[15 + name]])
}

/// The partitions that a broker keeps in `data`, but its own.
pub(crate) fn kafka_topics(data: &std::path::Path) -> Vec<String> {
    let entries = std::fs::read_dir(data).unwrap().flatten();
    let directories = entries.filter(|entry| entry.path().is_dir());
    let names = directories.filter_map(|entry| entry.file_name().into_string().ok());
    names.filter(|name| !name.starts_with("__")).collect()
}

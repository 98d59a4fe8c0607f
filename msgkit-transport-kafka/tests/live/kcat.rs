//! kcat, the tool that everybody has at hand: what it writes, poison included, is handled or a dead letter, never stuck; and what
//! msgkit writes it reads.

use std::io::Write as _;
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use msgkit::envelope::{DeadLetterKind, NativeValue};
use msgkit::transport::{Operate as _, Publisher as _, Transport as _};
use msgkit::{Context, Group, HandlerError, Message, Service};

use super::bench::{PATIENCE, message, shared};
use crate::support;

/// Runs kcat with `input`; `None`, and a word, where it is not installed.
fn kcat(arguments: &[&str], input: &[u8]) -> Option<Vec<u8>> {
    let child = Command::new("kcat")
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn();
    let mut child = match child {
        Ok(child) => child,
        Err(error) if std::env::var("MSGKIT_REQUIRE_BROKERS").is_ok_and(|value| value == "1") => {
            panic!("not run: kcat: {error}")
        }
        Err(error) => {
            eprintln!("not run: kcat: {error}");
            return None;
        }
    };
    child.stdin.take().unwrap().write_all(input).unwrap();
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    Some(output.stdout)
}

#[derive(Debug, serde::Serialize, serde::Deserialize, Message)]
#[message(name = "tests.order", topic = "orders.created", key = id)]
struct Order {
    id: String,
}

/// The id and the key of an order.
type Handled = (String, Option<String>);

/// Events in kcat's words are handled, with the record's key; everything that is none is a dead letter with every byte of it,
/// and what comes behind it in its partition goes on.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_kcat_writes_is_handled_or_a_dead_letter() {
    let Some((url, prefix)) = shared("kcat") else { return };
    let mut config = support::quick(&prefix);
    // Everything behind the poison is behind it in the same partition.
    config.partitions = 1;
    let kafka = support::kafka(&url, config).unwrap();
    let handled: Arc<Mutex<Vec<Handled>>> = Arc::default();
    let noted = handled.clone();
    let handler = move |order: Order, cx: Context| {
        let noted = noted.clone();
        async move {
            noted.lock().unwrap().push((order.id, cx.envelope().key().map(str::to_owned)));
            Ok::<(), HandlerError>(())
        }
    };
    let service = Service::new("orders").transport("kafka", kafka.clone()).on("g", handler);
    let running = service.start().await.unwrap();

    let (address, topic) = (url.trim_start_matches("kafka://").to_owned(), format!("{prefix}orders.created"));
    let produce = |more: &[&str], input: &[u8]| {
        let mut arguments = vec!["-P", "-b", &address, "-t", &topic];
        arguments.extend(more);
        tokio::task::block_in_place(|| kcat(&arguments, input))
    };
    let event = [
        "-H",
        "ce_specversion=1.0",
        "-H",
        "ce_id=1",
        "-H",
        "ce_source=kcat",
        "-H",
        "ce_type=tests.order",
        "-H",
        "content-type=application/json",
        "-k",
        "k1",
    ];
    let event_with = |more: &[&'static str]| [&event[..], more].concat();
    // Poison: no text, no event, no value, an empty one, bytes as key, a header without a value, not the JSON that it says.
    let Some(_) = produce(&["-k", "p1"], b"\xff\xfe\x00 no text") else { return };
    produce(&["-k", "p2"], b"plain text");
    produce(&["-K:", "-Z"], b"p3:\n");
    produce(&["-K:"], b"p4:\n");
    produce(&["-K:"], b"\xff\x80:bytes as key\n");
    produce(&["-k", "p6", "-H", "alone"], b"a header without a value");
    produce(&event_with(&["-k", "k1", "-H", "kind=poison"]), b"{\"id\": 7");
    produce(&event_with(&["-K:", "-Z"]), b"k1:\n");
    // And what is right.
    produce(&event_with(&["-k", "k1"]), b"{\"id\": \"good\"}");

    let group = Group::new("g").unwrap();
    let waiting = async {
        while handled.lock().unwrap().is_empty() {
            tokio::time::sleep(std::time::Duration::from_millis(50)).await;
        }
    };
    tokio::time::timeout(PATIENCE, waiting).await.expect("what follows the poison is handled");
    assert_eq!(*handled.lock().unwrap(), [("good".to_owned(), Some("k1".to_owned()))]);
    let letters = kafka.dead_letters(&group, None, 100).await.unwrap();
    let seen: Vec<_> = letters
        .iter()
        .map(|letter| {
            let envelope = letter.message.envelope().unwrap();
            assert_eq!(envelope.dead_letter().map(|facts| facts.kind), Some(DeadLetterKind::Decode));
            (envelope.payload_bytes(), envelope.key().map(str::to_owned))
        })
        .collect();
    let text =
        |text: &'static [u8], key: Option<&str>| (Some(Bytes::from_static(text)), key.map(str::to_owned));
    let wanted = [
        text(b"\xff\xfe\x00 no text", Some("p1")),
        text(b"plain text", Some("p2")),
        (None, Some("p3".to_owned())),
        text(b"", Some("p4")),
        text(b"bytes as key", None),
        text(b"a header without a value", Some("p6")),
        text(b"{\"id\": 7", Some("k1")),
        (None, Some("k1".to_owned())),
    ];
    assert_eq!(seen, wanted);
    let native = |at: usize| letters[at].message.envelope().unwrap().native().clone();
    let bytes = NativeValue::Bytes(Bytes::from_static(b"\xff\x80"));
    assert!(native(4).iter().any(|(name, value)| name == "kafka:key" && *value == bytes), "{:?}", native(4));
    assert!(native(5).iter().any(|(name, value)| name == "alone" && *value == NativeValue::Null));
    assert!(native(6).iter().any(|(name, _)| name == "kind"));
    running.drain().await.unwrap();
    let status = kafka.groups().await.unwrap();
    assert!(status.iter().all(|group| group.waiting == 0 && group.delayed == 0), "{status:?}");
    kafka.close().await.unwrap();
}

/// Key, headers and value of what msgkit publishes.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn kcat_reads_what_msgkit_writes() {
    let Some((url, prefix)) = shared("kcatreads") else { return };
    let kafka = support::kafka(&url, support::quick(&prefix)).unwrap();
    kafka.publish(vec![message("a.b", Some("k"), "there")]).await.unwrap();
    let (address, topic) = (url.trim_start_matches("kafka://"), format!("{prefix}a.b"));
    let arguments = ["-C", "-b", address, "-t", &topic, "-e", "-q", "-f", "%k|%h|%s\n"];
    let Some(read) = tokio::task::block_in_place(|| kcat(&arguments, b"")) else { return };
    let read = String::from_utf8(read).unwrap();
    assert!(read.starts_with("k|") && read.ends_with("|\"there\"\n"), "{read}");
    for header in
        ["ce_specversion=1.0", "ce_source=tests", "ce_type=tests.text", "content-type=application/json"]
    {
        assert!(read.contains(header), "{header}: {read}");
    }
    kafka.close().await.unwrap();
}

use msgkit::envelope::{Clock, ContentType, Timestamp};
use msgkit::transport::{Outgoing, Publisher as _, Start, Transport as _, TransportUrl};
use msgkit::{Envelope, Group};
use rdkafka::client::ClientContext;
use rdkafka::mocking::MockCluster;
use rdkafka::types::{RDKafkaApiKey, RDKafkaRespErr};

use super::*;
use crate::KafkaConfig;
use crate::testing::kafka;

#[tokio::test]
async fn a_panic_ends_a_subscription_with_an_error() {
    let url = TransportUrl::parse("kafka://127.0.0.1:1").unwrap();
    let kafka = Kafka::with(&url, crate::KafkaConfig::default(), Clock::system()).unwrap();
    let member = Arc::new(Member::new(kafka.cluster(), None, 1));
    let running = member.clone();
    let thread = std::thread::spawn(move || guarded(&running, || panic!("on purpose")));
    member.is_gone().await;
    let (settler, _) = (member.clone(), thread.join());
    let mut deliveries = KafkaDeliveries { settler, member, handed: Vec::new(), over: None };
    let mut into = VecDeque::new();
    let error = deliveries.receive(1, &mut into).await.unwrap_err();
    assert_eq!(error.kind(), TransportErrorKind::Internal, "{error}");
    assert!(error.to_string().contains("panicked"), "{error}");
    // And it does not wait for what nobody brings.
    assert_eq!(deliveries.receive(1, &mut into).await.unwrap_err().kind(), TransportErrorKind::Closed);
}

fn messages(topic: &str, count: usize) -> Vec<Outgoing> {
    let one = |n| {
        let (topic, text) = (topic.parse().unwrap(), bytes::Bytes::from_static(b"1"));
        let mut envelope = Envelope::new("tests", "t", topic, ContentType::Json, text, Timestamp::now());
        envelope.set_key(Some(format!("k{n}").into()));
        Outgoing::to_topic(envelope)
    };
    (0..count).map(one).collect()
}

/// Of a partition that has no leader nobody can tell where it ends, and the others go on.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_partition_without_a_leader_stops_no_other() {
    let mock = MockCluster::new(1).unwrap();
    mock.create_topic("a.b", 2, 1).unwrap();
    mock.create_topic("msgkit.groups", 1, 1).unwrap();
    let kafka = kafka(&mock, KafkaConfig::default());
    let mut wanted = Subscription::group(Group::new("g").unwrap(), ["a.b".parse().unwrap()]);
    wanted.start = Start::Earliest;
    kafka.declare_group(&wanted).await.unwrap();
    kafka.publish(messages("a.b", 20)).await.unwrap();
    mock.partition_leader("a.b", 1, None).unwrap();
    let mut deliveries = kafka.subscribe(&wanted).await.unwrap();
    let mut into = VecDeque::new();
    let came = tokio::time::timeout(Duration::from_secs(120), deliveries.receive(20, &mut into));
    came.await.expect("the other partition is handed out").unwrap();
    assert!(!into.is_empty());
    drop(into);
    deliveries.close().await.unwrap();
    kafka.close().await.unwrap();
}

/// Where it begins is not known before the brokers have told the ends: else what they have would all be new to it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_wants_the_latest_does_not_begin_without_the_brokers() {
    let mock = MockCluster::new(1).unwrap();
    mock.create_topic("a.b", 1, 1).unwrap();
    let config = KafkaConfig { connect_timeout: Duration::from_secs(1), ..KafkaConfig::default() };
    let kafka = kafka(&mock, config);
    let published = async { while kafka.publish(messages("a.b", 20)).await.is_err() {} };
    tokio::time::timeout(Duration::from_secs(60), published).await.unwrap();
    mock.broker_down(1).unwrap();
    let wanted = Subscription::ephemeral(["a.*".parse().unwrap()]);
    let error = kafka.subscribe(&wanted).await.expect_err("nobody knows where it begins");
    assert!(error.is_temporary(), "{error}");
    mock.broker_up(1).unwrap();
    kafka.close().await.unwrap();
}

/// Where the first message is wanted nobody has to tell where the log ends.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_wants_the_earliest_begins_without_a_leader() {
    let mock = MockCluster::new(1).unwrap();
    mock.create_topic("a.b", 2, 1).unwrap();
    let kafka = kafka(&mock, KafkaConfig::default());
    kafka.publish(messages("a.b", 20)).await.unwrap();
    mock.partition_leader("a.b", 1, None).unwrap();
    let mut wanted = Subscription::ephemeral(["a.b".parse().unwrap()]);
    wanted.start = Start::Earliest;
    let mut deliveries = kafka.subscribe(&wanted).await.unwrap();
    let mut into = VecDeque::new();
    let came = tokio::time::timeout(Duration::from_secs(120), deliveries.receive(20, &mut into));
    came.await.expect("the other partition is handed out").unwrap();
    deliveries.close().await.unwrap();
    kafka.close().await.unwrap();
}

/// A member that has begun to read `a.b` as one of `pattern`, on a mock broker.
async fn reading(mock: &MockCluster<'_, impl ClientContext>, pattern: &str) -> (Kafka, Box<dyn Deliveries>) {
    mock.create_topic("a.b", 1, 1).unwrap();
    mock.create_topic("msgkit.groups", 1, 1).unwrap();
    let kafka = kafka(mock, KafkaConfig::default());
    let mut wanted = Subscription::group(Group::new("g").unwrap(), [pattern.parse().unwrap()]);
    wanted.start = Start::Earliest;
    kafka.declare_group(&wanted).await.unwrap();
    kafka.publish(messages("a.b", 1)).await.unwrap();
    let mut deliveries = kafka.subscribe(&wanted).await.unwrap();
    let mut into = VecDeque::new();
    deliveries.receive(1, &mut into).await.unwrap();
    into.remove(0).unwrap().ack();
    deliveries.flush().await.unwrap();
    (kafka, deliveries)
}

/// The error of `receive` once `what` is refused from now on.
async fn refused(what: RDKafkaApiKey) -> String {
    let mock = MockCluster::new(1).unwrap();
    let (kafka, mut deliveries) = reading(&mock, "a.b").await;
    mock.request_errors(what, &[RDKafkaRespErr::RD_KAFKA_RESP_ERR_TOPIC_AUTHORIZATION_FAILED; 1000]);
    kafka.publish(messages("a.b", 1)).await.unwrap();
    let mut into = VecDeque::new();
    let received = tokio::time::timeout(Duration::from_secs(60), deliveries.receive(1, &mut into)).await;
    let error = received.expect("a refusal is told").unwrap_err();
    assert_eq!(error.kind(), TransportErrorKind::Refused, "{error}");
    drop(deliveries);
    mock.clear_request_errors(what);
    kafka.close().await.unwrap();
    msgkit::Chain(&error).to_string()
}

/// The client says it once, and only of the partition: whoever misses that waits for ever.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_topic_that_may_not_be_read_is_refused() {
    let said = refused(RDKafkaApiKey::Fetch).await;
    assert!(said.contains("`a.b`"), "{said}");
}

/// Whoever reads all that matches did not ask for that one, and goes on with the others.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_topic_that_a_wildcard_finds_and_that_may_not_be_read_stops_no_other() {
    let mock = MockCluster::new(1).unwrap();
    let (kafka, mut deliveries) = reading(&mock, "a.*").await;
    mock.request_errors(
        RDKafkaApiKey::Fetch,
        &[RDKafkaRespErr::RD_KAFKA_RESP_ERR_TOPIC_AUTHORIZATION_FAILED; 3],
    );
    kafka.publish(messages("a.b", 1)).await.unwrap();
    let mut into = VecDeque::new();
    let received = tokio::time::timeout(Duration::from_secs(60), deliveries.receive(1, &mut into)).await;
    received.expect("it may be read in the end").unwrap();
    deliveries.close().await.unwrap();
    kafka.close().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_commit_that_is_refused_is_told() {
    let said = refused(RDKafkaApiKey::OffsetCommit).await;
    assert!(said.contains("committing"), "{said}");
}

/// Whoever reads little at a time reads of every partition all the same.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_partition_with_much_does_not_starve_the_others() {
    let mock = MockCluster::new(1).unwrap();
    for topic in ["a.a", "a.b", "msgkit.groups"] {
        mock.create_topic(topic, 1, 1).unwrap();
    }
    let kafka = kafka(&mock, KafkaConfig::default());
    let mut wanted = Subscription::group(Group::new("g").unwrap(), ["a.*".parse().unwrap()]);
    (wanted.start, wanted.prefetch) = (Start::Earliest, 16);
    kafka.declare_group(&wanted).await.unwrap();
    let mut deliveries = kafka.subscribe(&wanted).await.unwrap();
    let mut next = async || {
        let mut into = VecDeque::new();
        let received = tokio::time::timeout(Duration::from_secs(60), deliveries.receive(1, &mut into)).await;
        received.expect("something comes").unwrap();
        let delivery = into.pop_front().unwrap();
        let topic = delivery.message().topic().as_str().to_owned();
        delivery.ack();
        topic
    };
    // Counted from when it reads both.
    for topic in ["a.a", "a.b"] {
        kafka.publish(messages(topic, 1)).await.unwrap();
        assert_eq!(next().await, topic);
    }
    kafka.publish(messages("a.a", 2000)).await.unwrap();
    kafka.publish(messages("a.b", 10)).await.unwrap();
    let mut before = 0;
    while next().await != "a.b" {
        before += 1;
        // The mock answers half a second late who asks for what is not there yet.
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    assert!(before < 1000, "{before} of the other topic came before");
    deliveries.close().await.unwrap();
    kafka.close().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_subscribes_while_the_transport_closes_is_told() {
    let mock = MockCluster::new(1).unwrap();
    mock.create_topic("a.b", 1, 1).unwrap();
    let kafka = kafka(&mock, KafkaConfig::default());
    let wanted = Subscription::ephemeral(["a.b".parse().unwrap()]);
    // The one asks for topics when the other begins.
    let (subscribed, closed) = tokio::join!(kafka.subscribe(&wanted), kafka.close());
    closed.unwrap();
    assert_eq!(subscribed.expect_err("the transport is closed").kind(), TransportErrorKind::Closed);
}

/// What was settled and never told to the brokers comes again: nobody may take that for confirmed.
#[tokio::test]
async fn a_flush_of_what_nobody_has_confirmed_is_an_error() {
    use super::member::{Arrived, Begin, What};
    for settled_first in [true, false] {
        let url = TransportUrl::parse("kafka://127.0.0.1:1").unwrap();
        let kafka = Kafka::with(&url, KafkaConfig::default(), Clock::system()).unwrap();
        let member = Arc::new(Member::new(kafka.cluster(), None, 1));
        let begin = Begin { offset: 0, again: false };
        let epoch = member.assigned("a.b", 0, begin, crate::starts::Starts::default(), false);
        let Outgoing { envelope, .. } = messages("a.b", 1).remove(0);
        let what = What::Ours(msgkit::transport::Incoming::Envelope(envelope));
        member.arrived([Arrived { epoch, offset: 0, what }].into_iter());
        // Asked for, its start is written down.
        member.take(1, &mut Vec::new()).unwrap();
        member.told(member.commits(None, super::partition::Counting::Ahead));
        let mut deliveries =
            KafkaDeliveries { settler: member.clone(), member, handed: Vec::new(), over: None };
        let mut into = VecDeque::new();
        deliveries.receive(1, &mut into).await.unwrap();
        let delivery = into.pop_front().unwrap();
        if settled_first {
            delivery.ack();
            deliveries.member.gone();
        } else {
            deliveries.member.gone();
            delivery.ack();
        }
        assert!(deliveries.flush().await.unwrap_err().is_temporary());
    }
}

//! What a RabbitMQ does to those who use it: it refuses, restarts, dies, and closes channels.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use lapin::options::{BasicGetOptions, ExchangeDeleteOptions, QueueDeclareOptions, QueueDeleteOptions};
use lapin::types::FieldTable;
use lapin::{Channel, Connection, ConnectionProperties};
use msgkit::envelope::{Clock, ContentType};
use msgkit::transport::{
    Declaration, Deliveries, Delivery, Destination, Health, Outgoing, Publisher as _, Subscriber as _,
    Subscription, Transport as _, TransportErrorKind, TransportUrl,
};
use msgkit::{Envelope, Group};
use msgkit_testing::brokers::{BrokerError, FaultProxy, RabbitMq};
use msgkit_transport_amqp::{Amqp, AmqpConfig};

type Tested = Result<(), Box<dyn std::error::Error>>;

/// How long a test waits for what must come: a RabbitMQ that restarts on a busy machine takes its time.
const PATIENCE: Duration = Duration::from_secs(120);

/// What `start` gave; `None`, and a word, where RabbitMQ is not installed.
fn there<T>(started: Result<T, BrokerError>) -> Option<T> {
    match started {
        Ok(broker) => Some(broker),
        Err(error) if std::env::var("MSGKIT_REQUIRE_BROKERS").is_ok_and(|value| value == "1") => {
            panic!("not run: {error}")
        }
        Err(error) => {
            eprintln!("not run: {error}");
            None
        }
    }
}

fn amqp(url: &str, change: impl FnOnce(&mut AmqpConfig)) -> Amqp {
    let mut config = AmqpConfig::default();
    change(&mut config);
    match TransportUrl::parse(url).and_then(|url| Amqp::with(&url, config, Clock::system())) {
        Ok(amqp) => amqp,
        Err(error) => panic!("{}", msgkit::Chain(&error)),
    }
}

fn message(text: &str) -> Outgoing {
    let topic = match "a.b".parse() {
        Ok(topic) => topic,
        Err(error) => panic!("{error}"),
    };
    let payload = Bytes::from(text.to_owned());
    Outgoing::to_topic(Envelope::new(
        "test",
        "test.text",
        topic,
        ContentType::Json,
        payload,
        Clock::system().now(),
    ))
}

fn subscription(group: &str) -> Result<Subscription, Box<dyn std::error::Error>> {
    Ok(Subscription::group(Group::new(group.to_owned())?, ["a.b".parse()?]))
}

async fn declare(amqp: &Amqp, group: &str) -> Result<Subscription, Box<dyn std::error::Error>> {
    let subscription = subscription(group)?;
    let declaration = Declaration::Group {
        subscription: subscription.clone(),
        retry_steps: Vec::new(),
        dead_letters: true,
    };
    amqp.declare(&[declaration]).await?;
    Ok(subscription)
}

/// Text and id of everything that was handled.
type Handled = Arc<Mutex<Vec<(String, String)>>>;

/// Handles what comes until it ends.
fn handle(mut deliveries: Box<dyn Deliveries>) -> (Handled, tokio::task::JoinHandle<()>) {
    let handled = Handled::default();
    let ledger = handled.clone();
    let task = tokio::spawn(async move {
        let mut came = VecDeque::new();
        loop {
            if let Err(error) = deliveries.receive(64, &mut came).await {
                eprintln!("receiving ends: {}", msgkit::Chain(&error));
                return;
            }
            for delivery in came.drain(..) {
                if let (Some(envelope), Ok(mut ledger)) = (delivery.message().envelope(), ledger.lock()) {
                    let text = String::from_utf8_lossy(envelope.payload()).into_owned();
                    ledger.push((text, envelope.id().to_string()));
                }
                delivery.ack();
            }
        }
    });
    (handled, task)
}

/// How often each text came, all of them under one id.
fn counted(handled: &Handled) -> BTreeMap<String, usize> {
    let mut ids: BTreeMap<String, Vec<String>> = BTreeMap::new();
    if let Ok(handled) = handled.lock() {
        for (text, id) in handled.iter() {
            ids.entry(text.clone()).or_default().push(id.clone());
        }
    }
    for (text, ids) in &ids {
        assert!(ids.iter().all(|id| *id == ids[0]), "{text} came under several ids: {ids:?}");
    }
    ids.into_iter().map(|(text, ids)| (text, ids.len())).collect()
}

async fn until(what: &str, mut done: impl FnMut() -> bool) {
    let waiting = async {
        while !done() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    assert!(tokio::time::timeout(PATIENCE, waiting).await.is_ok(), "never: {what}");
}

/// A message that several groups take is refused when one of them is full; published again, the others get it twice, under
/// one id, so that whoever remembers ids sees it once.
#[tokio::test(flavor = "multi_thread")]
async fn a_full_group_gives_the_others_the_same_ids_again() -> Tested {
    let Some(rabbit) = there(RabbitMq::shared()) else { return Ok(()) };
    let vhost = rabbit.vhost("full")?;
    let transport = amqp(vhost.url(), |config| {
        config.capacity = 2;
        config.publish_timeout = Duration::from_millis(300);
    });
    let reading = declare(&transport, "reading").await?;
    let away = declare(&transport, "away").await?;
    let (read, reader) = handle(transport.subscribe(&reading).await?);
    // Until the group that is away is full, which takes the broker a moment to notice.
    let mut sent = 0;
    let error = loop {
        let batch = (0..4).map(|n| message(&format!("{}", sent + n))).collect();
        match transport.publish(batch).await {
            Ok(()) => sent += 4,
            Err(error) => break error,
        }
        assert!(sent < 1000, "it is never full");
    };
    assert_eq!(error.rejected().first().map(|refused| refused.error.kind()), Some(TransportErrorKind::Full));
    assert!(msgkit::Chain(&error).to_string().contains("away"), "it names the full group: {error}");
    let again: Vec<Outgoing> = error.rejected().iter().map(|refused| refused.message.clone()).collect();
    let texts: Vec<String> =
        again.iter().map(|one| String::from_utf8_lossy(one.envelope.payload()).into_owned()).collect();
    until("the other group has them", || {
        let counted = counted(&read);
        texts.iter().all(|text| counted.contains_key(text))
    })
    .await;
    let (kept, keeper) = handle(transport.subscribe(&away).await?);
    let mut open = again;
    while !open.is_empty() {
        open = match transport.publish(open).await {
            Ok(()) => Vec::new(),
            Err(error) => error.rejected().iter().map(|refused| refused.message.clone()).collect(),
        };
    }
    let all = |handled: &Handled| texts.iter().all(|text| counted(handled).contains_key(text));
    until("both groups have everything", || all(&kept) && all(&read)).await;
    let repeated = || texts.iter().any(|text| counted(&read).get(text).is_some_and(|times| *times > 1));
    until("the group that had room has them twice", repeated).await;
    transport.close().await?;
    reader.await?;
    keeper.await?;
    Ok(())
}

/// Restarts and SIGKILL in the middle of publishing and of consuming: what was confirmed is handled.
#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_lost_while_the_broker_dies() -> Tested {
    let Some(mut rabbit) = there(RabbitMq::launch()) else { return Ok(()) };
    let url = rabbit.url().to_owned();
    let open = |url: &str| amqp(url, |config| config.confirm_timeout = Duration::from_secs(15));
    let (publisher, consumer) = (open(&url), open(&url));
    let wanted = declare(&consumer, "g").await?;
    let (handled, task) = handle(consumer.subscribe(&wanted).await?);
    let (stop, sent) = (Arc::new(std::sync::atomic::AtomicBool::new(false)), Arc::new(Mutex::new(0_usize)));
    let publishing = {
        let (stop, sent) = (stop.clone(), sent.clone());
        tokio::spawn(async move {
            let mut next = 0;
            while !stop.load(std::sync::atomic::Ordering::Relaxed) {
                let mut open: Vec<Outgoing> = (next..next + 20).map(|n| message(&n.to_string())).collect();
                while !open.is_empty() {
                    // What was not confirmed is published again as it is, its id too.
                    open = match publisher.publish(open).await {
                        Ok(()) => Vec::new(),
                        Err(error) => {
                            error.rejected().iter().map(|refused| refused.message.clone()).collect()
                        }
                    };
                }
                next += 20;
                if let Ok(mut sent) = sent.lock() {
                    *sent = next;
                }
            }
            publisher.close().await
        })
    };
    let count = || sent.lock().map_or(0, |sent| *sent);
    for round in 0..3 {
        let before = count();
        until("publishing goes on", || count() > before + 200).await;
        // It writes the name of a new queue half a second after it has confirmed it, so it ends in good order first.
        if round == 0 {
            rabbit.stop()?;
        } else {
            rabbit.kill()?;
        }
        rabbit.restart()?;
    }
    let before = count();
    until("publishing goes on", || count() > before + 200).await;
    stop.store(true, std::sync::atomic::Ordering::Relaxed);
    publishing.await??;
    let total = count();
    until("all of it is handled", || counted(&handled).len() == total).await;
    let repeated = handled.lock().map_or(0, |handled| handled.len()) - total;
    eprintln!("{total} published over 2 kills and a restart: lost 0, {repeated} handled twice");
    consumer.close().await?;
    task.await?;
    Ok(())
}

/// The broker closes a channel for a mistake that somebody else has made; the connection lives on, so nobody else notices.
#[tokio::test(flavor = "multi_thread")]
async fn channels_that_the_broker_closes_are_opened_again() -> Tested {
    let Some(rabbit) = there(RabbitMq::shared()) else { return Ok(()) };
    let vhost = rabbit.vhost("channels")?;
    let transport = amqp(vhost.url(), |_| {});
    let wanted = declare(&transport, "g").await?;
    let (handled, task) = handle(transport.subscribe(&wanted).await?);
    transport.publish(vec![message("before")]).await?;
    until("it is handled", || counted(&handled).contains_key("before")).await;
    let operator = Connection::connect(vhost.url(), ConnectionProperties::default()).await?;
    let channel = operator.create_channel().await?;
    // Publishing to an exchange that is not there closes the channel (404).
    channel.exchange_delete("msgkit".into(), ExchangeDeleteOptions::default()).await?;
    let lost = publish_until_taken(&transport, "exchange").await;
    assert!(lost > 0, "the first try met the closed channel");
    // The bindings went with the exchange: declaring makes them again, as a restart of the service does.
    declare(&transport, "g").await?;
    publish_until_taken(&transport, "bound").await;
    until("the group gets messages again", || counted(&handled).contains_key("bound")).await;
    transport.close().await?;
    task.await?;
    Ok(())
}

/// Publishes until it is taken; how often it was not.
async fn publish_until_taken(transport: &Amqp, text: &str) -> usize {
    let mut refused = 0;
    let one = message(text);
    while transport.publish(vec![one.clone()]).await.is_err() {
        refused += 1;
        assert!(refused < 50, "{text} is never taken");
    }
    refused
}

/// A broker that never answers: whoever waits for the connection gets the outcome of one attempt, not a turn of its own.
#[tokio::test(flavor = "multi_thread")]
async fn all_who_wait_for_a_connection_wait_once() -> Tested {
    let silent = std::net::TcpListener::bind("127.0.0.1:0")?;
    let patience = Duration::from_secs(1);
    let transport =
        amqp(&format!("amqp://{}", silent.local_addr()?), |config| config.connect_timeout = patience);
    let began = std::time::Instant::now();
    let publishers = (0..8).map(|n| {
        let transport = transport.clone();
        async move { transport.publish(vec![message(&n.to_string())]).await }
    });
    let (published, health) = tokio::join!(futures_util::future::join_all(publishers), transport.health());
    let waited = began.elapsed();
    for outcome in published {
        let error = outcome.err().ok_or("it was taken")?;
        let line = msgkit::Chain(&error).to_string();
        assert_eq!(error.rejected().len(), 1, "it is given back: {line}");
        assert!(line.contains("connecting to") && line.contains("connect_timeout"), "{line}");
    }
    assert!(matches!(health, Health::Down(_)), "{health:?}");
    assert!(waited < 3 * patience, "they waited {waited:?}");
    transport.close().await?;
    Ok(())
}

/// What was settled went down with its connection: the next flush says so, once, though the next channel owes nothing.
#[tokio::test(flavor = "multi_thread")]
async fn flush_tells_of_settlements_that_were_lost() -> Tested {
    let Some(rabbit) = there(RabbitMq::shared()) else { return Ok(()) };
    let vhost = rabbit.vhost("flush")?;
    let host = vhost.url().rsplit('@').next().and_then(|rest| rest.split('/').next()).ok_or("a host")?;
    let proxy = FaultProxy::start(host).await?;
    let transport = amqp(&vhost.url().replace(host, &proxy.address().to_string()), |_| {});
    let wanted = declare(&transport, "g").await?;
    let mut deliveries = transport.subscribe(&wanted).await?;
    transport.publish(vec![message("one"), message("two")]).await?;
    let mut held = VecDeque::new();
    while held.len() < 2 {
        deliveries.receive(2, &mut held).await?;
    }
    proxy.cut();
    let mut again = VecDeque::new();
    while again.is_empty() {
        deliveries.receive(1, &mut again).await?;
    }
    // The broker hands both out again, so it has taken neither.
    held.drain(..).for_each(Delivery::ack);
    let lost = deliveries.flush().await.err().ok_or("the broker has not taken them")?;
    assert!(lost.is_temporary() && lost.to_string().contains("comes again"), "{lost}");
    while again.len() < 2 {
        deliveries.receive(1, &mut again).await?;
    }
    again.drain(..).for_each(Delivery::ack);
    deliveries.flush().await?;
    // Told to the broker, which nobody has asked for its word: what it has taken of that is not known.
    transport.publish(vec![message("three"), message("four")]).await?;
    for _ in 0..2 {
        deliveries.receive(1, &mut held).await?;
        held.drain(..).for_each(Delivery::ack);
    }
    proxy.cut();
    publish_until_taken(&transport, "five").await;
    while held.back().is_none_or(|last| text_of(last) != "five") {
        deliveries.receive(1, &mut held).await?;
    }
    assert!(deliveries.flush().await.is_err(), "the broker has not confirmed them");
    deliveries.flush().await?;
    held.clear();
    deliveries.close().await?;
    transport.close().await?;
    Ok(())
}

fn text_of(delivery: &Delivery) -> String {
    let envelope = delivery.message().envelope();
    envelope.map(|envelope| String::from_utf8_lossy(envelope.payload()).into_owned()).unwrap_or_default()
}

/// `count` dead letters of group `g`, published; each says its number and has `size` bytes.
async fn bury(transport: &Amqp, count: usize, size: usize) -> Tested {
    let group = Group::new("g")?;
    let letters: Vec<Outgoing> = (0..count)
        .map(|n| {
            let envelope = message(&format!("{n:0size$}")).envelope;
            Outgoing::new(Destination::DeadLetter(group.clone()), envelope)
        })
        .collect();
    for batch in letters.chunks(100) {
        transport.publish(batch.to_vec()).await?;
    }
    Ok(())
}

/// A page of dead letters of `g`: number and position of each.
async fn letters(
    transport: &Amqp,
    after: Option<&str>,
    limit: usize,
) -> Result<Vec<(usize, String)>, Box<dyn std::error::Error>> {
    let Some(operate) = transport.operate() else { panic!("RabbitMQ can be asked") };
    let mut all = Vec::new();
    for letter in operate.dead_letters(&Group::new("g")?, after, limit).await? {
        let envelope = letter.message.envelope().ok_or("an envelope")?;
        all.push((String::from_utf8_lossy(envelope.payload()).parse()?, letter.position.to_string()));
    }
    Ok(all)
}

/// One letter is looked at, and the broker hands out no other. It counts what it hands out.
#[tokio::test(flavor = "multi_thread")]
async fn looking_at_one_dead_letter_leaves_the_others() -> Tested {
    let Some(rabbit) = there(RabbitMq::shared()) else { return Ok(()) };
    let vhost = rabbit.vhost("one")?;
    let transport = amqp(vhost.url(), |_| {});
    declare(&transport, "g").await?;
    bury(&transport, 100, 3).await?;
    assert_eq!(letters(&transport, None, 1).await?.iter().map(|(n, _)| *n).collect::<Vec<_>>(), [0]);
    transport.close().await?;
    let operator = Connection::connect(vhost.url(), ConnectionProperties::default()).await?;
    let channel = operator.create_channel().await?;
    let mut handed_out = 0;
    for _ in 0..100 {
        let got = channel.basic_get("msgkit.dead_letter.g".into(), BasicGetOptions::default()).await?;
        handed_out += usize::from(got.ok_or("a letter")?.delivery.redelivered);
    }
    assert_eq!(handed_out, 1);
    Ok(())
}

/// However it is looked at, and whatever is removed and replayed: the order stays, across many windows.
#[tokio::test(flavor = "multi_thread")]
async fn dead_letters_keep_their_order() -> Tested {
    let Some(rabbit) = there(RabbitMq::shared()) else { return Ok(()) };
    let vhost = rabbit.vhost("order")?;
    let transport = amqp(vhost.url(), |_| {});
    declare(&transport, "g").await?;
    let mut expected: Vec<usize> = (0..1500).collect();
    bury(&transport, expected.len(), 4).await?;
    let numbers = |page: &[(usize, String)]| page.iter().map(|(n, _)| *n).collect::<Vec<_>>();
    let first = letters(&transport, None, 40).await?;
    assert_eq!(numbers(&first), expected[..40]);
    // These lie in front of the others now, and one of them is looked at.
    assert_eq!(numbers(&letters(&transport, None, 1).await?), [0]);
    let second = letters(&transport, Some(&first[39].1), 40).await?;
    assert_eq!(numbers(&second), expected[40..80]);
    let all = letters(&transport, None, 2000).await?;
    assert_eq!(numbers(&all), expected);
    let Some(operate) = transport.operate() else { panic!("RabbitMQ can be asked") };
    let group = Group::new("g")?;
    // In the middle of a window, at the end of one, and the last of all.
    for n in [40, 63, 1499] {
        operate.remove_dead_letter(&group, &all[n].1).await?;
        expected.retain(|kept| *kept != n);
    }
    operate.replay(&group, &all[700].1).await?;
    expected.retain(|kept| *kept != 700);
    assert_eq!(numbers(&letters(&transport, None, 2000).await?), expected);
    assert_eq!(numbers(&letters(&transport, Some(&all[1400].1), 5).await?), expected[1398..1403]);
    // An empty page would say that the end was reached.
    let gone = letters(&transport, Some(&all[63].1), 5).await.err().ok_or("a page after what is gone")?;
    assert!(gone.to_string().contains(&all[63].1), "it names the position: {gone}");
    assert!(letters(&transport, Some(&all[1498].1), 5).await?.is_empty());
    transport.close().await?;
    Ok(())
}

/// What waits for a group is in its order still, however often it was looked at.
#[tokio::test(flavor = "multi_thread")]
async fn a_peek_leaves_the_order() -> Tested {
    let Some(rabbit) = there(RabbitMq::shared()) else { return Ok(()) };
    let vhost = rabbit.vhost("peek")?;
    let transport = amqp(vhost.url(), |_| {});
    let wanted = declare(&transport, "g").await?;
    let sent: Vec<String> = (0..100).map(|n| format!("{n:03}")).collect();
    transport.publish(sent.iter().map(|text| message(text)).collect()).await?;
    let operate = transport.operate().ok_or("RabbitMQ can be asked")?;
    let group = Group::new("g")?;
    for limit in [60, 1, 20] {
        assert_eq!(operate.peek(&group, None, limit).await?.len(), limit);
    }
    let mut deliveries = transport.subscribe(&wanted.with_prefetch(100)).await?;
    let mut came = VecDeque::new();
    while came.len() < sent.len() {
        tokio::time::timeout(PATIENCE, deliveries.receive(100, &mut came)).await??;
    }
    assert_eq!(came.iter().map(text_of).collect::<Vec<_>>(), sent);
    Ok(())
}

/// How many consume a queue; none where it is not there, which closes the channel.
async fn consumers(operator: &Connection, queue: &str) -> Result<u32, Box<dyn std::error::Error>> {
    let channel: Channel = operator.create_channel().await?;
    let options = QueueDeclareOptions { passive: true, ..QueueDeclareOptions::default() };
    let declared = channel.queue_declare(queue.into(), options, FieldTable::default()).await;
    Ok(declared.map_or(0, |queue| queue.consumer_count()))
}

/// An operator deletes a queue, and its exchange too, under the members of its group: each of them notices, says so, and goes on with
/// a new one, though nobody declares anything.
#[tokio::test]
async fn a_queue_that_is_deleted_under_its_members_is_made_again() -> Tested {
    let Some(rabbit) = there(RabbitMq::shared()) else { return Ok(()) };
    let said = Said::default();
    let words = said.clone();
    let subscriber = tracing_subscriber::fmt().with_writer(move || words.clone()).with_ansi(false).finish();
    // The tasks of the transport run on this thread.
    let _guard = tracing::subscriber::set_default(subscriber);
    let vhost = rabbit.vhost("deleted")?;
    let (one, two) = (amqp(vhost.url(), |_| {}), amqp(vhost.url(), |_| {}));
    let wanted = declare(&one, "g").await?;
    let (handled, first) = handle(one.subscribe(&wanted).await?);
    let (too, second) = handle(two.subscribe(&wanted).await?);
    let both = |text: &str| counted(&handled).contains_key(text) || counted(&too).contains_key(text);
    one.publish(vec![message("before")]).await?;
    until("it is handled", || both("before")).await;
    let operator = Connection::connect(vhost.url(), ConnectionProperties::default()).await?;
    for (round, exchange) in [(1, false), (2, true)] {
        let channel = operator.create_channel().await?;
        if exchange {
            channel.exchange_delete("msgkit".into(), ExchangeDeleteOptions::default()).await?;
        }
        channel.queue_delete("msgkit.group.g".into(), QueueDeleteOptions::default()).await?;
        until("both members notice", || one.cancelled() >= round && two.cancelled() >= round).await;
        let again = async {
            while consumers(&operator, "msgkit.group.g").await? < 2 {
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
            Ok::<(), Box<dyn std::error::Error>>(())
        };
        tokio::time::timeout(PATIENCE, again).await??;
        let text = format!("round {round}");
        publish_until_taken(&one, &text).await;
        until("the group gets messages again", || both(&text)).await;
    }
    let Some(operate) = one.operate() else { panic!("RabbitMQ can be asked") };
    let status = operate.groups().await?;
    assert_eq!(status.iter().map(|status| status.broken_off).collect::<Vec<_>>(), [one.cancelled()]);
    let lines = said.lines();
    let named =
        lines.iter().filter(|line| line.contains("msgkit.group.g") && line.contains("deleted")).count();
    assert_eq!(named as u64, one.cancelled() + two.cancelled(), "a line each: {lines:?}");
    one.close().await?;
    two.close().await?;
    first.await?;
    second.await?;
    Ok(())
}

/// What was logged.
#[derive(Clone, Default)]
struct Said(Arc<Mutex<Vec<u8>>>);

impl Said {
    fn lines(&self) -> Vec<String> {
        let text = self.0.lock().map(|text| String::from_utf8_lossy(&text).into_owned()).unwrap_or_default();
        text.lines().map(str::to_owned).collect()
    }
}

impl std::io::Write for Said {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        if let Ok(mut text) = self.0.lock() {
            text.extend_from_slice(bytes);
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

//! Groups of several members on a broker that forgets shared subscriptions when it restarts.

#![allow(clippy::unwrap_used, reason = "a panic is how a test fails")]

mod support;

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use msgkit::transport::{Publisher as _, Subscription};
use msgkit_testing::brokers::{BrokerError, FaultProxy, Mosquitto};
use msgkit_transport_mqtt::{Mqtt, Version};
use support::{Watching, all, group, message, mqtt, nothing, numbered, publish, reader, text, until};

type Tested = Result<(), Box<dyn std::error::Error>>;

/// What `start` gave; `None`, and a word, where Mosquitto is not installed.
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

/// Members of one group, each a process of its own as far as the broker can tell, and what they have handled: id and text.
struct Members {
    transports: Vec<Mqtt>,
    tasks: Vec<tokio::task::JoinHandle<()>>,
    handled: Arc<Mutex<Vec<(String, String)>>>,
}

impl Members {
    async fn join(count: usize, wanted: &Subscription, open: impl Fn() -> Mqtt) -> Self {
        let handled: Arc<Mutex<Vec<(String, String)>>> = Arc::default();
        let mut members = Self { transports: Vec::new(), tasks: Vec::new(), handled };
        for _ in 0..count {
            let transport = open();
            let mut deliveries = reader(&transport, wanted).await;
            let handled = members.handled.clone();
            members.transports.push(transport);
            members.tasks.push(tokio::spawn(async move {
                let mut came = VecDeque::new();
                while deliveries.receive(16, &mut came).await.is_ok() {
                    for delivery in came.drain(..) {
                        let id = delivery.message().envelope().map(|envelope| envelope.id().to_string());
                        handled.lock().unwrap().push((id.unwrap_or_default(), text(&delivery)));
                        delivery.ack();
                    }
                }
            }));
        }
        members
    }

    /// Waits until all of `wanted` are handled.
    async fn handle(&self, wanted: &[String]) {
        self.handle_within(wanted, support::PATIENCE).await;
    }

    async fn handle_within(&self, wanted: &[String], patience: Duration) {
        let missing = || {
            let handled = self.handled.lock().unwrap();
            let known: std::collections::BTreeSet<_> = handled.iter().map(|(_, text)| text).collect();
            wanted.iter().filter(|text| !known.contains(text)).cloned().collect::<Vec<_>>()
        };
        let waiting = async {
            while !missing().is_empty() {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };
        if tokio::time::timeout(patience, waiting).await.is_err() {
            panic!("never: {:?}", missing());
        }
    }

    fn count(&self) -> usize {
        self.handled.lock().unwrap().len()
    }

    /// The texts of all but the first `count`.
    fn since(&self, count: usize) -> Vec<String> {
        self.handled.lock().unwrap()[count..].iter().map(|(_, text)| text.clone()).collect()
    }

    /// How often `text` was handled.
    fn times(&self, text: &str) -> usize {
        self.handled.lock().unwrap().iter().filter(|(_, handled)| handled == text).count()
    }

    /// What comes more than once comes under one id.
    fn repeated(&self) {
        let handled = self.handled.lock().unwrap();
        let mut ids: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
        for (id, text) in handled.iter() {
            ids.entry(text).or_default().push(id);
        }
        for (text, ids) in &ids {
            assert!(ids.iter().all(|id| *id == ids[0]), "{text} came under several ids: {ids:?}");
        }
    }

    async fn leave(self) {
        use msgkit::transport::Transport as _;
        for transport in &self.transports {
            let _ = transport.close().await;
        }
        for task in self.tasks {
            let _ = task.await;
        }
    }
}

/// What is published between the restart of the broker and the return of the first member is nobody's where the broker has
/// forgotten shared subscriptions; the keeper has it.
#[tokio::test(flavor = "multi_thread")]
async fn a_restart_loses_nothing_that_comes_before_the_members_are_back() -> Tested {
    let Some(mut broker) = there(Mosquitto::options().start()) else { return Ok(()) };
    for version in [Version::V5, Version::V311] {
        let proxy = FaultProxy::start(format!("127.0.0.1:{}", broker.port().ok_or("a port")?)).await?;
        let prefix = broker.prefix("restart");
        let open = || mqtt(&proxy.address().to_string(), &prefix, |config| config.version = version);
        let wanted = group("g", "a.b");
        let members = Members::join(3, &wanted, open).await;
        let publisher = mqtt(broker.url(), &prefix, |config| {
            (config.version, config.publish_timeout) = (version, Duration::from_secs(120));
        });
        for (round, killed) in [false, true, false, true].into_iter().enumerate() {
            let texts =
                |when: &str| numbered(40).iter().map(|n| format!("{round} {when} {n}")).collect::<Vec<_>>();
            keeper_stands(broker.url(), &prefix).await?;
            let handled = members.count();
            publish(&publisher, "a.b", &texts("before")).await;
            members.handle(&texts("before")).await;
            // The broker is back long before the first of its members is.
            proxy.refuse();
            if killed {
                broker.kill()?;
            } else {
                broker.stop()?;
            }
            broker.restart()?;
            proxy.cut();
            publish(&publisher, "a.b", &texts("between")).await;
            proxy.heal();
            members.handle(&texts("between")).await;
            keeper_stands(broker.url(), &prefix).await?;
            // What was on its way may come again, what the last round had on its way too; older ones do not.
            let came = members.since(handled);
            let recent = |text: &String| {
                text.starts_with(&round.to_string()) || text.starts_with(&round.saturating_sub(1).to_string())
            };
            assert!(came.iter().all(recent), "{round}: {came:?}");
            assert!(came.len() <= 3 * 80, "{} came of 80, which is more than was on its way", came.len());
        }
        members.repeated();
        members.leave().await;
    }
    Ok(())
}

/// Restarts and kills while publishing goes on; the members come back as they do.
#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_lost_while_the_broker_dies_again_and_again() -> Tested {
    // Mosquitto confirms a message just before it writes it: what it has confirmed last is published once more here, as a
    // publisher does that must not lose it.
    let Some(mut broker) = there(Mosquitto::options().start()) else { return Ok(()) };
    let prefix = broker.prefix("again");
    let url = broker.url().to_owned();
    let members = Members::join(3, &group("g", "a.b"), || mqtt(&url, &prefix, |_| {})).await;
    let publisher = mqtt(&url, &prefix, |config| config.publish_timeout = Duration::from_secs(120));
    let (stop, sent) =
        (Arc::new(std::sync::atomic::AtomicBool::new(false)), Arc::new(Mutex::new(Vec::new())));
    let publishing = {
        let (stop, sent, publisher) = (stop.clone(), sent.clone(), publisher.clone());
        tokio::spawn(async move {
            let mut n = 0_u32;
            while !stop.load(std::sync::atomic::Ordering::Relaxed) {
                let text = format!("{n:06}");
                let one = message("a.b", &text);
                while publisher.publish(vec![one.clone()]).await.is_err() {}
                sent.lock().unwrap().push(text);
                n += 1;
            }
        })
    };
    let count = |sent: &Mutex<Vec<String>>| sent.lock().unwrap().len();
    let mut excused = std::collections::BTreeSet::new();
    for round in 0..6 {
        let before = count(&sent);
        until("publishing goes on", || count(&sent) > before + 20).await;
        if round % 2 == 0 {
            // Mosquitto confirms messages before it writes them: what it has not written dies with it.
            let written = count(&sent);
            is_written(&broker, &publisher, &format!("round {round}")).await?;
            broker.kill()?;
            excused.extend(written..=count(&sent));
        } else {
            broker.stop()?;
        }
        broker.restart()?;
    }
    let before = count(&sent);
    until("publishing goes on", || count(&sent) > before + 20).await;
    stop.store(true, std::sync::atomic::Ordering::Relaxed);
    publishing.await?;
    let sent = std::mem::take(&mut *sent.lock().unwrap());
    let sent = sent.into_iter().enumerate().filter(|(at, _)| !excused.contains(at));
    let sent: Vec<String> = sent.map(|(_, text)| text).collect();
    assert!(sent.len() > 140, "twenty before each end and after the last, whatever is excused: {excused:?}");
    members.handle(&sent).await;
    members.repeated();
    members.leave().await;
    Ok(())
}

/// Everybody has left, each session shared with the others'; then the broker forgets that they did.
#[tokio::test(flavor = "multi_thread")]
async fn a_group_that_left_together_misses_nothing() -> Tested {
    let Some(mut broker) = there(Mosquitto::options().start()) else { return Ok(()) };
    let prefix = broker.prefix("left");
    let url = broker.url().to_owned();
    let wanted = group("g", "a.b");
    let slow =
        |config: &mut msgkit_transport_mqtt::MqttConfig| config.takeover_after = Duration::from_secs(5);
    let members = Members::join(2, &wanted, || mqtt(&url, &prefix, slow)).await;
    let publisher = mqtt(&url, &prefix, |_| {});
    let (first, second) = (numbered(10), ["b", "c", "d"].map(str::to_owned));
    publish(&publisher, "a.b", &first).await;
    members.handle(&first).await;
    members.leave().await;
    broker.restart()?;
    publish(&publisher, "a.b", &second).await;
    let mut deliveries = reader(&publisher, &wanted).await;
    all(&mut *deliveries, &second).await;
    Ok(())
}

/// A keeper that comes and goes, and dies, hands out nothing that the members have got.
#[tokio::test(flavor = "multi_thread")]
async fn without_a_restart_nothing_comes_twice() -> Tested {
    let Some(broker) = there(Mosquitto::shared()) else { return Ok(()) };
    let proxy = FaultProxy::start(format!("127.0.0.1:{}", broker.port().unwrap_or(1883))).await?;
    let prefix = broker.prefix("twice");
    let wanted = group("g", "a.b");
    let staying = mqtt(broker.url(), &prefix, |_| {});
    let dying = mqtt(&proxy.address().to_string(), &prefix, |_| {});
    // The first becomes the keeper when the second comes.
    let mut first = reader(&dying, &wanted).await;
    let mut second = reader(&staying, &wanted).await;
    let sent = numbered(30);
    publish(&staying, "a.b", &sent).await;
    let mut came = Vec::new();
    while came.len() < sent.len() {
        for deliveries in [&mut first, &mut second] {
            let mut next = VecDeque::new();
            let _ = tokio::time::timeout(Duration::from_millis(50), deliveries.receive(64, &mut next)).await;
            came.extend(next.iter().map(text));
            next.into_iter().for_each(msgkit::transport::Delivery::ack);
        }
    }
    first.flush().await?;
    second.flush().await?;
    proxy.refuse();
    proxy.reset();
    // More than once: what has waited for the keeper comes when the second has taken it over.
    let more = ["x".to_owned(), "y".to_owned(), "z".to_owned()];
    publish(&staying, "a.b", &more).await;
    came.extend(all(&mut *second, &more).await);
    nothing(&mut *second, "all of it has come").await;
    came.sort();
    let distinct = {
        let mut all = came.clone();
        all.dedup();
        all.len()
    };
    assert_eq!((came.len(), distinct), (33, 33));
    drop(first);
    Ok(())
}

/// What comes behind the return of the first member comes once, however late the keeper is.
#[tokio::test(flavor = "multi_thread")]
async fn a_late_keeper_hands_out_only_what_nobody_got() -> Tested {
    let Some(mut broker) = there(Mosquitto::options().start()) else { return Ok(()) };
    let at = format!("127.0.0.1:{}", broker.port().ok_or("a port")?);
    let (late, early) = (FaultProxy::start(at.clone()).await?, FaultProxy::start(at).await?);
    let prefix = broker.prefix("late");
    let wanted = group("g", "a.b");
    // The first becomes the keeper when the second comes.
    let first = Members::join(1, &wanted, || mqtt(&late.address().to_string(), &prefix, |_| {})).await;
    let second = Members::join(1, &wanted, || mqtt(&early.address().to_string(), &prefix, |_| {})).await;
    // However slow the machine is, it sends nothing again.
    let publisher = mqtt(broker.url(), &prefix, |config| config.publish_timeout = Duration::from_secs(120));
    let texts = |when: &str, count| numbered(count).iter().map(|n| format!("{when} {n}")).collect::<Vec<_>>();
    for round in 0..2 {
        keeper_stands(broker.url(), &prefix).await?;
        for network in [&late, &early] {
            network.refuse();
        }
        broker.kill()?;
        broker.restart()?;
        late.cut();
        early.cut();
        let between = texts(&format!("{round} between"), 40);
        publish(&publisher, "a.b", &between).await;
        let mut cuts = Watching::begin(broker.url(), &format!("{prefix}/msgkit/keeper/g/0/cut")).await?;
        early.heal();
        cuts.until(|cut| !cut.is_empty()).await?;
        let after = texts(&format!("{round} after"), 400);
        publish(&publisher, "a.b", &after).await;
        second.handle(&after).await;
        late.heal();
        first.handle(&between).await;
        keeper_stands(broker.url(), &prefix).await?;
        let times = |text: &&String| (first.times(text), second.times(text));
        let wrong = |text: &&String| times(text).0 + times(text).1 != 1;
        let wrong: Vec<_> =
            between.iter().chain(&after).filter(wrong).map(|text| (text, times(&text))).collect();
        assert!(wrong.is_empty(), "of {} came not once: {wrong:?}", between.len() + after.len());
    }
    first.leave().await;
    second.leave().await;
    Ok(())
}

/// A broker that is down notes no death. The others notice that somebody is silent, and take over what it held.
#[tokio::test(flavor = "multi_thread")]
async fn who_dies_while_the_broker_is_down_is_missed() -> Tested {
    let Some(mut broker) = there(Mosquitto::options().start()) else { return Ok(()) };
    let at = format!("127.0.0.1:{}", broker.port().ok_or("a port")?);
    let (mortal, staying) = (FaultProxy::start(at.clone()).await?, FaultProxy::start(at).await?);
    let prefix = broker.prefix("silent");
    let wanted = group("g", "a.b");
    let quick = |config: &mut msgkit_transport_mqtt::MqttConfig| config.keep_alive = Duration::from_secs(5);
    // The first becomes the keeper when the second comes.
    let dying = mqtt(&mortal.address().to_string(), &prefix, quick);
    let mut dead = reader(&dying, &wanted).await;
    let living = Members::join(1, &wanted, || mqtt(&staying.address().to_string(), &prefix, quick)).await;
    let publisher = mqtt(broker.url(), &prefix, |_| {});
    keeper_stands(broker.url(), &prefix).await?;
    let sent = numbered(20);
    publish(&publisher, "a.b", &sent).await;
    // In the hand of the one that dies.
    let held = support::take(&mut *dead, 5).await;
    is_written(&broker, &publisher, "all of it").await?;
    for network in [&mortal, &staying] {
        network.refuse();
    }
    // Stopped in good order, Mosquitto would publish the wills of all that are connected.
    broker.kill()?;
    broker.restart()?;
    mortal.cut();
    staying.cut();
    // The session of the dead one's keeper has it, and no other.
    let between = ["x", "y", "z"].map(str::to_owned);
    publish(&publisher, "a.b", &between).await;
    staying.heal();
    let everything: Vec<String> = sent.iter().chain(&between).cloned().collect();
    // Once for what a living one may take to come back, once for what the test may.
    living.handle_within(&everything, 3 * support::PATIENCE).await;
    drop((held, dead));
    living.leave().await;
    Ok(())
}

/// Waits until the broker has written everything that it has confirmed so far.
async fn is_written(broker: &Mosquitto, publisher: &Mqtt, text: &str) -> Tested {
    let mut state = message("state", text);
    state.envelope.add_hint(msgkit::envelope::Hint {
        transport: "mqtt".into(),
        name: "retain".into(),
        value: true.into(),
    });
    publisher.publish(vec![state]).await?;
    let data = broker.directory().ok_or("it is ours")?.join("data/mosquitto.db");
    let has = |bytes: Vec<u8>| bytes.windows(text.len()).any(|part| part == text.as_bytes());
    until("it is written", || std::fs::read(&data).is_ok_and(has)).await;
    Ok(())
}

/// Waits until the keeper of the group `g` says that it misses nothing.
async fn keeper_stands(url: &str, prefix: &str) -> Tested {
    let mut marks = Watching::begin(url, &format!("{prefix}/msgkit/slots/g/0/keeper")).await?;
    marks.until(|mark| mark.len() > 2 && !mark.starts_with("1 \n") && mark.contains('\n')).await
}

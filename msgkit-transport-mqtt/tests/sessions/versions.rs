//! The versions of a service that run beside each other, and what each of them takes.

use std::collections::VecDeque;
use std::time::Duration;

use msgkit::transport::{Delivery, Publisher as _, Subscription, Transport as _};
use msgkit_testing::brokers::{FaultProxy, Mosquitto};

use super::support::{
    PATIENCE, Watching, all, declaration, group, message, mqtt, nothing, numbered, publish, reader, text,
};
use super::{Tested, shared, there};

/// A group in the old version of a service and in the new one: filters that nobody wants any more are taken back.
#[tokio::test(flavor = "multi_thread")]
async fn a_group_that_wants_less_gets_less() -> Tested {
    let Some((url, prefix)) = shared("less") else { return Ok(()) };
    let transport = mqtt(&url, &prefix, |_| {});
    let mut more = group("g", "a.*");
    more.patterns.push("*.b".parse()?);
    transport.declare(&declaration(&more)).await?;
    // The filter that holds both patterns matches it, and no version wants it.
    publish(&transport, "y.z", &["nobody's".to_owned()]).await;
    let less = group("g", "a.*");
    let mut deliveries = reader(&transport, &less).await;
    publish(&transport, "x.b", &numbered(1)).await;
    let sent = numbered(5);
    publish(&transport, "a.b", &sent).await;
    assert_eq!(all(&mut *deliveries, &sent).await, sent, "each once");
    nothing(&mut *deliveries, "the rest is not for it").await;
    assert_eq!(transport.unrouted(), 1, "`x.b` is nobody's any more");
    Ok(())
}

/// What was published for a group before it wanted less is owed to it, and the service sees it.
#[tokio::test(flavor = "multi_thread")]
async fn a_group_that_wants_less_gets_what_it_is_owed() -> Tested {
    let Some((url, prefix)) = shared("owed-less") else { return Ok(()) };
    let transport = mqtt(&url, &prefix, |_| {});
    let mut more = group("g", "a.*");
    more.patterns.push("x.*".parse()?);
    transport.declare(&declaration(&more)).await?;
    let sent = vec!["for the wider one".to_owned()];
    publish(&transport, "x.b", &sent).await;
    let mut deliveries = reader(&transport, &group("g", "a.*")).await;
    assert_eq!(all(&mut *deliveries, &sent).await, sent);
    Ok(())
}

/// Who wanted everything holds in its session what is the transport's own; the version that wants less does not get it.
#[tokio::test(flavor = "multi_thread")]
async fn copies_of_another_group_are_not_handed_out() -> Tested {
    let Some((url, prefix)) = shared("own") else { return Ok(()) };
    let transport = mqtt(&url, &prefix, |_| {});
    transport.declare(&declaration(&group("g", ">"))).await?;
    let mut copy = message("a.b", "another's");
    copy.to = msgkit::transport::Destination::Retry {
        group: msgkit::Group::new("other")?,
        step: 1,
        delay: Duration::from_secs(1),
    };
    transport.publish(vec![copy]).await?;
    let mut deliveries = reader(&transport, &group("g", "a.>")).await;
    let sent = numbered(3);
    publish(&transport, "a.b", &sent).await;
    assert_eq!(all(&mut *deliveries, &sent).await, sent);
    nothing(&mut *deliveries, "neither copies nor marks are messages of it").await;
    Ok(())
}

/// Two versions whose patterns are joined to one filter: the broker gives each a share of what only one of them wants.
#[tokio::test(flavor = "multi_thread")]
async fn what_only_a_newer_version_wants_is_handed_out_by_the_older_one_too() -> Tested {
    let Some((url, prefix)) = shared("versions") else { return Ok(()) };
    let transport = mqtt(&url, &prefix, |_| {});
    let mut older = reader(&transport, &version(&["a.*", "*.b"])?).await;
    let mut newer = reader(&transport, &version(&["a.*", "*.b", "c.*"])?).await;
    let sent = numbered(40);
    publish(&transport, "c.d", &sent).await;
    let mut came: Vec<String> = Vec::new();
    let taking = async {
        while !sent.iter().all(|text| came.contains(text)) {
            for deliveries in [&mut older, &mut newer] {
                let mut next = VecDeque::new();
                let receiving = deliveries.receive(64, &mut next);
                let _ = tokio::time::timeout(Duration::from_millis(50), receiving).await;
                came.extend(next.iter().map(text));
                next.into_iter().for_each(Delivery::ack);
            }
        }
    };
    let took = tokio::time::timeout(PATIENCE, taking).await;
    assert!(took.is_ok(), "{} of {} came", came.len(), sent.len());
    publish(&transport, "y.z", &numbered(10)).await;
    for deliveries in [&mut older, &mut newer] {
        nothing(&mut **deliveries, "no version wants it").await;
    }
    Ok(())
}

/// What another version has declared is written where it outlives its sessions, and the death of who knew of it.
#[tokio::test(flavor = "multi_thread")]
async fn what_a_newer_version_wants_is_known_when_its_sessions_are_gone() -> Tested {
    let Some(broker) = there(Mosquitto::shared()) else { return Ok(()) };
    let proxy = FaultProxy::start(format!("127.0.0.1:{}", broker.port().unwrap_or(1883))).await?;
    let prefix = broker.prefix("outlives");
    let older = version(&["a.*", "*.b"])?;
    let dying = mqtt(&proxy.address().to_string(), &prefix, |_| {});
    let mut first = reader(&dying, &older).await;
    let living = mqtt(broker.url(), &prefix, |_| {});
    let mut newer = reader(&living, &version(&["a.*", "*.b", "c.*"])?).await;
    let slot = |number| format!("{prefix}/msgkit/slots/g/0/{number}");
    let mut second = Watching::begin(broker.url(), &slot(1)).await?;
    newer.close().await?;
    second.until(str::is_empty).await?;
    let mut own = Watching::begin(broker.url(), &slot(0)).await?;
    proxy.refuse();
    proxy.reset();
    own.until(|mark| mark.starts_with("1 \n")).await?;
    let sent = numbered(5);
    publish(&living, "c.d", &sent).await;
    drop(first);
    first = reader(&living, &older).await;
    assert_eq!(all(&mut *first, &sent).await, sent);
    Ok(())
}

/// Who declares for a group whose members are there tells them what it takes.
#[tokio::test(flavor = "multi_thread")]
async fn what_is_declared_while_an_older_version_runs_is_handed_out_by_it() -> Tested {
    let Some((url, prefix)) = shared("declares") else { return Ok(()) };
    let transport = mqtt(&url, &prefix, |_| {});
    let mut older = reader(&transport, &version(&["a.*", "*.b"])?).await;
    transport.declare(&declaration(&version(&["a.*", "*.b", "c.*"])?)).await?;
    let sent = numbered(5);
    publish(&transport, "c.d", &sent).await;
    assert_eq!(all(&mut *older, &sent).await, sent);
    Ok(())
}

/// Group `g` with these patterns.
fn version(patterns: &[&str]) -> Result<Subscription, Box<dyn std::error::Error>> {
    let mut wanted = group("g", patterns[0]);
    wanted.patterns = patterns.iter().map(|pattern| pattern.parse()).collect::<Result<_, _>>()?;
    Ok(wanted)
}

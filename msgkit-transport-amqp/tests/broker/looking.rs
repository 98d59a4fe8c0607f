//! What an operator looks at, and how that leaves it.

use std::collections::VecDeque;
use std::time::Duration;

use lapin::options::BasicGetOptions;
use lapin::{Connection, ConnectionProperties};
use msgkit::Group;
use msgkit::transport::{
    Destination, Operate as _, Outgoing, Publisher as _, Subscriber as _, Transport as _, TransportErrorKind,
};
use msgkit_testing::brokers::{FaultProxy, RabbitMq};
use msgkit_transport_amqp::Amqp;

use super::bench::{PATIENCE, Tested, amqp, declare, host, message, text_of, there};

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

/// The broker, or the way to it, is silent for longer than whoever looks waits at once: a page that ends early would say that
/// there is nothing more.
#[tokio::test(flavor = "multi_thread")]
async fn a_page_is_whole_though_the_broker_is_slow() -> Tested {
    let Some(rabbit) = there(RabbitMq::shared()) else { return Ok(()) };
    let vhost = rabbit.vhost("slow-page")?;
    let near = amqp(vhost.url(), |_| {});
    declare(&near, "g").await?;
    bury(&near, 6, 60_000).await?;
    let proxy = FaultProxy::start(host(vhost.url())).await?;
    let far = amqp(&vhost.url().replace(host(vhost.url()), &proxy.address().to_string()), |_| {});
    assert_eq!(letters(&far, None, 6).await?.len(), 6);
    // Each letter is three seconds on its way, and all of them longer than an answer may take.
    proxy.bandwidth(20_000);
    let all = letters(&far, None, 6).await?;
    assert_eq!(all.iter().map(|(n, _)| *n).collect::<Vec<_>>(), [0, 1, 2, 3, 4, 5]);
    proxy.heal();
    far.close().await?;
    near.close().await?;
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

/// A replay finds its group full: the letter stays, and all of them in their order.
#[tokio::test(flavor = "multi_thread")]
async fn a_replay_that_fails_leaves_the_order() -> Tested {
    let Some(rabbit) = there(RabbitMq::shared()) else { return Ok(()) };
    let vhost = rabbit.vhost("replay")?;
    let transport = amqp(vhost.url(), |config| {
        config.capacity = 1;
        config.publish_timeout = Duration::from_millis(300);
    });
    declare(&transport, "g").await?;
    bury(&transport, 200, 3).await?;
    // It takes the broker a moment to notice that the group is full.
    while transport.publish(vec![message("more")]).await.is_ok() {}
    let before = letters(&transport, None, 200).await?;
    let numbers = |page: &[(usize, String)]| page.iter().map(|(n, _)| *n).collect::<Vec<_>>();
    let operate = transport.operate().ok_or("RabbitMQ can be asked")?;
    let refused = operate.replay(&Group::new("g")?, &before[150].1).await.err().ok_or("the group is full")?;
    assert_eq!(refused.kind(), TransportErrorKind::Full, "{refused}");
    assert_eq!(numbers(&letters(&transport, None, 200).await?), numbers(&before));
    transport.close().await?;
    Ok(())
}

/// An operator who sees nothing wait has to see what is held.
#[tokio::test(flavor = "multi_thread")]
async fn what_a_process_holds_it_tells() -> Tested {
    let Some(rabbit) = there(RabbitMq::shared()) else { return Ok(()) };
    let vhost = rabbit.vhost("in-hand")?;
    let (here, elsewhere) = (amqp(vhost.url(), |_| {}), amqp(vhost.url(), |_| {}));
    let wanted = declare(&here, "g").await?.with_prefetch(3);
    here.publish(["1", "2", "3", "4", "5"].map(message).into()).await?;
    let mut deliveries = here.subscribe(&wanted).await?;
    let mut held = VecDeque::new();
    deliveries.receive(1, &mut held).await?;
    let told = async |transport: &msgkit_transport_amqp::Amqp| {
        let status = transport.groups().await.map(|groups| groups.into_iter().next());
        status.ok().flatten().map(|status| (status.waiting, status.in_hand))
    };
    // Fetched and not handed out yet counts as well: the broker gives it to nobody else.
    let both = async {
        while told(&here).await != Some((2, Some(3))) {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(PATIENCE, both).await?;
    assert_eq!(told(&elsewhere).await, Some((2, None)), "what others hold is known to them");
    held.clear();
    deliveries.close().await?;
    let back = async {
        while told(&here).await != Some((5, None)) {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(PATIENCE, back).await?;
    here.close().await?;
    elsewhere.close().await?;
    Ok(())
}

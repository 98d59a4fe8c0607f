//! What a look at dead letters costs the process that looks. A process of its own, for it is the process that is measured.
#![cfg(target_os = "linux")]

use bytes::Bytes;
use msgkit::envelope::{Clock, ContentType};
use msgkit::transport::{Destination, Outgoing, Publisher as _, Transport as _, TransportUrl};
use msgkit::{Envelope, Group};
use msgkit_testing::brokers::RabbitMq;
use msgkit_transport_amqp::{Amqp, AmqpConfig};

type Tested = Result<(), Box<dyn std::error::Error>>;

const LETTERS: usize = 400;
const SIZE: usize = 200 << 10;

/// The most memory that this process had since the peak was forgotten, in bytes.
fn peak() -> Result<usize, Box<dyn std::error::Error>> {
    let status = std::fs::read_to_string("/proc/self/status")?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).ok_or("VmHWM")?;
    Ok(line.trim().trim_end_matches("kB").trim().parse::<usize>()? << 10)
}

/// A look through 400 letters, 80 MiB in all, for one that is not there: it keeps what is under way, a few MiB.
#[tokio::test(flavor = "multi_thread")]
async fn a_look_keeps_only_its_page() -> Tested {
    let rabbit = match RabbitMq::shared() {
        Ok(rabbit) => rabbit,
        Err(error) if std::env::var("MSGKIT_REQUIRE_BROKERS").is_ok_and(|value| value == "1") => {
            panic!("not run: {error}")
        }
        Err(error) => {
            eprintln!("not run: {error}");
            return Ok(());
        }
    };
    let vhost = rabbit.vhost("memory")?;
    let transport = Amqp::with(&TransportUrl::parse(vhost.url())?, AmqpConfig::default(), Clock::system())?;
    let group = Group::new("g")?;
    for _ in 0..LETTERS {
        let payload = Bytes::from(vec![b'1'; SIZE]);
        let now = Clock::system().now();
        let envelope = Envelope::new("test", "test.text", "a.b".parse()?, ContentType::Json, payload, now);
        transport.publish(vec![Outgoing::new(Destination::DeadLetter(group.clone()), envelope)]).await?;
    }
    let operate = transport.operate().ok_or("RabbitMQ can be asked")?;
    // Forgets the peak.
    std::fs::write("/proc/self/clear_refs", "5")?;
    let before = peak()?;
    let page = operate.dead_letters(&group, Some("gone"), 1).await;
    let grown = peak()? - before;
    assert!(grown < 24 << 20, "it took {} MiB", grown >> 20);
    assert!(page.is_err(), "there is no such position");
    transport.close().await?;
    Ok(())
}

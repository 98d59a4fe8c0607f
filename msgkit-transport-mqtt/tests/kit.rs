//! The test kit at an MQTT url: a broker that keeps no dead letters, and one that is not there.

use std::net::TcpListener;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use msgkit::config::Settings;
use msgkit::envelope::DeadLetterKind;
use msgkit::{Chain, Context, HandlerError, Message, Registry, Service};
use msgkit_testing::TestKit;
use msgkit_testing::brokers::Mosquitto;
use serde::{Deserialize, Serialize};

type Tested = Result<(), Box<dyn std::error::Error>>;

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, Message)]
#[message(name = "orders.placed")]
struct Placed {
    id: u32,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, Message)]
#[message(name = "orders.shipped")]
struct Shipped {
    id: u32,
}

/// Never ships number 13 before somebody has `mended` it.
fn shop(service: Service, mended: Arc<AtomicBool>) -> Service {
    service.on("shipping", move |order: Placed, _: Context| {
        let ships = order.id != 13 || mended.load(Ordering::SeqCst);
        async move {
            if ships { Ok(Shipped { id: order.id }) } else { Err(HandlerError::permanent("no van")) }
        }
    })
}

fn registry() -> Registry {
    Registry::new().with(msgkit_transport_mqtt::scheme())
}

/// The URL of a place of the test's own; `None`, and a word, where Mosquitto is not installed.
fn url(test: &str) -> Option<String> {
    match Mosquitto::shared() {
        Ok(broker) => {
            let prefix = broker.prefix(test);
            Some(format!("{}?prefix={prefix}&client_id={prefix}&takeover_after=200ms", broker.url()))
        }
        Err(error) if std::env::var("MSGKIT_REQUIRE_BROKERS").is_ok_and(|value| value == "1") => {
            panic!("not run: {error}")
        }
        Err(error) => {
            eprintln!("not run: {error}");
            None
        }
    }
}

/// Ships what it can, and keeps and replays what it cannot: at a broker that keeps no dead letters, too.
async fn ships(url: &str, service: fn() -> Service) -> Tested {
    let mended = Arc::new(AtomicBool::new(false));
    let flag = mended.clone();
    let mut kit = TestKit::at(url, &registry(), move || shop(service(), flag.clone())).await?;
    kit.publish(&Placed { id: 1 }).await?;
    let sent = kit.publish(&Placed { id: 13 }).await?;
    kit.settle().await;
    assert_eq!(kit.published::<Shipped>(), [Shipped { id: 1 }]);
    kit.restart().await?;
    let letters = kit.dead_letters("shipping").await;
    let facts = letters.iter().map(|letter| (letter.id(), letter.dead_letter().map(|facts| facts.kind)));
    assert_eq!(facts.collect::<Vec<_>>(), [(sent.id(), Some(DeadLetterKind::Rejected))]);
    mended.store(true, Ordering::SeqCst);
    assert_eq!(kit.replay("shipping").await?, 1);
    kit.settle().await;
    assert!(kit.dead_letters("shipping").await.is_empty());
    assert_eq!(kit.published::<Shipped>(), [Shipped { id: 1 }, Shipped { id: 13 }]);
    kit.finish().await?;
    Ok(())
}

#[tokio::test]
async fn the_kit_keeps_the_dead_letters_of_a_service() -> Tested {
    let Some(url) = url("kit") else { return Ok(()) };
    ships(&url, || Service::new("shop")).await
}

/// What the configuration has for dead letters alone is used by nothing at the kit.
#[tokio::test]
async fn the_kit_keeps_them_whatever_the_configuration_says() -> Tested {
    let Some(url) = url("kit_configured") else { return Ok(()) };
    ships(&url, || {
        let text = r#"
            [service]
            name = "shop"
            [transports.edge]
            url = "mqtt://broker.example.org"
            dead_letters = "backbone"
            [transports.backbone]
            url = "memory://"
            [[routes]]
            match = ">"
            to = "edge"
        "#;
        let settings = Settings::parse(text, "shop.toml", []);
        settings.and_then(|settings| Service::from_settings(settings, &registry())).unwrap()
    })
    .await
}

/// A service tries for ever; a test says what is wrong.
#[tokio::test(start_paused = true)]
async fn a_broker_that_is_not_there_ends_the_test() -> Tested {
    let closed = TcpListener::bind("127.0.0.1:0")?.local_addr()?.port();
    let url = format!("mqtt://127.0.0.1:{closed}");
    let made = || shop(Service::new("shop"), Arc::default());
    let registry = registry();
    let starting = TestKit::at(&url, &registry, made);
    let error = tokio::time::timeout(Duration::from_secs(600), starting).await?.unwrap_err();
    let said = Chain(&error).to_string();
    assert!(said.contains("30s") && said.contains(&closed.to_string()), "{said}");
    Ok(())
}

//! Configuration, catalog, and what a check says.

use super::*;

#[test]
fn configuration_goes_over_what_the_code_says_and_must_fit_it() {
    let build = |text: &str| {
        let settings = crate::config::Settings::parse(text, "msgkit.toml", []).unwrap();
        Ok::<_, Error>(Service::from_settings(settings, &crate::Registry::new())?.spec(
            HandlerSpec::new("g", "g").unwrap().with(closure(|_: Placed, _| async { Ok(()) })).concurrency(2),
        ))
    };
    let base = "[service]\nname = \"shop\"\n[transports.m]\nurl = \"memory://\"\n";
    let policy =
        |text: &str| build(&format!("{base}{text}")).unwrap().check().map(|r| r.handlers[0].policy.clone());
    assert!(policy("").unwrap().starts_with("2 at once"));
    assert!(policy("[policies.default]\nconcurrency = 3").unwrap().starts_with("3 at once"));
    let both = "[policies.default]\nconcurrency = 3\n[handlers.g]\nconcurrency = 4";
    assert!(policy(both).unwrap().starts_with("4 at once"));
    let error = policy("[handlers.h]\nconcurrency = 4").unwrap_err().to_string();
    assert!(error.contains("`[handlers.h]`") && error.contains("did you mean `g`?"), "{error}");
    let error = crate::Chain(&build(&base.replace("memory:", "memry:")).unwrap_err()).to_string();
    assert!(error.contains("did you mean `memory`?"), "{error}");
    let error = build(&format!("{base}[transports.m.memory]\ncapacty = 1")).unwrap_err().to_string();
    assert!(error.contains("[transports.m.memory]") && error.contains("did you mean `capacity`?"), "{error}");
    assert!(policy("[handlers.g]\npolicy = \"default\"").is_ok(), "it is there though nothing is said of it");
    let error =
        policy("[policies.patient]\ntimeout = \"5m\"\n[handlers.g]\npolicy = \"patien\"").unwrap_err();
    assert!(error.to_string().contains("unknown policy `patien`; did you mean `patient`?"), "{error}");
    let error = policy("[policies.default]\nconcurrency = 0").unwrap_err();
    assert!(crate::Chain(&error).to_string().contains("use at least 1"));
    // Whatever a key cures is told with the file that the key belongs in.
    for text in [
        "[policies.default]\nconcurrency = 0",
        "[handlers.h]\ntimeout = \"1s\"",
        "[handlers.g]\npolicy = \"p\"",
    ] {
        let error = policy(text).unwrap_err().to_string();
        assert!(error.starts_with("msgkit.toml: "), "{error}");
    }
    let elsewhere = format!(
        "{base}[[routes]]\nmatch = \"devices.>\"\nto = \"m\"\n[[routes]]\nmatch = \"*\"\nto = \"m\"\n"
    );
    let error = build(&elsewhere).unwrap().check().unwrap_err().to_string();
    assert!(error.starts_with("msgkit.toml: no route leads to the topics of handler `g`"), "{error}");
}

#[test]
fn a_check_tells_what_configuration_says_to_no_effect() {
    let check = |text: &str| {
        let text = format!("[service]\nname = \"shop\"\n[transports.m]\nurl = \"memory://\"\n{text}");
        let settings = crate::config::Settings::parse(&text, "msgkit.toml", []).unwrap();
        let service = Service::from_settings(settings, &crate::Registry::new()).unwrap();
        service.on("g", |_: Placed, _| async { Ok(()) }).publishes::<Shipped>().check().unwrap()
    };
    let place = |pattern: &str| format!("[[destinations]]\nmatch = \"{pattern}\"\nto = \"place\"\n");
    assert_eq!(check(&(place("orders.*") + &place("shipping"))).notes, [""; 0], "taken, and published");
    let told = check(&(place("orders.*") + "[handlers.g]\nenabled = false")).notes;
    assert_eq!(told.len(), 1, "whoever only operates takes it as well: {told:?}");
    let told = check(&(place("ordrs.*") + "[handlers.g]\nenabled = false")).to_string();
    assert!(told.contains("destination place: no topic of ordrs.* is declared by this service"), "{told}");
    assert!(
        told.contains("handler g is disabled; its group keeps what comes, once it has been declared"),
        "{told}"
    );
}

fn orders_of(team: &str, publishers: &[&str]) -> crate::Namespace {
    let mut orders =
        crate::Namespace::new("orders", team, "what is bought", crate::NamespaceClass::Data).unwrap();
    orders.publishers = publishers.iter().map(|name| Text::from(*name)).collect();
    orders
}

#[test]
fn the_catalog_is_made_from_what_is_registered() {
    let ship =
        |order: Placed, _cx: Context| async move { Ok((vec![Shipped { id: order.id }], None::<Placed>)) };
    let mut spec = HandlerSpec::new("audit", "audit").unwrap().component("shop.audit").publishes::<Shipped>();
    spec = spec.with(closure(|_: Placed, _cx: Context| async { Ok(()) }));
    let service =
        Service::new("shipping").component("shop.shipping").publishes::<Placed>().on("ship", ship).spec(spec);
    let catalog = service.catalog().unwrap();
    assert_eq!(catalog.components().collect::<Vec<_>>(), ["shop.audit", "shop.shipping"]);
    let handlers: Vec<_> = catalog
        .handlers()
        .map(|handler| {
            let published: Vec<_> = handler.published().map(crate::catalog::MessageType::name).collect();
            (handler.component(), handler.name(), handler.group_name(), published.join(" "))
        })
        .collect();
    assert_eq!(
        handlers,
        [
            ("shop.audit", "audit", Some("audit"), "orders.shipped".to_owned()),
            // What a handler returns is known, also in a list, an option, a tuple.
            ("shop.shipping", "ship", Some("ship"), "orders.placed orders.shipped".to_owned()),
        ]
    );
    assert_eq!(catalog.links().len(), 2, "{:?}", catalog.links());
    assert_eq!(catalog.unheard().len(), 2, "who ships is known to two, and handled by none");
}

#[test]
fn a_handler_that_is_switched_off_is_not_in_the_catalog() {
    let settings = "[service]\nname = \"a\"\n[handlers.ship]\nenabled = false\n";
    let settings = Settings::parse(settings, "msgkit.toml", []).unwrap();
    let service = Service::from_settings(settings, &Registry::new()).unwrap();
    let service = service.on("ship", |_: Placed, _cx: Context| async { Ok(()) });
    assert_eq!(service.catalog().unwrap().handlers().count(), 0);
}

#[tokio::test]
async fn a_check_reports_what_is_warned_of_and_fails_on_what_is_denied() {
    let service = |publishers: &[&str]| {
        Service::new("shipping")
            .publishes::<Placed>()
            .publishes::<Shipped>()
            .namespaces([orders_of("sales", publishers)])
    };
    let report = service(&[]).check().unwrap();
    assert_eq!(report.findings.len(), 1);
    assert!(report.to_string().contains("warn [undeclared_namespace]: topic `shipping`"), "{report}");
    let error = service(&["shop"]).check().unwrap_err();
    assert_eq!(error.kind(), crate::ErrorKind::Refused);
    assert!(
        error.to_string().contains(
            "service `shipping` breaks rules of the catalog: deny [forbidden_publisher]: component"
        ),
        "{error}"
    );
    // Rules are for people who change code: what runs is not stopped, least of all by a date.
    service(&["shop"]).start().await.unwrap().drain().await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_check_takes_the_day_from_the_services_clock() {
    use crate::catalog::{Rule, Rules, Waiver};
    let check = |expires: &str| {
        let clock = Clock::virtual_from("2026-01-01T00:00:00Z".parse().unwrap());
        let waiver = Waiver::new(
            Rule::ForbiddenPublisher,
            "shipping -> orders",
            "until it moves",
            expires.parse().unwrap(),
        );
        let service =
            Service::new("shipping").publishes::<Placed>().namespaces([orders_of("sales", &["shop"])]);
        service.clock(clock).rules(Rules::default().waive(waiver)).check()
    };
    check("2026-01-01").unwrap();
    let error = check("2025-12-31").unwrap_err().to_string();
    assert!(error.contains("expired after 2025-12-31"), "{error}");
}

/// A service whose configuration says what plain devices send, and what it got of them.
fn with_ingest(memory: &Memory, clock: Clock, kind: &str, from: &str) -> (Service, Arc<Mutex<Vec<String>>>) {
    let text = format!(
        "[service]\nname = \"shop\"\n[[handlers.shipping.ingest]]\nmatch = \"{from}\"\ntype = \"{kind}\"\nkey_segment = 1\n"
    );
    let settings = crate::config::Settings::parse(&text, "msgkit.toml", []).unwrap();
    let seen = Arc::new(Mutex::new(Vec::new()));
    let log = seen.clone();
    let service = Service::from_settings(settings, &crate::Registry::new())
        .unwrap()
        .clock(clock)
        .transport("memory", memory.clone())
        .on("shipping", move |order: Placed, cx: Context| {
            let key = cx.envelope().key().unwrap_or_default().to_owned();
            log.lock().unwrap().push(format!("{} of {key}", order.id));
            async { Ok(()) }
        });
    (service, seen)
}

#[tokio::test(start_paused = true)]
async fn configuration_says_what_the_messages_of_plain_devices_are() {
    let (memory, clock) = virtual_memory(MemoryConfig::default());
    let (service, seen) = with_ingest(&memory, clock, "orders.placed", "orders.*");
    let running = service.start().await.unwrap();
    let topic = Topic::new("orders.AA~3ABB").unwrap();
    memory.publish_foreign(&topic, r#"{"id":7,"customer":"somebody"}"#, &NativeHeaders::default());
    until("shipping", || !seen.lock().unwrap().is_empty()).await;
    assert_eq!(*seen.lock().unwrap(), ["7 of AA:BB"]);
    running.drain().await.unwrap();
    let refused = |kind, from| with_ingest(&memory, clock, kind, from).0.check().unwrap_err().to_string();
    let message = refused("order.placed", "orders.*");
    assert!(message.contains("makes `order.placed` of `orders.*`"), "{message}");
    assert!(message.contains("did you mean `orders.placed`?"), "{message}");
    let message = refused("orders.placed", "device.>");
    assert!(
        message.contains("for `device.>`, where nothing comes from; it subscribes to orders.*"),
        "{message}"
    );
}

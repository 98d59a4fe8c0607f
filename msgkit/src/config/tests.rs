use std::time::Duration;

use super::*;
use crate::policy::{OnFailure, Order};

const GOOD: &str = r#"
[service]
name = "device-platform"
drain_deadline = "10s"
[transports.edge]
url = "mqtt://user:hunter2@localhost:1883"
dead_letters = "backbone"
[transports.edge.mqtt]
session_expiry = "1h"
[transports.backbone]
url = "sqlite:x.db"
[[routes]]
match = "device.>"
to = "edge"
[[routes]]
match = ">"
to = "backbone"
[policies.default]
immediate = 2
delayed = { initial = "1s", factor = 2.0, max = "5m", rounds = 5 }
[policies.patient]
timeout = "5m"
breaker = false
[handlers.storage]
policy = "patient"
order = "key_hold"
concurrency = 8
[[handlers.storage.ingest]]
match = "device.*.raw"
type = "device.reading"
content_type = "application/msgpack"
key_segment = 1
[catalog]
component = "service_platform.storage"
namespaces = "namespaces.toml"
rules.cycle = "deny"
[[catalog.waivers]]
rule = "cycle"
subject = "a/b -> c/d"
reason = "ends after three rounds"
expires = 2027-01-31
"#;

fn parse(text: &str) -> Result<Settings, crate::Error> {
    Settings::parse(text, "msgkit.toml", [])
}

fn with_env(name: &str, value: &str) -> Result<Settings, crate::Error> {
    Settings::parse(GOOD, "msgkit.toml", [(name.to_owned(), value.to_owned())])
}

/// The whole error, every level once.
fn error(text: &str) -> String {
    crate::Chain(&parse(text).unwrap_err()).to_string()
}

#[test]
fn a_whole_file_is_read() {
    let settings = parse(GOOD).unwrap();
    assert_eq!(settings.name, "device-platform");
    assert_eq!(settings.drain_deadline, Some(Duration::from_secs(10)));
    assert_eq!(settings.transports.len(), 2);
    assert_eq!(settings.routes[0].0.as_str(), "device.>");
    assert_eq!(settings.policies["default"].immediate, Some(2));
    assert_eq!(settings.policies["patient"].breaker, Some(None));
    let storage = &settings.handlers["storage"];
    assert_eq!(storage.overrides.order, Some(Order::Key(OnFailure::Hold)));
    assert_eq!((storage.policy.as_deref(), storage.overrides.concurrency), (Some("patient"), Some(8)));
    let rule = &storage.ingest.0[0];
    assert_eq!((rule.from.as_str(), rule.kind.as_str()), ("device.*.raw", "device.reading"));
    assert_eq!((rule.content_type.as_str(), rule.key_segment), ("application/msgpack", Some(1)));
    assert_eq!(settings.catalog.component.as_deref(), Some("service_platform.storage"));
    assert_eq!(settings.catalog.rules.level(crate::catalog::Rule::Cycle), crate::catalog::Level::Deny);
    assert_eq!(settings.catalog.rules.waivers()[0].expires.to_string(), "2027-01-31");
}

#[test]
fn mistakes_name_the_place_the_key_and_the_fix() {
    let service = "[service]\nname = \"a\"\n";
    for (text, wanted) in [
        ("[service]\nnam = \"a\"", "did you mean `name`?"),
        ("[servce]\nname = \"a\"", "did you mean `service`?"),
        ("x = 1\n[service]\nname = \"a\"", "unknown key `x`"),
        ("[transports.a]\nurl = \"memory://\"", "has no `[service]`"),
        ("[service]\nname = ", "line 2"),
        (&format!("{service}[transports.a]\nurll = \"memory://\""), "[transports.a] has no `url`"),
        (&format!("{service}[transports.a]\nurl = \"memory\""), "has no scheme"),
        (&format!("{service}[transports.a]\nurl = \"memory://\"\ncapacity = 1"), "own options go under"),
        (&format!("{service}[policies.default]\nimediate = 1"), "did you mean `immediate`?"),
        (&format!("{service}[policies.default]\ntimeout = \"5\""), "250ms"),
        (
            &format!("{service}[policies.default]\ntimeout = 5"),
            "`timeout`: invalid type, expected a duration in quotes, with its unit",
        ),
        (&format!("{service}[policies.default]\norder = \"keys\""), "did you mean `key`?"),
        (&format!("{service}[policies.default]\ndelayed = true"), "or `false` for none"),
        (&format!("{service}[policies.default]\ndelayed = {{ round = 1 }}"), "did you mean `rounds`?"),
        (
            &service.replace("name = ", "drain_deadline = \"5\"\nname = "),
            "[service]: `drain_deadline`: `5` is no duration",
        ),
        (&format!("{service}[handlers.h]\npolcy = \"x\""), "did you mean `policy`?"),
        (&format!("{service}[handlers.h]\nconcurency = 1"), "did you mean `concurrency`?"),
        (
            &format!("{service}[handlers.h]\nretry = 1"),
            "known are policy, enabled, ingest, immediate, delayed",
        ),
        (&format!("{service}[handlers.h]\ningest = true"), "[[handlers.h.ingest]] is a list"),
        (
            &format!("{service}[[handlers.h.ingest]]\nmatch = \"a.*\"\ntyp = \"x\""),
            "[[handlers.h.ingest]] has the unknown key `typ`; did you mean `type`?",
        ),
        (&format!("{service}[[handlers.h.ingest]]\nmatch = \"a/+\"\ntype = \"x\""), "has a bad `match`"),
        (
            &format!("{service}[[handlers.h.ingest]]\nmatch = \"a.*\"\ntype = \"x\"\nkey_segment = 2"),
            "`key_segment = 2` is beyond the end of `a.*`; its segments are 0 to 1",
        ),
        (
            &format!("{service}[transports.a]\nurl = \"memory://\"\n[[routes]]\nmatch = \">\"\nto = \"b\""),
            "unknown transport `b`",
        ),
        (&format!("{service}[[routes]]\nmatch = \"a.#\"\nto = \"b\""), "trailing `>`"),
        (&GOOD.replace("match = \">\"", "match = \"x.>\""), "no route for the rest"),
        (
            &format!(
                "{service}[transports.backbone]\nurl = \"memory://\"\n[transports.bakbone]\nurl = \"memory://\""
            ),
            "or are `backbone` and `bakbone` one?",
        ),
        (&GOOD.replace("match = \"device.>\"", "match = \">\""), "never reached"),
        (
            &GOOD.replace("namespaces = ", "namespace = "),
            "[catalog] has the unknown key `namespace`; did you mean `namespaces`?",
        ),
        (
            &GOOD.replace("rules.cycle", "rules.cycles"),
            "[catalog] rules has the unknown key `cycles`; did you mean `cycle`?",
        ),
        (&GOOD.replace("\"deny\"", "\"dney\""), "`cycle = \"dney\"` is unknown; did you mean `deny`?"),
        (
            &format!("{service}[catalog.rules]\nforbidden_publisher = \"warn\""),
            "set `namespaces = \"namespaces.toml\"`",
        ),
        (
            &GOOD.replace("rule = \"cycle\"", "rule = \"cicle\""),
            "[[catalog.waivers]]: `rule = \"cicle\"` is unknown; did you mean `cycle`?",
        ),
        (
            &GOOD.replace("expires", "expired"),
            "[[catalog.waivers]] has the unknown key `expired`; did you mean `expires`?",
        ),
        (&GOOD.replace("2027-01-31", "\"2027-02-29\""), "`expires` is no date: `2027-02-29` is no day"),
        (&GOOD.replace("2027-01-31", "2027-01-31T00:00:00Z"), "write it as in \"2027-01-31\""),
        (&GOOD.replace("2027-01-31", "20270131"), "`expires` is no date: `integer` is no day"),
        (
            &GOOD.replace("ends after three rounds", " "),
            "the waiver for `a/b -> c/d` has no `reason`; say why",
        ),
    ] {
        let message = error(text);
        assert!(message.contains(wanted), "{wanted:?} is not in {message:?}");
        assert!(message.contains("msgkit.toml"), "{message}");
    }
}

#[test]
fn the_environment_wins_and_is_read_as_strictly() {
    let settings = with_env("MSGKIT__TRANSPORTS__BACKBONE__URL", "memory://").unwrap();
    assert_eq!(settings.transports.iter().find(|t| t.name == "backbone").unwrap().url.scheme(), "memory");
    let settings = with_env("MSGKIT__HANDLERS__STORAGE__CONCURRENCY", "3").unwrap();
    assert_eq!(settings.handlers["storage"].overrides.concurrency, Some(3));
    let settings = with_env("MSGKIT__SERVICE__NAME", "7").unwrap();
    assert_eq!(settings.name, "7");
    // Only who reads a value knows whether digits are a number.
    let error = with_env("MSGKIT__TRANSPORTS__EDGE__DEAD_LETTERS", "007").unwrap_err();
    assert!(crate::Chain(&error).to_string().contains("`007`"), "{error}");
    let settings = with_env("MSGKIT__HANDLERS__STORAGE__POLICY", "007").unwrap();
    assert_eq!(settings.handlers["storage"].policy.as_deref(), Some("007"));
    let settings = with_env("MSGKIT__HANDLERS__STORAGE__ENABLED", "false").unwrap();
    assert_eq!(settings.handlers["storage"].enabled, Some(false));
    let settings = with_env("MSGKIT__HANDLERS__STORAGE__BREAKER", "false").unwrap();
    assert!(matches!(settings.handlers["storage"].overrides.breaker, Some(None)));
    let settings = with_env("MSGKIT__POLICIES__DEFAULT__DELAYED", "false").unwrap();
    assert_eq!(settings.policies["default"].delayed, Some(None), "though it is a table in the file");
    let error = with_env("MSGKIT__HANDLERS__STORAGE__CONCURRENCY", "three").unwrap_err();
    let message = crate::Chain(&error).to_string();
    assert!(
        message.starts_with("environment variable MSGKIT__HANDLERS__STORAGE__CONCURRENCY cannot be used"),
        "{message}"
    );
    assert!(
        message.ends_with("`concurrency`: invalid type, expected a whole number, 0 or more"),
        "{message}"
    );
    // Of several, the wrong one: the option is right only beside its transport's url.
    let several = ["A__MEMORY__CAPACITY=1", "A__URL=memory://", "EDGE__URL=nonsense"].map(|of| {
        of.split_once('=').map(|(key, value)| (format!("MSGKIT__TRANSPORTS__{key}"), value.into())).unwrap()
    });
    let error = Settings::parse(GOOD, "msgkit.toml", several).unwrap_err();
    let message = crate::Chain(&error).to_string();
    assert!(message.starts_with("environment variable MSGKIT__TRANSPORTS__EDGE__URL cannot"), "{message}");
    for (name, wanted) in [
        ("MSGKIT__SERVICE__NAM", "did you mean `name`?"),
        ("MSGKIT__TRANSPORT__A__URL", "did you mean `transports`?"),
        ("MSGKIT__SERVICE", "names a table"),
        ("MSGKIT_TRANSPORTS__A__URL", "write MSGKIT__TRANSPORTS__A__URL"),
        ("MSGKIT__", "names no key"),
        ("MSGKIT__SERVICE__NAME__X", "which is no table"),
    ] {
        let message = crate::Chain(&with_env(name, "1").unwrap_err()).to_string();
        assert!(message.contains(wanted), "{name}: {message}");
    }
}

#[test]
fn passwords_never_print() {
    let settings = parse(GOOD).unwrap();
    assert_eq!(settings.transports.iter().find_map(|t| t.url.password()), Some("hunter2"));
    assert!(!format!("{settings:?}").contains("hunter2"));
    let broken = GOOD.replace("hunter2@", "hunter2%zz@");
    assert!(!error(&broken).contains("hunter2"));
}

#[test]
fn nearest_is_near() {
    assert_eq!(nearest("concurency", ["concurrency", "order"]), Some("concurrency"));
    assert_eq!(nearest("zzz", ["concurrency", "order"]), None);
}

#[test]
fn the_namespaces_file_lies_beside_the_configuration() {
    let folder = std::env::temp_dir().join(format!("msgkit-catalog-{}", std::process::id()));
    std::fs::create_dir_all(&folder).unwrap();
    std::fs::write(
        folder.join("msgkit.toml"),
        "[service]\nname = \"a\"\n[catalog]\nnamespaces = \"all.toml\"\n",
    )
    .unwrap();
    let settings = Settings::load(folder.join("msgkit.toml")).unwrap();
    assert_eq!(settings.catalog.namespaces, Some(folder.join("all.toml")));
    let missing =
        crate::Service::from_settings(settings.clone(), &crate::Registry::new()).unwrap_err().to_string();
    assert!(missing.contains("all.toml cannot be read; check `[catalog] namespaces`"), "{missing}");
    let orders = "[namespaces.orders]\nteam = \"a\"\npurpose = \"b\"\nclass = \"data\"\n";
    std::fs::write(folder.join("all.toml"), orders).unwrap();
    let service = crate::Service::from_settings(settings, &crate::Registry::new()).unwrap();
    std::fs::remove_dir_all(&folder).unwrap();
    let catalog = service.catalog().unwrap();
    assert_eq!(
        catalog.namespaces().map(|namespace| namespace.prefix.to_string()).collect::<Vec<_>>(),
        ["orders"]
    );
}

/// What a configuration's transport `a` says, built by the memory transport and by one that knows no options.
fn built(transport: &str) -> Result<crate::Service, String> {
    struct Plain;
    impl crate::transport::Factory for Plain {
        fn schemes(&self) -> &'static [&'static str] {
            &["plain", "plains", "plain+ws"]
        }
        fn build(
            &self,
            url: &crate::transport::TransportUrl,
            options: crate::transport::Options,
        ) -> Result<std::sync::Arc<dyn crate::transport::Transport>, crate::Error> {
            #[derive(serde::Deserialize)]
            #[serde(deny_unknown_fields)]
            struct None {}
            let None {} = options.read(url)?;
            Ok(std::sync::Arc::new(crate::memory::Memory::new()))
        }
    }
    let settings = parse(&format!("[service]\nname = \"x\"\n[transports.a]\n{transport}")).unwrap();
    crate::Service::from_settings(settings, &crate::Registry::new().with(Plain))
        .map_err(|error| crate::Chain(&error).to_string())
}

/// The options of a broker are the same ones with TLS, so changing the scheme, as the environment may do, breaks no file.
#[test]
fn the_table_of_options_has_any_scheme_of_its_kind_of_transport() {
    for (url, table) in [("plain", "plain"), ("plains", "plain"), ("plains", "plains"), ("plain+ws", "plain")]
    {
        let _ = built(&format!("url = \"{url}://h\"\n[transports.a.{table}]")).unwrap();
    }
    for (transport, error) in [
        (
            "url = \"plains://h\"\n[transports.a.memory]",
            "msgkit.toml: [transports.a] has options of `memory`, but its `url` is `plains:`; put them under `[transports.a.plain]`",
        ),
        (
            "url = \"plain+ws://h\"\n[transports.a.plain]\nsize = 1",
            "msgkit.toml: [transports.a.plain] has the unknown key `size`; there are none here",
        ),
    ] {
        assert_eq!(built(transport).unwrap_err(), error);
    }
    let refused = |rest: &str| {
        parse(&format!("[service]\nname = \"x\"\n[transports.a]\nurl = \"plain+ws://h\"\n{rest}"))
            .unwrap_err()
            .to_string()
    };
    assert!(refused("size = 1").contains("own options go under `[transports.a.plain]`"));
    assert!(
        refused("plain.x = 1\nmemory.x = 1").contains("options of `memory` and of `plain`, and one `url`")
    );
}

#[test]
fn what_a_transport_refuses_names_file_and_table() {
    for (transport, error) in [
        (
            "url = \"memoyr://\"",
            "msgkit.toml: [transports.a] cannot be used: transport scheme `memoyr` is unknown; known are memory, plain, \
             plain+ws, plains; did you mean `memory`?",
        ),
        (
            "url = \"localhost:5672\"",
            "msgkit.toml: [transports.a] cannot be used: transport scheme `localhost` is unknown; known are memory, plain, \
             plain+ws, plains; a url begins with its scheme, like `amqp://host:5672`",
        ),
        (
            "url = \"rabbitmq://h\"",
            "msgkit.toml: [transports.a] cannot be used: transport scheme `rabbitmq` is unknown; known are memory, plain, \
             plain+ws, plains; add the crate `msgkit-transport-amqp` and register it: \
             `Registry::new().with(msgkit_transport_amqp::scheme())`",
        ),
        (
            "url = \"memory://\"\n[transports.a.memory]\nretian = 1",
            "msgkit.toml: [transports.a.memory] has the unknown key `retian`; did you mean `retain`?",
        ),
    ] {
        assert_eq!(built(transport).unwrap_err(), error);
    }
    // Where the environment has it, the file is not to be blamed.
    let variable = ("MSGKIT__TRANSPORTS__A__MEMORY__RETIAN".to_owned(), "1".to_owned());
    let text = "[service]\nname = \"x\"\n[transports.a]\nurl = \"memory://\"";
    let settings = Settings::parse(text, "msgkit.toml", [variable]).unwrap();
    let error = crate::Service::from_settings(settings, &crate::Registry::new()).unwrap_err();
    assert_eq!(
        crate::Chain(&error).to_string(),
        "environment variable MSGKIT__TRANSPORTS__A__MEMORY__RETIAN cannot be used: msgkit.toml: [transports.a.memory] has the \
         unknown key `retian`; did you mean `retain`?"
    );
}

#[test]
fn a_transport_that_nothing_uses_is_refused() {
    const TWO: &str = "[service]\nname = \"x\"\n[transports.edge]\nurl = \"memory://a\"\n[transports.backbone]\nurl = \"memory://b\"\n\
                       [[routes]]\nmatch = \">\"\nto = \"backbone\"\n";
    let service = |text: &str, variable: Option<&str>| {
        let variable = variable.map(|name| (name.to_owned(), "memory://".to_owned()));
        let settings = Settings::parse(text, "msgkit.toml", variable).unwrap();
        crate::Service::from_settings(settings, &crate::Registry::new()).unwrap()
    };
    let refused = |service: crate::Service| crate::Chain(&service.check().unwrap_err()).to_string();
    assert_eq!(
        refused(service(TWO, None)),
        "msgkit.toml: [transports.edge] is used by no route and no `dead_letters`; add a route to it, or remove it"
    );
    // Code may use what the file names.
    service(TWO, None).dead_letters("backbone", "edge").check().unwrap();
    let used = TWO.replace("[transports.backbone]\n", "[transports.backbone]\ndead_letters = \"edge\"\n");
    service(&used, None).check().unwrap();
    assert_eq!(
        refused(service(&used, Some("MSGKIT__TRANSPORTS__BACKBON__URL"))),
        "environment variable MSGKIT__TRANSPORTS__BACKBON__URL cannot be used: [transports.backbon] is used by no route and no \
         `dead_letters`; did you mean `backbone`?"
    );
}

#[tokio::test]
async fn what_nobody_takes_is_refused_where_configuration_says_so() {
    for (transport, refused) in [
        ("url = \"memory://\"", false),
        ("url = \"memory://\"\non_unrouted = \"accept\"", false),
        ("url = \"memory://\"\non_unrouted = \"error\"", true),
        ("url = \"memory://\"\n[transports.a.memory]\non_unrouted = \"error\"", true),
        ("url = \"plain://\"\non_unrouted = \"accept\"", false),
    ] {
        let running = built(transport).unwrap().start().await.unwrap();
        let topic = crate::Topic::new("a.b").unwrap();
        let json = crate::envelope::ContentType::Json;
        let now = crate::envelope::Timestamp::now();
        let envelope = crate::Envelope::new("x", "y", topic, json, "1".into(), now);
        let sent = running.publisher().publish_envelopes(vec![envelope]).await;
        assert_eq!(sent.is_err(), refused, "{transport}");
        if let Err(error) = sent {
            assert!(crate::Chain(&error).to_string().contains("no group takes topic `a.b`"), "{error}");
        }
        running.drain().await.unwrap();
    }
}

#[test]
fn a_transport_that_cannot_tell_of_unrouted_messages_refuses_the_key() {
    for (transport, error) in [
        (
            "url = \"plain://\"\non_unrouted = \"error\"",
            "msgkit.toml: [transports.a] cannot be used: a transport of `plain:` cannot tell whether anybody takes a message; \
             remove `on_unrouted = \"error\"`",
        ),
        (
            "url = \"plain://\"\non_unrouted = \"error\"\n[transports.a.plain]\nx = 1",
            "msgkit.toml: [transports.a.plain] has the unknown key `x`; there are none here",
        ),
        (
            "url = \"memory://\"\non_unrouted = \"error\"\n[transports.a.memory]\non_unrouted = \"accept\"",
            "msgkit.toml: [transports.a.memory]: `on_unrouted` is said here and beside the transport's url; remove one of them",
        ),
    ] {
        assert_eq!(built(transport).unwrap_err(), error);
    }
    let refused =
        error("[service]\nname = \"x\"\n[transports.a]\nurl = \"memory://\"\non_unrouted = \"eror\"");
    assert_eq!(
        refused,
        "msgkit.toml: [transports.a]: `on_unrouted = \"eror\"` is unknown; did you mean `error`?"
    );
}

/// The blocks of TOML in the guide, which a reader copies.
fn guide() -> Vec<&'static str> {
    include_str!("../../../docs/guides/configuration.md")
        .split("```toml\n")
        .skip(1)
        .filter_map(|rest| rest.split("```").next())
        .collect()
}

#[test]
fn the_guide_s_configuration_is_one_and_its_policy_is_the_default() {
    let [whole, namespaces] = guide()[..] else { panic!("the guide has other blocks") };
    let settings = parse(whole).unwrap();
    let mut policy = crate::Policy { immediate: 99, ..Default::default() };
    settings.policies["default"].apply(&mut policy);
    assert_eq!(policy, crate::Policy::default());
    let service = crate::Service::from_settings(
        Settings { catalog: CatalogSettings::default(), ..settings },
        &crate::Registry::new(),
    );
    assert!(service.is_ok(), "{service:?}");
    assert_eq!(crate::catalog::parse_namespaces(namespaces, "namespaces.toml").unwrap().len(), 1);
}

#[test]
fn the_guide_names_every_key_of_a_policy() {
    // Serde lists the known keys of a table in the error of one that is unknown.
    let text = error("[service]\nname = \"x\"\n[policies.p]\nqqqqqqqqqqqqqqqq = 1");
    let known = text.rsplit("known are ").next().unwrap().split(", ");
    for key in known {
        assert!(guide()[0].contains(&format!("\n{key} = ")), "the guide says nothing of `{key}`");
    }
}

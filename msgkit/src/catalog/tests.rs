use super::*;
use crate::topic::{NamespaceClass, Pattern};

const TODAY: &str = "2026-06-15";

fn today() -> Day {
    TODAY.parse().unwrap()
}

fn message(name: &str, topic: &str) -> MessageType {
    MessageType::new(name, topic).unwrap()
}

/// `shop.gateway` publishes `orders.placed`, which `shop.shipping` handles; it publishes `shipping.sent`.
fn shop() -> Catalog {
    let placed = message("orders.placed", "orders.{order_id}");
    let ship = HandlerEntry::new("shop.shipping", "ship")
        .group("shipping")
        .takes(placed.clone())
        .publishes(message("shipping.sent", "shipping"));
    Catalog::new()
        .external("any HTTP client")
        .call("any HTTP client", "shop.gateway", "POST /orders")
        .publishes("shop.gateway", placed)
        .handler(ship)
        .handler(HandlerEntry::new("mail", "notify").takes(message("shipping.sent", "shipping")))
}

fn namespace(prefix: &str) -> Namespace {
    Namespace::new(prefix, "sales", "what is bought", NamespaceClass::BusinessProcess).unwrap()
}

fn findings(catalog: &Catalog, rules: &Rules) -> Vec<String> {
    catalog.check(rules, today()).iter().map(ToString::to_string).collect()
}

#[test]
fn links_follow_from_who_publishes_and_who_takes() {
    let links: Vec<String> = shop().links().iter().map(ToString::to_string).collect();
    assert_eq!(
        links,
        ["shop.gateway -> shop.shipping: orders.placed", "shop.shipping -> mail: shipping.sent"]
    );
    assert!(shop().unheard().is_empty() && shop().unsent().is_empty());
}

#[test]
fn a_type_alone_is_no_link_where_nobody_listens_to_its_topic() {
    let here = message("a", "x.{id}");
    let handler = |entry: HandlerEntry| Catalog::new().publishes("p", here.clone()).handler(entry);
    let deaf = handler(HandlerEntry::new("c", "h").takes(message("a", "y")));
    assert!(deaf.links().is_empty());
    assert_eq!(deaf.unheard().len(), 1);
    assert_eq!(deaf.unsent().len(), 1);
    let listening = HandlerEntry::new("c", "h").takes(message("a", "y"));
    let pattern = Pattern::new("x.>").unwrap();
    assert_eq!(handler(listening.subscribes(pattern)).links().len(), 1);
    let other_type = HandlerEntry::new("c", "h").takes(message("b", "x.{id}"));
    assert!(handler(other_type).links().is_empty());
}

#[test]
fn a_merged_system_has_everything_once_and_no_contradiction() {
    let twice = shop().merge(shop()).unwrap();
    assert_eq!(twice, shop());
    let halves = Catalog::new()
        .publishes("a", message("m", "t"))
        .merge(Catalog::new().handler(HandlerEntry::new("b", "h").takes(message("m", "t"))))
        .unwrap();
    assert_eq!(halves.links().len(), 1);
    let other_group = Catalog::new().handler(HandlerEntry::new("shop.shipping", "ship").group("other"));
    let error = shop().merge(other_group).unwrap_err().to_string();
    assert!(error.contains("in group `shipping` and in group `other`; give one"), "{error}");
    let (mine, mut theirs) = (namespace("orders"), namespace("orders"));
    theirs.team = "billing".into();
    let error = Catalog::new().namespace(mine).merge(Catalog::new().namespace(theirs)).unwrap_err();
    assert!(error.to_string().contains("`orders` is declared in two ways; keep it in one file"), "{error}");
}

#[test]
fn an_undeclared_namespace_is_found_and_a_declared_one_is_not() {
    let rules = Rules::default();
    assert!(findings(&shop(), &rules).is_empty(), "without namespaces there is nothing to compare with");
    let half = shop().namespace(namespace("orders"));
    assert_eq!(
        findings(&half, &rules),
        [
            "warn [undeclared_namespace]: topic `shipping` of `shipping.sent` lies in no declared namespace; declare \
          `[namespaces.shipping]` with its team, or use a topic below a declared one"
        ]
    );
    assert!(findings(&half.clone().namespace(namespace("shipping")), &rules).is_empty());
    assert!(findings(&half, &rules.with(Rule::UndeclaredNamespace, Level::Allow)).is_empty());
}

#[test]
fn the_longest_prefix_is_the_namespace_of_a_topic() {
    let catalog = Catalog::new().namespace(namespace("orders")).namespace(namespace("orders.eu"));
    let of = |topic: &str| catalog.namespace_of(&message("m", topic)).map(|found| found.prefix.to_string());
    assert_eq!(of("orders.{id}").as_deref(), Some("orders"));
    assert_eq!(of("orders.eu.{id}").as_deref(), Some("orders.eu"));
    assert_eq!(of("orders2.eu"), None);
}

#[test]
fn publishers_and_consumers_are_those_that_the_namespace_names() {
    let check = |publishers: &[&str], consumers: &[&str]| {
        let mut orders = namespace("orders");
        orders.publishers = publishers.iter().map(|name| Text::from(*name)).collect();
        orders.consumers = consumers.iter().map(|name| Text::from(*name)).collect();
        findings(&shop().namespace(orders).namespace(namespace("shipping")), &Rules::default())
    };
    assert!(check(&[], &[]).is_empty());
    assert!(check(&["shop.gateway"], &["shop.shipping", "audit"]).is_empty());
    assert!(check(&["shop"], &["shop"]).is_empty(), "what is part of a component may what that may");
    assert_eq!(
        check(&["shop.gate"], &[]),
        [
            "deny [forbidden_publisher]: component `shop.gateway` publishes `orders.placed` of namespace `orders`, which only \
          `shop.gate` may; ask sales to add it to `publishers`, or do without"
        ]
    );
    assert_eq!(
        check(&[], &["audit", "billing"]),
        [
            "deny [forbidden_consumer]: component `shop.shipping` handles `orders.placed` of namespace `orders`, which only \
          `audit`, `billing` may; ask sales to add it to `consumers`, or do without"
        ]
    );
}

/// `a` takes what `b` publishes, and the other way round.
fn circle() -> Catalog {
    let (ping, pong) = (message("ping", "x.ping"), message("pong", "x.pong"));
    Catalog::new()
        .handler(HandlerEntry::new("a", "h").takes(ping.clone()).publishes(pong.clone()))
        .handler(HandlerEntry::new("b", "h").takes(pong).publishes(ping))
}

#[test]
fn a_message_that_causes_itself_is_a_cycle_and_a_question_with_its_answer_is_not() {
    assert_eq!(
        findings(&circle(), &Rules::default()),
        [
            "warn [cycle]: `a/h -> b/h` and back: what happens there may cause itself again, without end; break the circle, \
          or waive it by this subject where something ends it"
        ]
    );
    let (question, answer) = (message("question", "x.q"), message("answer", "x.a"));
    let asking = Catalog::new()
        .publishes("asker", question.clone())
        .handler(HandlerEntry::new("asker", "answers").takes(answer.clone()))
        .handler(HandlerEntry::new("store", "queries").takes(question).publishes(answer));
    assert!(findings(&asking, &Rules::default()).is_empty());
    let own = Catalog::new()
        .handler(HandlerEntry::new("a", "h").takes(message("ping", "x")).publishes(message("ping", "x")));
    assert_eq!(own.check(&Rules::default(), today())[0].subject, "a/h");
}

#[test]
fn cycles_go_through_calls_too_but_not_through_what_is_external() {
    let calls = Catalog::new().call("a", "b", "GET /").call("b", "c", "GET /").call("c", "a", "GET /");
    assert_eq!(calls.check(&Rules::default(), today())[0].subject, "a -> b -> c");
    assert!(findings(&calls.external("c"), &Rules::default()).is_empty());
    let mixed = Catalog::new()
        .handler(HandlerEntry::new("a", "h").takes(message("m", "x")))
        .call("a", "b", "POST /")
        .publishes("b", message("m", "x"));
    assert_eq!(mixed.check(&Rules::default(), today())[0].subject, "a/h -> b");
}

#[test]
fn every_cycle_of_several_is_found() {
    let two = circle().merge(Catalog::new().call("p", "q", "GET /").call("q", "p", "GET /")).unwrap();
    let subjects: Vec<_> =
        two.check(&Rules::default(), today()).into_iter().map(|finding| finding.subject).collect();
    assert_eq!(subjects, ["a/h -> b/h", "p -> q"]);
}

#[test]
fn a_waiver_holds_through_its_last_day_and_is_a_finding_afterwards() {
    let rules = |subject: &str, expires: &str| {
        let waiver = Waiver::new(Rule::Cycle, subject, "ends after three rounds", expires.parse().unwrap());
        Rules::default().with(Rule::Cycle, Level::Deny).waive(waiver)
    };
    assert!(findings(&circle(), &rules("a/h -> b/h", "2027-01-31")).is_empty());
    assert!(findings(&circle(), &rules("a/h -> b/h", TODAY)).is_empty());
    let expired = findings(&circle(), &rules("a/h -> b/h", "2026-06-14"));
    assert_eq!(expired.len(), 2);
    assert!(expired[0].starts_with("deny [cycle]: `a/h -> b/h` and back"), "{expired:?}");
    assert_eq!(
        expired[1],
        "deny [cycle]: the waiver for `a/h -> b/h` (\"ends after three rounds\") expired after 2026-06-14; delete it, and \
         put right what it waived where that is still so"
    );
    assert_eq!(findings(&circle(), &rules("b/h -> a/h", "2027-01-31")).len(), 1, "another subject");
    assert_eq!(
        findings(&shop(), &rules("a/h -> b/h", "2026-06-14")).len(),
        1,
        "also where nothing is waived"
    );
}

#[test]
fn denied_comes_first() {
    let mut orders = namespace("orders");
    orders.consumers = vec!["nobody".into()];
    let found = shop().namespace(orders).check(&Rules::default(), today());
    assert_eq!(found.iter().map(|finding| finding.level).collect::<Vec<_>>(), [Level::Deny, Level::Warn]);
}

#[test]
fn d2_nests_components_and_tells_calls_from_messages() {
    assert_eq!(
        shop().to_d2(),
        r#"direction: right
mail
shop: {
  gateway
  shipping
}
any_HTTP_client: "any HTTP client" {shape: oval}
shop.gateway -> shop.shipping: "orders.{order_id}\norders.placed"
shop.shipping -> mail: "shipping\nshipping.sent"
any_HTTP_client -> shop.gateway: "POST /orders" {style.stroke-dash: 4}
"#
    );
}

#[test]
fn mermaid_nests_components_and_tells_calls_from_messages() {
    assert_eq!(
        shop().to_mermaid(),
        r#"flowchart LR
  c_mail["mail"]
  subgraph c_shop["shop"]
    c_shop-gateway["gateway"]
    c_shop-shipping["shipping"]
  end
  c_any_HTTP_client(["any HTTP client"])
  c_shop-gateway -->|"orders.{order_id}<br/>orders.placed"| c_shop-shipping
  c_shop-shipping -->|"shipping<br/>shipping.sent"| c_mail
  c_any_HTTP_client -.->|"POST /orders"| c_shop-gateway
"#
    );
}

#[test]
fn a_component_with_others_in_it_is_drawn_in_its_own_box_and_open_ends_lead_elsewhere() {
    let catalog = Catalog::new().publishes("a", message("m", "x")).component("a.b");
    assert_eq!(
        catalog.to_d2(),
        "direction: right\na: {\n  b\n  a\n}\nelsewhere: {shape: cloud}\na.a -> elsewhere: \"x\\nm\"\n"
    );
    assert!(catalog.to_mermaid().contains("  c_a-a -->|\"x<br/>m\"| c_elsewhere\n"));
}

#[test]
fn hostile_names_stay_labels() {
    let hostile = "x\"] end\nclick %%{init: {}}%% `${vars}` <b>&;#quot; \\";
    let catalog = Catalog::new().external(hostile).call(hostile, "style", hostile).component("Style");
    let d2 = catalog.to_d2();
    let label = r#""x\"] end\nclick %%{init: {}}%% `\${vars}` <b>&;#quot; \\""#;
    let id = "x___end_click____init___________vars____b____quot___";
    assert_eq!(
        d2,
        format!(
            "direction: right\nx_Style: \"Style\"\nx_style_2: \"style\"\n{id}: {label} {{shape: oval}}\n{id} -> x_style_2: \
             {label} {{style.stroke-dash: 4}}\n"
        )
    );
    let mermaid = catalog.to_mermaid();
    let label = "x#34;#93; end click #37;#37;{init: {}}#37;#37; #96;#36;{vars}#96; #60;b#62;#38;#59;#35;quot#59; #92;";
    assert_eq!(mermaid.lines().last(), Some(format!("  c_{id} -.->|\"{label}\"| c_x_style_2").as_str()));
    assert_eq!(mermaid.lines().count(), 5);
    assert!(Catalog::new().component("").to_d2().ends_with("x_: \"\"\n"));
}

fn namespaces_error(text: &str) -> String {
    crate::Chain(&parse_namespaces(text, "namespaces.toml").unwrap_err()).to_string()
}

#[test]
fn the_namespaces_file_nests_prefixes() {
    let file = r#"
[namespaces.platform]
team = "a"
purpose = "b"
class = "gateway"
[namespaces.platform.core.rules]
team = "c"
purpose = "d"
class = "data"
publishers = ["x"]
[namespaces."platform.edge"]
team = "e"
purpose = "f"
class = "edge"
consumers = ["y"]
"#;
    let all = parse_namespaces(file, "namespaces.toml").unwrap();
    let read: Vec<_> =
        all.iter().map(|one| (one.prefix.as_str(), one.team.as_str(), one.class.as_str())).collect();
    assert_eq!(
        read,
        [("platform", "a", "gateway"), ("platform.core.rules", "c", "data"), ("platform.edge", "e", "edge")]
    );
    assert_eq!(
        (all[1].publishers.as_slice(), all[2].consumers.as_slice()),
        (&["x".into()][..], &["y".into()][..])
    );
}

#[test]
fn mistakes_in_the_namespaces_file_name_the_place_and_the_fix() {
    let good = "team = \"a\"\npurpose = \"b\"\nclass = \"edge\"\n";
    for (text, wanted) in [
        (
            format!("[namespaces.x]\npublisher = []\n{good}"),
            "namespaces.toml: [namespaces.x] has the unknown key `publisher`; did you mean `publishers`?",
        ),
        (
            format!("[namespace.x]\n{good}"),
            "namespaces.toml has the unknown key `namespace`; did you mean `namespaces`?",
        ),
        (
            format!("[namespaces.x]\n{}", good.replace("\"edge\"", "\"egde\"")),
            "namespaces.toml: [namespaces.x]: `class = \"egde\"` is unknown; did you mean `edge`?",
        ),
        (
            format!("[namespaces.x]\n{}", good.replace("\"edge\"", "\"other\"")),
            "`class = \"other\"` is unknown; known are edge, gateway, business_process, data",
        ),
        (
            "[namespaces.x]\npurpose = \"b\"\nclass = \"edge\"".to_owned(),
            "[namespaces.x]: missing field `team`",
        ),
        (
            "[namespaces]\nx = 1".to_owned(),
            "[namespaces.x] must be a table with `team`, `purpose` and `class`",
        ),
        (format!("[namespaces.msgkit]\n{good}"), "[namespaces.msgkit] is no topic's beginning: "),
        (
            format!("[namespaces.\"x.y\"]\n{good}[namespaces.x.y]\n{good}"),
            "[namespaces.x.y] is there twice, quoted and not; keep one",
        ),
        ("[namespaces".to_owned(), "namespaces.toml, line 1, is no legal TOML"),
    ] {
        let error = namespaces_error(&text);
        assert!(error.contains(wanted), "{text}\n{error}");
    }
    let missing = load_namespaces("/nowhere/namespaces.toml").unwrap_err().to_string();
    assert!(
        missing.contains("/nowhere/namespaces.toml cannot be read; check `[catalog] namespaces`"),
        "{missing}"
    );
}

#[test]
fn a_day_is_the_one_of_utc() {
    let late: crate::Timestamp = "2026-06-15T23:30:00-02:00".parse().unwrap();
    assert_eq!(Day::from(late).to_string(), "2026-06-16");
    for bad in ["2026-02-30", "2026-6-1", "tomorrow", "2026-06-15T00:00:00", ""] {
        let error = bad.parse::<Day>().unwrap_err().to_string();
        assert!(error.contains("write it as in \"2027-01-31\""), "{error}");
    }
}

//! `--config`, by the real program: routes to several transports, refusals in one line, warnings that are printed.

use std::path::Path;

use clap::Parser as _;
use device_platform::messages::{AggregateUpdated, ReadingReported};
use device_platform::settings::{Component, Run, Settings};
use device_platform::system;
use msgkit::handler::{HandlerSpec, closure};
use msgkit::{Context, Service};
use serde_json::json;

use crate::platform::{Launch, check, now};
use crate::story::until;

/// A configuration in a file of its own.
fn written(text: &str) -> (tempfile::TempDir, std::path::PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("platform.toml");
    std::fs::write(&file, text).unwrap();
    (folder, file)
}

#[test]
fn each_route_leads_to_its_transport() {
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().to_str().unwrap();
    let config = folder.path().join("platform.toml");
    std::fs::write(
        &config,
        format!(
            "[service]\nname = \"platform\"\n[transports.edge]\nurl = \"sqlite:{data}/edge.db\"\n\
             [transports.backbone]\nurl = \"memory://\"\n\
             [[routes]]\nmatch = \"device.>\"\nto = \"edge\"\n[[routes]]\nmatch = \">\"\nto = \"backbone\"\n"
        ),
    )
    .unwrap();
    let launch = Launch::default().with(&["--config", config.to_str().unwrap(), "--readings", "0"]);
    let platform = launch.start();
    assert!(
        platform.said.iter().any(|line| line.contains("measurements are kept in memory")),
        "{:?}",
        platform.said
    );
    let reading = json!({"temperature": 21, "humidity": 40, "light": 300, "co2": 600}).to_string();
    let (status, body) = platform.request("POST", "/api/v1/devices/routed/readings", &reading).unwrap();
    assert_eq!(status, 202, "{body}");
    until("what came over two transports is stored", || {
        let (_, stored) = platform.request("GET", "/api/v1/readings?device_id=routed", "").unwrap();
        if stored.as_array().is_some_and(|rows| rows.len() == 1) { Ok(()) } else { Err(stored.to_string()) }
    });
    platform.kill();
    // Only readings took the first route, so only their group is there.
    let edge = msgkit::Registry::new()
        .with(msgkit_transport_sqlite::scheme())
        .open(&format!("sqlite:{data}/edge.db"))
        .unwrap();
    let groups = now(edge.operate().unwrap().groups()).unwrap();
    assert_eq!(groups.iter().map(|status| status.group.as_str()).collect::<Vec<_>>(), ["processing"]);
    now(edge.close()).unwrap();
}

#[test]
fn a_bad_file_gives_one_line_that_names_the_file_and_the_fix() {
    let service = "[service]\nname = \"p\"\n";
    let memory = format!("{service}[transports.all]\nurl = \"memory://\"\n");
    for (text, wanted) in [
        ("", "has no `[service]`; write `[service]`"),
        ("[service\n", "line 1, is no legal TOML"),
        (service, "names no transport; add `[transports.<name>]`"),
        (&format!("{memory}[transports.all.memory]\ncapacty = 1"), "did you mean `capacity`?"),
        (&format!("{memory}[handlers.procesing]\nconcurrency = 2"), "did you mean `processing`?"),
        (
            &format!("{memory}[handlers.zzz]\nconcurrency = 2"),
            "there are answers, dashboard_events, processing",
        ),
        (&format!("{memory}[policies.default]\norder = \"keys\""), "did you mean `key`?"),
        (
            &format!(
                "{memory}[[handlers.processing.ingest]]\nmatch = \"device.>\"\ntype = \"device.reading.measurd\""
            ),
            "did you mean `device.reading.measured`?",
        ),
    ] {
        let (_folder, file) = written(text);
        let (content, out, error) = check(&file);
        assert!(!content && out.is_empty(), "{text}\n{out}");
        assert!(error.starts_with("error: ") && error.contains(wanted), "{wanted:?} is not in {error:?}");
        assert_eq!(error.lines().count(), 1, "{error}");
    }
    let (_, _, error) = check(Path::new("/nowhere/platform.toml"));
    assert!(
        error.starts_with("error: configuration /nowhere/platform.toml cannot be read; check the path"),
        "{error}"
    );
    assert_eq!(error.lines().count(), 1, "{error}");
}

fn run(arguments: &[&str]) -> Run {
    Settings::parse_from(std::iter::once(&"device-platform").chain(arguments)).run
}

/// Makes the gateway report a reading whenever an aggregate changes: no component by itself goes round, all together do.
fn go_round(component: Component, service: Service) -> Service {
    if component != Component::ApiGateway {
        return service;
    }
    let again = closure(|_: AggregateUpdated, _: Context| async { Ok(()) });
    service.spec(HandlerSpec::new("again", "again").unwrap().with(again).publishes::<ReadingReported>())
}

#[test]
fn what_only_the_whole_system_shows_is_printed_by_check() {
    let check = now(system::check_with(&run(&[]), go_round)).unwrap();
    assert!(check.components.iter().all(|report| report.findings.is_empty()), "{check}");
    let printed = check.to_string();
    let (_, of_the_system) = printed.split_once("\nthe system\n").unwrap();
    assert!(of_the_system.contains("warn [cycle]: `"), "{printed}");
    assert!(of_the_system.contains("service_platform.api_gateway/again"), "{printed}");
    assert!(printed.ends_with("6 components, warnings: 1\n"), "{printed}");

    let (_folder, file) = written(
        "[service]\nname = \"p\"\n[transports.all]\nurl = \"memory://\"\n[catalog]\nrules.cycle = \"deny\"\n",
    );
    let denied = now(system::check_with(&run(&["--config", file.to_str().unwrap()]), go_round)).unwrap_err();
    assert!(
        denied.to_string().starts_with("the system breaks a rule of its catalog: deny [cycle]"),
        "{denied}"
    );
}

#[test]
fn the_program_prints_the_warnings_itself() {
    let (_folder, file) = written(
        "[service]\nname = \"p\"\n[transports.all]\nurl = \"memory://\"\n[[catalog.waivers]]\nrule = \"cycle\"\n\
         subject = \"a -> b\"\nreason = \"it ends\"\nexpires = 2020-01-31\n",
    );
    let (content, out, error) = check(&file);
    assert!(content && error.is_empty(), "{error}");
    assert!(
        out.contains("warn [cycle]: the waiver for `a -> b` (\"it ends\") expired after 2020-01-31"),
        "{out}"
    );
    let (_folder, file) = written("[service]\nname = \"p\"\n[transports.all]\nurl = \"memory://\"\n");
    let (content, out, _) = check(&file);
    assert!(content && out.ends_with("6 components, no warnings\n"), "{out}");
}

//! The configuration that the README shows is read, and does what the README says.

use msgkit::config::Settings;
use msgkit::{Context, Registry, Service};
use serde_json::Value;

use device_platform::messages::{AlertRaised, ReadingReported};

/// Its blocks of one language.
fn blocks(language: &str) -> Vec<&'static str> {
    let readme = include_str!("../../../../README.md");
    let begin = format!("```{language}\n");
    readme.split(begin.as_str()).skip(1).filter_map(|rest| rest.split("```").next()).collect()
}

#[test]
fn the_configuration_of_the_readme_is_one() {
    let [_dependencies, configuration] = blocks("toml")[..] else { panic!("two blocks of TOML") };
    let settings = Settings::parse(configuration, "README.md", []).unwrap();
    assert_eq!(settings.name, "device-platform");
    let registry = Registry::new().with(msgkit_transport_sqlite::scheme());
    let service = Service::from_settings(settings, &registry)
        .unwrap()
        .on("alerting", |_: ReadingReported, _: Context| async { Ok(()) })
        .on("mail", |_: AlertRaised, _: Context| async { Ok(()) });
    let report = service.check().unwrap();
    let [alerting, mail] = &report.handlers[..] else { panic!("{report}") };
    assert_eq!(
        (&alerting.transports[..], &mail.transports[..]),
        (&["edge (memory)".to_owned()][..], &["backbone (sqlite)".to_owned()][..])
    );
    assert!(
        alerting.policy.starts_with("16 at once, 2 in place, 5 delayed from 1s to 16s"),
        "{}",
        alerting.policy
    );
    assert!(mail.policy.starts_with("1 at once"), "{}", mail.policy);
}

/// What the README posts is a reading.
#[test]
fn the_reading_of_the_readme_is_one() {
    let line =
        blocks("sh").into_iter().flat_map(str::lines).find(|line| line.starts_with("curl -d '")).unwrap();
    let body = line.split('\'').nth(1).unwrap();
    let body: Value = serde_json::from_str(body).unwrap();
    let reading: device_platform::api_gateway::NewReading = serde_json::from_value(body).unwrap();
    let report = reading.report("kitchen".to_owned(), jiff::Timestamp::now());
    device_platform::processing::enrich("id", report).unwrap();
    assert!(line.ends_with("/api/v1/devices/kitchen/readings"), "{line}");
}

//! The README tells every option, as its config type does; a check tells what they cost.

#![allow(clippy::unwrap_used, reason = "a panic is how a test fails")]

use msgkit::config::Settings;
use msgkit::{Context, Message, Registry, Service};
use serde::{Deserialize, Serialize};

#[test]
fn the_options_in_the_readme_are_those_of_the_config() {
    let source = include_str!("../src/config.rs");
    let defaults = msgkit_transport_mqtt::MqttConfig::default();
    let table = msgkit_testing::options::table(source, "MqttConfig", &defaults);
    msgkit_testing::options::check(concat!(env!("CARGO_MANIFEST_DIR"), "/README.md"), &table);
}

#[derive(Debug, Serialize, Deserialize, Message)]
#[message(name = "device.reading", topic = "device")]
struct Reading {
    value: f64,
}

#[test]
fn a_check_tells_what_the_keeper_costs() {
    let check = |option: &str| {
        let text = format!(
            "[service]\nname = \"edge\"\n\
             [transports.edge]\nurl = \"mqtt://localhost:1\"\ndead_letters = \"letters\"\n\
             [transports.edge.mqtt]\n{option}\n\
             [transports.letters]\nurl = \"memory://\"\n\
             [[routes]]\nmatch = \">\"\nto = \"edge\"\n"
        );
        let settings = Settings::parse(&text, "msgkit.toml", []).unwrap();
        let registry = Registry::new().with(msgkit_transport_mqtt::scheme());
        let service = Service::from_settings(settings, &registry).unwrap();
        service.on("readings", |_: Reading, _: Context| async { Ok(()) }).check().unwrap().to_string()
    };
    let told = check("");
    assert!(told.contains("note    edge: a group of several members is sent every message twice"), "{told}");
    assert!(told.contains("`keeper = false`"), "{told}");
    let told = check("keeper = false");
    assert!(!told.contains("twice"), "{told}");
}

#[test]
fn the_files_in_the_readme_are_taken() {
    let registry = msgkit::Registry::new().with(msgkit_transport_mqtt::scheme());
    msgkit_testing::options::check_examples(
        concat!(env!("CARGO_MANIFEST_DIR"), "/README.md"),
        &registry,
        &[],
    );
}

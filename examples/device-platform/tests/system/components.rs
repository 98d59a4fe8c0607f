//! One process per component on one SQLite file: each is killed in turn while the others go on.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use device_platform::data_api::Store;
use device_platform::messages::ReadingsQuery;
use serde_json::json;

use crate::platform::{Platform, now};

/// Those without HTTP; the gateway stays, as it is what takes readings in.
const KILLED: [&str; 4] = [
    "data_core.data_api",
    "service_platform.container.processing",
    "service_platform.core.event_rule",
    "service_platform.notification",
];

#[test]
fn each_component_is_killed_in_turn_and_every_accepted_reading_is_stored_once() {
    let folder = tempfile::tempdir().unwrap();
    let start = |name: &str| Platform::start(folder.path(), &["--only", name]);
    // The gateway is the first that ever runs: the groups of all others have to be there already.
    let gateway = start("service_platform.api_gateway");
    let mut accepted = BTreeSet::new();
    let mut post = || {
        let at = format!("2026-01-01T00:{:02}:00Z", accepted.len());
        let reading =
            json!({"temperature": 21, "humidity": 40, "light": 300, "co2": 600, "at": at}).to_string();
        let (status, body) = gateway.request("POST", "/api/v1/devices/several/readings", &reading).unwrap();
        assert_eq!(status, 202, "{body}");
        assert!(accepted.insert(body["id"].as_str().unwrap().to_owned()));
    };
    post();
    let mut running: BTreeMap<&str, Platform> = KILLED.into_iter().map(|name| (name, start(name))).collect();
    for name in KILLED {
        post();
        running.remove(name).unwrap().kill();
        post();
        running.insert(name, start(name));
        post();
    }
    let store = now(Store::open(&folder.path().join("measurements.db"))).unwrap();
    let deadline = Instant::now() + Duration::from_secs(90);
    loop {
        let query = ReadingsQuery { device_id: Some("several".to_owned()), limit: 1000 };
        let stored = now(store.readings(&query)).unwrap().readings;
        let ids: BTreeSet<String> = stored.iter().map(|reading| reading.id.clone()).collect();
        assert_eq!(ids.len(), stored.len(), "a reading is stored twice");
        if ids == accepted {
            break;
        }
        assert!(Instant::now() < deadline, "{} of {} readings are stored", ids.len(), accepted.len());
        std::thread::sleep(Duration::from_millis(300)); // Polls with a deadline.
    }
}

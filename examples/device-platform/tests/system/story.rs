//! A run of the platform that has the same outcome wherever it happens: so many real measurements replayed, readings posted, some of
//! them impossible. And the same with each component killed in turn.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::{Duration, Instant};

use device_platform::data_api::Store;
use device_platform::event_rule::{Rules, evaluate};
use device_platform::messages::{
    AggregatesQuery, AlertsQuery, DeadLettersQuery, DevicesQuery, ReadingEnriched, ReadingsQuery,
    StoredReading, Window,
};
use device_platform::settings::Component;
use serde_json::json;

use crate::platform::{Launch, Platform, now};

/// So many measurements are replayed, where the transport is not one of stand-ins that take long for each.
pub(crate) const REPLAYED: usize = 900;
/// So many readings are posted; each tenth cannot be true.
const POSTED: usize = 50;
/// How long anything may take that must happen.
const PATIENCE: Duration = Duration::from_secs(600);

/// What a run comes to: a line for each reading, aggregate, alert and dead letter, in the order of time where there is one.
///
/// Ids and traces of posted readings are new in each run and are left out; those of measurements are not.
#[derive(Debug, Default, PartialEq)]
pub(crate) struct Totals {
    readings: Vec<String>,
    aggregates: Vec<String>,
    alerts: Vec<String>,
    dead_letters: Vec<String>,
}

impl Totals {
    pub(crate) fn of(store: &Store) -> Self {
        let mut totals = Self::default();
        for device in now(store.devices(&DevicesQuery { limit: 100 })).unwrap().devices {
            let device_id = Some(device.device_id);
            let limit = 10_000;
            let query = ReadingsQuery { device_id: device_id.clone(), limit };
            for reading in now(store.readings(&query)).unwrap().readings {
                let StoredReading {
                    id,
                    device_id,
                    at,
                    temperature,
                    humidity,
                    light,
                    co2,
                    humidity_ratio,
                    ..
                } = reading;
                let id = if device_id.starts_with("office") { id } else { String::new() };
                totals.readings.push(format!(
                    "{device_id} {at} {id} {temperature} {humidity} {light} {co2} {humidity_ratio}"
                ));
            }
            for window in Window::ALL {
                let query = AggregatesQuery { device_id: device_id.clone(), window, limit };
                let aggregates = now(store.aggregates(&query)).unwrap().aggregates;
                totals.aggregates.extend(aggregates.iter().map(|aggregate| format!("{aggregate:?}")));
            }
            let query = AlertsQuery { device_id, limit };
            for alert in now(store.alerts(&query)).unwrap().alerts {
                totals.alerts.push(format!(
                    "{} {} {} {:?} {} {}",
                    alert.device_id, alert.at, alert.rule, alert.state, alert.value, alert.threshold
                ));
            }
        }
        let letters = now(store.dead_letters(&DeadLettersQuery { limit: 10_000 })).unwrap().dead_letters;
        totals.dead_letters = letters
            .iter()
            .map(|l| format!("{} {} {} {} {}", l.group, l.kind, l.topic, l.error, l.payload))
            .collect();
        for lines in
            [&mut totals.readings, &mut totals.aggregates, &mut totals.alerts, &mut totals.dead_letters]
        {
            lines.sort();
        }
        totals
    }

    /// What is here and not there, and the other way round, in a few lines.
    fn difference(&self, other: &Self) -> String {
        let pairs = [
            ("readings", &self.readings, &other.readings),
            ("aggregates", &self.aggregates, &other.aggregates),
            ("alerts", &self.alerts, &other.alerts),
            ("dead letters", &self.dead_letters, &other.dead_letters),
        ];
        let mut text = String::new();
        for (what, here, there) in pairs {
            let mut balance: BTreeMap<&String, i32> = BTreeMap::new();
            here.iter().for_each(|line| *balance.entry(line).or_default() += 1);
            there.iter().for_each(|line| *balance.entry(line).or_default() -= 1);
            let off: Vec<_> = balance.into_iter().filter(|(_, by)| *by != 0).collect();
            text += &format!("{what}: {} here, {} wanted, {} differ\n", here.len(), there.len(), off.len());
            off.iter().take(3).for_each(|(line, by)| text += &format!("  {by:+} {line}\n"));
        }
        text
    }
}

/// The store of a run, which the platform is using too.
pub(crate) fn store(folder: &Path) -> Store {
    now(Store::open(&folder.join("measurements.db"))).unwrap()
}

/// Waits until something is so; what it was at the end, where it never is.
pub(crate) fn until(what: &str, mut look: impl FnMut() -> Result<(), String>) {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let Err(seen) = look() else { return };
        assert!(Instant::now() < deadline, "never: {what}\n{seen}");
        std::thread::sleep(Duration::from_millis(200)); // Polls with a deadline.
    }
}

/// The posts of a run, in their order.
pub(crate) struct Posts {
    next: usize,
}

impl Posts {
    pub(crate) fn new() -> Self {
        Self { next: 0 }
    }

    fn at(number: usize) -> String {
        format!("2026-01-01T00:{number:02}:00Z")
    }

    /// Posts so many; each must be accepted.
    pub(crate) fn some(&mut self, count: usize, gateway: &Platform) {
        for _ in 0..count.min(POSTED - self.next) {
            let number = self.next;
            self.next += 1;
            // Stale air from the fifth minute to the thirtieth, so that alerts begin and end.
            let co2 = if (5..30).contains(&number) { 1500 } else { 500 };
            let temperature = if number % 10 == 9 { 900.0 } else { 20.0 + number as f64 / 8.0 };
            let reading = json!({"temperature": temperature, "humidity": 40, "light": 300, "co2": co2,
                "at": Self::at(number)});
            let (status, body) =
                gateway.request("POST", "/api/v1/devices/posted/readings", &reading.to_string()).unwrap();
            assert_eq!(status, 202, "{body}");
        }
    }

    pub(crate) fn rest(&mut self, gateway: &Platform) {
        self.some(POSTED, gateway);
    }

    /// How many of those so far must be stored.
    fn good(&self) -> usize {
        self.next - self.next / 10
    }
}

fn stored(store: &Store, device: &str) -> usize {
    let query = ReadingsQuery { device_id: Some(device.to_owned()), limit: 10_000 };
    now(store.readings(&query)).unwrap().readings.len()
}

/// The whole story in one process, in memory.
pub(crate) fn in_memory(replayed: usize) -> Totals {
    let folder = tempfile::tempdir().unwrap();
    let config = folder.path().join("memory.toml");
    std::fs::write(&config, "[service]\nname = \"p\"\n[transports.all]\nurl = \"memory://\"\n").unwrap();
    let data = folder.path().to_str().unwrap();
    let launch = Launch::default().with(&["--config", config.to_str().unwrap(), "--data", data]);
    let platform = launch.with(&["--speed", "max", "--readings", &replayed.to_string()]).start();
    let mut posts = Posts::new();
    posts.rest(&platform);
    let store = store(folder.path());
    let mut totals = Totals::default();
    until("all of the run in memory is stored", || {
        totals = Totals::of(&store);
        let devices = now(store.devices(&DevicesQuery { limit: 100 })).unwrap().devices;
        let enriched: Vec<ReadingEnriched> = devices
            .into_iter()
            .flat_map(|device| {
                let query = ReadingsQuery { device_id: Some(device.device_id), limit: 10_000 };
                now(store.readings(&query)).unwrap().readings
            })
            .map(|reading| reading.to_enriched())
            .collect();
        let alerts = evaluate(&Rules::default(), &enriched).len();
        let (good, bad) = (replayed + posts.good(), POSTED - posts.good());
        let seen = (totals.readings.len(), totals.dead_letters.len(), totals.alerts.len());
        if seen == (good, bad, alerts) && alerts > 1 { Ok(()) } else { Err(format!("{seen:?}")) }
    });
    totals
}

/// The story with a process for each component; `launch` says how one is started, data is kept in `folder`. Each is killed while
/// the others go on, and started again.
pub(crate) fn killed_in_turn(folder: &Path, launch: &Launch, wanted: &Totals) {
    let start = |component: Component| launch.clone().with(&["--only", component.as_str()]).start();
    let store = store(folder);
    let mut posts = Posts::new();
    // The gateway is the first that ever runs: the groups of all others have to be there already.
    let mut running = BTreeMap::from([(Component::ApiGateway.as_str(), start(Component::ApiGateway))]);
    posts.some(3, &running[Component::ApiGateway.as_str()]);
    for component in Component::ALL.into_iter().filter(|one| *one != Component::DeviceHw) {
        if !running.contains_key(component.as_str()) {
            running.insert(component.as_str(), start(component));
        }
    }
    // The replay is the last that starts, and the gateway the first that dies: somebody else must bring something in then.
    running.insert(Component::DeviceHw.as_str(), start(Component::DeviceHw));
    let mut order = Component::ALL.to_vec();
    order.swap(0, 1);
    assert_eq!(order[..2], [Component::ApiGateway, Component::DeviceHw]);
    for component in order {
        let gateway = &running[Component::ApiGateway.as_str()];
        posts.some(3, gateway);
        if component == Component::DeviceHw {
            let position = folder.join("device_hw.position");
            until("a position is noted", || position.exists().then_some(()).ok_or_else(String::new));
        }
        running.remove(component.as_str()).unwrap().kill();
        match component {
            Component::ApiGateway => {
                let before = stored(&store, "office-a");
                until("the others go on without the gateway", || {
                    let rows = stored(&store, "office-a");
                    if rows > before { Ok(()) } else { Err(format!("{rows} rows")) }
                });
            }
            // Without these a reading is accepted, and kept for later.
            Component::Processing | Component::DataApi => {
                posts.some(3, &running[Component::ApiGateway.as_str()]);
            }
            _ => {
                posts.some(3, &running[Component::ApiGateway.as_str()]);
                until(&format!("readings are stored without {component}"), || {
                    let rows = stored(&store, "posted");
                    if rows == posts.good() { Ok(()) } else { Err(format!("{rows} of {}", posts.good())) }
                });
            }
        }
        let again = start(component);
        if component == Component::DeviceHw {
            assert!(again.said.iter().any(|line| line.contains("on from where it was")), "{:?}", again.said);
        }
        running.insert(component.as_str(), again);
    }
    posts.rest(&running[Component::ApiGateway.as_str()]);
    comes_to(&store, wanted);
}

/// Waits until the totals are those that are wanted, and looks that nothing is there twice.
pub(crate) fn comes_to(store: &Store, wanted: &Totals) {
    until("the totals are those of the run in memory", || {
        let totals = Totals::of(store);
        if totals == *wanted { Ok(()) } else { Err(totals.difference(wanted)) }
    });
}

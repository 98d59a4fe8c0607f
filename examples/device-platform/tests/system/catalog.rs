//! The catalog against its committed drawings, its rules, and what the running system does.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use clap::Parser as _;
use device_platform::settings::{Component, Run, Settings};
use device_platform::system::{self, CALLS, DEVICES, System};
use msgkit::Catalog;
use msgkit::catalog::Rules;
use msgkit::telemetry::{Event, EventKind, Observer};
use msgkit::transport::Destination;
use serde_json::json;

use crate::platform::{answered, now, request};
use crate::story::until;

fn run() -> Run {
    Settings::parse_from(["device-platform", "--listen", "127.0.0.1:0", "--speed", "1000"]).run
}

fn catalog() -> Catalog {
    now(system::catalog(&run())).unwrap()
}

#[test]
fn the_committed_drawings_are_those_of_the_code() {
    let catalog = catalog();
    for (file, format, drawn, wanted) in [
        ("system.d2", "d2", include_str!("../../docs/system.d2"), catalog.to_d2()),
        ("system.mmd", "mermaid", include_str!("../../docs/system.mmd"), catalog.to_mermaid()),
    ] {
        assert!(
            drawn == wanted,
            "examples/device-platform/docs/{file} is not what the code registers; look at the difference, then\n\
             cargo run -p device-platform -- catalog --format {format} > examples/device-platform/docs/{file}"
        );
    }
}

#[test]
fn the_system_keeps_its_rules_and_every_message_has_both_ends() {
    let catalog = catalog();
    let findings = catalog.check(&Rules::default(), "2026-01-31".parse().unwrap());
    assert!(findings.is_empty(), "{findings:#?}");
    assert!(catalog.unheard().is_empty(), "{:?}", catalog.unheard());
    assert!(catalog.unsent().is_empty(), "{:?}", catalog.unsent());
    let internal = catalog.components().filter(|component| !catalog.is_external(component));
    let wanted: BTreeSet<&str> = Component::ALL.into_iter().map(Component::as_str).collect();
    assert_eq!(internal.collect::<BTreeSet<_>>(), wanted);
    let check = now(system::check(&run())).unwrap();
    assert!(check.to_string().ends_with("6 components, no warnings\n"), "{check}");
}

#[test]
fn only_some_components_are_a_part_of_the_catalog() {
    let mut run = run();
    run.only = vec![Component::Processing];
    let part = now(system::catalog(&run)).unwrap();
    assert_eq!(part.components().collect::<Vec<_>>(), [DEVICES, "service_platform.container.processing"]);
    assert_eq!(part.unsent().len(), 1, "who reports readings is not here");
}

/// From, to, message, handler.
type Seen = (String, String, String, String);

/// What the observers of all components saw. A message may be handled before its publisher hears of the confirmation, so the
/// two halves of a link are put together afterwards, by the message's id.
#[derive(Default)]
struct Sightings {
    published: BTreeMap<String, (String, String, String)>,
    handled: BTreeSet<(String, String, String)>,
}

impl Sightings {
    fn links(&self) -> BTreeSet<Seen> {
        let link = |(id, to, handler): &(String, String, String)| {
            let (from, message, _) = self.published.get(id)?;
            Some((from.clone(), to.clone(), message.clone(), handler.clone()))
        };
        self.handled.iter().filter_map(link).collect()
    }
}

fn observer(component: Component, seen: Arc<Mutex<Sightings>>) -> impl Observer {
    move |event: &Event<'_>| {
        let Some(envelope) = event.envelope else { return };
        let mut seen = seen.lock().unwrap();
        match (&event.kind, event.handler) {
            (EventKind::Published { to: Destination::Topic { topic, .. } }, _) => {
                let what = (component.to_string(), envelope.kind().to_owned(), topic.to_string());
                seen.published.insert(envelope.id().to_string(), what);
            }
            (EventKind::Started { .. }, Some(handler)) => {
                let who = (envelope.id().to_string(), component.to_string(), handler.handler.to_string());
                seen.handled.insert(who);
            }
            _ => {}
        }
    }
}

/// Makes the platform do everything that it can.
fn exercise(address: &str) {
    let post = |minute: u32, temperature: f64, co2: f64| {
        let reading = json!({"temperature": temperature, "humidity": 40, "light": 300, "co2": co2,
            "at": format!("2026-01-01T00:{minute:02}:00Z")});
        let path = "/api/v1/devices/posted/readings";
        let (status, body) = request(address, "POST", path, &reading.to_string()).unwrap();
        assert_eq!(status, 202, "{body}");
        body["trace_id"].as_str().unwrap().to_owned()
    };
    // Stale air long enough for an alert, fresh air for its end, and one reading that cannot be true.
    let (_, trace, _, _) =
        (post(0, 21.0, 1500.0), post(10, 21.0, 1500.0), post(20, 21.0, 500.0), post(21, 900.0, 500.0));
    for path in ["devices", "readings", "aggregates?window=1m", "alerts", "dead-letters"] {
        answered(address, &format!("/api/v1/{path}"));
    }
    // The journal tells of a message a moment after it was accepted.
    until("the trace is known", || {
        let (status, body) = request(address, "GET", &format!("/api/v1/traces/{trace}"), "").unwrap();
        if status == 200 { Ok(()) } else { Err(format!("{status} {body}")) }
    });
}

#[test]
fn what_the_running_system_sends_is_what_the_catalog_says() {
    let catalog = catalog();
    let seen = Arc::new(Mutex::new(Sightings::default()));
    let adapt = |component, service: msgkit::Service| service.observe(observer(component, seen.clone()));
    let system = now(System::start_with(&run(), adapt)).unwrap();
    let address: SocketAddr = system.address().unwrap();
    exercise(&address.to_string());
    // Every link was seen; none needs an explanation: the calls above and the replay use all of them. What plain devices send comes
    // over a broker only.
    let wanted: BTreeSet<Seen> = catalog
        .links()
        .iter()
        .filter(|link| !catalog.is_external(&link.from))
        .map(|link| {
            (link.from.to_string(), link.to.to_string(), link.message.to_string(), link.handler.to_string())
        })
        .collect();
    let deadline = Instant::now() + Duration::from_secs(60);
    loop {
        let links = seen.lock().unwrap().links();
        let unknown: Vec<_> = links.difference(&wanted).collect();
        assert!(unknown.is_empty(), "not in the catalog: {unknown:#?}");
        let unused: Vec<_> = wanted.difference(&links).collect();
        if unused.is_empty() {
            break;
        }
        assert!(Instant::now() < deadline, "in the catalog, and never seen: {unused:#?}");
        std::thread::sleep(Duration::from_millis(100)); // Polls with a deadline.
    }
    for (from, message, topic) in seen.lock().unwrap().published.values() {
        let topic = topic.parse().unwrap();
        assert!(
            catalog.publications().any(|(component, _, declared)| {
                component == from && declared.name() == message && declared.pattern().matches(&topic)
            }),
            "{from} published {message} to {topic}, which the catalog does not say"
        );
    }
    for (_, call) in CALLS {
        let (method, path) = call.split_once(' ').unwrap();
        // The stream of events does not end, so its answer's head has to do.
        let status = if path.ends_with("/events") {
            head(&address, path)
        } else {
            request(&address.to_string(), method, &path.replace("{device_id}", "x"), "").unwrap().0
        };
        assert!(![404, 405].contains(&status), "{call} is not there: {status}");
    }
    now(system.drain()).unwrap();
}

/// The status of a GET, without waiting for the rest.
fn head(address: &SocketAddr, path: &str) -> u16 {
    use std::io::{BufRead as _, BufReader, Write as _};
    let mut stream = std::net::TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    write!(stream, "GET {path} HTTP/1.1\r\nHost: {address}\r\n\r\n").unwrap();
    let mut line = String::new();
    BufReader::new(stream).read_line(&mut line).unwrap();
    line.split(' ').nth(1).unwrap().parse().unwrap()
}

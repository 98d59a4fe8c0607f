//! The real program on the SQLite transport, killed at full speed: every 202 is stored exactly once or is a visible dead letter, and
//! what follows from the stored rows is what a computation over them gives.
//!
//! `KILLS` says how often the process is killed (3 where it says nothing), `SPEED` how fast the measurements are replayed (1000; `max`
//! wants a release build).
use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use device_platform::data_api::Store;
use device_platform::event_rule::{Rules, evaluate};
use device_platform::messages::{
    AggregatesQuery, AlertsQuery, DeadLettersQuery, DevicesQuery, ReadingEnriched, ReadingsQuery,
    StoredReading, Window,
};
use device_platform::processing::aggregate::aggregate;
use serde_json::json;

use crate::platform::{Platform, answered, now};
use crate::story;

/// At least so many posts in each round, so that the one that each kill cuts off is few among them, however slow the machine is.
const POSTS_IN_ROUND: u32 = 40;

#[test]
fn killed_at_full_speed_nothing_that_was_accepted_is_lost_and_all_follows_from_what_is_stored() {
    let kills: u32 = std::env::var("KILLS").ok().and_then(|kills| kills.parse().ok()).unwrap_or(3);
    let folder = tempfile::tempdir().unwrap();
    let (mut posts, mut accepted, mut wrong) = (0_u32, BTreeMap::new(), BTreeSet::new());
    let start: jiff::Timestamp = "2026-01-01T00:00:00Z".parse().unwrap();
    let store = story::store(folder.path());
    for round in 0..=kills {
        // Where all of the replay is stored it begins anew, so that there is work in each round; it is stored once all the same.
        let devices = now(store.devices(&DevicesQuery { limit: 100 })).unwrap().devices;
        let office = devices.iter().filter(|device| device.device_id.starts_with("office"));
        if office.map(|device| device.readings).sum::<u64>() == 20_560 {
            std::fs::remove_file(folder.path().join("device_hw.position")).unwrap();
        }
        let platform = Platform::start(folder.path(), &[]);
        let until = Instant::now() + Duration::from_millis(1500 + u64::from(round % 5) * 300);
        let (mut in_round, mut killer) = (0, None);
        loop {
            let over = Instant::now() >= until && in_round >= POSTS_IN_ROUND;
            if over && round == kills {
                break;
            }
            if over && killer.is_none() {
                // The posts go on meanwhile, and one of them is cut off: nobody is told whether it was accepted.
                killer = Some(platform.killer());
            }
            let bad = posts % 10 == 9;
            let at = start + Duration::from_secs(u64::from(posts) * 20);
            let temperature = if bad { 900.0 } else { 20.0 + f64::from(posts % 40) / 4.0 };
            let reading = json!({"temperature": temperature, "humidity": 40, "light": 300, "co2": 400 + posts % 1500, "at": at.to_string()});
            posts += 1;
            in_round += 1;
            let answer = platform.request("POST", "/api/v1/devices/posted/readings", &reading.to_string());
            match answer {
                Some((202, body)) => {
                    let id = body["id"].as_str().unwrap().to_owned();
                    if bad {
                        wrong.insert(id.clone());
                    }
                    assert!(accepted.insert(id, at).is_none(), "an id was given twice");
                }
                Some((status, body)) => println!("post {posts}: {status} {body}"),
                None if killer.is_some() => break,
                None => println!("post {posts}: no answer"),
            }
        }
        if let Some(killer) = killer {
            killer.join().unwrap();
            platform.kill();
            continue;
        }
        assert!(
            accepted.len() as f64 >= f64::from(posts) * 0.95,
            "{} of {posts} posts got 202",
            accepted.len()
        );
        // All that was accepted arrives, in the end, once.
        let deadline = Instant::now() + Duration::from_secs(600);
        let (stored, letters) = loop {
            let device_id = Some("posted".to_owned());
            let stored = now(store.readings(&ReadingsQuery { device_id, limit: 10_000 })).unwrap().readings;
            let letters = now(store.dead_letters(&DeadLettersQuery { limit: 10_000 })).unwrap().dead_letters;
            let letters: BTreeSet<String> = letters.into_iter().map(|letter| letter.id).collect();
            let ids: BTreeSet<&str> = stored.iter().map(|reading| reading.id.as_str()).collect();
            assert_eq!(ids.len(), stored.len(), "a reading is stored twice");
            let missing =
                accepted.keys().filter(|id| !ids.contains(id.as_str()) && !letters.contains(*id)).count();
            if missing == 0 {
                break (stored, letters);
            }
            assert!(
                Instant::now() < deadline,
                "{missing} of {} accepted readings never arrived",
                accepted.len()
            );
            std::thread::sleep(Duration::from_millis(300)); // Polls with a deadline.
        };
        assert_eq!(
            letters.intersection(&wrong).count(),
            wrong.len(),
            "what is out of range is a dead letter"
        );
        assert!(stored.iter().all(|reading| !wrong.contains(&reading.id)));
        follows(&store, &stored, deadline);
        let shown = answered(platform.address(), "/api/v1/dead-letters?limit=100");
        assert_eq!(shown.as_array().unwrap().is_empty(), wrong.is_empty());
        println!(
            "{posts} posts, {} accepted, {} stored, {} dead letters, {kills} kills",
            accepted.len(),
            stored.len(),
            wrong.len()
        );
    }
}

/// Aggregates and alerts are those that an offline computation over the stored rows gives.
fn follows(store: &Store, stored: &[StoredReading], deadline: Instant) {
    let enriched: Vec<ReadingEnriched> = stored.iter().map(StoredReading::to_enriched).collect();
    loop {
        let mut same = true;
        for window in Window::ALL {
            let query = AggregatesQuery { device_id: Some("posted".to_owned()), window, limit: 10_000 };
            let mut told = now(store.aggregates(&query)).unwrap().aggregates;
            let mut wanted = aggregate(window, stored);
            told.sort_by_key(|aggregate| aggregate.start);
            wanted.sort_by_key(|aggregate| aggregate.start);
            same &= told == wanted;
        }
        let query = AlertsQuery { device_id: Some("posted".to_owned()), limit: 10_000 };
        let mut told = now(store.alerts(&query)).unwrap().alerts;
        told.sort_by(|a, b| (a.at, &a.rule).cmp(&(b.at, &b.rule)));
        let mut wanted = evaluate(&Rules::default(), &enriched);
        wanted.sort_by(|(_, a), (_, b)| (a.at, &a.rule).cmp(&(b.at, &b.rule)));
        let told: Vec<_> = told.iter().map(|alert| (alert.at, alert.rule.clone(), alert.state)).collect();
        let wanted: Vec<_> =
            wanted.iter().map(|(_, alert)| (alert.at, alert.rule.clone(), alert.state)).collect();
        if same && told == wanted {
            return;
        }
        assert!(Instant::now() < deadline, "aggregates equal: {same}\ntold   {told:?}\nwanted {wanted:?}");
        std::thread::sleep(Duration::from_millis(300)); // Polls with a deadline.
    }
}

use super::*;
use crate::device_hw::{Replay, Speed};
use crate::messages::AlertState;
use crate::processing::aggregate::aggregate;
use crate::processing::enrich;

fn replayed(count: usize) -> Vec<StoredReading> {
    let replay = Replay::new(Speed::MAX).unwrap().take(count);
    replay.map(|due| StoredReading::new("trace", &enrich(due.row.id, due.row.reading).unwrap())).collect()
}

fn all() -> ReadingsQuery {
    ReadingsQuery { device_id: None, limit: MOST }
}

async fn stored_windows(store: &Store, window: Window) -> Vec<AggregateUpdated> {
    let query = AggregatesQuery { device_id: None, window, limit: MOST };
    let mut windows = store.aggregates(&query).await.unwrap().aggregates;
    windows.sort_by(|a, b| (&a.device_id, a.start).cmp(&(&b.device_id, b.start)));
    windows
}

fn hop(id: &str, cause: Option<&str>, hop: u32, component: &str, attempts: u32) -> HopRecorded {
    HopRecorded {
        trace_id: "t".to_owned(),
        id: id.to_owned(),
        causation_id: cause.map(str::to_owned),
        hop,
        topic: "device.d.reading".to_owned(),
        r#type: "device.reading.reported".to_owned(),
        component: component.to_owned(),
        time: Timestamp::from_second(1_000 - i64::from(hop)).unwrap(),
        outcome: if attempts == 0 { "published" } else { "done" }.to_owned(),
        attempts,
    }
}

#[tokio::test]
async fn windows_equal_an_offline_computation_over_the_stored_rows() {
    let store = Store::in_memory().await.unwrap();
    let readings = replayed(900);
    // Out of order, and half of them twice.
    let (first, second) = readings.split_at(450);
    for batch in [second, first, second] {
        store.record_readings(batch).await.unwrap();
    }
    let rows = store.readings(&all()).await.unwrap().readings;
    assert_eq!(rows.len(), 900);
    for window in Window::ALL {
        assert_eq!(stored_windows(&store, window).await, aggregate(window, &rows), "{window}");
    }
}

#[tokio::test]
async fn a_reading_is_stored_once_and_answered_the_same_again() {
    let store = Store::in_memory().await.unwrap();
    let readings = replayed(1);
    let first = store.record_readings(&readings).await.unwrap().swap_remove(0);
    let again = store.record_readings(&readings).await.unwrap().swap_remove(0);
    assert!(first.fresh && !again.fresh);
    assert_eq!(first.aggregates, again.aggregates);
    assert_eq!(first.aggregates.iter().map(|a| a.count).collect::<Vec<_>>(), [1, 1]);
    assert_eq!(store.readings(&all()).await.unwrap().readings, readings);
}

#[tokio::test]
async fn what_was_written_is_there_after_opening_the_file_again() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("store.db");
    let readings = replayed(30);
    let store = Store::open(&file).await.unwrap();
    store.record_readings(&readings).await.unwrap();
    assert_eq!(store.readings(&all()).await.unwrap().readings.len(), 30);
    let windows = stored_windows(&store, Window::TenMinutes).await;
    store.close().await;

    let store = Store::open(&file).await.unwrap();
    assert_eq!(stored_windows(&store, Window::TenMinutes).await, windows);
    store.record_readings(&readings).await.unwrap();
    assert_eq!(stored_windows(&store, Window::TenMinutes).await, windows);
    store.ping().await.unwrap();
    store.close().await;
}

#[tokio::test]
async fn queries_give_the_newest_first_of_one_device_or_all_up_to_the_limit() {
    let store = Store::in_memory().await.unwrap();
    store.record_readings(&replayed(90)).await.unwrap();
    let query = ReadingsQuery { device_id: Some("office-b".to_owned()), limit: 7 };
    let found = store.readings(&query).await.unwrap().readings;
    assert_eq!(found.len(), 7);
    assert!(found.is_sorted_by(|a, b| a.at > b.at) && found.iter().all(|r| r.device_id == "office-b"));

    let newest = &found[0];
    let devices = store.devices(&DevicesQuery { limit: 10 }).await.unwrap().devices;
    let seen: Vec<_> = devices.iter().map(|d| (d.device_id.as_str(), d.readings)).collect();
    assert_eq!(seen, [("office-a", 30), ("office-b", 30), ("office-c", 30)]);
    assert_eq!(devices[1].newest, *newest);

    let late =
        StoredReading { id: "late".to_owned(), at: Timestamp::from_second(0).unwrap(), ..newest.clone() };
    store.record_readings(std::slice::from_ref(&late)).await.unwrap();
    assert_eq!(store.readings(&ReadingsQuery { device_id: None, limit: 1 }).await.unwrap().readings, [late]);
    assert_eq!(store.devices(&DevicesQuery { limit: 2 }).await.unwrap().devices[1].newest, *newest);

    let before = store.readings_before("office-b", (newest.at, &newest.id), 6).await.unwrap();
    assert_eq!(before, found[1..].iter().rev().cloned().collect::<Vec<_>>());

    let unknown = ReadingsQuery { device_id: Some("' OR 1=1 --".to_owned()), limit: 7 };
    assert_eq!(store.readings(&unknown).await.unwrap().readings, []);
}

#[tokio::test]
async fn alerts_and_dead_letters_are_stored_once() {
    let store = Store::in_memory().await.unwrap();
    let alert = StoredAlert {
        id: "a".to_owned(),
        trace_id: "t".to_owned(),
        state: AlertState::Cleared,
        device_id: "d".to_owned(),
        rule: "stale-air".to_owned(),
        quantity: Quantity::Co2,
        value: 999.5,
        threshold: 1000.0,
        at: Timestamp::from_second(60).unwrap(),
    };
    assert!(store.record_alert(&alert).await.unwrap());
    assert!(!store.record_alert(&alert).await.unwrap());
    let query = AlertsQuery { device_id: None, limit: 10 };
    assert_eq!(store.alerts(&query).await.unwrap().alerts, [alert]);

    let letter = DeadLetter {
        id: "m".to_owned(),
        trace_id: "t".to_owned(),
        topic: "device.d.reading".to_owned(),
        r#type: "device.reading.reported".to_owned(),
        group: "processing".to_owned(),
        kind: "handler".to_owned(),
        error: "humidity 130 is out of range".to_owned(),
        attempts: 1,
        time: Timestamp::from_second(60).unwrap(),
        payload: "{}".to_owned(),
    };
    assert!(!store.knows_dead_letter(&letter).await.unwrap());
    assert!(store.record_dead_letter(&letter).await.unwrap());
    assert!(store.knows_dead_letter(&letter).await.unwrap());
    assert!(!store.record_dead_letter(&letter).await.unwrap());
    let other = DeadLetter { group: "audit".to_owned(), ..letter.clone() };
    assert!(store.record_dead_letter(&other).await.unwrap());
    assert_eq!(store.dead_letters(&DeadLettersQuery { limit: 1 }).await.unwrap().dead_letters.len(), 1);
}

#[tokio::test]
async fn a_trace_is_told_in_causal_order_though_the_clocks_run_backwards() {
    let store = Store::in_memory().await.unwrap();
    let retried = HopRecorded { outcome: "retried".to_owned(), ..hop("1", None, 0, "processing", 1) };
    let hops = [
        hop("3", Some("2"), 2, "notification", 1),
        hop("2", Some("1"), 1, "data_api", 1),
        hop("1", None, 0, "processing", 2),
        hop("2", Some("1"), 1, "processing", 0),
        hop("1", None, 0, "api_gateway", 0),
        retried,
    ];
    store.record_hops(&hops).await.unwrap();
    store.record_hops(&hops[2..4]).await.unwrap();

    let trace = store.trace(&TraceQuery { trace_id: "t".to_owned() }).await.unwrap().hops;
    let told: Vec<_> =
        trace.iter().map(|h| (h.id.as_str(), h.component.as_str(), h.outcome.as_str(), h.attempts)).collect();
    assert_eq!(
        told,
        [
            ("1", "api_gateway", "published", 0),
            ("1", "processing", "done", 2),
            ("2", "processing", "published", 0),
            ("2", "data_api", "done", 1),
            ("3", "notification", "done", 1),
        ]
    );
    assert_eq!(store.trace(&TraceQuery { trace_id: "other".to_owned() }).await.unwrap().hops, []);
}

#[tokio::test]
async fn a_file_that_is_no_store_is_refused_for_good() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("store.db");
    std::fs::write(&file, "not a database, but long enough to be read as one by SQLite").unwrap();
    let error = Store::open(&file).await.unwrap_err();
    assert!(!error.is_temporary(), "{error:?}");
    let error = Store::open(&directory.path().join("missing/store.db")).await.unwrap_err();
    assert!(error.is_temporary(), "{error:?}");
}

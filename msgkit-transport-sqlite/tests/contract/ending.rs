//! Closing, and what goes wrong: files that are locked, missing or none.

use super::*;

#[tokio::test]
async fn stop_fetches_no_more_and_close_ends_a_receive_that_waits() {
    let (_directory, sqlite) = fresh("");
    let mut stopped = sqlite.subscribe(&subscription("g", "a")).await.unwrap();
    stopped.stop();
    sqlite.publish(vec![message("a", "1")]).await.unwrap();
    let mut into = VecDeque::new();
    stopped.receive(10, &mut into).await.unwrap();
    assert!(into.is_empty());
    let mut waiting = sqlite.subscribe(&subscription("empty", "b")).await.unwrap();
    let receiving = tokio::time::timeout(DEADLINE, waiting.receive(1, &mut into));
    let (received, closed) = tokio::join!(receiving, sqlite.close());
    closed.unwrap();
    assert_eq!(received.unwrap().unwrap_err().kind(), TransportErrorKind::Closed);
    assert_eq!(sqlite.publish(vec![message("a", "2")]).await.unwrap_err().kind(), TransportErrorKind::Closed);
    sqlite.close().await.unwrap();
}

#[tokio::test]
async fn closing_commits_what_was_settled_before() {
    let (directory, sqlite) = fresh("");
    let mut deliveries = sqlite.subscribe(&subscription("g", "a")).await.unwrap();
    sqlite.publish(vec![message("a", "1"), message("a", "2"), message("a", "3")]).await.unwrap();
    let mut received = receive(&mut *deliveries, 2).await;
    received.remove(0).ack();
    drop(received);
    sqlite.close().await.unwrap();
    assert_eq!(std::fs::read_dir(&directory).unwrap().count(), 1, "the file alone is left, without its log");
    let again = open(&directory.path().join("m.db"), "");
    let mut deliveries = again.subscribe(&subscription("g", "a")).await.unwrap();
    let (found, received) = texts(&mut *deliveries, 2).await;
    assert_eq!(found, ["2", "3"]);
    assert!(received.iter().all(|delivery| delivery.count() == 1), "a drain costs nothing");
}

#[tokio::test]
async fn a_group_takes_what_old_and_new_members_want_while_both_live() {
    let (_directory, sqlite) = fresh("");
    let old = sqlite.subscribe(&subscription("g", "old")).await.unwrap();
    let mut new = sqlite.subscribe(&subscription("g", "new")).await.unwrap();
    sqlite.publish(vec![message("old", "1"), message("new", "2")]).await.unwrap();
    assert_eq!(texts(&mut *new, 2).await.0, ["1", "2"]);
    drop((old, new));
    sqlite.declare(&[declaration(subscription("g", "new"))]).await.unwrap();
    sqlite.publish(vec![message("old", "3")]).await.unwrap();
    assert_eq!(sqlite.unrouted().await.unwrap(), 1);
}

#[tokio::test]
async fn errors_name_the_file_and_the_fix() {
    let directory = tempfile::tempdir().unwrap();
    let text = directory.path().join("text.db");
    std::fs::write(&text, "this is no database, it is a longer text than a header").unwrap();
    let newer = directory.path().join("newer.db");
    let sqlite = open(&newer, "");
    sqlite.declare(&[]).await.unwrap();
    sqlite.close().await.unwrap();
    let mut connection = sqlite_connection(&newer).await;
    sqlx::raw_sql("UPDATE msgkit_state SET version = 99").execute(&mut connection).await.unwrap();
    sqlx::Connection::close(connection).await.unwrap();
    for (file, words) in [
        (text, "is no SQLite database"),
        (newer, "schema version 99"),
        (directory.path().join("missing/m.db"), "create `"),
        (directory.path().to_owned(), "is a directory"),
    ] {
        let sqlite = open(&file, "");
        let error = sqlite.subscribe(&subscription("g", "a")).await.unwrap_err();
        assert_eq!(error.kind(), TransportErrorKind::Refused, "{error}");
        assert!(error.to_string().contains(words), "{error}");
        assert!(error.to_string().contains(&file.display().to_string()), "{error}");
        assert!(matches!(sqlite.health().await, Health::Down(_)));
    }
}

#[tokio::test]
async fn a_locked_file_is_a_temporary_error_and_settlements_survive_it() {
    let (directory, sqlite) = fresh("busy_timeout = \"50ms\"");
    let mut deliveries = sqlite.subscribe(&subscription("g", "a")).await.unwrap();
    sqlite.publish(vec![message("a", "1")]).await.unwrap();
    let received = receive(&mut *deliveries, 1).await;
    let mut intruder = sqlite_connection(&directory.path().join("m.db")).await;
    sqlx::raw_sql("BEGIN IMMEDIATE").execute(&mut intruder).await.unwrap();
    received.into_iter().for_each(msgkit::transport::Delivery::ack);
    assert_eq!(deliveries.flush().await.unwrap_err().kind(), TransportErrorKind::Unavailable);
    let error = sqlite.publish(vec![message("a", "2")]).await.unwrap_err();
    assert!(error.is_temporary());
    assert!(error.rejected()[0].error.to_string().contains("locked"), "{error:?}");
    sqlx::raw_sql("COMMIT").execute(&mut intruder).await.unwrap();
    deliveries.flush().await.unwrap();
    let group = &sqlite.groups().await.unwrap()[0];
    assert_eq!((group.waiting, group.in_hand), (0, Some(0)));
}

#[test]
fn configuration_is_read_strictly() {
    let registry = Registry::empty().with(msgkit_transport_sqlite::scheme());
    for (url, words) in [
        ("sqlite:", "names no file"),
        ("sqlite::memory:", "memory://"),
        ("sqlite://user:secret@/m.db", "no user or password"),
        ("sqlite:m.db?capcity=1", "did you mean `capacity`?"),
        ("sqlite:m.db?capacity=0", "capacity"),
        ("sqlite:m.db?synchronous=fast", "known are full, normal"),
        ("sqlite:m.db?lease=1ms", "lease"),
    ] {
        let error = registry.open(url).map(|_| ()).unwrap_err().to_string();
        assert!(error.contains(words) && !error.contains("secret"), "{url}: {error}");
    }
    for url in ["sqlite:m.db", "sqlite://m.db?retain=1h&synchronous=normal"] {
        let debug = format!("{:?}", registry.open(url).unwrap());
        assert!(debug.contains("m.db"), "{debug}");
    }
    assert!(!std::path::Path::new("m.db").exists(), "nothing is opened before the first use");
}

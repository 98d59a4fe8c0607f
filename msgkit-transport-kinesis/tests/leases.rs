//! What every store of leases has to do, asked of all three; and a group whose leases are in DynamoDB.

#![allow(clippy::unwrap_used, clippy::expect_used)] // A panic is how a test fails.

#[path = "support/mod.rs"]
mod support;

use std::collections::{BTreeMap, VecDeque};
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use aws_sdk_dynamodb::config::retry::RetryConfig;
use aws_sdk_dynamodb::config::{BehaviorVersion, Credentials, Region};
use aws_sdk_dynamodb::types::{
    AttributeDefinition, BillingMode, KeySchemaElement, KeyType, ScalarAttributeType,
};
use futures_util::future::join_all;
use msgkit::transport::{
    Options, Outgoing, Start, Subscription, Transport, TransportErrorKind, TransportUrl,
};
use msgkit::{Envelope, Registry};
use msgkit_testing::brokers::{Direction, Dynalite, FaultProxy, KinesisLocal};
use msgkit_transport_kinesis::{Change, DynamoDbLeases, LeaseRow, LeaseStore, MemoryLeases, SqliteLeases};

/// How long a test waits for what must come; the machine may be busy.
const PATIENCE: Duration = Duration::from_secs(240);

async fn within<T>(what: &str, future: impl Future<Output = T>) -> T {
    tokio::time::timeout(PATIENCE, future).await.unwrap_or_else(|_| panic!("never: {what}"))
}

fn installed<T>(found: Result<T, msgkit_testing::brokers::BrokerError>) -> Option<T> {
    match found {
        Ok(found) => Some(found),
        Err(error) if std::env::var("MSGKIT_REQUIRE_BROKERS").is_ok_and(|value| value == "1") => {
            panic!("{error}")
        }
        Err(error) => {
            println!("not run: {error}");
            None
        }
    }
}

fn client(endpoint: &str) -> aws_sdk_dynamodb::Client {
    let config = aws_sdk_dynamodb::Config::builder()
        .behavior_version(BehaviorVersion::latest())
        .region(Region::new("eu-west-1"))
        .endpoint_url(endpoint)
        .retry_config(RetryConfig::disabled())
        .credentials_provider(Credentials::new("test", "none", None, None, "test"))
        .build();
    aws_sdk_dynamodb::Client::from_conf(config)
}

/// Two views of the same rows, as two members have them.
async fn every_store(memory: Views, sqlite: Views, dynamodb: Option<Views>) {
    for (name, [one, two]) in [("memory", Some(memory)), ("sqlite", Some(sqlite)), ("dynamodb", dynamodb)]
        .into_iter()
        .filter_map(|(name, views)| Some((name, views?)))
    {
        println!("{name}");
        within(name, rows_change_where_their_version_is_the_expected_one(&*one, &*two)).await;
        within(name, one_of_many_writers_wins(&one, &two)).await;
        within(name, a_space_of_any_size_is_read_whole(&*one, &*two)).await;
    }
}

type Views = [Arc<dyn LeaseStore>; 2];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_store_does_what_groups_need() {
    let memory = MemoryLeases::new();
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("leases.db");
    let sqlite: Views = [Arc::new(SqliteLeases::new(&file)), Arc::new(SqliteLeases::new(&file))];
    let dynamodb = installed(Dynalite::shared()).map(|dynalite| -> Views {
        let table = dynalite.table();
        let view = || DynamoDbLeases::new(client(dynalite.endpoint()), table.clone());
        [Arc::new(view()), Arc::new(view())]
    });
    every_store([Arc::new(memory.clone()), Arc::new(memory)], sqlite, dynamodb).await;
}

async fn rows(store: &dyn LeaseStore, space: &str) -> Vec<LeaseRow> {
    let mut rows = store.load(space).await.unwrap();
    rows.sort_by(|a, b| a.key.cmp(&b.key));
    rows
}

async fn rows_change_where_their_version_is_the_expected_one(one: &dyn LeaseStore, two: &dyn LeaseStore) {
    let space = "app/group/g";
    assert!(one.load(space).await.unwrap().is_empty(), "a space that nobody has written to");
    assert!(one.swap(space, Change::write("member/1", 0, "a")).await.unwrap());
    assert!(!two.swap(space, Change::write("member/1", 0, "b")).await.unwrap(), "it is there already");
    assert!(!two.swap(space, Change::write("member/1", 2, "b")).await.unwrap(), "another version");
    assert!(!two.swap(space, Change::write("member/9", 1, "b")).await.unwrap(), "it is not there");
    assert!(two.swap(space, Change::write("member/1", 1, "b")).await.unwrap());
    assert!(!one.swap(space, Change::write("member/1", 1, "c")).await.unwrap(), "it was changed since");
    assert!(one.swap(space, Change::write("lease/s/1", 0, "{\"ä\": \"€\"}")).await.unwrap());
    assert!(one.swap("app/group/other", Change::write("member/1", 0, "z")).await.unwrap());
    let expected = [LeaseRow::new("lease/s/1", 1, "{\"ä\": \"€\"}"), LeaseRow::new("member/1", 2, "b")];
    assert_eq!(rows(one, space).await, expected);
    assert_eq!(rows(two, space).await, expected);
    assert!(
        !one.swap(space, Change::remove("member/1", 1)).await.unwrap(),
        "an older version is not removed"
    );
    assert!(one.swap(space, Change::remove("member/1", 2)).await.unwrap());
    assert!(two.swap(space, Change::remove("none", 0)).await.unwrap());
    assert_eq!(rows(two, space).await.len(), 1);
    assert!(two.swap(space, Change::write("member/1", 0, "again")).await.unwrap(), "it begins anew");
    assert_eq!(rows(one, space).await[1], LeaseRow::new("member/1", 1, "again"));
    assert_eq!(rows(one, "app/group/other").await, [LeaseRow::new("member/1", 1, "z")]);
}

async fn one_of_many_writers_wins(one: &Arc<dyn LeaseStore>, two: &Arc<dyn LeaseStore>) {
    for round in 0..3_u64 {
        let writers = (0..20).map(|n| {
            let store = if n % 2 == 0 { one.clone() } else { two.clone() };
            tokio::spawn(async move {
                let value = format!("of {n} in {round}");
                store.swap("race", Change::write("row", round, &value)).await.unwrap().then_some(value)
            })
        });
        let won: Vec<String> =
            join_all(writers).await.into_iter().filter_map(|writer| writer.unwrap()).collect();
        assert_eq!(won.len(), 1, "{won:?}");
        assert_eq!(rows(&**two, "race").await, [LeaseRow::new("row", round + 1, &*won[0])]);
    }
}

/// DynamoDB answers a megabyte at a time.
async fn a_space_of_any_size_is_read_whole(one: &dyn LeaseStore, two: &dyn LeaseStore) {
    let value = "x".repeat(30_000);
    for n in 0..60 {
        assert!(one.swap("large", Change::write(&format!("{n:03}"), 0, &value)).await.unwrap());
    }
    let rows = rows(two, "large").await;
    let keys: Vec<String> = rows.iter().map(|row| row.key.clone()).collect();
    assert_eq!(keys, (0..60).map(|n| format!("{n:03}")).collect::<Vec<_>>());
    assert!(rows.iter().all(|row| row.value == value));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_write_whose_answer_was_lost_is_known_as_ones_own() {
    let Some(dynalite) = installed(Dynalite::shared()) else { return };
    let proxy = FaultProxy::start(dynalite.address().to_owned()).await.unwrap();
    let table = dynalite.table();
    let leases = DynamoDbLeases::new(client(&format!("http://{}", proxy.address())), table.clone());
    assert!(leases.swap("s", Change::write("row", 0, "a")).await.unwrap());
    // The request arrives; of the answer nothing does.
    proxy.cut_after(Direction::ToClient, 1);
    let error = leases.swap("s", Change::write("row", 1, "b")).await.unwrap_err();
    assert!(error.is_temporary() && error.to_string().contains(&table), "{}", msgkit::Chain(&error));
    proxy.heal();
    within("the write to arrive", async {
        while rows(&leases, "s").await[0].version != 2 {
            tokio::task::yield_now().await;
        }
    })
    .await;
    assert!(leases.swap("s", Change::write("row", 1, "b")).await.unwrap(), "it is as this write has left it");
    assert!(
        !leases.swap("s", Change::write("row", 1, "c")).await.unwrap(),
        "it is as another one has left it"
    );
    assert_eq!(rows(&leases, "s").await, [LeaseRow::new("row", 2, "b")]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_table_that_cannot_be_is_refused_by_name() {
    let Some(dynalite) = installed(Dynalite::shared()) else { return };
    let client = client(dynalite.endpoint());
    let table = dynalite.table();
    let error = DynamoDbLeases::new(client.clone(), &table).existing().load("s").await.unwrap_err();
    let text = msgkit::Chain(&error).to_string();
    assert_eq!(error.kind(), TransportErrorKind::Invalid, "{text}");
    assert!(text.contains(&table) && text.contains("create = true"), "{text}");
    client
        .create_table()
        .table_name(&table)
        .billing_mode(BillingMode::PayPerRequest)
        .attribute_definitions(
            AttributeDefinition::builder()
                .attribute_name("id")
                .attribute_type(ScalarAttributeType::S)
                .build()
                .unwrap(),
        )
        .key_schema(KeySchemaElement::builder().attribute_name("id").key_type(KeyType::Hash).build().unwrap())
        .send()
        .await
        .unwrap();
    let error = DynamoDbLeases::new(client, &table).load("s").await.unwrap_err();
    let text = msgkit::Chain(&error).to_string();
    assert_eq!(error.kind(), TransportErrorKind::Invalid, "{text}");
    assert!(text.contains(&table) && text.contains("`space`"), "{text}");
}

/// A transport as the configuration makes it.
fn configured(local: &KinesisLocal, account: &str, dynamodb: &str, table: &str) -> Arc<dyn Transport> {
    let options = format!(
        "leases = \"dynamodb:{table}\"\nleases_endpoint = \"{dynamodb}\"\nendpoint = \"{}\"\nshards = 1\n\
         heartbeat = \"300ms\"\nlease = \"20s\"\nread_interval = \"5ms\"\npoll_interval = \"200ms\"\n",
        local.endpoint(),
    );
    let url = TransportUrl::parse(&format!("kinesis://{account}:none@eu-west-1/app")).unwrap();
    let options = Options::from_toml("[transports.backbone.kinesis]", &options).unwrap();
    Registry::new().with(msgkit_transport_kinesis::scheme()).build(&url, options).unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_group_goes_on_where_its_last_member_was() {
    let (Some(local), Some(dynalite)) = (installed(KinesisLocal::shared()), installed(Dynalite::shared()))
    else {
        return;
    };
    let (account, table) = (local.account(), dynalite.table());
    let group =
        Subscription::group("g".parse().unwrap(), ["a.b".parse().unwrap()]).with_start(Start::Earliest);
    let clock = msgkit::envelope::Clock::system();
    let messages = (0..5).map(|n| {
        let mut envelope = Envelope::new(
            "test",
            "test.text",
            "a.b".parse().unwrap(),
            msgkit::envelope::ContentType::Json,
            n.to_string().into(),
            clock.now(),
        );
        envelope.set_key(Some("k".into()));
        Outgoing::to_topic(envelope)
    });
    let first = configured(local, &account, dynalite.endpoint(), &table);
    assert!(first.capabilities().durable);
    let mut reader = within("subscribe", first.subscribe(&group)).await.unwrap();
    within("publish", first.publish(messages.collect())).await.unwrap();
    let mut came = VecDeque::new();
    within("all messages", async {
        while came.len() < 5 {
            reader.receive(5, &mut came).await.unwrap();
        }
    })
    .await;
    came.drain(..3).for_each(msgkit::transport::Delivery::ack);
    drop(came);
    within("flush", reader.flush()).await.unwrap();
    within("close", reader.close()).await.unwrap();
    within("close", first.close()).await.unwrap();

    let second = configured(local, &account, dynalite.endpoint(), &table);
    let mut reader = within("subscribe", second.subscribe(&group)).await.unwrap();
    let mut came = VecDeque::new();
    within("the rest", async {
        while came.len() < 2 {
            reader.receive(5, &mut came).await.unwrap();
        }
    })
    .await;
    let texts: Vec<String> = came
        .iter()
        .map(|delivery| {
            String::from_utf8_lossy(delivery.message().envelope().unwrap().payload()).into_owned()
        })
        .collect();
    assert_eq!(texts, ["3", "4"]);
    came.drain(..).for_each(msgkit::transport::Delivery::ack);
    within("close", reader.close()).await.unwrap();
    let rows = DynamoDbLeases::new(client(dynalite.endpoint()), &table).load("app/group/g").await.unwrap();
    assert!(rows.iter().any(|row| row.key.starts_with("lease/app.a/")), "{rows:?}");
    assert!(!rows.iter().any(|row| row.key.starts_with("member/")), "both have left: {rows:?}");
    within("close", second.close()).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn connections_to_the_table_that_fall_silent_cost_no_lease() {
    let (Some(local), Some(dynalite)) = (installed(KinesisLocal::shared()), installed(Dynalite::shared()))
    else {
        return;
    };
    let (account, table) = (local.account(), dynalite.table());
    let group =
        Subscription::group("g".parse().unwrap(), ["a.b".parse().unwrap()]).with_start(Start::Earliest);
    let proxy = FaultProxy::start(dynalite.address().to_owned()).await.unwrap();
    let behind = configured(local, &account, &format!("http://{}", proxy.address()), &table);
    let _reader = within("subscribe", behind.subscribe(&group)).await.unwrap();
    let other = configured(local, &account, dynalite.endpoint(), &table);
    let _other = within("subscribe", other.subscribe(&group)).await.unwrap();
    let leases = DynamoDbLeases::new(client(dynalite.endpoint()), &table);
    let members = async || -> BTreeMap<String, u64> {
        let rows = rows(&leases, "app/group/g").await;
        let members = rows.into_iter().filter(|row| row.key.starts_with("member/"));
        members.map(|row| (row.key, row.version)).collect()
    };
    let before = within("both are there", async {
        loop {
            let now = members().await;
            if now.len() == 2 {
                return now;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    })
    .await;
    for connection in proxy.connections() {
        connection.half_open();
    }
    let after = within("both give signs of life", async {
        loop {
            let now = members().await;
            if now.len() == 2 && now.iter().all(|(id, sign)| *sign > before.get(id).copied().unwrap_or(0) + 5)
            {
                return now;
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    })
    .await;
    assert!(after.keys().eq(before.keys()), "nobody was taken for dead");
    within("close", behind.close()).await.unwrap();
    within("close", other.close()).await.unwrap();
}
